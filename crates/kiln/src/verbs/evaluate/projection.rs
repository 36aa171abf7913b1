//! Does a generator tell its own pictures from others? It finds its own again (Karras 2020, section 5).

use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_measure::MetricValue;
use kiln_measure::outliers::auroc;
use kiln_nn::tensor::to_values;
use kiln_train::{Ability, Progress, Request};
use toml::Table;

use super::Asked;
use crate::verbs::perceptual;

/// Pictures that are searched for at a time.
const CHUNK: usize = 10;

/// The perceptual distance of samples, and of as many pictures of the reference, to the nearest that the run makes; and the share of
/// pairs of one and the other in which the sample is nearer (the area under the ROC curve). `--steps` is the length of the search;
/// other flags of the sampler are of the samples.
pub fn measure(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("projection", Ability::Project)?;
    let (n, device) = (asked.args.n, asked.device);
    let net = match asked.args.perceptual.as_str() {
        perceptual::PIXELS => None,
        spec => Some(perceptual::open(spec, device)?),
    };
    let mut drawn = asked.args.sampler.table()?;
    let search: Table = drawn.remove("steps").into_iter().map(|steps| ("steps".to_string(), steps)).collect();
    let mut progress = (!asked.common.quiet).then(|| Progress::new("projecting", "pictures", 0, 2 * n as u64));
    let mut done = 0;
    let mut distances = |images: Tensor<4>| -> Result<Vec<f64>> {
        let mut found = Vec::new();
        for start in (0..images.dims()[0]).step_by(CHUNK) {
            let count = CHUNK.min(images.dims()[0] - start);
            let mut request = Request::new(done..done + count as u64, asked.args.seed, device);
            request.sampler = search.clone();
            let distance = |a, b| match &net {
                Some(net) => net.distance(a, b),
                None => Ok(perceptual::pixels(a, b)),
            };
            let nearest = model.project(images.clone().narrow(0, start, count), &distance, &request)?;
            found.extend(to_values(nearest.distances).into_iter().map(f64::from));
            done += count as u64;
            if let Some(progress) = &mut progress {
                progress.update(done, String::new);
            }
        }
        Ok(found)
    };
    let mut own = Vec::with_capacity(n);
    for start in (0..n).step_by(CHUNK) {
        let range = start as u64..(start + CHUNK).min(n) as u64;
        let request = Request { sampler: drawn.clone(), ..Request::new(range, asked.args.seed, device) };
        own.extend(distances(model.generate(&request)?)?);
    }
    let mut real = Vec::with_capacity(n);
    asked.chunks(model, &asked.reference, |images, _| {
        real.extend(distances(images)?);
        Ok(())
    })?;
    if let Some(progress) = &progress {
        progress.finish();
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let name = net.as_ref().map_or(perceptual::PIXELS, |net| net.name());
    let of = |figure: &str, value: f64| asked.against(MetricValue::new(figure, value, n).features(name, "none"));
    Ok(vec![
        of("projection_generated", mean(&own)),
        of("projection_real", mean(&real)),
        of("auroc_projection", auroc(&own, &real)?),
    ])
}
