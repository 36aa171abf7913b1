//! The results page, written whole from the claims and the values kept of them.

use std::fmt::Write;

use kiln_core::Result;
use kiln_train::progress::minutes;

use crate::verbs::claim::expect::Verdict;
use crate::verbs::claim::values::{Book, Measured, Value};

const HEAD: &str = "# Results

What the papers behind Kiln's systems claim, and what came out here. `kiln claim` writes this page whole from the claims
beside the recipes and the values in [results/](results); [claims.md](claims.md) says how a claim is written. A verdict
compares means, and says nothing of what was not compared.

`±` is the standard deviation over seeds (of a single seed, over its splits), brackets are a 95 % interval. A metric by
`classifier:SET` sees pictures through a small classifier that Kiln trains on SET: it compares rows of this page, and is
*not* the literature's, which needs the Inception network. Training times are of the hardware named, which may have been
busy with other runs.
";

/// The page.
pub fn page(book: &Book) -> String {
    let mut out = format!("{HEAD}\n| claim | what is claimed | verdict |\n|---|---|---|\n");
    let mut sections = String::new();
    let mut system = "";
    for (at, measured) in book.claims.iter().enumerate() {
        let claim = &measured.claim;
        let judged = book.verdicts(at);
        let short = match &judged {
            Ok(judged) => in_short(&judged.iter().map(|(verdict, _)| *verdict).collect::<Vec<_>>()),
            Err(e) => format!("error: {e}"),
        };
        row(&mut out, [format!("[{0}](#{0})", claim.name), claim.says.clone(), short]);
        // A system's own claim stands under its heading.
        if claim.system != system {
            system = &claim.system;
            sections += &format!("\n## {system}\n");
        }
        if claim.name != system {
            sections += &format!("\n### {}\n", claim.name);
        }
        sections += &section(measured, &judged);
    }
    out + &sections
}

/// `holds`, `does not hold`, `1 of 3 hold`.
pub fn in_short(verdicts: &[Verdict]) -> String {
    let count = |which| verdicts.iter().filter(|&&v| v == which).count();
    let (holds, not, all) = (count(Verdict::Holds), count(Verdict::DoesNotHold), verdicts.len());
    let short = match verdicts {
        [first, rest @ ..] if rest.iter().all(|v| v == first) => first.to_string(),
        _ => format!("{holds} of {all} hold"),
    };
    let unmeasured = all - holds - not;
    if unmeasured > 0 && unmeasured < all { format!("{short}, {unmeasured} not measured") } else { short }
}

/// One claim: its table, what was expected, and how it was measured.
fn section(measured: &Measured, judged: &Result<Vec<(Verdict, Vec<&Value>)>>) -> String {
    let (judged, error) = match judged {
        Ok(judged) => (judged.as_slice(), None),
        Err(e) => (&[][..], Some(e)),
    };
    let claim = &measured.claim;
    let mut out = format!("\n{}\n\n", claim.says);
    let table = Table::of(measured);
    let papers = table.rows.iter().any(|row| !row.paper.is_empty());
    let names = table.columns.iter().map(|column| column.as_str());
    let head = std::iter::once("variant").chain(names).chain(papers.then_some("paper")).chain(["verdict"]);
    let head: Vec<String> = head.map(String::from).collect();
    row(&mut out, head.iter().cloned());
    row(&mut out, head.iter().map(|_| "---".into()));
    for line in &table.rows {
        let value = |column: &String| {
            let value = line.values.iter().find(|v| v.metric == *column);
            value.map_or_else(|| "–".into(), |value| shown(value))
        };
        let paper = if line.paper.is_empty() { "–" } else { &line.paper };
        let cells = std::iter::once(line.name.clone()).chain(table.columns.iter().map(value));
        let last = [line.verdicts(judged)];
        row(&mut out, cells.chain(papers.then(|| paper.to_string())).chain(last));
    }
    out.push('\n');
    for (nth, text) in claim.expect.iter().enumerate() {
        let number = if claim.expect.len() > 1 { format!("{}.", nth + 1) } else { "-".into() };
        let verdict = judged.get(nth).map_or_else(|| "not judged".into(), |(verdict, _)| verdict.to_string());
        let _ = writeln!(out, "{number} `{text}`: **{verdict}**");
    }
    if let Some(error) = error {
        let _ = write!(out, "\nError: {error}\n");
    }
    if !claim.note.is_empty() {
        let _ = write!(out, "\n{}\n", claim.note);
    }
    if !measured.values.is_empty() {
        let _ = write!(out, "\n{}\n", provenance(&measured.values));
    }
    out
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    // A line of its own would end the table.
    let cell = |cell: String| cell.replace('|', "\\|").replace("\r\n", " ").replace(['\n', '\r'], " ");
    let cells: Vec<String> = cells.into_iter().map(cell).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

/// The values of a claim as they are shown.
struct Table<'a> {
    /// Metrics.
    columns: Vec<String>,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    name: String,
    paper: String,
    values: Vec<&'a Value>,
}

impl<'a> Table<'a> {
    /// A row a variant; a row a variant and measure if two measures give the same metric.
    fn of(measured: &'a Measured) -> Self {
        let Measured { claim, values } = measured;
        let apart = values
            .iter()
            .any(|a| values.iter().any(|b| a.variant == b.variant && a.metric == b.metric && a.measure != b.measure));
        let mut columns = claim.show.clone();
        if columns.is_empty() {
            columns = distinct(values.iter().map(|v| v.metric.clone()));
        }
        let mut rows = Vec::new();
        for variant in &claim.variants {
            let own = values.iter().filter(|v| v.variant == variant.name);
            if !apart {
                rows.push(Row { name: variant.name.clone(), paper: variant.paper.clone(), values: own.collect() });
                continue;
            }
            for measure in &claim.measures {
                let name = match &claim.variants[..] {
                    [_] => measure.label.clone(),
                    _ => format!("{}, {}", variant.name, measure.label),
                };
                let paper = if measure.paper.is_empty() { &variant.paper } else { &measure.paper };
                let values = own.clone().filter(|v| v.measure == measure.label).collect();
                rows.push(Row { name, paper: paper.clone(), values });
            }
        }
        Self { columns, rows }
    }
}

impl Row<'_> {
    /// Those of the expectations that speak of a value of this row, by their numbers if they differ.
    fn verdicts(&self, judged: &[(Verdict, Vec<&Value>)]) -> String {
        if self.values.is_empty() {
            return Verdict::NotMeasured.to_string();
        }
        let own = |of: &[&Value]| of.iter().any(|&value| self.values.contains(&value));
        let own: Vec<(Verdict, usize)> =
            judged.iter().zip(1..).filter(|((_, of), _)| own(of)).map(|((verdict, _), nth)| (*verdict, nth)).collect();
        match &own[..] {
            [] => return "–".into(),
            [(first, _), ..] if judged.iter().all(|(verdict, _)| verdict == first) => return first.to_string(),
            _ => {}
        }
        let words = [
            (Verdict::Holds, "holds", "hold"),
            (Verdict::DoesNotHold, "does not", "do not"),
            (Verdict::NotMeasured, "not measured", "not measured"),
        ];
        let said = words.iter().filter_map(|(which, one, several)| {
            let numbers: Vec<String> = own.iter().filter(|(v, _)| v == which).map(|(_, nth)| nth.to_string()).collect();
            let (last, others) = numbers.split_last()?;
            Some(if others.is_empty() {
                format!("{last} {one}")
            } else {
                format!("{} and {last} {several}", others.join(", "))
            })
        });
        said.collect::<Vec<_>>().join("; ")
    }
}

/// `36.5 [32.8, 39.1]`, `0.823 ± 0.005`, `0.970`: no more digits than are known.
pub fn shown(value: &Value) -> String {
    let Value { value, std, interval, .. } = value;
    let half = std.or(interval.map(|[low, high]| (high - low) / 2.0)).filter(|half| *half > 0.0);
    // One digit of it, or two below 3, and never more than three behind the point.
    let digits = match half {
        Some(half) => (-(half / 3.0).log10()).ceil().clamp(1.0, 3.0) as usize,
        None if value.abs() >= 10.0 => 1,
        None => 3,
    };
    match (interval, std) {
        (Some([low, high]), _) => format!("{value:.digits$} [{low:.digits$}, {high:.digits$}]"),
        (None, Some(std)) => format!("{value:.digits$} ± {std:.digits$}"),
        (None, None) => format!("{value:.digits$}"),
    }
}

/// How values were measured, in a line.
fn provenance(values: &[Value]) -> String {
    let all = |of: &dyn Fn(&Value) -> String| distinct(values.iter().map(of));
    let commands = all(&|v| format!("`{}`", v.command)).join(", ");
    let seeds = all(&|v| v.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")).join("; ");
    let plural = if values.iter().any(|v| v.seeds.len() > 1) { "s" } else { "" };
    let ends = |of: &dyn Fn(&Value) -> f64, say: &dyn Fn(f64) -> String| {
        let (low, high) = values.iter().map(of).fold((f64::MAX, 0.0), |(a, b): (f64, f64), x| (a.min(x), b.max(x)));
        if say(low) == say(high) { say(low) } else { format!("{} to {}", say(low), say(high)) }
    };
    let images = ends(&|v| v.images as f64, &|x| thousands(x as u64));
    let seconds = ends(&|v| v.seconds, &minutes);
    let hardware = all(&|v| v.hardware.clone()).join(" or ");
    let how = |v: &Value| {
        let by = v.features.as_ref().map(|net| format!(" by `{net}`")).unwrap_or_default();
        format!("n = {} of {}{by}", thousands(v.n as u64), v.reference)
    };
    let conditions = all(&how);
    // Several are told apart by the metric, or by the measure's label if one metric has several.
    let named = |name: &dyn Fn(&Value) -> String| {
        let of = |condition: &String| distinct(values.iter().filter(|v| how(v) == *condition).map(name));
        conditions.iter().map(of).collect::<Vec<_>>()
    };
    let mut names = named(&|v| v.metric.clone());
    if names.iter().map(Vec::len).sum::<usize>() > all(&|v| v.metric.clone()).len() {
        names = named(&|v| v.measure.clone());
    }
    let conditions = match &conditions[..] {
        [one] => one.clone(),
        several => {
            let said = names.iter().zip(several).map(|(names, how)| format!("{}: {how}", names.join(", ")));
            said.collect::<Vec<_>>().join("; ")
        }
    };
    format!("{commands}: seed{plural} {seeds}; {images} images and {seconds} a run on {hardware}. {conditions}.")
}

/// Each text once, in the order of their first places.
fn distinct(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for text in texts {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// `1,200,000`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}
