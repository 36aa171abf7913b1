//! A claim as its file says it: see `docs/claims.md`.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_core::{Context, Error, Result};
use kiln_train::AnySystem;
use kiln_train::recipe::nearest;
use serde::Deserialize;
use toml::Table;

use crate::verbs::claim::expect::Expectation;
use crate::verbs::evaluate::EvaluateArgs;
use crate::verbs::train::read_recipe;

/// Where claims lie beside recipes.
pub const FOLDER: &str = "recipes";

/// What a paper claims, and what must be trained and measured to see whether it holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// `vae` of `vae/claim.toml`, `vae-fashion` of `vae/claim-fashion.toml`.
    #[serde(skip)]
    pub name: String,
    /// The folder it lies in, `vae`.
    #[serde(skip)]
    pub system: String,
    /// Its file.
    #[serde(skip)]
    pub path: PathBuf,
    /// Other names it goes by.
    #[serde(default)]
    pub also: Vec<String>,
    /// What the paper says, in a sentence.
    pub says: String,
    /// The same as inequalities over the values.
    pub expect: Vec<String>,
    /// What a reader must know beside the verdicts, in a line or two.
    #[serde(default)]
    pub note: String,
    /// Each variant is trained once a seed.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Images each run sees; by default what its recipe says.
    pub images: Option<u64>,
    /// Arguments of `kiln evaluate` that all measures share.
    #[serde(default)]
    evaluate: String,
    /// The metrics that the results page shows; by default all.
    #[serde(default)]
    pub show: Vec<String>,
    /// What is trained.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
    /// Runs that the others need, such as a classifier that guides.
    #[serde(default)]
    pub beside: Vec<Variant>,
    /// What each of them is measured by.
    #[serde(rename = "measure")]
    pub measures: Vec<Evaluation>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// A recipe with other settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What the results call it.
    pub name: String,
    /// A recipe file, from the claim's folder.
    recipe: PathBuf,
    /// Settings on top of it, as `kiln train --set` takes them. `{seed}` is the seed, `{SYSTEM}` the run of that system beside.
    #[serde(default)]
    pub set: Vec<String>,
    /// Images its runs see, before the claim's own.
    pub images: Option<u64>,
    /// What the paper has for it.
    #[serde(default)]
    pub paper: String,
}

impl Variant {
    /// Its name as a part of a folder's.
    pub fn slug(&self) -> String {
        self.name.to_lowercase().replace(", ", "-").replace(' ', "-")
    }
}

/// One evaluation of every run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// What the results call it.
    #[serde(default)]
    pub label: String,
    /// Arguments of `kiln evaluate`. `{SYSTEM}` is the run of that system beside.
    args: String,
    /// What the paper has for it.
    #[serde(default)]
    pub paper: String,
}

impl Claim {
    /// Reads a claim.
    ///
    /// # Errors
    /// Names file, line and key of what does not fit, or the part of an expectation that cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let place = path.display();
        let text = fs::read_to_string(path).context(|| place.to_string())?;
        let mut claim: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
            Error::usage(format!("{place} line {line}: {}", e.message()))
        })?;
        (claim.system, claim.name) = names(path).ok_or_else(|| {
            Error::usage(format!("{place}: a claim's file is called SYSTEM/claim.toml or SYSTEM/claim-NAME.toml"))
        })?;
        claim.path = path.into();
        let refuse = |what: String| Err(Error::usage(format!("{place}: {what}")));
        if claim.variants.is_empty() || claim.measures.is_empty() || claim.seeds.is_empty() {
            return refuse("give at least one [[variant]], one [[measure]] and one of `seeds`".into());
        }
        for Variant { name, .. } in claim.variants.iter().chain(&claim.beside) {
            if name.contains(['/', '\\']) || name.contains("..") || name.contains(char::is_control) {
                return refuse(format!("{name:?}: the name of a folder has no /, \\, .. or control characters"));
            }
        }
        for (at, variant) in claim.variants.iter().enumerate() {
            if let Some(other) =
                claim.variants[..at].iter().find(|v| v.name != variant.name && v.slug() == variant.slug())
            {
                let (a, b) = (&other.name, &variant.name);
                return refuse(format!("`{a}` and `{b}` would have one folder, `{}`; rename one", variant.slug()));
            }
        }
        let names = claim.variants.iter().map(|v| &v.name).chain(claim.measures.iter().map(|m| &m.label));
        let mut seen = Vec::new();
        for name in names {
            if name.contains(['[', ']', '|']) || seen.contains(&name) {
                return refuse(format!(
                    "`{name}`: names of variants and labels of measures differ, and have no [, ] or |"
                ));
            }
            seen.push(name);
        }
        claim.check_beside()?;
        Ok(claim)
    }

    /// Refuses runs beside that have one name or one folder, and braces that name none of them.
    fn check_beside(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::usage(format!("{}: {what}", self.path.display())));
        let mut systems: Vec<&str> = Vec::new();
        for variant in &self.beside {
            let system = self.recipe(variant)?.0.id();
            if systems.contains(&system) {
                return refuse(format!("two [[beside]] of {system}, and `{{{system}}}` is one run; take one away"));
            }
            systems.push(system);
            for other in self.variants.iter().filter(|v| v.slug() == variant.slug()) {
                if self.recipe(other)?.0.id() == system {
                    let (a, b) = (&variant.name, &other.name);
                    return refuse(format!("`{a}` and `{b}` of {system} would have one folder; rename one"));
                }
            }
        }
        let beside: Vec<String> = systems.iter().map(|system| format!("{{{system}}}")).collect();
        let seed = "{seed}".to_string();
        let with_seed: Vec<String> = std::iter::once(seed.clone()).chain(beside.iter().cloned()).collect();
        let of = |variants: &[Variant]| variants.iter().flat_map(|v| v.set.clone()).collect::<Vec<_>>();
        let args = self.measures.iter().map(|m| m.args.clone()).chain([self.evaluate.clone()]).collect();
        for (texts, known) in [(of(&self.variants), &with_seed), (of(&self.beside), &vec![seed]), (args, &beside)] {
            for text in texts {
                if let Some(unknown) = unfilled(&text, known) {
                    let known = if known.is_empty() { "no [[beside]]".into() } else { known.join(", ") };
                    return refuse(format!("`{text}`: nothing fills `{unknown}`; there is {known}"));
                }
            }
        }
        Ok(())
    }

    /// The system of a variant, what its recipe has on top of that system's defaults, and the recipe's path.
    ///
    /// # Errors
    /// If the recipe cannot be read.
    pub fn recipe(&self, variant: &Variant) -> Result<(Box<dyn AnySystem>, Table, PathBuf)> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(&variant.recipe);
        let (system, changes) = read_recipe(&path)?;
        Ok((system, changes, path))
    }

    /// What `kiln evaluate` is asked of a run, with `fill` putting runs beside in the place of their names.
    ///
    /// # Errors
    /// As the command line would be refused.
    pub fn evaluation(&self, measure: &Evaluation, run: &str, fill: &dyn Fn(&str) -> String) -> Result<EvaluateArgs> {
        let flags = [&self.evaluate, &measure.args].into_iter().flat_map(|args| args.split_whitespace());
        let words = std::iter::once(run.to_string()).chain(flags.map(fill)).collect();
        let place = |why: Error| Error::usage(format!("{}: {why}", self.path.display()));
        EvaluateArgs::parse(words).map_err(place)
    }

    /// Its only metric.
    ///
    /// # Errors
    /// If there are several.
    pub fn metric(&self) -> Result<String> {
        let mut all: Vec<String> = Vec::new();
        for measure in &self.measures {
            all.extend(self.evaluation(measure, "RUN", &str::to_string)?.metrics().iter().cloned());
        }
        all.dedup();
        match &all[..] {
            [one] => Ok(one.clone()),
            _ => Err(Error::usage(format!("say of which metric, as in {}[label]", all.join("[label] or ")))),
        }
    }

    /// Names that expectations know: variants and measures.
    pub fn labels(&self) -> Vec<&str> {
        self.variants.iter().map(|v| v.name.as_str()).chain(self.measures.iter().map(|m| m.label.as_str())).collect()
    }

    /// Its expectations, beside other claims of these names.
    ///
    /// # Errors
    /// Names the one that cannot be read.
    pub fn expectations(&self, claims: &[&str]) -> Result<Vec<Expectation>> {
        let labels = self.labels();
        let read = |text: &String| Expectation::parse(text, &labels, claims);
        self.expect.iter().map(read).collect()
    }
}

/// The first `{…}` of a text that is not known.
fn unfilled<'a>(text: &'a str, known: &[String]) -> Option<&'a str> {
    let mut places = text.match_indices('{').map(|(at, _)| &text[at..]);
    let unknown = places.find(|rest| !known.iter().any(|name| rest.starts_with(name.as_str())))?;
    Some(unknown.split_inclusive('}').next().unwrap_or(unknown))
}

/// `ddpm` and `ddpm-ddim` of `recipes/ddpm/claim-ddim.toml`.
fn names(path: &Path) -> Option<(String, String)> {
    let path = std::path::absolute(path).ok()?;
    let system = path.parent()?.file_name()?.to_str()?;
    let more = path.file_name()?.to_str()?.strip_suffix(".toml")?.strip_prefix("claim")?;
    (more.is_empty() || more.starts_with('-')).then(|| (system.into(), format!("{system}{more}")))
}

/// All claims below a folder of recipes; none if there is no such folder.
///
/// # Errors
/// If one cannot be read.
pub fn all(folder: &Path) -> Result<Vec<Claim>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = |folder: &Path| {
        let entries =
            fs::read_dir(folder).and_then(|e| e.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>());
        entries.context(|| folder.display())
    };
    let mut claims = Vec::new();
    for system in entries(folder)?.iter().filter(|path| path.is_dir()) {
        for path in entries(system)? {
            if names(&path).is_some() {
                claims.push(Claim::read(&path)?);
            }
        }
    }
    Ok(claims)
}

/// The claim of a name, or of a file.
///
/// # Errors
/// A usage error that names the nearest, or says where claims are looked for.
pub fn find(name: &str) -> Result<Claim> {
    if name.ends_with(".toml") {
        return Claim::read(Path::new(name));
    }
    let claims = all(Path::new(FOLDER))?;
    if claims.is_empty() {
        return Err(Error::usage(format!(
            "claim `{name}`: there is no folder `{FOLDER}` with claims here; go to Kiln's own folder, or give the claim's file"
        )));
    }
    let names: Vec<String> = claims.iter().flat_map(|c| std::iter::once(&c.name).chain(&c.also)).cloned().collect();
    let found = claims.into_iter().find(|claim| claim.name == name || claim.also.iter().any(|also| also == name));
    found.ok_or_else(|| {
        let hint = match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`kiln claim` lists them".to_string(),
        };
        Error::usage(format!("unknown claim `{name}`; {hint}"))
    })
}
