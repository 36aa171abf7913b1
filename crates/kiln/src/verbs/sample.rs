//! `kiln sample`.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Context, Error, Result};
use kiln_data::{Picture, contact_sheet};
use kiln_nn::tensor::from_values;
use kiln_train::model::Weights;
use kiln_train::preview::pictures;
use kiln_train::system::check_class;
use kiln_train::{Ability, GenerateRequest, Model, Progress, SamplerSettings, checkpoint};
use serde_json::json;

use crate::Common;
use crate::output::Output;
use crate::verbs::{need, open};

/// Pictures made at a time; the pictures do not depend on it.
pub const CHUNK: u64 = 100;

#[derive(Args)]
pub struct SampleArgs {
    /// The run folder
    run: PathBuf,
    /// How many
    #[arg(short)]
    n: usize,
    /// Keys all randomness: the same seed gives the same pictures
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for 00000.png …, and grid.png
    #[arg(long)]
    out: PathBuf,
    /// Only this class
    #[arg(long)]
    class: Option<u32>,
    /// Initial noise: safetensors with a tensor `noise` `[n, c, h, w]`
    #[arg(long)]
    noise: Option<PathBuf>,
    /// Use the live weights instead of their average
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// Settings of the sampler; each system has its own defaults.
#[derive(Args, Clone, Default)]
pub struct SamplerArgs {
    /// ddpm or ddim
    #[arg(long)]
    pub sampler: Option<String>,
    /// Denoising steps
    #[arg(long)]
    pub steps: Option<usize>,
    /// Which times they visit: leading, trailing, linspace or quadratic
    #[arg(long)]
    pub timestep_spacing: Option<String>,
    /// DDIM's η: 0 deterministic, 1 as random as DDPM
    #[arg(long)]
    pub eta: Option<f64>,
    /// Classifier-free guidance scale (1 is unguided)
    #[arg(long)]
    pub guidance_scale: Option<f64>,
    /// Truncation ψ of the latent
    #[arg(long)]
    pub truncation_psi: Option<f64>,
}

impl SamplerArgs {
    /// As the systems take them.
    pub fn settings(&self) -> SamplerSettings {
        SamplerSettings {
            sampler: self.sampler.clone(),
            steps: self.steps,
            timestep_spacing: self.timestep_spacing.clone(),
            eta: self.eta,
            guidance_scale: self.guidance_scale,
            truncation_psi: self.truncation_psi,
        }
    }
}

/// `n` pictures of a run, chunk by chunk, with progress.
pub fn generate(
    model: &dyn Model,
    n: usize,
    request: &GenerateRequest,
    quiet: bool,
    each: &mut dyn FnMut(u64, Tensor<4>) -> Result<()>,
) -> Result<()> {
    let n = n as u64;
    let mut progress = (!quiet).then(|| Progress::new("sampling", "pictures", 0, n));
    for start in (0..n).step_by(CHUNK as usize) {
        let end = (start + CHUNK).min(n);
        let noise = request.noise.as_ref().map(|t| t.clone().narrow(0, start as usize, (end - start) as usize));
        let part = GenerateRequest { indices: start..end, noise, ..request.clone() };
        each(start, model.generate(&part)?)?;
        if let Some(p) = &mut progress {
            p.update(end, String::new);
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    Ok(())
}

pub fn run(args: &SampleArgs, common: &Common, out: &Output) -> Result<()> {
    let weights = if args.raw { Weights::Raw } else { Weights::Average };
    let (model, device) = open(&args.run, weights, &common.device)?;
    need(&*model, Ability::Generate)?;
    if args.n == 0 {
        return Err(Error::usage("-n 0: nothing to do; give at least 1"));
    }
    let mut request = GenerateRequest::new(0..args.n as u64, args.seed, &device);
    request.class = args.class;
    request.sampler = args.sampler.settings();
    if let Some(path) = &args.noise {
        request.noise = Some(read_noise(path, args.n, &device)?);
    }
    write(&*model, &request, args.n, &args.out, common, out)
}

/// After training: samples on seed 0 into the run folder.
pub fn into_folder(root: &Path, n: usize, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(root, Weights::Average, &common.device)?;
    need(&*model, Ability::Generate)?;
    let request = GenerateRequest::new(0..n as u64, 0, &device);
    write(&*model, &request, n, &root.join("samples"), common, out)
}

fn write(
    model: &dyn Model,
    request: &GenerateRequest,
    n: usize,
    folder: &Path,
    common: &Common,
    out: &Output,
) -> Result<()> {
    let info = model.info();
    if request.class.is_some() && info.pictures.classes.is_empty() {
        check_class(request.class, &[])?;
    }
    let mut all: Vec<Picture> = Vec::new();
    generate(model, n, request, common.quiet, &mut |start, images| {
        // Only after the first pictures exist: a refused request leaves no empty folder.
        std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
        for (i, picture) in pictures(images).into_iter().enumerate() {
            let index = start + i as u64;
            let settings = format!("{:?} class {:?}", request.sampler, request.class);
            let text = [
                ("system", info.system.to_string()),
                ("run", info.run.clone()),
                ("seed", format!("{}", request.seed)),
                ("index", index.to_string()),
                ("settings", settings),
            ];
            let text: Vec<(&str, &str)> = text.iter().map(|(k, v)| (*k, v.as_str())).collect();
            picture.write_png(&folder.join(format!("{index:05}.png")), &text)?;
            if all.len() < 400 {
                all.push(picture);
            }
        }
        Ok(())
    })?;
    let columns = (all.len() as f64).sqrt().ceil() as usize;
    let grid = folder.join("grid.png");
    contact_sheet(&all, columns, 1)?.write_png(&grid, &[("system", info.system)])?;
    let object = json!({"n": n, "folder": folder, "grid": grid});
    out.say(|| format!("{n} pictures in {}, all on {}", folder.display(), grid.display()), &object);
    Ok(())
}

fn read_noise(path: &Path, n: usize, device: &burn::tensor::Device) -> Result<Tensor<4>> {
    let bytes = std::fs::read(path).context(|| path.display())?;
    let place = path.display().to_string();
    let mut state = checkpoint::from_bytes(&bytes, &place)?;
    let noise = state.remove("noise").ok_or_else(|| Error::new(format!("{place}: no tensor named `noise`")))?;
    match noise.shape[..] {
        [count, c, h, w] if count >= n => {
            let values = noise.values[..n * c * h * w].to_vec();
            Ok(from_values(values, [n, c, h, w], device))
        }
        _ => Err(Error::new(format!("{place}: `noise` has shape {:?}; expected [at least {n}, c, h, w]", noise.shape))),
    }
}
