//! `kiln translate`: pictures of one domain in the look of another.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Context, Error, Result, refuse_if};
use kiln_data::{DataSet, Picture, PictureRule, PictureSize, PreparedSample, Resize, Sample};
use kiln_nn::tensor::from_values;
use kiln_train::preview::pictures;
use kiln_train::request::Style;
use kiln_train::{Ability, Model, Progress, Request, SizeRule, WeightSet};
use serde::Serialize;
use toml::Table;

use crate::Common;
use crate::output::Output;
use crate::verbs::pictures::{
    Results, in_chunks, one_picture, open_inputs, open_whole, parts, read_inputs, recoloured,
};
use crate::verbs::sample::ChainArgs;
use crate::verbs::{need, open};

#[derive(Args)]
pub struct TranslateArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Image or folder to write
    output: PathBuf,
    /// Direction, such as a2b, b2a or colorize; the run's first by default
    #[arg(long)]
    direction: Option<String>,
    /// Number of results per image, of a system with noise; with more than one, a.png becomes a-0.png, a-1.png …
    #[arg(short, default_value_t = 1)]
    n: usize,
    /// Seed; the same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Image whose style to take, of a system that knows styles; repeat it to blend several
    #[arg(long, value_name = "IMAGE")]
    style: Vec<PathBuf>,
    /// Part of each --style in the blend, such as 0.7,0.3; equal parts by default
    #[arg(long, value_delimiter = ',', requires = "style")]
    style_weights: Vec<f64>,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// Resize images to the size the run was trained at; by default each keeps its own size, if the network takes any
    #[arg(long)]
    trained_size: bool,
    /// Keep each image's colours: take only how light each pixel is from the translation
    #[arg(long, conflicts_with = "trained_size")]
    preserve_color: bool,
    /// Keep each image's transparency; by default images are put on the run's background colour
    #[arg(long, conflicts_with = "trained_size")]
    keep_alpha: bool,
    /// Translate larger images in tiles of this side, to save memory; 0 never does
    #[arg(long, default_value_t = 2_048)]
    tile: usize,
}

/// Settings of the translation that some systems have.
#[derive(Args, Serialize)]
struct SamplerArgs {
    /// How much of the style to take, from 0 (none) to 1
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    strength: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    chain: ChainArgs,
}

/// Tiles lie over each other by this part of their side, and fade into each other there.
const OVERLAP: usize = 8;

pub fn run(args: &TranslateArgs, common: &Common, out: &Output) -> Result<()> {
    refuse_if!(args.n == 0, "-n 0: at least 1");
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Translate)?;
    let directions = model.directions()?;
    let direction = args.direction.as_deref().unwrap_or(directions[0]);
    if !directions.contains(&direction) {
        return Err(Error::usage(format!("--direction {direction}: this run has {}", directions.join(", "))));
    }
    let own_sizes = model.own_sizes()?.filter(|_| !args.trained_size);
    let styles = styles(args, &*model, own_sizes.as_ref())?;
    let sampler = Table::try_from(&args.sampler).context(|| "settings of the translation")?;
    let request = |indices| {
        let mut request = Request::new(indices, args.seed, &device).along(direction);
        request.condition.styles = styles.clone();
        request.sampler = sampler.clone();
        request
    };
    match own_sizes {
        Some(sizes) => at_own_size(args, &request, &sizes, &*model, common, out),
        None => {
            let flag = [(args.preserve_color, "--preserve-color"), (args.keep_alpha, "--keep-alpha")];
            if let Some((_, flag)) = flag.iter().find(|(given, _)| *given) {
                let system = model.info().system;
                return Err(Error::usage(format!("{flag}: {system} resizes images; leave it out")));
            }
            at_trained_size(args, &request, &*model, common, out)
        }
    }
}

/// What is asked of pictures with these indices.
type Asked<'a> = dyn Fn(std::ops::Range<u64>) -> Request + 'a;

/// The pictures of styles, at their own size where the network takes any.
fn styles(args: &TranslateArgs, model: &dyn Model, own_sizes: Option<&SizeRule>) -> Result<Vec<Style>> {
    let weights = parts(&args.style_weights, args.style.len())?;
    let style = |(path, weight): (&PathBuf, f64)| {
        let image = match own_sizes {
            Some(sizes) => {
                let set = Source::open(path, model)?;
                let sample = set.get(0).context(|| path.display())?;
                padded(&sample.picture, sizes, model)
            }
            None => one_picture(path, model.info())?,
        };
        Ok(Style { image, weight })
    };
    args.style.iter().zip(weights).map(style).collect()
}

/// A user's pictures at their own sizes, one at a time.
struct Source {
    set: Arc<dyn DataSet>,
    rule: PictureRule,
    channels: usize,
}

impl Source {
    /// Pictures such as those that the run makes.
    fn open(path: &std::path::Path, model: &dyn Model) -> Result<Self> {
        Self::of(model, |rule| open_whole(path, rule))
    }

    /// Pictures to translate.
    fn inputs(path: &std::path::Path, model: &dyn Model) -> Result<Self> {
        Self::of(model, |rule| open_inputs(path, rule, model.info()))
    }

    fn of(model: &dyn Model, open: impl FnOnce(&PictureRule) -> Result<Arc<dyn DataSet>>) -> Result<Self> {
        let info = model.info();
        let rule = PictureRule { size: PictureSize::STORED, resize: Resize::None, ..info.data.rule().still() };
        Ok(Self { set: open(&rule)?, rule, channels: info.pictures.shape[0] })
    }

    /// A picture in the run's channels.
    fn get(&self, i: usize) -> Result<Own> {
        let Sample { picture, name, .. } = self.set.get(i)?;
        let alpha = (picture.channels == 4).then(|| picture.pixels.chunks_exact(4).map(|pixel| pixel[3]).collect());
        Ok(Own { picture: picture.with_channels(self.channels, self.rule.background), alpha, name })
    }
}

/// A picture as it is.
struct Own {
    picture: Picture,
    alpha: Option<Vec<u8>>,
    name: String,
}

/// A picture with its edges repeated up to a size the network takes, `[1, c, h, w]`.
fn padded(picture: &Picture, sizes: &SizeRule, model: &dyn Model) -> Tensor<4> {
    let fit = |side: usize| side.max(sizes.min).next_multiple_of(sizes.multiple_of);
    let padded = picture.extend(fit(picture.width), fit(picture.height));
    let shape = [1, padded.channels, padded.height, padded.width];
    from_values(padded.to_unit(), shape, &model.info().device)
}

/// Translates each picture at its own size: its edges repeated up to a size the network takes, and what came of them
/// cut off again.
fn at_own_size(
    args: &TranslateArgs,
    request: &Asked,
    sizes: &SizeRule,
    model: &dyn Model,
    common: &Common,
    out: &Output,
) -> Result<()> {
    let source = Source::inputs(&args.input, model)?;
    let count = source.set.len();
    let mut results = Results::of(&args.input, &args.output, count, model.info())?;
    let mut progress = (!common.quiet).then(|| Progress::new("pictures", "pictures", 0, (count * args.n) as u64));
    for i in 0..count {
        let own = source.get(i)?;
        for draw in 0..args.n {
            let index = (draw * count + i) as u64;
            let made = translated(&own.picture, sizes, args.tile, model, &request(index..index + 1))?;
            let made = if args.preserve_color { recoloured(made, &own.picture) } else { made };
            let made = match &own.alpha {
                Some(alpha) if args.keep_alpha => with_alpha(&made, alpha, &own.picture)?,
                _ => made,
            };
            results.write(&own.name, (args.n > 1).then_some(draw), &made)?;
            if let Some(p) = &mut progress {
                p.update((i * args.n + draw + 1) as u64, String::new);
            }
        }
    }
    if let Some(p) = &progress {
        p.finish();
    }
    results.say(out);
    Ok(())
}

/// One picture, whole or in tiles.
fn translated(
    picture: &Picture,
    sizes: &SizeRule,
    tile: usize,
    model: &dyn Model,
    request: &Request,
) -> Result<Picture> {
    let (width, height, scale) = (picture.width, picture.height, model.scale()?);
    let whole = |part: &Picture| -> Result<Picture> {
        let made = pictures(model.translate(padded(part, sizes, model), request)?);
        let made = made.first().ok_or_else(|| Error::new("the translation has no picture"))?;
        Ok(made.crop(0, 0, scale * part.width, scale * part.height))
    };
    if tile == 0 || width.max(height) <= tile {
        return whole(picture);
    }
    let tile = tile.max(sizes.min).next_multiple_of(sizes.multiple_of);
    let margin = (tile / OVERLAP).max(1);
    let (columns, rows) = (tiles(width, tile, margin), tiles(height, tile, margin));
    let mut sum = Vec::new();
    let mut weights = vec![0.0f32; width * scale * height * scale];
    let mut channels = 0;
    for &(y, h) in &rows {
        for &(x, w) in &columns {
            let made = whole(&picture.crop(x, y, w, h))?;
            channels = made.channels;
            sum.resize(weights.len() * channels, 0.0f32);
            for row in 0..made.height {
                for column in 0..made.width {
                    let weight = ramp(row, made.height, margin * scale) * ramp(column, made.width, margin * scale);
                    let at = (y * scale + row) * width * scale + x * scale + column;
                    weights[at] += weight;
                    let from = (row * made.width + column) * channels;
                    for c in 0..channels {
                        sum[at * channels + c] += weight * f32::from(made.pixels[from + c]);
                    }
                }
            }
        }
    }
    let level = |(i, sum): (usize, &f32)| (sum / weights[i / channels.max(1)]).round().clamp(0.0, 255.0) as u8;
    Picture::new(width * scale, height * scale, channels, sum.iter().enumerate().map(level).collect())
}

/// The tiles along a side: where each begins and how long it is. Each lies over the one before it by `margin` or more.
fn tiles(side: usize, tile: usize, margin: usize) -> Vec<(usize, usize)> {
    if side <= tile {
        return vec![(0, side)];
    }
    let steps = (side - tile).div_ceil(tile - margin);
    (0..=steps).map(|i| (i * (side - tile) / steps, tile)).collect()
}

/// How much a pixel of a tile counts: less towards its edges, never nothing.
fn ramp(at: usize, side: usize, margin: usize) -> f32 {
    let from_edge = at.min(side - 1 - at);
    ((from_edge + 1) as f32 / margin as f32).min(1.0)
}

/// A translation with the transparency of the original, each pixel's repeated where it is larger.
fn with_alpha(made: &Picture, alpha: &[u8], original: &Picture) -> Result<Picture> {
    let colour = made.with_channels(3, [0; 3]);
    let from = |x: usize, y: usize| {
        alpha[y * original.height / made.height * original.width + x * original.width / made.width]
    };
    let pixel = |(i, p): (usize, &[u8])| [p[0], p[1], p[2], from(i % made.width, i / made.width)];
    let pixels = colour.pixels.chunks_exact(3).enumerate().flat_map(pixel).collect();
    Picture::new(made.width, made.height, 4, pixels)
}

/// Translates pictures resized to the run's size, several at a time.
fn at_trained_size(
    args: &TranslateArgs,
    request: &Asked,
    model: &dyn Model,
    common: &Common,
    out: &Output,
) -> Result<()> {
    let info = model.info();
    let samples: Vec<PreparedSample> = read_inputs(&args.input, info)?;
    let mut results = Results::of(&args.input, &args.output, samples.len(), info)?;
    let mut done = 0;
    in_chunks(&samples, info.pictures.shape, &info.device, common.quiet, |chunk, images| {
        for draw in 0..args.n {
            let from = (draw * samples.len() + done) as u64;
            let made = pictures(model.translate(images.clone(), &request(from..from + chunk.len() as u64))?);
            for (sample, picture) in chunk.iter().zip(made) {
                results.write(&sample.name, (args.n > 1).then_some(draw), &picture)?;
            }
        }
        done += chunk.len();
        Ok(())
    })?;
    results.say(out);
    Ok(())
}

#[cfg(test)]
#[path = "../../../kiln-train/tests/common/doubler.rs"]
mod doubler;

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_train::{Options, Run};

    use super::*;

    /// A translation that makes pictures larger is written larger, at the run's size and at a picture's own.
    #[test]
    fn a_larger_translation_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        std::fs::create_dir(place("data")).unwrap();
        let picture = |width: usize, height: usize| {
            Picture::new(width, height, 1, (0..width * height).map(|i| (i * 9 % 250) as u8).collect()).unwrap()
        };
        for i in 0..12 {
            picture(6, 6).write_png(&place("data").join(format!("{i}.png")), &[]).unwrap();
        }
        picture(7, 3).write_png(&place("in.png"), &[]).unwrap();
        let (system, run) = (kiln_train::entry::<doubler::Doubler>(), place("run"));
        let mut recipe = system.defaults().unwrap();
        for text in [format!("data.set={}", place("data").display()), "train.batch=2".into()] {
            let change = kiln_train::recipe::assignment(&text).unwrap();
            kiln_train::recipe::merge(&mut recipe, &change, "test").unwrap();
        }
        let options = Options { steps: Some(1), quiet: true, ..Options::on(Device::flex()) };
        system.train(recipe, &run, &options).unwrap();
        let model = system.open(&Run::open(&run).unwrap(), WeightSet::Ema, &Device::flex()).unwrap();

        let common = Common {
            json: false,
            quiet: true,
            device: "cpu".into(),
            precision: None,
            threads: 0,
            max_pixels: 1 << 20,
            max_bytes: 1 << 20,
        };
        let out = Output::new(false);
        let along = |indices| Request::new(indices, 0, &Device::flex());
        let args = |input: &str, output: &str| TranslateArgs {
            run: run.clone(),
            input: place(input),
            output: place(output),
            direction: None,
            n: 1,
            seed: 0,
            style: Vec::new(),
            style_weights: Vec::new(),
            sampler: SamplerArgs { strength: None, chain: ChainArgs::default() },
            trained_size: false,
            preserve_color: false,
            keep_alpha: false,
            tile: 0,
        };
        let own = args("in.png", "own.png");
        let sizes = model.own_sizes().unwrap().unwrap();
        at_own_size(&own, &along, &sizes, &*model, &common, &out).unwrap();
        let made = Picture::open(&place("own.png")).unwrap();
        assert_eq!((made.width, made.height), (14, 6));
        // Each pixel four times, as the network has it, whose gain is 1 but for a step of training.
        let original = picture(7, 3);
        for (i, pixel) in made.pixels.iter().enumerate() {
            let from = original.pixels[i / 14 / 2 * 7 + i % 14 / 2];
            assert!(pixel.abs_diff(from) <= 2, "{i}: {pixel} of {from}");
        }

        // In tiles it is the same, for each pixel depends on its own alone.
        let tiled = TranslateArgs { tile: 4, ..args("in.png", "tiled.png") };
        at_own_size(&tiled, &along, &sizes, &*model, &common, &out).unwrap();
        assert_eq!(Picture::open(&place("tiled.png")).unwrap().pixels, made.pixels);

        let sized = args("data", "sized");
        at_trained_size(&sized, &along, &*model, &common, &out).unwrap();
        let made = Picture::open(&place("sized").join("3.png")).unwrap();
        assert_eq!((made.width, made.height), (12, 12));
        // And so is the preview.
        assert!(std::fs::read_dir(run.join("previews")).unwrap().count() > 0);
    }
    #[test]
    fn tiles_cover_a_side_and_fade_into_each_other() {
        for (side, tile, margin) in [(100, 32, 4), (33, 32, 4), (64, 32, 31), (32, 32, 4), (10, 32, 4)] {
            let tiles = tiles(side, tile, margin);
            assert_eq!(tiles[0].0, 0);
            assert_eq!(tiles.last().map(|(from, len)| from + len), Some(side));
            for pair in tiles.windows(2) {
                assert!(pair[0].0 + pair[0].1 >= pair[1].0 + margin, "{tiles:?}");
            }
        }
        assert_eq!([ramp(0, 32, 4), ramp(3, 32, 4), ramp(31, 32, 4)], [0.25, 1.0, 0.25]);
    }

    #[test]
    fn colour_and_transparency_of_the_original_are_kept() {
        let original = Picture::new(2, 1, 3, vec![200, 100, 50, 10, 20, 30]).unwrap();
        let grey = Picture::new(2, 1, 3, vec![128; 6]).unwrap();
        let made = recoloured(grey.clone(), &original);
        let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        for (p, old) in made.pixels.chunks(3).zip(original.pixels.chunks(3)) {
            assert!((luma(p) - 128.0).abs() < 1.0, "{p:?}");
            let [red, blue] = [0, 2].map(|c| f32::from(p[c]) - luma(p) - (f32::from(old[c]) - luma(old)));
            assert!(red.abs() < 1.5 && blue.abs() < 1.5);
        }
        // A translation twice as large has each pixel's transparency four times.
        let larger = Picture::new(4, 2, 1, vec![9; 8]).unwrap();
        let seen = with_alpha(&larger, &[255, 7], &original).unwrap();
        let alpha: Vec<u8> = seen.pixels.chunks(4).map(|p| p[3]).collect();
        assert_eq!(alpha, [255, 255, 7, 7, 255, 255, 7, 7]);
    }
}
