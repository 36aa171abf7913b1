//! Projection of pictures (Karras 2020, appendix D): the w whose picture is nearest to a given one, found by descent together
//! with the noise inputs.
//!
//! L = D(x, g(w + 𝒩(0, 0.05 σ_w t²), n)) + α Σ L_n with the noise maps n kept at mean 0 and variance 1, and L_n the squares of
//! their correlations with themselves one pixel aside, at each size down to 8×8: signals that a picture hides in the noise
//! would be correlated.

use std::cell::Cell;

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_nn::resample::avg_pool2d;
use kiln_nn::tensor::normal;
use kiln_train::minimise::{Descent, minimise};
use kiln_train::{ChainWatch, Distance, OptimizerConfig, Projection, Request, Schedule};
use serde::Deserialize;

use super::latents::Styled;
use super::noise::Noise;

/// Draws that say where W is and how wide.
const DRAWS: u64 = 10_000;

/// The weight of the noise maps' correlations.
const ALPHA: f64 = 1e5;

/// Where a picture is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Space {
    /// One w for all layers.
    #[default]
    #[serde(rename = "w")]
    W,
    /// A w of its own for each layer (Abdal 2019): nearer pictures, which edit less well.
    #[serde(rename = "w+")]
    WPlus,
}

/// Sampler settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default = "steps")]
    steps: usize,
    #[serde(default)]
    space: Space,
}

fn steps() -> usize {
    500
}

/// See [`kiln_train::Project`]; w has `size` numbers.
///
/// # Errors
/// For a setting there is not, and if the distance fails.
pub fn project(
    g: &impl Styled,
    images: Tensor<4>,
    distance: &Distance<'_>,
    request: &Request,
    size: usize,
    system: &str,
) -> Result<Projection> {
    let Settings { steps, space } = request.sampler(system)?;
    let (n, layers) = (request.len(), g.layers());
    let z = normal(Key::new(0).purpose("where W is"), 0..DRAWS, [DRAWS as usize, size], &request.device);
    let w = g.mapping().forward(z);
    let mean = w.clone().mean_dim(0);
    let sigma = f64::from((w - mean.clone()).square().sum_dim(1).mean().into_scalar::<f32>()).sqrt();

    let own = if space == Space::W { 1 } else { layers };
    let mut start = vec![mean.reshape([1, 1, size, 1]).expand([n, own, size, 1])];
    start.extend(g.drawn_noise(request.key.purpose("projection"), request.indices.clone()));
    let jitter = request.key.purpose("jitter");
    let styles = |w: Tensor<4>| w.expand([n, layers, size, 1]).reshape([n, layers, size]);
    let step = Cell::new(0);
    let objective = |variables: &[Tensor<4>]| {
        let at = step.replace(step.get() + 1);
        let left = 1.0 - at as f64 / (0.75 * steps as f64);
        let strength = 0.05 * sigma * left.max(0.0).powi(2);
        let drawn = normal(jitter.at(at), request.indices.clone(), [n, own, size, 1], &request.device);
        let noise: Noise = variables[1..].iter().map(|v| standard(v.clone())).collect();
        let made = g.synthesise(styles(variables[0].clone() + drawn * strength), &noise);
        if let Some(ChainWatch(watch)) = &request.watch {
            watch(at as usize, Some(steps + 1), &made.clone().inner());
        }
        let correlations = noise.into_iter().map(correlation).reduce(|a, b| a + b);
        let near = distance(made, images.clone())?.sum();
        Ok(match correlations {
            Some(correlations) => near + correlations * ALPHA,
            None => near,
        })
    };
    let adam = OptimizerConfig { warmup: (steps / 20) as u64, ..OptimizerConfig::adam(0.1) };
    let descent = Descent::Optimizer(adam.schedule(Schedule::LinearSecondHalf));
    let found = minimise(start, objective, &descent, steps, |_, _, _| {})?.variables;

    let w = styles(found[0].clone());
    let noise = found[1..].iter().map(|v| standard(v.clone())).collect();
    let made = g.synthesise(w.clone(), &noise);
    let distances = distance(made.clone(), images)?;
    Ok(Projection { images: made, latents: w.reshape([n, layers * size]), distances })
}

/// Each map at mean 0 and variance 1.
fn standard(noise: Tensor<4>) -> Tensor<4> {
    let centred = noise.clone() - noise.mean_dims(&[2, 3]);
    let variance = centred.clone().square().mean_dims(&[2, 3]);
    centred / (variance + 1e-12).sqrt()
}

/// The squares of a map's correlations with itself one pixel to the right and below, at its size and each half of it down
/// to 8 pixels.
fn correlation(mut noise: Tensor<4>) -> Tensor<1> {
    let mut total: Option<Tensor<1>> = None;
    loop {
        let [_, _, h, w] = noise.dims();
        for axis in [2, 3] {
            let len = noise.dims()[axis];
            let moved =
                Tensor::cat(vec![noise.clone().narrow(axis, len - 1, 1), noise.clone().narrow(axis, 0, len - 1)], axis);
            let square = (noise.clone() * moved).mean_dims(&[2, 3]).square().sum();
            total = Some(match total {
                Some(total) => total + square,
                None => square,
            });
        }
        match total {
            Some(total) if h.min(w) <= 8 || h % 2 == 1 || w % 2 == 1 => return total,
            _ => noise = avg_pool2d(noise, 2, 2, 0),
        }
    }
}
