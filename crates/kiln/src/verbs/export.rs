//! `kiln export`: writes a run as a diffusers model.

use std::path::PathBuf;

use clap::Args;
use kiln_core::Result;
use kiln_systems::diffusion::diffusers::folder::export;
use kiln_train::Run;
use kiln_train::model::Weights;
use serde_json::json;

use crate::output::Output;

#[derive(Args)]
pub struct ExportArgs {
    /// Run folder of ddpm or of an imported model
    run: PathBuf,
    /// Folder to write, in the diffusers format
    #[arg(long)]
    out: PathBuf,
    /// Use the live weights instead of their average
    #[arg(long)]
    raw: bool,
}

pub fn run(args: &ExportArgs, out: &Output) -> Result<()> {
    let weights = if args.raw { Weights::Raw } else { Weights::Average };
    let exported = export(&Run::open(&args.run)?, weights, &args.out)?;
    let line = || {
        let opener = exported.pipeline.map_or_else(|| format!("{:?}", exported.model), str::to_string);
        format!("{}: {} parameters; {opener}.from_pretrained opens it", args.out.display(), exported.parameters)
    };
    out.say(line, &json!({"folder": args.out, "exported": exported}));
    Ok(())
}
