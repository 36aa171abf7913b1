//! `kiln export`: writes a run as a diffusers model.

use std::path::PathBuf;

use clap::Args;
use kiln_core::{Result, output};
use kiln_systems::diffusion::diffusers::folder::export;
use kiln_train::Run;
use kiln_train::WeightSet;
use serde_json::json;

use crate::output::{Output, shown};
use crate::verbs::weight_set;

#[derive(Args)]
pub struct ExportArgs {
    /// Run folder of ddpm or of an imported model
    run: PathBuf,
    /// Folder to write, in the diffusers format
    #[arg(long)]
    out: PathBuf,
    /// Weights to use: ema (the moving average, if the run keeps one) or live
    #[arg(long, value_parser = weight_set, default_value = "ema")]
    weights: WeightSet,
}

pub fn run(args: &ExportArgs, out: &Output) -> Result<()> {
    output::check_folder(&args.out)?;
    let exported = export(&Run::open(&args.run)?, args.weights, &args.out)?;
    let line = || {
        let opener = exported.pipeline.map_or_else(|| format!("{:?}", exported.model), str::to_string);
        format!("{}: {} parameters; {opener}.from_pretrained opens it", args.out.display(), exported.parameters)
    };
    out.say(line, &json!({"folder": shown(&args.out), "exported": exported}));
    Ok(())
}
