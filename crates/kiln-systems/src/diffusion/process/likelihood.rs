//! How probable images are: the variational bound, and the exact density under the probability flow.

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_nn::Condition;
use kiln_nn::tensor::{from_values, normal, uniform};

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

    /// −log p of each image, `[n]`, in nats, its 256 levels each spread evenly over the half level below and above it
    /// (Song 2021b, §4.3): the intervals of L_0, but for the outermost two, which reach to infinity there.
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
        let within = uniform(key.purpose("dequantise"), 0..n as u64, shape, &device);
        let x = images + (within - 0.5) / 127.5;
        let [last, first] = ends(&self.schedule);
        let guidance = Guidance::none(condition.clone());
        let x0 = |xt: Tensor<4>, levels: &[Level], which: &[usize]| {
            Ok(self.denoise(predict, xt, levels, &guidance.select(which, &device)).x0)
        };
        let at_ratio = |ratio: f64| self.schedule.at_ratio(ratio);
        let tolerance = Tolerance::default();
        let flow = Flow { predict: &x0, at_ratio: &at_ratio, shape: [c, h, w], tolerance, device: device.clone() };
        let nats = flow.log_likelihood(x, first, last, probes, key)?;
        let d = (c * h * w) as f64;
        let nats = nats.into_iter().map(|log| (d * 127.5f64.ln() - log) as f32).collect();
        Ok(from_values(nats, [n], &device))
    }
}
