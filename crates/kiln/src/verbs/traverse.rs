//! `kiln edit --traverse`: shows the effect of each latent on the image.
//!
//! One row per latent: it varies from −range to range, the others keep the values of the start (Higgins 2017, §4). If the run can
//! encode, rows are sorted by the variance of a latent's mean over images (Burda 2016, §5.2), which is near 0 for latents that
//! carry no information.

use std::path::Path;

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Error, Result};
use kiln_data::{Prepared, Split, contact_sheet};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model};
use serde_json::json;

use crate::output::{Output, shown};
use crate::verbs::evaluate::{chunks_of, part, prepared};
use crate::verbs::latents::Source;
use crate::verbs::{encode, need};

/// Pictures whose codes say how much each latent varies.
const SEEN: usize = 500;

#[derive(Args)]
pub struct TraverseArgs {
    /// Draw one row per latent, which varies from −range to range; starts from a sample of --start (0 by default) or an
    /// image of --from
    #[arg(long, group = "walks", conflicts_with_all = ["minus", "plus", "turn"])]
    pub traverse: bool,
    /// Largest value of a latent; of --direction, standard deviations
    #[arg(long, requires = "walks", default_value_t = 3.0)]
    pub range: f64,
    /// Number of rows, most informative latents first; 0 for all, or for 5 of --direction
    #[arg(long, requires = "walks", default_value_t = 0)]
    pub rows: usize,
}

/// Draws the sheet of each start, one below the other.
pub fn traverse(
    args: &TraverseArgs,
    start_at: (&[u64], Option<&Path>),
    columns: usize,
    sheet: &Path,
    source: &Source<'_>,
    out: &Output,
) -> Result<()> {
    let model = source.model;
    let device = &model.info().device;
    let latents = starts(start_at, source)?;
    let width = latents[0].dims()[1];
    let activity = if model.abilities().contains(&Ability::Encode) { Some(activity(model)?) } else { None };
    let mut order: Vec<usize> = (0..width).collect();
    if let Some(activity) = &activity {
        order.sort_by(|&a, &b| activity[b].total_cmp(&activity[a]));
    }
    if args.rows > 0 {
        order.truncate(args.rows);
    }
    let mut rows = Vec::new();
    for start in &latents {
        let start = to_values(start.clone());
        for &latent in &order {
            let point = |column: usize| {
                let mut z = start.clone();
                z[latent] = (args.range * (2.0 * column as f64 / (columns - 1) as f64 - 1.0)) as f32;
                z
            };
            let points: Vec<f32> = (0..columns).flat_map(point).collect();
            rows.extend(pictures(model.decode(from_values(points, [columns, width], device))?));
        }
    }
    contact_sheet(&rows, columns, 1)?.write_png(sheet, &[("system", model.info().system)])?;
    let activity = activity.map(|a| order.iter().map(|&latent| a[latent]).collect::<Vec<_>>());
    let object = json!({"sheet": shown(sheet), "latents": order, "activity": activity, "range": args.range});
    out.say(|| format!("latents {order:?}, a row each, in {}", sheet.display()), &object);
    Ok(())
}

/// The latents of samples, or of pictures of a set, at these indices (0 if there are none), `[1, d]` each.
pub fn starts((indices, from): (&[u64], Option<&Path>), source: &Source<'_>) -> Result<Vec<Tensor<2>>> {
    let indices = if indices.is_empty() { &[0] } else { indices };
    let Some(from) = from else { return indices.iter().map(|&i| source.latent(i)).collect() };
    let model = source.model;
    need(model, Ability::Encode)?;
    let (spec, split) = part(&from.display().to_string(), None);
    let set = prepared(model, &spec, split)?;
    indices.iter().map(|&i| encoded(model, &set, i)).collect()
}

/// The code of one picture, `[1, d]`.
fn encoded(model: &dyn Model, set: &Prepared, index: u64) -> Result<Tensor<2>> {
    let at = usize::try_from(index).ok().filter(|&i| i < set.len());
    let at =
        at.ok_or_else(|| Error::usage(format!("--start {index}: {} has {} pictures", set.set().name(), set.len())))?;
    let [c, h, w] = set.shape();
    encode(model, from_values(set.get(at)?.values, [1, c, h, w], &model.info().device), at)
}

/// The variance of each latent's code over pictures of the run's own data.
fn activity(model: &dyn Model) -> Result<Vec<f64>> {
    let info = model.info();
    let set = prepared(model, &info.data.set, Split::Train)?;
    let (mut table, mut width) = (Vec::new(), 0);
    let n = chunks_of(&set, SEEN, true, &info.device, |images, _, _| {
        let codes = encode(model, images, table.len() / width.max(1))?;
        width = codes.dims()[1];
        table.extend(to_values(codes));
        Ok(())
    })?;
    let variance = |latent: usize| {
        let values = || table.iter().skip(latent).step_by(width).map(|&v| f64::from(v));
        let mean = values().sum::<f64>() / n as f64;
        values().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64
    };
    Ok((0..width).map(variance).collect())
}
