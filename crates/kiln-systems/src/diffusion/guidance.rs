//! What steers a chain towards a class, or towards any score that can be differentiated.
//!
//! Everything is said in x̂₀, so that every sampler takes it: ε̂ − w σ ∇ log p is x̂₀ + w (σ²/α) ∇ log p.

use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_nn::Condition;
use kiln_nn::tensor::from_indices;
use kiln_train::{Guide, Guided, Looks, Request};

use super::sampler::settings::SamplerSettings;
use super::schedule::{LEAST_SIGNAL, Level};

/// Guidance by the same network with and without its condition (Ho & Salimans 2021).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierFree {
    /// w; 1 is unguided.
    pub scale: f64,
    /// φ, how far the guided output is brought back to the deviation of the conditional one (Lin 2024, §3.4).
    pub rescale: f64,
    /// The σ/α within which to guide (Kynkäänniemi 2024).
    pub interval: Option<[f64; 2]>,
}

impl ClassifierFree {
    /// Checked.
    ///
    /// # Errors
    /// A usage error naming the setting.
    pub fn new(scale: Option<f64>, rescale: Option<f64>, interval: Option<[f64; 2]>) -> Result<Self> {
        if scale.is_none() && (rescale.is_some() || interval.is_some()) {
            return Err(Error::usage("--guidance-rescale and --guidance-interval need a --guidance-scale"));
        }
        let (scale, rescale) = (scale.unwrap_or(1.0), rescale.unwrap_or(0.0));
        if !scale.is_finite() {
            return Err(Error::usage(format!("--guidance-scale {scale}: must be finite")));
        }
        if !(0.0..=1.0).contains(&rescale) {
            return Err(Error::usage(format!("--guidance-rescale {rescale}: must be between 0 and 1")));
        }
        if let Some([low, high]) = interval
            && !(low >= 0.0 && low < high)
        {
            return Err(Error::usage(format!("--guidance-interval {low},{high}: needs 0 <= low < high, as noise σ/α")));
        }
        Ok(Self { scale, rescale, interval })
    }

    /// Whether the network need be asked without its condition at a level.
    pub fn guides(&self, level: Level) -> bool {
        let inside = self.interval.is_none_or(|[low, high]| (low..=high).contains(&level.ratio()));
        self.scale != 1.0 && inside
    }

    /// without + w·(with − without), then rescaled: Ho & Salimans 2021, equation 6, where their weight is w − 1.
    pub fn combine(&self, with: Tensor<4>, without: Tensor<4>) -> Tensor<4> {
        let guided = without.clone() + (with.clone() - without) * self.scale;
        if self.rescale == 0.0 {
            return guided;
        }
        let factor = deviation(with) / deviation(guided.clone());
        guided.clone() * factor * self.rescale + guided * (1.0 - self.rescale)
    }
}

/// What a chain is conditioned on and steered by: one mechanism for classes, texts and images.
#[derive(Clone, Debug)]
pub struct Guidance {
    /// What the samples are to show.
    pub condition: Condition,
    /// What guidance leads away from (no class, no text); `None` where there is no condition to guide by.
    pub unconditional: Option<Condition>,
    /// How far.
    pub classifier_free: ClassifierFree,
    /// What the request's guides do beside.
    pub backward: Backward,
}

impl Guidance {
    /// As a request and its settings have it.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    pub fn new(
        condition: Condition,
        unconditional: Option<Condition>,
        settings: &SamplerSettings,
        request: &Request,
    ) -> Result<Self> {
        let s = settings;
        let classifier_free = ClassifierFree::new(s.guidance_scale, s.guidance_rescale, s.guidance_interval)?;
        if let (Some(scale), None) = (s.guidance_scale, &unconditional) {
            return Err(Error::usage(format!(
                "--guidance-scale {scale}: there is nothing to guide by; give a --class or a --context, if the network was \
                 trained with them"
            )));
        }
        let clean = request.guides.iter().any(|g| g.guide.looks_at() == Looks::Clean);
        if !clean && (s.backward_steps.is_some() || s.backward_rate.is_some()) {
            return Err(Error::usage("--backward-steps and --backward-rate need a --guide"));
        }
        let backward = Backward { steps: s.backward_steps.unwrap_or(0), rate: s.backward_rate.unwrap_or(1.0) };
        Ok(Self { condition, unconditional, classifier_free, backward })
    }

    /// None: the network's own prediction under a condition.
    pub fn none(condition: Condition) -> Self {
        let classifier_free = ClassifierFree { scale: 1.0, rescale: 0.0, interval: None };
        Self { condition, unconditional: None, classifier_free, backward: Backward { steps: 0, rate: 1.0 } }
    }

    /// Of samples `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let unconditional = self.unconditional.as_ref().map(|c| c.narrow(start, len));
        Self { condition: self.condition.narrow(start, len), unconditional, ..*self }
    }

    /// Of some samples, in their order.
    pub fn select(&self, places: &[usize], device: &Device) -> Self {
        let places: Vec<u32> = places.iter().map(|&i| i as u32).collect();
        let of = |c: &Condition| c.select(from_indices(&places, device));
        Self { condition: of(&self.condition), unconditional: self.unconditional.as_ref().map(of), ..*self }
    }
}

/// The deviation of each picture's numbers, `[n, 1, 1, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c * h * w]);
    let mean = x.clone().mean_dim(1);
    let sum = (x - mean).square().sum_dim(1);
    (sum / (c * h * w - 1).max(1) as f64).sqrt().reshape([n, 1, 1, 1])
}

/// ∇ₓ of the sum of `score`, and what it says besides.
fn gradient<T>(x: Tensor<4>, score: impl FnOnce(Tensor<4>) -> Result<(Tensor<1>, T)>) -> Result<(Tensor<4>, T)> {
    let x = x.inner().autodiff().require_grad();
    let (score, rest) = score(x.clone())?;
    let gradients = score.sum().backward();
    let gradient =
        x.grad(&gradients).ok_or_else(|| Error::new("the guide's score does not depend on the picture it is shown"))?;
    Ok((gradient, rest))
}

/// How universal guidance goes about it (Bansal 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backward {
    /// Steps uphill on the picture itself after each prediction (their m); 0 for none.
    pub steps: usize,
    /// The size of each.
    pub rate: f64,
}

/// x̂₀ at a level, steered by the request's guides: those that look at the noisy picture (Dhariwal & Nichol 2021, algorithm 2)
/// and those that look at x̂₀, through the network (Bansal 2023, equation 6) and backward on it (equation 7), which begins
/// where the first came to, as in the authors' code.
///
/// # Errors
/// If the network or a guide fails.
pub fn steer(
    predict: &dyn Fn(Tensor<4>) -> Result<Tensor<4>>,
    xt: Tensor<4>,
    level: Level,
    request: &Request,
    backward: Backward,
) -> Result<Tensor<4>> {
    let guides = &request.guides;
    // Where nothing is left of the picture (zero terminal SNR), noise says nothing of it either.
    let factor = level.sigma * level.sigma / level.signal.max(LEAST_SIGNAL);
    let clean: Vec<&Guided> = guides.iter().filter(|g| g.guide.looks_at() == Looks::Clean).collect();
    let weighted = |x: &Tensor<4>, guides: &[&Guided], at: Level| -> Result<Tensor<1>> {
        let mut sum = Tensor::zeros([x.dims()[0]], &x.device());
        for g in guides {
            sum = sum + g.guide.score(x.clone(), at.signal, at.sigma, request)? * g.scale;
        }
        Ok(sum)
    };
    let mut x0 = if clean.is_empty() {
        predict(xt.clone())?
    } else {
        let (uphill, x0) = gradient(xt.clone(), |x| {
            let x0 = predict(x)?;
            Ok((weighted(&x0, &clean, Level::PICTURE)?, x0.detach()))
        })?;
        x0.inner() + uphill * factor
    };
    let noisy: Vec<&Guided> = guides.iter().filter(|g| g.guide.looks_at() == Looks::Noisy).collect();
    if !noisy.is_empty() {
        let (uphill, ()) = gradient(xt, |x| Ok((weighted(&x, &noisy, level)?, ())))?;
        x0 = x0 + uphill * factor;
    }
    if !clean.is_empty() {
        for _ in 0..backward.steps {
            let (uphill, ()) = gradient(x0.clone(), |x| Ok((weighted(&x, &clean, Level::PICTURE)?, ())))?;
            x0 = x0 + uphill * backward.rate;
        }
    }
    Ok(x0)
}

/// A histogram of colours to come near to.
pub struct ColourHistogram {
    /// `[channels·bins]`
    goal: Tensor<2>,
}

/// Levels of a channel that are told apart.
const BINS: usize = 16;

impl ColourHistogram {
    /// The histogram of `[1, c, h, w]` in [−1, 1].
    pub fn of(picture: Tensor<4>) -> Self {
        Self { goal: histogram(picture) }
    }
}

/// Shares of each channel's pixels near each of [`BINS`] levels, by linear weights: `[n, c·bins]`.
fn histogram(x: Tensor<4>) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c, h * w]);
    let width = 2.0 / (BINS - 1) as f64;
    let bins = (0..BINS).map(|i| {
        let middle = -1.0 + i as f64 * width;
        let near = ((x.clone() - middle).abs() * (-1.0 / width) + 1.0).clamp_min(0.0);
        near.mean_dim(2).reshape([n, c])
    });
    Tensor::cat(bins.collect(), 1)
}

impl Guide for ColourHistogram {
    fn looks_at(&self) -> Looks {
        Looks::Clean
    }

    /// Less the squared distance of the histograms.
    fn score(&self, x: Tensor<4>, _signal: f64, _sigma: f64, _request: &Request) -> Result<Tensor<1>> {
        let n = x.dims()[0];
        let apart = histogram(x.clamp(-1.0, 1.0)) - self.goal.clone();
        Ok(-apart.square().sum_dim(1).reshape([n]))
    }
}

/// A map of edges to come near to.
pub struct Edges {
    /// `[1, 1, h − 2, w − 2]`
    goal: Tensor<4>,
}

impl Edges {
    /// The edges of `[1, c, h, w]` in [−1, 1].
    pub fn of(picture: Tensor<4>) -> Self {
        Self { goal: edges(picture) }
    }
}

/// The length of Sobel's gradient of the channels' mean, without the border.
fn edges(x: Tensor<4>) -> Tensor<4> {
    let grey = x.mean_dim(1);
    let [n, _, h, w] = grey.dims();
    let at = |dy: usize, dx: usize| grey.clone().slice([0..n, 0..1, dy..h - 2 + dy, dx..w - 2 + dx]);
    let smooth = |a: Tensor<4>, b: Tensor<4>, c: Tensor<4>| (a + b * 2.0 + c) * 0.25;
    let across = smooth(at(0, 2), at(1, 2), at(2, 2)) - smooth(at(0, 0), at(1, 0), at(2, 0));
    let down = smooth(at(2, 0), at(2, 1), at(2, 2)) - smooth(at(0, 0), at(0, 1), at(0, 2));
    // Kept off 0, where the root has no slope.
    (across.square() + down.square() + 1e-4).sqrt()
}

impl Guide for Edges {
    fn looks_at(&self) -> Looks {
        Looks::Clean
    }

    /// Less the mean squared distance of the maps.
    fn score(&self, x: Tensor<4>, _signal: f64, _sigma: f64, _request: &Request) -> Result<Tensor<1>> {
        let [n, _, h, w] = x.dims();
        let apart = (edges(x) - self.goal.clone()).square();
        Ok(-apart.reshape([n, (h - 2) * (w - 2)]).mean_dim(1).reshape([n]))
    }
}
