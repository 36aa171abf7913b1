//! `kiln evaluate`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use clap::Args;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{Prepared, Split};
use kiln_measure::classes::{Confusion, Histogram, wilson};
use kiln_measure::svm::LinearSvm;
use kiln_measure::{
    Features, Measure, bootstrap, diversity, frechet, inception_score, kernel, ndb, neighbours, pairs, prdc,
};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::model::Weights;
use kiln_train::{Ability, Figure, GenerateRequest, Model, Watch, Watcher};

use crate::Common;
use crate::judge::Judge;
use crate::output::Output;
use crate::seen::{Seen, argmax};
use crate::verbs::sample::{SamplerArgs, generate};
use crate::verbs::{need, open};

/// Every metric `--metrics` takes.
pub const METRICS: [&str; 15] = [
    "fid",
    "is",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "classes",
    "ndb",
    "diversity",
    "memorisation",
    "nll",
    "accuracy",
    "pairs",
    "svm",
];

/// Those of pictures as a whole, in a network's features.
const OF_DISTRIBUTIONS: [&str; 11] =
    ["fid", "is", "kid", "precision", "recall", "density", "coverage", "classes", "ndb", "diversity", "memorisation"];

/// Bins of ndb (Richardson & Weiss 2018), if there are pictures enough for them.
const NDB_BINS: usize = 100;

/// Pairs of pictures behind diversity.
const DIVERSITY_PAIRS: usize = 2_000;

/// C of the linear SVM. Small, since there may be as many features as pictures.
const SVM_C: f64 = 1e-3;

#[derive(Args)]
pub struct EvaluateArgs {
    /// A run, or pictures: a folder, a zip, a name of `kiln data list`
    what: String,
    /// The reference set; a run's own data by default
    #[arg(long)]
    against: Option<String>,
    /// A list of fid, is, kid, precision, recall, density, coverage, classes, ndb, diversity, memorisation, nll,
    /// accuracy, pairs, svm
    #[arg(long, value_delimiter = ',', default_value = "fid,is")]
    metrics: Vec<String>,
    /// The feature net: classifier:SET (by default of the reference), mobilenetv2-imagenet, or NAME:FILE with
    /// inception-v3-fid, mobilenetv2-imagenet, vgg16-fc2 or vgg19-fc2
    #[arg(long)]
    features: Option<String>,
    /// Pictures to generate, or at most to read
    #[arg(short, default_value_t = 1000)]
    n: usize,
    /// Part of the reference: train or test
    #[arg(long, default_value = "train")]
    split: Split,
    /// Keys the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Resamples behind a 95 % interval of fid; 0 gives none
    #[arg(long, default_value_t = 0)]
    bootstrap: usize,
    /// Samples for nll: importance samples of a vae (0: the bound), terms of a ddpm's bound (0: all)
    #[arg(long, default_value_t = 0)]
    samples: usize,
    /// Labelled pictures of each class that svm learns from
    #[arg(long, default_value_t = 400)]
    labels_per_class: usize,
    /// Use the live weights instead of their average
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampler: SamplerArgs,
}

pub fn run(args: &EvaluateArgs, common: &Common, out: &Output) -> Result<()> {
    for measure in measure(args, common)? {
        out.say(|| measure.to_string(), &measure);
    }
    Ok(())
}

/// Scores a finished run against its own data: what `train --then-evaluate` prints.
pub fn of_run(root: &Path, metrics: &str, common: &Common, out: &Output) -> Result<()> {
    let args = EvaluateArgs::new(&root.display().to_string(), metrics, 500);
    run(&args, common, out)
}

impl EvaluateArgs {
    /// With every other choice left to its default.
    pub fn new(what: &str, metrics: &str, n: usize) -> Self {
        Self {
            what: what.into(),
            against: None,
            metrics: metrics.split(',').map(str::to_string).collect(),
            features: None,
            n,
            split: Split::Train,
            seed: 0,
            bootstrap: 0,
            samples: 0,
            labels_per_class: 400,
            raw: false,
            sampler: SamplerArgs::default(),
        }
    }

    /// With another part of the reference.
    pub fn split(self, split: Split) -> Self {
        Self { split, ..self }
    }

    /// With sampler settings.
    pub fn sampler(self, sampler: SamplerArgs) -> Self {
        Self { sampler, ..self }
    }

    /// With so many importance samples.
    pub fn samples(self, samples: usize) -> Self {
        Self { samples, ..self }
    }
}

/// Everything asked for.
///
/// # Errors
/// A usage error for an unknown metric or one the run cannot give.
pub fn measure(args: &EvaluateArgs, common: &Common) -> Result<Vec<Measure>> {
    let root = PathBuf::from(&args.what);
    if root.join("recipe.toml").is_file() {
        let weights = if args.raw { Weights::Raw } else { Weights::Average };
        let (model, device) = open(&root, weights, &common.device)?;
        return measure_on(Some(&*model), &device, args, common);
    }
    measure_on(None, &kiln_train::device::by_name(&common.device)?, args, common)
}

fn check_metrics<'a>(metrics: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match metrics.into_iter().find(|m| !METRICS.contains(m)) {
        Some(metric) => Err(Error::usage(format!("--metrics {metric}: unknown; there are {}", METRICS.join(", ")))),
        None => Ok(()),
    }
}

/// Measures a run while it trains.
pub struct DuringTraining {
    common: Common,
}

impl DuringTraining {
    /// As a watcher of the loop, which has the progress bar to itself.
    pub fn watcher(common: &Common) -> Watcher {
        Watcher(Arc::new(Self { common: Common { quiet: true, ..common.clone() } }))
    }
}

impl Watch for DuringTraining {
    fn check(&self, metrics: &str) -> Result<()> {
        check_metrics(metrics.split(','))
    }

    fn measure(&self, model: &dyn Model) -> Result<Vec<Figure>> {
        let (info, train) = (model.info(), &model.info().train);
        let args = EvaluateArgs::new(&info.run, &train.metrics, train.evaluate_count);
        let measures = measure_on(Some(model), &info.device, &args, &self.common)?;
        let figure =
            |m: Measure| Figure { name: m.full_name(), value: m.value, larger_is_better: m.larger_is_better() };
        Ok(measures.into_iter().map(figure).collect())
    }
}

/// Everything asked for, of a run or of pictures.
fn measure_on(
    model: Option<&dyn Model>,
    device: &Device,
    args: &EvaluateArgs,
    common: &Common,
) -> Result<Vec<Measure>> {
    check_metrics(args.metrics.iter().map(String::as_str))?;
    if args.n < 2 {
        return Err(Error::usage(format!("-n {}: at least 2 pictures are needed", args.n)));
    }
    let reference = match (&args.against, model) {
        (Some(name), _) => name.clone(),
        (None, Some(model)) => model.info().data.set.clone(),
        (None, None) => return Err(Error::usage("--against is needed for pictures: the set to compare them with")),
    };
    let wanted = |names: &[&str]| args.metrics.iter().any(|m| names.contains(&m.as_str()));
    let mut out = Vec::new();
    if wanted(&OF_DISTRIBUTIONS) {
        distribution(args, model, &reference, common, device, &mut out)?;
    }
    let run = |metric: &str| model.ok_or_else(|| Error::usage(format!("--metrics {metric} needs a run, not pictures")));
    if wanted(&["nll"]) {
        out.extend(likelihood(run("nll")?, args, &reference, device)?);
    }
    if wanted(&["accuracy"]) {
        out.push(accuracy(run("accuracy")?, args, &reference, device)?);
    }
    if wanted(&["pairs"]) {
        out.extend(known_pairs(run("pairs")?, args, &reference, device)?);
    }
    if wanted(&["svm"]) {
        out.extend(linear_probe(run("svm")?, args, &reference, device)?);
    }
    Ok(out)
}

/// Measures of a set of pictures through the judge's features.
fn distribution(
    args: &EvaluateArgs,
    model: Option<&dyn Model>,
    reference: &str,
    common: &Common,
    device: &Device,
    out: &mut Vec<Measure>,
) -> Result<()> {
    let rule = model.map(|m| m.info().data.rule()).unwrap_or_default();
    let judge = Judge::of(args.features.as_deref(), reference, &rule, common, device)?;
    let made = match model {
        Some(model) => {
            need(model, Ability::Generate)?;
            let mut request = GenerateRequest::new(0..args.n as u64, args.seed, device);
            request.sampler = args.sampler.settings();
            let mut seen = Seen::default();
            generate(model, args.n, &request, common.quiet, &mut |_, images| judge.look(images, &mut seen))?;
            seen
        }
        None => judge.look_at_set(&args.what, args.split, args.n)?,
    };
    let real = judge.look_at_set(reference, args.split, 10_000)?;
    let a = Features::new("the pictures", &made.features, made.width())?;
    let b = Features::new(reference, &real.features, real.width())?;
    let split = args.split.to_string();
    let mut push = |m: Measure| out.push(m.features(&judge.name, &judge.resize()).against(reference, &split));
    let neighbours =
        if args.metrics.iter().any(|m| ["precision", "recall", "density", "coverage"].contains(&m.as_str())) {
            // Real and made in equal number, as the measures assume.
            let count = made.n.min(real.n);
            let (d, k) = (real.width(), 5);
            let (x, y) = (&real.features[..count * d], &made.features[..count * d]);
            Some(prdc::measure(Features::new(reference, x, d)?, Features::new("the pictures", y, d)?, k)?)
        } else {
            None
        };
    for metric in &args.metrics {
        match (metric.as_str(), &neighbours) {
            ("fid", _) => {
                if made.n <= made.width() {
                    eprintln!(
                        "kiln: fid of {} pictures with {} features is biased; use -n {} or more",
                        made.n,
                        made.width(),
                        2 * made.width()
                    );
                }
                let value = frechet::between(a, b)?;
                push(with_interval(args, "fid", value, made.n, [a, b], frechet::between)?);
            }
            ("is", _) => {
                if made.logits.is_empty() {
                    return Err(Error::usage(format!("--metrics is: {} does not classify", judge.name)));
                }
                let logits = Features::new("the logits", &made.logits, made.logits.len() / made.n)?;
                let splits = if made.n >= 100 { 10 } else { 1 };
                let key = Key::new(args.seed).purpose("splits");
                push(Measure::spread("is", inception_score::from_logits(logits, splits, Some(key))?, made.n));
            }
            ("kid", _) => {
                let spread = kernel::distance(
                    a,
                    b,
                    kernel::Subsets::standard(made.n, real.n),
                    Key::new(args.seed).purpose("subsets"),
                )?;
                push(Measure::spread("kid", spread, made.n));
            }
            ("precision", Some(p)) => push(Measure::new("precision", p.precision, made.n)),
            ("recall", Some(p)) => push(Measure::new("recall", p.recall, made.n)),
            ("density", Some(p)) => push(Measure::new("density", p.density, made.n)),
            ("coverage", Some(p)) => push(Measure::new("coverage", p.coverage, made.n)),
            ("ndb", _) => {
                // A bin of fewer than ten pictures says nothing.
                let bins = NDB_BINS.min(made.n.min(real.n) / 10).max(2);
                let found = ndb::measure(b, a, bins, Key::new(args.seed).purpose("ndb"))?;
                push(Measure::new("ndb_share", found.share(), made.n));
                push(Measure::new("ndb_jsd", found.jsd, made.n));
            }
            ("diversity", _) => {
                let key = Key::new(args.seed).purpose("diversity");
                push(Measure::spread("diversity", diversity::mean_pairwise(a, DIVERSITY_PAIRS, key)?, made.n));
                push(Measure::spread("diversity_of_real", diversity::mean_pairwise(b, DIVERSITY_PAIRS, key)?, real.n));
            }
            ("memorisation", _) => {
                let (near, among) = (neighbours::nearest(a, b)?, neighbours::nearest_other(b)?);
                let found = neighbours::memorisation(&near, &among)?;
                push(Measure::new("memorisation", found.nearer, made.n));
                push(Measure::new("copies", found.copies, made.n));
            }
            ("classes", _) => {
                let classes = judge.classes().ok_or_else(|| {
                    Error::usage(format!(
                        "--metrics classes: {} knows other classes; use --features classifier:SET",
                        judge.name
                    ))
                })?;
                let histogram = Histogram::new(classes, &made.classes())?;
                push(Measure::new("class_coverage", histogram.coverage(), made.n));
                push(Measure::new("class_unevenness", histogram.unevenness(), made.n));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A figure with, if it was asked for, an interval from resampling both sides. Resamples repeat
/// pictures, which moves a distance up, so the interval is the basic one, mirrored about the figure.
fn with_interval(
    args: &EvaluateArgs,
    name: &str,
    value: f64,
    n: usize,
    [a, b]: [Features; 2],
    figure: impl Fn(Features, Features) -> Result<f64>,
) -> Result<Measure> {
    let measure = Measure::new(name, value, n);
    if args.bootstrap == 0 {
        return Ok(measure);
    }
    let rows = |of: Features, pick: &[usize]| pick.iter().flat_map(|&i| of.row(i).to_vec()).collect::<Vec<f32>>();
    let key = Key::new(args.seed).purpose("bootstrap");
    let resampled = bootstrap::resample(&[a.n(), b.n()], args.bootstrap, key, |picks| {
        let (x, y) = (rows(a, &picks[0]), rows(b, &picks[1]));
        figure(Features::new(a.name(), &x, a.d())?, Features::new(b.name(), &y, b.d())?)
    })?;
    Ok(measure.within(resampled.basic(value, 0.95)?))
}

/// Pictures of a set in the run's own shape, a chunk at a time.
fn chunks(
    model: &dyn Model,
    spec: &str,
    split: Split,
    n: usize,
    device: &Device,
    mut each: impl FnMut(Tensor<4>, &[u32]) -> Result<()>,
) -> Result<usize> {
    let rule = kiln_data::PictureRule { flip: false, ..model.info().data.rule() };
    let prepared = Prepared::new(kiln_data::open(spec, split, &rule)?, rule)?;
    let [c, h, w] = prepared.shape();
    let total = prepared.len().min(n);
    for start in (0..total).step_by(100) {
        let count = (total - start).min(100);
        let (mut values, mut labels) = (Vec::with_capacity(count * c * h * w), Vec::new());
        for i in start..start + count {
            let sample = prepared.get(i)?;
            values.extend(sample.values);
            labels.extend(sample.label);
        }
        each(from_values(values, [count, c, h, w], device), &labels)?;
    }
    Ok(total)
}

fn likelihood(model: &dyn Model, args: &EvaluateArgs, reference: &str, device: &Device) -> Result<Vec<Measure>> {
    need(model, Ability::Likelihood)?;
    let mut all = Vec::new();
    let n = chunks(model, reference, args.split, args.n, device, |images, _| {
        let key = Key::new(args.seed).purpose("nll").at(all.len() as u64);
        all.extend(to_values(model.nll(images, args.samples, key)?).into_iter().map(f64::from));
        Ok(())
    })?;
    let mean = all.iter().sum::<f64>() / n as f64;
    let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n as f64 - 1.0).max(1.0);
    let half = 1.96 * (variance / n as f64).sqrt();
    let split = args.split.to_string();
    let name = model.nll_name(args.samples)?;
    let dims: usize = model.info().pictures.shape.iter().product();
    let bits = 1.0 / (dims as f64 * std::f64::consts::LN_2);
    Ok(vec![
        Measure::new(&name, mean, n).within([mean - half, mean + half]).against(reference, &split),
        Measure::new("bpd", mean * bits, n)
            .within([(mean - half) * bits, (mean + half) * bits])
            .against(reference, &split),
    ])
}

fn accuracy(model: &dyn Model, args: &EvaluateArgs, reference: &str, device: &Device) -> Result<Measure> {
    need(model, Ability::Classify)?;
    // A run on source and target is judged on the target, the last set it names.
    let set = reference.rsplit(',').next().unwrap_or(reference);
    let (mut truth, mut predicted) = (Vec::new(), Vec::new());
    let mut classes = 0;
    let n = chunks(model, set, args.split, args.n, device, |images, labels| {
        let logits = model.classify(images)?;
        classes = logits.dims()[1];
        let values = to_values(logits);
        predicted.extend(values.chunks(classes).map(argmax));
        truth.extend(labels.iter().map(|&l| l as usize));
        Ok(())
    })?;
    if truth.len() != n {
        return Err(Error::usage(format!("{set} has no labels to measure accuracy with")));
    }
    let confusion = Confusion::new(classes, &truth, &predicted)?;
    let split = args.split.to_string();
    Ok(Measure::new("accuracy", confusion.accuracy(), n).within(wilson(confusion.right(), n)).against(set, &split))
}

/// Accuracy on the test part of a linear SVM that learned a few labels on the run's features
/// (Radford 2016, §5.1), beside one that learned on the pixels.
fn linear_probe(model: &dyn Model, args: &EvaluateArgs, reference: &str, device: &Device) -> Result<Vec<Measure>> {
    need(model, Ability::Represent)?;
    let classes = kiln_data::open(reference, Split::Train, &model.info().data.rule())?.classes().len();
    if classes < 2 {
        return Err(Error::usage(format!("--metrics svm needs labels, and {reference} has none")));
    }
    /// Features and pixels of labelled pictures.
    #[derive(Default)]
    struct Seen {
        tables: [Vec<f32>; 2],
        labels: Vec<usize>,
    }
    let look = |split: Split, n: usize, per_class: usize| -> Result<Seen> {
        let (mut seen, mut left) = (Seen::default(), vec![per_class; classes]);
        chunks(model, reference, split, n, device, |images, labels| {
            let wanted: Vec<u32> = (0..labels.len())
                .filter(|&i| {
                    let left = &mut left[labels[i] as usize];
                    let take = *left > 0;
                    *left -= usize::from(take);
                    take
                })
                .map(|i| i as u32)
                .collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let images = images.select(0, kiln_nn::tensor::from_indices(&wanted, device));
            seen.labels.extend(wanted.iter().map(|&i| labels[i as usize] as usize));
            seen.tables[0].extend(to_values(model.represent(images.clone())?));
            seen.tables[1].extend(to_values(images));
            Ok(())
        })?;
        Ok(seen)
    };
    let train = look(Split::Train, usize::MAX, args.labels_per_class)?;
    let test = look(Split::Test, args.n, usize::MAX)?;
    let mut out = Vec::new();
    for (name, train_on, test_on) in [
        ("svm_accuracy", &train.tables[0], &test.tables[0]),
        ("svm_accuracy_of_pixels", &train.tables[1], &test.tables[1]),
    ] {
        let width = train_on.len() / train.labels.len().max(1);
        let svm = LinearSvm::fit(Features::new(reference, train_on, width)?, &train.labels, classes, SVM_C, 1e-3)?;
        let predicted = svm.predict(Features::new(reference, test_on, width)?)?;
        let confusion = Confusion::new(classes, &test.labels, &predicted)?;
        let (right, n) = (confusion.right(), confusion.n());
        out.push(Measure::new(name, confusion.accuracy(), n).within(wilson(right, n)).against(reference, "test"));
    }
    Ok(out)
}

/// Distance of translations to the known counterparts, beside the distance of the inputs themselves.
fn known_pairs(model: &dyn Model, args: &EvaluateArgs, reference: &str, device: &Device) -> Result<Vec<Measure>> {
    need(model, Ability::Translate)?;
    let rule = kiln_data::PictureRule { flip: false, ..model.info().data.rule() };
    let sets = kiln_data::open_all(reference, args.split, &rule)?;
    let [a, b] = &sets[..] else {
        return Err(Error::usage(format!("--metrics pairs needs two sets of known pairs, not `{reference}`")));
    };
    let sides = [Prepared::new(a.clone(), rule.clone())?, Prepared::new(b.clone(), rule)?];
    let shape = sides[0].shape();
    let n = sides[0].len().min(sides[1].len()).min(args.n);
    let split = args.split.to_string();
    let mut out = Vec::new();
    for (direction, (from, to)) in model.directions()?.into_iter().zip([(0, 1), (1, 0)]) {
        let mut sums = [0.0; 6];
        for i in 0..n {
            let (input, target) = (sides[from].get(i)?.values, sides[to].get(i)?.values);
            let images = from_values(input.clone(), [1, shape[0], shape[1], shape[2]], device);
            let output = to_values(model.translate(images, direction)?);
            for (sum, value) in sums.iter_mut().zip([
                pairs::l1(&output, &target)?,
                pairs::l1(&input, &target)?,
                pairs::ssim(&output, &target, shape, 2.0)?,
                pairs::ssim(&input, &target, shape, 2.0)?,
                pairs::gradient_l1(&output, &target, shape)?,
                pairs::gradient_l1(&input, &target, shape)?,
            ]) {
                *sum += value / n as f64;
            }
        }
        const NAMES: [&str; 6] = [
            "pair_l1",
            "pair_l1_of_input",
            "pair_ssim",
            "pair_ssim_of_input",
            "pair_gradient",
            "pair_gradient_of_input",
        ];
        for (name, value) in NAMES.into_iter().zip(sums) {
            out.push(Measure::new(&format!("{name}_{direction}"), value, n).against(reference, &split));
        }
    }
    Ok(out)
}
