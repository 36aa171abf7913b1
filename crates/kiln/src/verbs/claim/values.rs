//! What was measured of claims, kept as data: `docs/results/NAME.json`, a value a line.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_core::{Context, Error, Result, output};
use serde::{Deserialize, Serialize};

use crate::verbs::claim::expect::{Figure, Verdict};
use crate::verbs::claim::file::{self, Claim};
use crate::verbs::evaluate::is_called;

/// A value of a variant, over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The variant's name.
    pub variant: String,
    /// The measure's label.
    pub measure: String,
    /// `fid`.
    pub metric: String,
    /// The feature net, where the metric needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    /// The mean over seeds; JSON has `null` for what is not finite.
    #[serde(deserialize_with = "number_or_null")]
    pub value: f64,
    /// Of several seeds over them; of one over splits, where the metric has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// 95 % confidence interval of a single seed, where the metric has one.
    #[serde(default, deserialize_with = "finite_ends", skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Pictures measured.
    pub n: usize,
    /// The set they are compared with or taken from, and its part.
    pub reference: String,
    /// The runs' seeds.
    pub seeds: Vec<u64>,
    /// Images each run saw.
    pub images: u64,
    /// Seconds each run trained.
    pub seconds: f64,
    /// What measured it.
    pub hardware: String,
    /// What was typed.
    pub command: String,
}

fn number_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// An interval, unless an end was not finite.
fn finite_ends<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<[f64; 2]>, D::Error> {
    let ends = Option::<[Option<f64>; 2]>::deserialize(from)?;
    Ok(ends.and_then(|[low, high]| Some([low?, high?])))
}

/// The values of one claim.
#[derive(Deserialize)]
struct Values {
    /// The claim's file.
    claim: PathBuf,
    /// In the claim's order.
    values: Vec<Value>,
}

/// A claim and what was measured of it.
pub struct Measured {
    /// The claim.
    pub claim: Claim,
    /// Its values.
    pub values: Vec<Value>,
}

/// Every claim that can be found: those beside the recipes, and those that values were kept of.
pub struct Book {
    folder: PathBuf,
    /// By system and name.
    pub claims: Vec<Measured>,
}

impl Book {
    /// Reads all claims beside the recipes of a folder, and the values kept in another.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(recipes: &Path, folder: &Path) -> Result<Self> {
        let mut book = Self { folder: folder.into(), claims: Vec::new() };
        for claim in file::all(recipes)? {
            book.add(claim)?;
        }
        if folder.is_dir() {
            for entry in fs::read_dir(folder).context(|| folder.display())? {
                let path = entry.context(|| folder.display())?.path();
                if path.extension().is_some_and(|e| e == "json") {
                    let claim = read(&path)?.claim;
                    if claim.is_file() && !book.claims.iter().any(|m| m.claim.path == claim) {
                        book.add(Claim::read(&claim)?)?;
                    }
                }
            }
        }
        Ok(book)
    }

    /// Takes in a claim that may be known already; returns its place.
    ///
    /// # Errors
    /// If its values cannot be read, or another claim has its name.
    pub fn add(&mut self, claim: Claim) -> Result<usize> {
        if let Some(at) = self.claims.iter().position(|m| m.claim.name == claim.name) {
            let known = &self.claims[at].claim.path;
            let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
            if whole(known) == whole(&claim.path) {
                return Ok(at);
            }
            let (path, known) = (claim.path.display(), known.display());
            return Err(Error::usage(format!("{path}: {known} is called `{}` already; rename one", claim.name)));
        }
        let path = self.path(&claim);
        let values = if path.exists() { read(&path)?.values } else { Vec::new() };
        let place = |claim: &Claim| (claim.system.clone(), claim.name.clone());
        let at = self.claims.partition_point(|m| place(&m.claim) < place(&claim));
        self.claims.insert(at, Measured { claim, values });
        Ok(at)
    }

    fn path(&self, claim: &Claim) -> PathBuf {
        self.folder.join(format!("{}.json", claim.name))
    }

    /// Keeps values of one variant and measure in the place of those there were, and writes them down.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep(&mut self, at: usize, variant: &str, measure: &str, new: Vec<Value>) -> Result<()> {
        let Measured { claim, values } = &mut self.claims[at];
        values.retain(|v| v.variant != variant || v.measure != measure);
        values.extend(new);
        // What the claim no longer has, the page could not explain.
        let place = |v: &Value| {
            let variant = claim.variants.iter().position(|c| c.name == v.variant)?;
            Some((variant, claim.measures.iter().position(|m| m.label == v.measure)?, v.metric.clone()))
        };
        values.retain(|v| place(v).is_some());
        values.sort_by_key(place);
        let lines = values.iter().map(serde_json::to_string).collect::<std::result::Result<Vec<_>, _>>();
        let lines = lines.context(|| claim.name.clone())?.join(",\n");
        let path = serde_json::to_string(&claim.path).context(|| claim.name.clone())?;
        let text = format!("{{\"claim\": {path}, \"values\": [\n{lines}\n]}}\n");
        output::folder(&self.folder)?;
        output::write(&self.path(&self.claims[at].claim), text.as_bytes())
    }

    /// Each expectation of a claim with its verdict and the values it speaks of.
    ///
    /// # Errors
    /// A usage error for a figure that the claim does not have.
    pub fn verdicts(&self, at: usize) -> Result<Vec<(Verdict, Vec<&Value>)>> {
        let claim = &self.claims[at].claim;
        let path = claim.path.display().to_string();
        let place = |e: Error| if e.to_string().starts_with(&path) { e } else { Error::usage(format!("{path}: {e}")) };
        let judged = claim.expectations(&self.names()).map_err(place)?.into_iter().map(|expectation| {
            let verdict = expectation.verdict(&|figure| Ok(self.value(at, figure)?.map(|v| v.value)))?;
            let mut own = Vec::new();
            // All are looked up, for mistakes behind the first that was not measured.
            for figure in expectation.figures() {
                let value = self.value(at, figure)?;
                own.extend(value.filter(|_| figure.claim.is_none()));
            }
            Ok((verdict, own))
        });
        judged.collect::<Result<_>>().map_err(place)
    }

    /// The names of all claims.
    pub fn names(&self) -> Vec<&str> {
        self.claims.iter().map(|m| m.claim.name.as_str()).collect()
    }

    /// The value of a figure, as far as it was measured. A metric goes by its name, or by its base if none has that name.
    ///
    /// # Errors
    /// If the claim cannot have it, measured or not, or has several.
    fn value(&self, at: usize, figure: &Figure) -> Result<Option<&Value>> {
        let at = match &figure.claim {
            None => at,
            Some(name) => self.claims.iter().position(|m| &m.claim.name == name).unwrap_or(at),
        };
        let Measured { claim, values } = &self.claims[at];
        let label = |variant: &str, measure: &str| match &figure.label {
            None => true,
            Some(label) => label == variant || label == measure || *label == format!("{variant}, {measure}"),
        };
        let pairs: Vec<(&str, &str)> = claim
            .variants
            .iter()
            .flat_map(|v| claim.measures.iter().map(|m| (v.name.as_str(), m.label.as_str())))
            .filter(|(variant, measure)| label(variant, measure))
            .collect();
        let metric = match &figure.metric {
            Some(metric) => metric.clone(),
            None => claim.metric().map_err(|e| Error::usage(format!("expect `{figure}`: {e}")))?,
        };
        let of = |v: &&Value, (variant, measure): (&str, &str)| v.variant == variant && v.measure == measure;
        let mut found: Vec<&Value> = values.iter().filter(|v| pairs.iter().any(|&pair| of(v, pair))).collect();
        let exact = found.iter().any(|v| v.metric == metric);
        found.retain(|v| if exact { v.metric == metric } else { is_called(&v.metric, &metric) });
        let measures = claim.measures.iter().filter(|m| pairs.iter().any(|(_, measure)| *measure == m.label));
        let printed = measures.map(|m| claim.evaluation(m, "RUN", &str::to_string)).collect::<Result<Vec<_>>>()?;
        let all_measured = !pairs.is_empty() && pairs.iter().all(|&pair| values.iter().any(|v| of(&v, pair)));
        let refuse = |what: &str, these: Vec<String>| {
            Err(Error::usage(format!("expect `{figure}`: {what} `{}`", these.join("`, `"))))
        };
        match found[..] {
            [one] => Ok(Some(one)),
            [] if pairs.is_empty() => {
                refuse("no such label; there are", claim.labels().into_iter().map(String::from).collect())
            }
            [] if all_measured => refuse("no such value; there are", values.iter().map(called).collect()),
            [] if !printed.iter().any(|measure| measure.gives(&metric)) => {
                let names = printed.iter().flat_map(|measure| measure.figures());
                let whole = |name: String| if name.ends_with('_') { name + "…" } else { name };
                refuse("no such value; there are", names.map(whole).collect())
            }
            [] => Ok(None),
            _ => refuse("one of several:", found.into_iter().map(called).collect()),
        }
    }
}

/// `fid[variant, measure]`.
fn called(value: &Value) -> String {
    let label = [&value.variant, &value.measure].map(String::as_str).into_iter().filter(|l| !l.is_empty());
    format!("{}[{}]", value.metric, label.collect::<Vec<_>>().join(", "))
}

fn read(path: &Path) -> Result<Values> {
    let text = fs::read_to_string(path).context(|| path.display())?;
    serde_json::from_str(&text).context(|| format!("{}: not the values of a claim", path.display()))
}
