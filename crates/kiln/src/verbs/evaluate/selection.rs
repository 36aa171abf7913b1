//! `--metrics selection`: how well a run may do on a target without labels, judged without them.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::{Split, split_specs};
use kiln_measure::{Features, MetricValue, selection};
use kiln_nn::tensor::to_values;
use kiln_train::Ability;

use super::{Asked, chunks};

/// What a run says of pictures.
#[derive(Default)]
struct Seen {
    probabilities: Vec<f32>,
    features: Vec<f32>,
    labels: Vec<usize>,
    /// Classes, and features of a picture.
    widths: [usize; 2],
}

/// Cross-entropy on held-out source pictures, plain, weighted by how much like the target they are, and with deep embedded validation;
/// entropy and soft neighbourhood density of the predictions on the target.
pub fn selection(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("selection", Ability::Classify)?;
    asked.run("selection", Ability::Represent)?;
    let sets = split_specs(&asked.reference);
    let [source, target] = &sets[..] else {
        return Err(Error::usage(format!("--metrics selection needs two domains, A,B; not `{}`", asked.reference)));
    };
    let look = |set: &str, split: Split, of_source: bool| -> Result<Seen> {
        let mut seen = Seen::default();
        chunks(model, (set, split), asked.args.n, asked.common.quiet, |images: Tensor<4>, labels| {
            let (logits, features) = match of_source {
                true => (model.classify_source(images.clone())?, model.represent_source(images)?),
                false => (model.classify(images.clone())?, model.represent(images)?),
            };
            seen.widths = [logits.dims()[1], features.dims()[1]];
            seen.probabilities.extend(to_values(softmax(logits, 1)));
            seen.features.extend(to_values(features));
            seen.labels.extend(labels.iter().map(|&label| label as usize));
            Ok(())
        })?;
        Ok(seen)
    };
    let trained = look(source, Split::Train, true)?;
    let held_out = look(source, Split::Test, true)?;
    let unlabelled = look(target, asked.split, false)?;
    let [classes, width] = held_out.widths;
    refuse_if!(
        held_out.labels.len() * classes != held_out.probabilities.len(),
        "{source} has no labels, by which --metrics selection judges"
    );
    let losses =
        selection::cross_entropies(Features::new("the source", &held_out.probabilities, classes)?, &held_out.labels)?;
    let ratios = selection::density_ratios(
        Features::new("the source", &trained.features, width)?,
        Features::new("the target", &unlabelled.features, width)?,
        Features::new("the held-out source", &held_out.features, width)?,
    )?;
    let predictions = Features::new("the target", &unlabelled.probabilities, classes)?;
    let density = selection::soft_neighbourhood_density(predictions, selection::TEMPERATURE)?;
    let mean = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let on_target = |name: &str, value: f64| {
        MetricValue::new(name, value, predictions.n()).against(target, &asked.split.to_string())
    };
    let on_source = |name: &str, value: f64| MetricValue::new(name, value, losses.len()).against(source, "test");
    Ok(vec![
        on_source("source_risk", mean),
        on_source("weighted_risk", selection::weighted_risk(&ratios, &losses)),
        on_source("deep_embedded_risk", selection::deep_embedded_risk(&ratios, &losses)),
        on_target("entropy", selection::entropy(predictions)),
        on_target("neighbourhood_density", density),
    ])
}
