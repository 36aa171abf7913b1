//! What every U-Net of denoising diffusion shares, whatever its layers are called in a file: the way through the U, and
//! the residual block.
//!
//! A checkpoint knows a parameter by the names of the fields that lead to it, and Kiln's networks and those of diffusers
//! have different ones. So each keeps structs of its own for the names, and both compute by this file.

use burn::tensor::Tensor;
use burn::tensor::activation::mish;
use kiln_core::random::Key;

use crate::condition::Condition;
use crate::resample::{avg_pool2d, upsample_nearest};
use crate::tensor::dropout;
use crate::{Activation, Conv2d, GroupNorm, Linear, activate, add_activate, concat};

/// What every block is shown besides its features.
pub struct Shown {
    /// The embedding of time and class, activated: `[n, features]`.
    pub time: Tensor<2>,
    /// What cross-attention looks at, `[n, tokens, features]`; none in a network without.
    pub context: Option<Tensor<3>>,
}

/// Gives each block the key of its dropout mask.
pub struct DropoutSites {
    key: Option<Key>,
    count: u64,
}

impl DropoutSites {
    /// Of a pass; without a key no block drops anything.
    pub fn new(key: Option<Key>) -> Self {
        Self { key, count: 0 }
    }

    /// The next block's.
    pub fn next_key(&mut self) -> Option<Key> {
        self.count += 1;
        self.key.map(|key| key.purpose("dropout").at(self.count))
    }
}

/// A step of the way down or up.
pub trait Step {
    /// Whether it takes a skip on the way up: all do but those to a larger size.
    fn takes_skip(&self) -> bool;

    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, h′, w′]`
    fn forward(&self, x: Tensor<4>, shown: &Shown, dropout: Option<Key>) -> Tensor<4>;
}

/// The U (Ronneberger 2015): the output of the first convolution and of each step down is kept, and each step up takes the
/// last one left, beside what comes from below. A control network's residuals are added to what is kept and to the
/// middle's output (Zhang 2023, equation 9).
pub fn through<S: Step>(
    x: Tensor<4>,
    down: impl IntoIterator<Item = S>,
    middle: impl FnOnce(Tensor<4>, &mut DropoutSites) -> Tensor<4>,
    up: impl IntoIterator<Item = S>,
    shown: &Shown,
    condition: &Condition,
) -> Tensor<4> {
    let mut sites = DropoutSites::new(condition.dropout);
    let mut h = x;
    let mut skips = vec![h.clone()];
    for step in down {
        h = step.forward(h, shown, sites.next_key());
        skips.push(h.clone());
    }
    h = middle(h, &mut sites);
    let mut residuals = condition.residuals.iter().cloned();
    for (skip, residual) in skips.iter_mut().zip(&mut residuals) {
        *skip = skip.clone() + residual;
    }
    if let Some(residual) = residuals.next() {
        h = h + residual;
    }
    for step in up {
        if step.takes_skip()
            && let Some(skip) = skips.pop()
        {
            h = concat(h, skip);
        }
        h = step.forward(h, shown, sites.next_key());
    }
    h
}

/// What a residual block does to the size of its features, after the first normalisation and beside the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Nothing.
    Keep,
    /// Means of 2×2.
    Halve,
    /// Repetition.
    Double,
}

impl Resample {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Keep => x,
            Self::Halve => avg_pool2d(x, 2, 2, 0),
            Self::Double => upsample_nearest(x, 2),
        }
    }
}

/// The activation of blocks: one that is fused into the normalisation before it, or one that is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// Fused.
    Fused(Activation),
    /// x · tanh(softplus(x)) (Misra 2019).
    Mish,
}

impl Nonlinearity {
    /// The activation alone.
    pub fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Fused(activation) => activate(x, activation),
            Self::Mish => mish(x),
        }
    }

    /// What remains to be done after a normalisation was given the fused part.
    fn rest(self, x: Tensor<4>) -> Tensor<4> {
        if self == Self::Mish { mish(x) } else { x }
    }

    fn fused(self) -> Activation {
        match self {
            Self::Fused(activation) => activation,
            Self::Mish => Activation::None,
        }
    }

    /// Normalisation, then the activation.
    pub fn after(self, norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
        self.rest(norm.forward(x, self.fused()))
    }
}

/// The layers of a residual block and its options.
pub struct Residual<'a> {
    /// Of the input.
    pub norm1: &'a GroupNorm,
    /// To the output's channels.
    pub conv1: &'a Conv2d,
    /// From the embedding to a shift of each channel, or to a scale and a shift.
    pub time: &'a Linear,
    /// Before the second convolution.
    pub norm2: &'a GroupNorm,
    /// Of the output's channels.
    pub conv2: &'a Conv2d,
    /// Beside the block, where it changes the number of channels.
    pub skip: Option<&'a Conv2d>,
    /// Of both normalisations.
    pub activation: Nonlinearity,
    /// A change of size.
    pub resample: Resample,
    /// The embedding scales and shifts the second normalisation, AdaGN (Dhariwal & Nichol 2021, equation 4); else it is
    /// added before it (Ho 2020).
    pub scale_shift: bool,
    /// Dropout before the second convolution.
    pub dropout: f64,
    /// What the sum of block and input is multiplied by.
    pub scale: f64,
}

impl Residual<'_> {
    /// Norm–activation–conv, the time, norm–activation–dropout–conv, and the sum with the input.
    ///
    /// # Shapes
    /// `[n, in, h, w]` and the activated embedding `[n, features]` → `[n, out, h′, w′]`
    pub fn forward(&self, x: Tensor<4>, time: &Tensor<2>, key: Option<Key>) -> Tensor<4> {
        let h = self.resample.apply(self.activation.after(self.norm1, x.clone()));
        let x = self.resample.apply(x);
        let h = self.conv1.forward(h);
        let t = self.time.forward(time.clone());
        let [n, c] = t.dims();
        let h = if self.scale_shift {
            let (scale, shift) = (t.clone().narrow(1, 0, c / 2), t.narrow(1, c / 2, c / 2));
            self.activation.rest(self.norm2.forward_adaptive(h, scale, shift, self.activation.fused()))
        } else {
            self.activation.after(self.norm2, h + t.reshape([n, c, 1, 1]))
        };
        let h = self.conv2.forward(dropout(h, self.dropout, key));
        let x = match self.skip {
            Some(conv) => conv.forward(x),
            None => x,
        };
        let sum = add_activate(h, x, Activation::None);
        if self.scale == 1.0 { sum } else { sum * self.scale }
    }
}
