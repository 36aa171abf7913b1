//! `kiln bench`: how long the field's usual work takes on this machine. `benches/peers/` runs the same work
//! in PyTorch and prints ratios.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};
use clap::{Args, ValueEnum};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::attention::FeatureAttention;
use kiln_nn::loss::{binary_cross_entropy_to, gaussian_kl, mse};
use kiln_nn::resample::upsample_nearest;
use kiln_nn::tensor::{from_values, normal};
use kiln_nn::time::sinusoidal;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init, Linear, LinearConfig, add_activate, concat};
use kiln_systems::adversarial::dcgan;
use kiln_systems::autoencoder::autoregressive::{Autoregression, Autoregressive, LevelConfig, Levels};
use kiln_systems::autoencoder::bound::reparameterise;
use kiln_systems::autoencoder::networks::{Network, NetworkConfig};
use kiln_systems::autoencoder::pixels::{Binarize, PixelConfig};
use kiln_systems::autoencoder::{latent, pixelcnn, pixelrnn};
use kiln_train::optim::Optimizer;
use kiln_train::{OptimizerConfig, Request, device, ema, memory, params};
use serde_json::json;

use crate::output::Output;
use crate::{Common, hardware};

#[derive(Args)]
pub struct BenchArgs {
    /// What to time; if nothing is named all but naive sampling, which takes minutes
    work: Vec<Work>,
    /// Pictures at a time, instead of the work's own number
    #[arg(long)]
    batch: Option<usize>,
    /// Side of the pictures, instead of the work's own
    #[arg(long)]
    size: Option<usize>,
    /// Channels, instead of the work's own
    #[arg(long)]
    channels: Option<usize>,
    /// Timed runs, after three that warm up; the median counts
    #[arg(long, default_value_t = 9)]
    runs: usize,
}

/// Something to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    /// 3×3 convolution 64 → 64 at 32×32, batch 32, forward
    ConvForward,
    /// The same with the gradients of input, weights and bias
    Conv,
    /// 4×4 transposed convolution of stride 2, 128 → 64 from 14×14, batch 64, with all gradients
    ConvTranspose,
    /// A training step (Adam) of a 5-million-parameter U-Net at 28×28, batch 32
    Unet,
    /// The forward pass of the same, batch 16
    UnetForward,
    /// DCGAN's step, discriminator and generator, at 64×64 RGB, batch 64
    Dcgan,
    /// AdamW and weight average of 30 million parameters
    Adamw,
    /// A training step (Adam) of a VAE of bits: two layers of 500 units each way, 50 latents, batch 100
    Vae,
    /// 1,000 pictures of it
    VaeSample,
    /// A training step (Adam) of a gated PixelCNN on bits: 7 layers of 24 maps at 28×28, batch 16
    Pixelcnn,
    /// The same of a Diagonal BiLSTM: 2 layers of 24 states
    Pixelrnn,
    /// 16 pictures of the PixelCNN, pixel by pixel with what is known of the others
    PixelcnnSample,
    /// The same by a whole pass for each pixel
    PixelcnnSampleNaive,
    /// 16 pictures of the Diagonal BiLSTM, pixel by pixel
    PixelrnnSample,
}

pub fn run(args: &BenchArgs, common: &Common, out: &Output) -> Result<()> {
    if args.runs == 0 || [args.batch, args.size, args.channels].contains(&Some(0)) {
        return Err(Error::usage("bench: --runs, --batch, --size and --channels must be at least 1"));
    }
    let device = device::by_name(&common.device)?;
    let quick = || Work::value_variants().iter().copied().filter(|work| *work != Work::PixelcnnSampleNaive).collect();
    let all: Vec<Work> = if args.work.is_empty() { quick() } else { args.work.clone() };
    for work in all {
        let milliseconds = work.time(args, &device);
        let name = work.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
        let object = json!({
            "work": name,
            "milliseconds": milliseconds,
            "runs": args.runs,
            "peak_memory": memory::peak(),
            "precision": common.precision.unwrap_or_default(),
            "hardware": hardware::describe(),
        });
        out.say(|| format!("{name:14} {milliseconds:9.2} ms"), &object);
    }
    Ok(())
}

/// The median of `runs` times after three runs that warm up, in milliseconds.
fn median(runs: usize, mut work: impl FnMut()) -> f64 {
    median_of(runs, (), |()| work())
}

/// The same of work that hands something on from run to run.
fn median_of<S>(runs: usize, mut state: S, mut work: impl FnMut(S) -> S) -> f64 {
    let mut times = Vec::new();
    for run in 0..runs + 3 {
        let start = Instant::now();
        state = work(state);
        if run >= 3 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn draw<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    normal(Key::new(0).purpose(name), 0..shape[0] as u64, shape, device)
}

/// Waits for what a backend may still be computing.
fn finish<const D: usize>(tensor: Tensor<D>) {
    let _ = tensor.sum().into_scalar::<f32>();
}

impl Work {
    fn time(self, args: &BenchArgs, device: &Device) -> f64 {
        let autodiff = device.clone().autodiff();
        let mut init = Init::new(&autodiff, 0);
        let or = |given: Option<usize>, usual: usize| given.unwrap_or(usual);
        match self {
            Self::ConvForward | Self::Conv => {
                let (n, c, side) = (or(args.batch, 32), or(args.channels, 64), or(args.size, 32));
                let conv = Conv2dConfig::same3(c, c).init(&mut init);
                let x = draw("x", [n, c, side, side], device);
                if self == Self::ConvForward {
                    let conv = conv.valid();
                    return median(args.runs, || drop(conv.forward(x.clone())));
                }
                let x = x.autodiff().require_grad();
                median(args.runs, || drop(conv.forward(x.clone()).sum().backward()))
            }
            Self::ConvTranspose => {
                let (n, c, side) = (or(args.batch, 64), or(args.channels, 128), or(args.size, 14));
                let conv = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(c, c / 2, 4) };
                let conv = conv.init_transposed(&mut init);
                let x = draw("x", [n, c, side, side], device).autodiff().require_grad();
                median(args.runs, || drop(conv.forward(x.clone()).sum().backward()))
            }
            Self::Unet | Self::UnetForward => {
                let forward = self == Self::UnetForward;
                let n = or(args.batch, if forward { 16 } else { 32 });
                let (c, side) = (or(args.channels, 64), or(args.size, 28));
                let net = UNet::new(c, &mut init);
                let t = (0..n).map(|i| (i * 31 % 1000) as f32).collect::<Vec<_>>();
                if forward {
                    let (net, x, t) = (net.valid(), draw("x", [n, 1, side, side], device), from_values(t, [n], device));
                    return median(args.runs, || finish(net.forward(x.clone(), t.clone())));
                }
                let x = draw("x", [n, 1, side, side], &autodiff);
                let target = draw("noise", [n, 1, side, side], &autodiff);
                let t = from_values(t, [n], &autodiff);
                let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-4));
                median_of(args.runs, net, |net| {
                    let loss = mse(net.forward(x.clone(), t.clone()), target.clone());
                    let mut gradients = loss.backward();
                    let gradients = params::take_gradients(&net, &mut gradients);
                    optimizer.step(net, gradients, 1.0, 1.0)
                })
            }
            Self::Dcgan => dcgan_step(
                or(args.batch, 64),
                or(args.channels, 64),
                or(args.size, 64),
                args.runs,
                &autodiff,
                &mut init,
            ),
            Self::Vae | Self::VaeSample => self.of_latents(args, device),
            Self::Pixelcnn | Self::PixelcnnSample | Self::PixelcnnSampleNaive => {
                let config =
                    pixelcnn::Config { features: or(args.channels, 24), levels: BITS, ..pixelcnn::Config::default() };
                let net = pixelcnn::Networks { pixelcnn: pixelcnn::PixelCnn::new(&config, 1, 0, &mut init) };
                self.of_pixels(net, args, device)
            }
            Self::Pixelrnn | Self::PixelrnnSample => {
                let config =
                    pixelrnn::Config { features: or(args.channels, 24), levels: BITS, ..pixelrnn::Config::default() };
                let net = pixelrnn::Networks { pixelrnn: pixelrnn::PixelRnn::new(&config, 1, &mut init) };
                self.of_pixels(net, args, device)
            }
            Self::Adamw => {
                // As the matrices of a transformer: 30 of a million, and their biases.
                let layer = |_| LinearConfig::new(1000, 1000).init(&mut init);
                let live: Vec<Linear> = (0..30).map(layer).collect();
                let average = live.clone().valid();
                let gradients: params::Flat =
                    params::flat(&live).into_iter().map(|(path, value)| (path, value * 0.1)).collect();
                let mut optimizer = Optimizer::new(OptimizerConfig {
                    method: kiln_train::optim::Method::AdamW,
                    weight_decay: 0.01,
                    ..OptimizerConfig::adam(1e-4)
                });
                median_of(args.runs, (live, average), |(live, average)| {
                    let live = optimizer.step(live, gradients.clone(), 1.0, 1.0);
                    let average = ema::update(average, &live, 0.999, |_| true);
                    (live, average)
                })
            }
        }
    }
}

/// What the pixel-by-pixel networks are timed on.
const BITS: LevelConfig = LevelConfig { output: Levels::Bernoulli, binarize: Binarize::Static };

impl Work {
    /// A training step of the VAE, or pictures of it.
    fn of_latents(self, args: &BenchArgs, device: &Device) -> f64 {
        let autodiff = device.clone().autodiff();
        let (side, units) = (args.size.unwrap_or(28), args.channels.unwrap_or(500));
        let networks =
            NetworkConfig { network: Network::Mlp, hidden: vec![units; 2], latent: 50, ..NetworkConfig::default() };
        let (width, shape, pixels) = (networks.latent, [1, side, side], PixelConfig::default());
        let mut init = Init::new(&autodiff, 0);
        let encoder = networks.encoder(shape, 0, &mut init);
        let net = latent::Networks { encoder, decoder: networks.decoder(shape, 0, pixels.scale(), &mut init) };
        if self == Self::VaeSample {
            let (n, net) = (args.batch.unwrap_or(1000), net.valid());
            let mut drawn = 0;
            return median(args.runs, || {
                drawn += n as u64;
                let z = normal(Key::new(0).purpose("z"), drawn..drawn + n as u64, [n, width], device);
                finish(pixels.picture(net.decoder.forward(z), shape));
            });
        }
        let n = args.batch.unwrap_or(100);
        let x = (draw("x", [n, side * side], &autodiff).sign() + 1.0) * 0.5;
        let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-4));
        let mut drawn = 0;
        median_of(args.runs, net, |net| {
            drawn += n as u64;
            let noise = normal(Key::new(0).purpose("noise"), drawn..drawn + n as u64, [n, width], &autodiff);
            let (mean, log_var) = net.encoder.forward(x.clone());
            let z = reparameterise(mean.clone(), log_var.clone(), noise);
            let likelihood = pixels.log_likelihood(x.clone(), net.decoder.forward(z)).mean();
            let loss = gaussian_kl(mean, log_var).mean() - likelihood;
            let gradients = params::take_gradients(&net, &mut loss.backward());
            optimizer.step(net, gradients, 1.0, 1.0)
        })
    }

    /// A training step of a pixel-by-pixel network, or pictures of it.
    fn of_pixels<N: Autoregressive + Module>(self, net: N, args: &BenchArgs, device: &Device) -> f64 {
        let (n, side) = (args.batch.unwrap_or(16), args.size.unwrap_or(28));
        if matches!(self, Self::Pixelcnn | Self::Pixelrnn) {
            let x = draw("x", [n, 1, side, side], &device.clone().autodiff()).sign();
            let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-4));
            return median_of(args.runs, net, |net| {
                let loss = -BITS.log_likelihood(x.clone(), net.forward(x.clone(), None)).mean();
                let gradients = params::take_gradients(&net, &mut loss.backward());
                optimizer.step(net, gradients, 1.0, 1.0)
            });
        }
        let (model, net) = (Autoregression::unconditional("bench", BITS, [1, side, side]), net.valid());
        let request = Request::new(0..n as u64, 0, device);
        median(args.runs, || match self {
            Self::PixelcnnSampleNaive => finish(model.generate_naively(&net, &request)),
            _ => finish(model.generate_by_pixels(&net, &request)),
        })
    }
}

fn dcgan_step(n: usize, channels: usize, side: usize, runs: usize, device: &Device, init: &mut Init) -> f64 {
    // A power of two of at least 8 pixels, as the networks double 4.
    let sizes = dcgan::Sizes { base: [4; 2], doublings: (side.max(8) / 4).ilog2() as usize };
    let side = 4 << sizes.doublings;
    let nets = dcgan::Networks {
        generator: dcgan::Generator::new(100, channels, 3, sizes, init),
        discriminator: dcgan::Discriminator::new(3, channels, sizes, init),
    };
    let adam = OptimizerConfig::adam(2e-4).betas(0.5, 0.999);
    let mut optimizers = [Optimizer::new(adam.clone()), Optimizer::new(adam)];
    let (real, z) = (draw("real", [n, 3, side, side], device).tanh(), draw("z", [n, 100], device));
    median_of(runs, nets, |mut nets| {
        for (phase, optimizer) in optimizers.iter_mut().enumerate() {
            nets = params::set_trainable(nets, &[["discriminator", "generator"][phase]]);
            let fake = nets.generator.forward(z.clone());
            let loss = if phase == 0 {
                binary_cross_entropy_to(nets.discriminator.forward(real.clone()), 1.0)
                    + binary_cross_entropy_to(nets.discriminator.forward(fake.detach()), 0.0)
            } else {
                binary_cross_entropy_to(nets.discriminator.forward(fake), 1.0)
            };
            let mut gradients = loss.backward();
            let gradients = params::take_gradients(&nets, &mut gradients);
            nets = optimizer.step(nets, gradients, 1.0, 1.0);
        }
        nets
    })
}

/// The U-Net that peers are timed with: no skip from the first convolution or a halving, attention in the
/// middle only.
#[derive(Module, Debug)]
struct UNet {
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<Block>,
    halve: Vec<Conv2d>,
    middle: (Block, FeatureAttention, Block),
    up: Vec<Block>,
    double: Vec<Conv2d>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    channels: usize,
}

/// Its residual block.
#[derive(Module, Debug)]
struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Conv2d>,
}

/// Channels of a level in multiples of the first.
const LEVELS: [usize; 3] = [1, 2, 2];
const GROUPS: usize = 8;

impl Block {
    fn new(inputs: usize, outputs: usize, time: usize, init: &mut Init) -> Self {
        Self {
            norm1: GroupNorm::new(GROUPS, inputs, init),
            conv1: Conv2dConfig::same3(inputs, outputs).init(init),
            time: LinearConfig::new(time, outputs).init(init),
            norm2: GroupNorm::new(GROUPS, outputs, init),
            conv2: Conv2dConfig::same3(outputs, outputs).init(init),
            skip: (inputs != outputs).then(|| Conv2dConfig::new(inputs, outputs, 1).init(init)),
        }
    }

    fn forward(&self, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        let h = self.conv1.forward(self.norm1.forward(x.clone(), Activation::Silu));
        let t = self.time.forward(silu(time.clone()));
        let [n, c] = t.dims();
        let h = self.conv2.forward(self.norm2.forward(h + t.reshape([n, c, 1, 1]), Activation::Silu));
        let x = self.skip.as_ref().map_or_else(|| x.clone(), |conv| conv.forward(x.clone()));
        add_activate(h, x, Activation::None)
    }
}

impl UNet {
    fn new(channels: usize, init: &mut Init) -> Self {
        let time = 4 * channels;
        let (mut c, mut skips) = (channels, Vec::new());
        let (mut down, mut halve, mut up, mut double) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (level, m) in LEVELS.into_iter().enumerate() {
            for _ in 0..2 {
                down.push(Block::new(c, channels * m, time, init));
                c = channels * m;
                skips.push(c);
            }
            if level + 1 < LEVELS.len() {
                halve.push(Conv2dConfig { stride: 2, ..Conv2dConfig::same3(c, c) }.init(init));
            }
        }
        let middle =
            (Block::new(c, c, time, init), FeatureAttention::new(c, GROUPS, 1, init), Block::new(c, c, time, init));
        for (level, m) in LEVELS.into_iter().enumerate().rev() {
            for _ in 0..2 {
                // As many skips as blocks went down.
                up.push(Block::new(c + skips.pop().unwrap_or(0), channels * m, time, init));
                c = channels * m;
            }
            if level > 0 {
                double.push(Conv2dConfig::same3(c, c).init(init));
            }
        }
        Self {
            time1: LinearConfig::new(channels, time).init(init),
            time2: LinearConfig::new(time, time).init(init),
            conv_in: Conv2dConfig::same3(1, channels).init(init),
            down,
            halve,
            middle,
            up,
            double,
            norm_out: GroupNorm::new(GROUPS, c, init),
            conv_out: Conv2dConfig::same3(c, 1).init(init),
            channels,
        }
    }

    fn forward(&self, x: Tensor<4>, t: Tensor<1>) -> Tensor<4> {
        let t = self.time2.forward(silu(self.time1.forward(sinusoidal(t, self.channels, 0.0))));
        let mut h = self.conv_in.forward(x);
        let mut skips = Vec::new();
        for (i, block) in self.down.iter().enumerate() {
            h = block.forward(h, &t);
            skips.push(h.clone());
            if let (1, Some(halve)) = (i % 2, self.halve.get(i / 2)) {
                h = halve.forward(h);
            }
        }
        let (first, attention, second) = &self.middle;
        h = second.forward(attention.forward(first.forward(h, &t)), &t);
        for (i, block) in self.up.iter().enumerate() {
            if let Some(skip) = skips.pop() {
                h = concat(h, skip);
            }
            h = block.forward(h, &t);
            if let (1, Some(double)) = (i % 2, self.double.get(i / 2)) {
                h = double.forward(upsample_nearest(h, 2));
            }
        }
        self.conv_out.forward(self.norm_out.forward(h, Activation::Silu))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_the_peers() {
        let device = Device::flex();
        let net = UNet::new(64, &mut Init::new(&device, 0));
        // What `unet.py` of the peers counts.
        assert_eq!(params::count(&net), 5_066_241);
        let out = net.forward(draw("x", [2, 1, 28, 28], &device), Tensor::zeros([2], &device));
        assert_eq!(out.dims(), [2, 1, 28, 28]);
    }
}
