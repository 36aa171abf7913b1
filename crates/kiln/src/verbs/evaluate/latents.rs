//! Does a latent space lie well? Its paths are short, and planes part it.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::{Features, Measure, mig as gap, path_length, separability as planes};
use kiln_nn::tensor::to_values;
use kiln_train::{Ability, GenerateRequest, Model, Progress};

use super::{Asked, chunks};
use crate::judge::Judge;
use crate::seen::Seen;

/// The step along a path (Karras 2019, section 4.1).
const EPSILON: f64 = 1e-4;

/// Pairs of latents, or pictures, at a time.
const CHUNK: u64 = 50;

/// C of the SVMs of separability, as in the paper's code.
const SVM_C: f64 = 1.0;

/// Widths of the kernels that compare latents, in median distances.
const WIDTHS: [f64; 3] = [0.5, 1.0, 2.0];

/// Regroupings behind the probability that latents of pictures are latents of samples: none is below 0.005.
const PERMUTATIONS: usize = 199;

/// Perceptual path length in Z over pairs of samples: from end to end, and at the ends alone.
pub fn path_length(asked: &Asked<'_>) -> Result<Vec<Measure>> {
    let model = asked.run("ppl", Ability::Decode)?;
    let net = asked.perceptual()?;
    let places = Key::new(asked.args.seed).purpose("ppl").uniform(0..asked.args.n as u64, 1);
    let ends = vec![0.0; asked.args.n];
    let mut out = Vec::new();
    for (name, places) in [("ppl", places), ("ppl_end", ends)] {
        let mut distances = Vec::with_capacity(asked.args.n);
        in_chunks(asked, "walking", |range| {
            let from = latents(model, range.clone(), asked)?;
            // The other ends are the samples that follow these.
            let to = latents(model, range.start + asked.args.n as u64..range.end + asked.args.n as u64, asked)?;
            let at = |step: f64| -> Result<Tensor<4>> {
                let points = (0..from.dims()[0]).map(|i| {
                    let t = f64::from(places[range.start as usize + i]) + step;
                    model.between(from.clone().narrow(0, i, 1), to.clone().narrow(0, i, 1), t)
                });
                model.decode(Tensor::cat(points.collect::<Result<Vec<_>>>()?, 0))
            };
            distances.extend(to_values(net.distance(at(0.0)?, at(EPSILON)?)?).into_iter().map(f64::from));
            Ok(())
        })?;
        out.push(
            Measure::new(name, path_length::mean(&distances, EPSILON)?, distances.len()).features(net.name(), "none"),
        );
    }
    Ok(out)
}

/// Linear separability of the reference's classes in Z: the judge's classifier says which samples have
/// each.
pub fn separability(asked: &Asked<'_>) -> Result<Measure> {
    let model = asked.run("separability", Ability::Decode)?;
    let rule = model.info().data.rule();
    let judge = Judge::of(asked.args.features.as_deref(), &asked.reference, &rule, asked.common, asked.device)?;
    let classes = judge.classes().ok_or_else(|| {
        Error::usage(format!("--metrics separability: {} has no attributes; use --features classifier:SET", judge.name))
    })?;
    let (mut table, mut width, mut seen) = (Vec::new(), 0, Seen::default());
    in_chunks(asked, "sampling", |range| {
        let latents = latents(model, range, asked)?;
        width = latents.dims()[1];
        judge.look(model.decode(latents.clone())?, &mut seen)?;
        table.extend(to_values(latents));
        Ok(())
    })?;
    if seen.n < 100 * width {
        // Half of them are kept, and a plane tells apart as many points as it has dimensions.
        eprintln!("kiln: few samples are always separable; of {width} latents, use -n {} or more", 100 * width);
    }
    let odds: Vec<f32> = seen.logits.chunks(classes).flat_map(log_odds).collect();
    let sides = (Features::new("the latents", &table, width)?, Features::new("the classes", &odds, classes)?);
    let found = planes::measure(sides.0, sides.1, SVM_C)?;
    Ok(Measure::new("separability", found.score, seen.n).features(&judge.name, &judge.resize()))
}

/// Mutual information gap between the reference's labels and the means of its encoded pictures.
pub fn mig(asked: &Asked<'_>) -> Result<Measure> {
    let model = asked.run("mig", Ability::Encode)?;
    let (mut table, mut width, mut classes) = (Vec::new(), 0, Vec::new());
    let n = chunks(model, &asked.reference, asked.split, asked.args.n, asked.device, |images, labels| {
        let latents = model.encode(images)?;
        width = latents.dims()[1];
        table.extend(to_values(latents));
        classes.extend(labels.iter().map(|&l| l as usize));
        Ok(())
    })?;
    if classes.len() != n {
        return Err(Error::usage(format!("--metrics mig needs labels, and {} has none", asked.reference)));
    }
    let found = gap::measure(Features::new("the latents", &table, width)?, &[classes], gap::BINS)?;
    Ok(asked.against(Measure::new("mig", found.score, n)))
}

/// Are the latents of pictures spread as those that samples are made of? The aggregated posterior against the prior: the
/// unbiased MMD² and the probability of as much if they were one (Gretton 2012).
pub fn prior(asked: &Asked<'_>) -> Result<Vec<Measure>> {
    let model = asked.run("prior", Ability::Encode)?;
    asked.run("prior", Ability::Decode)?;
    let (mut encoded, mut width) = (Vec::new(), 0);
    let n = chunks(model, &asked.reference, asked.split, asked.args.n, asked.device, |images, _| {
        let latents = model.encode(images)?;
        width = latents.dims()[1];
        encoded.extend(to_values(latents));
        Ok(())
    })?;
    let drawn = to_values(latents(model, 0..n as u64, asked)?);
    let (a, b) = (Features::new("the encoded pictures", &encoded, width)?, Features::new("the prior", &drawn, width)?);
    let unit = median_distance(a, b)?;
    let compared = TwoSamples::new(a, b, &WIDTHS.map(|w| w * unit))?;
    let p = compared.p_value(PERMUTATIONS, Key::new(asked.args.seed).purpose("regroupings"));
    let figures = [("prior_mmd2", compared.mmd().unbiased), ("prior_p_value", p)];
    Ok(figures.map(|(name, value)| asked.against(Measure::new(name, value, n))).to_vec())
}

/// The log odds of each class against all others: above 0 where it is more likely than not.
fn log_odds(logits: &[f32]) -> Vec<f32> {
    let of = |k: usize| {
        let others = || logits.iter().enumerate().filter(|(j, _)| *j != k).map(|(_, &l)| f64::from(l));
        let top = others().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = others().map(|l| (l - top).exp()).sum();
        (f64::from(logits[k]) - top - sum.ln()) as f32
    };
    (0..logits.len()).map(of).collect()
}

/// The latents `[n, d]` of samples.
fn latents(model: &dyn Model, range: std::ops::Range<u64>, asked: &Asked<'_>) -> Result<Tensor<2>> {
    model.latents(&GenerateRequest::new(range, asked.args.seed, asked.device))
}

/// All samples asked for, some at a time, with progress.
fn in_chunks(asked: &Asked<'_>, what: &str, mut each: impl FnMut(std::ops::Range<u64>) -> Result<()>) -> Result<()> {
    let n = asked.args.n as u64;
    let mut progress = (!asked.common.quiet).then(|| Progress::new(what, "pictures", 0, n));
    for start in (0..n).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(n);
        each(start..end)?;
        if let Some(p) = &mut progress {
            p.update(end, String::new);
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odds_are_those_of_softmax() {
        let odds = log_odds(&[1.0, 3.0, -2.0]);
        let sum = 1f64.exp() + 3f64.exp() + (-2f64).exp();
        for (odds, logit) in odds.iter().zip([1f64, 3.0, -2.0]) {
            let p = logit.exp() / sum;
            assert!((f64::from(*odds) - (p / (1.0 - p)).ln()).abs() < 1e-5);
        }
    }
}
