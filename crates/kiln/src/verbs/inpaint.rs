//! `kiln inpaint`.

use std::path::PathBuf;

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::{Context, Result};
use kiln_data::{Picture, PreparedSample, contact_sheet};
use kiln_nn::tensor::to_values;
use kiln_train::preview::pictures;
use kiln_train::{Ability, Request, WeightSet};
use serde_json::json;
use toml::Table;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::pictures::{Results, in_chunks, one_mask, read};
use crate::verbs::sample::ChainArgs;
use crate::verbs::{check_png, need, open};

#[derive(Args)]
pub struct InpaintArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Image or folder to write
    output: PathBuf,
    /// Mask image, bright where to paint; by default the part that the run was trained to fill in
    #[arg(long)]
    mask: Option<PathBuf>,
    /// Number of results per image; with more than one, a.png becomes a-0.png, a-1.png …
    #[arg(short, default_value_t = 1)]
    n: usize,
    /// Seed; the same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Paint this class only, by number from 0
    #[arg(long)]
    class: Option<u32>,
    /// Multiply the latent's deviation by ψ: 0 gives its most likely value, 1 its full distribution
    #[arg(long)]
    truncation_psi: Option<f64>,
    #[command(flatten)]
    sampler: ChainArgs,
    /// Write a PNG too, with one row per image: the visible part, the results, the original
    #[arg(long)]
    sheet: Option<PathBuf>,
}

pub fn run(args: &InpaintArgs, common: &Common, out: &Output) -> Result<()> {
    args.sheet.as_deref().map_or(Ok(()), check_png)?;
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Inpaint)?;
    let info = model.info();
    let samples = read(&args.input, info)?;
    let mask: Option<Tensor<4>> = args.mask.as_ref().map(|path| one_mask(path, info)).transpose()?;
    let covered: Vec<bool> = match &mask {
        Some(mask) => to_values(mask.clone()).into_iter().map(|v| v > 0.5).collect(),
        None => model.default_mask()?,
    };
    let mut sampler = Table::try_from(&args.sampler).context(|| "settings of the sampler")?;
    sampler.extend(args.truncation_psi.map(|psi| ("truncation_psi".to_string(), psi.into())));
    let mut results = Results::of(&args.input, &args.output, samples.len(), info)?;
    let (mut rows, mut done) = (Vec::new(), 0);
    in_chunks(&samples, info.pictures.shape, &device, common.quiet, |chunk, images| {
        let [n, c, h, w] = images.dims();
        let columns = (0..args.n as u64).map(|draw| {
            let from = draw * samples.len() as u64 + done;
            let mut request = Request::new(from..from + n as u64, args.seed, &device).of_class(args.class);
            request.sampler = sampler.clone();
            request.condition.mask = mask.clone();
            Ok(pictures(model.inpaint(images.clone(), &request)?))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        done += n as u64;
        for (i, sample) in chunk.iter().enumerate() {
            for (draw, made) in columns.iter().enumerate() {
                results.write(&sample.name, (args.n > 1).then_some(draw), &made[i])?;
            }
            if args.sheet.is_some() {
                rows.push(kept(sample, &covered, [c, h, w]));
                rows.extend(columns.iter().map(|made| made[i].clone()));
                rows.push(Picture::from_unit(&sample.values, c, h, w));
            }
        }
        Ok(())
    })?;
    results.say(out);
    if let Some(sheet) = &args.sheet {
        let text = [("system", info.system), ("run", info.run.as_str())];
        contact_sheet(&rows, args.n + 2, 1)?.write_png(sheet, &text)?;
        out.say(|| format!("all of them in {}", sheet.display()), &json!({"sheet": shown(sheet)}));
    }
    Ok(())
}

/// A picture with grey where it is painted.
fn kept(sample: &PreparedSample, covered: &[bool], [c, h, w]: [usize; 3]) -> Picture {
    let values = sample.values.iter().zip(covered.iter().cycle());
    let values: Vec<f32> = values.map(|(&value, &covered)| if covered { 0.0 } else { value }).collect();
    Picture::from_unit(&values, c, h, w)
}
