//! Differences between images and their targets.
//!
//! A run that translates is evaluated on known pairs of its two domains, one that reconstructs on its own
//! data, and a folder of images on those at the same position of the reference.

use kiln_core::{Error, Result};
use kiln_data::{Picture, PictureRule, Prepared, Split, check_pairs};
use kiln_features::Lpips;
use kiln_measure::{MetricValue, pairs};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{Ability, Model};

use super::Asked;
use crate::verbs::translate;

/// A distance of a picture to its counterpart.
enum Distance {
    L1,
    Psnr,
    Ssim,
    /// L1 of the differences between neighbouring pixels.
    Gradient,
    MsSsim,
    Lpips(Box<Lpips>),
}

impl Distance {
    /// Those that some metrics ask for, `pairs` for the four that need no more than the pictures.
    fn of(asked: &Asked<'_>, metrics: &[&str]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for metric in metrics {
            match *metric {
                "ms_ssim" => all.push(Self::MsSsim),
                "lpips" => all.push(Self::Lpips(Box::new(asked.perceptual()?))),
                _ => all.extend([Self::L1, Self::Psnr, Self::Ssim, Self::Gradient]),
            }
        }
        Ok(all)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::L1 => "pair_l1",
            Self::Psnr => "pair_psnr",
            Self::Ssim => "pair_ssim",
            Self::Gradient => "pair_gradient",
            Self::MsSsim => "pair_ms_ssim",
            Self::Lpips(_) => "pair_lpips",
        }
    }

    /// Of two pictures `shape` in [−1, 1].
    fn between(&self, a: &[f32], b: &[f32], shape: [usize; 3], asked: &Asked<'_>) -> Result<f64> {
        match self {
            Self::L1 => pairs::l1(a, b),
            Self::Psnr => pairs::psnr(a, b, 2.0),
            Self::Ssim => pairs::ssim(a, b, shape, 2.0),
            Self::Gradient => pairs::gradient_l1(a, b, shape),
            Self::MsSsim => pairs::ms_ssim(a, b, shape, 2.0),
            Self::Lpips(net) => {
                let [c, h, w] = shape;
                let tensor = |x: &[f32]| from_values::<4>(x.to_vec(), [1, c, h, w], asked.device);
                Ok(f64::from(net.distance(tensor(a), tensor(b))?.into_scalar::<f32>()))
            }
        }
    }
}

/// The mean of each distance over pairs that arrive one by one.
struct Means<'a> {
    asked: &'a Asked<'a>,
    distances: &'a [Distance],
    /// Behind the name of each figure: `_a2b`, `_of_input_a2b`.
    suffix: String,
    sums: Vec<f64>,
    n: usize,
}

impl<'a> Means<'a> {
    fn new(asked: &'a Asked<'a>, distances: &'a [Distance], suffix: &str) -> Self {
        Self { asked, distances, suffix: suffix.into(), sums: vec![0.0; distances.len()], n: 0 }
    }

    fn add(&mut self, a: &[f32], b: &[f32], shape: [usize; 3]) -> Result<()> {
        for (sum, distance) in self.sums.iter_mut().zip(self.distances) {
            *sum += distance.between(a, b, shape, self.asked)?;
        }
        self.n += 1;
        Ok(())
    }

    fn figures(self) -> impl Iterator<Item = MetricValue> {
        let of = move |(distance, sum): (&Distance, f64)| {
            let name = format!("{}{}", distance.name(), self.suffix);
            let measure = self.asked.against(MetricValue::new(&name, sum / self.n.max(1) as f64, self.n));
            match distance {
                Distance::Lpips(net) => measure.features(net.name(), "none"),
                _ => measure,
            }
        };
        self.distances.iter().zip(self.sums).map(of)
    }
}

/// The metrics of pairs.
pub fn measure(asked: &Asked<'_>, metrics: &[&str]) -> Result<Vec<MetricValue>> {
    let distances = Distance::of(asked, metrics)?;
    match asked.model {
        None => of_pictures(asked, &distances),
        Some(model) if model.abilities().contains(&Ability::Translate) => of_translations(model, asked, &distances),
        Some(_) => of_reconstructions(asked.run(metrics[0], Ability::Reconstruct)?, asked, &distances),
    }
}

/// Translations beside the known counterparts, and the inputs themselves beside them.
fn of_translations(model: &dyn Model, asked: &Asked<'_>, distances: &[Distance]) -> Result<Vec<MetricValue>> {
    let rule = model.info().data.rule().still();
    let sets = kiln_data::open_all(&asked.reference, asked.split, &rule)?;
    let [a, b] = &sets[..] else {
        let reference = &asked.reference;
        return Err(Error::usage(format!("--metrics pairs needs two sets of known pairs, not `{reference}`")));
    };
    check_pairs(a, b)?;
    let sides = [Prepared::new(a.clone(), rule.clone())?, Prepared::new(b.clone(), rule)?];
    let shape @ [c, h, w] = sides[0].shape();
    let scale = model.scale()?;
    if scale != 1 {
        return Err(Error::usage(format!(
            "--metrics pairs: this run's translations are {scale} times as large as its pictures, and the known ones are not"
        )));
    }
    let n = sides[0].len().min(asked.args.n);
    let mut out = Vec::new();
    for (direction, (from, to)) in model.directions()?.into_iter().zip([(0, 1), (1, 0)]) {
        let mut made = Means::new(asked, distances, &format!("_{direction}"));
        let mut inputs = Means::new(asked, distances, &format!("_of_input_{direction}"));
        for i in 0..n {
            let (input, target) = (sides[from].get(i)?.values, sides[to].get(i)?.values);
            let images = from_values(input.clone(), [1, c, h, w], asked.device);
            made.add(&to_values(translate(model, images, i, direction)?), &target, shape)?;
            inputs.add(&input, &target, shape)?;
        }
        out.extend(made.figures().zip(inputs.figures()).flat_map(|(made, input)| [made, input]));
    }
    Ok(out)
}

/// Reconstructions beside what they are of.
fn of_reconstructions(model: &dyn Model, asked: &Asked<'_>, distances: &[Distance]) -> Result<Vec<MetricValue>> {
    let mut means = Means::new(asked, distances, "");
    asked.chunks(model, &asked.reference, |images, _| {
        let shape @ [c, h, w] = model.info().pictures.shape;
        let made = to_values(model.reconstruct(images.clone())?);
        let images: Vec<f32> = to_values::<4>(images);
        made.chunks(c * h * w).zip(images.chunks(c * h * w)).try_for_each(|(a, b)| means.add(a, b, shape))
    })?;
    Ok(means.figures().collect())
}

/// Pictures beside those of the same place: files in the order of their names.
fn of_pictures(asked: &Asked<'_>, distances: &[Distance]) -> Result<Vec<MetricValue>> {
    let open = |spec: &str, split: Split| kiln_data::open(spec, split, &PictureRule::default());
    let ((what, part), reference) = (&asked.pictures, asked.reference.as_str());
    let (a, b) = (open(what, *part)?, open(reference, asked.split)?);
    if a.len() != b.len() {
        return Err(Error::usage(format!(
            "pairs: {what} has {} pictures and {reference} has {}; give one counterpart for each",
            a.len(),
            b.len()
        )));
    }
    let mut means = Means::new(asked, distances, "");
    for i in 0..a.len().min(asked.args.n) {
        let (x, y) = (a.get(i)?, b.get(i)?);
        let channels = x.picture.channels.max(y.picture.channels);
        let fit = |p: &Picture| p.with_channels(channels, [255; 3]);
        let (p, q) = (fit(&x.picture), fit(&y.picture));
        if (p.width, p.height) != (q.width, q.height) {
            return Err(Error::usage(format!(
                "pairs: {} is {} x {} and its counterpart {} is {} x {}",
                x.name, p.width, p.height, y.name, q.width, q.height
            )));
        }
        means.add(&p.to_unit(), &q.to_unit(), [channels, p.height, p.width])?;
    }
    Ok(means.figures().collect())
}
