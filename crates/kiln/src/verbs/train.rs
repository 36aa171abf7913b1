//! `kiln train` and `kiln resume`.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln_core::{Context, Error, Result};
use kiln_systems::find;
use kiln_train::recipe::{assignment, lay_over, merge, setting};
use kiln_train::run::read_table;
use kiln_train::{AnySystem, Options, Run, Summary, device};
use toml::Table;

use crate::Common;
use crate::output::Output;
use crate::verbs::{evaluate, sample};

#[derive(Args)]
pub struct TrainArgs {
    /// System (see `kiln systems`) or recipe file (.toml)
    system: String,
    /// Data set: a name from `kiln data list`, a folder or a zip; separate two domains by a comma
    #[arg(long)]
    data: Option<String>,
    /// Start from the networks of this run of the same system, with its model settings and picture size unless others
    /// are given (train.init_from)
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// Override a setting of the recipe, such as --set model.unet.base_channels=32; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Stop after this many steps in total; schedules keep the length of train.images
    #[arg(long)]
    steps: Option<u64>,
    /// Images per step (train.batch)
    #[arg(long)]
    batch: Option<usize>,
    /// Seed of all randomness
    #[arg(long)]
    seed: Option<u64>,
    /// Evaluate the EMA networks every so many images (train.evaluate_every)
    #[arg(long, value_name = "IMAGES")]
    evaluate_every: Option<u64>,
    /// Metrics of that evaluation: a list such as fid,is (train.metrics)
    #[arg(long, requires = "evaluate_every")]
    metrics: Option<String>,
    /// Run folder to create; runs/SYSTEM by default
    #[arg(long)]
    out: Option<PathBuf>,
    /// Check the recipe and the data, print the resolved recipe, and stop
    #[arg(long)]
    dry_run: bool,
    /// After training, write N samples and a grid into the run folder
    #[arg(long, value_name = "N")]
    then_sample: Option<usize>,
    /// After training, evaluate the run: a list such as fid,is
    #[arg(long, value_name = "METRICS")]
    then_evaluate: Option<String>,
}

#[derive(Args)]
pub struct ResumeArgs {
    /// Run folder
    run: PathBuf,
    /// Stop after this many steps in total
    #[arg(long)]
    steps: Option<u64>,
    /// Where the data lies now, if it was moved
    #[arg(long)]
    data: Option<String>,
    /// Go on although the recipe or the data have changed since the run was saved
    #[arg(long)]
    accept_changes: bool,
}

/// The system of a recipe file, and its settings on top of that system's defaults.
///
/// # Errors
/// If it is not TOML, or names no system.
pub fn read_recipe(path: &Path) -> Result<(Box<dyn AnySystem>, Table)> {
    let changes = read_table(path)?;
    let id = changes.get("system").and_then(|v| v.as_str()).ok_or_else(|| {
        Error::usage(format!("{}: no `system`; its first line must be such as system = \"ddpm\"", path.display()))
    })?;
    Ok((find(id)?, changes))
}

/// What lies below all `changes`, the last the strongest: the system's defaults, with what the run of `train.init_from`
/// determines where they name one.
///
/// # Errors
/// If that run cannot be read, or is of another system.
pub fn starting_point<'a>(
    system: &dyn AnySystem,
    changes: impl DoubleEndedIterator<Item = &'a Table>,
) -> Result<Table> {
    let named = |change: &'a Table| change.get("train")?.get("init_from")?.as_str();
    match changes.rev().find_map(named).filter(|root| !root.is_empty()) {
        Some(root) => system.defaults_from(&Run::open(Path::new(root))?),
        None => system.defaults(),
    }
}

/// The system and the full recipe of a command.
fn resolve(args: &TrainArgs, common: &Common) -> Result<(Box<dyn AnySystem>, Table)> {
    let path = Path::new(&args.system);
    let mut changes = Vec::new();
    let system = if args.system.ends_with(".toml") {
        let (system, file) = read_recipe(path)?;
        changes.push((file, path.display().to_string()));
        system
    } else {
        find(&args.system)?
    };
    for text in &args.set {
        changes.push((assignment(text)?, format!("--set {text}")));
    }
    if let Some(from) = &args.from {
        let from = from.to_str().ok_or_else(|| {
            Error::usage(format!("--from {}: a recipe can name only paths that are UTF-8; rename it", from.display()))
        })?;
        changes.push((setting("train.init_from", from), "--from".into()));
    }
    let mut recipe = starting_point(&*system, changes.iter().map(|(change, _)| change))?;
    for (change, place) in &changes {
        lay_over(&mut recipe, change, place)?;
    }
    let mut flag = |key: &str, value: toml::Value| merge(&mut recipe, &setting(key, value), "command line");
    if let Some(data) = &args.data {
        flag("data.set", data.clone().into())?;
    }
    if let Some(batch) = args.batch {
        flag("train.batch", (batch as i64).into())?;
    }
    if let Some(precision) = common.precision {
        flag("train.precision", precision.to_string().into())?;
    }
    if let Some(every) = args.evaluate_every {
        flag("train.evaluate_every", i64::try_from(every).context(|| format!("--evaluate-every {every}"))?.into())?;
    }
    if let Some(metrics) = &args.metrics {
        flag("train.metrics", metrics.clone().into())?;
    }
    if let Some(seed) = args.seed {
        flag("seed", i64::try_from(seed).context(|| format!("--seed {seed}"))?.into())?;
    }
    Ok((system, recipe))
}

pub fn train(args: &TrainArgs, common: &Common, out: &Output) -> Result<()> {
    let (system, recipe) = resolve(args, common)?;
    if args.dry_run {
        let recipe = system.check(recipe)?;
        let text = toml::to_string_pretty(&recipe).context(|| "recipe")?;
        out.say(|| text.clone(), &recipe);
        return Ok(());
    }
    let root = args.out.clone().unwrap_or_else(|| Path::new("runs").join(system.id()));
    let summary = system.train(recipe, &root, &options(common, args.steps)?)?;
    report(&root, &summary, out);
    summary.reached_end(&root)?;
    if let Some(n) = args.then_sample {
        sample::into_folder(&root, n, common, out)?;
    }
    if let Some(metrics) = &args.then_evaluate {
        evaluate::of_run(&root, metrics, common, out)?;
    }
    Ok(())
}

pub fn resume(args: &ResumeArgs, common: &Common, out: &Output) -> Result<()> {
    let run = Run::open(&args.run)?;
    let recipe = run.recipe()?;
    let id = recipe.get("system").and_then(|v| v.as_str()).unwrap_or_default();
    let options =
        Options { data: args.data.clone(), accept_changes: args.accept_changes, ..options(common, args.steps)? };
    let summary = find(id)?.resume(&run, &options)?;
    report(&args.run, &summary, out);
    summary.reached_end(&args.run)
}

fn options(common: &Common, steps: Option<u64>) -> Result<Options> {
    let watcher = Some(evaluate::DuringTraining::watcher(common));
    Ok(Options { steps, quiet: common.quiet, watcher, ..Options::on(device::by_name(&common.device)?) })
}

fn report(root: &Path, summary: &Summary, out: &Output) {
    let line = || {
        let losses: Vec<String> = summary.losses.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
        format!("{}: {} images, {:.0} s, {}", root.display(), summary.images, summary.seconds, losses.join(", "))
    };
    out.say(line, summary);
}
