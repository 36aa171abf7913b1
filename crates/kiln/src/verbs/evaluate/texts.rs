//! Metrics of a run that matches texts and images.

use kiln_core::{Result, refuse_if};
use kiln_data::{DataKind, Prepared};
use kiln_measure::MetricValue;
use kiln_measure::classes::{Confusion, wilson};
use kiln_nn::tensor::to_values;
use kiln_train::{Ability, Model};

use super::{Asked, chunks_of};
use crate::feature_cache::argmax;
use crate::verbs::pictures::rule;
use crate::verbs::texts::{Matcher, prompts};

/// Ranks within which a counterpart counts as found.
const RANKS: [usize; 2] = [1, 5];

/// The reference at the run's size: often a set that it never saw, with images of other sizes.
fn reference(asked: &Asked<'_>, model: &dyn Model) -> Result<Prepared> {
    let rule = rule(model.info());
    Prepared::new(kiln_data::open(&asked.reference, asked.split, &rule)?, rule)
}

/// How often an image's own caption is among the best of all captions (`image_to_text_r1`, `_r5`), and the image among the best for its
/// caption (Radford 2021, table 13). Equal captions and images of equal captions are as good as their own.
pub fn retrieval(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("retrieval", Ability::MatchTexts)?;
    let matcher = Matcher::of(model)?;
    let set = reference(asked, model)?;
    refuse_if!(
        !set.set().kinds().contains(&DataKind::Captioned),
        "{} has no captions to measure retrieval with",
        asked.reference
    );
    let mut places = Vec::new();
    chunks_of(&set, asked.args.n, true, asked.device, |_, _, chunk| {
        places.extend(chunk.iter().copied());
        Ok(())
    })?;
    let captions = places.iter().map(|&place| Ok(set.set().caption(place)?.unwrap_or_default()));
    let captions = captions.collect::<Result<Vec<String>>>()?;
    let texts = matcher.texts.rows(&captions)?;
    let n = captions.len();
    refuse_if!(n < 2, "{} has {n} images; give at least 2", asked.reference);
    let mut scores = Vec::with_capacity(n * n);
    chunks_of(&set, asked.args.n, asked.common.quiet, asked.device, |images, _, _| {
        scores.extend(to_values(model.match_texts(images, &texts)?));
        Ok(())
    })?;
    // Those before the own one, but for equals of it.
    let rank = |own: usize, at: &dyn Fn(usize) -> f32| {
        let mine = at(own);
        (0..n).filter(|&other| at(other) > mine && captions[other] != captions[own]).count()
    };
    let of_images: Vec<usize> = (0..n).map(|i| rank(i, &|text| scores[i * n + text])).collect();
    let of_texts: Vec<usize> = (0..n).map(|i| rank(i, &|image| scores[image * n + i])).collect();
    let mut figures = Vec::new();
    for (name, ranks) in [("image_to_text", &of_images), ("text_to_image", &of_texts)] {
        for within in RANKS {
            let found = ranks.iter().filter(|rank| **rank < within).count();
            let figure = MetricValue::new(&format!("{name}_r{within}"), found as f64 / n as f64, n);
            figures.push(asked.against(figure.within(wilson(found, n))));
        }
    }
    Ok(figures)
}

/// The share of images whose class has the name that matches best, in the templates (Radford 2021, §3.1).
pub fn zero_shot(asked: &Asked<'_>) -> Result<MetricValue> {
    let model = asked.run("zero_shot", Ability::MatchTexts)?;
    let matcher = Matcher::of(model)?;
    let set = reference(asked, model)?;
    let labels: Vec<String> = set.set().classes().iter().map(|class| class.to_lowercase()).collect();
    refuse_if!(labels.len() < 2, "{} has no classes to tell apart by their names", asked.reference);
    let templates = &asked.args.template.template;
    let texts = matcher.texts.tokens("class", &prompts(&labels, templates)?)?;
    let (mut truth, mut predicted) = (Vec::new(), Vec::new());
    let n = chunks_of(&set, asked.args.n, asked.common.quiet, asked.device, |images, known, _| {
        let scores = matcher.scores(images, &texts, templates.len())?;
        predicted.extend(to_values(scores).chunks(labels.len()).map(argmax));
        truth.extend(known.iter().map(|&label| label as usize));
        Ok(())
    })?;
    refuse_if!(truth.len() != n, "{} has images without a class", asked.reference);
    let confusion = Confusion::new(labels.len(), &truth, &predicted)?;
    let figure = MetricValue::new("zero_shot_accuracy", confusion.accuracy(), n);
    Ok(asked.against(figure.within(wilson(confusion.right(), n))))
}
