//! Do samples show the map that `--segmenter RUN --guide mask:FILE` asks for? (Bansal 2023, section 4.2)

use std::path::Path;

use kiln_core::{Error, Result, refuse_if};
use kiln_data::Split;
use kiln_measure::MetricValue;
use kiln_measure::segmentation::Segmentation;
use kiln_nn::tensor::to_values;
use kiln_systems::segmenter::SegmenterGuide;
use kiln_train::{Ability, Request, WeightSet};

use super::Asked;
use crate::judge;
use crate::verbs::pictures::one_picture;
use crate::verbs::sample::generate;
use crate::verbs::{need, open};

/// The maps that a segmenter sees in a run's samples, against those asked for: the share of pixels with the right class, and
/// the mean intersection over union. The segmenter is one that Kiln trains once on the reference set, or that of
/// `--features run:DIR`: what guides should not judge.
pub fn segments(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("guided_segments", Ability::Generate)?;
    let (args, by) = (asked.args, &asked.args.sampler);
    let mask = by.guide.as_deref().and_then(|guide| guide.strip_prefix("mask:"));
    let (Some(mask), Some(guide)) = (mask, &by.segmenter) else {
        return Err(Error::usage(
            "--metrics guided_segments: no map is asked for; guide by --segmenter RUN --guide mask:FILE",
        ));
    };
    let (name, judge) = match args.features.as_deref().map(|features| (features, features.strip_prefix("run:"))) {
        None => {
            let set = kiln_data::open(&asked.reference, Split::Train, &model.info().data.rule())?;
            let (run, judge) = judge::of("segmenter", set, asked.common, asked.device)?;
            (run.root().display().to_string(), judge)
        }
        Some((_, Some(run))) => (run.to_string(), open(Path::new(run), WeightSet::Ema, &asked.common.device)?.0),
        Some((other, None)) => {
            return Err(Error::usage(format!("--features {other}: guided_segments takes run:DIR, a segmenter")));
        }
    };
    need(&*judge, Ability::Segment)?;
    refuse_if!(
        Path::new(&name) == guide,
        "--features run:{name}: it guides, and so cannot judge; name another segmenter"
    );
    let judge = SegmenterGuide::new(judge, one_picture(Path::new(mask), model.info())?)?;
    let mut request = Request::new(0..args.n as u64, args.seed, asked.device);
    request.sampler = by.table()?;
    request.guides = by.guides(model.info(), None, asked.common)?;
    let mut found = Segmentation::new(judge.classes().len() + 1, None)?;
    generate(model, args.n, &request, asked.common.quiet, &mut |start, images| {
        let part = request.narrow(start as usize, images.dims()[0]);
        let host = |map| to_values::<3>(map).into_iter().map(|class| class as usize).collect::<Vec<_>>();
        found.push(&host(judge.map(&part).float()), &host(judge.seen(images)?.float()))
    })?;
    let of = |name: &str, value: f64| asked.against(MetricValue::new(name, value, args.n));
    Ok(vec![of("guided_pixel_accuracy", found.pixel_accuracy()?), of("guided_miou", found.mean_iou()?)])
}
