//! `kiln import`: other people's models as runs.

use std::path::PathBuf;

use clap::Args;
use kiln_core::Result;
use kiln_data::PictureSize;
use kiln_systems::diffusion::diffusers::folder::{ImportOptions, import};
use kiln_train::recipe::assignment;
use serde_json::json;

use crate::output::Output;

#[derive(Args)]
pub struct ImportArgs {
    /// A model folder of diffusers: unet/config.json, its weights, scheduler/scheduler_config.json
    folder: PathBuf,
    /// The run folder to make
    #[arg(long)]
    out: PathBuf,
    /// Side of the pictures, or height and width such as 48,64, in place of the file's sample_size
    #[arg(long)]
    size: Option<PictureSize>,
    /// What it was trained on, or is to be trained further on: as for `kiln train`
    #[arg(long)]
    data: Option<String>,
    /// Change a setting: --set data.resize=crop
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(args: &ImportArgs, out: &Output) -> Result<()> {
    let data =
        args.data.as_ref().map(|set| (format!("data.set={}", toml::Value::from(set.as_str())), "--data".to_string()));
    let set = args.set.iter().map(|text| (text.clone(), format!("--set {text}")));
    let changes =
        data.into_iter().chain(set).map(|(text, place)| Ok((assignment(&text)?, place))).collect::<Result<_>>()?;
    let options = ImportOptions { size: args.size.unwrap_or_default(), changes };
    let imported = import(&args.folder, &args.out, &options)?;
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
    out.say(line, &json!({"run": args.out, "imported": imported}));
    Ok(())
}
