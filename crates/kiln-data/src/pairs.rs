//! Do two sets belong together, picture by picture?

use std::sync::Arc;

use kiln_core::{Error, Result};

use crate::DataSet;

/// Whether index i of each set belongs to index i of the other: they are equally long, and where both name their
/// pictures, the names are the same (`a/1.png` and `b/1.jpg`).
///
/// # Errors
/// A usage error naming the first picture that has no counterpart.
pub fn check_pairs(a: &Arc<dyn DataSet>, b: &Arc<dyn DataSet>) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::usage(format!(
            "{} and {} are not pairs: {what}; both need one picture of each name",
            a.name(),
            b.name()
        )))
    };
    for index in 0..a.len().min(b.len()) {
        if let (Some(here), Some(there)) = (a.stem(index), b.stem(index))
            && here != there
        {
            // In order of their names, the first of the two is the one that the other set lacks.
            let (name, lacks) = if here < there { (here, b) } else { (there, a) };
            return refuse(format!("{} has no `{name}`", lacks.name()));
        }
    }
    let (longer, shorter) = if a.len() > b.len() { (a, b) } else { (b, a) };
    if longer.len() == shorter.len() {
        return Ok(());
    }
    match longer.stem(shorter.len()) {
        Some(name) => refuse(format!("{} has no `{name}`", shorter.name())),
        None => refuse(format!(
            "{} has {} pictures and {} has {}",
            longer.name(),
            longer.len(),
            shorter.name(),
            shorter.len()
        )),
    }
}
