//! `shallow_table DOMAINS SEEDS SAMPLES STANDARDIZE [FEATURES…]`: the accuracies of every shallow method on six transfers
//! among three sets, as Markdown tables, one for each kind of features (`pixels`, `descriptors`, `mobilenetv2`,
//! `efficientnet-lite0`; all by default).
//!
//! DOMAINS is `digits` (`mnist`, `digits8`, `mnistm`) or `objects` (`objects:noto`, `objects:twemoji`, `objects:fluent`).
//! STANDARDIZE is `domain` or `none`. Each seed chooses SAMPLES pictures of the train part of each set to learn from.
//! Accuracies are of at most 1,000 pictures of the target's test part by the nearest labelled point; with more than one
//! seed their mean and standard deviation. Needs `kiln data fetch` of the sets and of `weights:mobilenetv2` and
//! `weights:efficientnet-lite0`.

use std::time::Instant;

use burn::tensor::Device;
use faer::Mat;
use kiln_core::random::Key;
use kiln_core::{Error, Result, tell};
use kiln_data::{PictureRule, Prepared, Resize, Split};
use kiln_nn::tensor::from_values;
use kiln_systems::adaptation::shallow::algebra::{in_order, nearest};
use kiln_systems::adaptation::shallow::domains::Domains;
use kiln_systems::adaptation::shallow::features::{Extractor, FeatureName};
use kiln_systems::adaptation::shallow::map::Of;
use kiln_systems::adaptation::shallow::method::{KernelName, Method, MethodConfig};
use kiln_systems::adaptation::shallow::scale::{Scale, Standardize};

/// Three sets of the same classes.
struct Domains3 {
    sets: [&'static str; 3],
    side: usize,
    classes: usize,
    /// Pixels and descriptors are of this many channels; networks see three.
    channels: usize,
}

const DIGITS: Domains3 = Domains3 { sets: ["mnist", "digits8", "mnistm"], side: 28, classes: 10, channels: 1 };
const OBJECTS: Domains3 =
    Domains3 { sets: ["objects:noto", "objects:twemoji", "objects:fluent"], side: 32, classes: 8, channels: 3 };

const TRANSFERS: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
const METHODS: [(&str, Method, KernelName); 12] = [
    ("none", Method::None, KernelName::Primal),
    ("SA", Method::Sa, KernelName::Primal),
    ("SDA", Method::Sda, KernelName::Primal),
    ("GFK", Method::Gfk, KernelName::Primal),
    ("TCA", Method::Tca, KernelName::Primal),
    ("JDA", Method::Jda, KernelName::Primal),
    ("TJM", Method::Tjm, KernelName::Linear),
    ("SCA", Method::Sca, KernelName::Rbf),
    ("OTGL", Method::Otgl, KernelName::Primal),
    ("JGSA primal", Method::Jgsa, KernelName::Primal),
    ("JGSA linear", Method::Jgsa, KernelName::Linear),
    ("JGSA RBF", Method::Jgsa, KernelName::Rbf),
];
const WORDS: usize = 200;
const TEST: usize = 1_000;
/// Descriptors among which words are found.
const DESCRIPTORS: usize = 10_000;

/// Pictures of a set as values, with their classes.
struct Pictures {
    shape: [usize; 3],
    values: Vec<f32>,
    labels: Vec<usize>,
}

impl Pictures {
    fn of(set: &str, split: Split, n: usize, side: usize, channels: usize) -> Result<Self> {
        let rule = PictureRule { size: side.into(), resize: Resize::Stretch, channels, ..PictureRule::default() };
        let set = Prepared::new(kiln_data::open(set, split, &rule)?, rule)?;
        let (key, len) = (Key::new(0).purpose("table"), set.len() as u64);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for i in 0..n.min(set.len()) {
            let sample = set.get(key.permute(i as u64, len) as usize)?;
            values.extend(sample.values);
            labels.push(sample.label.ok_or_else(|| Error::new("a picture has no class"))? as usize);
        }
        Ok(Self { shape: set.shape(), values, labels })
    }

    fn images(&self, device: &Device) -> burn::tensor::Tensor<4> {
        let [c, h, w] = self.shape;
        from_values(self.values.clone(), [self.labels.len(), c, h, w], device)
    }
}

/// Some rows of a table of features, and their classes.
fn rows(table: &[f32], width: usize, places: &[usize]) -> Mat<f64> {
    Mat::from_fn(places.len(), width, |i, j| f64::from(table[places[i] * width + j]))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::usage("shallow_table digits|objects SEEDS SAMPLES domain|none [FEATURES…]");
    let number = |i: usize| arguments.get(i).and_then(|text| text.parse::<usize>().ok()).ok_or_else(usage);
    let domains = match arguments.first().map(String::as_str) {
        Some("digits") => DIGITS,
        Some("objects") => OBJECTS,
        _ => return Err(usage()),
    };
    let (seeds, samples) = (number(1)?, number(2)?);
    let how = match arguments.get(3).map(String::as_str) {
        Some("domain") => Standardize::Domain,
        Some("none") => Standardize::None,
        _ => return Err(usage()),
    };
    for (name, feature) in [
        ("pixels", FeatureName::Pixels),
        ("descriptors", FeatureName::Descriptors),
        ("mobilenetv2", FeatureName::MobileNetV2),
        ("efficientnet-lite0", FeatureName::EfficientNetLite0),
    ] {
        if arguments.len() == 4 || arguments[4..].iter().any(|asked| asked == name) {
            table(&domains, (name, feature), seeds as u64, samples, how)?;
        }
    }
    Ok(())
}

fn table(
    domains3: &Domains3,
    (name, feature): (&str, FeatureName),
    seeds: u64,
    samples: usize,
    how: Standardize,
) -> Result<()> {
    let (device, start) = (Device::flex(), Instant::now());
    let Domains3 { sets, side, classes, .. } = *domains3;
    let channels = if feature.network().is_some() { 3 } else { domains3.channels };
    // A few more than one seed needs, so that seeds differ.
    let pool = if seeds > 1 { 2 * samples } else { samples };
    let of = |split: Split, n: usize| {
        sets.into_iter().map(|set| Pictures::of(set, split, n, side, channels)).collect::<Result<Vec<_>>>()
    };
    let (train, test) = (of(Split::Train, pool)?, of(Split::Test, TEST)?);
    let extractor = Extractor::new(feature, train[0].shape, WORDS, 4);
    let width = extractor.width();
    let column = |(s, t): (usize, usize)| {
        let short = |set: &'static str| set.split_once(':').map_or(set, |(_, vendor)| vendor);
        format!("{} → {}", short(sets[s]), short(sets[t]))
    };
    println!("| {name} | {} | mean |", TRANSFERS.map(column).join(" | "));
    println!("|---|---|---|---|---|---|---|---|");
    // What does not depend on the other domain is seen once.
    let all_of = |sets: &[Pictures]| {
        sets.iter().map(|set| extractor.features(set.images(&device), &[])).collect::<Result<Vec<_>>>()
    };
    let once: Option<[Vec<Vec<f32>>; 2]> = match extractor.vocabulary_shape() {
        Some(_) => None,
        None => Some([all_of(&train)?, all_of(&test)?]),
    };
    let mut cells = vec![[const { Vec::new() }; 6]; METHODS.len()];
    for (at, (s, t)) in TRANSFERS.into_iter().enumerate() {
        let (of_source, of_target, of_test) = match &once {
            Some([train, test]) => (train[s].clone(), train[t].clone(), test[t].clone()),
            None => {
                let both = vec![train[s].images(&device), train[t].images(&device)];
                let words = extractor.vocabulary(both, DESCRIPTORS)?;
                let seen = |set: &Pictures| extractor.features(set.images(&device), &words);
                (seen(&train[s])?, seen(&train[t])?, seen(&test[t])?)
            }
        };
        let all: Vec<usize> = (0..test[t].labels.len()).collect();
        let asked = rows(&of_test, width, &all);
        for seed in 0..seeds {
            let places = |domain: u64, len: usize| -> Vec<usize> {
                let key = Key::new(seed).purpose("drawn").at(domain);
                (0..samples.min(len)).map(|i| key.permute(i as u64, len as u64) as usize).collect()
            };
            let (a, b) = (places(0, train[s].labels.len()), places(1, train[t].labels.len()));
            let labels: Vec<usize> = a.iter().map(|&i| train[s].labels[i]).collect();
            let source = (rows(&of_source, width, &a), labels.clone());
            let target = (rows(&of_target, width, &b), vec![None; b.len()]);
            let raw = Domains::new(source, target, classes)?;
            let scale = Scale::of(&raw, how);
            let (domains, asked) = (scale.both(raw), scale.scaled(asked.as_ref(), Of::Target));
            for (row, (_, method, kernel)) in METHODS.into_iter().enumerate() {
                let config = MethodConfig { method, kernel, ..MethodConfig::default() };
                let found = in_order(|| {
                    let map = config.learn(&domains)?;
                    let points = map.points(domains.source.as_ref(), Of::Source);
                    Ok(nearest(map.points(asked.as_ref(), Of::Target).as_ref(), points.as_ref()))
                })?;
                let right = found.iter().zip(&test[t].labels).filter(|(i, class)| labels[**i] == **class).count();
                cells[row][at].push(100.0 * right as f64 / test[t].labels.len() as f64);
            }
        }
    }
    for ((method, _, _), row) in METHODS.into_iter().zip(&cells) {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let cell = |values: &Vec<f64>| {
            let m = mean(values);
            let square = values.iter().map(|v| (v - m).powi(2)).sum::<f64>();
            let deviation = (square / (values.len() as f64 - 1.0)).sqrt();
            if values.len() > 1 { format!("{m:.1} ± {deviation:.1}") } else { format!("{m:.1}") }
        };
        let whole = mean(&row.iter().map(|values| mean(values)).collect::<Vec<_>>());
        println!("| {method} | {} | {whole:.1} |", row.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    tell!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
