//! What a denoising network is conditioned on besides the noisy image and its time.

use burn::tensor::{Int, Tensor};
use kiln_core::random::Key;

/// The conditions of a batch. A network ignores what it has no layers for.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// The class of each image, `[n]`.
    pub class: Option<Tensor<1, Int>>,
    /// Sequences that cross-attention looks at, such as a text's: `[n, tokens, features]`. `None` is the same as zeros,
    /// of any number of tokens.
    pub context: Option<Tensor<3>>,
    /// Images that are shown beside the noisy one, as further channels: `[n, channels, h, w]`.
    pub images: Option<Tensor<4>>,
    /// What a control network adds to the skips, one for each in their order, and last to the middle's output
    /// (Zhang 2023, equation 9); empty for none.
    pub residuals: Vec<Tensor<4>>,
    /// Key of the dropout masks; `None` outside training.
    pub dropout: Option<Key>,
}

impl Condition {
    /// The conditions of images `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            class: self.class.clone().map(|x| x.narrow(0, start, len)),
            context: self.context.clone().map(|x| x.narrow(0, start, len)),
            images: self.images.clone().map(|x| x.narrow(0, start, len)),
            residuals: self.residuals.iter().map(|x| x.clone().narrow(0, start, len)).collect(),
            dropout: self.dropout,
        }
    }

    /// The conditions of images of the given places, in their order.
    pub fn select(&self, places: Tensor<1, Int>) -> Self {
        Self {
            class: self.class.clone().map(|x| x.select(0, places.clone())),
            context: self.context.clone().map(|x| x.select(0, places.clone())),
            images: self.images.clone().map(|x| x.select(0, places.clone())),
            residuals: self.residuals.iter().map(|x| x.clone().select(0, places.clone())).collect(),
            dropout: self.dropout,
        }
    }

    /// The conditions of two batches as those of one, or `None` where one pass cannot serve both: only one of them has
    /// a condition, or their sequences differ in length.
    pub fn cat(&self, other: &Self) -> Option<Self> {
        let context = match (&self.context, &other.context) {
            (None, None) => None,
            (Some(a), None) => Some([a.clone(), a.zeros_like()]),
            (None, Some(b)) => Some([b.zeros_like(), b.clone()]),
            (Some(a), Some(b)) if a.dims()[1..] == b.dims()[1..] => Some([a.clone(), b.clone()]),
            (Some(_), Some(_)) => return None,
        };
        if self.class.is_some() != other.class.is_some()
            || self.images.is_some() != other.images.is_some()
            || self.residuals.len() != other.residuals.len()
        {
            return None;
        }
        let both = |pair: (&Tensor<4>, &Tensor<4>)| Tensor::cat(vec![pair.0.clone(), pair.1.clone()], 0);
        Some(Self {
            class: self.class.clone().zip(other.class.clone()).map(|(a, b)| Tensor::cat(vec![a, b], 0)),
            context: context.map(|pair| Tensor::cat(pair.to_vec(), 0)),
            images: self.images.as_ref().zip(other.images.as_ref()).map(both),
            residuals: self.residuals.iter().zip(&other.residuals).map(both).collect(),
            dropout: self.dropout,
        })
    }

    /// The noisy images with those of the condition as further channels.
    pub fn beside(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.images {
            Some(images) => Tensor::cat(vec![x, images.clone()], 1),
            None => x,
        }
    }

    /// The context for a network that looks at so many features, of the images `x`. Keys and values of cross-attention
    /// have no bias, so that zeros answer zero however many there are: one token will do where none is given.
    pub fn context_of(&self, features: usize, x: &Tensor<4>) -> Option<Tensor<3>> {
        if features == 0 {
            return None;
        }
        Some(self.context.clone().unwrap_or_else(|| Tensor::zeros([x.dims()[0], 1, features], &x.device())))
    }
}
