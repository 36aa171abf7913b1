//! `kiln embed`: a map in the plane of what a run makes of pictures, beside a map of their pixels.

use std::fmt::Write;
use std::path::PathBuf;

use burn::tensor::Tensor;
use clap::{Args, ValueEnum};
use kiln_core::random::Key;
use kiln_core::{Error, Result, output, refuse_if};
use kiln_data::{Split, split_specs};
use kiln_measure::{Features, principal, tsne};
use kiln_nn::tensor::to_values;
use kiln_train::preview::class_colour;
use kiln_train::{Ability, Model, Request, WeightSet};
use serde_json::json;

use crate::Common;
use crate::output::{Output, shown};
use crate::verbs::evaluate::{chunks_of, prepared};
use crate::verbs::open;

#[derive(Args)]
pub struct EmbedArgs {
    /// Run folder
    run: PathBuf,
    /// SVG to write
    out: PathBuf,
    /// Sets to place, A or A,B; by default the run's own
    #[arg(long)]
    data: Option<String>,
    /// Part of a named set: train, test or all
    #[arg(long, default_value = "test")]
    split: Split,
    /// Images of each set
    #[arg(short, default_value_t = 500)]
    n: usize,
    /// tsne, which keeps neighbours together, or pca, the two directions of most variance
    #[arg(long, value_enum, default_value_t = Method::Tsne)]
    method: Method,
    /// About how many neighbours an image has in t-SNE
    #[arg(long, default_value_t = 30.0)]
    perplexity: f64,
}

/// How points are placed in the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    Tsne,
    Pca,
}

/// Images in rows: their numbers, which set they are of, and their class where it is known.
#[derive(Default)]
struct Points {
    pixels: Vec<f32>,
    features: Vec<f32>,
    sets: Vec<usize>,
    classes: Vec<Option<usize>>,
}

/// Steps of t-SNE.
const STEPS: usize = 750;
/// Pixels along a side of a map, and around it.
const SIDE: f64 = 520.0;
const MARGIN: f64 = 24.0;
const LINE: f64 = 20.0;

pub fn run(args: &EmbedArgs, common: &Common, out: &Output) -> Result<()> {
    let svg = args.out.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg"));
    refuse_if!(!svg, "{}: a map is an SVG; give a name that ends in .svg", args.out.display());
    let (model, _) = open(&args.run, WeightSet::Ema, &common.device)?;
    let info = model.info();
    let sets = split_specs(args.data.as_ref().unwrap_or(&info.data.set));
    refuse_if!(sets.len() > 2, "--data names {} sets; a map shows one or two", sets.len());
    let mut points = Points::default();
    for (number, set) in sets.iter().enumerate() {
        look(&*model, set, number == 0 && sets.len() > 1, args, common, &mut points)?;
        points.sets.resize(points.classes.len(), number);
    }
    let n = points.sets.len();
    refuse_if!(n < 10, "{n} images make no map; give at least 10");
    let mut maps = Vec::new();
    for (name, values) in [("pixels", &points.pixels), (info.run.as_str(), &points.features)] {
        maps.push((name, placed(name, values, n, args)?));
    }
    output::write(&args.out, drawn(&maps, &points, &sets, &info.pictures.classes).as_bytes())?;
    let object = json!({"output": shown(&args.out), "n": n});
    out.say(|| format!("{n} images in {}", args.out.display()), &object);
    Ok(())
}

/// Pixels and features of a set's images.
fn look(
    model: &dyn Model,
    set: &str,
    of_source: bool,
    args: &EmbedArgs,
    common: &Common,
    points: &mut Points,
) -> Result<()> {
    let abilities = model.abilities();
    let info = model.info();
    let represents = abilities.contains(&Ability::Represent);
    if !represents && !abilities.contains(&Ability::Encode) {
        return Err(Error::usage(format!("{}: {} has no features of images to place", info.run, info.system)));
    }
    let set = prepared(model, set, args.split)?;
    let mut seen = 0;
    chunks_of(&set, args.n, common.quiet, &info.device, |images: Tensor<4>, labels, _| {
        let n = images.dims()[0];
        points.pixels.extend(to_values(images.clone()));
        let features = match (represents, of_source) {
            (true, true) => model.represent_source(images)?,
            (true, false) => model.represent(images)?,
            (false, _) => model.encode(images, &Request::new(seen..seen + n as u64, 0, &info.device))?,
        };
        seen += n as u64;
        points.features.extend(to_values(features));
        points.classes.extend((0..n).map(|i| labels.get(i).map(|&label| label as usize)));
        Ok(())
    })?;
    Ok(())
}

/// Places in the plane, each coordinate from 0 to 1.
fn placed(name: &str, values: &[f32], n: usize, args: &EmbedArgs) -> Result<Vec<[f64; 2]>> {
    let width = values.len() / n;
    let features = Features::new(name, values, width)?;
    let plane: Vec<[f64; 2]> = match args.method {
        Method::Pca => {
            let found = principal::components(features, 2)?;
            refuse_if!(found.directions.len() < 2, "{name}: one number an image makes no map");
            let along = |row: &[f32], at: usize| -> f64 {
                row.iter().zip(&found.directions[at]).map(|(v, d)| f64::from(*v) * d).sum()
            };
            features.rows().map(|row| [along(row, 0), along(row, 1)]).collect()
        }
        Method::Tsne => {
            let search = tsne::Search { perplexity: args.perplexity, steps: STEPS };
            tsne::embed(features, search, Key::new(0).purpose("embed"))?
        }
    };
    let ends = |axis: usize| {
        plane.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], at| [low.min(at[axis]), high.max(at[axis])])
    };
    let [x, y] = [ends(0), ends(1)];
    let share = |v: f64, [low, high]: [f64; 2]| if high > low { (v - low) / (high - low) } else { 0.5 };
    Ok(plane.into_iter().map(|at| [share(at[0], x), share(at[1], y)]).collect())
}

/// The maps beside each other, and what their marks mean.
fn drawn(maps: &[(&str, Vec<[f64; 2]>)], points: &Points, sets: &[String], classes: &[String]) -> String {
    let step = SIDE + 2.0 * MARGIN;
    let (width, top) = (step * maps.len() as f64, 2.0 * LINE);
    let per_row = (width / 110.0) as usize;
    let rows = classes.len().div_ceil(per_row.max(1)) + usize::from(sets.len() > 1);
    let height = top + SIDE + 2.0 * MARGIN + LINE * rows as f64;
    let hex = |class: Option<usize>| {
        // A class is coloured as if there were a ground before it.
        let [r, g, b] = class.map_or([0.45; 3], |class| class_colour(class + 1)).map(|v| (255.0 * v) as u8);
        format!("#{r:02x}{g:02x}{b:02x}")
    };
    let mark = |text: &mut String, [x, y]: [f64; 2], set: usize, colour: &str| {
        let paint = match set {
            0 => format!("fill=\"{colour}\" fill-opacity=\"0.8\""),
            _ => format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\""),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" {paint}/>");
    };
    let words = |text: &mut String, [x, y]: [f64; 2], what: &str| {
        let what = what.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"13\" fill=\"#2b3138\">{what}</text>");
    };
    let mut text = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         xmlns=\"http://www.w3.org/2000/svg\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (number, (name, places)) in maps.iter().enumerate() {
        let left = number as f64 * step + MARGIN;
        words(&mut text, [left, top - 8.0], name);
        let _ = writeln!(
            text,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#dfe3e8\"/>"
        );
        for (i, [x, y]) in places.iter().enumerate() {
            let inside = |at: f64| 8.0 + at * (SIDE - 16.0);
            mark(&mut text, [left + inside(*x), top + inside(*y)], points.sets[i], &hex(points.classes[i]));
        }
    }
    let mut y = top + SIDE + MARGIN;
    if sets.len() > 1 {
        for (number, set) in sets.iter().enumerate() {
            let x = MARGIN + 260.0 * number as f64;
            mark(&mut text, [x, y - 4.0], number, "#2b3138");
            words(&mut text, [x + 10.0, y], set);
        }
        y += LINE;
    }
    for (class, name) in classes.iter().enumerate() {
        let (row, column) = (class / per_row.max(1), class % per_row.max(1));
        let at = [MARGIN + 110.0 * column as f64, y + LINE * row as f64];
        mark(&mut text, [at[0], at[1] - 4.0], 0, &hex(Some(class)));
        let short: String = name.chars().take(13).collect();
        words(&mut text, [at[0] + 10.0, at[1]], &short);
    }
    text + "</svg>\n"
}
