//! Distances between a set of images and a reference set, in the features of a network.

use std::path::Path;

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result, output, tell};
use kiln_data::{Picture, Split, contact_sheet};
use kiln_measure::classes::{Confusion, Histogram, wilson};
use kiln_measure::{
    Features, MetricValue, bootstrap, diversity, frechet, inception_score, kernel, ndb, neighbours, prdc,
};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model, Request, WeightSet};

use super::{Asked, is_run};
use crate::feature_cache::Outputs;
use crate::feature_net::FeatureNet;
use crate::stats::{Side, Stats, is_stats};
use crate::verbs::sample::generate;
use crate::verbs::{need, open};

/// Bins of ndb (Richardson & Weiss 2018), if there are pictures enough for them.
const NDB_BINS: usize = 100;

/// Pairs of pictures behind diversity.
const DIVERSITY_PAIRS: usize = 2_000;

/// Neighbours of precision, recall, density and coverage.
const NEIGHBOURS: usize = 5;

/// Pictures of the reference that are looked at: more change no digit that is shown.
const REFERENCE: usize = 10_000;

/// Pairs drawn for memorisation, and how many stand in a row.
const DRAWN: (usize, usize) = (32, 8);

/// What is compared, by what.
pub struct Comparison {
    /// The pictures.
    pub made: Side,
    /// The reference.
    pub real: Side,
    /// The network.
    pub features: String,
    /// How pictures came to its size.
    pub resize: String,
    /// The reference's classes that the network knows; 0 if it knows others.
    pub classes: usize,
    /// The class that each picture was to show, if it was told one.
    pub told: Option<Vec<usize>>,
}

impl Comparison {
    /// In the features of a network.
    pub fn by(net: &FeatureNet, made: Side, real: Side) -> Self {
        let classes = net.classes().unwrap_or(0);
        Self { made, real, features: net.name.clone(), resize: net.resize(), classes, told: None }
    }
}

/// The metrics of pictures beside a reference set.
pub(super) fn measure(
    asked: &Asked<'_>,
    metrics: &[&str],
    give: &mut dyn FnMut(MetricValue) -> Result<()>,
) -> Result<()> {
    let (args, reference) = (asked.args, asked.reference.as_str());
    if is_stats(&args.what) && is_stats(reference) {
        return figures(&of_stats(&args.what, reference)?, metrics, args.seed, args.bootstrap, give);
    }
    let told = asked.model.and_then(|model| told(model, asked));
    if metrics.contains(&"class_accuracy") && told.is_none() {
        return Err(untold());
    }
    let net = feature_net(asked)?;
    let mut drawn = Vec::new();
    let made = match asked.model {
        Some(_) => {
            let model = asked.run(metrics[0], Ability::Generate)?;
            let mut draw = |images: &Tensor<4>| {
                if args.pictures.is_some() {
                    drawn.extend(pictures(images.clone()));
                }
            };
            Side::of("the pictures", "", samples(model, asked, &net, &mut draw)?)
        }
        None => net.side(&asked.pictures.0, asked.pictures.1, args.n)?,
    };
    let real = if is_run(reference) {
        let (model, _) = open(Path::new(reference), WeightSet::Ema, &asked.common.device)?;
        need(&*model, Ability::Generate)?;
        Side::of(reference, "samples", samples(&*model, asked, &net, &mut |_| ())?)
    } else {
        net.side(reference, asked.split, REFERENCE)?
    };
    let found = Comparison { told, ..Comparison::by(&net, made, real) };
    if let (Some(folder), true) = (&args.pictures, metrics.contains(&"memorisation")) {
        let near = nearest_pairs(&found)?;
        let samples: Vec<usize> = near.iter().map(|pair| pair.0).collect();
        let above = match asked.model {
            Some(_) => samples.iter().map(|&i| drawn[i].clone()).collect(),
            None => net.pictures(&found.made.name, part_of(&found.made)?, &samples)?,
        };
        let below: Vec<usize> = near.iter().map(|pair| pair.1).collect();
        draw_neighbours(&above, &net.pictures(&found.real.name, part_of(&found.real)?, &below)?, folder)?;
    }
    figures(&found, metrics, args.seed, args.bootstrap, give)
}

/// The outputs of the feature net for a run's samples, each of which `draw` gets too.
fn samples(
    model: &dyn Model,
    asked: &Asked<'_>,
    net: &FeatureNet,
    draw: &mut dyn FnMut(&Tensor<4>),
) -> Result<Outputs> {
    let (args, mut outputs) = (asked.args, Outputs::default());
    let mut request = request(asked);
    request.sampler = args.sampler.table()?;
    request.guides = args.sampler.guides(model.info(), None, asked.common)?;
    generate(model, args.n, &request, asked.common.quiet, &mut |_, images| {
        draw(&images);
        net.apply(images, &mut outputs)
    })?;
    Ok(outputs)
}

fn request(asked: &Asked<'_>) -> Request {
    Request::new(0..asked.args.n as u64, asked.args.seed, asked.device)
}

/// The class each sample of a run is to show, if something leads it there.
fn told(model: &dyn Model, asked: &Asked<'_>) -> Option<Vec<usize>> {
    let classes = model.info().pictures.classes.len();
    let by = &asked.args.sampler;
    let led = by.guidance_scale.is_some() || by.classifier.is_some() || by.segmenter.is_some();
    let led = led || model.shows_classes().unwrap_or(false);
    (led && classes > 0).then(|| request(asked).classes(classes).into_iter().map(|c| c as usize).collect())
}

/// The feature net asked for; that of stored statistics if nothing is said.
fn feature_net(asked: &Asked<'_>) -> Result<FeatureNet> {
    let rule = asked.model.map(|m| m.info().data.rule()).unwrap_or_default();
    let stored = [asked.reference.as_str(), asked.args.what.as_str()].into_iter().find(|s| is_stats(s));
    let features = match (&asked.args.features, stored) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(file)) => Some(Stats::open(Path::new(file))?.about.features),
        (None, None) => None,
    };
    // Samples of a run are compared as their own data would be.
    let set = match asked.model {
        Some(model) if is_run(&asked.reference) => model.info().data.set.clone(),
        _ => asked.reference.clone(),
    };
    FeatureNet::of(features.as_deref(), &set, &rule, asked.common, asked.device)
}

/// Two files of statistics need no network, only to be of the same.
fn of_stats(made: &str, real: &str) -> Result<Comparison> {
    let (a, b) = (Stats::open(Path::new(made))?, Stats::open(Path::new(real))?);
    if a.about.identity != b.about.identity {
        return Err(Error::usage(format!(
            "{made} and {real} are of {} and {}, or of different weights: they do not compare",
            a.about.features, b.about.features
        )));
    }
    let (features, resize, classes) = (b.about.features.clone(), b.about.resize.clone(), b.about.classes);
    Ok(Comparison { made: Side::stored(a), real: Side::stored(b), features, resize, classes, told: None })
}

/// Gives every figure of a comparison; `seed` keys splits and subsets, `resamples` are behind an interval of fid.
///
/// # Errors
/// If the network cannot give a metric, or there are too few pictures.
pub fn figures(
    found: &Comparison,
    metrics: &[&str],
    seed: u64,
    resamples: usize,
    give: &mut dyn FnMut(MetricValue) -> Result<()>,
) -> Result<()> {
    let (made, real) = (&found.made.outputs, &found.real.outputs);
    let (a, b) = (found.made.features()?, found.real.features()?);
    let mut push =
        |m: MetricValue| give(m.features(&found.features, &found.resize).against(&found.real.name, &found.real.split));
    let mut prdc = None;
    for metric in metrics {
        if ["precision", "recall", "density", "coverage"].contains(metric) && prdc.is_none() {
            prdc = Some(in_equal_number(metric, b, a)?);
        }
        match (*metric, &prdc) {
            ("fid", _) => {
                let (n, d) = (found.made.all(), made.width());
                if n <= d {
                    tell!("fid of {n} pictures with {d} features is biased; use -n {} or more", 2 * d);
                }
                let fid = MetricValue::new("fid", found.made.frechet(&found.real)?, n);
                push(match resamples {
                    0 => fid,
                    n => with_interval(fid, n, Key::new(seed).purpose("bootstrap"), [a, b])?,
                })?;
            }
            ("is", _) => {
                if made.logits.is_empty() {
                    return Err(Error::usage(format!("--metrics is: {} does not classify", found.features)));
                }
                let logits = Features::new("the logits", &made.logits, made.logits.len() / made.n)?;
                let splits = if made.n >= 100 { 10 } else { 1 };
                let key = Key::new(seed).purpose("splits");
                let spread = inception_score::from_logits(logits, splits, Some(key))?;
                push(MetricValue::spread("is", spread, made.n))?;
            }
            ("kid", _) => {
                let spread = kernel::distance(
                    a,
                    b,
                    kernel::Subsets::standard(made.n, real.n),
                    Key::new(seed).purpose("subsets"),
                )?;
                push(MetricValue::spread("kid", spread, made.n))?;
            }
            ("precision", Some(p)) => push(share("precision", p.precision, made.n.min(real.n)))?,
            ("recall", Some(p)) => push(share("recall", p.recall, made.n.min(real.n)))?,
            ("density", Some(p)) => push(MetricValue::new("density", p.density, made.n))?,
            ("coverage", Some(p)) => push(MetricValue::new("coverage", p.coverage, made.n))?,
            ("ndb", _) => {
                // A bin of fewer than ten pictures says nothing.
                let bins = NDB_BINS.min(made.n.min(real.n) / 10).max(2);
                let binned = ndb::measure(b, a, bins, Key::new(seed).purpose("ndb"))?;
                push(MetricValue::new("ndb_share", binned.share(), made.n))?;
                push(MetricValue::new("ndb_jsd", binned.jsd, made.n))?;
            }
            ("diversity", _) => {
                let key = Key::new(seed).purpose("diversity");
                push(MetricValue::spread("diversity", diversity::mean_pairwise(a, DIVERSITY_PAIRS, key)?, made.n))?;
                push(MetricValue::spread(
                    "diversity_of_real",
                    diversity::mean_pairwise(b, DIVERSITY_PAIRS, key)?,
                    real.n,
                ))?;
            }
            ("memorisation", _) => {
                let (near, among) = (neighbours::nearest(a, b)?, neighbours::nearest_other(b)?);
                let summary = neighbours::memorisation(&near, &among)?;
                push(MetricValue::new("memorisation", summary.nearer, made.n))?;
                push(MetricValue::new("copies", summary.copies, made.n))?;
            }
            ("class_accuracy", _) => {
                knows_classes(found, metric)?;
                let told = found.told.as_ref().ok_or_else(untold)?;
                let confusion = Confusion::new(found.classes, told, &made.classes())?;
                push(share("class_accuracy", confusion.accuracy(), made.n))?;
            }
            ("classes", _) => {
                knows_classes(found, metric)?;
                let histogram = Histogram::new(found.classes, &made.classes())?;
                push(MetricValue::new("class_coverage", histogram.coverage(), made.n))?;
                push(MetricValue::new("class_unevenness", histogram.unevenness(), made.n))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Neighbours among real pictures and made ones in equal number, as the measures assume.
fn in_equal_number(metric: &str, real: Features<'_>, made: Features<'_>) -> Result<prdc::Prdc> {
    let count = made.n().min(real.n());
    if count <= NEIGHBOURS {
        let few = if made.n() == count { &made } else { &real };
        return Err(Error::usage(format!(
            "--metrics {metric}: {} has {count} pictures, and more than {NEIGHBOURS} are needed on each side; give more, or \
             leave it out",
            few.name()
        )));
    }
    let first = |side: Features<'_>| side.rows().take(count).flatten().copied().collect::<Vec<f32>>();
    let (x, y) = (first(real), first(made));
    let sides = (Features::new(real.name(), &x, real.d())?, Features::new(made.name(), &y, made.d())?);
    prdc::measure(sides.0, sides.1, NEIGHBOURS)
}

fn untold() -> Error {
    Error::usage(
        "--metrics class_accuracy: nothing tells the pictures a class; it is for a run that was told classes, and for \
         --guidance-scale and --classifier",
    )
}

/// A share of `n` pictures with its interval.
fn share(name: &str, part: f64, n: usize) -> MetricValue {
    MetricValue::new(name, part, n).within(wilson((part * n as f64).round() as usize, n))
}

/// Refuses a metric of classes in the features of a network that knows others.
fn knows_classes(found: &Comparison, metric: &str) -> Result<()> {
    if found.classes > 0 {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--metrics {metric}: {} knows other classes; use --features classifier:SET",
        found.features
    )))
}

/// A Fréchet distance with an interval from resampling both sides. Resamples repeat pictures, which
/// moves a distance up, so the interval is the basic one, mirrored about the figure; no distance is
/// below 0.
fn with_interval(fid: MetricValue, resamples: usize, key: Key, [a, b]: [Features; 2]) -> Result<MetricValue> {
    let rows = |of: Features, pick: &[usize]| pick.iter().flat_map(|&i| of.row(i).to_vec()).collect::<Vec<f32>>();
    let resampled = bootstrap::resample(&[a.n(), b.n()], resamples, key, |picks| {
        let (x, y) = (rows(a, &picks[0]), rows(b, &picks[1]));
        frechet::between(Features::new(a.name(), &x, a.d())?, Features::new(b.name(), &y, b.d())?)
    })?;
    let interval = resampled.basic(fid.value, 0.95)?.map(|end| end.max(0.0));
    Ok(fid.within(interval))
}

/// The samples that are nearest to a picture of the reference with that picture, the nearest first.
fn nearest_pairs(found: &Comparison) -> Result<Vec<(usize, usize)>> {
    let near = neighbours::nearest(found.made.features()?, found.real.features()?)?;
    let mut samples: Vec<usize> = (0..near.len()).collect();
    samples.sort_by(|&i, &j| near[i].distance.total_cmp(&near[j].distance));
    Ok(samples.into_iter().take(DRAWN.0).map(|i| (i, near[i].index)).collect())
}

/// The part of a set that a side is, which stored statistics say themselves; a run's samples are none.
fn part_of(side: &Side) -> Result<Split> {
    side.split.parse().map_err(|_| {
        Error::usage(format!("--pictures: {} has no pictures to draw; compare with a set instead", side.name))
    })
}

/// Each sample above its neighbour: `neighbours.png`.
fn draw_neighbours(samples: &[Picture], neighbours: &[Picture], folder: &Path) -> Result<()> {
    let mut sheet: Vec<Picture> = Vec::new();
    for (above, below) in samples.chunks(DRAWN.1).zip(neighbours.chunks(DRAWN.1)) {
        sheet.extend(above.iter().cloned());
        sheet.extend(below.iter().zip(above).map(|(p, like)| p.resize(like.width, like.height)));
    }
    output::folder(folder)?;
    contact_sheet(&sheet, DRAWN.1, 0)?.write_png(&folder.join("neighbours.png"), &[])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    /// Three of four pictures look like what they were told: 0.75, and Wilson's interval of it.
    #[test]
    fn class_accuracy_is_of_the_classes_told() {
        let side = |name: &str| {
            let logits = vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0];
            Side::of(name, "", Outputs { features: vec![0.0; 4], logits, n: 4 })
        };
        let (features, resize) = (String::from("net"), String::from("none"));
        let compared = |told, classes| Comparison {
            made: side("a"),
            real: side("b"),
            features: features.clone(),
            resize: resize.clone(),
            classes,
            told,
        };
        let all = |c: Comparison| {
            let mut all = Vec::new();
            figures(&c, &["class_accuracy"], 0, 0, &mut |figure| {
                all.push(figure);
                Ok(())
            })
            .map(|()| all)
        };
        let found = all(compared(Some(vec![0, 1, 1, 0]), 2)).unwrap();
        assert_eq!((found[0].value, found[0].interval), (0.75, Some(wilson(3, 4))));
        let said = |c: Comparison| all(c).unwrap_err().to_string();
        assert!(said(compared(None, 2)).contains("nothing tells"));
        assert!(said(compared(Some(vec![0; 4]), 0)).contains("knows other classes"));
    }
}
