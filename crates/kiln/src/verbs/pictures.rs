//! `kiln reconstruct`, `encode` and `classify`: verbs that take a picture or a folder.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use clap::Args;
use kiln_core::{Context, Error, Result, output, refuse_if};
use kiln_data::{DataSet, Picture, PictureRule, Prepared, PreparedSample, Resize, Split, label_maps};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::model::Info;
use kiln_train::preview::pictures;
use kiln_train::request::sampler_flags;
use kiln_train::{Ability, Progress, Request, WeightSet};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde_json::json;
use toml::Table;

use crate::Common;
use crate::feature_cache::argmax;
use crate::output::{Output, shown};
use crate::verbs::project::project;
use crate::verbs::texts::{Matcher, TemplateArgs, prompts};
use crate::verbs::{check_png, need, open, perceptual};

#[derive(Args)]
pub struct ReconstructArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Image or folder to write
    output: PathBuf,
    /// For a run whose codes have parts (dsn): whole (the default), shared or private
    #[arg(long)]
    part: Option<String>,
    /// For a run on source and target: the images are of the source
    #[arg(long)]
    of_source: bool,
    #[command(flatten)]
    projection: ProjectionArgs,
}

/// How a run without an encoder looks for images.
#[derive(Args, Serialize)]
struct ProjectionArgs {
    /// Steps of the search for the nearest image (500 by default)
    #[arg(long, help_heading = "Runs without an encoder")]
    steps: Option<usize>,
    /// Where to look for it: w (the default), or w+, with a style of its own for each layer
    #[arg(long, help_heading = "Runs without an encoder")]
    space: Option<String>,
    /// The distance: lpips-like-mobilenetv2 (the default), lpips-vgg16:FILE, lpips-alex:FILE, or pixels, which needs no network
    #[arg(long, help_heading = "Runs without an encoder")]
    #[serde(skip)]
    perceptual: Option<String>,
}

#[derive(Args)]
pub struct EncodeArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Safetensors file to write: a tensor `latents` `[n, d]`, and the images' names, one per line, in its metadata
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub struct ClassifyArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Texts to choose from, for a run that matches texts: "a cat" "a dog"
    #[arg(long, num_args = 1.., value_name = "TEXT")]
    labels: Vec<String>,
    #[command(flatten)]
    template: TemplateArgs,
}

/// Every picture of a file, folder or zip under a rule.
pub fn open_whole(path: &Path, rule: &PictureRule) -> Result<Arc<dyn DataSet>> {
    if !path.exists() {
        return Err(Error::usage(format!("{}: no such file or folder", path.display())));
    }
    let Some(spec) = path.to_str() else {
        return Err(Error::usage(format!(
            "{}: its name is not UTF-8; rename it, or give the folder it is in",
            path.display()
        )));
    };
    kiln_data::open(spec, Split::All, rule)
}

/// What a run translates: every picture of a file, folder or zip, which are label maps if the run was trained on such.
pub fn open_inputs(path: &Path, rule: &PictureRule, info: &Info) -> Result<Arc<dyn DataSet>> {
    let set = open_whole(path, rule)?;
    match info.data.palette.as_slice() {
        [] => Ok(set),
        palette => label_maps(set, palette),
    }
}

/// How a user's pictures become what a run's network takes.
pub fn rule(info: &Info) -> PictureRule {
    let [channels, height, width] = info.pictures.shape;
    let resize = if info.data.resize == Resize::None { Resize::Pad } else { info.data.resize };
    PictureRule { size: [height, width].into(), channels, resize, ..info.data.rule().still() }
}

/// A user's pictures as the run's network wants them.
pub fn read(path: &Path, info: &Info) -> Result<Vec<PreparedSample>> {
    let rule = rule(info);
    let prepared = Prepared::new(open_whole(path, &rule)?, rule)?;
    (0..prepared.len()).map(|i| prepared.get(i)).collect()
}

/// The same of what a run translates.
pub fn read_inputs(path: &Path, info: &Info) -> Result<Vec<PreparedSample>> {
    let rule = rule(info);
    let prepared = Prepared::new(open_inputs(path, &rule, info)?, rule)?;
    (0..prepared.len()).map(|i| prepared.get(i)).collect()
}

/// A user's one picture as the run's network wants it, `[1, c, h, w]` in [−1, 1].
pub fn one_picture(path: &Path, info: &Info) -> Result<Tensor<4>> {
    let [c, h, w] = info.pictures.shape;
    let first = read(path, info)?.into_iter().next();
    let picture = first.ok_or_else(|| Error::usage(format!("{}: no picture in it", path.display())))?;
    Ok(from_values(picture.values, [1, c, h, w], &info.device))
}

/// A user's mask as [`read`] fits a picture of its size, `[1, 1, h, w]`: 1 where it is bright, else 0.
pub fn one_mask(path: &Path, info: &Info) -> Result<Tensor<4>> {
    let shape @ [_, h, w] = info.pictures.shape;
    let (rule, name) = (rule(info), path.display().to_string());
    let sample = open_whole(path, &rule)?.get(0)?;
    let mask = rule.adapt_mask(&sample.picture.with_channels(1, [0; 3]), shape, &name)?;
    let values = mask.pixels.iter().map(|&level| if level > 127 { 1.0 } else { 0.0 }).collect();
    Ok(from_values(values, [1, 1, h, w], &info.device))
}

/// The part of each of `count` styles in a blend by `--style-weights`: equal ones if none are given. They make 1.
pub fn parts(weights: &[f64], count: usize) -> Result<Vec<f64>> {
    if weights.is_empty() {
        return Ok(vec![1.0 / count.max(1) as f64; count]);
    }
    refuse_if!(weights.len() != count, "--style-weights: {} numbers for {count} styles", weights.len());
    let sum: f64 = weights.iter().sum();
    refuse_if!(
        weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || sum <= 0.0,
        "--style-weights: numbers from 0, at least one above it"
    );
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// A picture with the colours of the original: its luma, their chroma (BT.601; Gatys 2016, *Preserving Color in Neural
/// Artistic Style Transfer*, §3.2). Of another size or in grey it stays as it is.
pub fn recoloured(made: Picture, original: &Picture) -> Picture {
    let same = (made.width, made.height, made.channels) == (original.width, original.height, original.channels);
    if !same || made.channels != 3 {
        return made;
    }
    let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
    let pixel = |(made, old): (&[u8], &[u8])| {
        let lighter = luma(made) - luma(old);
        [0, 1, 2].map(|c| (f32::from(old[c]) + lighter).round().clamp(0.0, 255.0) as u8)
    };
    let pixels = made.pixels.chunks_exact(3).zip(original.pixels.chunks_exact(3)).flat_map(pixel).collect();
    Picture { pixels, ..made }
}

/// Applies `f` to pictures a few at a time.
pub fn in_chunks(
    samples: &[PreparedSample],
    shape: [usize; 3],
    device: &Device,
    quiet: bool,
    mut f: impl FnMut(&[PreparedSample], Tensor<4>) -> Result<()>,
) -> Result<()> {
    let [c, h, w] = shape;
    let mut progress = (!quiet).then(|| Progress::new("pictures", "pictures", 0, samples.len() as u64));
    let mut done = 0;
    for chunk in samples.chunks(32) {
        let values = chunk.iter().flat_map(|s| s.values.iter().copied()).collect();
        f(chunk, from_values(values, [chunk.len(), c, h, w], device))?;
        done += chunk.len();
        if let Some(p) = &mut progress {
            p.update(done as u64, String::new);
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    Ok(())
}

/// Where the results of an input go: one file for a file; for a folder or a zip a folder of the same names, `a.png` of
/// `a.jpg` and, if that is taken, `a.webp.png` of `a.webp`.
pub struct Results<'a> {
    input: &'a Path,
    output: &'a Path,
    single: bool,
    info: &'a Info,
    written: BTreeSet<PathBuf>,
}

impl<'a> Results<'a> {
    /// Errors: an output that is the input, which would be lost; one that cannot be written.
    pub fn of(input: &'a Path, output: &'a Path, count: usize, info: &'a Info) -> Result<Self> {
        let same = |(a, b): (PathBuf, PathBuf)| a == b;
        if input.canonicalize().ok().zip(output.canonicalize().ok()).is_some_and(same) {
            return Err(Error::usage(format!("{}: is what is read; write to another place", output.display())));
        }
        let single = input.is_file() && count == 1;
        if single {
            check_png(output)?
        } else {
            output::check_folder(output)?
        }
        Ok(Self { input, output, single, info, written: BTreeSet::new() })
    }

    /// Writes a result for the picture of a name, the `draw`-th where it has several.
    pub fn write(&mut self, name: &str, draw: Option<usize>, picture: &Picture) -> Result<()> {
        let numbered = |path: PathBuf| match draw {
            None => path,
            Some(draw) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                path.with_file_name(format!("{stem}-{draw}.png"))
            }
        };
        let mut path = self.output.to_path_buf();
        if self.single {
            path = numbered(path);
        } else {
            let full = Path::new(name);
            let inside = match full.strip_prefix(self.input) {
                Ok(inside) => inside,
                // A named set lies somewhere in the cache, which is nobody's folder to find again in a result.
                Err(_) if full.is_absolute() => full.file_name().map_or(full, Path::new),
                Err(_) => full,
            };
            // A zip may name what lies outside of it.
            path.extend(inside.components().filter(|part| matches!(part, Component::Normal(_))));
            let whole = path.clone();
            path = numbered(path.with_extension("png"));
            if self.written.contains(&path) {
                path = numbered(whole.with_added_extension("png"));
            }
        }
        output::folder_of(&path)?;
        let text = [("system", self.info.system), ("run", self.info.run.as_str()), ("input", name)];
        picture.write_png(&path, &text)?;
        self.written.insert(path);
        Ok(())
    }

    /// Says how many there are, and where.
    pub fn say(&self, out: &Output) {
        let n = self.written.len();
        let object = json!({"n": n, "output": shown(self.output)});
        out.say(|| format!("{n} pictures in {}", self.output.display()), &object);
    }
}

/// Writes what `f` makes of the input at the run's size.
fn map_pictures(
    input: &Path,
    output: &Path,
    info: &Info,
    device: &Device,
    common: &Common,
    out: &Output,
    mut f: impl FnMut(Tensor<4>, Range<u64>) -> Result<Tensor<4>>,
) -> Result<()> {
    let samples = read(input, info)?;
    let mut results = Results::of(input, output, samples.len(), info)?;
    let mut done = 0;
    in_chunks(&samples, info.pictures.shape, device, common.quiet, |chunk, images| {
        let indices = done..done + chunk.len() as u64;
        done = indices.end;
        for (sample, picture) in chunk.iter().zip(pictures(f(images, indices)?)) {
            results.write(&sample.name, None, &picture)?;
        }
        Ok(())
    })?;
    results.say(out);
    Ok(())
}

pub fn reconstruct(args: &ReconstructArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    let named = args.projection.perceptual.as_ref();
    let sampler = Table::try_from(&args.projection).context(|| "settings of the search")?;
    if model.abilities().contains(&Ability::Project) {
        let spec = named.map_or(perceptual::DEFAULT, String::as_str);
        return project((&args.input, &args.output), sampler, spec, &*model, common, out);
    }
    need(&*model, Ability::Reconstruct)?;
    let flag = sampler_flags(&sampler).into_iter().next().or(named.map(|spec| format!("--perceptual {spec}")));
    if let Some(flag) = flag {
        return Err(Error::usage(format!(
            "{flag}: {} encodes images and searches nothing; leave it out",
            model.info().system
        )));
    }
    let parts = model.parts()?;
    let part = args.part.as_deref().unwrap_or(parts[0]);
    refuse_if!(!parts.contains(&part), "--part {part}: the codes of {} have {}", model.info().system, parts.join(", "));
    let domain = usize::from(!args.of_source);
    refuse_if!(
        args.of_source && parts.len() == 1,
        "--of-source: {} reconstructs images of any set alike; leave it out",
        model.info().system
    );
    map_pictures(&args.input, &args.output, model.info(), &device, common, out, |x, _| {
        model.reconstruct_part(x, part, domain)
    })
}

pub fn encode(args: &EncodeArgs, common: &Common, out: &Output) -> Result<()> {
    output::check(&args.out)?;
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Encode)?;
    let info = model.info();
    let samples = read(&args.input, info)?;
    let mut values = Vec::new();
    let mut done = 0;
    in_chunks(&samples, info.pictures.shape, &device, common.quiet, |chunk, images| {
        let request = Request::new(done..done + chunk.len() as u64, 0, &device);
        done = request.indices.end;
        values.extend(to_values(model.encode(images, &request)?));
        Ok(())
    })?;
    let shape = [samples.len(), values.len() / samples.len().max(1)];
    let names = samples.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join("\n");
    write_latents(&args.out, &values, shape, &names)?;
    let object = json!({"output": shown(&args.out), "n": shape[0], "latent": shape[1]});
    out.say(|| format!("{} latents of {} numbers in {}", shape[0], shape[1], args.out.display()), &object);
    Ok(())
}

/// A file of latents with the names of their pictures.
fn write_latents(path: &Path, values: &[f32], shape: [usize; 2], names: &str) -> Result<()> {
    let place = || format!("writing {}", path.display());
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).context(place)?;
    let metadata = HashMap::from([("names".to_string(), names.to_string())]);
    let file = safetensors::serialize([("latents", view)], Some(metadata)).context(place)?;
    output::write(path, &file)
}

pub fn classify(args: &ClassifyArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    let info = model.info();
    if args.labels.is_empty() {
        let matches = model.abilities().contains(&Ability::MatchTexts);
        refuse_if!(
            matches,
            "{}: {} has no classes of its own; say what to choose from with --labels",
            info.run,
            info.system
        );
        need(&*model, Ability::Classify)?;
    }
    let matcher = (!args.labels.is_empty()).then(|| Matcher::of(&*model)).transpose()?;
    refuse_if!(args.labels.len() == 1, "--labels: give at least two texts to choose from");
    let templates = &args.template.template;
    let texts = match &matcher {
        Some(matcher) => Some(matcher.texts.tokens("--labels", &prompts(&args.labels, templates)?)?),
        None => None,
    };
    let names = if matcher.is_some() { &args.labels } else { &info.pictures.classes };
    let samples = read(&args.input, info)?;
    in_chunks(&samples, info.pictures.shape, &device, common.quiet, |chunk, images| {
        let logits = match (&matcher, &texts) {
            (Some(matcher), Some(texts)) => matcher.scores(images, texts, templates.len())?,
            _ => model.classify(images)?,
        };
        let classes = logits.dims()[1];
        let probabilities = to_values(burn::tensor::activation::softmax(logits, 1));
        for (sample, p) in chunk.iter().zip(probabilities.chunks(classes)) {
            let best = argmax(p);
            let class = names.get(best).cloned().unwrap_or_else(|| best.to_string());
            let object = json!({"name": sample.name, "class": class, "index": best, "probability": p[best]});
            out.say(|| format!("{}: {class} ({:.1} %)", sample.name, 100.0 * p[best]), &object);
        }
        Ok(())
    })
}
