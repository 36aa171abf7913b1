//! `kiln edit --mix`: the styles of one sample in another (Karras 2019, figure 3).
//!
//! Each row has a sample of --start, each column one of --plus. A picture takes the coarse, middle or fine styles from its column
//! and all others from its row; the first row and column show the samples themselves.

use std::path::Path;

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::{Picture, contact_sheet};
use kiln_train::Ability;
use kiln_train::preview::pictures;
use serde_json::json;

use crate::output::{Output, shown};
use crate::verbs::latents::Source;
use crate::verbs::need;

/// Draws the sheet.
pub fn mix(group: &str, rows: &[u64], columns: &[u64], source: &Source<'_>, sheet: &Path, out: &Output) -> Result<()> {
    let model = source.model;
    need(model, Ability::Mix)?;
    let groups = model.styles()?;
    let names = groups.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let Some((_, numbers)) = groups.into_iter().find(|(name, _)| *name == group) else {
        return Err(Error::usage(format!("--mix {group}: the styles of this run are {names}")));
    };
    let (from_rows, from_columns) = (source.latents(rows)?, source.latents(columns)?);
    let across = pictures(model.decode(from_columns.clone())?);
    let blank = Picture { pixels: vec![255; across[0].pixels.len()], ..across[0].clone() };
    let mut cells = vec![blank];
    cells.extend(across);
    for i in 0..rows.len() {
        let own = from_rows.clone().narrow(0, i, 1);
        let width = own.dims()[1];
        let mixed = (0..columns.len()).map(|j| {
            let other = from_columns.clone().narrow(0, j, 1);
            let part = |x: &Tensor<2>, from: usize, to: usize| x.clone().narrow(1, from, to - from);
            let parts = [(&own, 0, numbers.start), (&other, numbers.start, numbers.end), (&own, numbers.end, width)];
            let parts = parts.into_iter().filter(|(_, from, to)| from < to).map(|(x, from, to)| part(x, from, to));
            Tensor::cat(parts.collect(), 1)
        });
        cells.extend(pictures(model.decode(Tensor::cat(std::iter::once(own.clone()).chain(mixed).collect(), 0))?));
    }
    contact_sheet(&cells, columns.len() + 1, 1)?.write_png(sheet, &[("system", model.info().system)])?;
    let object = json!({"sheet": shown(sheet), "mix": group, "rows": rows.len(), "columns": columns.len()});
    out.say(|| format!("{group} styles of each column in each row, in {}", sheet.display()), &object);
    Ok(())
}
