//! `kiln bench`: times typical work on this machine. `benches/peers/` runs the same work in PyTorch and prints ratios.

mod unet;

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use clap::Args;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::augment::ada::Ada;
use kiln_nn::augment::{Augmentation, Pipeline};
use kiln_nn::loss::mse;
use kiln_nn::tensor::{from_values, normal};
use kiln_nn::{Conv2d, Conv2dConfig, ConvTranspose2d, Init, Linear, LinearConfig};
use kiln_systems::find;
use kiln_train::optim::{Method, Optimizer};
use kiln_train::recipe::{assignment, merge, nearest};
use kiln_train::request::Style;
use kiln_train::{Ability, OptimizerConfig, Precision, Progress, Request, device, ema, memory, params};
use serde_json::{Map, Value};

use crate::output::Output;
use crate::{Common, hardware};
use unet::UNet;

#[derive(Args)]
pub struct BenchArgs {
    /// Benchmarks to run: conv, conv-transpose, unet, adamw, ada, dcgan, stylegan2, sagan, biggan, vae, pixelcnn,
    /// pixelrnn, dann, cyclegan, pix2pix, adain; all by default
    names: Vec<String>,
    /// Batch size, instead of the benchmark's own
    #[arg(long)]
    batch: Option<usize>,
    /// Image side in pixels, instead of the benchmark's own
    #[arg(long)]
    size: Option<usize>,
    /// Channels, instead of the benchmark's own
    #[arg(long)]
    channels: Option<usize>,
    /// Timed runs after three warm-up runs; the median is reported
    #[arg(long, default_value_t = 9)]
    runs: usize,
}

/// A benchmark: what it takes by default, and how it is timed.
#[derive(Clone, Copy)]
struct Bench {
    name: &'static str,
    batch: usize,
    size: usize,
    channels: usize,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    /// A 3×3 convolution, as many channels out as in.
    Conv,
    /// A 4×4 transposed convolution of stride 2 to half the channels.
    ConvTranspose,
    /// Training step (Adam) and forward pass of a U-Net, of 5 million parameters with 64 channels.
    UNet,
    /// AdamW and EMA of 30 million parameters.
    AdamW,
    /// ADA's augmentations of blit, geometry and color, all of them, on images of `channels`, with their gradient.
    Ada,
    /// A training step of a system, and samples or translations where it makes some. The settings are laid over its default recipe;
    /// `{channels}` is the number of `--channels`.
    System {
        samples: usize,
        colours: usize,
        settings: &'static [&'static str],
        /// So many steps are timed together, and their mean counts: those between two updates that come less often.
        together: u32,
    },
}

/// Names of classes, for systems that are told them.
const TEN_CLASSES: &str = r#"data.classes=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]"#;

/// The pixel-by-pixel systems, on bits.
const BY_PIXELS: Work = Work::System {
    samples: 16,
    colours: 1,
    settings: &["model.features={channels}", "model.output=bernoulli", "model.binarize=static"],
    together: 1,
};

const BENCHES: [Bench; 16] = [
    Bench { name: "conv", batch: 32, size: 32, channels: 64, work: Work::Conv },
    Bench { name: "conv-transpose", batch: 64, size: 14, channels: 128, work: Work::ConvTranspose },
    Bench { name: "unet", batch: 32, size: 28, channels: 64, work: Work::UNet },
    Bench { name: "adamw", batch: 1, size: 1000, channels: 30, work: Work::AdamW },
    Bench { name: "ada", batch: 16, size: 64, channels: 3, work: Work::Ada },
    Bench {
        name: "dcgan",
        batch: 64,
        size: 64,
        channels: 64,
        work: Work::System {
            samples: 64,
            colours: 3,
            settings: &["model.generator_channels={channels}", "model.discriminator_channels={channels}"],
            together: 1,
        },
    },
    Bench {
        name: "stylegan2",
        batch: 16,
        size: 64,
        channels: 1024,
        work: Work::System {
            samples: 16,
            colours: 3,
            settings: &["model.channel_base={channels}", "model.channel_max=128", "model.latent_size=128"],
            together: 16,
        },
    },
    Bench {
        name: "sagan",
        batch: 16,
        size: 64,
        channels: 32,
        work: Work::System {
            samples: 16,
            colours: 3,
            settings: &["model.generator_channels={channels}", "model.discriminator_channels={channels}", TEN_CLASSES],
            together: 1,
        },
    },
    Bench {
        name: "biggan",
        batch: 16,
        size: 64,
        channels: 32,
        work: Work::System {
            samples: 16,
            colours: 3,
            settings: &["model.generator_channels={channels}", "model.discriminator_channels={channels}", TEN_CLASSES],
            together: 2,
        },
    },
    Bench {
        name: "vae",
        batch: 100,
        size: 28,
        channels: 500,
        work: Work::System {
            samples: 1000,
            colours: 1,
            settings: &[
                "model.network=mlp",
                "model.hidden=[{channels}, {channels}]",
                "model.latent=50",
                "model.binarize=static",
            ],
            together: 1,
        },
    },
    Bench { name: "pixelcnn", batch: 16, size: 28, channels: 24, work: BY_PIXELS },
    Bench { name: "pixelrnn", batch: 16, size: 28, channels: 24, work: BY_PIXELS },
    Bench {
        name: "dann",
        batch: 64,
        size: 28,
        channels: 32,
        work: Work::System { samples: 0, colours: 3, settings: &["model.channels=[{channels}, 48]"], together: 1 },
    },
    Bench {
        name: "cyclegan",
        batch: 1,
        size: 128,
        channels: 64,
        work: Work::System {
            samples: 1,
            colours: 3,
            settings: &[
                "model.generator_channels={channels}",
                "model.blocks=6",
                "model.discriminator_channels={channels}",
                "model.discriminator_layers=3",
            ],
            together: 1,
        },
    },
    Bench {
        name: "pix2pix",
        batch: 1,
        size: 256,
        channels: 64,
        work: Work::System {
            samples: 1,
            colours: 3,
            settings: &[
                "model.generator_channels={channels}",
                "model.discriminator_channels={channels}",
                "model.discriminator_layers=3",
            ],
            together: 1,
        },
    },
    Bench {
        name: "adain",
        batch: 1,
        size: 512,
        channels: 64,
        work: Work::System {
            samples: 1,
            colours: 3,
            settings: &["model.encoder=random", "model.vgg=vgg19", "model.encoder_channels={channels}"],
            together: 1,
        },
    },
];

/// Numbers in the tensor that a benchmark goes over, at most: 1 GiB.
const LARGEST: usize = 1 << 28;

/// Medians in milliseconds, by what was timed: `forward`, `step`, `sample`, `translate`.
type Times = Vec<(&'static str, f64)>;

pub fn run(args: &BenchArgs, common: &Common, out: &Output) -> Result<()> {
    let device = device::by_name(&common.device)?;
    let chosen: Vec<&Bench> = match args.names.as_slice() {
        [] => BENCHES.iter().collect(),
        names => names.iter().map(|name| by_name(name)).collect::<Result<_>>()?,
    };
    let all = chosen.len() as u64;
    let mut progress = (!common.quiet && all > 1).then(|| Progress::new("bench", "benchmarks", 0, all));
    for (done, bench) in chosen.into_iter().enumerate() {
        let bench = Bench {
            batch: args.batch.unwrap_or(bench.batch),
            size: args.size.unwrap_or(bench.size),
            channels: args.channels.unwrap_or(bench.channels),
            ..*bench
        };
        let numbers =
            [bench.batch, bench.channels, bench.size, bench.size].iter().try_fold(1, |n: usize, &by| n.checked_mul(by));
        if numbers.is_none_or(|n| n > LARGEST) {
            let Bench { name, batch, size, channels, .. } = bench;
            return Err(Error::usage(format!(
                "bench {name}: {batch} images of {channels} channels and {size} x {size} pixels are too large; at most {LARGEST} numbers in all"
            )));
        }
        let times = bench.time(args.runs, common.precision.unwrap_or_default(), &device)?;
        let mut object = Map::new();
        object.insert("bench".into(), bench.name.into());
        object.insert("precision".into(), common.precision.unwrap_or_default().to_string().into());
        object.extend(times.iter().map(|(what, ms)| (format!("{what}_ms"), Value::from(*ms))));
        object.insert("batch".into(), bench.batch.into());
        object.insert("runs".into(), args.runs.into());
        object.insert("peak_memory".into(), memory::peak().into());
        object.insert("hardware".into(), hardware::describe().into());
        let line = || {
            let times: Vec<String> = times.iter().map(|(what, ms)| format!("{what} {ms:9.2} ms")).collect();
            format!("{:14} {}", bench.name, times.join("   "))
        };
        out.say(line, &Value::Object(object));
        if let Some(p) = &mut progress {
            p.update(done as u64 + 1, String::new);
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    Ok(())
}

fn by_name(name: &str) -> Result<&'static Bench> {
    BENCHES.iter().find(|bench| bench.name == name).ok_or_else(|| {
        let names = BENCHES.iter().map(|bench| bench.name);
        let hint = nearest(name, names.clone()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        Error::usage(format!("no benchmark `{name}`; {hint}there are {}", names.collect::<Vec<_>>().join(", ")))
    })
}

/// The median of `runs` times after three runs that warm up, in milliseconds. Each run is handed the state that the one
/// before left.
fn median<S>(runs: usize, mut state: S, mut work: impl FnMut(S) -> Result<S>) -> Result<f64> {
    let mut times = Vec::new();
    for run in 0..runs + 3 {
        let start = Instant::now();
        state = work(state)?;
        if run >= 3 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn draw<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    normal(Key::new(0).purpose(name), 0..shape[0] as u64, shape, device)
}

/// Waits for what a backend may still be computing.
fn finish<const D: usize>(tensor: Tensor<D>) {
    let _ = tensor.sum().into_scalar::<f32>();
}

/// The forward pass of a layer on `x`, and the pass with the gradients of input, weight and bias.
fn layer<L: Module>(layer: L, x: Tensor<4>, runs: usize, forward: fn(&L, Tensor<4>) -> Tensor<4>) -> Result<Times> {
    let plain = layer.valid();
    let ahead = median(runs, (), |()| {
        drop(forward(&plain, x.clone()));
        Ok(())
    })?;
    let x = x.autodiff().require_grad();
    let both = median(runs, (), |()| {
        drop(forward(&layer, x.clone()).sum().backward());
        Ok(())
    })?;
    Ok(vec![("forward", ahead), ("step", both)])
}

impl Bench {
    fn time(&self, runs: usize, precision: Precision, device: &Device) -> Result<Times> {
        let autodiff = device.clone().autodiff();
        let mut init = Init::new(&autodiff, 0);
        let Self { batch: n, size, channels: c, .. } = *self;
        let x = || draw("x", [n, c, size, size], device);
        match &self.work {
            Work::Conv => layer(Conv2dConfig::same3(c, c).init(&mut init), x(), runs, Conv2d::forward),
            Work::ConvTranspose => {
                let conv = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(c, (c / 2).max(1), 4) };
                layer(conv.init_transposed(&mut init), x(), runs, ConvTranspose2d::forward)
            }
            Work::UNet => self.unet(runs, device, &mut init),
            Work::AdamW => {
                // As the matrices of a transformer: 30 of a million, and their biases.
                let layer = |_| LinearConfig::new(size, size).init(&mut init);
                let live: Vec<Linear> = (0..c).map(layer).collect();
                let average = live.clone().valid();
                let gradients: params::Flat =
                    params::flat(&live).into_iter().map(|(path, value)| (path, value * 0.1)).collect();
                let config =
                    OptimizerConfig { method: Method::AdamW, weight_decay: 0.01, ..OptimizerConfig::adam(1e-4) };
                let mut optimizer = Optimizer::new(config);
                let step = median(runs, (live, average), |(live, average)| {
                    let live = optimizer.step(live, gradients.clone(), 1.0, 1.0);
                    let average = ema::update(average, &live, 0.999, ema::Buffers::Average, |_| true);
                    Ok((live, average))
                })?;
                Ok(vec![("step", step)])
            }
            Work::Ada => {
                let ada = Augmentation::new(Pipeline::Ada(Ada::parse("")?), 1.0, Key::new(0), 0);
                let (plain, tracked) = (x(), x().autodiff().require_grad());
                let forward = median(runs, (), |()| {
                    finish(ada.apply(plain.clone()));
                    Ok(())
                })?;
                let step = median(runs, (), |()| {
                    drop(ada.apply(tracked.clone()).sum().backward());
                    Ok(())
                })?;
                Ok(vec![("forward", forward), ("step", step)])
            }
            Work::System { samples, colours, settings, together } => {
                self.system((*samples, *colours), settings, *together, runs, precision, device)
            }
        }
    }

    fn unet(&self, runs: usize, device: &Device, init: &mut Init) -> Result<Times> {
        let Self { batch: n, size, channels, .. } = *self;
        let net = UNet::new(channels, init);
        let timesteps = |device: &Device| {
            let values = (0..n).map(|i| (i * 31 % 1000) as f32).collect();
            from_values::<1>(values, [n], device)
        };
        // Sampling takes fewer at a time.
        let half = (n / 2).max(1);
        let (plain, x, t) =
            (net.valid(), draw("x", [half, 1, size, size], device), timesteps(device).narrow(0, 0, half));
        let forward = median(runs, (), |()| {
            finish(plain.forward(x.clone(), t.clone()));
            Ok(())
        })?;
        let autodiff = device.clone().autodiff();
        let [x, target] = ["x", "noise"].map(|name| draw(name, [n, 1, size, size], &autodiff));
        let t = timesteps(&autodiff);
        let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-4));
        let step = median(runs, net, |net| {
            let mut gradients = mse(net.forward(x.clone(), t.clone()), target.clone()).backward();
            let gradients = params::take_gradients(&net, &mut gradients);
            Ok(optimizer.step(net, gradients, 1.0, 1.0))
        })?;
        Ok(vec![("step", step), ("forward", forward)])
    }

    /// A step of a system's recipe without EMA, and samples.
    fn system(
        &self,
        (samples, colours): (usize, usize),
        settings: &[&str],
        together: u32,
        runs: usize,
        precision: Precision,
        device: &Device,
    ) -> Result<Times> {
        let system = find(self.name)?;
        let mut recipe = system.defaults()?;
        let own = [
            format!("train.batch={}", self.batch),
            "train.ema_half_life=0".to_string(),
            format!("train.precision={precision}"),
            format!("data.channels={colours}"),
            format!("data.size={}", self.size),
            format!("data.shape=[{colours}, {}, {}]", self.size, self.size),
        ];
        let given = settings.iter().map(|text| text.replace("{channels}", &self.channels.to_string()));
        for text in given.chain(own) {
            merge(&mut recipe, &assignment(&text)?, self.name)?;
        }
        let mut trial = system.trial(recipe, device)?;
        let step = median(runs, (), |()| (0..together).try_for_each(|_| trial.step()))? / f64::from(together);
        let model = trial.model()?;
        if model.abilities().contains(&Ability::Translate) {
            let image = |name: &str| draw::<4>(name, [1, colours, self.size, self.size], device).clamp(-1.0, 1.0);
            let mut request = Request::new(0..samples as u64, 0, device);
            if model.needs_style()? {
                request.condition.styles = vec![Style { image: image("style"), weight: 1.0 }];
            }
            let images = image("content").repeat_dim(0, samples);
            let translate = median(runs, (), |()| {
                finish(model.translate(images.clone(), &request)?);
                Ok(())
            })?;
            return Ok(vec![("step", step), ("translate", translate)]);
        }
        if !model.abilities().contains(&Ability::Generate) {
            return Ok(vec![("step", step)]);
        }
        let sample = median(runs, 0, |drawn| {
            let next = drawn + samples as u64;
            finish(model.generate(&Request::new(drawn..next, 0, device))?);
            Ok(next)
        })?;
        Ok(vec![("step", step), ("sample", sample)])
    }
}
