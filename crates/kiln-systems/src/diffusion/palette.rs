//! Saharia, Chan, Chang, Lee, Ho, Salimans, Fleet & Norouzi, *Palette: Image-to-Image Diffusion Models*, 2022.
//!
//! One diffusion model that mends pictures, shown the damaged picture y beside the noisy one (equation 1):
//!
//! E ‖f(y, √ᾱ x₀ + √(1 − ᾱ) ε, ᾱ) − ε‖², or any other target of [`super::process`].
//!
//! It knows no task: what is wrong is seen in y (section 4, multi-task learning). Where a part is missing, y has noise there, the rest of
//! the noisy picture is replaced by what is known, and the loss is of the missing part alone (section 3).
//!
//! | paper | here |
//! |---|---|
//! | colorization | `colorize`: y is grey |
//! | inpainting, free-form and rectangular masks | `inpaint` |
//! | uncropping, of one side or all around, half of the picture | `uncrop` |
//! | JPEG restoration, qualities of 5 to 30 | `restore` |
//! | regression, the same network trained to give x₀ at once (L1) | `method = "regression"` |
//!
//! `kiln train palette --data photos`, then `kiln translate RUN IN OUT --direction colorize` and
//! `kiln inpaint RUN IN OUT --mask MASK`.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::{DataKind, Picture};
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::unet::{UNet, UNetConfig};
use kiln_nn::{Condition, Init};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, Inpaint, Input, Loss, OptimizerConfig, Phase, Pictures, Request, Schedule, SizeRule,
    State, System, TrainConfig, Translate,
};
use serde::{Deserialize, Serialize};

use super::guidance::Guidance;
use super::objective::Objective;
use super::parameterisation::Prediction;
use super::process::{Process, ProcessConfig, Training, max_batch};
use super::sampler::ancestral::Variance;
use super::sampler::settings::SamplerSettings;
use super::schedule::{BetaSchedule, Level, NoiseLevels};
use super::{check_unet, unet_sizes};

/// What is done to a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Its colours are taken.
    Colorize,
    /// Parts of it are taken.
    Inpaint,
    /// A side of it is taken, or its border.
    Uncrop,
    /// It is compressed.
    Restore,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Colorize => "colorize",
            Self::Inpaint => "inpaint",
            Self::Uncrop => "uncrop",
            Self::Restore => "restore",
        }
    }
}

/// How a picture is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By a chain of denoising steps.
    Diffusion,
    /// At once, by the least absolute error: what the paper compares with.
    Regression,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Schedule, prediction, objective and sampler.
    #[serde(flatten)]
    pub process: ProcessConfig,
    /// `colorize`, `inpaint`, `uncrop` and `restore`, each as often as another.
    pub tasks: Vec<Task>,
    /// `diffusion` or `regression`.
    pub method: Method,
    /// The network.
    pub unet: UNetConfig,
    /// Its optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            process: ProcessConfig {
                schedule: BetaSchedule::Cosine,
                prediction: Prediction::V,
                ..ProcessConfig::default()
            },
            tasks: vec![Task::Colorize, Task::Inpaint, Task::Uncrop, Task::Restore],
            method: Method::Diffusion,
            unet: UNetConfig {
                patch: 2,
                channel_multipliers: vec![1, 2],
                blocks: 1,
                attention_levels: vec![1],
                ..UNetConfig::default()
            },
            optimizer: OptimizerConfig {
                warmup: 5_000,
                clip_norm: 1.0,
                ..OptimizerConfig::adam(5e-4).schedule(Schedule::Cosine)
            },
        }
    }
}

/// The one network.
#[derive(Module, Debug)]
pub struct Networks {
    /// f.
    pub denoiser: UNet,
}

/// Damaged pictures.
pub struct Damaged {
    /// y, `[n, c, h, w]`; noise where something is missing.
    pub seen: Tensor<4>,
    /// 1 where a picture is to be drawn, 0 where it is known: `[n, 1, h, w]`.
    pub missing: Tensor<4>,
}

/// 1 where a mask is 0.
fn rest(mask: &Tensor<4>) -> Tensor<4> {
    mask.clone() * -1.0 + 1.0
}

impl Damaged {
    /// Pictures with their parts missing, filled with noise.
    fn without(images: Tensor<4>, missing: Tensor<4>, noise: Tensor<4>) -> Self {
        Self { seen: images * rest(&missing) + noise * missing.clone(), missing }
    }

    /// What is known of them, 0 elsewhere.
    fn known(&self) -> Tensor<4> {
        self.seen.clone() * rest(&self.missing)
    }

    /// Both, the mask as the last channel, so that a chain's parts have their own.
    fn condition(&self) -> Condition {
        let images = Tensor::cat(vec![self.seen.clone(), self.missing.clone()], 1);
        Condition { images: Some(images), ..Condition::default() }
    }

    /// What [`Damaged::condition`] made.
    fn of(images: &Tensor<4>) -> Self {
        let channels = images.dims()[1] - 1;
        Self { seen: images.clone().narrow(1, 0, channels), missing: images.clone().narrow(1, channels, 1) }
    }
}

/// The system.
pub struct Palette {
    config: Config,
    process: Process,
    training: Training,
    shape: [usize; 3],
}

impl System for Palette {
    const ID: &'static str = "palette";
    const PAPER: &'static str = "Saharia et al.: Palette: Image-to-Image Diffusion Models, 2022";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig { size: 64.into(), channels: 3, ..DataConfig::default() };
        (data, TrainConfig { batch: 16, images: 200_000, ..TrainConfig::default() })
    }

    fn sizes(config: &Config) -> SizeRule {
        unet_sizes(&config.unet).at_least(8)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        check_unet(&c.unet)?;
        Self::sizes(c).check(pictures.shape)?;
        let [channels, height, width] = pictures.shape;
        refuse_if!(
            c.tasks.is_empty(),
            "model.tasks names nothing to mend: colorize, inpaint, uncrop and restore are there"
        );
        refuse_if!(
            c.tasks.contains(&Task::Colorize) && channels != 3,
            "model.tasks: colorize needs colour; set data.channels=3, or leave it out of model.tasks"
        );
        refuse_if!(
            c.tasks.contains(&Task::Restore) && ![1, 3].contains(&channels),
            "model.tasks: restore needs images without transparency; set data.channels to 1 or 3"
        );
        let repeated = |(i, task): (usize, &Task)| c.tasks[..i].contains(task);
        refuse_if!(c.tasks.iter().enumerate().any(repeated), "model.tasks names a task twice");
        refuse_if!(
            c.process.objective != Objective::Simple || c.process.variance == Variance::Learned,
            "model.objective: the loss is of the missing parts alone, which `simple` can do; the bound and a learned variance cannot"
        );
        Ok(Self {
            process: c.process.process(max_batch(c.unet.memory(height, width)))?,
            training: c.process.training(),
            shape: pictures.shape,
            config,
        })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let channels = self.shape[0];
        Networks { denoiser: self.config.unet.init(2 * channels, channels, 0, init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("denoiser", &["denoiser"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        let fills = self.config.tasks.iter().any(|task| matches!(task, Task::Inpaint | Task::Uncrop));
        Abilities { translate: Some(self), inpaint: if fills { Some(self) } else { None }, ..Abilities::default() }
    }

    fn state(&self) -> State {
        self.training.state()
    }

    fn restore(&mut self, state: State) {
        self.training.restore(&state);
    }
}

/// The network on noisy pictures whose known parts are put in their place.
fn predict(networks: &Networks) -> impl Fn(Tensor<4>, &[Level], &Condition) -> Tensor<4> + '_ {
    |xt, levels, condition| {
        let timesteps = NoiseLevels::new(levels, &xt.device()).timesteps();
        let Some(images) = &condition.images else {
            return networks.denoiser.forward(xt, timesteps, condition);
        };
        let damaged = Damaged::of(images);
        let shown = xt * damaged.missing.clone() + damaged.known();
        let condition = Condition { images: Some(damaged.seen), ..condition.clone() };
        networks.denoiser.forward(shown, timesteps, &condition)
    }
}

/// Grey by the luma of Rec. 601, in all channels.
fn grey(images: Tensor<4>) -> Tensor<4> {
    let channel = |c: usize, weight: f64| images.clone().narrow(1, c, 1) * weight;
    (channel(0, 0.299) + channel(1, 0.587) + channel(2, 0.114)).repeat_dim(1, 3)
}

/// Pictures after a JPEG of each one's quality.
fn compressed(images: &Tensor<4>, qualities: &[u8]) -> Result<Tensor<4>> {
    let shape @ [_, c, h, w] = images.dims();
    let values = to_values(images.clone());
    let each = values.chunks_exact(c * h * w).zip(qualities);
    let each = each.map(|(values, quality)| Ok(Picture::from_unit(values, c, h, w).compressed(*quality)?.to_unit()));
    Ok(from_values(each.collect::<Result<Vec<_>>>()?.concat(), shape, &images.device()))
}

/// Masks that cover a part of a picture, 1 where it is missing: rectangles and strokes for `inpaint`, a half of the picture for `uncrop`.
/// `draw` has numbers from 0 to 1.
fn mask(task: Task, [height, width]: [usize; 2], draw: &[f32]) -> Vec<f32> {
    let mut covered = vec![0.0; height * width];
    let mut cover = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        for row in rows.start..rows.end.min(height) {
            covered[row * width + columns.start.min(width)..row * width + columns.end.min(width)].fill(1.0);
        }
    };
    let part = |number: f32, of: usize| (number * of as f32) as usize;
    match task {
        Task::Uncrop => match part(draw[0], 5) {
            0 => cover(0..height / 2, 0..width),
            1 => cover(height / 2..height, 0..width),
            2 => cover(0..height, 0..width / 2),
            3 => cover(0..height, width / 2..width),
            // A frame: the middle that is left has half of the area.
            _ => {
                let [top, left] = [height, width].map(|side| ((side as f32) * 0.146).round() as usize);
                cover(0..top, 0..width);
                cover(height - top..height, 0..width);
                cover(0..height, 0..left);
                cover(0..height, width - left..width);
            }
        },
        _ => {
            // A rectangle of a quarter to a half of each side, and strokes as wide as an eighth of the picture.
            let [h, w] = [(draw[1], height), (draw[2], width)].map(|(u, side)| part(0.25 + 0.25 * u, side).max(1));
            let (y, x) = (part(draw[3], height - h + 1), part(draw[4], width - w + 1));
            cover(y..y + h, x..x + w);
            let brush = (height.min(width) / 8).max(1);
            let (mut at, strokes) = ([draw[5] * height as f32, draw[6] * width as f32], 1 + part(draw[0], 4));
            for stroke in 0..strokes {
                let [u, v] = [draw[7 + 2 * stroke], draw[8 + 2 * stroke]];
                let (angle, length) = (u * std::f32::consts::TAU, (0.2 + 0.4 * v) * height.min(width) as f32);
                let steps = (length / brush as f32 * 2.0).ceil() as usize;
                for step in 0..=steps {
                    let along = length * step as f32 / steps.max(1) as f32;
                    let [y, x] = [at[0] + along * angle.sin(), at[1] + along * angle.cos()];
                    let from = |v: f32| (v - brush as f32 / 2.0).max(0.0) as usize;
                    cover(from(y)..from(y) + brush, from(x)..from(x) + brush);
                }
                at = [at[0] + length * angle.sin(), at[1] + length * angle.cos()];
            }
        }
    }
    covered
}

/// Numbers from 0 to 1 that a mask is drawn by.
const DRAWS: usize = 16;

impl Palette {
    /// The first of the tasks that fills in parts.
    fn fills(&self) -> Task {
        let fills = |task: &&Task| matches!(task, Task::Inpaint | Task::Uncrop);
        self.config.tasks.iter().find(fills).copied().unwrap_or(Task::Inpaint)
    }

    /// Each picture of a batch damaged by a task of its own.
    fn damaged(&self, images: &Tensor<4>, key: Key, samples: std::ops::Range<u64>) -> Result<Damaged> {
        let ([n, c, h, w], device) = (images.dims(), images.device());
        let tasks = &self.config.tasks;
        let tasks: Vec<Task> = key
            .purpose("task")
            .below(samples.clone(), tasks.len() as u64)
            .into_iter()
            .map(|task| tasks[task as usize])
            .collect();
        let draws = key.purpose("mask").uniform(samples.clone(), DRAWS);
        let qualities = key.purpose("quality").below(samples.clone(), 26);
        let qualities: Vec<u8> = qualities.into_iter().map(|quality| 5 + quality as u8).collect();
        let noise = kiln_nn::tensor::normal(key.purpose("filling"), samples, [n, c, h, w], &device);
        let of = |wanted: Task| -> Tensor<4> {
            let values = tasks.iter().map(|task| if *task == wanted { 1.0 } else { 0.0 }).collect();
            from_values(values, [n, 1, 1, 1], &device)
        };
        let masks = tasks.iter().zip(draws.chunks_exact(DRAWS)).flat_map(|(task, draw)| match task {
            Task::Inpaint | Task::Uncrop => mask(*task, [h, w], draw),
            Task::Colorize | Task::Restore => vec![1.0; h * w],
        });
        let missing: Tensor<4> = from_values(masks.collect(), [n, 1, h, w], &device);
        let parts = Damaged::without(images.clone(), missing.clone(), noise);
        let mut seen = parts.seen * (of(Task::Inpaint) + of(Task::Uncrop));
        if tasks.contains(&Task::Colorize) {
            seen = seen + grey(images.clone()) * of(Task::Colorize);
        }
        if tasks.contains(&Task::Restore) {
            seen = seen + compressed(images, &qualities)? * of(Task::Restore);
        }
        Ok(Damaged { seen, missing })
    }

    /// x₀ at once.
    fn regressed(networks: &Networks, damaged: &Damaged) -> Tensor<4> {
        let (seen, device) = (damaged.seen.clone(), damaged.seen.device());
        let timesteps = Tensor::<1>::zeros([seen.dims()[0]], &device);
        let condition = Condition { images: Some(seen), ..Condition::default() };
        networks.denoiser.forward(damaged.known(), timesteps, &condition)
    }

    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let images = batch.images();
        // Samples are counted over the run, so that a picture is damaged otherwise each time it comes round.
        let damaged = self.damaged(&images, batch.key("damage"), batch.samples())?;
        if self.config.method == Method::Regression {
            let apart = (Self::regressed(networks, &damaged) - images).abs() * damaged.missing;
            return Ok(Loss::new("l1", apart.mean()));
        }
        let condition = Condition { dropout: Some(batch.dropout_key()), ..damaged.condition() };
        let predict = predict(networks);
        Ok(self.training.loss_where(&self.process, &predict, batch, images, &condition, Some(damaged.missing)))
    }

    /// Pictures with what is missing drawn.
    fn mended(
        &self,
        networks: &Networks,
        images: &Tensor<4>,
        damaged: &Damaged,
        request: &Request,
    ) -> Result<Tensor<4>> {
        let settings: SamplerSettings = request.sampler(Self::ID)?;
        let made = match self.config.method {
            Method::Regression => Self::regressed(networks, damaged),
            Method::Diffusion => {
                let plan = self.process.plan(&settings)?;
                let guidance = Guidance::new(damaged.condition(), None, &settings, request)?;
                let xt = request.normal("latent", images.dims());
                self.process.chain(&predict(networks), &guidance, request).sample(xt, &plan)?
            }
        };
        Ok(made.clamp(-1.0, 1.0) * damaged.missing.clone() + images.clone() * rest(&damaged.missing))
    }

    /// Where a task that was given no mask draws.
    fn usual_mask(&self, task: Task) -> Vec<bool> {
        let [_, h, w] = self.shape;
        let middle = |at: usize, side: usize| (side / 4..side - side / 4).contains(&at);
        let is_missing = |(row, column): (usize, usize)| match task {
            Task::Inpaint => middle(row, h) && middle(column, w),
            Task::Uncrop => column >= w / 2,
            Task::Colorize | Task::Restore => true,
        };
        (0..h * w).map(|place| is_missing((place / w, place % w))).collect()
    }

    /// Pictures as a task sees them, drawn anew where the mask, `[1, 1, h, w]`, is 1.
    fn seen_by(&self, task: Task, images: &Tensor<4>, mask: Option<&Tensor<4>>, request: &Request) -> Damaged {
        let ([n, c, h, w], device) = (images.dims(), images.device());
        let usual = || {
            let values = self.usual_mask(task).into_iter().map(|missing| f32::from(u8::from(missing))).collect();
            from_values::<4>(values, [1, 1, h, w], &device)
        };
        let missing = mask.cloned().unwrap_or_else(usual).expand([n, 1, h, w]);
        match task {
            Task::Colorize => Damaged { seen: grey(images.clone()), missing },
            Task::Restore => Damaged { seen: images.clone(), missing },
            Task::Inpaint | Task::Uncrop => {
                Damaged::without(images.clone(), missing, request.normal("filling", [n, c, h, w]))
            }
        }
    }
}

/// `colorize` takes the colours first, if there are any; `inpaint` the middle of a picture and `uncrop` its right half; `restore` takes
/// a picture as it is.
impl Translate<Networks> for Palette {
    fn directions(&self) -> Vec<&'static str> {
        self.config.tasks.iter().map(|task| task.name()).collect()
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        let tasks = &self.config.tasks;
        let asked = request.condition.direction.as_deref().unwrap_or(tasks[0].name());
        let task = tasks.iter().find(|task| task.name() == asked).ok_or_else(|| {
            Error::usage(format!("direction `{asked}`: this run has {}", self.directions().join(", ")))
        })?;
        let damaged = self.seen_by(*task, &images, None, request);
        self.mended(networks, &images, &damaged, request)
    }
}

impl Inpaint<Networks> for Palette {
    fn takes(&self) -> Vec<Input> {
        vec![Input::Mask]
    }

    fn default_mask(&self) -> Vec<bool> {
        self.usual_mask(self.fills())
    }

    fn inpaint(&self, networks: &Networks, images: Tensor<4>, request: &Request) -> Result<Tensor<4>> {
        check_pictures(&images, self.shape)?;
        let damaged = self.seen_by(self.fills(), &images, request.condition.mask.as_ref(), request);
        self.mended(networks, &images, &damaged, request)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_data::{HostBatch, Part};

    use super::*;
    use crate::testing::{Terms, fit, term};

    const TASKS: [Task; 4] = [Task::Colorize, Task::Inpaint, Task::Uncrop, Task::Restore];

    fn config(method: Method, tasks: &[Task]) -> Config {
        Config {
            process: ProcessConfig { timesteps: 50, sampling_steps: 4, ..Config::default().process },
            tasks: tasks.to_vec(),
            method,
            unet: UNetConfig {
                patch: 1,
                base_channels: 8,
                groups: 4,
                channel_multipliers: vec![1],
                attention_levels: vec![],
                ..Config::default().unet
            },
            optimizer: OptimizerConfig::adam(3e-3),
        }
    }

    fn pictures() -> Pictures {
        Pictures::new([3, 16, 16], Vec::new())
    }

    /// Ramps of colours, one a picture.
    fn images(n: usize) -> Vec<f32> {
        let value = |at: usize| {
            let (picture, channel, row, column) = (at / 768, at / 256 % 3, at / 16 % 16, at % 16);
            let along = if picture.is_multiple_of(2) { row } else { column };
            (along as f32 / 8.0 - 1.0) * [0.9, 0.3, -0.6][(channel + picture) % 3]
        };
        (0..n * 768).map(value).collect()
    }

    fn batch(step: u64, device: &Device) -> Batch {
        let part = Part {
            shape: [8, 3, 16, 16],
            values: images(8),
            captions: vec![None; 8],
            indices: (0..8).collect(),
            ..Part::default()
        };
        Batch::new(HostBatch { start: 8 * step, parts: vec![part] }, 10_000, Key::new(0), device)
    }

    #[test]
    fn learns_every_task_at_once_both_ways() {
        for (method, name) in [(Method::Diffusion, "loss"), (Method::Regression, "l1")] {
            let (log, _) = fit(Palette::new(config(method, &TASKS), &pictures()).unwrap(), 1, 120, batch);
            let mean = |part: &[Terms]| part.iter().map(|t| term(t, name)).sum::<f32>() / 20.0;
            let (before, after) = (mean(&log[..20]), mean(&log[100..]));
            assert!(after < 0.6 * before, "{method:?}: {before} {after}");
        }
    }

    /// Each task takes what it should, and leaves the rest.
    #[test]
    fn a_picture_is_damaged_by_its_task() {
        let device = Device::flex();
        let x = from_values::<4>(images(64), [64, 3, 16, 16], &device);
        let apart = |damaged: &Damaged| to_values((damaged.seen.clone() - x.clone()).abs().mean_dims(&[1, 2, 3]));
        for task in TASKS {
            let system = Palette::new(config(Method::Diffusion, &[task]), &pictures()).unwrap();
            let draw = |samples| system.damaged(&x, Key::new(3), samples).unwrap();
            let damaged = draw(0..64);
            assert!(apart(&damaged).iter().all(|apart| *apart > 1e-3), "{task:?}");
            let shares = to_values::<4>(damaged.missing.clone().mean_dims(&[1, 2, 3]));
            let wanted = match task {
                Task::Inpaint => 0.05..0.7,
                Task::Uncrop => 0.4..0.6,
                Task::Colorize | Task::Restore => 1.0..1.1,
            };
            assert!(shares.iter().all(|share| wanted.contains(share)), "{task:?}: {shares:?}");
            // What is not missing stays, and comes to the network as it is.
            let known = damaged.missing.clone() * -1.0 + 1.0;
            assert_eq!(to_values(damaged.known()), to_values(x.clone() * known));
            let back = Damaged::of(&damaged.condition().images.unwrap());
            assert_eq!(to_values(back.missing), to_values(damaged.missing.clone()));
            // Not twice the same, and the same again for the same samples.
            assert_eq!(to_values(draw(0..64).seen), to_values(damaged.seen.clone()));
            if task != Task::Colorize {
                assert_ne!(to_values(draw(64..128).seen), to_values(damaged.seen));
            }
        }
        // Rec. 601: grey of pure green.
        let green = from_values::<4>(vec![0.0, 1.0, 0.0], [1, 3, 1, 1], &device);
        assert!(to_values(grey(green)).iter().all(|v| (v - 0.587).abs() < 1e-6));
    }

    /// The loss looks where something is missing alone.
    #[test]
    fn what_is_known_has_no_loss() {
        let device = Device::flex().autodiff();
        let mut system = Palette::new(config(Method::Diffusion, &[Task::Uncrop]), &pictures()).unwrap();
        let x = from_values::<4>(images(8), [8, 3, 16, 16], &device);
        let (batch, mask) = (batch(0, &device), Tensor::<4>::zeros([8, 1, 16, 16], &device));
        let zero = |xt: Tensor<4>, _: &[Level], _: &Condition| xt.zeros_like();
        let process = system.process.clone();
        let mut of = |mask| {
            let loss = system.training.loss_where(&process, &zero, &batch, x.clone(), &Condition::default(), mask);
            to_values(loss.total)[0]
        };
        let whole = of(None);
        assert_eq!(of(Some(mask.clone())), 0.0);
        assert_eq!(of(Some(mask.ones_like())), whole);
        let half = mask.clone().slice_fill([0..8, 0..1, 0..16, 0..8], 1.0);
        let parts = of(Some(half.clone())) + of(Some(half * -1.0 + 1.0));
        assert!((parts - whole).abs() < 1e-5 * whole, "{parts} {whole}");
    }

    /// A picture is mended alone as among others, also where memory takes a chain in parts; what is known stays.
    #[test]
    fn mends_each_picture_for_itself() {
        let device = Device::flex();
        for method in [Method::Diffusion, Method::Regression] {
            let mut system = Palette::new(config(method, &TASKS), &pictures()).unwrap();
            system.process.max_batch = 2;
            let networks = system.networks(&mut Init::new(&device, 0));
            let networks = kiln_train::params::map_flat(networks, |path, value| {
                let len = value.dims()[0];
                value + kiln_nn::tensor::normal(Key::new(1).purpose(path), 0..1, [1, len], &device).reshape([len]) * 0.1
            });
            let x = from_values::<4>(images(5), [5, 3, 16, 16], &device);
            for name in system.directions() {
                let all = Request::new(0..5, 0, &device).along(name);
                let one = Request::new(3..4, 0, &device).along(name);
                let all = to_values(system.translate(&networks, x.clone(), &all).unwrap());
                let one = to_values(system.translate(&networks, x.clone().narrow(0, 3, 1), &one).unwrap());
                for (a, b) in all[3 * 768..4 * 768].iter().zip(&one) {
                    assert!((a - b).abs() < 1e-4, "{method:?} {name}: {a} {b}");
                }
                let changed = |at: usize| all[at] != images(5)[at];
                match name {
                    "uncrop" => assert!((0..768).all(|at| at % 16 >= 8 || !changed(at))),
                    "inpaint" => assert!(!changed(0) && changed(8 * 16 + 8)),
                    _ => assert!(changed(0)),
                }
            }
            let mut request = Request::new(0..5, 0, &device);
            let covered = Tensor::<4>::zeros([1, 1, 16, 16], &device).slice_fill([0..1, 0..1, 0..4, 0..16], 1.0);
            request.condition.mask = Some(covered);
            let made = to_values(system.inpaint(&networks, x.clone(), &request).unwrap());
            assert!((0..768).all(|at| (made[at] == images(5)[at]) == (at / 16 % 16 >= 4)), "{method:?}");
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        for (set, said) in [
            ((|c| c.tasks = Vec::new()) as fn(&mut Config), "model.tasks"),
            (|c| c.tasks = vec![Task::Restore, Task::Restore], "twice"),
            (|c| c.process.objective = Objective::Bound, "model.objective"),
            (|c| c.unet.channel_multipliers = vec![1; 6], "data.size"),
        ] {
            let mut config = config(Method::Diffusion, &TASKS);
            set(&mut config);
            let error = Palette::new(config, &pictures()).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
        let grey = Pictures::new([1, 16, 16], Vec::new());
        let error = Palette::new(config(Method::Diffusion, &TASKS), &grey).err().unwrap().to_string();
        assert!(error.contains("data.channels=3"), "{error}");
        assert!(Palette::new(config(Method::Diffusion, &TASKS[1..]), &grey).is_ok());
    }
}
