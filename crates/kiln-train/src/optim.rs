//! Optimisers: Adam, AdamW, SGD and RMSprop as PyTorch defines them. Parameters are identified by path.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_kernels::{AdamStep, adam};
use kiln_nn::tensor::{from_values, to_values};
use serde::{Deserialize, Serialize};

use crate::params::{Flat, HostTensor, State, map_flat};
use crate::schedule::Schedule;

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Adam (Kingma & Ba 2015); `weight_decay` is added to the gradient.
    Adam,
    /// AdamW (Loshchilov & Hutter 2019); `weight_decay` shrinks the parameter directly.
    AdamW,
    /// Stochastic gradient descent, with `momentum` if it is not 0.
    Sgd,
    /// RMSprop (Hinton 2012), with `alpha` = `beta2`.
    RmsProp,
}

/// Settings of an optimiser. Names and defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// Update rule: `adam`, `adamw`, `sgd` or `rmsprop`.
    pub method: Method,
    /// Learning rate, which the schedule multiplies by a factor of 0 to 1.
    pub learning_rate: f64,
    /// Learning-rate schedule: `constant`, `linear`, `linear-second-half`, `cosine` or `inverse-decay`.
    pub schedule: Schedule,
    /// Warm-up: images over which the learning rate rises linearly from 0.
    pub warmup: u64,
    /// Adam's β₁.
    pub beta1: f64,
    /// Adam's β₂; RMSprop's α.
    pub beta2: f64,
    /// SGD's momentum.
    pub momentum: f64,
    /// Use Nesterov momentum (SGD).
    pub nesterov: bool,
    /// ε, added to the denominator (Adam, RMSprop).
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clip the phase's gradients to this global norm; 0 does not clip.
    pub clip_norm: f64,
    /// After each update cut every weight to this absolute value, as the critic of the Wasserstein GAN (Arjovsky 2017, algorithm 1,
    /// 0.01); 0 does not cut.
    pub clip_weights: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::adam(1e-3)
    }
}

impl OptimizerConfig {
    /// Adam with β = (0.9, 0.999).
    pub fn adam(learning_rate: f64) -> Self {
        Self {
            method: Method::Adam,
            learning_rate,
            schedule: Schedule::Constant,
            warmup: 0,
            beta1: 0.9,
            beta2: 0.999,
            momentum: 0.0,
            nesterov: false,
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 0.0,
            clip_weights: 0.0,
        }
    }

    /// Stochastic gradient descent.
    pub fn sgd(learning_rate: f64, momentum: f64) -> Self {
        Self { method: Method::Sgd, momentum, ..Self::adam(learning_rate) }
    }

    /// RMSprop with α = 0.99.
    pub fn rmsprop(learning_rate: f64) -> Self {
        Self { method: Method::RmsProp, beta2: 0.99, ..Self::adam(learning_rate) }
    }

    /// Sets Adam's β₁ and β₂ (GANs use 0.5 and 0.999).
    pub fn betas(self, beta1: f64, beta2: f64) -> Self {
        Self { beta1, beta2, ..self }
    }

    /// Sets the learning-rate schedule.
    pub fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }
}

/// The optimiser state of one parameter.
#[derive(Clone, Default)]
struct Moments {
    /// Updates so far, which are fewer than the optimiser's steps where only some phases reach the parameter.
    steps: u64,
    first: Option<Tensor<1>>,
    second: Option<Tensor<1>>,
}

/// The state of one phase's optimiser.
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// An optimiser with empty state.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, steps: 0, moments: BTreeMap::new() }
    }

    /// The settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Updates the parameters that have a gradient, with `factor` times the learning rate and gradients
    /// multiplied by `scale` ([`clip_scale`]).
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Flat, factor: f64, scale: f64) -> M {
        self.steps += 1;
        map_flat(module, |path, value| match gradients.remove(path) {
            Some(gradient) => self.update(path, value, gradient, factor, scale),
            None => value,
        })
    }

    /// Updates one tensor that is no network's.
    pub fn step_tensor(&mut self, value: Tensor<1>, gradient: Tensor<1>, factor: f64, scale: f64) -> Tensor<1> {
        self.steps += 1;
        self.update("", value, gradient, factor, scale)
    }

    /// One parameter's update.
    fn update(&mut self, path: &str, value: Tensor<1>, gradient: Tensor<1>, factor: f64, scale: f64) -> Tensor<1> {
        let c = &self.config;
        let rate = c.learning_rate * factor;
        let moments = self.moments.remove(path).unwrap_or_default();
        let steps = moments.steps + 1;
        let descend = |value: &Tensor<1>| {
            let gradient = if scale == 1.0 { gradient.clone() } else { gradient.clone() * scale };
            if c.weight_decay == 0.0 { gradient } else { gradient + value.clone() * c.weight_decay }
        };
        let (value, moments) = match c.method {
            Method::Adam | Method::AdamW => {
                let correct = |beta: f64| 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
                let step = AdamStep {
                    scale,
                    decay: if c.method == Method::Adam { c.weight_decay } else { 0.0 },
                    shrink: if c.method == Method::AdamW { 1.0 - rate * c.weight_decay } else { 1.0 },
                    beta1: c.beta1,
                    beta2: c.beta2,
                    rate: rate / correct(c.beta1),
                    correction: correct(c.beta2).sqrt(),
                    eps: c.eps,
                };
                let [m, v] = [moments.first, moments.second].map(|t| t.unwrap_or_else(|| value.zeros_like()));
                let (value, m, v) = adam(value, gradient, m, v, step);
                (value, Moments { steps, first: Some(m), second: Some(v) })
            }
            Method::Sgd if c.momentum == 0.0 => {
                let gradient = descend(&value);
                (value - gradient * rate, Moments { steps, ..moments })
            }
            Method::Sgd => {
                let gradient = descend(&value);
                let buffer = match moments.first {
                    Some(old) => old * c.momentum + gradient.clone(),
                    None => gradient.clone(),
                };
                let step = if c.nesterov { gradient + buffer.clone() * c.momentum } else { buffer.clone() };
                (value - step * rate, Moments { steps, first: Some(buffer), second: None })
            }
            Method::RmsProp => {
                let gradient = descend(&value);
                let v = average(moments.second, gradient.clone().square(), c.beta2);
                let value = value - gradient * rate / (v.clone().sqrt() + c.eps);
                (value, Moments { steps, first: None, second: Some(v) })
            }
        };
        self.moments.insert(path.to_string(), moments);
        if c.clip_weights > 0.0 { value.clamp(-c.clip_weights, c.clip_weights) } else { value }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments under `prefix`, for a checkpoint.
    pub fn state(&self, prefix: &str, into: &mut State) {
        for (path, moments) in &self.moments {
            // Plain gradient descent counts nothing.
            if moments.steps != self.steps && (moments.first.is_some() || moments.second.is_some()) {
                let values = vec![moments.steps as f32];
                into.insert(format!("{prefix}.{path}.step"), HostTensor { shape: vec![1], values });
            }
            for (name, tensor) in [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)] {
                if let Some(tensor) = tensor {
                    let values = to_values(tensor.clone());
                    into.insert(format!("{prefix}.{path}.{name}"), HostTensor { shape: vec![values.len()], values });
                }
            }
        }
    }

    /// Restores what [`Optimizer::state`] returned.
    ///
    /// # Errors
    /// Names a tensor whose name no optimiser writes.
    pub fn load(&mut self, prefix: &str, state: &State, steps: u64, device: &Device) -> Result<()> {
        self.steps = steps;
        self.moments.clear();
        for (name, saved) in state {
            let Some(rest) = name.strip_prefix(prefix).and_then(|n| n.strip_prefix('.')) else { continue };
            let Some((path, kind)) = rest.rsplit_once('.') else {
                return Err(Error::new(format!("optimizer state: `{name}` is not a name Kiln writes")));
            };
            let moments = self.moments.entry(path.to_string()).or_insert(Moments { steps, ..Moments::default() });
            let tensor = || from_values(saved.values.clone(), [saved.values.len()], device);
            match kind {
                "exp_avg" => moments.first = Some(tensor()),
                "exp_avg_sq" => moments.second = Some(tensor()),
                "step" => moments.steps = saved.values.first().map_or(steps, |&count| count as u64),
                _ => return Err(Error::new(format!("optimizer state: `{name}` is not a name Kiln writes"))),
            }
        }
        Ok(())
    }
}

/// β·old + (1 − β)·new, where a missing old value counts as 0.
fn average(old: Option<Tensor<1>>, new: Tensor<1>, beta: f64) -> Tensor<1> {
    match old {
        Some(old) => old * beta + new * (1.0 - beta),
        None => new * (1.0 - beta),
    }
}

/// √ Σ g² over all gradients, summed in f64.
pub fn global_norm(gradients: &Flat) -> f64 {
    gradients.values().map(sum_of_squares).sum::<f64>().sqrt()
}

/// Σ x².
pub(crate) fn sum_of_squares(x: &Tensor<1>) -> f64 {
    f64::from(kiln_kernels::sum_of_squares(x.clone()).into_scalar::<f32>())
}

/// The factor that scales gradients of this global norm to at most `max` (PyTorch's
/// `clip_grad_norm_`); 1 if `max` is 0.
pub fn clip_scale(norm: f64, max: f64) -> f64 {
    if max <= 0.0 { 1.0 } else { (max / (norm + 1e-6)).min(1.0) }
}
