//! Z, W and the styles of layers: mixing while training, and what the verbs ask for.
//!
//! Latents of a verb are either z, `[n, size]`, or the styles of all layers side by side, `[n, layers · size]`. The latter
//! hold W (every layer has the same w), mixed styles, and W+, which projection finds.

use std::ops::Range;

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_nn::tensor::from_values;
use kiln_train::ability::slerp;
use kiln_train::{Batch, Request, StyleGroup};
use serde::{Deserialize, Serialize};

use super::Mapping;
use super::noise::Noise;

/// A generator of pictures from styles.
pub trait Styled {
    /// f: Z → W.
    fn mapping(&self) -> &Mapping;
    /// Styles of a picture.
    fn layers(&self) -> usize;
    /// The noise that all pictures share.
    fn constant_noise(&self) -> Noise;
    /// Noise of its own for each sample.
    fn drawn_noise(&self, key: Key, samples: Range<u64>) -> Noise;
    /// g: w `[n, layers, size]` and noise for each layer → `[n, c, h, w]`.
    fn synthesise(&self, w: Tensor<3>, noise: &Noise) -> Tensor<4>;
}

/// Where latents are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// The normal input of the mapping network.
    Z,
    /// Its output.
    #[default]
    W,
}

/// The names of [`Space`], the default first.
pub const SPACES: [&str; 2] = ["w", "z"];

/// Sampler settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// ψ of truncation in W.
    #[serde(default = "untruncated")]
    truncation_psi: f64,
    /// The seed of noise inputs; without it all samples have the network's constant noise.
    noise_seed: Option<u64>,
    /// The space of latents.
    #[serde(default)]
    space: Space,
}

fn untruncated() -> f64 {
    1.0
}

impl Settings {
    fn of(request: &Request, system: &str) -> Result<Self> {
        let settings: Self = request.sampler(system)?;
        if (-1.0..=1.0).contains(&settings.truncation_psi) {
            return Ok(settings);
        }
        Err(Error::usage(format!(
            "--truncation-psi {}: must be between −1 and 1; 0 is the mean picture, below it are opposites",
            settings.truncation_psi
        )))
    }
}

/// w of each layer for a batch of training, `[n, layers, size]`. With probability `mixing` a sample has the styles of a
/// second z from a random layer on (Karras 2019, section 3.1).
pub fn mixed(mapping: &Mapping, batch: &Batch, purpose: &str, size: usize, layers: usize, mixing: f64) -> Tensor<3> {
    let n = batch.len();
    let z = batch.normal(purpose, [n, size]);
    if mixing == 0.0 {
        return repeated(mapping.forward(z), layers);
    }
    let key = |what: &str| format!("{purpose}, {what}");
    let both = mapping.forward(Tensor::cat(vec![z, batch.normal(&key("second"), [n, size])], 0));
    let mixes = batch.key(&key("mixes")).uniform(batch.samples(), 1);
    let from = batch.below(&key("from"), layers as u64 - 1);
    let first = mixes.into_iter().zip(from).flat_map(|(draw, from)| {
        let end = if f64::from(draw) < mixing { from as usize + 1 } else { layers };
        (0..layers).map(move |layer| if layer < end { 1.0 } else { 0.0 })
    });
    let first = from_values::<3>(first.collect(), [n, layers, 1], batch.device());
    let [a, b] = [0, n].map(|start| both.clone().narrow(0, start, n).reshape([n, 1, size]));
    a * first.clone() + b * (first * -1.0 + 1.0)
}

/// The same style for every layer, `[n, size]` → `[n, layers, size]`.
pub fn repeated(w: Tensor<2>, layers: usize) -> Tensor<3> {
    let [n, size] = w.dims();
    w.reshape([n, 1, size]).expand([n, layers, size])
}

/// z of a request: its own noise `[n, size, 1, 1]`, else a keyed draw.
///
/// # Errors
/// If the noise is of another shape.
pub fn z(request: &Request, size: usize) -> Result<Tensor<2>> {
    let n = request.len();
    match &request.noise {
        None => Ok(request.normal("latent", [n, size])),
        Some(noise) if noise.dims() == [n, size, 1, 1] => Ok(noise.clone().reshape([n, size])),
        Some(noise) => Err(Error::usage(format!(
            "--noise: expected shape {:?} (latents), got {:?}",
            [n, size, 1, 1],
            noise.dims()
        ))),
    }
}

/// Pictures of a request: z → w, truncated → a picture.
///
/// # Errors
/// For a setting there is not, and noise of another shape.
pub fn generate(g: &impl Styled, request: &Request, size: usize, system: &str) -> Result<Tensor<4>> {
    let settings = Settings::of(request, system)?;
    let w = g.mapping().truncate(g.mapping().forward(z(request, size)?), settings.truncation_psi);
    let noise = match settings.noise_seed {
        Some(seed) => g.drawn_noise(Key::new(seed).purpose("noise input"), request.indices.clone()),
        None => g.constant_noise(),
    };
    Ok(g.synthesise(repeated(w, g.layers()), &noise))
}

/// Latents of a request, in the space it asks for.
///
/// # Errors
/// As [`generate`], and for a truncated z, which there is not.
pub fn latents(g: &impl Styled, request: &Request, size: usize, system: &str) -> Result<Tensor<2>> {
    let settings = Settings::of(request, system)?;
    let z = z(request, size)?;
    if settings.space == Space::Z {
        if settings.truncation_psi != 1.0 {
            return Err(Error::usage("--truncation-psi is of W; leave it out, or take --space w"));
        }
        return Ok(z);
    }
    let w = g.mapping().truncate(g.mapping().forward(z), settings.truncation_psi);
    Ok(repeated(w, g.layers()).flatten(1, 2))
}

/// Pictures of latents, with the noise that all share.
///
/// # Errors
/// If they are neither z nor styles.
pub fn decode(g: &impl Styled, latents: Tensor<2>, size: usize) -> Result<Tensor<4>> {
    let ([n, got], layers) = (latents.dims(), g.layers());
    let w = if got == size {
        repeated(g.mapping().forward(latents), layers)
    } else if got == layers * size {
        latents.reshape([n, layers, size])
    } else {
        return Err(Error::usage(format!(
            "latents of {got} numbers; this run's have {size} (z) or {} (a style for each of {layers} layers)",
            layers * size
        )));
    };
    Ok(g.synthesise(w, &g.constant_noise()))
}

/// A point between two latents: on the great circle between normal z, on the line in W.
pub fn between(a: Tensor<2>, b: Tensor<2>, t: f64, size: usize) -> Tensor<2> {
    let [_, width] = a.dims();
    if width == size { slerp(a, b, t) } else { a * (1.0 - t) + b * t }
}

/// The numbers of [`latents`] that hold the coarse, middle and fine styles: those of the first two of nine sizes, of the
/// next two, and of the rest (Karras 2019, figure 3), and as many of other numbers of sizes.
pub fn groups(layers: usize, size: usize) -> Vec<StyleGroup> {
    let sizes = layers / 2;
    let coarse = ((2.0 * sizes as f64 / 9.0).round() as usize).max(1);
    let middle = (2 * coarse).min(sizes - 1).max(coarse);
    let ends = [0, coarse, middle, sizes].map(|end| 2 * end * size);
    let names = ["coarse", "middle", "fine"].into_iter().zip(ends.windows(2));
    names.map(|(name, ends)| (name, ends[0]..ends[1])).filter(|(_, numbers)| !numbers.is_empty()).collect()
}
