//! `kiln interpolate` and `kiln edit`: interpolation and arithmetic in latent space.

use std::path::PathBuf;

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Error, Result};
use kiln_data::{Animation, contact_sheet};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model, Request, WeightSet};
use serde_json::json;
use toml::Table;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::attributes::{AttributeArgs, attribute};
use crate::verbs::directions::{Walk, directions};
use crate::verbs::mix::mix;
use crate::verbs::traverse::{TraverseArgs, traverse};
use crate::verbs::{check_png, need, open};

/// Which latents of samples.
#[derive(Args)]
struct LatentArgs {
    /// Space of the latents, where a run has several: w or z
    #[arg(long)]
    space: Option<String>,
    /// Draw the latents of W towards their mean by ψ
    #[arg(long)]
    truncation_psi: Option<f64>,
}

impl LatentArgs {
    /// Latents of a run's samples of a seed.
    fn of<'a>(&self, model: &'a dyn Model, seed: u64) -> Result<Source<'a>> {
        let (spaces, mut sampler) = (model.spaces()?, Table::new());
        if let Some(space) = &self.space {
            if !spaces.contains(&space.as_str()) {
                return Err(Error::usage(format!(
                    "--space {space}: the latents of this run are of {}",
                    spaces.join(", ")
                )));
            }
            if spaces.len() > 1 {
                sampler.insert("space".into(), space.as_str().into());
            }
        }
        if let Some(psi) = self.truncation_psi {
            if !spaces.contains(&"w") {
                return Err(Error::usage(format!(
                    "--truncation-psi {psi}: the latents of this run are not truncated; leave it out"
                )));
            }
            sampler.insert("truncation_psi".into(), psi.into());
        }
        Ok(Source { model, seed, sampler })
    }
}

/// Latents of a run's samples.
pub struct Source<'a> {
    /// The run.
    pub model: &'a dyn Model,
    seed: u64,
    sampler: Table,
}

impl Source<'_> {
    /// The latent of one sample, `[1, d]`.
    pub fn latent(&self, index: u64) -> Result<Tensor<2>> {
        let request = Request::new(index..index + 1, self.seed, &self.model.info().device);
        self.model.latents(&Request { sampler: self.sampler.clone(), ..request })
    }

    /// The latents of samples, `[n, d]`.
    pub fn latents(&self, indices: &[u64]) -> Result<Tensor<2>> {
        Ok(Tensor::cat(indices.iter().map(|&i| self.latent(i)).collect::<Result<Vec<_>>>()?, 0))
    }
}

#[derive(Args)]
pub struct InterpolateArgs {
    /// Run folder
    run: PathBuf,
    /// PNG to write: one interpolation per row; or a GIF or APNG (.gif, .apng): a film through all of them and back to the first
    #[arg(long)]
    out: PathBuf,
    /// Indices of the samples to interpolate between, such as 0,1,2,3
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    through: Vec<u64>,
    /// Images per row, both ends included
    #[arg(long, default_value_t = 9)]
    steps: usize,
    /// Frames of a film
    #[arg(long, default_value_t = 60)]
    frames: usize,
    /// Milliseconds for which each frame of a film is shown
    #[arg(long, default_value_t = 50)]
    delay: u32,
    /// Seed; index 3 is image 3 of `kiln sample` with this seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    latents: LatentArgs,
}

#[derive(Args)]
pub struct EditArgs {
    /// Run folder
    run: PathBuf,
    /// PNG to write: the samples of each term, then the result with small variations
    #[arg(long)]
    out: PathBuf,
    /// Indices of the samples whose mean latent is the start
    #[arg(long, value_delimiter = ',', required_unless_present_any = ["traverse", "attribute", "direction"])]
    start: Vec<u64>,
    /// Indices of the samples whose mean latent is subtracted
    #[arg(long, value_delimiter = ',', required_unless_present_any = ["traverse", "attribute", "mix", "direction"])]
    minus: Vec<u64>,
    /// Indices of the samples whose mean latent is added
    #[arg(long, value_delimiter = ',', required_unless_present_any = ["traverse", "attribute", "direction"])]
    plus: Vec<u64>,
    /// Draw one row per start instead, with this many images from start − turn to start + turn, where turn is half of
    /// mean(plus) − mean(minus)
    #[arg(long)]
    turn: Option<usize>,
    /// Draw samples of --start, one a row, with the coarse, middle or fine styles of samples of --plus, one a column
    #[arg(long, conflicts_with_all = ["minus", "turn", "traverse", "attribute", "from", "direction"])]
    mix: Option<String>,
    #[command(flatten)]
    traverse: TraverseArgs,
    #[command(flatten)]
    attribute: AttributeArgs,
    /// Draw one row per direction and start, along directions of the samples' latents: pca (the principal components), svm (between
    /// the samples of --minus and --plus), or svm:CLASS or svm:CLASS:OTHER (between samples that a classifier gives to a class and not)
    #[arg(long, group = "walks", conflicts_with_all = ["turn", "traverse", "attribute", "mix"])]
    direction: Option<String>,
    /// Network that tells the classes of --direction, as `kiln evaluate --features`; a classifier of the run's own data by default
    #[arg(long, requires = "direction")]
    features: Option<String>,
    /// Start from encoded images of this image, folder, zip or set; --start gives their indices
    #[arg(long, conflicts_with_all = ["minus", "plus", "turn"])]
    from: Option<PathBuf>,
    /// Images per row of --traverse, --attribute and --direction
    #[arg(long, default_value_t = 9)]
    columns: usize,
    /// Seed of the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    latents: LatentArgs,
}

pub fn interpolate(args: &InterpolateArgs, common: &Common, out: &Output) -> Result<()> {
    let film = Animation::of(&args.out);
    match film {
        Some(_) => kiln_core::output::check(&args.out)?,
        None => check_png(&args.out)?,
    }
    let (model, _) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Decode)?;
    if args.through.len() < 2 {
        return Err(Error::usage("--through: give at least two indices, such as 0,1"));
    }
    let source = args.latents.of(&*model, args.seed)?;
    if let Some(film) = film {
        return animate(args, film, &source, out);
    }
    let mut rows = Vec::new();
    for pair in args.through.windows(2) {
        let (a, b) = (source.latent(pair[0])?, source.latent(pair[1])?);
        let points = (0..args.steps)
            .map(|i| model.between(a.clone(), b.clone(), i as f64 / (args.steps - 1) as f64))
            .collect::<Result<Vec<_>>>()?;
        rows.extend(pictures(model.decode(Tensor::cat(points, 0))?));
    }
    contact_sheet(&rows, args.steps, 1)?.write_png(&args.out, &[("system", model.info().system)])?;
    let object = json!({"sheet": shown(&args.out), "walks": args.through.len() - 1, "steps": args.steps});
    out.say(|| format!("{} walks in {}", args.through.len() - 1, args.out.display()), &object);
    Ok(())
}

/// A film through all samples and back to the first, in frames at equal distances.
fn animate(args: &InterpolateArgs, film: Animation, source: &Source<'_>, out: &Output) -> Result<()> {
    let model = source.model;
    let ends = args.through.iter().map(|&index| source.latent(index)).collect::<Result<Vec<_>>>()?;
    let mut frames = Vec::with_capacity(args.frames);
    for i in 0..args.frames {
        let at = (i * ends.len()) as f64 / args.frames as f64;
        let (from, to) = (&ends[at as usize], &ends[(at as usize + 1) % ends.len()]);
        let point = model.between(from.clone(), to.clone(), at.fract())?;
        // As large as in a sheet.
        frames.extend(
            pictures(model.decode(point)?).iter().map(|frame| contact_sheet(std::slice::from_ref(frame), 1, 0)),
        );
    }
    film.write(&args.out, &frames.into_iter().collect::<Result<Vec<_>>>()?, args.delay)?;
    let object = json!({"film": shown(&args.out), "frames": args.frames});
    out.say(|| format!("{} frames in {}", args.frames, args.out.display()), &object);
    Ok(())
}

/// Radford 2016, §6.3.2 and figure 8: an axis between the means of two poses, walked along from
/// samples that had no part in it.
fn turn(args: &EditArgs, columns: usize, source: &Source<'_>, out: &Output) -> Result<()> {
    let model = source.model;
    let mean = |indices: &[u64]| Ok::<_, Error>(source.latents(indices)?.mean_dim(0));
    let half = (mean(&args.plus)? - mean(&args.minus)?) * 0.5;
    let mut rows = Vec::new();
    for &start in &args.start {
        let start = source.latent(start)?;
        let at = |i: usize| 2.0 * i as f64 / (columns - 1) as f64 - 1.0;
        let points = (0..columns).map(|i| start.clone() + half.clone() * at(i)).collect();
        rows.extend(pictures(model.decode(Tensor::cat(points, 0))?));
    }
    contact_sheet(&rows, columns, 1)?.write_png(&args.out, &[("system", model.info().system)])?;
    let object = json!({"sheet": shown(&args.out), "rows": args.start.len(), "columns": columns});
    out.say(|| format!("{} samples turned in {}", args.start.len(), args.out.display()), &object);
    Ok(())
}

/// Radford 2016, §6.3.2: mean(start) − mean(minus) + mean(plus), shown with eight neighbours made
/// by uniform noise of ±0.25.
pub fn edit(args: &EditArgs, common: &Common, out: &Output) -> Result<()> {
    check_png(&args.out)?;
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Decode)?;
    let source = args.latents.of(&*model, args.seed)?;
    let start_at = (args.start.as_slice(), args.from.as_deref());
    if args.traverse.traverse {
        return traverse(&args.traverse, start_at, args.columns, &args.out, &source, out);
    }
    if let Some(text) = &args.attribute.attribute {
        return attribute(&args.attribute, text, start_at, args.columns, &args.out, &source, out);
    }
    if let Some(by) = &args.direction {
        let TraverseArgs { range, rows, .. } = args.traverse;
        let (plus, minus) = (args.plus.as_slice(), args.minus.as_slice());
        let walk = Walk { by, plus, minus, features: args.features.as_deref(), range, rows, columns: args.columns };
        return directions(&walk, start_at, &args.out, &source, common, out);
    }
    if let Some(group) = &args.mix {
        return mix(group, &args.start, &args.plus, &source, &args.out, out);
    }
    if let Some(columns) = args.turn {
        return turn(args, columns, &source, out);
    }
    let terms = [&args.start, &args.minus, &args.plus];
    let mut means = Vec::new();
    let mut rows = Vec::new();
    let columns = terms.iter().map(|t| t.len()).max().unwrap_or(1).max(8) + 1;
    for indices in terms {
        let latents = source.latents(indices)?;
        let mean = latents.clone().mean_dim(0);
        let mut row = pictures(model.decode(Tensor::cat(vec![latents, mean.clone()], 0))?);
        let blank = row[0].clone();
        let blank = kiln_data::Picture { pixels: vec![255; blank.pixels.len()], ..blank };
        let mean_picture = row.pop().unwrap_or_else(|| blank.clone());
        row.resize(columns - 1, blank);
        row.push(mean_picture);
        rows.extend(row);
        means.push(mean);
    }
    let result = means[0].clone() - means[1].clone() + means[2].clone();
    let dims = result.dims()[1];
    let key = kiln_core::random::Key::new(args.seed).purpose("edit");
    let jitter = kiln_nn::tensor::uniform(key, 0..columns as u64 - 1, [columns - 1, dims], &device) * 0.5 - 0.25;
    let neighbours = result.clone() + jitter;
    rows.extend(pictures(model.decode(Tensor::cat(vec![neighbours, result], 0))?));
    contact_sheet(&rows, columns, 1)?.write_png(&args.out, &[("system", model.info().system)])?;
    let object = json!({"sheet": shown(&args.out)});
    out.say(|| format!("start, minus, plus (means at the right) and the result in {}", args.out.display()), &object);
    Ok(())
}
