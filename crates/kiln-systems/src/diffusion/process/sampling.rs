//! Images from noise and noise from images: the chain of a sampler, guided, split by memory and watched.

use std::cell::{Cell, RefCell};

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_nn::tensor::normal;
use kiln_train::{ChainWatch, Request};

use super::{Predict, Process};
use crate::diffusion::guidance::{Guidance, steer};
use crate::diffusion::sampler::ancestral::ddim_invert;
use crate::diffusion::sampler::ode::{Flow, Tolerance};
use crate::diffusion::sampler::plan::{Method, Plan};
use crate::diffusion::sampler::settings::SamplerSettings;
use crate::diffusion::sampler::{Denoised, Denoiser, Noise, finite, is_finite};
use crate::diffusion::schedule::Level;

/// The steps of a sampler, from noise to a sample.
pub type Steps<'a> = dyn Fn(Tensor<4>, &Denoiser<'_>, &Noise<'_>) -> Result<Tensor<4>> + 'a;

/// A process at work for a request.
#[derive(Clone, Copy)]
pub struct Chain<'a> {
    /// The process.
    pub process: &'a Process,
    /// Its network.
    pub predict: &'a Predict<'a>,
    /// What the samples are conditioned on and steered by.
    pub guidance: &'a Guidance,
    /// Which samples; what else guides and watches them.
    pub request: &'a Request,
}

/// The noise a request's chain begins with: its own, or keyed noise.
///
/// # Errors
/// If its own has another shape.
pub fn initial_noise(request: &Request, shape: [usize; 4]) -> Result<Tensor<4>> {
    let noise = request.noise.clone().unwrap_or_else(|| request.normal("latent", shape));
    if noise.dims() == shape {
        return Ok(noise);
    }
    Err(Error::usage(format!("--noise: expected shape {shape:?}, got {:?}", noise.dims())))
}

impl Process {
    /// A sampler and its levels as `settings` ask for them.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn plan(&self, settings: &SamplerSettings) -> Result<Plan> {
        Plan::new(&self.schedule, self.variance, settings, &self.sampling)
    }

    /// DDIM's levels with η = 0, which encode and decode.
    ///
    /// # Errors
    /// As [`Process::plan`].
    pub fn implicit_plan(&self) -> Result<Plan> {
        self.plan(&SamplerSettings { sampler: Some("ddim".into()), eta: Some(0.0), ..SamplerSettings::default() })
    }

    /// A chain of this process.
    pub fn chain<'a>(&'a self, predict: &'a Predict<'a>, guidance: &'a Guidance, request: &'a Request) -> Chain<'a> {
        Chain { process: self, predict, guidance, request }
    }
}

impl Chain<'_> {
    /// Samples of a plan from standard normal `xt`. They are not brought into [−1, 1].
    ///
    /// # Errors
    /// If the chain leaves the finite numbers, or a guide fails.
    pub fn sample(&self, xt: Tensor<4>, plan: &Plan) -> Result<Tensor<4>> {
        let deviation = plan.deviation(self.process.schedule.options().sde);
        let xt = if deviation == 1.0 { xt } else { xt * deviation };
        match plan.method {
            Method::Ode(tolerance) => self.flow_down(xt, plan, tolerance),
            _ => self.walk(xt, plan.evaluations(), &|xt, denoise, noise| plan.run(xt, denoise, noise)),
        }
    }

    /// The same by the steps of a sampler that asks the network about `evaluations` times.
    ///
    /// # Errors
    /// As [`Chain::sample`].
    pub fn walk(&self, xt: Tensor<4>, evaluations: Option<usize>, steps: &Steps<'_>) -> Result<Tensor<4>> {
        let Request { guides, key, indices, .. } = self.request;
        // A guide's gradient keeps what a plain pass lets go of.
        let most = if guides.is_empty() { usize::MAX } else { (self.process.max_batch / 8).max(1) };
        let (shape, device) = (xt.dims(), xt.device());
        if shape[0] > most {
            return self.halves(xt, &|half, xt| half.walk(xt, evaluations, steps));
        }
        let noise = |draw: u64| normal(key.purpose("chain").at(draw), indices.clone(), shape, &device);
        finite(steps(xt, &self.denoiser(evaluations), &noise)?)
    }

    /// Down the probability flow by the adaptive solver (Song 2021b, §4.3).
    fn flow_down(&self, xt: Tensor<4>, plan: &Plan, tolerance: Tolerance) -> Result<Tensor<4>> {
        let Self { process, predict, guidance, request } = *self;
        // On the flow each image is at a level of its own; what guides it asks for one level.
        let alone = guidance.unconditional.is_some() || !request.guides.is_empty();
        if alone && xt.dims()[0] > 1 {
            return self.halves(xt, &|half, xt| half.flow_down(xt, plan, tolerance));
        }
        let denoise = self.denoiser(None);
        let ([_, c, h, w], device) = (xt.dims(), xt.device());
        let x0 = |xt: Tensor<4>, levels: &[Level], which: &[usize]| match alone {
            true => Ok(denoise(xt, levels[0])?.x0),
            false => Ok(process.clamped(process.denoise(predict, xt, levels, &guidance.select(which, &device)).x0)),
        };
        let at_ratio = |ratio: f64| process.schedule.at_ratio(ratio);
        let flow = Flow { predict: &x0, at_ratio: &at_ratio, shape: [c, h, w], tolerance, device: device.clone() };
        finite(flow.sample(xt, plan.levels[0], plan.levels[1])?.0)
    }

    /// The noise of deviation 1 that a plan of DDIM decodes to `images` (Song 2021a, §4.3).
    ///
    /// # Errors
    /// As [`Chain::sample`].
    pub fn invert(&self, images: Tensor<4>, plan: &Plan) -> Result<Tensor<4>> {
        let deviation = plan.deviation(self.process.schedule.options().sde);
        Ok(ddim_invert(images, &plan.levels, &self.denoiser(None))? / deviation)
    }

    /// x̂₀ as samplers ask for it: guided, clamped, and shown to whoever watches the chain.
    fn denoiser(&self, evaluations: Option<usize>) -> impl Fn(Tensor<4>, Level) -> Result<Denoised> + '_ {
        let count = Cell::new(0);
        move |xt, level| {
            let Denoised { x0, variance } = self.guided(xt, level)?;
            let x0 = self.process.clamped(x0);
            if let Some(ChainWatch(watch)) = &self.request.watch {
                watch(count.get(), evaluations, &x0);
                count.set(count.get() + 1);
            }
            Ok(Denoised { x0, variance })
        }
    }

    /// x̂₀ at one level, guided by the network itself and by the request's guides.
    fn guided(&self, xt: Tensor<4>, level: Level) -> Result<Denoised> {
        let Self { process, predict, guidance, request } = *self;
        let levels = vec![level; xt.dims()[0]];
        let denoised = if request.guides.is_empty() {
            process.denoise(predict, xt, &levels, guidance)
        } else {
            let variance = RefCell::new(None);
            let x0 = |xt: Tensor<4>| {
                let denoised = process.denoise(predict, xt, &levels, guidance);
                *variance.borrow_mut() = denoised.variance.map(Tensor::inner);
                Ok(denoised.x0)
            };
            let x0 = steer(&x0, xt, level, request, guidance.backward)?;
            Denoised { x0, variance: variance.into_inner() }
        };
        if !is_finite(&denoised.x0) {
            return Err(Error::new(format!(
                "sampling gave a value that is not finite at t = {}; lower --guidance-scale or --classifier-scale, take more \
                 --steps, or train with model.prediction = \"v\"",
                level.t
            )));
        }
        Ok(denoised)
    }

    /// Each half of the samples by itself.
    fn halves(&self, xt: Tensor<4>, sample: &dyn Fn(Chain<'_>, Tensor<4>) -> Result<Tensor<4>>) -> Result<Tensor<4>> {
        let n = xt.dims()[0];
        let half = n / 2;
        let part = |from: usize, len: usize| {
            let (guidance, request) = (self.guidance.narrow(from, len), self.request.narrow(from, len));
            let chain = Chain { guidance: &guidance, request: &request, ..*self };
            sample(chain, xt.clone().narrow(0, from, len))
        };
        Ok(Tensor::cat(vec![part(0, half)?, part(half, n - half)?], 0))
    }
}
