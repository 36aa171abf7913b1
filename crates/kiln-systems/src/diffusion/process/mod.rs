//! One diffusion process for every system: how noise is added ([`Process::noised`]), what is trained ([`loss`]), how images
//! are drawn and encoded ([`sampling`]), and how probable they are ([`likelihood`]).
//!
//! It works on tensors `[n, c, h, w]` of any kind, images or latents, and asks its network through [`Predict`] alone; what
//! the network is and what it is conditioned on is a system's business.
//!
//! | paper | here |
//! |---|---|
//! | x₀, ε, xₜ | `x0`, `noise`, `xt` |
//! | √ᾱₜ, √(1 − ᾱₜ); α, σ of other noise | [`Level::signal`], [`Level::sigma`] |
//! | ε_θ(xₜ, t) | `predict`, through [`Process::output`] |
//! | x̂₀ | [`Process::denoise`] |
//! | L_simple, L_vlb | [`Process::l_simple`], [`Process::l_vlb`] |

mod config;
pub mod likelihood;
pub mod loss;
pub mod sampling;

pub use config::ProcessConfig;
pub use loss::Training;

use burn::tensor::Tensor;
use kiln_nn::Condition;

use super::guidance::Guidance;
use super::parameterisation::Prediction;
use super::sampler::Denoised;
use super::sampler::ancestral::Variance;
use super::sampler::plan::Defaults;
use super::schedule::{Level, NoiseLevels, NoiseSchedule};

/// A network: its output for noisy images that are each at a level of their own.
pub type Predict<'a> = dyn Fn(Tensor<4>, &[Level], &Condition) -> Tensor<4> + 'a;

/// Bytes that the activations of one forward pass may take while sampling.
const MEMORY: usize = 1 << 30;

/// How many images a network may be shown at once, each taking about so many bytes.
pub fn max_batch(bytes_an_image: usize) -> usize {
    (MEMORY / bytes_an_image.max(1)).max(1)
}

/// A diffusion process. All its parts are plain data and combine freely.
#[derive(Clone, Debug)]
pub struct Process {
    /// How much noise there is at each timestep.
    pub schedule: NoiseSchedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// σ² of a step back.
    pub variance: Variance,
    /// x̂₀ is clamped to ± this while sampling.
    pub clip: Option<f64>,
    /// The sampler where a request leaves it open.
    pub sampling: Defaults,
    /// Images that the network is shown at once while sampling.
    pub max_batch: usize,
}

impl Process {
    /// xₜ = √ᾱₜ x₀ + √(1 − ᾱₜ) ε (Ho 2020, equation 4).
    pub fn noised(&self, x0: Tensor<4>, noise: Tensor<4>, levels: &[Level]) -> Tensor<4> {
        let device = x0.device();
        NoiseLevels::new(levels, &device).noised(x0, noise)
    }

    /// What the network predicts of `xt` and, if it learned it, the variance. The network is shown xₜ at unit variance.
    pub fn output(
        &self,
        predict: &Predict<'_>,
        xt: Tensor<4>,
        levels: &[Level],
        condition: &Condition,
    ) -> (Tensor<4>, Option<Tensor<4>>) {
        let (channels, device) = (xt.dims()[1], xt.device());
        let shown = self.prediction.input(xt, &NoiseLevels::new(levels, &device));
        let output = predict(shown, levels, condition);
        match self.variance {
            Variance::Learned => (output.clone().narrow(1, 0, channels), Some(output.narrow(1, channels, channels))),
            _ => (output, None),
        }
    }

    /// x̂₀ of `xt`, guided by the network's own unconditional prediction where that is asked for; not clamped.
    pub fn denoise(&self, predict: &Predict<'_>, xt: Tensor<4>, levels: &[Level], guidance: &Guidance) -> Denoised {
        let n = xt.dims()[0];
        let Guidance { condition, unconditional, classifier_free, .. } = guidance;
        let guided = levels.iter().any(|&level| classifier_free.guides(level));
        let (output, variance) = match unconditional.as_ref().filter(|_| guided) {
            None => self.in_batches(predict, xt.clone(), levels, condition),
            Some(unconditional) => match condition.cat(unconditional) {
                Some(both) => {
                    let twice = Tensor::cat(vec![xt.clone(), xt.clone()], 0);
                    let (output, variance) = self.in_batches(predict, twice, &levels.repeat(2), &both);
                    let (with, without) = (output.clone().narrow(0, 0, n), output.narrow(0, n, n));
                    (classifier_free.combine(with, without), variance.map(|v| v.narrow(0, 0, n)))
                }
                None => {
                    let (with, variance) = self.in_batches(predict, xt.clone(), levels, condition);
                    let (without, _) = self.in_batches(predict, xt.clone(), levels, unconditional);
                    (classifier_free.combine(with, without), variance)
                }
            },
        };
        let at = NoiseLevels::new(levels, &xt.device());
        Denoised { x0: self.prediction.to_x0(output, xt, &at), variance }
    }

    /// [`Process::output`] of as many at once as memory has room for.
    fn in_batches(
        &self,
        predict: &Predict<'_>,
        xt: Tensor<4>,
        levels: &[Level],
        condition: &Condition,
    ) -> (Tensor<4>, Option<Tensor<4>>) {
        let n = xt.dims()[0];
        if n <= self.max_batch {
            return self.output(predict, xt, levels, condition);
        }
        let half = n / 2;
        let [(first, v1), (second, v2)] = [(0, half), (half, n - half)].map(|(from, len)| {
            let (xt, condition) = (xt.clone().narrow(0, from, len), condition.narrow(from, len));
            self.in_batches(predict, xt, &levels[from..from + len], &condition)
        });
        let cat = |a, b| Tensor::cat(vec![a, b], 0);
        (cat(first, second), v1.zip(v2).map(|(a, b)| cat(a, b)))
    }

    /// x̂₀ as sampling has it clamped.
    pub fn clamped(&self, x0: Tensor<4>) -> Tensor<4> {
        match self.clip {
            Some(most) => x0.clamp(-most, most),
            None => x0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_nn::tensor::{from_indices, normal, to_values};

    use super::*;
    use crate::diffusion::guidance::ClassifierFree;

    /// A network that adds its class and its context's mean to half of what it sees. Guidance by both in one pass, by two
    /// passes (texts of different lengths) and by passes of one image each is without + w (with − without).
    #[test]
    fn guidance_is_the_same_in_one_pass_and_in_several() {
        let device = Device::flex();
        let config = ProcessConfig { prediction: Prediction::Sample, timesteps: 50, ..ProcessConfig::default() };
        let predict = |x: Tensor<4>, _: &[Level], c: &Condition| {
            let n = x.dims()[0];
            let sum = c.class.clone().unwrap().float().reshape([n]);
            let sum = match &c.context {
                Some(context) => sum + context.clone().mean_dim(1).reshape([n]),
                None => sum,
            };
            x * 0.5 + sum.reshape([n, 1, 1, 1])
        };
        let xt = normal(Key::new(1), 0..3, [3, 2, 2, 5], &device);
        let with = normal(Key::new(2), 0..3, [3, 1, 1], &device);
        let without = normal(Key::new(3), 0..3, [3, 1, 1], &device);
        let condition = |class: u32, context: Option<Tensor<3>>| Condition {
            class: Some(from_indices(&[class; 3], &device)),
            context,
            ..Condition::default()
        };
        let repeated = |context: &Tensor<3>, tokens: usize| Some(context.clone().repeat_dim(1, tokens));
        for (unconditional, away) in [
            (condition(2, repeated(&without, 4)), without.clone()),
            (condition(2, repeated(&without, 7)), without.clone()),
            (condition(2, None), without.zeros_like()),
        ] {
            let guidance = Guidance {
                unconditional: Some(unconditional),
                classifier_free: ClassifierFree::new(Some(3.0), None, None).unwrap(),
                ..Guidance::none(condition(1, repeated(&with, 4)))
            };
            let expected = (away.clone() + 2.0) + (with.clone() - away - 1.0) * 3.0;
            let expected = to_values(xt.clone() * 0.5 + expected.reshape([3, 1, 1, 1]));
            for max_batch in [64, 2, 1] {
                let process = config.process(max_batch).unwrap();
                let levels = [process.schedule.level(9); 3];
                let x0 = to_values(process.denoise(&predict, xt.clone(), &levels, &guidance).x0);
                assert!(x0.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{max_batch}");
            }
        }
    }
}
