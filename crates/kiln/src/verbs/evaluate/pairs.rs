//! Differences between images and their targets.
//!
//! A run that translates is evaluated on known pairs of its two domains, one that reconstructs on its own
//! data, and a folder of images on those at the same position of the reference.

use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_data::{Part, Picture, PictureRule, Prepared, Split, check_pairs, label_maps};
use kiln_features::Lpips;
use kiln_measure::segmentation::Segmentation;
use kiln_measure::{MetricValue, Spread, pairs};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{Ability, Model, Request, WeightSet};

use super::Asked;
use crate::feature_cache::Outputs;
use crate::feature_net::FeatureNet;
use crate::stats::Side;
use crate::verbs::{need, open, translate_along as translate};

/// A distance of a picture to its counterpart.
enum Distance {
    L1,
    Psnr,
    Ssim,
    /// L1 of the differences between neighbouring pixels.
    Gradient,
    MsSsim,
    Lightness,
    Chroma,
    Lpips(Box<Lpips>),
}

impl Distance {
    /// Those that some metrics ask for, `pairs` for the four that need no more than the pictures.
    fn of(asked: &Asked<'_>, metrics: &[&str]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for metric in metrics {
            match *metric {
                "ms_ssim" => all.push(Self::MsSsim),
                "color" => all.extend([Self::Lightness, Self::Chroma]),
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
            Self::Lightness => "pair_lightness",
            Self::Chroma => "pair_chroma",
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
            Self::Lightness => Ok(pairs::lab(a, b, shape)?[0]),
            Self::Chroma => Ok(pairs::lab(a, b, shape)?[1]),
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

/// Metrics that are no distances of a picture to its counterpart.
const OTHERS: [&str; 4] = ["translation_fid", "translation_diversity", "translation_segments", "pair_latents"];

/// The metrics of pairs.
pub fn measure(asked: &Asked<'_>, metrics: &[&str]) -> Result<Vec<MetricValue>> {
    let (others, near): (Vec<&str>, Vec<&str>) = metrics.iter().partition(|metric| OTHERS.contains(metric));
    let mut found = Vec::new();
    if !near.is_empty() {
        let distances = Distance::of(asked, &near)?;
        found = match asked.model {
            None => of_pictures(asked, &distances)?,
            Some(model) if model.abilities().contains(&Ability::Translate) => {
                of_translations(model, asked, &distances)?
            }
            Some(_) => of_reconstructions(asked.run(near[0], Ability::Reconstruct)?, asked, &distances)?,
        };
    }
    for metric in others {
        let model = asked.run(metric, Ability::Translate)?;
        let domains = Domains::open(model, asked, metric)?;
        found.extend(match metric {
            "translation_fid" => domains.frechet(model, asked)?,
            "translation_diversity" => domains.diversity(model, asked)?,
            "translation_segments" => domains.segments(model, asked)?,
            _ => domains.latents(asked.run(metric, Ability::Encode)?, asked)?,
        });
    }
    Ok(found)
}

/// Two sets of known pairs: a run's two domains.
struct Domains {
    sides: [Prepared; 2],
    names: [String; 2],
    n: usize,
}

impl Domains {
    fn open(model: &dyn Model, asked: &Asked<'_>, metric: &str) -> Result<Self> {
        let rule = model.info().data.rule().still();
        let sets = kiln_data::open_all(&asked.reference, asked.split, &rule)?;
        let [a, b] = &sets[..] else {
            let reference = &asked.reference;
            return Err(Error::usage(format!("--metrics {metric} needs two sets of known pairs, not `{reference}`")));
        };
        check_pairs(a, b)?;
        // What a run was trained on as label maps is read as such.
        let palette = &model.info().data.palette;
        let a = &if palette.is_empty() { a.clone() } else { label_maps(a.clone(), palette)? };
        let scale = model.scale()?;
        if scale != 1 {
            return Err(Error::usage(format!(
                "--metrics {metric}: this run's translations are {scale} times as large as its pictures, and the known ones are not"
            )));
        }
        let sides = [Prepared::new(a.clone(), rule.clone())?, Prepared::new(b.clone(), rule)?];
        let specs = kiln_data::split_specs(&asked.reference);
        let name = |i: usize| specs.get(i).cloned().unwrap_or_default();
        let n = sides[0].len().min(asked.args.n);
        Ok(Self { sides, names: [name(0), name(1)], n })
    }

    /// A picture of a side, `[1, c, h, w]`.
    fn picture(&self, side: usize, i: usize, asked: &Asked<'_>) -> Result<Tensor<4>> {
        let [c, h, w] = self.sides[side].shape();
        Ok(from_values(self.sides[side].get(i)?.values, [1, c, h, w], asked.device))
    }

    /// Each direction of a run: its name, and the sides it goes from and to.
    fn directions(model: &dyn Model) -> Result<Vec<(&'static str, [usize; 2])>> {
        let way = |name: &'static str| (name, if name == "b2a" { [1, 0] } else { [0, 1] });
        Ok(model.directions()?.into_iter().map(way).collect())
    }

    /// The Fréchet distance of translations to the pictures of the domain they are in, and that of the untouched pictures.
    fn frechet(&self, model: &dyn Model, asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
        let rule = model.info().data.rule();
        let mut out = Vec::new();
        for (direction, [from, to]) in Self::directions(model)? {
            let net =
                FeatureNet::of(asked.args.features.as_deref(), &self.names[to], &rule, asked.common, asked.device)?;
            let [mut made, mut inputs, mut real] = [(); 3].map(|()| Outputs::default());
            for i in 0..self.n {
                let input = self.picture(from, i, asked)?;
                net.apply(translate(model, input.clone(), i, direction)?, &mut made)?;
                net.apply(input, &mut inputs)?;
                net.apply(self.picture(to, i, asked)?, &mut real)?;
            }
            let real = Side::of(&self.names[to], &asked.split.to_string(), real);
            for (name, outputs) in [(direction.to_string(), made), (format!("of_input_{direction}"), inputs)] {
                let fid = Side::of("translations", "", outputs).frechet(&real)?;
                let figure = MetricValue::new(&format!("translation_fid_{name}"), fid, self.n);
                out.push(asked.against(figure).features(&net.name, &net.resize()));
            }
        }
        Ok(out)
    }

    /// The mean perceptual distance of two translations of a picture with other noise (Zhu 2017, *Toward Multimodal Image-to-Image
    /// Translation*, §5.2).
    fn diversity(&self, model: &dyn Model, asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
        let net = asked.perceptual()?;
        let mut out = Vec::new();
        for (direction, [from, _]) in Self::directions(model)? {
            let mut distances = Vec::new();
            for i in 0..self.n {
                let input = self.picture(from, i, asked)?;
                let [first, second] = [i, self.n + i];
                let made = |at: usize| translate(model, input.clone(), at, direction);
                distances.push(f64::from(net.distance(made(first)?, made(second)?)?.into_scalar::<f32>()));
            }
            let figure =
                MetricValue::spread(&format!("translation_diversity_{direction}"), Spread::of(&distances), self.n);
            out.push(asked.against(figure).features(net.name(), "none"));
        }
        Ok(out)
    }

    /// How well a segmenter finds the classes of label maps in what was made of them, and in the real pictures (Park 2019, §4).
    fn segments(&self, model: &dyn Model, asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
        let Some(path) = &asked.args.segment_by else {
            return Err(Error::usage("--metrics translation_segments: name the run of a segmenter by --segment-by"));
        };
        let (judge, _) = open(path, WeightSet::Ema, &asked.common.device)?;
        need(&*judge, Ability::Segment)?;
        let maps = label_maps(self.sides[0].set().clone(), &[])?;
        let classes = maps.palette().len();
        let maps = Prepared::new(maps, self.sides[0].rule().clone())?.with_classes();
        let (theirs, ours) = (judge.info().pictures.shape, self.sides[1].shape());
        if theirs != ours {
            return Err(Error::usage(format!(
                "--segment-by {}: its pictures are {theirs:?} (channels, height, width), and these are {ours:?}",
                path.display()
            )));
        }
        let mut found = [Segmentation::new(classes, None)?, Segmentation::new(classes, None)?];
        for i in 0..self.n {
            let truth = Part::of(&maps, &[i])?.masks.unwrap_or_default();
            let truth: Vec<usize> = truth.into_iter().map(usize::from).collect();
            let made = translate(model, self.picture(0, i, asked)?, i, "a2b")?;
            for (found, picture) in found.iter_mut().zip([made, self.picture(1, i, asked)?]) {
                let logits = judge.segment(picture)?;
                let known = logits.dims()[1];
                if known != classes {
                    return Err(Error::usage(format!(
                        "--segment-by {}: it knows {known} classes, and the maps have {classes}",
                        path.display()
                    )));
                }
                let seen = to_values(logits.argmax(1).float()).into_iter().map(|class| class as usize);
                found.push(&truth, &seen.collect::<Vec<_>>())?;
            }
        }
        let mut out = Vec::new();
        for (suffix, found) in ["a2b", "of_real"].into_iter().zip(found) {
            let figure = |name: &str, value: f64| {
                let figure = MetricValue::new(&format!("translation_{name}_{suffix}"), value, self.n);
                asked.against(figure).features(&judge.info().run, "none")
            };
            out.extend([figure("miou", found.mean_iou()?), figure("accuracy", found.pixel_accuracy()?)]);
        }
        Ok(out)
    }

    /// How far latents of pairs are from each other, and those of pictures that are none, where both domains have one space.
    fn latents(&self, model: &dyn Model, asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
        if self.n < 2 {
            return Err(Error::usage("--metrics pair_latents: give two pairs or more"));
        }
        let latent = |side: usize, i: usize| -> Result<Tensor<2>> {
            let direction = ["a2b", "b2a"][side];
            let request = Request::new(i as u64..i as u64 + 1, 0, asked.device).along(direction);
            model.encode(self.picture(side, i, asked)?, &request)
        };
        let distance = |x: Tensor<2>, y: Tensor<2>| f64::from((x - y).square().sum().sqrt().into_scalar::<f32>());
        let (mut pairs, mut others) = (Vec::new(), Vec::new());
        for i in 0..self.n {
            let own = latent(0, i)?;
            pairs.push(distance(own.clone(), latent(1, i)?));
            others.push(distance(own, latent(1, (i + 1) % self.n)?));
        }
        let figure = |name: &str, found: &[f64]| asked.against(MetricValue::spread(name, Spread::of(found), self.n));
        Ok(vec![figure("latent_distance_of_pairs", &pairs), figure("latent_distance_of_others", &others)])
    }
}

/// Translations beside the known counterparts, and the inputs themselves beside them.
fn of_translations(model: &dyn Model, asked: &Asked<'_>, distances: &[Distance]) -> Result<Vec<MetricValue>> {
    let domains = Domains::open(model, asked, "pairs")?;
    let shape = domains.sides[0].shape();
    let mut out = Vec::new();
    for (direction, [from, to]) in Domains::directions(model)? {
        let mut made = Means::new(asked, distances, &format!("_{direction}"));
        let mut inputs = Means::new(asked, distances, &format!("_of_input_{direction}"));
        for i in 0..domains.n {
            let (input, target) = (domains.picture(from, i, asked)?, domains.sides[to].get(i)?.values);
            made.add(&to_values(translate(model, input.clone(), i, direction)?), &target, shape)?;
            inputs.add(&to_values(input), &target, shape)?;
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
