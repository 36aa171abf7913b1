//! `kiln edit --direction`: moves samples along a direction of their latents that was found without labels, or between two groups.
//!
//! * `pca`: the principal components of the latents of samples (Härkönen 2020, *GANSpace*, §2.2);
//! * `svm:CLASS`, `svm:CLASS:OTHER`: the normal of the plane between samples that a classifier gives to a class and to another, or to all
//!   others (Shen 2020, *InterFaceGAN*, §3.1);
//! * `svm` with --plus and --minus: likewise between two groups of samples that you name.
//!
//! A row goes from −range to range standard deviations of the samples along the direction.

use burn::tensor::Tensor;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::contact_sheet;
use kiln_measure::svm::LinearSvm;
use kiln_measure::{Features, principal};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use serde_json::json;

use crate::Common;
use crate::feature_cache::Outputs;
use crate::feature_net::FeatureNet;
use crate::output::{Output, shown};
use crate::verbs::attributes::sides;
use crate::verbs::latents::Source;
use crate::verbs::traverse::starts;

/// Samples whose latents are looked at.
const SEEN: u64 = 2_000;
/// Of them so many at a time.
const CHUNK: u64 = 50;
/// Rows of `pca` that are drawn if nobody says how many.
const ROWS: usize = 5;
/// C of the SVM.
const SVM_C: f64 = 1.0;

/// What is asked for.
pub struct Walk<'a> {
    /// `pca`, `svm` or `svm:CLASS[:OTHER]`.
    pub by: &'a str,
    /// The samples of one side of `svm`,
    pub plus: &'a [u64],
    /// and of the other.
    pub minus: &'a [u64],
    /// The feature network that tells the classes of `svm:CLASS`; by default a classifier of the run's own data.
    pub features: Option<&'a str>,
    /// How far each row goes, in standard deviations.
    pub range: f64,
    /// Components; 0 for some.
    pub rows: usize,
    /// Pictures of a row.
    pub columns: usize,
}

/// Directions and how far the samples lie apart along each.
struct Found {
    directions: Vec<Vec<f64>>,
    deviations: Vec<f64>,
    /// The part of all variance that each holds.
    shares: Vec<f64>,
}

/// The latents of samples, as rows of numbers that are free: of W, where every layer begins with the same style, one.
struct Seen {
    values: Vec<f32>,
    width: usize,
    /// How often a row stands in a whole latent.
    layers: usize,
}

impl Seen {
    fn of(source: &Source<'_>, each: &mut dyn FnMut(Tensor<2>) -> Result<()>) -> Result<Self> {
        let mut seen = Self { values: Vec::new(), width: 0, layers: 1 };
        for start in (0..SEEN).step_by(CHUNK as usize) {
            let indices: Vec<u64> = (start..SEEN.min(start + CHUNK)).collect();
            let latents = source.latents(&indices)?;
            each(latents.clone())?;
            let [_, whole] = latents.dims();
            if seen.width == 0 {
                seen.layers = layers(&latents);
                seen.width = whole / seen.layers;
            }
            seen.values.extend(to_values(latents.narrow(1, 0, seen.width)));
        }
        Ok(seen)
    }

    fn features(&self) -> Result<Features<'_>> {
        Features::new("the latents", &self.values, self.width)
    }

    /// The standard deviation along a direction, and its part of all variance.
    fn spread(&self, direction: &[f64]) -> Result<(f64, f64)> {
        let features = self.features()?;
        let n = features.n() as f64;
        let along: Vec<f64> =
            features.rows().map(|row| row.iter().zip(direction).map(|(v, d)| f64::from(*v) * d).sum()).collect();
        let mean = along.iter().sum::<f64>() / n;
        let variance = along.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let total = principal::components(features, 0)?.total;
        Ok((variance.sqrt(), variance / total.max(f64::MIN_POSITIVE)))
    }
}

/// How many equal parts stand one behind the other in every row: the styles of W, the same for all layers.
fn layers(latents: &Tensor<2>) -> usize {
    let [_, width] = latents.dims();
    let first = to_values(latents.clone().narrow(0, 0, 1));
    let repeats = |part: usize| first.iter().enumerate().all(|(i, v)| *v == first[i % part]);
    (1..=width).find(|&part| width.is_multiple_of(part) && repeats(part)).map_or(1, |part| width / part)
}

/// Draws the rows of each start.
pub fn directions(
    walk: &Walk<'_>,
    start_at: (&[u64], Option<&std::path::Path>),
    sheet: &std::path::Path,
    source: &Source<'_>,
    common: &Common,
    out: &Output,
) -> Result<()> {
    let (model, device) = (source.model, &source.model.info().device);
    let (seen, found) = find(walk, source, common)?;
    let starts = starts(start_at, source)?;
    let mut cells = Vec::new();
    for start in &starts {
        for (direction, deviation) in found.directions.iter().zip(&found.deviations) {
            let whole = (0..seen.layers).flat_map(|_| direction.iter().map(|v| (v * deviation) as f32)).collect();
            let step = from_values::<2>(whole, [1, seen.layers * seen.width], device);
            let at = |column: usize| walk.range * (2.0 * column as f64 / (walk.columns - 1) as f64 - 1.0);
            let points = (0..walk.columns).map(|column| start.clone() + step.clone() * at(column)).collect();
            cells.extend(pictures(model.decode(Tensor::cat(points, 0))?));
        }
    }
    contact_sheet(&cells, walk.columns, 1)?
        .write_png(sheet, &[("system", model.info().system), ("direction", walk.by)])?;
    let object = json!({
        "sheet": shown(sheet), "direction": walk.by, "deviations": found.deviations, "shares": found.shares,
        "rows": starts.len() * found.directions.len(), "columns": walk.columns,
    });
    let line = || {
        let shares: Vec<String> = found.shares.iter().map(|share| format!("{:.1} %", 100.0 * share)).collect();
        format!("directions with {} of the latents' variance, a row each, in {}", shares.join(", "), sheet.display())
    };
    out.say(line, &object);
    Ok(())
}

fn find(walk: &Walk<'_>, source: &Source<'_>, common: &Common) -> Result<(Seen, Found)> {
    let given = (!walk.plus.is_empty(), !walk.minus.is_empty());
    if walk.by == "pca" {
        refuse_if!(given.0 || given.1, "--direction pca: takes no groups; leave out --plus and --minus");
        let seen = Seen::of(source, &mut |_| Ok(()))?;
        let rows = if walk.rows == 0 { ROWS } else { walk.rows };
        let found = principal::components(seen.features()?, rows)?;
        let shares = found.variances.iter().map(|v| v / found.total.max(f64::MIN_POSITIVE)).collect();
        let deviations = found.variances.iter().map(|v| v.sqrt()).collect();
        return Ok((seen, Found { directions: found.directions, deviations, shares }));
    }
    let (seen, values, labels) = match walk.by.split_once(':') {
        None if walk.by == "svm" => {
            refuse_if!(given != (true, true), "--direction svm: name two groups of samples by --plus and --minus");
            let seen = Seen::of(source, &mut |_| Ok(()))?;
            let groups = source.latents(&[walk.plus, walk.minus].concat())?.narrow(1, 0, seen.width);
            let labels = (0..walk.plus.len() + walk.minus.len()).map(|i| usize::from(i < walk.plus.len())).collect();
            (seen, to_values(groups), labels)
        }
        Some(("svm", classes)) => {
            refuse_if!(
                given.0 || given.1,
                "--direction {}: the classes are the groups; leave out --plus and --minus",
                walk.by
            );
            by_classes(classes, walk, source, common)?
        }
        _ => return Err(Error::usage(format!("--direction {}: there are pca, svm and svm:CLASS", walk.by))),
    };
    let svm = LinearSvm::fit(Features::new("the latents", &values, seen.width)?, &labels, 2, SVM_C, 1e-3)?;
    let direction = svm.normal(1)?;
    let (deviation, share) = seen.spread(&direction)?;
    Ok((seen, Found { directions: vec![direction], deviations: vec![deviation], shares: vec![share] }))
}

/// The samples that a classifier gives to a class (1) and to the other side (0).
fn by_classes(
    classes: &str,
    walk: &Walk<'_>,
    source: &Source<'_>,
    common: &Common,
) -> Result<(Seen, Vec<f32>, Vec<usize>)> {
    let info = source.model.info();
    let net = FeatureNet::of(walk.features, &info.data.set, &info.data.rule(), common, &info.device)?;
    let known = net.classes().ok_or_else(|| {
        Error::usage(format!("--direction {}: {} has no classes; use --features classifier:SET", walk.by, net.name))
    })?;
    // A classifier of other data has numbers for classes.
    let names = match info.pictures.classes.len() == known {
        true => info.pictures.classes.clone(),
        false => (0..known).map(|class| class.to_string()).collect(),
    };
    let (with, without) = sides("--direction svm", classes, &names)?;
    let mut outputs = Outputs::default();
    let seen = Seen::of(source, &mut |latents| net.apply(source.model.decode(latents)?, &mut outputs))?;
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for (row, class) in seen.values.chunks(seen.width).zip(outputs.classes()) {
        if class == with || without.contains(&class) {
            values.extend(row);
            labels.push(usize::from(class == with));
        }
    }
    let found = labels.iter().sum::<usize>();
    refuse_if!(
        found == 0 || found == labels.len(),
        "--direction {}: of {SEEN} samples {found} are of the class and {} are not; two groups are needed",
        walk.by,
        labels.len() - found
    );
    Ok((seen, values, labels))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_style_of_all_layers_is_found_once() {
        let of = |values: Vec<f32>| {
            let width = values.len();
            layers(&from_values(values, [1, width], &Device::flex()))
        };
        assert_eq!(of(vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0]), 2);
        assert_eq!(of(vec![1.0, 2.0, 3.0, 4.0]), 1);
        assert_eq!(of(vec![5.0]), 1);
    }
}
