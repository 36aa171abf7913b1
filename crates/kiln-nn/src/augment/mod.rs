//! Random changes of what a discriminator sees, which let a GAN train on few pictures: they are differentiable, so the
//! generator is taught through them.
//!
//! | pipeline | paper |
//! |---|---|
//! | [`DiffAugment`](diffaugment::DiffAugment) | Zhao 2020, *Differentiable Augmentation for Data-Efficient GAN Training* |
//! | [`Ada`](ada::Ada) | Karras 2020a, *Training Generative Adversarial Networks with Limited Data*, appendix B |
//!
//! Every operation is affine in the picture once its random numbers are drawn, so that it goes through a [`Signal`], and
//! gradient penalties see the picture before it.

pub mod ada;
pub mod diffaugment;

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::dual::Signal;
use crate::tensor::from_values;

/// What is done to pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// Zhao 2020: every operation on every picture.
    DiffAugment(diffaugment::DiffAugment),
    /// Karras 2020a: each operation with probability p.
    Ada(ada::Ada),
}

/// A pipeline with the random numbers of a batch.
#[derive(Clone, Debug)]
pub struct Augmentation {
    pipeline: Option<Pipeline>,
    p: f64,
    draws: Draws,
}

impl Augmentation {
    /// Leaves pictures as they are.
    pub fn none() -> Self {
        Self { pipeline: None, p: 0.0, draws: Draws { source: Source::Keyed(Key::new(0)), first: 0 } }
    }

    /// With the draws of samples `first`, `first + 1`, … of `key`. `p` is ADA's probability; DiffAugment has none.
    pub fn new(pipeline: Pipeline, p: f64, key: Key, first: u64) -> Self {
        Self { pipeline: Some(pipeline), p, draws: Draws { source: Source::Keyed(key), first } }
    }

    /// With the same number in place of all draws that are uniform in [0, 1), and another for those that are normal: what
    /// a reference can be asked for too.
    pub fn fixed(pipeline: Pipeline, uniform: f64, normal: f64) -> Self {
        Self { pipeline: Some(pipeline), p: 1.0, draws: Draws { source: Source::Fixed { uniform, normal }, first: 0 } }
    }

    /// Whether it changes anything.
    pub fn is_none(&self) -> bool {
        self.pipeline.is_none()
    }

    /// The pictures, changed. The same call gives the same pictures.
    ///
    /// # Shapes
    /// `[n, c, h, w]` in [−1, 1] → the same, in any range
    pub fn apply<X: Signal<4>>(&self, x: X) -> X {
        match self.pipeline {
            None => x,
            Some(Pipeline::DiffAugment(pipeline)) => pipeline.apply(x, &self.draws),
            Some(Pipeline::Ada(pipeline)) => pipeline.apply(x, self.p, &self.draws),
        }
    }
}

/// Where random numbers come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Keyed(Key),
    Fixed { uniform: f64, normal: f64 },
}

/// The random numbers of each sample of a batch, by what they are for.
#[derive(Clone, Copy, Debug)]
struct Draws {
    source: Source,
    first: u64,
}

impl Draws {
    fn samples(&self, n: usize) -> Range<u64> {
        self.first..self.first + n as u64
    }

    /// `len` numbers from U(0, 1) for each of `n` samples.
    fn uniform(&self, purpose: &str, n: usize, len: usize) -> Vec<f64> {
        match self.source {
            Source::Keyed(key) => widened(key.purpose(purpose).uniform(self.samples(n), len)),
            Source::Fixed { uniform, .. } => vec![uniform; n * len],
        }
    }

    /// `len` numbers from N(0, 1), likewise.
    fn normal(&self, purpose: &str, n: usize, len: usize) -> Vec<f64> {
        match self.source {
            Source::Keyed(key) => widened(key.purpose(purpose).normal(self.samples(n), len)),
            Source::Fixed { normal, .. } => vec![normal; n * len],
        }
    }

    /// Whether something of probability `p` happens to each of `n` samples.
    fn happens(&self, purpose: &str, n: usize, p: f64) -> Vec<bool> {
        match self.source {
            Source::Keyed(key) => {
                let draws = key.purpose(purpose).purpose("happens").uniform(self.samples(n), 1);
                draws.into_iter().map(|u| f64::from(u) < p).collect()
            }
            Source::Fixed { .. } => vec![true; n],
        }
    }

    /// Whether the numbers are given, and not drawn.
    fn is_fixed(&self) -> bool {
        matches!(self.source, Source::Fixed { .. })
    }
}

fn widened(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

/// `[n, a, b, c]` of host values.
fn host(values: impl IntoIterator<Item = f64>, shape: [usize; 4], device: &Device) -> Tensor<4> {
    from_values(values.into_iter().map(|v| v as f32).collect(), shape, device)
}

/// Reads a list of names, such as `color,cutout`, each of which switches something on.
fn switches<const N: usize>(list: &str, names: [&str; N]) -> Result<[bool; N]> {
    let mut on = [false; N];
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match names.iter().position(|known| *known == name) {
            Some(at) => on[at] = true,
            None => {
                let known = names.join(", ");
                return Err(Error::usage(format!("train.augment_policy: there is no `{name}` here; known: {known}")));
            }
        }
    }
    Ok(on)
}
