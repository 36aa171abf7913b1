//! Chen, Chen, Chen, Tsai, Wang & Sun, *No More Discrimination: Cross City Adaptation of Road Scene Segmenters*, 2017.
//!
//! A segmenter that was given the classes of pixels in one city works in another, because its features do not reveal the city: neither
//! as a whole, nor those of each class. Objective (equation 1), with F the features, each grid n a place of their map:
//!
//! L = L_task + λ_G L_global + λ_C L_class
//!
//! * L_task: the cross-entropy of the source's pixels;
//! * L_global (equations 2 and 3): D tells the city by each grid, F takes D's labels inverted, as ADDA does;
//! * L_class (equations 7 and 8): the same by a D_c for each class c, grids weighted by Φ_n^c, the part of their pixels that is of the
//!   class (equations 4 to 6). For the target those are what the segmenter predicts;
//! * the static prior (§3.3): of pixels that another visit to the place shows the same, no prediction is a class that moves.
//!
//! | paper | here |
//! |---|---|
//! | F, a dilated VGG16 | `features`, [`Features`]: a small network of the same kind, a grid for 4 × 4 pixels |
//! | the predictor, upsampled | `scores`, with a second score from maps of half the size (FCN-8s has such) |
//! | D, and D_c for each class | `discriminators`, [`Discriminators`] |
//! | λ_G, λ_C | `global_weight`, `class_weight` |
//! | pseudo-labels of a segmenter that the source has trained | those of the network itself, after `start` of the run |
//! | superpixels matched over years of street views | masks of the target, two values: what stands still |
//! | classes that move | `moving_classes` |
//!
//! `kiln train crosscity --data streets:day,streets:dusk`, with the static prior `--data streets:day,streets:dusk-still --set
//! model.static_prior=true`, and its lower bound with `--set model.global_weight=0 --set model.class_weight=0`.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Int, Tensor};
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::{cross_entropy, softplus};
use kiln_nn::resample::{Interpolation, interpolate};
use kiln_nn::tensor::one_hot;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, GroupNorm, Init};
use kiln_train::{
    Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Schedule, Segment, SizeRule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use super::losses::{domain_accuracy, domains};
use super::networks::check_shape;
use crate::adversarial::players::check_positive;
use crate::translation::two_way::check_weights;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Channels of the first maps; those of a grid are four times as many.
    pub channels: usize,
    /// Channels between a grid and what the discriminators say of it.
    pub discriminator_channels: usize,
    /// λ_G.
    pub global_weight: f64,
    /// λ_C.
    pub class_weight: f64,
    /// The part of the run, from 0 to 1, after which cities are aligned; the source's labels have the time before.
    pub start: f64,
    /// Whether the target's masks say what stands still.
    pub static_prior: bool,
    /// Numbers of the classes that move, which no pixel that stands still has.
    pub moving_classes: Vec<usize>,
    /// The optimiser of the segmenter.
    pub optimizer: OptimizerConfig,
    /// The optimiser of the discriminators.
    pub discriminator_optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            channels: 24,
            discriminator_channels: 64,
            global_weight: 0.1,
            class_weight: 0.1,
            start: 0.3,
            static_prior: false,
            moving_classes: vec![6, 7],
            optimizer: OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine),
            discriminator_optimizer: OptimizerConfig::adam(1e-4).betas(0.5, 0.999),
        }
    }
}

/// Pixels along a side of a grid.
const GRID: usize = 4;

/// Six 3×3 convolutions with group norm and ReLU; the second and the fourth halve the map.
#[derive(Module, Debug)]
pub struct Features {
    convs: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
}

impl Features {
    fn new(channels: usize, k: usize, init: &mut Init) -> Self {
        let widths = [channels, k, 2 * k, 2 * k, 4 * k, 4 * k, 4 * k];
        let conv = |at: usize, init: &mut Init| {
            let stride = if at % 2 == 1 && at < 4 { 2 } else { 1 };
            Conv2dConfig { padding: 1, stride, bias: false, ..Conv2dConfig::new(widths[at], widths[at + 1], 3) }
                .init(init)
        };
        Self {
            convs: (0..6).map(|at| conv(at, init)).collect(),
            norms: widths[1..].iter().map(|&c| GroupNorm::new(groups(c), c, init)).collect(),
        }
    }

    /// Maps of half the size, and the grids.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, 2k, h/2, w/2]`, `[n, 4k, h/4, w/4]`
    pub fn forward(&self, images: Tensor<4>) -> [Tensor<4>; 2] {
        let layer = |x: Tensor<4>, at: usize| self.norms[at].forward(self.convs[at].forward(x), Activation::Relu);
        let half = (0..3).fold(images, layer);
        let grids = (3..6).fold(half.clone(), layer);
        [half, grids]
    }
}

/// Groups of a norm of so many channels: 8, or fewer where they do not divide.
fn groups(channels: usize) -> usize {
    (1..=8).rev().find(|groups| channels.is_multiple_of(*groups)).unwrap_or(1)
}

/// What a pixel shows, by its grid and by the maps of half the size.
#[derive(Module, Debug)]
pub struct Scores {
    of_grids: Conv2d,
    of_half: Conv2d,
}

impl Scores {
    fn new(k: usize, classes: usize, init: &mut Init) -> Self {
        let one = |inputs: usize, init: &mut Init| Conv2dConfig::new(inputs, classes, 1).init(init);
        Self { of_grids: one(4 * k, init), of_half: one(2 * k, init) }
    }

    /// # Shapes
    /// `[n, 2k, h/2, w/2]`, `[n, 4k, h/4, w/4]` → logits `[n, classes, h, w]`
    pub fn forward(&self, half: Tensor<4>, grids: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = half.dims();
        let larger =
            |x: Tensor<4>, size: [usize; 2]| interpolate(x, size, Interpolation::Bilinear { antialias: false });
        let of_half = self.of_half.forward(half) + larger(self.of_grids.forward(grids), [h, w]);
        larger(of_half, [2 * h, 2 * w])
    }
}

/// The logits of "source" of each grid: of the whole, and for each class.
#[derive(Module, Debug)]
pub struct Discriminators {
    global: Vec<Conv2d>,
    by_class: Vec<Conv2d>,
}

impl Discriminators {
    fn new(inputs: usize, width: usize, classes: usize, init: &mut Init) -> Self {
        let one = |i: usize, o: usize, init: &mut Init| Conv2dConfig::new(i, o, 1).init(init);
        let two = |outputs: usize, init: &mut Init| vec![one(inputs, width, init), one(width, outputs, init)];
        Self { global: two(1, init), by_class: two(classes, init) }
    }

    /// # Shapes
    /// `[n, 4k, h, w]` → `[n, 1, h, w]`, `[n, classes, h, w]`
    pub fn forward(&self, grids: &Tensor<4>) -> [Tensor<4>; 2] {
        [&self.global, &self.by_class].map(|layers| {
            let hidden = kiln_nn::activate(layers[0].forward(grids.clone()), Activation::LeakyRelu(0.2));
            layers[1].forward(hidden)
        })
    }
}

/// All networks.
#[derive(Module, Debug)]
pub struct Networks {
    /// F.
    pub features: Features,
    /// The predictor.
    pub scores: Scores,
    /// D and all D_c.
    pub discriminators: Discriminators,
}

impl Networks {
    /// The grids of pictures, and the logits of their pixels.
    fn seen(&self, images: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [half, grids] = self.features.forward(images);
        (grids.clone(), self.scores.forward(half, grids))
    }
}

/// Φ: the part of each grid's pixels that is of each class.
///
/// # Shapes
/// `[n, classes, h, w]`, of each pixel the probability of each class → `[n, classes, h/4, w/4]`
fn shares(of_pixels: Tensor<4>) -> Tensor<4> {
    avg_pool2d(of_pixels, AvgPoolOptions::new([GRID, GRID]).with_stride([GRID, GRID]))
}

/// What D says against a label, a mean over grids; each class's D with the grids weighted by their share of it.
///
/// # Shapes
/// D's logits, Φ `[n, classes, h, w]` → `[1]` each
fn told([global, by_class]: [Tensor<4>; 2], shares: Tensor<4>, source: bool) -> [Tensor<1>; 2] {
    // −log σ(x) = softplus(−x), −log(1 − σ(x)) = softplus(x)
    let against = |logits: Tensor<4>| softplus(if source { -logits } else { logits });
    [against(global).mean(), (against(by_class) * shares).sum_dim(1).mean()]
}

/// The system.
pub struct CrossCity {
    config: Config,
    pictures: Pictures,
}

impl System for CrossCity {
    const ID: &'static str = "crosscity";
    const PAPER: &'static str =
        "Chen et al.: No More Discrimination: Cross City Adaptation of Road Scene Segmenters, 2017";
    const DATA: DataKind = DataKind::MaskedSource;
    type Config = Config;
    type Networks = Networks;

    fn data_kind(config: &Config) -> DataKind {
        if config.static_prior { DataKind::MaskedSourceStill } else { DataKind::MaskedSource }
    }

    fn defaults() -> (DataConfig, TrainConfig) {
        let data =
            DataConfig { set: "streets:day,streets:dusk".into(), size: 64.into(), flip: true, ..DataConfig::default() };
        let train = TrainConfig {
            batch: 16,
            images: 60_000,
            ema_half_life: 0.0,
            checkpoint_every: 10_000,
            preview_every: 10_000,
            preview_count: 8,
            ..TrainConfig::default()
        };
        (data, train)
    }

    fn sizes(_config: &Config) -> SizeRule {
        SizeRule::multiple_of(GRID, Self::ID).at_least(2 * GRID)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        check_positive(&[("channels", config.channels), ("discriminator_channels", config.discriminator_channels)])?;
        check_weights(&[("global_weight", config.global_weight), ("class_weight", config.class_weight)])?;
        refuse_if!(!(0.0..=1.0).contains(&config.start), "model.start must be from 0 to 1");
        let classes = pictures.mask_classes;
        refuse_if!(classes < 2, "crosscity needs a source whose masks have at least two classes");
        let known = |class: &usize| !config.static_prior || *class < classes;
        refuse_if!(
            !config.moving_classes.iter().all(known),
            "model.moving_classes = {:?}: the source's masks have classes 0 to {}",
            config.moving_classes,
            classes - 1
        );
        Self::sizes(&config).check(pictures.shape)?;
        Ok(Self { config, pictures: pictures.clone() })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (k, classes) = (self.config.channels, self.pictures.mask_classes);
        Networks {
            features: Features::new(self.pictures.shape[0], k, init),
            scores: Scores::new(k, classes, init),
            discriminators: Discriminators::new(4 * k, self.config.discriminator_channels, classes, init),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        let Config { optimizer, discriminator_optimizer, .. } = &self.config;
        vec![
            Phase::new("segmenter", &["features", "scores"], optimizer.clone(), |s, n, b| {
                s.segmenter_loss(n, b).map(Some)
            }),
            Phase::new(
                "discriminators",
                &["discriminators"],
                discriminator_optimizer.clone(),
                Self::discriminator_loss,
            ),
        ]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { segment: Some(self), ..Abilities::default() }
    }
}

impl CrossCity {
    /// Whether cities are aligned by now.
    fn aligns(&self, batch: &Batch) -> bool {
        (self.config.global_weight > 0.0 || self.config.class_weight > 0.0) && batch.progress() >= self.config.start
    }

    /// Φ of the source, by its masks.
    fn source_shares(&self, mask: Tensor<3, Int>) -> Tensor<4> {
        shares(one_hot(mask, self.pictures.mask_classes))
    }

    /// Φ of the target, by what is predicted; where a pixel stands still no class that moves.
    fn target_shares(&self, logits: Tensor<4>, still: Option<Tensor<3, Int>>) -> Tensor<4> {
        let p = softmax(logits.detach(), 1);
        let Some(still) = still.filter(|_| self.config.static_prior) else { return shares(p) };
        let [n, h, w] = still.dims();
        let moves = still.equal_elem(0).float().reshape([n, 1, h, w]);
        let of_class = |class: usize| {
            let p = p.clone().narrow(1, class, 1);
            if self.config.moving_classes.contains(&class) { p * moves.clone() } else { p }
        };
        let kept = Tensor::cat((0..self.pictures.mask_classes).map(of_class).collect(), 1);
        let sum = kept.clone().sum_dim(1) + 1e-6;
        shares(kept / sum)
    }

    fn segmenter_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let [source, target] = domains(batch, Self::ID)?;
        let mask = batch.mask()?;
        let (of_source, logits) = networks.seen(source.images.clone());
        let [n, classes, h, w] = logits.dims();
        let by_pixel = logits.permute([0, 2, 3, 1]).reshape([n * h * w, classes]);
        let loss = Loss::new("cross_entropy", cross_entropy(by_pixel, mask.clone().reshape([n * h * w])));
        if !self.aligns(batch) {
            return Ok(loss);
        }
        let (of_target, logits) = networks.seen(target.images.clone());
        let target_shares = self.target_shares(logits, target.mask.clone());
        // The labels of cities are inverted.
        let a = told(networks.discriminators.forward(&of_source), self.source_shares(mask), false);
        let b = told(networks.discriminators.forward(&of_target), target_shares, true);
        let [global, by_class] = both(a, b);
        Ok(loss.plus("global", self.config.global_weight, global).plus("by_class", self.config.class_weight, by_class))
    }

    fn discriminator_loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Option<Loss>> {
        if !self.aligns(batch) {
            return Ok(None);
        }
        let [source, target] = domains(batch, Self::ID)?;
        let (of_source, _) = networks.seen(source.images.clone());
        let (of_target, logits) = networks.seen(target.images.clone());
        let target_shares = self.target_shares(logits, target.mask.clone());
        let [of_source, of_target] =
            [of_source, of_target].map(|grids| networks.discriminators.forward(&grids.detach()));
        // Their logits are of "source".
        let right = domain_accuracy(of_target[0].clone(), of_source[0].clone());
        let a = told(of_source, self.source_shares(batch.mask()?), true);
        let b = told(of_target, target_shares, false);
        let [global, by_class] = both(a, b);
        Ok(Some(Loss::new("d_global", global).plus("d_by_class", 1.0, by_class).report("domain_accuracy", right)))
    }
}

fn both([a, b]: [Tensor<1>; 2], [c, d]: [Tensor<1>; 2]) -> [Tensor<1>; 2] {
    [a + c, b + d]
}

impl Segment<Networks> for CrossCity {
    fn segment(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        check_shape(&images, &self.pictures, Self::ID)?;
        Ok(networks.seen(images).1)
    }

    /// Its truth is in masks alone.
    fn segment_map(&self, images: Tensor<4>, _labels: Tensor<1, Int>) -> Tensor<3, Int> {
        let [n, _, h, w] = images.dims();
        Tensor::zeros([n, h, w], &images.device())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_data::{HostBatch, Part};
    use kiln_nn::tensor::{from_indices, from_values, to_values};

    use super::*;
    use crate::testing::{fit, term};

    fn pictures() -> Pictures {
        Pictures { mask_classes: 3, ..Pictures::new([3, 16, 16], Vec::new()) }
    }

    fn tiny() -> Config {
        Config {
            channels: 4,
            discriminator_channels: 8,
            start: 0.0,
            moving_classes: vec![2],
            optimizer: OptimizerConfig::adam(1e-2),
            discriminator_optimizer: OptimizerConfig::adam(1e-2).betas(0.5, 0.999),
            ..Config::default()
        }
    }

    /// Three stripes, in other colours in the target. Its masks say that the left half stands still.
    fn batch(step: u64, device: &Device) -> Batch {
        let (n, side) = (2, 16);
        let stripe = |at: usize| (at % side * 3 / side) as u8;
        let part = |turn: usize, mask: &dyn Fn(usize) -> u8| Part {
            shape: [n, 3, side, side],
            values: (0..n * 3 * side * side)
                .map(|at| {
                    let channel = at / (side * side) % 3;
                    if (usize::from(stripe(at)) + turn) % 3 == channel { 0.8 } else { -0.4 }
                })
                .collect(),
            masks: Some((0..n * side * side).map(mask).collect()),
            captions: vec![None; n],
            indices: (0..n).collect(),
            ..Part::default()
        };
        let parts = vec![part(0, &stripe), part(1, &|at| u8::from(at % side < side / 2))];
        Batch::new(HostBatch { start: step * n as u64, parts }, 1_000, Key::new(0), device)
    }

    #[test]
    fn fits_one_batch_and_tells_cities_apart() {
        for static_prior in [false, true] {
            let system = CrossCity::new(Config { static_prior, ..tiny() }, &pictures()).unwrap();
            let (log, _) = fit(system, 0, 40, batch);
            let [first, last] = [0, 39].map(|step: usize| term(&log[step], "cross_entropy"));
            assert!(last < 0.3 * first, "{first} -> {last}");
            assert!(log.iter().all(|terms| term(terms, "by_class").is_finite()));
        }
        // Where the segmenter does not learn of cities, D does.
        let config = Config { global_weight: 1e-9, class_weight: 0.0, ..tiny() };
        let (log, _) = fit(CrossCity::new(config, &pictures()).unwrap(), 0, 80, batch);
        let [first, last] = [0, 79].map(|step: usize| term(&log[step], "d_global"));
        assert!(last < 0.6 * first, "{first} -> {last}");
    }

    #[test]
    fn alignment_begins_late_or_never() {
        let terms = |config: Config| fit(CrossCity::new(config, &pictures()).unwrap(), 0, 4, batch).0;
        let late = terms(Config { start: 0.005, ..tiny() });
        assert_eq!(late.iter().map(|terms| terms.len() > 1).collect::<Vec<_>>(), [false, false, false, true]);
        let never = terms(Config { global_weight: 0.0, class_weight: 0.0, ..tiny() });
        assert!(never.iter().all(|terms| terms.len() == 1));
    }

    /// Equations 4 to 6, by hand.
    #[test]
    fn shares_are_those_of_a_grids_pixels() {
        let device = Device::flex();
        let system = |static_prior: bool| CrossCity::new(Config { static_prior, ..tiny() }, &pictures()).unwrap();
        let mut mask = vec![0; 16];
        mask[..3].fill(1);
        mask[3] = 2;
        let mask = from_indices(&mask, &device).reshape([1, 4, 4]);
        assert_eq!(to_values(system(false).source_shares(mask)), [12.0 / 16.0, 3.0 / 16.0, 1.0 / 16.0]);
        // Every pixel is class 0 or 2 with ½ each, and half of the pixels stand still.
        let logits: Tensor<4> =
            from_values([0.0, -100.0, 0.0].iter().flat_map(|v| [*v; 16]).collect(), [1, 3, 4, 4], &device);
        let still = || Some(from_indices(&[[1; 8], [0; 8]].concat(), &device).reshape([1, 4, 4]));
        let found = |static_prior: bool| to_values(system(static_prior).target_shares(logits.clone(), still()));
        for (found, wanted) in [(found(false), [0.5, 0.0, 0.5]), (found(true), [0.75, 0.0, 0.25])] {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        }
    }

    #[test]
    fn bad_settings_are_usage_errors() {
        for (config, pictures) in [
            (Config { channels: 0, ..tiny() }, pictures()),
            (Config { start: -0.1, ..tiny() }, pictures()),
            (Config { class_weight: f64::NAN, ..tiny() }, pictures()),
            (Config { static_prior: true, moving_classes: vec![3], ..tiny() }, pictures()),
            (tiny(), Pictures::new([3, 16, 16], Vec::new())),
            (tiny(), Pictures { shape: [3, 18, 16], ..pictures() }),
        ] {
            assert!(CrossCity::new(config, &pictures).err().unwrap().is_usage());
        }
    }
}
