//! The judge: a classifier that Kiln trains on a labelled set once and keeps in the cache. Its
//! hidden layer gives the features of `fid[classifier:SET]`, its logits the inception-style score.

use burn::tensor::{Device, Tensor};
use kiln_core::{Context, Error, Result};
use kiln_data::{DataSet, PictureRule, Prepared, Resize, Split, cache_dir};
use kiln_nn::tensor::{from_values, to_values};
use kiln_systems::find;
use kiln_train::model::Weights;
use kiln_train::preview::pictures;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Model, Options, Run, checkpoint};
use serde_json::Value;

use crate::Common;
use crate::seen::{self, Seen};

/// A trained classifier with its name for figures.
pub struct Judge {
    model: Box<dyn Model>,
    /// `classifier:SET`.
    pub name: String,
    /// A hash of its weights.
    identity: String,
    device: Device,
}

impl Judge {
    /// The classifier of a labelled set, trained now if the cache has none.
    ///
    /// # Errors
    /// If the set is not labelled or the training fails.
    pub fn of(set: &dyn DataSet, common: &Common, device: &Device) -> Result<Self> {
        if set.classes().len() < 2 {
            return Err(Error::usage(format!(
                "features of a classifier need a labelled set, and {} has no labels; name one with --features classifier:starter",
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
                system.train(recipe, &root, &options)?;
            }
        }
        let run = Run::open(&root)?;
        let model = system.open(&run, Weights::Average, device)?;
        // Holds the hash of every file of weights.
        let state = checkpoint::path(&run.checkpoints(), model.info().images).join("state.json");
        let identity = seen::hash([std::fs::read(&state).context(|| state.display())?.as_slice()]);
        Ok(Self { model, name: format!("classifier:{}", set.name()), identity, device: device.clone() })
    }

    /// How pictures come to the network's size, in words.
    pub fn resize(&self) -> String {
        let [_, height, width] = self.model.info().pictures.shape;
        format!("stretch to {width}x{height}")
    }

    /// The rule that makes a set's pictures fit the judge.
    pub fn rule(&self) -> PictureRule {
        let [channels, height, _] = self.model.info().pictures.shape;
        PictureRule { size: height, channels, resize: Resize::Stretch, ..PictureRule::default() }
    }

    /// Looks at pictures `[n, c, h, w]` in [−1, 1] of any shape.
    ///
    /// # Errors
    /// If the network fails.
    pub fn look(&self, images: Tensor<4>, seen: &mut Seen) -> Result<()> {
        let [n, c, h, w] = images.dims();
        let [channels, height, width] = self.model.info().pictures.shape;
        let images = if [c, h, w] == [channels, height, width] {
            images
        } else {
            let fit = |p: kiln_data::Picture| p.with_channels(channels, [255; 3]).resize(width, height).to_unit();
            let values = pictures(images).into_iter().flat_map(fit).collect();
            from_values(values, [n, channels, height, width], &self.device)
        };
        seen.features.extend(to_values(self.model.represent(images.clone())?));
        seen.logits.extend(to_values(self.model.classify(images)?));
        seen.n += n;
        Ok(())
    }

    /// Looks at the first `n` pictures of a set in a keyed order (all of them if there are fewer),
    /// unless the cache holds what this network saw of just these pictures.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn look_at_set(&self, spec: &str, split: Split, n: usize) -> Result<Seen> {
        let set = kiln_data::open(spec, split, &self.rule())?;
        let prepared = Prepared::new(set, self.rule())?;
        let [c, h, w] = prepared.shape();
        let total = prepared.len() as u64;
        let key = kiln_core::random::Key::new(0).purpose("evaluation order");
        let order: Vec<u64> = (0..total.min(n as u64)).map(|i| key.permute(i, total)).collect();
        let mut content = seen::Content::of(&self.identity, [c, h, w]);
        for &i in &order {
            content.add(&prepared.get(i as usize)?.picture.pixels);
        }
        let place = content.place()?;
        if let Some(seen) = Seen::load(&place) {
            return Ok(seen);
        }
        let mut seen = Seen::default();
        for chunk in order.chunks(250) {
            let mut values = Vec::with_capacity(chunk.len() * c * h * w);
            for &i in chunk {
                values.extend(prepared.get(i as usize)?.values);
            }
            self.look(from_values(values, [chunk.len(), c, h, w], &self.device), &mut seen)?;
        }
        seen.save(&place)?;
        Ok(seen)
    }
}

fn finished(root: &std::path::Path) -> bool {
    let text = std::fs::read(root.join("report.json")).context(|| root.display()).ok();
    let report: Option<Value> = text.and_then(|t| serde_json::from_slice(&t).ok());
    report.is_some_and(|r| r["complete"] == Value::Bool(true))
}
