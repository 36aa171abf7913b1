//! Metrics of a latent space: path length, separability, disentanglement, match with the prior.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result, tell};
use kiln_data::{Factor, Prepared};
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::{Features, MetricValue, factors, mig as gap, path_length, separability as planes};
use kiln_nn::tensor::to_values;
use kiln_train::{Ability, Model, Progress, Request};

use super::{Asked, chunks_of, prepared};
use crate::feature_cache::Outputs;
use crate::feature_net::FeatureNet;
use crate::verbs::encode;

/// The step along a path (Karras 2019, section 4.1).
const EPSILON: f64 = 1e-4;

/// Pairs of latents, or pictures, at a time.
const CHUNK: u64 = 50;

/// C of the SVMs of separability, as in the paper's code.
const SVM_C: f64 = 1.0;

/// Widths of the kernels that compare latents or features, in median distances.
pub const WIDTHS: [f64; 3] = [0.5, 1.0, 2.0];

/// Regroupings behind the probability that latents of pictures are latents of samples: none is below 0.005.
const PERMUTATIONS: usize = 199;

/// Perceptual path length over pairs of samples, by its name: from end to end or at the ends alone (`_end`), in Z or in W
/// (`_w`).
pub fn path_length(asked: &Asked<'_>, name: &str) -> Result<MetricValue> {
    let space = space(name);
    let model = asked.run(name, space.ability())?;
    let net = asked.perceptual()?;
    let places = match name.ends_with("_end") {
        true => vec![0.0; asked.args.n],
        false => Key::new(asked.args.seed).purpose("ppl").uniform(0..asked.args.n as u64, 1),
    };
    let mut distances = Vec::with_capacity(asked.args.n);
    in_chunks(asked, "walking", |range| {
        let from = latents(model, range.clone(), space, asked)?;
        // The other ends are the samples that follow these.
        let to = latents(model, range.start + asked.args.n as u64..range.end + asked.args.n as u64, space, asked)?;
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
    let value = path_length::mean(&distances, EPSILON)?;
    Ok(MetricValue::new(name, value, distances.len()).features(net.name(), "none"))
}

/// Linear separability of the reference's classes, in Z or in W (`_w`): the feature net says which samples have each.
pub fn separability(asked: &Asked<'_>, name: &str) -> Result<MetricValue> {
    let space = space(name);
    let model = asked.run(name, space.ability())?;
    let rule = model.info().data.rule();
    let net = FeatureNet::of(asked.args.features.as_deref(), &asked.reference, &rule, asked.common, asked.device)?;
    let classes = net.classes().ok_or_else(|| {
        Error::usage(format!("--metrics {name}: {} has no attributes; use --features classifier:SET", net.name))
    })?;
    let single = latents(model, 0..1, Space::Z, asked)?.dims()[1];
    let (mut table, mut width, mut outputs) = (Vec::new(), 0, Outputs::default());
    in_chunks(asked, "sampling", |range| {
        let latents = latents(model, range, space, asked)?;
        net.apply(model.decode(latents.clone())?, &mut outputs)?;
        // All layers have one w.
        let latents = if space == Space::W { latents.narrow(1, 0, single) } else { latents };
        width = latents.dims()[1];
        table.extend(to_values(latents));
        Ok(())
    })?;
    if outputs.n < 100 * width {
        // Half of them are kept, and a plane tells apart as many points as it has dimensions.
        tell!("few samples are always separable; of {width} latents, use -n {} or more", 100 * width);
    }
    let odds: Vec<f32> = outputs.logits.chunks(classes).flat_map(log_odds).collect();
    let sides = (Features::new("the latents", &table, width)?, Features::new("the classes", &odds, classes)?);
    let found = planes::measure(sides.0, sides.1, SVM_C)?;
    Ok(MetricValue::new(name, found.score, outputs.n).features(&net.name, &net.resize()))
}

/// Mutual information gap between what is known of the reference's pictures and the means of their codes: the set's
/// factors, and the gap of each; or the labels, where it knows no factors.
pub fn mig(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let seen = Encoded::of("mig", asked)?;
    let (names, factors) = match seen.factors() {
        (names, _) if names.is_empty() => (names, vec![seen.labels("mig", asked)?]),
        known => known,
    };
    let found = gap::measure(seen.latents()?, &factors, gap::BINS)?;
    let whole = ("mig".to_string(), found.score);
    let each = names.iter().zip(&found.gaps).map(|(name, gap)| (format!("mig_{name}"), *gap));
    let measure = |(name, value): (String, f64)| asked.against(MetricValue::new(&name, value, seen.n));
    Ok(std::iter::once(whole).chain(each).map(measure).collect())
}

/// Whether one latent follows one factor by a line: for each factor with a measure, R² by the latent that tells most of it
/// (`factor_r2`) and second most (`factor_r2_second`), and the most that this latent tells of another factor
/// (`factor_leak`).
pub fn factor_r2(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let seen = Encoded::of("factor_r2", asked)?;
    let mut known = seen.known("factor_r2", asked)?;
    known.retain(|(_, factor)| factor.ordered);
    let value = |k: usize| seen.places.iter().map(move |places| places[k]);
    let values: Vec<Vec<f64>> =
        known.iter().map(|(k, factor)| value(*k).map(|at| f64::from(factor.values[at])).collect()).collect();
    let table = factors::r2(seen.latents()?, &values)?;
    Ok(best_and_second(&known, &table, ["factor_r2", "factor_r2_second", "factor_leak"], seen.n, asked))
}

/// The same by any curve: the correlation ratio η² of latents over the values of each factor.
pub fn factor_eta2(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let seen = Encoded::of("factor_eta2", asked)?;
    let known = seen.known("factor_eta2", asked)?;
    let values: Vec<Vec<usize>> =
        known.iter().map(|(k, _)| seen.places.iter().map(|places| places[*k]).collect()).collect();
    let table = factors::correlation_ratio(seen.latents()?, &values)?;
    Ok(best_and_second(&known, &table, ["factor_eta2", "factor_eta2_second", "factor_eta2_leak"], seen.n, asked))
}

/// Of each factor (a row of the table) what the best and the second best latent have, and the most that the best one has of
/// another factor.
fn best_and_second(
    known: &[(usize, &Factor)],
    table: &[Vec<f64>],
    names: [&str; 3],
    n: usize,
    asked: &Asked<'_>,
) -> Vec<MetricValue> {
    let mut out = Vec::new();
    for ((_, factor), row) in known.iter().zip(table) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let best = order[0];
        let second = order.get(1).map_or(0.0, |&j| row[j]);
        let others = table.iter().filter(|other| !std::ptr::eq(*other, row)).map(|other| other[best]);
        let leak = others.fold(0.0, f64::max);
        for (name, value) in names.into_iter().zip([row[best], second, leak]) {
            out.push(asked.against(MetricValue::new(&format!("{name}_{}", factor.name), value, n)));
        }
    }
    out
}

/// The codes of the reference's pictures, with what is known of them.
struct Encoded {
    set: Prepared,
    table: Vec<f32>,
    width: usize,
    labels: Vec<usize>,
    /// For each picture the places of its factors' values.
    places: Vec<Vec<usize>>,
    n: usize,
}

impl Encoded {
    fn of(metric: &str, asked: &Asked<'_>) -> Result<Self> {
        let model = asked.run(metric, Ability::Encode)?;
        let set = prepared(model, &asked.reference, asked.split)?;
        let (mut table, mut width, mut labels, mut places) = (Vec::new(), 0, Vec::new(), Vec::new());
        let n = chunks_of(&set, asked.args.n, asked.common.quiet, asked.device, |images, of_images, at| {
            let latents = encode(model, images, table.len() / width.max(1))?;
            width = latents.dims()[1];
            table.extend(to_values(latents));
            labels.extend(of_images.iter().map(|&l| l as usize));
            places.extend(at.iter().map(|&i| set.set().places(i)));
            Ok(())
        })?;
        Ok(Self { set, table, width, labels, places, n })
    }

    fn latents(&self) -> Result<Features<'_>> {
        Features::new("the latents", &self.table, self.width)
    }

    /// The factors of the set that vary in what was seen, with their numbers.
    fn known(&self, metric: &str, asked: &Asked<'_>) -> Result<Vec<(usize, &Factor)>> {
        let varies = |k: usize| self.places.windows(2).any(|pair| pair[0][k] != pair[1][k]);
        let known: Vec<_> = self.set.set().factors().iter().enumerate().filter(|(k, _)| varies(*k)).collect();
        if known.is_empty() {
            return Err(Error::usage(format!(
                "--metrics {metric} needs a set with known factors, and {} has none; take dsprites or shapes3d",
                asked.reference
            )));
        }
        Ok(known)
    }

    /// Names of the factors that vary in what was seen, and their values by place.
    fn factors(&self) -> (Vec<&'static str>, Vec<Vec<usize>>) {
        let of = |k: usize| self.places.iter().map(|places| places[k]).collect::<Vec<_>>();
        let all = self.set.set().factors().iter().enumerate().map(|(k, f)| (f.name, of(k)));
        all.filter(|(_, values)| values.iter().any(|v| *v != values[0])).unzip()
    }

    fn labels(&self, metric: &str, asked: &Asked<'_>) -> Result<Vec<usize>> {
        if self.labels.len() == self.n {
            return Ok(self.labels.clone());
        }
        Err(Error::usage(format!(
            "--metrics {metric} needs known factors or labels, and {} has neither",
            asked.reference
        )))
    }
}

/// Are the latents of pictures spread as those that samples are made of? The aggregated posterior against the prior: the
/// unbiased MMD² and the probability of as much if they were one (Gretton 2012).
pub fn prior(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("prior", Ability::Encode)?;
    asked.run("prior", Ability::Decode)?;
    let (mut encoded, mut width) = (Vec::new(), 0);
    let n = asked.chunks(model, &asked.reference, |images, _| {
        let latents = encode(model, images, encoded.len() / width.max(1))?;
        width = latents.dims()[1];
        encoded.extend(to_values(latents));
        Ok(())
    })?;
    let drawn = to_values(latents(model, 0..n as u64, Space::Z, asked)?);
    let (a, b) = (Features::new("the encoded pictures", &encoded, width)?, Features::new("the prior", &drawn, width)?);
    let unit = median_distance(a, b)?;
    let compared = TwoSamples::new(a, b, &WIDTHS.map(|w| w * unit))?;
    let p = compared.p_value(PERMUTATIONS, Key::new(asked.args.seed).purpose("regroupings"));
    let figures = [("prior_mmd2", compared.mmd().unbiased), ("prior_p_value", p)];
    Ok(figures.map(|(name, value)| asked.against(MetricValue::new(name, value, n))).to_vec())
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

/// Where latents are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Z,
    W,
}

/// The space of a metric, by its name.
fn space(metric: &str) -> Space {
    if metric.split('_').any(|part| part == "w") { Space::W } else { Space::Z }
}

impl Space {
    /// What a run must be able to do.
    fn ability(self) -> Ability {
        match self {
            Self::Z => Ability::Decode,
            Self::W => Ability::Mix,
        }
    }
}

/// The latents `[n, d]` of samples.
fn latents(model: &dyn Model, range: std::ops::Range<u64>, space: Space, asked: &Asked<'_>) -> Result<Tensor<2>> {
    let mut sampler = asked.args.sampler.table()?;
    if model.spaces()?.len() > 1 {
        sampler.insert("space".into(), if space == Space::W { "w" } else { "z" }.into());
    }
    model.latents(&Request { sampler, ..Request::new(range, asked.args.seed, asked.device) })
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
