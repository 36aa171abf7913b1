//! `kiln reconstruct` of a run that only generates: the nearest pictures that it makes, found by descent, with how far they are.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use kiln_core::Result;
use kiln_features::Lpips;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use kiln_train::{ChainWatch, Model, Progress, Request};
use serde_json::json;
use toml::Table;

use crate::Common;
use crate::output::Output;
use crate::verbs::perceptual;
use crate::verbs::pictures::{Results, read};

/// Writes the nearest picture of each.
pub fn project(
    (input, output): (&Path, &Path),
    sampler: Table,
    spec: &str,
    model: &dyn Model,
    common: &Common,
    out: &Output,
) -> Result<()> {
    let info = model.info();
    let net = match spec {
        perceptual::PIXELS => None,
        spec => Some(perceptual::open(spec, &info.device)?),
    };
    let name = net.as_ref().map_or(perceptual::PIXELS, Lpips::name);
    let samples = read(input, info)?;
    let mut results = Results::of(input, output, samples.len(), info)?;
    let [c, h, w] = info.pictures.shape;
    for (i, sample) in samples.iter().enumerate() {
        let images = from_values(sample.values.clone(), [1, c, h, w], &info.device);
        let mut request = Request::new(i as u64..i as u64 + 1, 0, &info.device);
        request.sampler = sampler.clone();
        let progress = (!common.quiet).then(|| Rc::new(RefCell::new(None::<Progress>)));
        if let Some(progress) = progress.clone() {
            let (file, count) = (sample.name.clone(), samples.len());
            request.watch = Some(ChainWatch(Rc::new(move |step, of, _| {
                let mut slot = progress.borrow_mut();
                let bar = slot.get_or_insert_with(|| Progress::new("projecting", "steps", 0, of.unwrap_or(0) as u64));
                bar.update(step as u64 + 1, || format!("{file} ({} of {count})", i + 1));
            })));
        }
        let distance = |a, b| match &net {
            Some(net) => net.distance(a, b),
            None => Ok(perceptual::pixels(a, b)),
        };
        let found = model.project(images, &distance, &request)?;
        if let Some(bar) = progress.and_then(|slot| slot.borrow_mut().take()) {
            bar.finish();
        }
        let distance = to_values(found.distances)[0];
        for picture in pictures(found.images) {
            results.write(&sample.name, None, &picture)?;
        }
        let object = json!({"name": sample.name, "distance": distance, "perceptual": name});
        out.say(|| format!("{}: {name} {distance:.4}", sample.name), &object);
    }
    results.say(out);
    Ok(())
}
