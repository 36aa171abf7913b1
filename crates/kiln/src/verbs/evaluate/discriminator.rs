//! What a discriminator knows: how it scores real pictures and samples, and how near it is to the best one, on a set whose
//! density p is known (Goodfellow 2014, proposition 1 and theorem 1).
//!
//! The density q of the run's samples is counted in squares of the plane.

use burn::tensor::Tensor;
use kiln_core::{Result, refuse_if, tell};
use kiln_measure::MetricValue;
use kiln_measure::outliers::auroc;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{Ability, Model, Progress, Request};

use super::Asked;

/// Squares along a side of [−1, 1]².
const SQUARES: usize = 64;
/// Points of a square, along a side, at which the density is averaged.
const POINTS: usize = 3;
/// Samples at a time.
const CHUNK: u64 = 200;
/// Samples without which squares are nearly empty.
const ENOUGH: usize = 100_000;

/// The mean score of the reference's pictures and of as many samples, and the share of pairs of one and the other in which
/// the picture has the higher score (the area under the ROC curve).
pub fn scored(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("scores", Ability::Discriminate)?;
    let (real, fake) = both(asked, model, |_| ())?;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let figures =
        [("score_real", mean(&real)), ("score_fake", mean(&fake)), ("auroc_discriminator", auroc(&fake, &real)?)];
    Ok(figures.into_iter().map(|(name, value)| asked.against(MetricValue::new(name, value, fake.len()))).collect())
}

/// The scores of the reference's pictures and of samples, which `each` sees.
fn both(asked: &Asked<'_>, model: &dyn Model, mut each: impl FnMut(Tensor<4>)) -> Result<(Vec<f64>, Vec<f64>)> {
    let (n, mut fake) = (asked.args.n as u64, Vec::with_capacity(asked.args.n));
    let mut progress = (!asked.common.quiet).then(|| Progress::new("sampling", "pictures", 0, n));
    for start in (0..n).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(n);
        let sampler = asked.args.sampler.table()?;
        let made = model.generate(&Request { sampler, ..Request::new(start..end, asked.args.seed, asked.device) })?;
        fake.extend(scores(model, made.clone())?);
        each(made);
        if let Some(progress) = &mut progress {
            progress.update(end, String::new);
        }
    }
    if let Some(progress) = &progress {
        progress.finish();
    }
    let mut real = Vec::new();
    asked.chunks(model, &asked.reference, |images, _| {
        real.extend(scores(model, images)?);
        Ok(())
    })?;
    Ok((real, fake))
}

fn scores(model: &dyn Model, images: Tensor<4>) -> Result<Vec<f64>> {
    Ok(to_values(model.scores(images)?).into_iter().map(f64::from).collect())
}

/// Five figures of a run on points of the plane:
///
/// - `d_error`: the mean of |D(x) − p(x) / (p(x) + q(x))| over (p + q) / 2
/// - `value`: V = E log D(x) + E log(1 − D(G(z))), over the reference's points and as many samples
/// - `value_optimum`: 2·JSD(p ‖ q) − log 4, what V is for the best D
/// - `slope_saturating`, `slope_non_saturating`: the means of |∂/∂s| of log(1 − σ(s)) and −log σ(s) over the scores s of
///   samples, which the generator's gradient is proportional to
pub fn optimal_discriminator(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let name = "optimal_discriminator";
    let model = asked.run(name, Ability::Discriminate)?;
    refuse_if!(
        !model.is_logit()?,
        "--metrics {name}: this discriminator's output is no probability; train with model.objective = \"non-saturating\" or \
         \"saturating\""
    );
    let set = kiln_data::open(&asked.reference, asked.split, &model.info().data.rule().still())?;
    refuse_if!(
        set.density(&[0.0, 0.0]).is_none() || model.info().pictures.shape != [1, 1, 2],
        "--metrics {name} needs a set whose density is known, and {} is none; take rings",
        asked.reference
    );
    let p = |x: f64, y: f64| set.density(&[x as f32, y as f32]).unwrap_or_default();
    let n = asked.args.n;
    if n < ENOUGH {
        tell!("the density of {n} samples is rough; use -n {ENOUGH} or more");
    }
    let mut counts = vec![0u64; SQUARES * SQUARES];
    let (real, fake) = both(asked, model, |points| {
        for point in to_values(points).chunks_exact(2) {
            let square = |v: f32| (((f64::from(v) + 1.0) / 2.0 * SQUARES as f64) as usize).min(SQUARES - 1);
            counts[square(point[1]) * SQUARES + square(point[0])] += 1;
        }
    })?;

    let width = 2.0 / SQUARES as f64;
    let centre = |i: usize, of: usize, low: f64, width: f64| low + (i as f64 + 0.5) * width / of as f64;
    let centres =
        (0..SQUARES * SQUARES).flat_map(|i| [i % SQUARES, i / SQUARES].map(|at| centre(at, SQUARES, -1.0, 2.0) as f32));
    let beliefs = scores(model, from_values(centres.collect(), [SQUARES * SQUARES, 1, 1, 2], asked.device))?
        .into_iter()
        .map(sigmoid);
    let mass = |i: usize| {
        let (left, top) = ((i % SQUARES) as f64 * width - 1.0, (i / SQUARES) as f64 * width - 1.0);
        let at = |k: usize| p(centre(k % POINTS, POINTS, left, width), centre(k / POINTS, POINTS, top, width));
        (0..POINTS * POINTS).map(at).sum::<f64>() / (POINTS * POINTS) as f64 * width * width
    };
    let (mut error, mut divergence) = (0.0, 0.0);
    for (i, (belief, count)) in beliefs.zip(&counts).enumerate() {
        let (p, q) = (mass(i), *count as f64 / n as f64);
        let middle = (p + q) / 2.0;
        if middle > 0.0 {
            error += middle * (belief - p / (p + q)).abs();
        }
        for one in [p, q].into_iter().filter(|one| *one > 0.0) {
            divergence += one * (one / middle).ln() / 2.0;
        }
    }
    let mean = |values: &[f64], of: fn(f64) -> f64| values.iter().map(|v| of(*v)).sum::<f64>() / values.len() as f64;
    let value = mean(&real, |s| -softplus(-s)) + mean(&fake, |s| -softplus(s));
    let figures = [
        ("d_error", error),
        ("value", value),
        ("value_optimum", 2.0 * divergence - 4f64.ln()),
        ("slope_saturating", mean(&fake, sigmoid)),
        ("slope_non_saturating", mean(&fake, |s| sigmoid(-s))),
    ];
    Ok(figures.into_iter().map(|(name, value)| asked.against(MetricValue::new(name, value, n))).collect())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log(1 + eˣ).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
