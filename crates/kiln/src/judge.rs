//! The judge: the network in whose features pictures are compared. Either a classifier that Kiln
//! trains on a labelled set once and keeps in the cache (`fid[classifier:SET]`), or a published
//! network from its file (`fid[inception-v3-fid]`).

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};
use kiln_data::{DataSet, Picture, PictureRule, Resize, Split, cache_dir};
use kiln_features::FeatureNet;
use kiln_measure::Features;
use kiln_measure::frechet::Gaussian;
use kiln_nn::tensor::{from_values, to_values};
use kiln_systems::find;
use kiln_train::model::WeightSet;
use kiln_train::preview::pictures;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Model, Options, Precision, Progress, Run, checkpoint};
use serde_json::Value;

use crate::Common;
use crate::seen::{self, Seen};
use crate::stats::{About, Side, Stats, is_stats};

/// Pictures a network looks at in one go.
const CHUNK: usize = 50;

/// A network with its name for figures.
pub struct Judge {
    network: Network,
    /// `classifier:SET`, or the name of a published network.
    pub name: String,
    /// A hash of its weights.
    identity: String,
    /// How its pictures are opened.
    rule: PictureRule,
    device: Device,
    quiet: bool,
}

enum Network {
    /// With the number of its classes.
    Classifier(Box<dyn Model>, usize),
    Published(Box<FeatureNet>),
}

impl Judge {
    /// The network of `--features`, for pictures opened by `rule`:
    ///
    /// * `classifier:SET`, the default with SET the reference: trained now if the cache has none;
    /// * `mobilenetv2-imagenet`: from `kiln data fetch weights:mobilenetv2`;
    /// * `NAME:FILE`: any of [`FeatureNet::NAMES`] from its published file.
    ///
    /// # Errors
    /// If there is no such network, its file is not there, or SET has no labels.
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
                None => return Self::published(name, rule, common, device),
            },
        };
        let set = kiln_data::open(set, Split::Train, &PictureRule::default())?;
        Self::classifier(&*set, common, device)
    }

    fn published(spec: &str, rule: &PictureRule, common: &Common, device: &Device) -> Result<Self> {
        let net = match spec.split_once(':') {
            Some((name, file)) => FeatureNet::open(name, Path::new(file), device)?,
            None if spec == "mobilenetv2-imagenet" => {
                FeatureNet::open(spec, &kiln_data::trained_file("weights:mobilenetv2")?, device)?
            }
            None => {
                return Err(Error::usage(format!(
                    "--features {spec}: give classifier:SET with a labelled set, mobilenetv2-imagenet, or NAME:FILE with NAME one of {}",
                    FeatureNet::NAMES.join(", ")
                )));
            }
        };
        Ok(Self {
            name: net.name().into(),
            identity: net.weights().into(),
            network: Network::Published(Box::new(net)),
            rule: PictureRule { channels: 3, flip: false, ..rule.clone() },
            device: device.clone(),
            quiet: common.quiet,
        })
    }

    fn classifier(set: &dyn DataSet, common: &Common, device: &Device) -> Result<Self> {
        let classes = set.classes().len();
        if classes < 2 {
            return Err(Error::usage(format!(
                "features of a classifier need a labelled set, and {} has no labels; name one with --features classifier:starter, or a published network such as --features mobilenetv2-imagenet",
                set.name()
            )));
        }
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let folder: String = set.name().chars().map(safe).collect();
        let root = cache_dir()?.join("classifiers").join(format!("{folder}-{}", set.fingerprint()));
        let system = find("classifier")?;
        let options = Options { device: device.clone(), steps: None, quiet: common.quiet, watcher: None };
        if !finished(&root) {
            eprintln!("training the judge once: a classifier of {} (kept in {})", set.name(), root.display());
            if root.join("recipe.toml").exists() {
                system.resume(&Run::open(&root)?, &options)?;
            } else {
                let mut recipe = system.defaults()?;
                merge(&mut recipe, &assignment(&format!("data.set={}", set.name()))?, "judge")?;
                let batch = recipe.get("train").and_then(|t| t.get("batch")).and_then(toml::Value::as_integer);
                if batch.is_some_and(|batch| batch > set.len() as i64) {
                    merge(&mut recipe, &assignment(&format!("train.batch={}", set.len()))?, "judge")?;
                }
                system.train(recipe, &root, &options)?;
            }
        }
        let run = Run::open(&root)?;
        let model = system.open(&run, WeightSet::Ema, device)?;
        // Holds the hash of every file of weights.
        let state = checkpoint::path(&run.checkpoints(), model.info().images).join("state.json");
        let identity = seen::hash([std::fs::read(&state).context(|| state.display())?.as_slice()]);
        let [channels, height, _] = model.info().pictures.shape;
        Ok(Self {
            name: format!("classifier:{}", set.name()),
            identity,
            rule: PictureRule { size: height, channels, resize: Resize::Stretch, ..PictureRule::default() },
            network: Network::Classifier(model, classes),
            device: device.clone(),
            quiet: common.quiet,
        })
    }

    /// How pictures come to the network's size, in words.
    pub fn resize(&self) -> String {
        match &self.network {
            Network::Classifier(model, _) => {
                let [_, height, width] = model.info().pictures.shape;
                format!("stretch to {width}x{height}")
            }
            Network::Published(net) => net.resize().into(),
        }
    }

    /// The number of classes of the reference that the network knows; `None` if its classes are others.
    pub fn classes(&self) -> Option<usize> {
        match &self.network {
            Network::Classifier(_, classes) => Some(*classes),
            Network::Published(_) => None,
        }
    }

    /// Looks at pictures `[n, c, h, w]` in [−1, 1] of any shape.
    ///
    /// # Errors
    /// If the network fails.
    pub fn look(&self, images: Tensor<4>, seen: &mut Seen) -> Result<()> {
        // A figure does not depend on what the pictures were made with.
        Precision::F32.scope(|| self.look_exactly(images, seen))
    }

    fn look_exactly(&self, images: Tensor<4>, seen: &mut Seen) -> Result<()> {
        let [n, c, h, w] = images.dims();
        match &self.network {
            Network::Classifier(model, _) => {
                let [channels, height, width] = model.info().pictures.shape;
                let images = if [c, h, w] == [channels, height, width] {
                    images
                } else {
                    let fit = |p: Picture| p.with_channels(channels, [255; 3]).resize(width, height).to_unit();
                    let values = pictures(images).into_iter().flat_map(fit).collect();
                    from_values(values, [n, channels, height, width], &self.device)
                };
                seen.features.extend(to_values(model.represent(images.clone())?));
                seen.logits.extend(to_values(model.classify(images)?));
            }
            Network::Published(net) => {
                for start in (0..n).step_by(CHUNK) {
                    let part = net.see(images.clone().narrow(0, start, CHUNK.min(n - start)))?;
                    seen.features.extend(to_values(part.features));
                    seen.logits.extend(part.logits.map(to_values).unwrap_or_default());
                }
            }
        }
        seen.n += n;
        Ok(())
    }

    /// Looks at the first `n` pictures of a set in a keyed order (all of them if there are fewer),
    /// unless the cache holds what this network saw of just these pictures.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn look_at_set(&self, spec: &str, split: Split, n: usize) -> Result<Seen> {
        let set = self.set(spec, split, n)?;
        let mut content = seen::Content::of(&self.identity);
        for i in 0..set.n {
            let p = set.picture(i)?;
            content.add([p.channels, p.height, p.width], &p.pixels);
        }
        let place = content.place()?;
        if let Some(seen) = Seen::load(&place) {
            return Ok(seen);
        }
        let mut seen = Seen::default();
        self.look_at_all(&set, |part| {
            seen.append(part);
            Ok(())
        })?;
        seen.save(&place)?;
        Ok(seen)
    }

    /// The statistics of a whole set, with what was seen of its first `keep` pictures.
    ///
    /// # Errors
    /// If a picture cannot be read, or there are fewer than two.
    pub fn stats(&self, spec: &str, split: Split, keep: usize) -> Result<Stats> {
        let set = self.set(spec, split, usize::MAX)?;
        let mut seen = Seen::default();
        let mut gaussian: Option<Gaussian> = None;
        self.look_at_all(&set, |part| {
            let features = Features::new(spec, &part.features, part.width())?;
            gaussian.get_or_insert_with(|| Gaussian::new(spec, features.d())).push(features)?;
            if seen.n < keep {
                seen.append(part);
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
        Ok(Stats { about, gaussian, seen })
    }

    /// What is known of a set by this network: stored statistics, or its first `n` pictures.
    ///
    /// # Errors
    /// If a picture cannot be read, or the statistics are of another network.
    pub fn side(&self, spec: &str, split: Split, n: usize) -> Result<Side> {
        if !is_stats(spec) {
            return Ok(Side::seen(spec, &split.to_string(), self.look_at_set(spec, split, n)?));
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

    /// Looks at a set; `take` gets what was seen of some pictures in a row.
    fn look_at_all(&self, set: &Ordered<'_>, mut take: impl FnMut(Seen) -> Result<()>) -> Result<()> {
        let about = format!("looking at {}", set.set.name());
        let mut progress = (!self.quiet).then(|| Progress::new(&about, "pictures", 0, set.n as u64));
        let mut alike: Vec<Picture> = Vec::new();
        let shape = |p: &Picture| [p.channels, p.height, p.width];
        for i in 0..set.n {
            let next = set.picture(i)?;
            // Pictures of one size are looked at together.
            if alike.len() == CHUNK || alike.first().is_some_and(|p| shape(p) != shape(&next)) {
                take(self.look_at(&std::mem::take(&mut alike))?)?;
                if let Some(p) = &mut progress {
                    p.update(i as u64, String::new);
                }
            }
            alike.push(next);
        }
        if !alike.is_empty() {
            take(self.look_at(&alike)?)?;
        }
        if let Some(p) = &progress {
            p.finish();
        }
        Ok(())
    }

    /// Looks at pictures of one size, at least one.
    fn look_at(&self, alike: &[Picture]) -> Result<Seen> {
        let mut seen = Seen::default();
        if let Some(first) = alike.first() {
            let shape = [alike.len(), first.channels, first.height, first.width];
            let values = alike.iter().flat_map(Picture::to_unit).collect();
            self.look(from_values(values, shape, &self.device), &mut seen)?;
        }
        Ok(seen)
    }

    /// Some pictures of a set by their places in the order in which [`Judge::look_at_set`] looks at it.
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

fn finished(root: &Path) -> bool {
    let text = std::fs::read(root.join("report.json")).context(|| root.display()).ok();
    let report: Option<Value> = text.and_then(|t| serde_json::from_slice(&t).ok());
    report.is_some_and(|r| r["complete"] == Value::Bool(true))
}
