//! The feature net: the network in whose features pictures are compared. A classifier that Kiln trains on a
//! labelled set once and keeps in the cache (`fid[classifier:SET]`), a published network from its file
//! (`fid[inception-v3-fid]`), or a run (`fid[run:DIR]`).

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};
use kiln_data::{DataSet, Picture, PictureRule, Resize, Split};
use kiln_features::FeatureNet as PublishedNet;
use kiln_measure::Features;
use kiln_measure::frechet::Gaussian;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::preview::pictures;
use kiln_train::{Ability, Model, Precision, Progress, Run, WeightSet, checkpoint};

use crate::feature_cache::{self, Outputs};
use crate::stats::{About, Side, Stats, is_stats};
use crate::verbs::{encode, open};
use crate::{Common, judge};

/// Pictures that go through a network at once.
const CHUNK: usize = 50;

/// A network with its name for figures.
pub struct FeatureNet {
    network: Network,
    /// `classifier:SET`, `run:DIR`, or the name of a published network.
    pub name: String,
    /// A hash of its weights.
    identity: String,
    /// How its pictures are opened.
    rule: PictureRule,
    device: Device,
    quiet: bool,
}

enum Network {
    Run(RunNet),
    Published(Box<PublishedNet>),
}

/// A run as a feature net.
struct RunNet {
    model: Box<dyn Model>,
    /// The ability whose output is the features.
    features: Ability,
    /// The number of classes of the reference that it tells apart.
    classes: Option<usize>,
}

/// What makes a run a feature net, the best first.
const FEATURES: [Ability; 3] = [Ability::Represent, Ability::Encode, Ability::Classify];

impl FeatureNet {
    /// The network of `--features`, for pictures opened by `rule`:
    ///
    /// * `classifier:SET`, the default with SET the reference: trained now if the cache has none;
    /// * `mobilenetv2-imagenet`, `efficientnet-lite0-imagenet`: from `kiln data fetch weights:mobilenetv2` and so on;
    /// * `NAME:FILE`: any of [`PublishedNet::NAMES`] from its published file;
    /// * `run:DIR`: what a run represents, encodes or classifies.
    ///
    /// # Errors
    /// If there is no such network, its file is not there, SET has no labels, or the run can do none of these.
    pub fn of(
        features: Option<&str>,
        reference: &str,
        rule: &PictureRule,
        common: &Common,
        device: &Device,
    ) -> Result<Self> {
        let set = match features {
            None => reference,
            Some(name) => match name.strip_prefix("classifier:") {
                Some(set) => set,
                None => {
                    return match name.strip_prefix("run:") {
                        Some(root) => Self::run(Path::new(root), reference, common),
                        None => Self::published(name, rule, common, device),
                    };
                }
            },
        };
        let set = kiln_data::open(set, Split::Train, &PictureRule::default())?;
        Self::classifier(set, common, device)
    }

    fn published(spec: &str, rule: &PictureRule, common: &Common, device: &Device) -> Result<Self> {
        let net = match spec.split_once(':') {
            Some((name, file)) => PublishedNet::open(name, Path::new(file), device)?,
            None if ["mobilenetv2-imagenet", "efficientnet-lite0-imagenet"].contains(&spec) => {
                let weights = spec.replace("-imagenet", "");
                PublishedNet::open(spec, &kiln_data::trained_file(&format!("weights:{weights}"))?, device)?
            }
            None => {
                return Err(Error::usage(format!(
                    "--features {spec}: give classifier:SET with a labelled set, run:DIR, mobilenetv2-imagenet, efficientnet-lite0-imagenet, or NAME:FILE with NAME one of {}",
                    PublishedNet::NAMES.join(", ")
                )));
            }
        };
        Ok(Self {
            name: net.name().into(),
            identity: net.weights().into(),
            network: Network::Published(Box::new(net)),
            rule: PictureRule { channels: 3, ..rule.clone().still() },
            device: device.clone(),
            quiet: common.quiet,
        })
    }

    fn classifier(set: Arc<dyn DataSet>, common: &Common, device: &Device) -> Result<Self> {
        let (classes, name) = (set.classes().len(), format!("classifier:{}", set.name()));
        if classes < 2 {
            return Err(Error::usage(format!(
                "features of a classifier need a labelled set, and {} has no labels; name one with --features classifier:starter, or a published network such as --features mobilenetv2-imagenet",
                set.name()
            )));
        }
        let (run, model) = judge::of("classifier", set, common, device)?;
        let identity = identity(&run, &*model)?;
        let net = RunNet { model, features: Ability::Represent, classes: Some(classes) };
        Ok(Self::of_run(net, name, identity, common, device))
    }

    fn run(root: &Path, reference: &str, common: &Common) -> Result<Self> {
        let (model, device) = open(root, WeightSet::Ema, &common.device)?;
        let able = model.abilities();
        let Some(features) = FEATURES.into_iter().find(|ability| able.contains(ability)) else {
            return Err(Error::usage(format!(
                "--features run:{}: {} has no features; give a run that can represent, encode or classify",
                root.display(),
                model.info().system
            )));
        };
        let set = kiln_data::open(reference, Split::Train, &PictureRule::default());
        let known = &model.info().pictures.classes;
        let same =
            able.contains(&Ability::Classify) && set.is_ok_and(|set| !known.is_empty() && set.classes() == known);
        let classes = same.then_some(known.len());
        let identity = identity(&Run::open(root)?, &*model)?;
        let net = RunNet { model, features, classes };
        Ok(Self::of_run(net, format!("run:{}", root.display()), identity, common, &device))
    }

    fn of_run(net: RunNet, name: String, identity: String, common: &Common, device: &Device) -> Self {
        let [channels, height, width] = net.model.info().pictures.shape;
        Self {
            name,
            identity,
            rule: PictureRule {
                size: [height, width].into(),
                channels,
                resize: Resize::Stretch,
                ..PictureRule::default()
            },
            network: Network::Run(net),
            device: device.clone(),
            quiet: common.quiet,
        }
    }

    /// How pictures come to the network's size, in words.
    pub fn resize(&self) -> String {
        match &self.network {
            Network::Run(net) => {
                let [_, height, width] = net.model.info().pictures.shape;
                format!("stretch to {width}x{height}")
            }
            Network::Published(net) => net.resize().into(),
        }
    }

    /// The number of classes of the reference that the network knows; `None` if its classes are others.
    pub fn classes(&self) -> Option<usize> {
        match &self.network {
            Network::Run(net) => net.classes,
            Network::Published(_) => None,
        }
    }

    /// Adds the outputs for pictures `[n, c, h, w]` in [−1, 1] of any shape.
    ///
    /// # Errors
    /// If the network fails.
    pub fn apply(&self, images: Tensor<4>, outputs: &mut Outputs) -> Result<()> {
        // A figure does not depend on what the pictures were made with.
        Precision::F32.scope(|| self.apply_exactly(images, outputs))
    }

    fn apply_exactly(&self, images: Tensor<4>, outputs: &mut Outputs) -> Result<()> {
        let [n, c, h, w] = images.dims();
        match &self.network {
            Network::Run(RunNet { model, features, .. }) => {
                let [channels, height, width] = model.info().pictures.shape;
                let images = if [c, h, w] == [channels, height, width] {
                    images
                } else {
                    let fit = |p: Picture| p.with_channels(channels, [255; 3]).resize(width, height).to_unit();
                    let values = pictures(images).into_iter().flat_map(fit).collect();
                    from_values(values, [n, channels, height, width], &self.device)
                };
                let logits = match model.abilities().contains(&Ability::Classify) {
                    true => Some(model.classify(images.clone())?),
                    false => None,
                };
                let row = match (features, &logits) {
                    (Ability::Encode, _) => encode(&**model, images, 0)?,
                    (Ability::Classify, Some(logits)) => logits.clone(),
                    _ => model.represent(images)?,
                };
                outputs.features.extend(to_values(row));
                outputs.logits.extend(logits.map(to_values).unwrap_or_default());
            }
            Network::Published(net) => {
                for start in (0..n).step_by(CHUNK) {
                    let part = net.see(images.clone().narrow(0, start, CHUNK.min(n - start)))?;
                    outputs.features.extend(to_values(part.features));
                    outputs.logits.extend(part.logits.map(to_values).unwrap_or_default());
                }
            }
        }
        outputs.n += n;
        Ok(())
    }

    /// The outputs for the first `n` pictures of a set in a keyed order (all of them if there are fewer), from the
    /// cache if it holds those of just this network and these pictures.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn of_set(&self, spec: &str, split: Split, n: usize) -> Result<Outputs> {
        let set = self.set(spec, split, n)?;
        let mut content = feature_cache::Content::of(&self.identity);
        for i in 0..set.n {
            let p = set.picture(i)?;
            content.add([p.channels, p.height, p.width], &p.pixels);
        }
        let place = content.place()?;
        if let Some(outputs) = Outputs::load(&place) {
            return Ok(outputs);
        }
        let mut outputs = Outputs::default();
        self.each_batch(&set, |part| {
            outputs.append(part);
            Ok(())
        })?;
        outputs.save(&place)?;
        Ok(outputs)
    }

    /// The statistics of a whole set, with the outputs for its first `keep` pictures.
    ///
    /// # Errors
    /// If a picture cannot be read, or there are fewer than two.
    pub fn stats(&self, spec: &str, split: Split, keep: usize) -> Result<Stats> {
        let set = self.set(spec, split, usize::MAX)?;
        let mut outputs = Outputs::default();
        let mut gaussian: Option<Gaussian> = None;
        self.each_batch(&set, |part| {
            let features = Features::new(spec, &part.features, part.width())?;
            gaussian.get_or_insert_with(|| Gaussian::new(spec, features.d())).push(features)?;
            if outputs.n < keep {
                outputs.append(part);
            }
            Ok(())
        })?;
        let about = About {
            set: spec.into(),
            split: split.to_string(),
            features: self.name.clone(),
            identity: self.identity.clone(),
            resize: self.resize(),
            classes: self.classes().unwrap_or(0),
        };
        let too_few = || Error::new(format!("{spec}: one picture has no statistics; give at least 2"));
        let gaussian = gaussian.filter(|g| g.n() > 1).ok_or_else(too_few)?;
        Ok(Stats { about, gaussian, outputs })
    }

    /// What is known of a set by this network: stored statistics, or its first `n` pictures.
    ///
    /// # Errors
    /// If a picture cannot be read, or the statistics are of another network.
    pub fn side(&self, spec: &str, split: Split, n: usize) -> Result<Side> {
        if !is_stats(spec) {
            return Ok(Side::of(spec, &split.to_string(), self.of_set(spec, split, n)?));
        }
        let stats = Stats::open(Path::new(spec))?;
        if stats.about.identity != self.identity {
            return Err(Error::usage(format!(
                "{spec} holds what {} saw, with other weights than --features {} has; make it again with `kiln data stats`",
                stats.about.features, self.name
            )));
        }
        Ok(Side::stored(stats))
    }

    /// The first `n` pictures of a set in a keyed order.
    fn set(&self, spec: &str, split: Split, n: usize) -> Result<Ordered<'_>> {
        let set = kiln_data::open(spec, split, &self.rule)?;
        let n = set.len().min(n);
        Ok(Ordered { key: Key::new(0).purpose("evaluation order"), n, set, rule: &self.rule })
    }

    /// Goes through a set; `take` gets the outputs for some pictures in a row.
    fn each_batch(&self, set: &Ordered<'_>, mut take: impl FnMut(Outputs) -> Result<()>) -> Result<()> {
        let about = format!("features of {}", set.set.name());
        let mut progress = (!self.quiet).then(|| Progress::new(&about, "pictures", 0, set.n as u64));
        let mut alike: Vec<Picture> = Vec::new();
        let shape = |p: &Picture| [p.channels, p.height, p.width];
        for i in 0..set.n {
            let next = set.picture(i)?;
            // Pictures of one size go through together.
            if alike.len() == CHUNK || alike.first().is_some_and(|p| shape(p) != shape(&next)) {
                take(self.of_batch(&std::mem::take(&mut alike))?)?;
                if let Some(p) = &mut progress {
                    p.update(i as u64, String::new);
                }
            }
            alike.push(next);
        }
        if !alike.is_empty() {
            take(self.of_batch(&alike)?)?;
        }
        if let Some(p) = &progress {
            p.finish();
        }
        Ok(())
    }

    /// The outputs for pictures of one size, at least one.
    fn of_batch(&self, alike: &[Picture]) -> Result<Outputs> {
        let mut outputs = Outputs::default();
        if let Some(first) = alike.first() {
            let shape = [alike.len(), first.channels, first.height, first.width];
            let values = alike.iter().flat_map(Picture::to_unit).collect();
            self.apply(from_values(values, shape, &self.device), &mut outputs)?;
        }
        Ok(outputs)
    }

    /// Some pictures of a set by their places in the order in which [`FeatureNet::of_set`] takes them.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn pictures(&self, spec: &str, split: Split, places: &[usize]) -> Result<Vec<Picture>> {
        let set = self.set(spec, split, usize::MAX)?;
        places.iter().map(|&i| set.picture(i)).collect()
    }
}

/// Some pictures of a set, in a keyed order that does not depend on how many.
struct Ordered<'a> {
    set: Arc<dyn DataSet>,
    key: Key,
    n: usize,
    rule: &'a PictureRule,
}

impl Ordered<'_> {
    fn picture(&self, i: usize) -> Result<Picture> {
        let at = self.key.permute(i as u64, self.set.len() as u64) as usize;
        Ok(self.set.get(at)?.picture.with_channels(self.rule.channels, self.rule.background))
    }
}

/// A hash of a run's weights and of what says how they are used, wherever the run lies.
fn identity(run: &Run, model: &dyn Model) -> Result<String> {
    let path = checkpoint::path(&run.checkpoints(), model.info().images).join("state.json");
    let bytes = std::fs::read(&path).context(|| path.display())?;
    let mut files = serde_json::from_slice::<checkpoint::Counters>(&bytes).context(|| path.display())?.files;
    files.remove("optimizer.safetensors");
    let settings = run.recipe()?.remove("model").map(|model| model.to_string()).unwrap_or_default();
    let shape = format!("{:?}", model.info().pictures.shape);
    let parts = [model.info().system, &settings, &shape].map(str::as_bytes);
    Ok(feature_cache::hash(parts.into_iter().chain(files.values().map(String::as_bytes))))
}
