//! Dosovitskiy, Springenberg, Riedmiller & Brox, *Discriminative Unsupervised Feature Learning with Convolutional Neural
//! Networks*, 2014 (Exemplar-CNN): features learned without labels, which Radford 2016 (table 1) compares a discriminator's
//! with.
//!
//! Each of some images is a class of its own, whose members are the image moved, turned, scaled and recoloured at random; a
//! network learns to tell these classes apart, by cross-entropy (equation 1). What is the same under the changes is what its
//! layers come to see.
//!
//! | paper | here |
//! |---|---|
//! | 8,000 seed patches | `exemplars` images, kept in the run |
//! | translation by up to a fifth, scale from 0.7 to 1.4, turns of up to 20°, contrast from ½ to 2, colour | [`changed`] |
//! | 64c5-128c5-512f, pooling, ReLU, dropout of ½ | [`Net`], `channels`, `hidden`, `dropout` |
//! | features: maps of all layers, max-pooled over the four quarters | [`Net::representation`], pooled to 4×4 as Radford has it |
//!
//! `kiln train exemplar --data fashion`, then `kiln evaluate RUN --metrics svm -n 10000`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if};
use kiln_data::DataKind;
use kiln_nn::loss::cross_entropy;
use kiln_nn::resample::{GridOptions, SampleMode, SamplePadding, grid_sample};
use kiln_nn::tensor::{dropout, from_indices, from_values, to_values};
use kiln_nn::{Activation, Conv2d, Conv2dConfig, Init, Linear, LinearConfig, WeightInit, activate};
use kiln_train::request::check_pictures;
use kiln_train::{
    Abilities, Batch, DataConfig, FitData, Loss, OptimizerConfig, Phase, Pictures, Represent, Schedule, System,
    TrainConfig,
};
use serde::{Deserialize, Serialize};

use crate::adversarial::dcgan::adaptive_max_pool;

/// Side of the convolutions.
const KERNEL: usize = 5;
/// The largest shift, as a part of the side; the largest turn, in radians; and factors of size and contrast, in powers of 2.
const SHIFT: f64 = 0.2;
const TURN: f64 = 20.0 / 180.0 * std::f64::consts::PI;
const SCALE: f64 = 0.5;
const CONTRAST: f64 = 1.0;
/// The largest shift of a channel's values.
const COLOR: f64 = 0.2;

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Images that are classes; at most as many as the set has.
    pub exemplars: usize,
    /// Channels of the first convolution; doubled by the second.
    pub channels: usize,
    /// Units of the layer before the classes.
    pub hidden: usize,
    /// Dropout there.
    pub dropout: f64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        let optimizer = OptimizerConfig::adam(1e-3).schedule(Schedule::Cosine);
        Self { exemplars: 2_000, channels: 32, hidden: 512, dropout: 0.5, optimizer }
    }
}

/// The network, and the images that are classes.
#[derive(Module, Debug)]
pub struct Networks {
    /// Images to logits.
    pub net: Net,
    /// `[exemplars, c, h, w]`; not trained.
    pub exemplars: Param<Tensor<4>>,
}

/// Two convolutions with pooling, and two layers.
#[derive(Module, Debug)]
pub struct Net {
    convs: Vec<Conv2d>,
    hidden: Linear,
    logits: Linear,
}

impl Net {
    /// Maps of both convolutions, before they are pooled to half the size.
    fn maps(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps: Vec<Tensor<4>> = Vec::new();
        for conv in &self.convs {
            let x = maps.last().map_or_else(|| images.clone(), |map| halved(map.clone()));
            maps.push(activate(conv.forward(x), Activation::Relu));
        }
        maps
    }

    /// # Shapes
    /// `[n, c, h, w]` → `[n, exemplars]`
    fn forward(&self, images: Tensor<4>, rate: f64, key: kiln_core::random::Key) -> Tensor<2> {
        let last = self.maps(images).pop().map(halved);
        let x = last.map_or_else(|| unreachable!("there are two convolutions"), |x| x.flatten::<2>(1, 3));
        let x = activate(self.hidden.forward(x), Activation::Relu);
        self.logits.forward(dropout(x, rate, Some(key)))
    }

    /// Maps of both convolutions, pooled to 4×4 by their maxima, in a row.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → `[n, 48·channels]`
    pub fn representation(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = self.maps(images).into_iter().map(|x| adaptive_max_pool(x, 4).flatten::<2>(1, 3));
        Tensor::cat(maps.collect(), 1)
    }
}

/// Maxima of 2×2 neighbours; an odd last row or column is left out.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (rows, columns) = (h / 2, w / 2);
    let even = x.narrow(2, 0, 2 * rows).narrow(3, 0, 2 * columns);
    let tall = even.reshape([n * c * rows, 2, 2 * columns]).max_dim(1);
    tall.reshape([n * c * rows * columns, 2]).max_dim(1).reshape([n, c, rows, columns])
}

/// Images moved, turned, scaled and recoloured at random, the border repeated outside.
///
/// # Shapes
/// `[n, c, h, w]` → the same
pub fn changed(images: Tensor<4>, batch: &Batch) -> Tensor<4> {
    let ([n, c, h, w], device) = (images.dims(), images.device());
    let draws = to_values(batch.uniform("changes", [n, 5 + c]));
    let (mut grid, mut contrast, mut color) = (Vec::with_capacity(n * h * w * 2), Vec::new(), Vec::new());
    for draws in draws.chunks(5 + c) {
        let draw = |i: usize| 2.0 * f64::from(draws[i]) - 1.0;
        let (right, down, scale) = (2.0 * SHIFT * draw(0), 2.0 * SHIFT * draw(1), (SCALE * draw(2)).exp2());
        let (sin, cos) = (TURN * draw(3)).sin_cos();
        let (tall, wide) = (h as f64, w as f64);
        for i in 0..h * w {
            // In pixels from the centre, so that a turn keeps right angles.
            let (x, y) = ((i % w) as f64 + 0.5 - wide / 2.0, (i / w) as f64 + 0.5 - tall / 2.0);
            grid.push(((cos * x - sin * y) * scale * 2.0 / wide + right) as f32);
            grid.push(((sin * x + cos * y) * scale * 2.0 / tall + down) as f32);
        }
        contrast.push((CONTRAST * draw(4)).exp2() as f32);
        color.extend((0..c).map(|i| (COLOR * draw(5 + i)) as f32));
    }
    let options = GridOptions { mode: SampleMode::Bilinear, padding: SamplePadding::Border, align_corners: false };
    let moved = grid_sample(images, from_values(grid, [n, h, w, 2], &device), options);
    let mean = moved.clone().mean_dims(&[1, 2, 3]);
    let contrasted = (moved - mean.clone()) * from_values(contrast, [n, 1, 1, 1], &device) + mean;
    (contrasted + from_values(color, [n, c, 1, 1], &device)).clamp(-1.0, 1.0)
}

/// The system.
pub struct Exemplar {
    config: Config,
    shape: [usize; 3],
}

impl System for Exemplar {
    const ID: &'static str = "exemplar";
    const PAPER: &'static str = "Dosovitskiy, Springenberg, Riedmiller & Brox: Discriminative Unsupervised Feature Learning with \
                                 Convolutional Neural Networks, 2014";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig { images: 200_000, preview_every: 0, ..TrainConfig::default() })
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(c.exemplars < 2, "model.exemplars must be at least 2: they are classes");
        refuse_if!([c.channels, c.hidden].contains(&0), "model.channels and model.hidden must be at least 1");
        let [_, height, width] = pictures.shape;
        refuse_if!(height.min(width) < 8, "exemplar needs images of at least 8 pixels a side, not {width} x {height}");
        Ok(Self { shape: pictures.shape, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, [channels, height, width]) = (&self.config, self.shape);
        let conv =
            |i, o| Conv2dConfig { padding: KERNEL / 2, weight: WeightInit::He, ..Conv2dConfig::new(i, o, KERNEL) };
        let convs = vec![conv(channels, c.channels).init(init), conv(c.channels, 2 * c.channels).init(init)];
        let flat = 2 * c.channels * (height / 4) * (width / 4);
        let hidden = LinearConfig { weight: WeightInit::He, ..LinearConfig::new(flat, c.hidden) }.init(init);
        let net = Net { convs, hidden, logits: LinearConfig::new(c.hidden, c.exemplars).init(init) };
        Networks { net, exemplars: init.constant([c.exemplars, channels, height, width], 0.0) }
    }

    /// With the images that are classes.
    fn initialise(&self, fresh: Networks, data: &FitData<'_>) -> Result<Networks> {
        let n = self.config.exemplars;
        let parts = data.some(0, n).map(|part| part.map(|part| part.images)).collect::<Result<Vec<_>>>()?;
        let found = parts.iter().map(|part| part.dims()[0]).sum::<usize>();
        refuse_if!(found < n, "the set has {found} images, and model.exemplars = {n}: set it to {found} or less");
        let images = Tensor::cat(parts, 0);
        Ok(Networks {
            exemplars: fresh.exemplars.map(|old| {
                let images = from_values(to_values(images), old.dims(), &old.device());
                if old.is_require_grad() { images.require_grad() } else { images }
            }),
            ..fresh
        })
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("net", &["net"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { represent: Some(self), ..Abilities::default() }
    }
}

impl Exemplar {
    /// Cross-entropy of the classes of changed images.
    fn loss(&self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        let chosen: Vec<u32> =
            batch.below("exemplars", self.config.exemplars as u64).into_iter().map(|i| i as u32).collect();
        let chosen = from_indices(&chosen, batch.device());
        let images = networks.exemplars.val().detach().select(0, chosen.clone());
        let images = changed(images, batch);
        let key = batch.dropout_key();
        let logits = networks.net.forward(images, self.config.dropout, key);
        let right = logits.clone().argmax(1).reshape([-1]).equal(chosen.clone()).float().mean();
        Ok(Loss::new("cross_entropy", cross_entropy(logits, chosen)).report("accuracy", right))
    }
}

impl Represent<Networks> for Exemplar {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        check_pictures(&images, self.shape)?;
        Ok(networks.net.representation(images))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;

    use super::*;
    use crate::adversarial::testing::{batch, overfit};

    fn system() -> Exemplar {
        let config = Config { exemplars: 6, channels: 4, hidden: 16, dropout: 0.0, ..Config::default() };
        Exemplar::new(config, &Pictures::new([1, 12, 8], Vec::new())).unwrap()
    }

    #[test]
    fn shapes() {
        let (s, device) = (system(), Device::flex());
        let n = s.networks(&mut Init::new(&device, 0));
        let x = kiln_nn::tensor::normal(Key::new(0), 0..3, [3, 1, 12, 8], &device);
        assert_eq!(n.net.forward(x.clone(), 0.0, Key::new(0)).dims(), [3, 6]);
        assert_eq!(s.represent(&n, x).unwrap().dims(), [3, 16 * (4 + 8)]);
        assert!(s.represent(&n, Tensor::zeros([1, 1, 8, 12], &device)).unwrap_err().is_usage());
    }

    #[test]
    fn a_network_learns_its_exemplars() {
        let mut s = system();
        let (before, after) = overfit(&mut s, 0, 1e-2, 60, &batch(8, [1, 12, 8], 0));
        assert!(after < before, "{before} to {after}");
    }

    #[test]
    fn changes_keep_a_flat_image_flat() {
        let b = batch(4, [1, 12, 8], 0);
        let flat = Tensor::<4>::full([4, 1, 12, 8], 0.3, b.device());
        let out = changed(flat, &b);
        for image in to_values(out).chunks(96) {
            assert!(image.iter().all(|v| (v - image[0]).abs() < 1e-5 && (v - 0.3).abs() <= 0.2001));
        }
    }
}
