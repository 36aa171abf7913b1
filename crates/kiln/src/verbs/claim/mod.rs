//! `kiln claim`: train what a paper's claim needs, measure it, and write the rows of the results.
//!
//! A claim is data: variants of a recipe, seeds, and measurements. Runs live below `--runs`, are
//! resumed if they exist, and are not trained again once complete.

mod autoencoder;
mod diffusion;
mod measures;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use kiln_core::{Context, Error, Result};
use kiln_data::Split;
use kiln_measure::Measure;
use kiln_systems::find;
use kiln_train::model::WeightSet;
use kiln_train::progress::minutes;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Ability, AnySystem, Options, Run, device};
use serde::Serialize;
use toml::{Table, Value};

use crate::output::Output;
use crate::verbs::claim::autoencoder::of_autoencoder;
use crate::verbs::claim::diffusion::{DDPM, of_ddpm};
use crate::verbs::evaluate::{EvaluateArgs, measure};
use crate::verbs::open;
use crate::verbs::sample::SamplerArgs;
use crate::{Common, hardware};

#[derive(Args)]
pub struct ClaimArgs {
    /// The system; `ddim`, `solvers`, `sde`, `bound`, `cfg`, `adm` or `universal` of ddpm; or `measures` for what disturbances do to them
    system: String,
    /// Images each run sees, instead of the claim's own budget
    #[arg(long)]
    images: Option<u64>,
    /// Only the measurements whose name has this in it
    #[arg(long)]
    only: Option<String>,
    /// Only the variant of this name, or those whose name has this in it
    #[arg(long)]
    variant: Option<String>,
    /// The results page
    #[arg(long, default_value = "docs/results.md")]
    results: PathBuf,
    /// Where `measures` is drawn
    #[arg(long, default_value = "docs/pictures")]
    pictures: PathBuf,
    /// Where the runs live
    #[arg(long, default_value = "runs/claims")]
    runs: PathBuf,
}

/// One way of training: a name, and settings on top of the system's defaults. `system=ID` is of another system, `{seed}`
/// the seed, `{ID}` the run of that system beside.
struct Variant {
    name: &'static str,
    set: &'static [&'static str],
}

/// One evaluation of every run.
struct Measurement {
    /// What the row says beside the variant, such as `DDIM 50`.
    label: &'static str,
    metrics: &'static str,
    n: usize,
    split: Split,
    /// The set it is compared with, such as `mnist/test`; none for the run's own.
    against: Option<&'static str>,
    /// Flags of `kiln sample`, separated by spaces; `{ID}` is the run of that system beside.
    sampler: &'static str,
    samples: usize,
    /// Resamples behind the interval of fid.
    bootstrap: usize,
}

/// A run that measurements need beside the one they measure, such as a classifier that guides it.
struct Beside {
    system: &'static str,
    variant: Variant,
    images: u64,
}

/// What to run for a system, and what the paper says.
struct Claim {
    variants: &'static [Variant],
    seeds: &'static [u64],
    images: u64,
    measurements: &'static [Measurement],
    /// On [`SEED_BESIDE`]: what guides a run is not what judges it.
    beside: &'static [Beside],
    reference: &'static str,
}

/// Keys the runs beside.
const SEED_BESIDE: u64 = 1;

const SCORE: Measurement = Measurement {
    label: "",
    metrics: "fid,is,classes",
    n: 2000,
    split: Split::Train,
    against: None,
    sampler: "",
    samples: 0,
    bootstrap: 0,
};

const FASHION: Variant = Variant { name: "fashion", set: &["data.set=fashion"] };

/// Colour and its own outlines: pairs that are known to the pixel. Other sets draw one thing two ways,
/// which hides a good translation behind its distance to the other drawing.
const OPENMOJI: &str = "data.set=emoji:openmoji-color,emoji:openmoji-black";

/// Learns in 3 epochs what the paper's SGD needs some dozens for.
const ADAM: &str = "model.optimizer.method=adam";
const RATE: &str = "model.optimizer.learning_rate=1e-3";

/// Without it the domain head tells the domains apart to the end at this budget. Alone it harms: the
/// source's statistics do not fit the target, so source-only has a row with and one without.
const BATCH_NORM: &str = "model.batch_norm=true";

/// Sampler flags as `kiln sample` reads them.
fn flags(text: &str) -> Result<SamplerArgs> {
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        sampler: SamplerArgs,
    }
    let parsed = Flags::try_parse_from(std::iter::once("kiln").chain(text.split_whitespace()));
    parsed.map(|f| f.sampler).map_err(|e| Error::new(format!("a claim's sampler `{text}`: {e}")))
}

/// The claim of a system; by default: train its own recipe and score what it makes.
fn claim(system: &dyn AnySystem) -> Result<Claim> {
    let scored = Claim {
        variants: &[FASHION],
        seeds: &[0],
        images: 250_000,
        measurements: &[SCORE],
        beside: &[],
        reference: "all ten classes",
    };
    Ok(match system.id() {
        "ddpm" => Claim {
            variants: &[DDPM],
            measurements: &[
                Measurement {
                    label: "DDIM 50",
                    sampler: "--timestep-spacing trailing --sampler ddim --steps 50",
                    ..SCORE
                },
                Measurement { label: "full chain", sampler: "--sampler ddpm --steps 1000", n: 300, ..SCORE },
                Measurement {
                    label: "DDIM 50, n as the full chain",
                    sampler: "--timestep-spacing trailing --sampler ddim --steps 50",
                    n: 300,
                    ..SCORE
                },
                Measurement {
                    label: "DDIM 1000",
                    sampler: "--sampler ddim --steps 1000",
                    metrics: "fid,is",
                    n: 300,
                    ..SCORE
                },
            ],
            reference: "better than vae; DDIM 50 within 10 % of the full chain",
            images: 500_000,
            ..scored
        },
        "cyclegan" => Claim {
            variants: &[
                Variant { name: "whole", set: &[OPENMOJI] },
                Variant { name: "GAN only", set: &[OPENMOJI, "model.cycle_weight=0.0"] },
                Variant { name: "cycle only", set: &[OPENMOJI, "model.adversarial_weight=0.0"] },
            ],
            images: 3_000,
            measurements: &[Measurement {
                label: "known pairs",
                metrics: "pairs",
                n: 400,
                split: Split::Test,
                ..SCORE
            }],
            reference: "below the input's own distance and both ablations",
            ..scored
        },
        "dann" => Claim {
            variants: &[
                Variant { name: "source-only", set: &["model.mode=source-only", ADAM, RATE] },
                Variant { name: "source-only, batch norm", set: &["model.mode=source-only", ADAM, RATE, BATCH_NORM] },
                Variant { name: "DANN, batch norm", set: &["model.mode=dann", ADAM, RATE, BATCH_NORM] },
                Variant { name: "target-only, batch norm", set: &["model.mode=target-only", ADAM, RATE, BATCH_NORM] },
            ],
            seeds: &[0, 1, 2],
            images: 200_000,
            measurements: &[Measurement {
                label: "MNIST-M test",
                metrics: "accuracy",
                n: 10_000,
                split: Split::Test,
                ..SCORE
            }],
            beside: &[],
            reference: "52.25 source-only, 76.66 DANN, 95.96 target-only (Ganin 2016, table 2)",
        },
        _ if system.abilities()?.contains(&Ability::Generate) => scored,
        id => {
            return Err(Error::usage(format!("{id} has no claim of its own; it serves the others")));
        }
    })
}

/// A row of the results page.
#[derive(Serialize)]
struct Row {
    system: String,
    variant: String,
    measurement: String,
    figure: String,
    reference: String,
    images: u64,
    seconds: f64,
    command: String,
}

pub fn run(args: &ClaimArgs, common: &Common, out: &Output) -> Result<()> {
    if args.system == "measures" {
        return measures::run(&args.pictures, common, out);
    }
    let name = args.system.as_str();
    let (system, claim) = match (of_ddpm(name), of_autoencoder(name)) {
        (Some(claim), _) => (find("ddpm")?, claim),
        (_, Some(claim)) => (find(name.split_once('-').map_or(name, |(system, _)| system))?, claim),
        (None, None) => {
            let system = find(name)?;
            let claim = claim(&*system)?;
            (system, claim)
        }
    };
    let asked = |m: &&Measurement| args.only.as_ref().is_none_or(|only| m.label.contains(only));
    if !claim.measurements.iter().any(|m| asked(&m)) {
        let labels: Vec<&str> = claim.measurements.iter().map(|m| m.label).collect();
        return Err(Error::usage(format!("--only: {name} has `{}`", labels.join("`, `"))));
    }
    let whole = claim.variants.iter().any(|v| args.variant.as_deref() == Some(v.name));
    let chosen = |v: &&Variant| match args.variant.as_deref() {
        Some(name) if whole => v.name == name,
        Some(part) => v.name.contains(part),
        None => true,
    };
    if !claim.variants.iter().any(|v| chosen(&v)) {
        let names: Vec<&str> = claim.variants.iter().map(|v| v.name).collect();
        return Err(Error::usage(format!("--variant: {name} has `{}`", names.join("`, `"))));
    }
    let mut beside = Vec::new();
    for Beside { system: id, variant, images } in claim.beside {
        let root = folder(&args.runs, id, variant, SEED_BESIDE);
        let set = budgeted(variant.set, *images, None);
        train(&*find(id)?, &set, SEED_BESIDE, &root, common)?;
        beside.push((format!("{{{id}}}"), root.display().to_string()));
    }
    let named = |text: String| beside.iter().fold(text, |text, (name, root)| text.replace(name, root));
    for variant in claim.variants.iter().filter(chosen) {
        let own = variant.set.iter().find_map(|text| text.strip_prefix("system="));
        let system = find(own.unwrap_or(system.id()))?;
        let (mut roots, mut seconds, mut seen) = (Vec::new(), 0.0, 0);
        for &seed in claim.seeds {
            let root = folder(&args.runs, system.id(), variant, seed);
            let set = budgeted(variant.set, claim.images, args.images);
            let set: Vec<String> = set.iter().map(|text| named(text.replace("{seed}", &seed.to_string()))).collect();
            train(&*system, &set, seed, &root, common)?;
            let (model, _) = open(&root, WeightSet::Ema, &common.device)?;
            (seconds, seen) = (seconds + model.info().seconds, model.info().images);
            roots.push(root);
        }
        for m in claim.measurements.iter().filter(asked) {
            let mut found: BTreeMap<String, Vec<Measure>> = BTreeMap::new();
            let sampler = flags(&named(m.sampler.to_string()))?;
            for root in &roots {
                let evaluation = EvaluateArgs::new(&root.display().to_string(), m.metrics, m.n);
                let evaluation = match m.against {
                    Some(set) => evaluation.against(set),
                    None => evaluation.split(m.split),
                };
                let evaluation = evaluation.samples(m.samples).bootstrap(m.bootstrap).sampler(sampler.clone());
                for figure in measure(&evaluation, common)? {
                    found.entry(figure.full_name()).or_default().push(figure);
                }
            }
            for (name, figures) in found {
                let one = &figures[0];
                let [set, split] = [&one.reference, &one.split].map(|s| s.as_deref().unwrap_or_default());
                let row = Row {
                    system: args.system.clone(),
                    variant: variant.name.into(),
                    measurement: if m.label.is_empty() { name } else { format!("{name}, {}", m.label) },
                    figure: format!("{} (n = {}, {set}/{split})", spread(&figures), one.n),
                    reference: claim.reference.into(),
                    images: seen,
                    seconds: seconds / claim.seeds.len() as f64,
                    command: match args.images {
                        Some(images) => format!("kiln claim {} --images {images}", args.system),
                        None => format!("kiln claim {}", args.system),
                    },
                };
                write_row(&args.results, &row, claim.seeds)?;
                out.say(|| format!("{} {}: {} = {}", row.system, row.variant, row.measurement, row.figure), &row);
            }
        }
    }
    Ok(())
}

/// Where a run lives.
fn folder(runs: &Path, system: &str, variant: &Variant, seed: u64) -> PathBuf {
    let slug = variant.name.to_lowercase().replace(", ", "-").replace(' ', "-");
    runs.join(format!("{system}-{slug}-{seed}"))
}

/// `0.512 [0.508, 0.516]` with the interval of one run, `0.512 ± 0.004` over its splits, or over seeds (sample standard deviation).
fn spread(figures: &[Measure]) -> String {
    let n = figures.len() as f64;
    let mean = figures.iter().map(|f| f.value).sum::<f64>() / n;
    let digits = if mean.abs() >= 100.0 { 1 } else { 3 };
    match figures {
        [Measure { interval: Some([low, high]), .. }] => format!("{mean:.digits$} [{low:.digits$}, {high:.digits$}]"),
        [Measure { std: Some(std), .. }] => format!("{mean:.digits$} ± {std:.digits$}"),
        [_] => format!("{mean:.digits$}"),
        _ => {
            let deviation = (figures.iter().map(|f| (f.value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
            format!("{mean:.digits$} ± {deviation:.digits$}")
        }
    }
}

/// Settings with the images a run sees: those asked for, else the variant's own, else the claim's.
fn budgeted(set: &[&str], images: u64, asked: Option<u64>) -> Vec<String> {
    let budget = |images: u64| format!("train.images={images}");
    let own = set.iter().map(|text| text.to_string());
    std::iter::once(budget(images)).chain(own).chain(asked.map(budget)).collect()
}

/// Trains, resumes, or finds a run complete, if it has the claim's settings.
fn train(system: &dyn AnySystem, set: &[impl AsRef<str>], seed: u64, root: &Path, common: &Common) -> Result<()> {
    let options = Options { device: device::by_name(&common.device)?, steps: None, quiet: common.quiet, watcher: None };
    let with_settings = |mut recipe: Table| {
        let more = [format!("seed={seed}"), "train.keep=1".into()];
        for text in set.iter().map(AsRef::as_ref).chain(more.iter().map(String::as_str)) {
            merge(&mut recipe, &assignment(text)?, &format!("claim {}", system.id()))?;
        }
        Ok::<_, Error>(recipe)
    };
    let summary = if root.join("recipe.toml").exists() {
        let run = Run::open(root)?;
        let recipe = run.recipe()?;
        if let Some(difference) = difference(&recipe, &with_settings(recipe.clone())?) {
            let root = root.display();
            return Err(Error::usage(format!(
                "{root}: a run with {difference}, as this claim wants; remove it, or give another folder with --runs"
            )));
        }
        system.resume(&run, &options)?
    } else {
        system.train(with_settings(system.defaults()?)?, root, &options)?
    };
    if summary.complete {
        return Ok(());
    }
    Err(Error::new(format!("{}: stopped before its end; the same command goes on with it", root.display())))
}

/// The first of the wanted settings that a recipe does not have, such as `data.set = "mnist" and not "fashion"`.
fn difference(recipe: &Table, wanted: &Table) -> Option<String> {
    let number = |value: &Value| value.as_float().or(value.as_integer().map(|i| i as f64));
    wanted.iter().find_map(|(key, wants)| match (recipe.get(key), wants) {
        (Some(Value::Table(has)), Value::Table(wants)) => difference(has, wants).map(|rest| format!("{key}.{rest}")),
        (Some(has), wants) if has == wants || number(has).is_some() && number(has) == number(wants) => None,
        (Some(has), wants) => Some(format!("{key} = {has} and not {wants}")),
        (None, wants) => Some(format!("{key} unknown and not {wants}")),
    })
}

const HEAD: &str = "# Results\n\n\
Written by `kiln claim`; every row is a command, run on the machine it names. `fid[classifier:SET]` is a Fréchet\n\
distance on the features of a small classifier that Kiln trains on SET: it compares rows of this page and is *not* the\n\
FID of the literature, which needs the Inception network.\n\n\
| system | variant | measurement | figure | reference | seeds | images | training a run | hardware | command |\n\
|---|---|---|---|---|---|---|---|---|---|\n";

/// Puts a row into the page in place of the one of the same system, variant and measurement.
fn write_row(page: &Path, row: &Row, seeds: &[u64]) -> Result<()> {
    let place = || page.display().to_string();
    let text = if page.exists() { fs::read_to_string(page).context(place)? } else { HEAD.to_string() };
    let key = format!("| {} | {} | {} |", row.system, row.variant, row.measurement);
    let seeds = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let line = format!(
        "{key} {} | {} | {seeds} | {} | {} | {} | `{}` |",
        row.figure,
        row.reference,
        row.images,
        minutes(row.seconds),
        hardware::describe(),
        row.command
    );
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter().position(|l| l.starts_with(&key)) {
        Some(at) => lines[at] = &line,
        None => {
            let table_end = lines.iter().rposition(|l| l.starts_with('|')).map_or(lines.len(), |i| i + 1);
            lines.insert(table_end, &line);
        }
    }
    if let Some(parent) = page.parent() {
        fs::create_dir_all(parent).context(place)?;
    }
    fs::write(page, lines.join("\n") + "\n").context(place)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::diffusion::NAMES;
    use super::*;

    #[test]
    fn every_claim_has_known_flags() {
        let named = NAMES.map(|name| of_ddpm(name).unwrap());
        let ddpm = claim(&*find("ddpm").unwrap()).unwrap();
        for claim in named.into_iter().chain([ddpm]) {
            for m in claim.measurements {
                flags(m.sampler).unwrap();
            }
        }
    }

    #[test]
    fn a_run_of_other_settings_is_told_by_the_first_of_them() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        let recipe =
            table("system = 'vae'\n[data]\nset = 'mnist'\n[train]\nema_half_life = 60000.0\n[model]\nhidden = [5, 5]");
        let told = |text: &str| difference(&recipe, &table(text));
        assert_eq!(told("system = 'vae'\n[data]\nset = 'mnist'\n[model]\nhidden = [5, 5]"), None);
        assert_eq!(told("[train]\nema_half_life = 60000"), None);
        assert_eq!(told("[data]\nset = 'fashion'").unwrap(), "data.set = \"mnist\" and not \"fashion\"");
        assert_eq!(told("[model]\nhidden = [5]").unwrap(), "model.hidden = [5, 5] and not [5]");
        assert_eq!(told("[model]\nlatent = 2").unwrap(), "model.latent unknown and not 2");
    }
}
