//! How probable images are: the variational bound, and the exact density under the probability flow.

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_nn::Condition;
use kiln_nn::tensor::{from_values, normal};

use super::{Predict, Process};
use crate::diffusion::bound;
use crate::diffusion::guidance::Guidance;
use crate::diffusion::sampler::Denoised;
use crate::diffusion::sampler::ode::{Flow, Tolerance};
use crate::diffusion::sampler::plan::ends;
use crate::diffusion::schedule::{Level, NoiseLevels};

impl Process {
    /// The bound on −log p(x₀) of each image, `[n]`, in nats (Ho 2020, equation 5), x̂₀ clamped as in sampling. `terms` of
    /// its T, at random timesteps, one in each of as many equal stretches, stand for all; 0 takes them all.
    pub fn nll(
        &self,
        predict: &Predict<'_>,
        images: Tensor<4>,
        condition: &Condition,
        terms: usize,
        key: Key,
    ) -> Tensor<1> {
        let (shape, device) = (images.dims(), images.device());
        let n = shape[0];
        let steps = self.schedule.steps();
        let terms = if terms == 0 { steps } else { terms.min(steps) };
        let mut total = bound::prior(&self.schedule, images.clone());
        for k in 0..terms {
            let place = key.purpose("t").at(k as u64).uniform(0..n as u64, 1);
            let at = |u: f32| ((k as f64 + f64::from(u)) * steps as f64 / terms as f64) as usize;
            let t: Vec<usize> =
                place.into_iter().map(|u| if terms == steps { k } else { at(u).min(steps - 1) }).collect();
            let levels: Vec<Level> = t.iter().map(|&t| self.schedule.level(t)).collect();
            let noise = normal(key.purpose("noise").at(k as u64), 0..n as u64, shape, &device);
            let xt = self.noised(images.clone(), noise, &levels);
            let (output, variance) = self.in_batches(predict, xt.clone(), &levels, condition);
            let at = NoiseLevels::new(&levels, &device);
            let x0 = self.clamped(self.prediction.to_x0(output, xt.clone(), &at));
            let denoised = Denoised { x0, variance };
            let nats = bound::term(&self.schedule, self.variance, &t, images.clone(), xt, denoised);
            total = total + nats * (steps as f64 / terms as f64);
        }
        total
    }

    /// −log p(x₀) of each image of 256 levels, `[n]`, in nats, by the density p of the probability flow (Song 2021b,
    /// §4.3). The flow ends at the first level, α₀ and σ₀, a little above the picture. So the model is of two parts: a
    /// draw x from the flow's density there, then the levels by the decoder p(x₀|x) that L_0 has. With q(x|x₀) =
    /// N(α₀x₀, σ₀²), the forward process, Jensen's inequality is
    ///
    /// −log p(x₀) = −log ∫ p(x) p(x₀|x) dx ≤ E_q[−log p(x) + log q(x|x₀) − log p(x₀|x)]
    ///
    /// estimated by one draw of x. Noise of half a level either way in place of q would lie off what the network was
    /// trained on, where σ₀ is larger, and its density would be far too low.
    ///
    /// # Errors
    /// If the solver cannot go on.
    pub fn exact_nll(
        &self,
        predict: &Predict<'_>,
        images: Tensor<4>,
        condition: &Condition,
        probes: usize,
        key: Key,
    ) -> Result<Tensor<1>> {
        let (shape, device) = (images.dims(), images.device());
        let [n, c, h, w] = shape;
        let [last, first] = ends(&self.schedule);
        let (levels, noise) = (vec![first; n], normal(key.purpose("dequantise"), 0..n as u64, shape, &device));
        let x = self.noised(images.clone(), noise.clone(), &levels);
        let guidance = Guidance::none(condition.clone());
        // L_0, its x̂₀ clamped as in the bound.
        let Denoised { x0, variance } = self.denoise(predict, x.clone(), &levels, &guidance);
        let denoised = Denoised { x0: self.clamped(x0), variance };
        let decoder = bound::term(&self.schedule, self.variance, &vec![0; n], images, x.clone(), denoised);
        // log q(x|x₀).
        let log_q = (noise.square() + (std::f64::consts::TAU * first.sigma.powi(2)).ln()) * -0.5;
        let log_q = log_q.reshape([n, c * h * w]).sum_dim(1).reshape([n]);
        let x0 = |xt: Tensor<4>, levels: &[Level], which: &[usize]| {
            Ok(self.denoise(predict, xt, levels, &guidance.select(which, &device)).x0)
        };
        let at_ratio = |ratio: f64| self.schedule.at_ratio(ratio);
        let tolerance = Tolerance::default();
        let flow = Flow { predict: &x0, at_ratio: &at_ratio, shape: [c, h, w], tolerance, device: device.clone() };
        let log_p = flow.log_likelihood(x, first, last, probes, key)?;
        let log_p = from_values::<1>(log_p.into_iter().map(|v| v as f32).collect(), [n], &device);
        Ok(decoder + log_q - log_p)
    }
}
