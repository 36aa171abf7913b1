//! `kiln search`: the images of a folder that match a text best.

use std::path::PathBuf;

use clap::Args;
use kiln_core::{Result, refuse_if};
use kiln_data::{Prepared, Split, contact_sheet};
use kiln_nn::tensor::to_values;
use kiln_train::WeightSet;
use serde_json::json;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::evaluate::chunks_of;
use crate::verbs::pictures::{open_whole, rule};
use crate::verbs::texts::Matcher;
use crate::verbs::{check_png, open};

#[derive(Args)]
pub struct SearchArgs {
    /// Run folder of a system that matches texts
    run: PathBuf,
    /// Folder or zip of images, or a name from `kiln data list`
    input: PathBuf,
    /// What to look for
    #[arg(long)]
    text: String,
    /// How many images to find
    #[arg(short, default_value_t = 16)]
    n: usize,
    /// PNG of the found images to write, the best first
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(args: &SearchArgs, common: &Common, out: &Output) -> Result<()> {
    args.out.as_deref().map_or(Ok(()), check_png)?;
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    let matcher = Matcher::of(&*model)?;
    let text = matcher.texts.tokens("--text", std::slice::from_ref(&args.text))?;
    let info = model.info();
    let rule = rule(info);
    let named = args.input.to_str().filter(|name| !args.input.exists() && kiln_data::is_named(name));
    let found = match named {
        Some(name) => kiln_data::open(name, Split::All, &rule)?,
        None => open_whole(&args.input, &rule)?,
    };
    let set = Prepared::new(found, rule)?;
    let total = set.len();
    refuse_if!(total == 0, "{}: no images to search", args.input.display());
    let mut found: Vec<(f32, usize)> = Vec::with_capacity(total);
    chunks_of(&set, total, common.quiet, &device, |images, _, places| {
        found.extend(to_values(model.match_texts(images, &text)?).into_iter().zip(places.iter().copied()));
        Ok(())
    })?;
    // Of equal scores the first in the folder.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    found.truncate(args.n);
    let mut pictures = Vec::new();
    for (rank, (score, place)) in (1..).zip(&found) {
        let sample = set.get(*place)?;
        let object = json!({"rank": rank, "name": sample.name, "score": score});
        out.say(|| format!("{rank}. {} ({score:.2})", sample.name), &object);
        pictures.push(sample.picture);
    }
    if let Some(path) = &args.out {
        contact_sheet(&pictures, 0, 1)?.write_png(path, &[("system", info.system), ("text", &args.text)])?;
        let object = json!({"sheet": shown(path), "text": args.text, "searched": total});
        out.say(|| format!("the best of {total} in {}", path.display()), &object);
    }
    Ok(())
}
