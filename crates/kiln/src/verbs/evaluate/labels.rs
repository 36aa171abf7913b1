//! Metrics of a run's classes and features on labelled images.

use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::{DataKind, DataSet, Part, Split, contact_sheet, split_specs};
use kiln_measure::classes::{Confusion, Groups, wilson};
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::segmentation::Segmentation;
use kiln_measure::svm::LinearSvm;
use kiln_measure::{Features, MetricValue, adaptation};
use kiln_nn::tensor::{from_indices, from_values, to_values};
use kiln_train::preview::{class_maps, pictures};
use kiln_train::{Ability, Model};

use super::latents::WIDTHS;
use super::{Asked, chunks, prepared};
use crate::feature_cache::argmax;

/// C of the linear SVM. Small, since there may be as many features as pictures.
const SVM_C: f64 = 1e-3;

/// Images that a picture of predictions shows.
const SHOWN: usize = 8;

/// The share of right classes, with Wilson's interval.
pub fn accuracy(asked: &Asked<'_>) -> Result<MetricValue> {
    let model = asked.run("accuracy", Ability::Classify)?;
    // A run on source and target is judged on the target, the last set it names.
    let set = &split_specs(&asked.reference).pop().unwrap_or_default();
    let (mut truth, mut predicted) = (Vec::new(), Vec::new());
    let mut classes = 0;
    let n = asked.labelled(model, set, |images, labels| {
        let logits = model.classify(images)?;
        classes = logits.dims()[1];
        let values = to_values(logits);
        predicted.extend(values.chunks(classes).map(argmax));
        truth.extend(labels.iter().map(|&l| l as usize));
        Ok(())
    })?;
    if truth.len() != n {
        return Err(Error::usage(format!("{set} has no labels to measure accuracy with")));
    }
    let confusion = Confusion::new(classes, &truth, &predicted)?;
    let measure = MetricValue::new("accuracy", confusion.accuracy(), n).within(wilson(confusion.right(), n));
    Ok(measure.against(set, &asked.split.to_string()))
}

/// How well the groups that a run has found without labels are the classes: the share of pictures of another class than most
/// of their group (Chen 2016, section 7.2), and the normalised mutual information 2·I / (H + H).
pub fn clusters(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("clusters", Ability::Cluster)?;
    let (mut truth, mut found) = (Vec::new(), Vec::new());
    let n = asked.chunks(model, &asked.reference, |images, labels| {
        let logits = model.cluster(images)?;
        let groups = logits.dims()[1];
        found.extend(to_values(logits).chunks(groups).map(argmax));
        truth.extend(labels.iter().map(|&l| l as usize));
        Ok(())
    })?;
    refuse_if!(truth.len() != n, "{} has no labels to compare groups with", asked.reference);
    let groups = Groups::new(&truth, &found);
    let error = n - groups.right();
    Ok(vec![
        asked.against(MetricValue::new("cluster_error", error as f64 / n as f64, n).within(wilson(error, n))),
        asked.against(MetricValue::new("cluster_nmi", groups.mutual_information(), n)),
    ])
}

/// Refuses a set whose classes are not the run's: a label would mean one thing to the set and another to the run.
///
/// # Errors
/// A usage error that names both lists.
pub fn check_classes(model: &dyn Model, set: &dyn DataSet) -> Result<()> {
    let (known, found) = (&model.info().pictures.classes, set.classes());
    let same = known.is_empty() || found.is_empty() || known == found;
    refuse_if!(
        !same,
        "{}: its classes ({}) are not those that {} was trained on ({})",
        set.name(),
        found.join(", "),
        model.info().run,
        known.join(", ")
    );
    Ok(())
}

/// How many pixels have their class, and how the regions overlap.
pub fn segments(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let model = asked.run("segments", Ability::Segment)?;
    let values = &model.info().data.mask_values;
    let (found, n) = if values.is_empty() { by_labels(asked, model)? } else { by_masks(asked, model, values)? };
    let of = |name: &str, value: f64| asked.against(MetricValue::new(name, value, n));
    Ok(vec![of("pixel_accuracy", found.pixel_accuracy()?), of("miou", found.mean_iou()?)])
}

/// The class of each pixel that a run finds, row by row.
fn segmented(model: &dyn Model, images: Tensor<4>) -> Result<Vec<usize>> {
    let classes = model.segment(images)?.argmax(1);
    Ok(to_values(classes.float()).into_iter().map(|class| class as usize).collect())
}

/// Of a run that learned of the labels of pictures on a ground.
fn by_labels(asked: &Asked<'_>, model: &dyn Model) -> Result<(Segmentation, usize)> {
    let mut found = Segmentation::new(model.info().pictures.classes.len() + 1, None)?;
    let n = asked.labelled(model, &asked.reference, |images, labels| {
        if labels.len() != images.dims()[0] {
            return Err(Error::usage(format!("{} has no labels to measure segments with", asked.reference)));
        }
        let truth = model.segment_map(images.clone(), from_indices(labels, asked.device))?;
        let truth: Vec<usize> = to_values(truth.float()).into_iter().map(|class| class as usize).collect();
        found.push(&truth, &segmented(model, images)?)
    })?;
    Ok((found, n))
}

/// Of a run that learned of masks with these grey values.
fn by_masks(asked: &Asked<'_>, model: &dyn Model, values: &[u8]) -> Result<(Segmentation, usize)> {
    // A run on source and target is judged on the target, the last set it names.
    let name = split_specs(&asked.reference).pop().unwrap_or_default();
    let set = prepared(model, &name, asked.split)?;
    if !set.set().kinds().contains(&DataKind::Masked) {
        return Err(Error::usage(format!("{name} has no masks to measure segments with")));
    }
    let set = set.with_masks(values.to_vec());
    let (mut found, n) = (Segmentation::new(values.len(), None)?, set.len().min(asked.args.n));
    let mut rows = [const { Vec::new() }; 3];
    for i in 0..n {
        let Part { shape, values, masks, .. } = Part::of(&set, &[i])?;
        let truth: Vec<usize> = masks.unwrap_or_default().into_iter().map(usize::from).collect();
        let images: Tensor<4> = from_values(values, shape, asked.device);
        let predicted = segmented(model, images.clone())?;
        if i < SHOWN && asked.args.predictions.is_some() {
            let size = [shape[2], shape[3]];
            rows[0].extend(pictures(images));
            rows[1].extend(class_maps(&truth, size));
            rows[2].extend(class_maps(&predicted, size));
        }
        found.push(&truth, &predicted)?;
    }
    if let Some(path) = &asked.args.predictions {
        contact_sheet(&rows.concat(), n.min(SHOWN), 1)?.write_png(path, &[("run", model.info().run.as_str())])?;
    }
    Ok((found, n))
}

/// Accuracy on the test part of a linear SVM that learned a few labels on the run's features
/// (Radford 2016, §5.1), beside one that learned on the pixels.
pub fn svm(asked: &Asked<'_>) -> Result<Vec<MetricValue>> {
    let (model, args, device) = (asked.run("svm", Ability::Represent)?, asked.args, asked.device);
    let reference = asked.reference.as_str();
    let classes = kiln_data::open(reference, Split::Train, &model.info().data.rule())?.classes().len();
    if classes < 2 {
        return Err(Error::usage(format!("--metrics svm needs labels, and {reference} has none")));
    }
    /// Features and pixels of labelled pictures.
    #[derive(Default)]
    struct Seen {
        tables: [Vec<f32>; 2],
        labels: Vec<usize>,
    }
    let look = |split: Split, n: usize, per_class: usize| -> Result<Seen> {
        let (mut seen, mut left) = (Seen::default(), vec![per_class; classes]);
        chunks(model, (reference, split), n, asked.common.quiet, |images, labels| {
            let wanted: Vec<u32> = (0..labels.len())
                .filter(|&i| {
                    let left = &mut left[labels[i] as usize];
                    let take = *left > 0;
                    *left -= usize::from(take);
                    take
                })
                .map(|i| i as u32)
                .collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let images = images.select(0, kiln_nn::tensor::from_indices(&wanted, device));
            seen.labels.extend(wanted.iter().map(|&i| labels[i as usize] as usize));
            seen.tables[0].extend(to_values(model.represent(images.clone())?));
            seen.tables[1].extend(to_values(images));
            Ok(())
        })?;
        Ok(seen)
    };
    let train = look(Split::Train, usize::MAX, args.labels_per_class)?;
    let test = look(Split::Test, args.n, usize::MAX)?;
    let mut out = Vec::new();
    for (name, train_on, test_on) in [
        ("svm_accuracy", &train.tables[0], &test.tables[0]),
        ("svm_accuracy_of_pixels", &train.tables[1], &test.tables[1]),
    ] {
        let width = train_on.len() / train.labels.len().max(1);
        let svm = LinearSvm::fit(Features::new(reference, train_on, width)?, &train.labels, classes, SVM_C, 1e-3)?;
        let predicted = svm.predict(Features::new(reference, test_on, width)?)?;
        let confusion = Confusion::new(classes, &test.labels, &predicted)?;
        let (right, n) = (confusion.right(), confusion.n());
        out.push(MetricValue::new(name, confusion.accuracy(), n).within(wilson(right, n)).against(reference, "test"));
    }
    Ok(out)
}

/// How well a plane tells the two domains of a run apart in its features, on pictures the plane has not
/// seen (Ben-David 2007): 2 for domains that are apart, 0 for mixed ones.
pub fn a_distance(asked: &Asked<'_>) -> Result<MetricValue> {
    let domains = Represented::of("a_distance", asked)?;
    let key = Key::new(asked.args.seed).purpose("a_distance");
    let [source, target] = domains.features()?;
    let found = adaptation::proxy_a_distance(source, target, SVM_C, key)?;
    Ok(asked.against(MetricValue::new("a_distance", found.distance, found.n)))
}

/// How far the two domains of a run are apart in its features: the unbiased MMD² with Gaussian kernels around the median
/// distance (Gretton 2012).
pub fn mmd(asked: &Asked<'_>) -> Result<MetricValue> {
    let domains = Represented::of("mmd", asked)?;
    let [source, target] = domains.features()?;
    let unit = median_distance(source, target)?;
    let found = TwoSamples::new(source, target, &WIDTHS.map(|w| w * unit))?.mmd();
    Ok(asked.against(MetricValue::new("mmd", found.unbiased, source.n() + target.n())))
}

/// Both domains of a run in its features.
struct Represented {
    names: [String; 2],
    tables: [Vec<f32>; 2],
    width: usize,
}

impl Represented {
    fn of(metric: &str, asked: &Asked<'_>) -> Result<Self> {
        let model = asked.run(metric, Ability::Represent)?;
        let names: [String; 2] = split_specs(&asked.reference).try_into().map_err(|_| {
            Error::usage(format!("--metrics {metric} needs two domains, A,B; not `{}`", asked.reference))
        })?;
        let (mut tables, mut width) = ([Vec::new(), Vec::new()], 0);
        for (domain, (name, table)) in names.iter().zip(&mut tables).enumerate() {
            asked.chunks(model, name, |images, _| {
                let features = if domain == 0 { model.represent_source(images)? } else { model.represent(images)? };
                width = features.dims()[1];
                table.extend(to_values(features));
                Ok(())
            })?;
        }
        Ok(Self { names, tables, width })
    }

    fn features(&self) -> Result<[Features<'_>; 2]> {
        let of = |i: usize| Features::new(&self.names[i], &self.tables[i], self.width);
        Ok([of(0)?, of(1)?])
    }
}
