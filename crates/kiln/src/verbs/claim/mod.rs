//! `kiln claim`: train what a paper's claim needs, measure it, say whether it holds, and write the results page.
//!
//! Runs live below `--runs`, are resumed if they exist, and are not trained again once complete.

mod expect;
mod file;
mod page;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_core::{Error, Result, output};
use kiln_measure::MetricValue;
use kiln_train::origin::UNLEARNT;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{AnySystem, Options, Run, WeightSet, device};
use serde_json::json;
use toml::{Table, Value as Setting};

use crate::output::Output;
use crate::verbs::claim::file::{Claim, Evaluation, Variant};
use crate::verbs::claim::page::{in_short, page, shown};
use crate::verbs::claim::values::{Book, Value};
use crate::verbs::evaluate::{self, measure, sensitivity};
use crate::verbs::open;
use crate::verbs::train::starting_point;
use crate::{Common, hardware};

#[derive(Args)]
pub struct ClaimArgs {
    /// A claim by name or file; without one, list those there are. `measures` plots what noise, blur and missing classes do to
    /// metrics
    claim: Option<String>,
    /// Images each run sees, instead of the claim's own budget
    #[arg(long)]
    images: Option<u64>,
    /// Only the measures whose label has this in it
    #[arg(long)]
    only: Option<String>,
    /// Only the variant of this name, or those whose name has this in it
    #[arg(long)]
    variant: Option<String>,
    /// Train and measure nothing: write the results page from the values kept
    #[arg(long)]
    page: bool,
    /// The results page; values are kept in the folder beside it of the same name
    #[arg(long, default_value = "docs/results.md")]
    results: PathBuf,
    /// Where `measures` is drawn
    #[arg(long, default_value = "docs/pictures")]
    pictures: PathBuf,
    /// Where the runs live
    #[arg(long, default_value = "runs/claims")]
    runs: PathBuf,
}

/// Keys the runs beside: what guides a run is not what scores it.
const SEED_BESIDE: u64 = 1;

pub fn run(args: &ClaimArgs, common: &Common, out: &Output) -> Result<()> {
    if args.claim.as_deref() == Some("measures") {
        return sensitivity::run(&args.pictures, common, out);
    }
    let mut book = Book::open(Path::new(file::FOLDER), &args.results.with_extension(""))?;
    if book.claims.is_empty() && (args.page || args.claim.is_none()) {
        let folder = file::FOLDER;
        return Err(Error::usage(format!("there is no folder `{folder}` with claims here; go to Kiln's own folder")));
    }
    match &args.claim {
        _ if args.page => write_page(&book, &args.results),
        Some(name) => {
            let at = book.add(file::find(name)?)?;
            reproduce(&mut book, at, args, common, out)
        }
        None => {
            list(&book, out);
            Ok(())
        }
    }
}

/// Every claim, and what came of it.
fn list(book: &Book, out: &Output) {
    for at in 0..book.claims.len() {
        let claim = &book.claims[at].claim;
        let (short, object) = match book.verdicts(at) {
            Ok(judged) => {
                let verdicts: Vec<_> = judged.into_iter().map(|(verdict, _)| verdict).collect();
                (in_short(&verdicts), json!({"claim": claim.name, "says": claim.says, "verdicts": verdicts}))
            }
            // A mistake in one claim says nothing of the others.
            Err(e) => {
                let error = e.to_string();
                (format!("error: {error}"), json!({"claim": claim.name, "says": claim.says, "error": error}))
            }
        };
        out.say(|| format!("{}: {} ({short})", claim.name, claim.says), &object);
    }
}

/// Trains and measures a claim, keeps its values, and says what became of its expectations.
fn reproduce(book: &mut Book, at: usize, args: &ClaimArgs, common: &Common, out: &Output) -> Result<()> {
    let claim = book.claims[at].claim.clone();
    let (variants, measures) = (chosen_variants(&claim, args)?, chosen_measures(&claim, args)?);
    // Mistakes are found before hours of training.
    book.verdicts(at)?;
    let unfilled = |word: &str| word.to_string();
    for measure in &measures {
        claim.evaluation(measure, "RUN", &unfilled)?.metrics().iter().try_for_each(|m| evaluate::find(m).map(drop))?;
    }
    for variant in variants.iter().copied().chain(&claim.beside) {
        let (system, changes) = settings(&claim, variant, 0, None, &unfilled)?;
        changes.on(system.defaults()?)?;
    }
    let mut beside = Vec::new();
    for variant in &claim.beside {
        let (system, recipe) = settings(&claim, variant, SEED_BESIDE, variant.images, &unfilled)?;
        let root = folder(&args.runs, system.id(), variant, SEED_BESIDE);
        train(&*system, &recipe, &root, common)?;
        beside.push((format!("{{{}}}", system.id()), root.display().to_string()));
    }
    let fill = |text: &str| beside.iter().fold(text.to_string(), |text, (name, root)| text.replace(name, root));
    for variant in variants {
        let (mut roots, mut seconds, mut images) = (Vec::new(), 0.0, 0);
        for &seed in &claim.seeds {
            let budget = args.images.or(variant.images).or(claim.images);
            let (system, recipe) = settings(&claim, variant, seed, budget, &fill)?;
            let root = folder(&args.runs, system.id(), variant, seed);
            train(&*system, &recipe, &root, common)?;
            let (model, _) = open(&root, WeightSet::Ema, &common.device)?;
            (seconds, images) = (seconds + model.info().seconds, model.info().images);
            roots.push(root);
        }
        let command = match args.images {
            Some(images) => format!("kiln claim {} --images {images}", claim.name),
            None => format!("kiln claim {}", claim.name),
        };
        for evaluation in &measures {
            let mut found: BTreeMap<String, Vec<MetricValue>> = BTreeMap::new();
            for root in &roots {
                let evaluation = claim.evaluation(evaluation, &root.display().to_string(), &fill)?;
                for value in measure(&evaluation, common)? {
                    found.entry(value.full_name()).or_default().push(value);
                }
            }
            let of = |measures: &Vec<MetricValue>| {
                let (value, std, interval) = over_seeds(measures);
                let one = &measures[0];
                let [set, split] = [&one.reference, &one.split].map(|s| s.as_deref().unwrap_or_default());
                Value {
                    variant: variant.name.clone(),
                    measure: evaluation.label.clone(),
                    metric: one.measure.clone(),
                    features: one.features.clone(),
                    value,
                    std,
                    interval,
                    n: one.n,
                    reference: format!("{set}/{split}"),
                    seeds: claim.seeds.clone(),
                    images,
                    seconds: seconds / claim.seeds.len() as f64,
                    hardware: hardware::describe(),
                    command: command.clone(),
                }
            };
            let new: Vec<Value> = found.values().map(of).collect();
            for value in &new {
                let place = if value.measure.is_empty() { String::new() } else { format!(", {}", value.measure) };
                let line = || format!("{} {}{place}: {} = {}", claim.name, value.variant, value.metric, shown(value));
                out.say(line, value);
            }
            book.keep(at, &variant.name, &evaluation.label, new)?;
            write_page(book, &args.results)?;
        }
    }
    for (text, (verdict, _)) in claim.expect.iter().zip(book.verdicts(at)?) {
        let object = json!({"claim": claim.name, "expect": text, "verdict": verdict});
        out.say(|| format!("{}: {text}: {verdict}", claim.name), &object);
    }
    Ok(())
}

fn write_page(book: &Book, path: &Path) -> Result<()> {
    output::write(path, page(book).as_bytes())
}

fn chosen_measures<'a>(claim: &'a Claim, args: &ClaimArgs) -> Result<Vec<&'a Evaluation>> {
    let asked = |m: &&Evaluation| args.only.as_ref().is_none_or(|only| m.label.contains(only));
    let chosen: Vec<_> = claim.measures.iter().filter(asked).collect();
    if chosen.is_empty() {
        let labels: Vec<&str> = claim.measures.iter().map(|m| m.label.as_str()).collect();
        return Err(Error::usage(format!("--only: {} has `{}`", claim.name, labels.join("`, `"))));
    }
    Ok(chosen)
}

fn chosen_variants<'a>(claim: &'a Claim, args: &ClaimArgs) -> Result<Vec<&'a Variant>> {
    let asked = args.variant.as_deref();
    let whole = claim.variants.iter().any(|v| asked == Some(&v.name));
    let is = |v: &&Variant| asked.is_none_or(|name| if whole { v.name == name } else { v.name.contains(name) });
    let chosen: Vec<_> = claim.variants.iter().filter(is).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = claim.variants.iter().map(|v| v.name.as_str()).collect();
        return Err(Error::usage(format!("--variant: {} has `{}`", claim.name, names.join("`, `"))));
    }
    Ok(chosen)
}

/// Where a run lives.
fn folder(runs: &Path, system: &str, variant: &Variant, seed: u64) -> PathBuf {
    runs.join(format!("{system}-{}-{seed}", variant.slug()))
}

/// The mean over seeds; the standard deviation over them (sample form), or of a single seed what the metric has. JSON has no
/// numbers that are not finite, so a deviation or an interval of them is left out.
fn over_seeds(measures: &[MetricValue]) -> (f64, Option<f64>, Option<[f64; 2]>) {
    let n = measures.len() as f64;
    let mean = measures.iter().map(|m| m.value).sum::<f64>() / n;
    let (std, interval) = match measures {
        [one] => (one.std, one.interval),
        _ => {
            let square = measures.iter().map(|m| (m.value - mean).powi(2)).sum::<f64>();
            (Some((square / (n - 1.0)).sqrt()), None)
        }
    };
    let finite = |ends: &[f64; 2]| ends.iter().all(|end| end.is_finite());
    (mean, std.filter(|std| std.is_finite()), interval.filter(finite))
}

/// What a variant's run is made of: settings on top of its system's defaults.
struct Changes(Vec<(String, Table)>);

impl Changes {
    fn on(&self, mut recipe: Table) -> Result<Table> {
        self.0.iter().try_for_each(|(place, table)| merge(&mut recipe, table, place))?;
        Ok(recipe)
    }

    /// The recipe of a new run.
    fn on_their_start(&self, system: &dyn AnySystem) -> Result<Table> {
        self.on(starting_point(system, self.0.iter().map(|(_, table)| table))?)
    }
}

/// The system of a variant's run, and its settings, the last the strongest: the recipe's, the variant's, and the images it
/// sees if they are not the recipe's.
fn settings(
    claim: &Claim,
    variant: &Variant,
    seed: u64,
    images: Option<u64>,
    fill: &dyn Fn(&str) -> String,
) -> Result<(Box<dyn AnySystem>, Changes)> {
    let (system, recipe, path) = claim.recipe(variant)?;
    let set = variant.set.iter().map(|text| fill(&text.replace("{seed}", &seed.to_string())));
    let images = images.map(|images| format!("train.images={images}"));
    let set = set.chain(images).chain([format!("seed={seed}"), "train.keep=1".into()]);
    let place = format!("{}, `{}`", claim.path.display(), variant.name);
    let mut changes = vec![(path.display().to_string(), recipe)];
    for text in set {
        changes.push((place.clone(), assignment(&text)?));
    }
    Ok((system, Changes(changes)))
}

/// Trains, resumes, or finds a run complete, if it has the claim's settings.
fn train(system: &dyn AnySystem, changes: &Changes, root: &Path, common: &Common) -> Result<()> {
    let options = Options { quiet: common.quiet, ..Options::on(device::by_name(&common.device)?) };
    let summary = if root.join("recipe.toml").exists() {
        let run = Run::open(root)?;
        // What its version of Kiln had no setting for is at its default.
        let mut recipe = system.defaults()?;
        let root = root.display();
        merge(&mut recipe, &run.recipe()?, &format!("{root}/recipe.toml"))?;
        if let Some(difference) = difference(&recipe, &changes.on(recipe.clone())?, "") {
            return Err(Error::usage(format!(
                "{root}: a run with {difference}, as this claim wants; remove it, or give another folder with --runs"
            )));
        }
        system.resume(&run, &options)?
    } else {
        system.train(changes.on_their_start(system)?, root, &options)?
    };
    summary.reached_end(root)
}

/// Whether a run's setting is what was wanted, as it is after the run has begun: 64 of a size of [64, 64], the whole path of
/// a relative one, and the number of words there were of the most that there might be, 0 for all.
fn became(key: &str, has: &Setting, wants: &Setting) -> bool {
    let side = |value: &Setting| match value.as_array().map(Vec::as_slice) {
        Some([height, width]) if height == width => height.clone(),
        _ => value.clone(),
    };
    if let (Some(has), Some(wants)) = (has.as_str(), wants.as_str()) {
        return kiln_data::absolute(has).ok() == kiln_data::absolute(wants).ok();
    }
    match (key, has.as_integer(), wants.as_integer()) {
        ("data.size", ..) => side(has) == side(wants),
        ("data.vocabulary", Some(has), Some(most)) => most == 0 || has <= most,
        _ => false,
    }
}

/// The first of the wanted settings that a recipe does not have, such as `data.set = "mnist" and not "fashion"`.
fn difference(recipe: &Table, wanted: &Table, prefix: &str) -> Option<String> {
    let number = |value: &Setting| value.as_float().or(value.as_integer().map(|i| i as f64));
    wanted.iter().find_map(|(key, wants)| {
        let full = format!("{prefix}{key}");
        match (recipe.get(key), wants) {
            _ if UNLEARNT.contains(&full.as_str()) => None,
            (Some(Setting::Table(has)), Setting::Table(wants)) => difference(has, wants, &format!("{full}.")),
            (Some(has), wants) if became(&full, has, wants) => None,
            (Some(has), wants) if has == wants || number(has).is_some() && number(has) == number(wants) => None,
            (Some(has), wants) => Some(format!("{full} = {has} and not {wants}")),
            (None, wants) => Some(format!("{full} unknown and not {wants}")),
        }
    })
}

#[cfg(test)]
mod tests;
