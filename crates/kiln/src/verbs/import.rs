//! `kiln import`: reads a diffusers model, or a StyleGAN2 generator of its PyTorch port, as a run.

use std::path::PathBuf;

use clap::Args;
use kiln_core::{Error, Result};
use kiln_data::PictureSize;
use kiln_systems::adversarial::stylegan2;
use kiln_systems::diffusion::diffusers::folder::{ImportOptions, import};
use kiln_train::recipe::{assignment, setting};
use serde_json::json;
use toml::Table;

use crate::output::{Output, shown};

#[derive(Args)]
pub struct ImportArgs {
    /// Folder of a diffusers model: unet/config.json with its weights, scheduler/scheduler_config.json; or a checkpoint of
    /// rosinality/stylegan2-pytorch, .pt or .safetensors
    source: PathBuf,
    /// Run folder to create
    #[arg(long)]
    out: PathBuf,
    /// Side of the images in pixels, or height and width such as 48,64, instead of the file's sample_size
    #[arg(long)]
    size: Option<PictureSize>,
    /// Data set to evaluate against and to train on, as for `kiln train`
    #[arg(long)]
    data: Option<String>,
    /// Override a setting of the recipe, such as --set data.resize=crop; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(args: &ImportArgs, out: &Output) -> Result<()> {
    let data = args.data.as_ref().map(|set| Ok((setting("data.set", set.as_str()), "--data".to_string())));
    let set = args.set.iter().map(|text| Ok((assignment(text)?, format!("--set {text}"))));
    let changes = data.into_iter().chain(set).collect::<Result<_>>()?;
    if args.source.is_file() {
        return generator(args, changes, out);
    }
    let options = ImportOptions { size: args.size.unwrap_or_default(), changes };
    let imported = import(&args.source, &args.out, &options)?;
    let line = || {
        let root = args.out.display();
        let mut line = format!(
            "{root}: {:?} of {} parameters with {:?}; make pictures by `kiln sample {root} -n 16 --out DIR`",
            imported.model, imported.parameters, imported.scheduler
        );
        if !imported.left_out.is_empty() {
            line += &format!("; left out: {}", imported.left_out.join(", "));
        }
        line
    };
    out.say(line, &json!({"run": shown(&args.out), "imported": imported}));
    Ok(())
}

/// A file: StyleGAN2's networks.
fn generator(args: &ImportArgs, changes: Vec<(Table, String)>, out: &Output) -> Result<()> {
    if args.size.is_some() {
        return Err(Error::usage("--size: a generator's pictures have the size of its layers; leave it out"));
    }
    let imported = stylegan2::import::import(&args.source, &args.out, &changes)?;
    let line = || {
        let (root, [height, width]) = (args.out.display(), imported.size);
        let rest = match imported.discriminator {
            true => "",
            false => "; without its discriminator, so fine-tuning begins with a fresh one",
        };
        format!(
            "{root}: StyleGAN2 of {width} x {height}, {} parameters; make pictures by `kiln sample {root} -n 16 --out DIR`{rest}",
            imported.parameters
        )
    };
    out.say(line, &json!({"run": shown(&args.out), "imported": imported}));
    Ok(())
}
