//! `kiln compare`: runs side by side on one page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use clap::Args;
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result, output, tell};
use kiln_data::{DataKind, Prepared, Split, contact_sheet, split_specs};
use kiln_measure::MetricValue;
use kiln_measure::classes::Confusion;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use kiln_train::progress::minutes;
use kiln_train::{Ability, Model, Request, Run, WeightSet};
use serde_json::{Value, json};
use toml::Table;

use crate::feature_cache::argmax;
use crate::output::{Output, shown};
use crate::report::plot::{Line, Plot};
use crate::report::{Cell, Column, Content, Figure, Matrix, Report, Row, Section, colour, html, markdown, now};
use crate::verbs::evaluate::{self, EvaluateArgs, check_classes, measure};
use crate::verbs::sample::generate;
use crate::verbs::{open, translate_along};
use crate::{Common, hardware};

/// Pictures in a row of inputs above outputs.
const ACROSS: usize = 8;

#[derive(Args)]
pub struct CompareArgs {
    /// Run folders
    runs: Vec<PathBuf>,
    /// HTML page to write
    #[arg(long, default_value = "compare.html")]
    out: PathBuf,
    /// Write Markdown too, with its images in a folder beside it
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Metrics of `kiln evaluate`; by default those that fit the runs' abilities, without costly likelihoods; `none`
    /// measures nothing
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Feature network, such as classifier:SET; by default a classifier of each run's own set
    #[arg(long)]
    features: Option<String>,
    /// Images to generate or, at most, to read for each metric
    #[arg(short, default_value_t = 1000)]
    n: usize,
    /// Seed of the samples, the same for every run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Part of the data: train, test or all; by default train for metrics of generated images, test for all others
    #[arg(long)]
    split: Option<Split>,
    /// Samples shown per run
    #[arg(long, default_value_t = 36)]
    samples: usize,
}

/// A run, opened.
struct Subject {
    name: String,
    root: PathBuf,
    model: Box<dyn Model>,
    recipe: BTreeMap<String, String>,
    report: Value,
    measures: Vec<MetricValue>,
    commands: Vec<String>,
}

pub fn run(args: &CompareArgs, common: &Common, out: &Output) -> Result<()> {
    check(args)?;
    let device = kiln_train::device::by_name(&common.device)?;
    let mut subjects = subjects(args, common)?;
    for file in [Some(&args.out), args.markdown.as_ref()].into_iter().flatten() {
        // Now rather than after an hour of measuring.
        output::check(file)?;
        output::folder_of(file)?;
    }
    for subject in &mut subjects {
        subject.measure(args, common)?;
    }
    let report = Report {
        title: format!("Comparison of {}", listed(subjects.iter().map(|s| s.name.clone()).collect())),
        about: vec![
            now(),
            format!("Kiln {}", env!("CARGO_PKG_VERSION")),
            format!("measured on {}", hardware::describe()),
        ],
        runs: subjects.iter().map(Subject::column).collect(),
        sections: [
            pictures_section(&subjects, args, common, &device)?,
            measures_section(&subjects, args),
            confusion_section(&subjects, args, &device)?,
            curves_section(&subjects)?,
            cost_section(&subjects),
            recipe_section(&subjects),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    output::write(&args.out, html::page(&report)?.as_bytes())?;
    if let Some(path) = &args.markdown {
        markdown::write(&report, path)?;
    }
    let runs: Vec<Value> = subjects.iter().map(Subject::object).collect();
    let object = json!({"page": shown(&args.out), "markdown": args.markdown.as_deref().map(shown), "runs": runs});
    out.say(|| format!("{} runs on {}", subjects.len(), args.out.display()), &object);
    Ok(())
}

/// Refuses what would fail only after long work.
fn check(args: &CompareArgs) -> Result<()> {
    if args.runs.is_empty() {
        return Err(Error::usage(
            "compare: no run given; name one run folder or more, such as `kiln compare runs/a runs/b`",
        ));
    }
    args.metrics.iter().filter(|m| *m != "none").try_for_each(|m| evaluate::find(m).map(drop))?;
    Ok(())
}

fn subjects(args: &CompareArgs, common: &Common) -> Result<Vec<Subject>> {
    let names = short_names(&args.runs);
    let open = |(root, name): (&PathBuf, String)| {
        let (model, _) = open(root, WeightSet::Ema, &common.device)?;
        let mut recipe = BTreeMap::new();
        flatten(&Run::open(root)?.recipe()?, "", &mut recipe);
        // A run that has not reached its end has no report yet.
        let report = fs::read(root.join("report.json")).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let report = report.unwrap_or(Value::Null);
        Ok(Subject { name, root: root.clone(), model, recipe, report, measures: Vec::new(), commands: Vec::new() })
    };
    args.runs.iter().zip(names).map(open).collect()
}

/// As many last parts of each path as tell the runs apart.
fn short_names(roots: &[PathBuf]) -> Vec<String> {
    let tail = |root: &PathBuf, parts: usize| {
        let all: Vec<String> = root.components().map(|c| c.as_os_str().display().to_string()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let distinct: BTreeSet<&PathBuf> = roots.iter().collect();
    let most = roots.iter().map(|r| r.components().count()).max().unwrap_or(1);
    let told_apart =
        |parts: &usize| distinct.iter().map(|r| tail(r, *parts)).collect::<BTreeSet<_>>().len() == distinct.len();
    let parts = (1..most).find(told_apart).unwrap_or(most);
    roots.iter().map(|r| tail(r, parts)).collect()
}

/// The settings of a recipe by their dotted names.
fn flatten(table: &Table, prefix: &str, out: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{prefix}{key}."), out),
            toml::Value::String(text) => drop(out.insert(format!("{prefix}{key}"), text.clone())),
            value => drop(out.insert(format!("{prefix}{key}"), value.to_string())),
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(mut names: Vec<String>) -> String {
    let last = names.pop().unwrap_or_default();
    if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) }
}

impl Subject {
    fn column(&self) -> Column {
        let info = self.model.info();
        Column { name: self.name.clone(), about: format!("{} on {}", info.system, info.data.set) }
    }

    fn object(&self) -> Value {
        let info = self.model.info();
        json!({"run": shown(&self.root), "system": info.system, "data": info.data.set, "images": info.images,
            "seconds": info.seconds, "measures": self.measures})
    }

    fn can(&self, ability: Ability) -> bool {
        self.model.abilities().contains(&ability)
    }

    /// What to measure if nothing is said.
    fn usual(&self, args: &CompareArgs) -> Result<Vec<&'static str>> {
        let labelled = self.model.info().pictures.classes.len() > 1;
        let mut metrics = Vec::new();
        if self.can(Ability::Generate) && (labelled || args.features.is_some()) {
            metrics.extend(["fid", "kid", "is", "precision", "recall", "classes"]);
        }
        // A diffusion model bounds its likelihood by a pass for each of its many steps, which takes minutes.
        if self.can(Ability::Likelihood) && self.model.nll_passes()? == 1 {
            metrics.push("nll");
        }
        if self.can(Ability::Classify) && labelled {
            metrics.push("accuracy");
        }
        if self.can(Ability::Translate) {
            let data = &self.model.info().data;
            let sets = kiln_data::open_all(&data.set, Split::Test, &data.rule())?;
            if sets.iter().all(|s| s.kinds().contains(&DataKind::Paired)) {
                metrics.push("pairs");
            }
        }
        Ok(metrics)
    }

    /// Runs `kiln evaluate` for each part of the data that is needed.
    fn measure(&mut self, args: &CompareArgs, common: &Common) -> Result<()> {
        let metrics: Vec<&str> = if args.metrics.is_empty() {
            self.usual(args)?
        } else {
            let able = |m: &&str| evaluate::find(m).is_ok_and(|m| m.needs.iter().any(|&a| self.can(a)));
            args.metrics.iter().map(String::as_str).filter(able).collect()
        };
        let split_of = |metric: &str| match (args.split, evaluate::find(metric)) {
            (Some(split), _) => split,
            (None, Ok(metric)) if metric.needs.contains(&Ability::Generate) => Split::Train,
            _ => Split::Test,
        };
        for split in [Split::Train, Split::Test, Split::All] {
            let part: Vec<&str> = metrics.iter().copied().filter(|m| split_of(m) == split).collect();
            if part.is_empty() {
                continue;
            }
            let root = self.root.display().to_string();
            // A path must not look like a flag.
            let root = if root.starts_with('-') { format!("./{root}") } else { root };
            let mut command = vec![root, "--metrics".into(), part.join(","), "-n".into(), args.n.to_string()];
            command.extend(["--seed".into(), args.seed.to_string(), "--split".into(), split.to_string()]);
            command.extend(args.features.iter().flat_map(|f| ["--features".into(), f.clone()]));
            let shown = command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
            self.commands.push(format!("kiln evaluate {shown}"));
            if !common.quiet {
                tell!("measuring {}: {}", self.name, part.join(", "));
            }
            self.measures.extend(measure(&EvaluateArgs::parse(command)?, common)?);
        }
        Ok(())
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn section(title: &str, note: impl Into<String>, content: Vec<Content>) -> Option<Section> {
    (!content.is_empty()).then(|| Section { title: title.into(), note: note.into(), content })
}

/// Up to `n` pictures kept aside from training (or, of a set too small to keep any aside, learnt
/// from), in an order that the seed keys.
struct HeldOut {
    prepared: Prepared,
    split: Split,
    order: Vec<usize>,
}

impl HeldOut {
    fn of(spec: &str, model: &dyn Model, n: usize, seed: u64) -> Result<Self> {
        let rule = model.info().data.rule().still();
        let (set, split) = match kiln_data::open(spec, Split::Test, &rule) {
            Ok(set) => (set, Split::Test),
            Err(_) => (kiln_data::open(spec, Split::Train, &rule)?, Split::Train),
        };
        let prepared = Prepared::new(set, rule)?;
        let (key, total) = (Key::new(seed).purpose("held out"), prepared.len() as u64);
        let order = (0..total.min(n as u64)).map(|i| key.permute(i, total) as usize).collect();
        Ok(Self { prepared, split, order })
    }

    /// Pictures `[k, c, h, w]` with their labels, a hundred at a time.
    fn chunks(&self, device: &Device, mut each: impl FnMut(Tensor<4>, &[usize]) -> Result<()>) -> Result<()> {
        let [c, h, w] = self.prepared.shape();
        for chunk in self.order.chunks(100) {
            let (mut values, mut labels) = (Vec::new(), Vec::new());
            for &i in chunk {
                let sample = self.prepared.get(i)?;
                values.extend(sample.values);
                labels.extend(sample.label.map(|l| l as usize));
            }
            each(from_values(values, [chunk.len(), c, h, w], device), &labels)?;
        }
        Ok(())
    }
}

/// Samples on the same seeds; held-out inputs above outputs.
fn pictures_section(
    subjects: &[Subject],
    args: &CompareArgs,
    common: &Common,
    device: &Device,
) -> Result<Option<Section>> {
    let (mut samples, mut outputs) = (Vec::new(), Vec::new());
    for (run, subject) in subjects.iter().enumerate() {
        let model = &*subject.model;
        if subject.can(Ability::Generate) {
            let mut made = Vec::new();
            let request = Request::new(0..args.samples as u64, args.seed, device);
            generate(model, args.samples, &request, common.quiet, &mut |_, images| {
                made.extend(pictures(images));
                Ok(())
            })?;
            let caption = format!("samples 0 to {} of seed {}", args.samples - 1, args.seed);
            samples.push(Figure { run, caption, picture: contact_sheet(&made, 0, 0)? });
        }
        let sets = split_specs(&model.info().data.set);
        let mut above = |spec: &str, what: &str, f: &dyn Fn(Tensor<4>) -> Result<Tensor<4>>| {
            let held_out = HeldOut::of(spec, model, ACROSS, args.seed)?;
            held_out.chunks(device, |images, _| {
                let made = pictures(f(images.clone())?);
                let (across, of) = (made.len(), made.first().map(|p| [p.width, p.height]));
                let mut rows = pictures(images);
                // Enlarged where the translation is larger.
                if let Some([width, height]) = of {
                    rows.iter_mut().for_each(|p| *p = p.resize(width, height));
                }
                rows.extend(made);
                let caption = format!("{spec}/{} above, {what} below", held_out.split);
                outputs.push(Figure { run, caption, picture: contact_sheet(&rows, across, 0)? });
                Ok(())
            })
        };
        if subject.can(Ability::Translate) {
            for (direction, spec) in model.directions()?.into_iter().zip(&sets) {
                above(spec, &format!("translation {direction}"), &|x| translate_along(model, x, 0, direction))?;
            }
        }
        if subject.can(Ability::Reconstruct) {
            above(&sets[0], "reconstruction", &|x| model.reconstruct(x))?;
        }
    }
    // What shows the same thing of several runs stands in one line.
    let mut rows = vec![samples];
    while let Some(first) = outputs.first() {
        let caption = first.caption.clone();
        let (same, others) = outputs.into_iter().partition(|f: &Figure| f.caption == caption);
        rows.push(same);
        outputs = others;
    }
    let content = rows.into_iter().filter(|f| !f.is_empty()).map(Content::Figures).collect();
    Ok(section("Pictures", "Every run on the same seeds, with the average of its weights if it keeps one.", content))
}

fn measures_section(subjects: &[Subject], args: &CompareArgs) -> Option<Section> {
    let mut rows: Vec<(String, String, Vec<Option<&MetricValue>>)> = Vec::new();
    for (run, subject) in subjects.iter().enumerate() {
        for measure in &subject.measures {
            let note = note(measure);
            let at = rows.iter().position(|(name, n, _)| *name == measure.measure && *n == note).unwrap_or_else(|| {
                rows.push((measure.measure.clone(), note, vec![None; subjects.len()]));
                rows.len() - 1
            });
            rows[at].2[run] = Some(measure);
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(name, note, found)| measure_row(&name, note, &found)).collect();
    if rows.is_empty() {
        return None;
    }
    let commands = subjects.iter().flat_map(|s| s.commands.iter().cloned()).collect();
    let text = format!(
        "Seed {}. Figures of different feature nets, sample counts or parts of the data stand in rows of their own: \
         they do not compare. ± is the standard deviation over splits or subsets, brackets a 95 % interval.",
        args.seed
    );
    section("Measures", text, vec![Content::Table(rows), Content::Commands(commands)])
}

/// What a figure was measured with.
fn note(measure: &MetricValue) -> String {
    let against = match (&measure.reference, &measure.split) {
        (Some(reference), Some(split)) => Some(format!("{reference}/{split}")),
        (reference, _) => reference.clone(),
    };
    let parts = [measure.features.clone(), Some(format!("n = {}", measure.n)), against];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn measure_row(name: &str, note: String, found: &[Option<&MetricValue>]) -> Row {
    let largest = found.iter().flatten().map(|m| m.value.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max);
    // Four digits of the row's largest figure, the same decimals for all.
    let digits = if largest > 0.0 { (3.0 - largest.log10().floor()).clamp(0.0, 6.0) as usize } else { 3 };
    let cell = |measure: &Option<&MetricValue>| {
        let Some(m) = measure else { return Cell::default() };
        let mut spread = m.std.map(|s| format!("± {s:.digits$}")).unwrap_or_default();
        if let Some([low, high]) = m.interval {
            spread = format!("{spread} [{low:.digits$}, {high:.digits$}]").trim().to_string();
        }
        Cell { value: format!("{:.digits$}", m.value), spread }
    };
    let arrow = found.iter().flatten().next().map_or("", |m| better(m));
    Row { label: format!("{name}{arrow}"), note, cells: found.iter().map(cell).collect() }
}

/// Which way a measure is better; what an output is compared with is neither good nor bad.
fn better(measure: &MetricValue) -> &'static str {
    match measure.larger_is_better() {
        _ if measure.measure.contains("_of_") => "",
        true => " ↑",
        false => " ↓",
    }
}

/// What classifiers take for what.
fn confusion_section(subjects: &[Subject], args: &CompareArgs, device: &Device) -> Result<Option<Section>> {
    let mut matrices = Vec::new();
    for (run, subject) in subjects.iter().enumerate() {
        let info = subject.model.info();
        if !subject.can(Ability::Classify) || info.pictures.classes.is_empty() {
            continue;
        }
        // A run on source and target is judged on the target, the last set it names.
        let spec = &split_specs(&info.data.set).pop().unwrap_or_default();
        let held_out = HeldOut::of(spec, &*subject.model, args.n, args.seed)?;
        check_classes(&*subject.model, held_out.prepared.set().as_ref())?;
        let (mut truth, mut predicted, mut classes) = (Vec::new(), Vec::new(), 0);
        held_out.chunks(device, |images, labels| {
            let logits = subject.model.classify(images)?;
            classes = logits.dims()[1];
            predicted.extend(to_values(logits).chunks(classes).map(argmax));
            truth.extend(labels);
            Ok(())
        })?;
        if classes != info.pictures.classes.len() || truth.len() != predicted.len() {
            continue;
        }
        let confusion = Confusion::new(classes, &truth, &predicted)?;
        let caption = format!("{spec}/{}, n = {}", held_out.split, truth.len());
        matrices.push(Matrix { run, caption, classes: info.pictures.classes.clone(), confusion });
    }
    let content = if matrices.is_empty() { Vec::new() } else { vec![Content::Confusions(matrices)] };
    Ok(section("Confusions", "A row for each true class, a column for what it was taken for.", content))
}

/// The records of a run's log.
fn records(root: &Path) -> Result<Vec<Value>> {
    let path = root.join("log.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).context(|| path.display())?;
    // The last line of a run in training may be half written.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Each logged term of all runs, against images and against time.
fn curves_section(subjects: &[Subject]) -> Result<Option<Section>> {
    let logs = subjects.iter().map(|s| records(&s.root)).collect::<Result<Vec<_>>>()?;
    let is_term = |key: &&String| !["images", "steps", "seconds"].contains(&key.as_str());
    let keys: BTreeSet<&String> =
        logs.iter().flatten().filter_map(Value::as_object).flat_map(|r| r.keys().filter(is_term)).collect();
    let (measured, losses): (Vec<&String>, Vec<&String>) = keys.into_iter().partition(|k| k.starts_with("measure."));
    let longest = logs.iter().flatten().filter_map(|r| r["seconds"].as_f64()).fold(0.0, f64::max);
    let (unit, length) = match longest {
        10_800.0.. => ("hours", 3600.0),
        180.0.. => ("minutes", 60.0),
        _ => ("seconds", 1.0),
    };
    let mut plots = Vec::new();
    for term in losses.into_iter().chain(measured) {
        for (along, key, length) in
            [("images seen".into(), "images", 1.0), (format!("{unit} of training"), "seconds", length)]
        {
            let line = |(run, log): (usize, &Vec<Value>)| {
                let point = |r: &Value| Some((r[key].as_f64()? / length, r[term].as_f64()?));
                let points: Vec<(f64, f64)> = log.iter().filter_map(point).collect();
                let name = subjects[run].name.clone();
                (!points.is_empty()).then(|| Line { name, colour: colour(run), points })
            };
            let lines: Vec<Line> = logs.iter().enumerate().filter_map(line).collect();
            if !lines.is_empty() {
                plots.push(Plot { title: term.clone(), along, lines });
            }
        }
    }
    let content = if plots.is_empty() { Vec::new() } else { vec![Content::Plots(plots)] };
    Ok(section(
        "Curves",
        "As logged, faint; under a Gaussian kernel, bold. A term of another system may share no more than its name.",
        content,
    ))
}

fn cost_section(subjects: &[Subject]) -> Option<Section> {
    type Quantity = (&'static str, &'static str, fn(&Subject) -> Option<String>);
    fn number(s: &Subject, key: &str) -> Option<f64> {
        s.report[key].as_f64()
    }
    const QUANTITIES: [Quantity; 8] = [
        ("parameters", "", |s| Some(thousands(number(s, "parameters")?))),
        ("images seen", "", |s| Some(thousands(s.model.info().images as f64))),
        ("images planned", "", |s| {
            let (seen, planned) = (s.model.info().images, s.model.info().train.images);
            (seen < planned).then(|| thousands(planned as f64))
        }),
        ("steps", "", |s| Some(thousands((s.model.info().images / s.model.info().train.batch.max(1) as u64) as f64))),
        ("training time", "", |s| Some(minutes(s.model.info().seconds))),
        ("images a second", "of training, previews and checkpoints included", |s| {
            let (images, seconds) = (s.model.info().images as f64, s.model.info().seconds);
            (seconds > 0.0).then(|| significant(images / seconds))
        }),
        ("multiply–adds a step", "of all forward passes; a backward pass costs about twice its forward pass", |s| {
            let (value, unit) = scaled(number(s, "multiply_adds")?);
            Some(format!("{} {unit}", significant(value)))
        }),
        ("peak memory", "resident, of the last training process", |s| {
            Some(format!("{} MiB", thousands((number(s, "peak_memory")? / 1_048_576.0).round())))
        }),
    ];
    let row = |(label, note, value): &Quantity| {
        let cells: Vec<Cell> = subjects.iter().map(|s| Cell::new(value(s).unwrap_or_default())).collect();
        let known = cells.iter().any(|c| !c.value.is_empty());
        known.then(|| Row { label: (*label).into(), note: (*note).into(), cells })
    };
    let rows = QUANTITIES.iter().filter_map(row).collect();
    section(
        "Cost",
        "Times are those of the machine each run was trained on, with whatever else ran there.",
        vec![Content::Table(rows)],
    )
}

/// `1 234 567`, with narrow spaces that do not break.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202F}');
        }
        out.push(c);
    }
    out
}

/// Three significant digits.
fn significant(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

fn scaled(value: f64) -> (f64, &'static str) {
    match value {
        1e12.. => (value / 1e12, "T"),
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        _ => (value / 1e3, "k"),
    }
}

fn recipe_section(subjects: &[Subject]) -> Option<Section> {
    let keys: BTreeSet<&String> = subjects.iter().flat_map(|s| s.recipe.keys()).collect();
    let row = |key: &String| {
        let cells: Vec<Cell> =
            subjects.iter().map(|s| Cell::new(s.recipe.get(key).cloned().unwrap_or_default())).collect();
        // Classes follow from the set.
        let differs = key != "data.classes" && cells.iter().any(|c| *c != cells[0]);
        differs.then(|| Row { label: key.clone(), note: String::new(), cells })
    };
    let rows: Vec<Row> = keys.into_iter().filter_map(row).collect();
    match (subjects.len(), rows.is_empty()) {
        (1, _) => None,
        (_, true) => {
            Some(Section { title: "Recipes".into(), note: "Every setting is the same.".into(), content: Vec::new() })
        }
        _ => section("Recipes", "The settings that differ; all others are the same.", vec![Content::Table(rows)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let short = |roots: &[&str]| short_names(&roots.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(short(&["runs/a", "runs/b/"]), ["a", "b"]);
        assert_eq!(short(&["old/a", "new/a", "b"]), ["old/a", "new/a", "b"]);
        assert_eq!(short(&["runs/a", "runs/a"]), ["a", "a"]);
        assert_eq!(short(&["/a", "a"]), ["//a", "a"]);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.0), "1\u{202F}234\u{202F}567");
        assert_eq!(thousands(999.0), "999");
        assert_eq!([significant(95.42), significant(1234.5), significant(0.5)], ["95.4", "1234", "0.500"]);
        assert_eq!(listed(vec!["a".into(), "b".into(), "c".into()]), "a, b and c");
    }

    #[test]
    fn arrows_point_where_a_measure_gets_better() {
        let wanted = [
            ("fid", " ↓"),
            ("nll_bound", " ↓"),
            ("is", " ↑"),
            ("pair_ssim_a2b", " ↑"),
            ("class_coverage", " ↑"),
            ("pair_l1_of_input_a2b", ""),
            ("svm_accuracy", " ↑"),
        ];
        for (name, arrow) in wanted {
            assert_eq!(better(&MetricValue::new(name, 0.0, 2)), arrow, "{name}");
        }
    }

    #[test]
    fn words_reach_a_shell_whole() {
        assert_eq!(quoted("runs/a-1"), "runs/a-1");
        assert_eq!(quoted("it's <&\""), "'it'\\''s <&\"'");
    }

    /// Figures that do not compare are not put into one row.
    #[test]
    fn a_row_has_one_sample_count_and_feature_net() {
        let a = MetricValue::new("fid", 12.0, 100).features("classifier:x", "none").against("x", "train");
        assert_eq!(note(&a), "classifier:x · n = 100 · x/train");
        let row = measure_row("fid", note(&a), &[Some(&a), None]);
        assert_eq!((row.cells[0].value.as_str(), row.cells[1].value.as_str()), ("12.00", ""));
    }
}
