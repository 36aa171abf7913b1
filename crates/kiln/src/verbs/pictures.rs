//! `kiln translate`, `reconstruct` and `classify`: verbs that take a picture or a folder.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use clap::Args;
use kiln_core::{Context, Error, Result};
use kiln_data::{PictureRule, Prepared, PreparedSample, Resize, Split};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::model::{Info, Weights};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Progress};
use serde_json::json;

use crate::Common;
use crate::judge::argmax;
use crate::output::Output;
use crate::verbs::{need, open};

#[derive(Args)]
pub struct TranslateArgs {
    /// The run folder
    run: PathBuf,
    /// A picture, a folder or a zip of pictures
    input: PathBuf,
    /// The picture or folder to write
    output: PathBuf,
    /// a2b or b2a
    #[arg(long)]
    direction: Option<String>,
}

#[derive(Args)]
pub struct ReconstructArgs {
    /// The run folder
    run: PathBuf,
    /// A picture, a folder or a zip of pictures
    input: PathBuf,
    /// The picture or folder to write
    output: PathBuf,
}

#[derive(Args)]
pub struct ClassifyArgs {
    /// The run folder
    run: PathBuf,
    /// A picture, a folder or a zip of pictures
    input: PathBuf,
}

/// A user's pictures as the run's network wants them.
fn read(path: &Path, info: &Info) -> Result<Vec<PreparedSample>> {
    if !path.exists() {
        return Err(Error::usage(format!("{}: no such file or folder", path.display())));
    }
    let [channels, height, width] = info.pictures.shape;
    let resize = if info.data.resize == Resize::None { Resize::Pad } else { info.data.resize };
    let rule = PictureRule {
        size: if height == width { height } else { 0 },
        channels,
        resize,
        background: info.data.background,
        flip: false,
    };
    let text = path.display().to_string();
    let mut samples = Vec::new();
    // A folder's pictures are split for training; here all of them count.
    for split in [Split::Train, Split::Test] {
        let Ok(set) = kiln_data::open(&text, split, &rule) else {
            if split == Split::Train {
                kiln_data::open(&text, split, &rule)?;
            }
            continue;
        };
        let prepared = Prepared::new(set, rule.clone())?;
        for i in 0..prepared.len() {
            let sample = prepared.get(i)?;
            if !samples.iter().any(|s: &PreparedSample| s.name == sample.name) {
                samples.push(sample);
            }
        }
    }
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(samples)
}

/// Applies `f` to pictures a few at a time.
fn in_chunks(
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

/// Writes what `f` makes of the input: one file for a file, a folder of the same names for a folder.
fn map_pictures(
    input: &Path,
    output: &Path,
    info: &Info,
    device: &Device,
    common: &Common,
    out: &Output,
    mut f: impl FnMut(Tensor<4>) -> Result<Tensor<4>>,
) -> Result<()> {
    let samples = read(input, info)?;
    let single = input.is_file() && samples.len() == 1;
    let mut written = Vec::new();
    in_chunks(&samples, info.pictures.shape, device, common.quiet, |chunk, images| {
        for (sample, picture) in chunk.iter().zip(pictures(f(images)?)) {
            let path = if single {
                output.to_path_buf()
            } else {
                let name = Path::new(&sample.name).with_extension("png");
                output.join(name)
            };
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).context(|| format!("creating {}", parent.display()))?;
            }
            picture.write_png(&path, &[("system", info.system), ("run", &info.run), ("input", &sample.name)])?;
            written.push(path);
        }
        Ok(())
    })?;
    let object = json!({"n": written.len(), "output": output});
    out.say(|| format!("{} pictures in {}", written.len(), output.display()), &object);
    Ok(())
}

pub fn translate(args: &TranslateArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, Weights::Average, &common.device)?;
    need(&*model, Ability::Translate)?;
    let directions = model.directions()?;
    let direction = args.direction.as_deref().unwrap_or(directions[0]);
    if !directions.contains(&direction) {
        return Err(Error::usage(format!("--direction {direction}: this run has {}", directions.join(", "))));
    }
    map_pictures(&args.input, &args.output, model.info(), &device, common, out, |x| model.translate(x, direction))
}

pub fn reconstruct(args: &ReconstructArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, Weights::Average, &common.device)?;
    need(&*model, Ability::Reconstruct)?;
    map_pictures(&args.input, &args.output, model.info(), &device, common, out, |x| model.reconstruct(x))
}

pub fn classify(args: &ClassifyArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, Weights::Average, &common.device)?;
    need(&*model, Ability::Classify)?;
    let info = model.info();
    let samples = read(&args.input, info)?;
    in_chunks(&samples, info.pictures.shape, &device, common.quiet, |chunk, images| {
        let logits = model.classify(images)?;
        let classes = logits.dims()[1];
        let probabilities = to_values(burn::tensor::activation::softmax(logits, 1));
        for (sample, p) in chunk.iter().zip(probabilities.chunks(classes)) {
            let best = argmax(p);
            let class = info.pictures.classes.get(best).cloned().unwrap_or_else(|| best.to_string());
            let object = json!({"name": sample.name, "class": class, "index": best, "probability": p[best]});
            out.say(|| format!("{}: {class} ({:.1} %)", sample.name, 100.0 * p[best]), &object);
        }
        Ok(())
    })
}
