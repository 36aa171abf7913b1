//! Which data set does a name, a folder or a zip mean?

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use kiln_core::{Error, Result};

use crate::icons::{IconFile, IconSet};
use crate::listing::FileSet;
use crate::{DataSet, PictureRule, Split, idx, starter};

/// A set before the split: icon sets opened together first agree on their names.
enum Found {
    Icons(IconFile),
    Set(Arc<dyn DataSet>),
}

/// Opens NAME (see [`crate::catalogue`]), FOLDER or ZIP.
///
/// The rule is needed here only by icon sets, which are rendered at its size on its background. A
/// folder whose name is also that of a data set is reached as `./NAME`. Errors: an unknown name, a set
/// that is not on this machine yet, a folder without pictures, a split without pictures, or files
/// that are not what they should be.
pub fn open(spec: &str, split: Split, rule: &PictureRule) -> Result<Arc<dyn DataSet>> {
    let mut sets = open_all_specs(&[spec], split, rule)?;
    sets.pop().ok_or_else(|| Error::usage("no data set named"))
}

/// Opens several sets for a multi-domain system: `A,B` is split at commas.
///
/// Icon sets opened together are restricted to the names all of them have, in the same order, so that
/// index i of each is the known pair.
pub fn open_all(specs: &str, split: Split, rule: &PictureRule) -> Result<Vec<Arc<dyn DataSet>>> {
    let specs: Vec<&str> = specs.split(',').map(str::trim).collect();
    open_all_specs(&specs, split, rule)
}

fn open_all_specs(
    specs: &[&str],
    split: Split,
    rule: &PictureRule,
) -> Result<Vec<Arc<dyn DataSet>>> {
    rule.check()?;
    let found: Vec<Found> = specs
        .iter()
        .map(|s| find(s, split))
        .collect::<Result<_>>()?;
    let names = found.iter().filter_map(|f| match f {
        Found::Icons(file) => Some(file.names()),
        Found::Set(_) => None,
    });
    let shared: BTreeSet<String> = names.reduce(|a, b| &a & &b).unwrap_or_default();
    let finish = |(found, spec): (Found, &&str)| match found {
        Found::Set(set) => set,
        Found::Icons(file) => Arc::new(IconSet::new(spec, file, shared.clone(), split, rule)),
    };
    Ok(found.into_iter().zip(specs).map(finish).collect())
}

fn find(spec: &str, split: Split) -> Result<Found> {
    match spec {
        "starter" => return Ok(Found::Set(Arc::new(starter::pictures(split)?))),
        "starter:noto" | "starter:twemoji" => {
            return Ok(Found::Icons(starter::icons(&spec["starter:".len()..])?));
        }
        _ => {}
    }
    let path = Path::new(spec);
    if path.is_dir() {
        return Ok(Found::Set(if idx::is_idx(path) {
            Arc::new(idx::open(spec, path, split, None)?)
        } else {
            Arc::new(FileSet::folder(spec, path, split)?)
        }));
    }
    if path.is_file() {
        return Ok(Found::Set(Arc::new(FileSet::zip(spec, path, split)?)));
    }
    Err(Error::usage(format!(
        "{spec}: neither a data set, a folder nor a zip"
    )))
}
