//! `kiln claim measures`: what each metric says of real pictures with growing noise, with growing blur, and
//! with classes left out.
//!
//! Half of a set is the reference; the other half, disturbed, is what is measured (after Heusel 2017,
//! figure 3, and Xu 2018). A measure that does not move does not see the disturbance.

use std::path::Path;

use kiln_core::random::Key;
use kiln_core::{Result, output};
use kiln_data::{Picture, PictureRule, Prepared, PreparedSample, Split, contact_sheet};
use kiln_nn::tensor::from_values;
use kiln_train::device;

use crate::Common;
use crate::feature_cache::Outputs;
use crate::feature_net::FeatureNet;
use crate::output::Output;
use crate::report::colour;
use crate::report::plot::{Line, Plot, page};
use crate::stats::Side;
use crate::verbs::evaluate::sets::{Comparison, figures};

/// The set ships with Kiln, and the classifier of it is the feature net.
const SET: &str = "starter";

/// Pictures on each side.
const N: usize = 4_000;

const METRICS: [&str; 6] = ["fid", "kid", "is", "precision", "recall", "coverage"];

/// Something done to pictures, by growing strength.
struct Disturbance {
    name: &'static str,
    /// From none to most.
    levels: [f64; 5],
    apply: fn(&PreparedSample, usize, f64, [usize; 3]) -> Vec<f32>,
}

/// Samples of classes that are left out are replaced by others, so that the number stays.
const MISSING: &str = "classes left out";

const DISTURBANCES: [Disturbance; 3] = [
    Disturbance { name: "noise σ", levels: [0.0, 0.1, 0.2, 0.4, 0.8], apply: noise },
    Disturbance { name: "blur px", levels: [0.0, 0.5, 1.0, 1.5, 2.0], apply: blur },
    Disturbance { name: MISSING, levels: [0.0, 2.0, 5.0, 8.0, 9.0], apply: |s, _, _, _| s.values.clone() },
];

/// Draws `measures.svg`, a plot a measure, and `measures.png`, what the disturbances look like.
pub fn run(folder: &Path, common: &Common, out: &Output) -> Result<()> {
    let device = device::by_name(&common.device)?;
    let rule = PictureRule::default();
    let set = Prepared::new(kiln_data::open(SET, Split::Train, &rule)?, rule.clone())?;
    let net = FeatureNet::of(None, SET, &rule, common, &device)?;
    let shape @ [c, h, w] = set.shape();
    let order = Key::new(0).purpose("halves");
    let sample = |i: usize| set.get(order.permute(i as u64, set.len() as u64) as usize);
    let look = |pictures: Vec<Vec<f32>>| -> Result<Outputs> {
        let mut seen = Outputs::default();
        for some in pictures.chunks(100) {
            net.apply(from_values(some.concat(), [some.len(), c, h, w], &device), &mut seen)?;
        }
        Ok(seen)
    };
    let halves = set.len() / 2;
    let real = (0..N.min(halves)).map(|i| Ok(sample(i)?.values)).collect::<Result<Vec<_>>>()?;
    let mut found = Comparison::by(&net, Side::of("", "", Outputs::default()), Side::of(SET, "train", look(real)?));

    let mut plots: Vec<Plot> =
        METRICS.iter().map(|m| Plot { title: (*m).into(), along: "strength".into(), lines: Vec::new() }).collect();
    let mut sheet = Vec::new();
    for (nth, d) in DISTURBANCES.iter().enumerate() {
        let name = format!("{}: {}", d.name, d.levels.map(|l| l.to_string()).join(", "));
        for plot in &mut plots {
            plot.lines.push(Line { name: name.clone(), colour: colour(nth), points: Vec::new() });
        }
        for (strength, &level) in d.levels.iter().enumerate() {
            let left_out = if d.name == MISSING { level as u32 } else { 0 };
            let kept = (halves..set.len())
                .map(sample)
                .filter(|s| s.as_ref().map_or(true, |s| s.label.is_none_or(|l| l >= left_out)));
            // With one class left of ten there are a tenth of the pictures: they repeat.
            let kept = kept.collect::<Result<Vec<_>>>()?;
            let made: Vec<Vec<f32>> = kept
                .iter()
                .cycle()
                .take(N.min(halves))
                .enumerate()
                .map(|(i, s)| (d.apply)(s, i, level, shape))
                .collect();
            sheet.extend(made.iter().take(6).map(|v| Picture::from_unit(v, c, h, w)));
            found.made = Side::of(&name, "", look(made)?);
            figures(&found, &METRICS, 0, 0, &mut |measure| {
                if let Some(at) = METRICS.iter().position(|m| *m == measure.measure) {
                    plots[at].lines[nth].points.push((strength as f64, measure.value));
                }
                out.say(|| format!("{} {level}: {measure}", d.name), &measure);
                Ok(())
            })?;
        }
    }
    output::folder(folder)?;
    let svg = folder.join("measures.svg");
    output::write(&svg, page(&plots, 2)?.as_bytes())?;
    contact_sheet(&sheet, 6 * DISTURBANCES[0].levels.len(), 1)?.write_png(&folder.join("measures.png"), &[])
}

/// Gaussian noise of standard deviation σ.
fn noise(sample: &PreparedSample, index: usize, sigma: f64, _: [usize; 3]) -> Vec<f32> {
    let draws = Key::new(0).purpose("noise").normal([index as u64], sample.values.len());
    sample.values.iter().zip(draws).map(|(v, n)| (v + n * sigma as f32).clamp(-1.0, 1.0)).collect()
}

/// A Gaussian of σ pixels over each channel, the edge repeated.
fn blur(sample: &PreparedSample, _: usize, sigma: f64, [_, height, width]: [usize; 3]) -> Vec<f32> {
    if sigma == 0.0 {
        return sample.values.clone();
    }
    let reach = (3.0 * sigma).ceil() as isize;
    let weights: Vec<f64> = (-reach..=reach).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let smooth = |values: &[f32], at: &dyn Fn(usize, usize) -> usize, length: usize, lines: usize| {
        let mut out = vec![0.0; values.len()];
        for line in 0..lines {
            for i in 0..length {
                let near = weights.iter().enumerate().map(|(k, w)| {
                    let j = (i as isize + k as isize - reach).clamp(0, length as isize - 1) as usize;
                    w * f64::from(values[at(line, j)])
                });
                out[at(line, i)] = (near.sum::<f64>() / sum) as f32;
            }
        }
        out
    };
    sample
        .values
        .chunks(height * width)
        .flat_map(|plane| {
            let rows = smooth(plane, &|y, x| y * width + x, width, height);
            smooth(&rows, &|x, y| y * width + x, height, width)
        })
        .collect()
}
