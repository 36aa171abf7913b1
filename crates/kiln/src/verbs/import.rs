//! `kiln import`: reads other people's networks as runs: diffusers models, StyleGAN2 of its PyTorch port, pix2pix and CycleGAN of their
//! authors' code, fast neural style and AdaIN.

use std::path::PathBuf;

use clap::Args;
use kiln_core::{Error, Result};
use kiln_data::PictureSize;
use kiln_systems::adversarial::stylegan2;
use kiln_systems::diffusion::diffusers::folder::{ImportOptions, import};
use kiln_systems::style::import as style;
use kiln_systems::translation::import as translator;
use kiln_train::recipe::{assignment, setting};
use serde_json::json;
use toml::Table;

use crate::output::{Output, shown};

#[derive(Args)]
pub struct ImportArgs {
    /// Folder of a diffusers model (unet/config.json with its weights, scheduler/scheduler_config.json); a checkpoint of
    /// rosinality/stylegan2-pytorch; or of junyanz/pytorch-CycleGAN-and-pix2pix a latest_net_G.pth, or a folder with
    /// latest_net_G_A.pth and latest_net_G_B.pth; a network of PyTorch's example fast_neural_style; or a folder with decoder.pth and
    /// vgg_normalised.pth of naoto0804/pytorch-AdaIN. Files may be .pth, .pt or .safetensors
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
    let changes = data.into_iter().chain(set).collect::<Result<Vec<_>>>()?;
    if let Some(found) = if args.source.exists() { style::find(&args.source)? } else { None } {
        let imported = style::import(&found, &args.out, args.size.unwrap_or_default(), &changes)?;
        let how = if imported.system == "adain" { " --style STYLE.png" } else { "" };
        let line = || {
            let root = args.out.display();
            format!(
                "{root}: {} of {} parameters; translate by `kiln translate {root} IN.png OUT.png{how}`",
                imported.system, imported.parameters
            )
        };
        out.say(line, &json!({"run": shown(&args.out), "imported": imported}));
        return Ok(());
    }
    let translators = match args.source.is_file() {
        true if translator::is_one(&args.source)? => vec![args.source.clone()],
        true => return generator(args, changes, out),
        false if args.source.is_dir() => translator::files(&args.source)?,
        false => Vec::new(),
    };
    if !translators.is_empty() {
        return translation(args, &translators, changes, out);
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

/// One file or two: generators of pix2pix and CycleGAN.
fn translation(args: &ImportArgs, files: &[PathBuf], changes: Vec<(Table, String)>, out: &Output) -> Result<()> {
    let options = translator::Options { size: args.size.unwrap_or_default(), changes };
    let imported = translator::import(files, &args.out, &options)?;
    let line = || {
        let (root, [height, width]) = (args.out.display(), imported.size);
        format!(
            "{root}: {} of {} parameters for pictures of {width} x {height}; translate by `kiln translate {root} IN.png OUT.png`",
            imported.system, imported.parameters
        )
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
