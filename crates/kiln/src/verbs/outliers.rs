//! `kiln outliers`, and the metric of that name: scores how unlike a run's training data an image is.
//!
//! | score | |
//! |---|---|
//! | `nll` | −log p(x). Fails where smooth images of another kind are more probable than the run's own (Nalisnick 2019a) |
//! | `typicality` | \|−log p(x) − its mean over the run's own images\|, for one image at a time (Nalisnick 2019b, *Detecting Out-of-Distribution Inputs Using Typicality*) |
//! | `complexity` | −log p(x) minus the length of the image as PNG (Serrà et al. 2020, *Input Complexity and Out-of-distribution Detection*, equation 2) |
//! | `ratio` | −log p(x) + log p_background(x), by a second run trained on images in general (Ren et al. 2019, *Likelihood Ratios for Out-of-Distribution Detection*) |
//!
//! All in nats; higher means more of an outlier.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use clap::Args;
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::Split;
use kiln_measure::MetricValue;
use kiln_measure::outliers::auroc;
use kiln_nn::tensor::to_values;
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model, WeightSet};
use serde_json::json;

use crate::Common;
use crate::output::Output;
use crate::verbs::evaluate::chunks;
use crate::verbs::pictures::{in_chunks, read};
use crate::verbs::{need, open};

#[derive(Args)]
pub struct OutliersArgs {
    /// Run folder
    run: PathBuf,
    /// Image, or folder or zip of images
    input: PathBuf,
    /// Second run, trained on images in general: adds the likelihood ratio
    #[arg(long)]
    background: Option<PathBuf>,
    /// Importance samples for each likelihood; 0 uses the bound
    #[arg(long, default_value_t = 0)]
    samples: usize,
    /// Number of the run's own held-out images to compare with
    #[arg(short, default_value_t = 500)]
    n: usize,
    /// Seed of the importance samples
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What scores pictures.
pub struct Scorer<'a> {
    pub model: &'a dyn Model,
    pub background: Option<&'a dyn Model>,
    pub samples: usize,
    pub seed: u64,
    pub quiet: bool,
    /// The mean −log p of the run's own pictures, once known.
    pub typical: f64,
}

/// The scores of one picture, as the table above has them.
#[derive(Clone, Copy)]
pub struct Scores {
    pub nll: f64,
    pub typicality: f64,
    pub complexity: f64,
    pub ratio: Option<f64>,
}

impl Scores {
    /// Name and value of each.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let three = [("nll", self.nll), ("typicality", self.typicality), ("complexity", self.complexity)];
        three.into_iter().chain(self.ratio.map(|r| ("ratio", r)))
    }
}

impl Scorer<'_> {
    /// Scores of pictures `[n, c, h, w]`.
    fn of(&self, images: Tensor<4>) -> Result<Vec<Scores>> {
        let key = Key::new(self.seed).purpose("nll");
        let nats = |model: &dyn Model| Ok::<_, Error>(to_values(model.nll(images.clone(), self.samples, key)?));
        let own = nats(self.model)?;
        let other = self.background.map(nats).transpose()?;
        let each = pictures(self.model.observed(images)?).into_iter().zip(own).enumerate();
        let scores = each.map(|(i, (picture, nll))| {
            let nll = f64::from(nll);
            let length = picture.encode_png(&[])?.len() as f64 * 8.0 * std::f64::consts::LN_2;
            Ok(Scores {
                nll,
                typicality: (nll - self.typical).abs(),
                complexity: nll - length,
                ratio: other.as_ref().map(|o| nll - f64::from(o[i])),
            })
        });
        scores.collect()
    }

    /// Scores of a set's pictures, and the mean −log p of them set as typical if `own`.
    pub fn of_set(&mut self, set: &str, split: Split, n: usize, own: bool) -> Result<Vec<Scores>> {
        let mut all = Vec::new();
        chunks(self.model, (set, split), n, self.quiet, |images, _| {
            all.extend(self.of(images)?);
            Ok(())
        })?;
        if own {
            self.typical = all.iter().map(|s| s.nll).sum::<f64>() / all.len().max(1) as f64;
            all.iter_mut().for_each(|s| s.typicality = (s.nll - self.typical).abs());
        }
        Ok(all)
    }
}

/// AUROC of each score between a run's own held-out pictures and a set.
pub fn measure(scorer: &mut Scorer<'_>, (set, split): (&str, Split), n: usize) -> Result<Vec<MetricValue>> {
    let own_set = scorer.model.info().data.set.clone();
    let own = scorer.of_set(&own_set, Split::Test, n, true)?;
    let other = scorer.of_set(set, split, n, false)?;
    let Some(first) = own.first() else {
        return Err(Error::usage(format!("--metrics outliers: {own_set} has no held-out pictures")));
    };
    let column =
        |of: &[Scores], at: usize| of.iter().filter_map(|s| s.named().nth(at)).map(|s| s.1).collect::<Vec<_>>();
    let names = first.named().enumerate();
    names
        .map(|(at, (name, _))| {
            let value = auroc(&column(&own, at), &column(&other, at))?;
            Ok(MetricValue::new(&format!("auroc_{name}"), value, other.len()).against(set, &split.to_string()))
        })
        .collect()
}

pub fn run(args: &OutliersArgs, common: &Common, out: &Output) -> Result<()> {
    let (model, device) = open(&args.run, WeightSet::Ema, &common.device)?;
    need(&*model, Ability::Likelihood)?;
    let background = args.background.as_deref().map(|run| background(run, &*model, common)).transpose()?;
    let (samples, seed) = (args.samples, args.seed);
    let mut scorer =
        Scorer { model: &*model, background: background.as_deref(), samples, seed, quiet: common.quiet, typical: 0.0 };
    let info = model.info();
    let own = scorer.of_set(&info.data.set, Split::Test, args.n, true)?;
    if own.is_empty() {
        return Err(Error::usage(format!("{} has no held-out pictures to compare with", info.data.set)));
    }
    let input = read(&args.input, info)?;
    let mut rows = Vec::new();
    in_chunks(&input, info.pictures.shape, &device, common.quiet, |chunk, images| {
        let scores = scorer.of(images)?;
        rows.extend(chunk.iter().map(|s| s.name.clone()).zip(scores));
        Ok(())
    })?;
    // The share of the run's own pictures that are at least as foreign: small is suspicious.
    let tail = |at: usize, value: f64| {
        let beyond = own.iter().filter(|s| s.named().nth(at).is_some_and(|(_, own)| own >= value)).count();
        (beyond as f64 + 1.0) / (own.len() as f64 + 1.0)
    };
    for (name, scores) in &rows {
        let columns: Vec<(&str, f64, f64)> =
            scores.named().enumerate().map(|(at, (score, value))| (score, value, tail(at, value))).collect();
        let object = columns.iter().fold(json!({"name": name}), |mut object, (score, value, p)| {
            object[*score] = json!({"nats": value, "p": p});
            object
        });
        let text = || {
            let each = columns.iter().map(|(score, value, p)| format!("{score} {value:.1} (p {p:.3})"));
            format!("{name}: {}", each.collect::<Vec<_>>().join(", "))
        };
        out.say(text, &object);
    }
    Ok(())
}

/// A run whose likelihood another's is compared with.
pub fn background(run: &Path, model: &dyn Model, common: &Common) -> Result<Box<dyn Model>> {
    let (other, _) = open(run, WeightSet::Ema, &common.device)?;
    need(&*other, Ability::Likelihood)?;
    let (ours, theirs) = (model.info().pictures.shape, other.info().pictures.shape);
    if ours != theirs {
        return Err(Error::usage(format!(
            "--background {}: its pictures are {theirs:?} (channels, height, width), the run's {ours:?}",
            run.display()
        )));
    }
    Ok(other)
}
