//! What training minimises (Ho 2020, algorithm 1): L_simple, the variational bound, or both.

use std::ops::Range;

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::Condition;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{Batch, Loss, State};

use super::{Predict, Process};
use crate::diffusion::bound;
use crate::diffusion::objective::{LossWeighting, Objective, SecondMoment, TimestepSampling};
use crate::diffusion::sampler::Denoised;
use crate::diffusion::sampler::plan::ends;
use crate::diffusion::schedule::{Level, NoiseLevels, NoiseSchedule};

/// Images with noise added, and what the network said of them.
#[derive(Clone, Debug)]
pub struct Denoising {
    /// x₀.
    pub x0: Tensor<4>,
    /// ε.
    pub noise: Tensor<4>,
    /// xₜ.
    pub xt: Tensor<4>,
    /// α and σ of each.
    pub levels: NoiseLevels,
    /// The timestep of each, where its level is that of a whole one.
    pub timesteps: Vec<usize>,
    /// What the network predicts.
    pub output: Tensor<4>,
    /// What it says of the variance, if it learns one.
    pub variance: Option<Tensor<4>>,
    /// 1 where L_simple looks, `[n, 1, h, w]`; everywhere if `None`.
    pub mask: Option<Tensor<4>>,
}

impl Process {
    /// L_simple of each image, `[n]` (Ho 2020, equation 14):
    ///
    /// ‖ε − ε_θ(√ᾱₜ x₀ + √(1 − ᾱₜ) ε, t)‖²
    ///
    /// the mean over its numbers; 0 where `mask` is 0. A network that predicts x₀ or v in place of ε has that for its target.
    pub fn l_simple(&self, d: &Denoising) -> Tensor<1> {
        let target = self.prediction.target(d.x0.clone(), d.noise.clone(), &d.levels);
        let squares = (d.output.clone() - target).square();
        mean_of_each(match &d.mask {
            Some(mask) => squares * mask.clone(),
            None => squares,
        })
    }

    /// L_vlb of each image, `[n]`, in bits a dimension (Ho 2020, equation 5), estimated by the one term of its timestep:
    ///
    /// T · L_{t−1} = T · KL(q(xₜ₋₁ | xₜ, x₀) ‖ p_θ(xₜ₋₁ | xₜ))
    ///
    /// without L_T, which no network changes.
    pub fn l_vlb(&self, d: &Denoising) -> Tensor<1> {
        let x0 = self.prediction.to_x0(d.output.clone(), d.xt.clone(), &d.levels);
        let denoised = Denoised { x0, variance: d.variance.clone() };
        let nats = bound::term(&self.schedule, self.variance, &d.timesteps, d.x0.clone(), d.xt.clone(), denoised);
        let [_, c, h, w] = d.x0.dims();
        let bits_a_dimension = 1.0 / ((c * h * w) as f64 * std::f64::consts::LN_2);
        nats * (self.schedule.steps() as f64 * bits_a_dimension)
    }

    /// Adds noise to `x0` at its levels and asks the network (algorithm 1, lines 2 to 5).
    pub fn denoising(
        &self,
        predict: &Predict<'_>,
        x0: Tensor<4>,
        noise: Tensor<4>,
        drawn: &Drawn,
        condition: &Condition,
    ) -> Denoising {
        let levels = NoiseLevels::new(&drawn.levels, &x0.device());
        let xt = self.noised(x0.clone(), noise.clone(), &drawn.levels);
        let (output, variance) = self.output(predict, xt.clone(), &drawn.levels, condition);
        Denoising { x0, noise, xt, levels, timesteps: drawn.timesteps.clone(), output, variance, mask: None }
    }
}

/// The levels a batch is trained at.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// One for each image.
    pub levels: Vec<Level>,
    /// Their timesteps, where they are levels of whole timesteps.
    pub timesteps: Vec<usize>,
    /// What each loss is multiplied by, to keep its mean what it is under uniform draws.
    pub importance_weights: Vec<f64>,
}

/// How a process is trained: which levels are drawn, and what is minimised there.
#[derive(Clone, Debug)]
pub struct Training {
    objective: Objective,
    /// λ of L_hybrid = L_simple + λ L_vlb.
    bound_weight: f64,
    weighting: LossWeighting,
    timestep_sampling: TimestepSampling,
    /// Of importance sampling.
    second_moment: Option<SecondMoment>,
    /// The first timestep that is drawn.
    first: usize,
}

impl Training {
    /// On a schedule of `steps` timesteps.
    pub fn new(
        objective: Objective,
        bound_weight: f64,
        weighting: LossWeighting,
        timestep_sampling: TimestepSampling,
        steps: usize,
    ) -> Self {
        let second_moment = (timestep_sampling == TimestepSampling::Importance).then(|| SecondMoment::new(steps));
        Self { objective, bound_weight, weighting, timestep_sampling, second_moment, first: 0 }
    }

    /// L_simple at uniform timesteps from the `first`.
    pub fn simple(first: usize, steps: usize) -> Self {
        let training = Self::new(Objective::Simple, 0.0, LossWeighting::default(), TimestepSampling::Uniform, steps);
        Self { first, ..training }
    }

    /// The loss of a batch whose images (or latents) are `x0`.
    pub fn loss(
        &mut self,
        process: &Process,
        predict: &Predict<'_>,
        batch: &Batch,
        x0: Tensor<4>,
        condition: &Condition,
    ) -> Loss {
        self.loss_where(process, predict, batch, x0, condition, None)
    }

    /// [`Training::loss`], L_simple being of the parts alone where a mask `[n, 1, h, w]` is 1.
    pub fn loss_where(
        &mut self,
        process: &Process,
        predict: &Predict<'_>,
        batch: &Batch,
        x0: Tensor<4>,
        condition: &Condition,
        mask: Option<Tensor<4>>,
    ) -> Loss {
        let drawn = self.draw(&process.schedule, batch.key("t"), batch.samples());
        let noise = batch.normal("noise", x0.dims());
        let d = Denoising { mask, ..process.denoising(predict, x0, noise, &drawn, condition) };
        let simple = process.l_simple(&d);
        let weight = |level: &Level| self.weighting.at(process.prediction, level.ratio().powi(-2));
        let weights: Vec<f64> = drawn.levels.iter().map(weight).collect();
        // What is drawn more often counts less.
        let mean = |each: Tensor<1>| times_each(each, &drawn.importance_weights).mean();
        let (loss, each) = match self.objective {
            Objective::Simple => {
                let each = times_each(simple, &weights);
                (Loss::new("loss", mean(each.clone())), each)
            }
            Objective::Bound => {
                let bound = process.l_vlb(&d);
                (Loss::new("bound_bpd", mean(bound.clone())).report("simple", simple.mean()), bound)
            }
            // L_hybrid (Nichol & Dhariwal 2021, equation 16): the mean learns from L_simple alone (§3.1).
            Objective::Hybrid => {
                let simple = times_each(simple, &weights);
                let bound = process.l_vlb(&Denoising { output: d.output.clone().detach(), ..d });
                let each = simple.clone() + bound.clone() * self.bound_weight;
                (Loss::new("simple", mean(simple)).plus("bound_bpd", self.bound_weight, mean(bound)), each)
            }
        };
        if let Some(second_moment) = &mut self.second_moment {
            second_moment.update(&drawn.timesteps, &to_values(each.inner()));
        }
        loss
    }

    /// Levels of some samples.
    pub fn draw(&self, schedule: &NoiseSchedule, key: Key, samples: Range<u64>) -> Drawn {
        let n = (samples.end - samples.start) as usize;
        if self.timestep_sampling.ratio(0.0).is_some() {
            let [last, first] = ends(schedule).map(Level::ratio);
            let ratios = key.normal(samples, 1).into_iter().filter_map(|z| self.timestep_sampling.ratio(f64::from(z)));
            let levels = ratios.map(|ratio| schedule.at_ratio(ratio.clamp(first, last))).collect();
            return Drawn { levels, timesteps: Vec::new(), importance_weights: vec![1.0; n] };
        }
        let (timesteps, importance_weights) = match &self.second_moment {
            Some(second_moment) => second_moment.draw(key, samples),
            None => {
                let draws = key.below(samples, (schedule.steps() - self.first) as u64);
                (draws.into_iter().map(|t| t as usize + self.first).collect(), vec![1.0; n])
            }
        };
        let levels = timesteps.iter().map(|&t| schedule.level(t)).collect();
        Drawn { levels, timesteps, importance_weights }
    }

    /// What a resumed run needs.
    pub fn state(&self) -> State {
        self.second_moment.iter().map(|s| ("second_moment".to_string(), s.state())).collect()
    }

    /// Takes back what [`Training::state`] gave.
    pub fn restore(&mut self, state: &State) {
        if let (Some(second_moment), Some(saved)) = (&mut self.second_moment, state.get("second_moment")) {
            second_moment.restore(saved);
        }
    }
}

/// The mean over each image, `[n]`.
fn mean_of_each(x: Tensor<4>) -> Tensor<1> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c * h * w]).mean_dim(1).reshape([n])
}

/// Each number times its own.
fn times_each(each: Tensor<1>, by: &[f64]) -> Tensor<1> {
    if by.iter().all(|w| *w == 1.0) {
        return each;
    }
    let device = each.device();
    each * from_values(by.iter().map(|w| *w as f32).collect(), [by.len()], &device)
}
