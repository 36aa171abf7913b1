//! `kiln evaluate`: the table of metrics, and which file computes each.

mod discriminator;
mod guided;
mod labels;
mod latents;
mod likelihood;
mod pairs;
mod projection;
mod selection;
pub mod sensitivity;
pub mod sets;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use clap::{Args, Command, FromArgMatches};
use kiln_core::random::Key;
use kiln_core::{Error, Result, output};
use kiln_data::{Prepared, Split};
use kiln_features::Lpips;
use kiln_measure::MetricValue;
use kiln_nn::tensor::from_values;
use kiln_train::request::sampler_flags;
use kiln_train::{Ability, Evaluation, Model, Progress, Watch, Watcher, WeightSet};

pub use self::labels::check_classes;
use crate::output::Output;
use crate::ranges::ranged;
use crate::verbs::sample::SamplerArgs;
use crate::verbs::texts::TemplateArgs;
use crate::verbs::{check_png, need, open, perceptual, weight_set};
use crate::{Common, usage};

/// What a metric is computed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// A set of images, against a reference set.
    Sets,
    /// The likelihood of held-out images.
    Likelihood,
    /// Labelled images.
    Labels,
    /// Pairs of an image and its target.
    Pairs,
    /// The latent space.
    Latents,
    /// A discriminator.
    Discriminator,
    /// What a guide asks of samples.
    Guide,
}

/// A metric that `--metrics` accepts.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    on: On,
    /// The run must have one of these abilities.
    pub needs: &'static [Ability],
}

const fn metric(name: &'static str, on: On, needs: &'static [Ability]) -> Metric {
    Metric { name, on, needs }
}

const GENERATE: &[Ability] = &[Ability::Generate];
const PAIRS: &[Ability] = &[Ability::Translate, Ability::Reconstruct];

/// Every metric that `--metrics` accepts.
pub const METRICS: &[Metric] = &[
    metric("fid", On::Sets, GENERATE),
    metric("is", On::Sets, GENERATE),
    metric("kid", On::Sets, GENERATE),
    metric("precision", On::Sets, GENERATE),
    metric("recall", On::Sets, GENERATE),
    metric("density", On::Sets, GENERATE),
    metric("coverage", On::Sets, GENERATE),
    metric("classes", On::Sets, GENERATE),
    metric("class_accuracy", On::Sets, GENERATE),
    metric("ndb", On::Sets, GENERATE),
    metric("diversity", On::Sets, GENERATE),
    metric("memorisation", On::Sets, GENERATE),
    metric("nll", On::Likelihood, &[Ability::Likelihood]),
    metric("bpd", On::Likelihood, &[Ability::Likelihood]),
    metric("nll_exact", On::Likelihood, &[Ability::Likelihood]),
    metric("outliers", On::Likelihood, &[Ability::Likelihood]),
    metric("accuracy", On::Labels, &[Ability::Classify]),
    metric("guided_segments", On::Guide, GENERATE),
    metric("retrieval", On::Labels, &[Ability::MatchTexts]),
    metric("zero_shot", On::Labels, &[Ability::MatchTexts]),
    metric("segments", On::Labels, &[Ability::Segment]),
    metric("svm", On::Labels, &[Ability::Represent]),
    metric("clusters", On::Labels, &[Ability::Cluster]),
    metric("a_distance", On::Labels, &[Ability::Represent]),
    metric("mmd", On::Labels, &[Ability::Represent]),
    metric("selection", On::Labels, &[Ability::Classify]),
    metric("pairs", On::Pairs, PAIRS),
    metric("ms_ssim", On::Pairs, PAIRS),
    metric("lpips", On::Pairs, PAIRS),
    metric("color", On::Pairs, PAIRS),
    metric("translation_fid", On::Pairs, &[Ability::Translate]),
    metric("translation_diversity", On::Pairs, &[Ability::Translate]),
    metric("translation_segments", On::Pairs, &[Ability::Translate]),
    metric("pair_latents", On::Pairs, &[Ability::Encode]),
    metric("ppl", On::Latents, &[Ability::Decode]),
    metric("ppl_w", On::Latents, &[Ability::Mix]),
    metric("ppl_w_end", On::Latents, &[Ability::Mix]),
    metric("separability", On::Latents, &[Ability::Decode]),
    metric("separability_w", On::Latents, &[Ability::Mix]),
    metric("projection", On::Latents, &[Ability::Project]),
    metric("mig", On::Latents, &[Ability::Encode]),
    metric("factor_r2", On::Latents, &[Ability::Encode]),
    metric("factor_eta2", On::Latents, &[Ability::Encode]),
    metric("prior", On::Latents, &[Ability::Encode]),
    metric("scores", On::Discriminator, &[Ability::Discriminate]),
    metric("optimal_discriminator", On::Discriminator, &[Ability::Discriminate]),
];

/// The metric of a name.
///
/// # Errors
/// A usage error that lists those there are.
pub fn find(name: &str) -> Result<&'static Metric> {
    METRICS.iter().find(|m| m.name == name).ok_or_else(|| {
        let names: Vec<&str> = METRICS.iter().map(|m| m.name).collect();
        Error::usage(format!("--metrics {name}: unknown; there are {}", names.join(", ")))
    })
}

/// The figures that a metric prints; one that ends in `_` goes on with a name that the run or its data say.
fn figures(metric: &str, samples: usize) -> Vec<String> {
    let known: &[&str] = match metric {
        "classes" => &["class_coverage", "class_unevenness"],
        "ndb" => &["ndb_share", "ndb_jsd"],
        "diversity" => &["diversity", "diversity_of_real"],
        "memorisation" => &["memorisation", "copies"],
        "nll" | "bpd" => {
            let of = |name: &str| [name.to_string(), format!("{name}_bound"), format!("{name}_{samples}")];
            return ["nll", "conditional_nll"].into_iter().flat_map(of).chain(["bpd".to_string()]).collect();
        }
        "nll_exact" => &["nll_exact", "bpd_exact"],
        "outliers" => &["auroc_"],
        "retrieval" => &["image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5"],
        "zero_shot" => &["zero_shot_accuracy"],
        "segments" => &["pixel_accuracy", "miou"],
        "guided_segments" => &["guided_pixel_accuracy", "guided_miou"],
        "clusters" => &["cluster_error", "cluster_nmi"],
        "svm" => &["svm_accuracy", "svm_accuracy_of_pixels"],
        "pairs" => &["pair_l1_", "pair_psnr_", "pair_ssim_", "pair_gradient_"],
        "ms_ssim" => &["pair_ms_ssim_"],
        "lpips" => &["pair_lpips_"],
        "color" => &["pair_lightness_", "pair_chroma_"],
        "translation_fid" => &["translation_fid_"],
        "translation_diversity" => &["translation_diversity_"],
        "translation_segments" => &["translation_accuracy_", "translation_miou_"],
        "selection" => &["source_risk", "weighted_risk", "deep_embedded_risk", "entropy", "neighbourhood_density"],
        "pair_latents" => &["latent_distance_of_pairs", "latent_distance_of_others"],
        "projection" => &["projection_generated", "projection_real", "auroc_projection"],
        "ppl" => &["ppl", "ppl_end"],
        "mig" => &["mig_"],
        "factor_r2" => &["factor_r2_", "factor_leak_"],
        "factor_eta2" => &["factor_eta2_"],
        "prior" => &["prior_mmd2", "prior_p_value"],
        "scores" => &["score_real", "score_fake", "auroc_discriminator"],
        "optimal_discriminator" => &["d_error", "value", "value_optimum", "slope_saturating", "slope_non_saturating"],
        other => &[other],
    };
    known.iter().copied().map(String::from).collect()
}

/// Whether `name` speaks of a figure that is printed as `figure`: its name, or the base of it, as `nll` is of `nll_200` and of
/// `conditional_nll_bound`. Another metric's own figure has no base: `nll_exact` is no `nll`.
pub fn is_called(figure: &str, name: &str) -> bool {
    let begins = |figure: &str| figure.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let based = begins(figure) || figure.strip_prefix("conditional_").is_some_and(begins);
    figure == name || based && find(figure).is_err()
}

#[derive(Args)]
pub struct EvaluateArgs {
    /// Run folder, or images: a folder, a zip, a name from `kiln data list` (fashion, fashion/test), or a file of
    /// `kiln data stats`
    what: String,
    /// Reference images, likewise; a run's own data by default
    #[arg(long)]
    against: Option<String>,
    /// Metrics, a list of fid, is, kid, precision, recall, density, coverage, classes, class_accuracy, ndb, diversity, memorisation,
    /// nll, bpd, nll_exact, outliers, accuracy, retrieval, zero_shot, guided_segments, segments, svm, clusters, a_distance, mmd, selection, pairs, ms_ssim, lpips, color, translation_fid, translation_diversity, translation_segments, pair_latents, ppl, ppl_w, ppl_w_end, separability, separability_w, projection, mig,
    /// factor_r2,
    /// factor_eta2, prior, scores, optimal_discriminator
    #[arg(long, value_delimiter = ',', default_value = "fid,is")]
    metrics: Vec<String>,
    /// Feature network: classifier:SET (default, of the reference set), run:DIR, mobilenetv2-imagenet,
    /// efficientnet-lite0-imagenet, or NAME:FILE with inception-v3-fid, mobilenetv2-imagenet, efficientnet-lite0-imagenet,
    /// vgg16-fc2 or vgg19-fc2
    #[arg(long)]
    features: Option<String>,
    /// Network of lpips and ppl: lpips-like-mobilenetv2, lpips-vgg16:FILE or lpips-alex:FILE
    #[arg(long, default_value = "lpips-like-mobilenetv2")]
    perceptual: String,
    /// Run of a segmenter, which finds the classes of translations for translation_segments
    #[arg(long, value_name = "RUN")]
    segment_by: Option<PathBuf>,
    /// PNG of images, their masks and what the run finds, to write with segments
    #[arg(long, value_name = "PNG")]
    predictions: Option<PathBuf>,
    /// Images to generate or, at most, to read
    #[arg(short, default_value_t = 1000)]
    n: usize,
    /// Part of a named set: train, test or all; by default train of a run's data and of a named set, all
    /// of a folder
    #[arg(long)]
    split: Option<Split>,
    /// Seed of the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Bootstrap resamples for a 95 % interval of fid; 0 computes none
    #[arg(long, default_value_t = 0)]
    bootstrap: usize,
    /// Second run, trained on images in general: adds the likelihood ratio to outliers
    #[arg(long)]
    background: Option<PathBuf>,
    /// Samples for nll: importance samples of a vae (0: the bound), terms of a ddpm's bound (0: all), probe vectors of
    /// nll_exact
    #[arg(long, default_value_t = 0)]
    samples: usize,
    /// Labelled images of each class that svm trains on
    #[arg(long, default_value_t = 400)]
    labels_per_class: usize,
    /// Folder for images of memorisation: each sample above its nearest training image
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Weights to use: ema (the moving average, if the run keeps one) or live
    #[arg(long, value_parser = weight_set, default_value = "ema")]
    weights: WeightSet,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
}

pub fn run(args: &EvaluateArgs, common: &Common, out: &Output) -> Result<()> {
    args.predictions.as_deref().map_or(Ok(()), check_png)?;
    each_measure(args, common, &mut |measure| out.say(|| measure.to_string(), &measure))
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
            perceptual: perceptual::DEFAULT.into(),
            segment_by: None,
            predictions: None,
            n,
            split: None,
            seed: 0,
            bootstrap: 0,
            background: None,
            samples: 0,
            labels_per_class: 400,
            pictures: None,
            weights: WeightSet::Ema,
            template: TemplateArgs::default(),
            sampler: SamplerArgs::default(),
        }
    }

    /// What `kiln evaluate` reads from these words.
    ///
    /// # Errors
    /// A usage error for a flag that it does not know, or a value that does not fit.
    pub fn parse(words: Vec<String>) -> Result<Self> {
        let parser = ranged(Self::augment_args(Command::new("evaluate").no_binary_name(true)));
        let parsed = parser.try_get_matches_from(words).and_then(|m| Self::from_arg_matches(&m));
        parsed.map_err(|e| usage::error(&e))
    }

    /// What is to be measured.
    pub fn metrics(&self) -> &[String] {
        &self.metrics
    }

    /// The figures that may be printed; one that ends in `_` goes on with a name that the run or its data say.
    pub fn figures(&self) -> Vec<String> {
        self.metrics.iter().flat_map(|metric| figures(metric, self.samples)).collect()
    }

    /// Whether `name` may speak of one of them.
    pub fn gives(&self, name: &str) -> bool {
        self.figures().iter().any(|figure| match figure.strip_suffix('_') {
            Some(base) => is_called(base, name) || name.starts_with(figure),
            None => is_called(figure, name),
        })
    }
}

/// A set of the command line and the part of it: `fashion/test` says both, and a folder has no parts
/// unless one is asked for.
pub fn part(spec: &str, asked: Option<Split>) -> (String, Split) {
    let named = |spec: &str| kiln_data::split_specs(spec).iter().all(|set| kiln_data::is_named(set));
    if let Some((name, Ok(part))) = spec.rsplit_once('/').map(|(name, part)| (name, part.parse()))
        && named(name)
    {
        return (name.into(), part);
    }
    (spec.into(), asked.unwrap_or(if named(spec) { Split::Train } else { Split::All }))
}

/// Takes figures as they come: those before a failure are not lost.
type Give<'a> = dyn FnMut(MetricValue) + 'a;

/// Everything asked for.
///
/// # Errors
/// A usage error for an unknown metric or one the run cannot give.
pub fn measure(args: &EvaluateArgs, common: &Common) -> Result<Vec<MetricValue>> {
    let mut all = Vec::new();
    each_measure(args, common, &mut |measure| all.push(measure))?;
    Ok(all)
}

/// Everything asked for, one by one.
fn each_measure(args: &EvaluateArgs, common: &Common, give: &mut Give<'_>) -> Result<()> {
    if is_run(&args.what) {
        let (model, device) = open(Path::new(&args.what), args.weights, &common.device)?;
        return measure_on(Some(&*model), &device, args, common, give);
    }
    measure_on(None, &kiln_train::device::by_name(&common.device)?, args, common, give)
}

/// Whether a word of the command line is a run's folder.
fn is_run(spec: &str) -> bool {
    Path::new(spec).join("recipe.toml").is_file()
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
        metrics.split(',').try_for_each(|m| find(m).map(drop))
    }

    fn measure(&self, model: &dyn Model) -> Result<Vec<Evaluation>> {
        let (info, train) = (model.info(), &model.info().train);
        let args = EvaluateArgs::new(&info.run, &train.metrics, train.evaluate_count);
        let mut measures = Vec::new();
        measure_on(Some(model), &info.device, &args, &self.common, &mut |measure| measures.push(measure))?;
        let figure =
            |m: MetricValue| Evaluation { name: m.full_name(), value: m.value, larger_is_better: m.larger_is_better() };
        Ok(measures.into_iter().map(figure).collect())
    }
}

/// A question with all that is needed to answer it.
struct Asked<'a> {
    args: &'a EvaluateArgs,
    /// The run, unless it is pictures.
    model: Option<&'a dyn Model>,
    /// The pictures, if there is no run, and which part of them.
    pictures: (String, Split),
    /// What it is measured against, and which part of it.
    reference: String,
    split: Split,
    device: &'a Device,
    common: &'a Common,
}

/// Everything asked for, of a run or of pictures.
fn measure_on(
    model: Option<&dyn Model>,
    device: &Device,
    args: &EvaluateArgs,
    common: &Common,
    give: &mut Give<'_>,
) -> Result<()> {
    let metrics = args.metrics.iter().map(|m| find(m)).collect::<Result<Vec<_>>>()?;
    args.pictures.as_deref().map_or(Ok(()), output::check_folder)?;
    let (reference, split) = match (&args.against, model) {
        (Some(spec), _) => part(spec, args.split),
        (None, Some(model)) => (model.info().data.set.clone(), args.split.unwrap_or(Split::Train)),
        (None, None) => return Err(Error::usage("--against is needed for pictures: the set to compare them with")),
    };
    let asked = Asked { args, model, pictures: part(&args.what, args.split), reference, split, device, common };
    let draws = |m: &&Metric| {
        [On::Sets, On::Guide].contains(&m.on)
            || m.on == On::Latents && [Ability::Decode, Ability::Mix].contains(&m.needs[0])
            || ["prior", "projection", "scores", "optimal_discriminator"].contains(&m.name)
    };
    let without_effect = sampler_flags(&args.sampler.table()?);
    if let (Some(flag), false) = (without_effect.first(), model.is_some() && metrics.iter().any(draws)) {
        return Err(Error::usage(format!("{flag}: nothing asked for here draws samples; leave it out")));
    }
    let wanted = |on: On| metrics.iter().filter(|m| m.on == on).map(|m| m.name).collect::<Vec<_>>();
    // A figure that is no number is none. Equal pictures have no noise at all, and so an infinite ratio to it.
    let mut give = |measure: MetricValue| {
        let equal = measure.value == f64::INFINITY && measure.measure.starts_with("pair_psnr");
        if !measure.value.is_finite() && !equal {
            return Err(Error::new(format!(
                "{} is {}, which is no figure: the pictures or the network give none",
                measure.measure, measure.value
            )));
        }
        give(measure);
        Ok(())
    };
    if !wanted(On::Sets).is_empty() {
        sets::measure(&asked, &wanted(On::Sets), &mut give)?;
    }
    if !wanted(On::Pairs).is_empty() {
        pairs::measure(&asked, &wanted(On::Pairs))?.into_iter().try_for_each(&mut give)?;
    }
    for metric in &metrics {
        let found = match metric.name {
            // Either name stands for both figures, which are one.
            "bpd" if wanted(On::Likelihood).contains(&"nll") => Vec::new(),
            "nll" | "bpd" => likelihood::measure(&asked, false)?,
            "nll_exact" => likelihood::measure(&asked, true)?,
            "outliers" => likelihood::outliers(&asked)?,
            "accuracy" => vec![labels::accuracy(&asked)?],
            "retrieval" => texts::retrieval(&asked)?,
            "zero_shot" => vec![texts::zero_shot(&asked)?],
            "segments" => labels::segments(&asked)?,
            "guided_segments" => guided::segments(&asked)?,
            "svm" => labels::svm(&asked)?,
            "clusters" => labels::clusters(&asked)?,
            "a_distance" => vec![labels::a_distance(&asked)?],
            "mmd" => vec![labels::mmd(&asked)?],
            "selection" => selection::selection(&asked)?,
            "ppl" => vec![latents::path_length(&asked, "ppl")?, latents::path_length(&asked, "ppl_end")?],
            name @ ("ppl_w" | "ppl_w_end") => vec![latents::path_length(&asked, name)?],
            name @ ("separability" | "separability_w") => vec![latents::separability(&asked, name)?],
            "projection" => projection::measure(&asked)?,
            "mig" => latents::mig(&asked)?,
            "factor_r2" => latents::factor_r2(&asked)?,
            "factor_eta2" => latents::factor_eta2(&asked)?,
            "prior" => latents::prior(&asked)?,
            "scores" => discriminator::scored(&asked)?,
            "optimal_discriminator" => discriminator::optimal_discriminator(&asked)?,
            _ => Vec::new(),
        };
        found.into_iter().try_for_each(&mut give)?;
    }
    Ok(())
}

impl<'a> Asked<'a> {
    /// [`chunks`] of as many pictures of a set as are asked for.
    fn chunks(&self, model: &dyn Model, set: &str, each: impl FnMut(Tensor<4>, &[u32]) -> Result<()>) -> Result<usize> {
        chunks(model, (set, self.split), self.args.n, self.common.quiet, each)
    }

    /// [`Asked::chunks`] of a set whose labels are to mean what they mean to the run.
    fn labelled(
        &self,
        model: &dyn Model,
        set: &str,
        mut each: impl FnMut(Tensor<4>, &[u32]) -> Result<()>,
    ) -> Result<usize> {
        let set = prepared(model, set, self.split)?;
        check_classes(model, set.set().as_ref())?;
        chunks_of(&set, self.args.n, self.common.quiet, self.device, |images, labels, _| each(images, labels))
    }

    /// The run, if it can do what a metric needs.
    fn run(&self, metric: &str, ability: Ability) -> Result<&'a dyn Model> {
        let model = self.model.ok_or_else(|| Error::usage(format!("--metrics {metric} needs a run, not pictures")))?;
        need(model, ability)?;
        Ok(model)
    }

    /// A figure with the reference it was measured against.
    fn against(&self, measure: MetricValue) -> MetricValue {
        measure.against(&self.reference, &self.split.to_string())
    }

    /// The network of perceptual distances.
    fn perceptual(&self) -> Result<Lpips> {
        perceptual::open(&self.args.perceptual, self.device)
    }
}

/// Pictures of a set in the run's own shape, a chunk at a time; returns how many.
pub fn chunks(
    model: &dyn Model,
    (spec, split): (&str, Split),
    n: usize,
    quiet: bool,
    mut each: impl FnMut(Tensor<4>, &[u32]) -> Result<()>,
) -> Result<usize> {
    let set = prepared(model, spec, split)?;
    chunks_of(&set, n, quiet, &model.info().device, |images, labels, _| each(images, labels))
}

/// A set in the run's own shape.
pub fn prepared(model: &dyn Model, spec: &str, split: Split) -> Result<Prepared> {
    let rule = model.info().data.rule().still();
    Prepared::new(kiln_data::open(spec, split, &rule)?, rule)
}

/// Pictures from all over the set with their labels and their places in it, a chunk at a time; returns how many.
pub fn chunks_of(
    set: &Prepared,
    n: usize,
    quiet: bool,
    device: &Device,
    mut each: impl FnMut(Tensor<4>, &[u32], &[usize]) -> Result<()>,
) -> Result<usize> {
    let [c, h, w] = set.shape();
    let (len, total) = (set.len(), set.len().min(n));
    // A folder lies in the order of its classes, a set with known factors in theirs: its first pictures have few of them.
    let key = Key::new(0).purpose("evaluation order");
    let place = |i: usize| key.permute(i as u64, len as u64) as usize;
    let about = format!("pictures of {}", set.set().name());
    let mut progress = (!quiet).then(|| Progress::new(&about, "pictures", 0, total as u64));
    for start in (0..total).step_by(100) {
        let places: Vec<usize> = (start..total.min(start + 100)).map(place).collect();
        let (mut values, mut labels) = (Vec::with_capacity(places.len() * c * h * w), Vec::new());
        for &i in &places {
            let sample = set.get(i)?;
            values.extend(sample.values);
            labels.extend(sample.label);
        }
        each(from_values(values, [places.len(), c, h, w], device), &labels, &places)?;
        if let Some(p) = &mut progress {
            p.update((start + places.len()) as u64, String::new);
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    Ok(total)
}
