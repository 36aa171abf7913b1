//! The system `shallow`: features, a method and a predictor, learned in closed form from two sets of pictures.
//!
//! Pictures become features ([`super::features`]), features of each domain are brought to mean 0 and deviation 1, a
//! method ([`super::method`]) maps both domains into one space, and there a picture of the target has the class of the
//! nearest labelled point, or the one that a linear SVM says. Donahue 2014 (DeCAF) is `method = "none"`, a network's
//! features and the SVM.
//!
//! A picture that was not learned from is mapped as those that were: by the projection, by the kernel with them, or,
//! with optimal transport, to where the nearest source picture went (of the target: nowhere).
//!
//! `kiln train shallow --data mnist,digits8`; `--set model.method=none` is the lower bound.

use burn::tensor::Tensor;
use faer::Mat;
use kiln_core::{Error, Result, refuse_if};
use kiln_data::{DataKind, Resize};
use kiln_measure::Features;
use kiln_measure::svm::LinearSvm;
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::request::check_pictures;
use kiln_train::{Abilities, Classify, DataConfig, FitData, Phase, Pictures, Represent, System, TrainConfig};
use serde::{Deserialize, Serialize};

use super::algebra::{in_order, squared_distances};
use super::domains::Domains;
use super::features::{Extractor, FeatureName};
use super::map::{Basis, Of};
use super::method::{KernelName, Method, MethodConfig};
use super::scale::{Scale, Standardize};
use super::stored::{Networks, SideMap, matrix, put, row_major, table};

/// What gives a point its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Predictor {
    /// The nearest labelled point.
    #[serde(rename = "1nn")]
    Nearest,
    /// A linear SVM of the labelled points.
    #[serde(rename = "svm")]
    Svm,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The method and its settings.
    #[serde(flatten)]
    pub method: MethodConfig,
    /// `pixels`, `descriptors`, `mobilenetv2` or `efficientnet-lite0`.
    pub features: FeatureName,
    /// The same for the target where it is seen by other features than the source (heterogeneous domain adaptation), or nothing.
    pub target_features: String,
    /// Words of `descriptors`.
    pub words: usize,
    /// Side of the cells of `descriptors`, in pixels.
    pub cell: usize,
    /// `domain`, `joint` or `none`.
    pub standardize: Standardize,
    /// `1nn` or `svm`.
    pub predictor: Predictor,
    /// C of the SVM.
    pub svm_c: f64,
    /// Pictures of each domain that are learned from, at most.
    pub samples: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            method: MethodConfig::default(),
            features: FeatureName::Pixels,
            target_features: String::new(),
            words: 200,
            cell: 4,
            standardize: Standardize::Domain,
            predictor: Predictor::Nearest,
            svm_c: 1.0,
            samples: 500,
        }
    }
}

impl Config {
    /// The features of the target, if they are others than the source's.
    fn of_target(&self) -> Result<Option<FeatureName>> {
        let name = self.target_features.as_str();
        if name.is_empty() {
            return Ok(None);
        }
        let features = FeatureName::named(name)?;
        Ok((features != self.features).then_some(features))
    }

    /// All features that are asked for.
    fn asked(&self) -> Result<Vec<FeatureName>> {
        Ok([self.features].into_iter().chain(self.of_target()?).collect())
    }
}

/// How the domains are seen: by the same features, or each by its own. Then a picture has the features of both, those of the
/// other domain 0, so that a projection of them is one for each domain (Duan 2012, without the part that they share).
struct View {
    source: Extractor,
    target: Option<Extractor>,
}

impl View {
    fn width(&self) -> usize {
        self.source.width() + self.target.as_ref().map_or(0, Extractor::width)
    }

    fn vocabulary_shape(&self) -> Option<[usize; 2]> {
        self.source.vocabulary_shape().or_else(|| self.target.as_ref()?.vocabulary_shape())
    }

    /// Words for the pictures of those domains whose descriptors are counted.
    fn vocabulary(&self, [source, target]: [&[Tensor<4>]; 2]) -> Result<Vec<f32>> {
        match &self.target {
            None => self.source.vocabulary([source, target].concat(), DESCRIPTORS),
            Some(_) if self.source.vocabulary_shape().is_some() => self.source.vocabulary(source.to_vec(), DESCRIPTORS),
            Some(other) => other.vocabulary(target.to_vec(), DESCRIPTORS),
        }
    }

    /// Row-major, [`View::width`] a picture.
    fn features(&self, images: Tensor<4>, words: &[f32], of: Of) -> Result<Vec<f32>> {
        let Some(target) = &self.target else { return self.source.features(images, words) };
        let widths = [self.source.width(), target.width()];
        let (own, before, after) = match of {
            Of::Source => (&self.source, 0, widths[1]),
            Of::Target => (target, widths[0], 0),
        };
        let rows = own.features(images, words)?;
        let padded = |row: &[f32]| [&vec![0.0; before], row, &vec![0.0; after]].concat();
        Ok(rows.chunks_exact(own.width()).flat_map(padded).collect())
    }
}

/// Descriptors among which words are found.
const DESCRIPTORS: usize = 10_000;
/// The logit of a class that no labelled picture has.
const NEVER: f64 = -1e30;

/// The system.
pub struct Shallow {
    config: Config,
    pictures: Pictures,
    view: View,
}

impl System for Shallow {
    const ID: &'static str = "shallow";
    const PAPER: &'static str = "Fernando 2013; Sun & Saenko 2015; Gong 2012; Pan 2011; Long 2013, 2014; Ghifary 2017; \
                                 Courty 2016; Zhang 2017: shallow domain adaptation; Donahue 2014: DeCAF";
    const DATA: DataKind = DataKind::SourceTarget;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        let data = DataConfig {
            set: "mnist,digits8".into(),
            size: 28.into(),
            resize: Resize::Stretch,
            channels: 1,
            ..DataConfig::default()
        };
        (data, TrainConfig { ema_half_life: 0.0, preview_every: 0, batch: 10, ..TrainConfig::default() })
    }

    /// A published network must be on this machine before a run begins.
    fn settle(config: Config) -> Result<Config> {
        for name in config.asked()?.into_iter().filter_map(FeatureName::network) {
            kiln_data::trained_file(&format!("weights:{name}"))?;
        }
        Ok(config)
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let c = &config;
        refuse_if!(pictures.classes.len() < 2, "shallow needs a source of at least two classes");
        c.method.check()?;
        refuse_if!([c.words, c.cell].contains(&0), "model.words and model.cell must be at least 1");
        refuse_if!(c.samples < 2, "model.samples must be at least 2");
        refuse_if!(!(c.svm_c > 0.0 && c.svm_c.is_finite()), "model.svm_c must be above 0, not {}", c.svm_c);
        let [channels, height, width] = pictures.shape;
        for features in c.asked()? {
            refuse_if!(
                features == FeatureName::Descriptors && height.min(width) < 2 * c.cell,
                "pictures of {width} x {height} have no descriptor of 2 x 2 cells of model.cell = {} pixels",
                c.cell
            );
            refuse_if!(
                features.network().is_some() && ![1, 3].contains(&channels),
                "model.features = \"{}\" sees RGB; set data.channels to 1 or 3, not {channels}",
                features.network().unwrap_or_default()
            );
        }
        let target = c.of_target()?;
        if target.is_some() {
            let m = &c.method;
            refuse_if!(
                ![Method::None, Method::Jda, Method::Jgsa].contains(&m.method) || m.kernel != KernelName::Primal,
                "model.target_features: only jgsa, jda and none take other features of the target, with model.kernel = \"primal\""
            );
            refuse_if!(
                c.standardize == Standardize::Joint,
                "model.target_features: domains of different features have no joint mean; set model.standardize to domain or none"
            );
        }
        let of = |features| Extractor::new(features, pictures.shape, c.words, c.cell);
        let view = View { source: of(c.features), target: target.map(of) };
        Ok(Self { view, pictures: pictures.clone(), config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (c, d) = (&self.config, self.view.width());
        let (k, (source, target)) = (c.method.width(d), c.method.bases());
        let pictures = 2 * c.samples;
        let anchored = [source, target].iter().any(|basis| *basis != Basis::Features);
        let mut side = |basis: Basis| {
            let rows = if basis == Basis::Features { d } else { pictures };
            let maps = basis != Basis::Features || ![Method::None, Method::Otgl].contains(&c.method.method);
            SideMap { weights: maps.then(|| init.constant([rows, k], 0.0)), offset: init.constant([k], 0.0) }
        };
        let (source, target) = (side(source), side(target));
        Networks {
            vocabulary: self.view.vocabulary_shape().map(|shape| init.constant(shape, 0.0)),
            mean: init.constant([2, d], 0.0),
            deviation: init.constant([2, d], 1.0),
            anchors: anchored.then(|| init.constant([pictures, d], 0.0)),
            source,
            target,
            points: init.constant([pictures, k], 0.0),
            classes: init.constant([pictures], 0.0),
            planes: (c.predictor == Predictor::Svm).then(|| init.constant([self.pictures.classes.len(), k + 1], 0.0)),
        }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        Vec::new()
    }

    fn fit(&self, fresh: Networks, data: &FitData<'_>) -> Result<Option<Networks>> {
        let mut networks = fresh;
        let samples = self.config.samples;
        let (source, labels) = self.read(data, 0, samples)?;
        // The target's few with labels, if `data.labels` says that there are such, come first.
        let (mut target, few) = if data.domains() > 2 { self.read(data, 2, samples)? } else { Read::default() };
        let few = few.unwrap_or_default();
        target.extend(self.read(data, 1, samples - few.len())?.0);
        refuse_if!(
            self.view.target.is_some() && few.is_empty(),
            "nothing joins domains of different features; give some labels of the target by data.labels"
        );
        let words = match &mut networks.vocabulary {
            Some(vocabulary) => {
                let words = self.view.vocabulary([&source[..], &target[..]])?;
                put(vocabulary, words.clone());
                words
            }
            None => Vec::new(),
        };
        let features = |images: Vec<Tensor<4>>, of: Of| -> Result<Mat<f64>> {
            let rows = images.into_iter().map(|images| self.view.features(images, &words, of));
            Ok(matrix(&rows.collect::<Result<Vec<_>>>()?.concat(), self.view.width()))
        };
        let (source, target) = (features(source, Of::Source)?, features(target, Of::Target)?);
        let labels = labels.ok_or_else(|| Error::usage("shallow wants labels, and the source has none"))?;
        let known = few.into_iter().map(Some).chain(std::iter::repeat(None)).take(target.nrows()).collect();
        // Checked before they are scaled, so that errors speak of the features as they are.
        let raw = Domains::new((source, labels), (target, known), self.pictures.classes.len())?;
        networks.keep_scale(&Scale::of(&raw, self.config.standardize));
        let domains = networks.scale().both(raw);
        networks.keep_map(&in_order(|| self.config.method.learn(&domains))?);
        // Points are those of the map as it is kept.
        let map = networks.map(&self.config.method);
        let (source, target) = in_order(|| {
            let points = |x: &Mat<f64>, of| map.points(x.as_ref(), of);
            Ok((points(&domains.source, Of::Source), points(&domains.target, Of::Target)))
        })?;
        let (points, classes) = domains.labelled(source.as_ref(), target.as_ref());
        let values = row_major(points.as_ref());
        if let Some(planes) = &mut networks.planes {
            let (classes_all, c) = (self.pictures.classes.len(), self.config.svm_c);
            let table = Features::new("points of the source", &values, points.ncols())?;
            let svm = LinearSvm::fit(table, &classes, classes_all, c, 1e-3)?;
            put(planes, svm.planes().into_iter().flatten().map(|v| v as f32).collect());
        }
        put(&mut networks.classes, classes.iter().map(|class| *class as f32).collect());
        put(&mut networks.points, values);
        Ok(Some(networks))
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { classify: Some(self), represent: Some(self), ..Abilities::default() }
    }
}

/// Pictures of a domain, some at a time, and their labels.
type Read = (Vec<Tensor<4>>, Option<Vec<usize>>);

impl Shallow {
    /// At most `most` pictures of a set.
    fn read(&self, data: &FitData<'_>, domain: usize, most: usize) -> Result<Read> {
        let (mut images, mut labels) = (Vec::new(), Some(Vec::new()));
        for part in data.drawn(domain, most) {
            let part = part?;
            images.push(part.images);
            labels = labels.zip(part.host_labels).map(|(mut labels, new)| {
                labels.extend(new.into_iter().map(|label| label as usize));
                labels
            });
        }
        Ok((images, labels))
    }

    /// Points of pictures of a domain.
    fn points(&self, networks: &Networks, images: Tensor<4>, of: Of) -> Result<Mat<f64>> {
        check_pictures(&images, self.pictures.shape)?;
        let words = networks.vocabulary.as_ref().map_or_else(Vec::new, |words| to_values(words.val()));
        let features = matrix(&self.view.features(images, &words, of)?, self.view.width());
        let (map, scaled) = (networks.map(&self.config.method), networks.scale().scaled(features.as_ref(), of));
        in_order(|| Ok(map.points(scaled.as_ref(), of)))
    }

    fn classified(&self, networks: &Networks, images: Tensor<4>, of: Of) -> Result<Tensor<2>> {
        let (n, device, classes) = (images.dims()[0], images.device(), self.pictures.classes.len());
        let points = self.points(networks, images, of)?;
        let k = points.ncols();
        let logits = match &networks.planes {
            Some(planes) => {
                let planes = table(planes);
                let decision = &points * planes.subcols(0, k).transpose();
                Mat::from_fn(n, classes, |i, c| decision[(i, c)] + planes[(c, k)])
            }
            // −‖z − z'‖² of the nearest point of each class.
            None => {
                let distances = squared_distances(points.as_ref(), table(&networks.points).as_ref());
                let classes_of: Vec<usize> =
                    to_values(networks.classes.val()).into_iter().map(|class| class as usize).collect();
                let mut logits = Mat::full(n, classes, NEVER);
                for i in 0..n {
                    for (j, &class) in classes_of.iter().enumerate() {
                        logits[(i, class)] = logits[(i, class)].max(-distances[(i, j)]);
                    }
                }
                logits
            }
        };
        Ok(from_values(row_major(logits.as_ref()), [n, classes], &device))
    }

    fn represented(&self, networks: &Networks, images: Tensor<4>, of: Of) -> Result<Tensor<2>> {
        let (n, device) = (images.dims()[0], images.device());
        let points = self.points(networks, images, of)?;
        Ok(from_values(row_major(points.as_ref()), [n, points.ncols()], &device))
    }
}

/// Pictures are taken to be of the target.
impl Classify<Networks> for Shallow {
    fn classify(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.classified(networks, images, Of::Target)
    }

    fn classify_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.classified(networks, images, Of::Source)
    }
}

/// The space that both domains share.
impl Represent<Networks> for Shallow {
    fn represent(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.represented(networks, images, Of::Target)
    }

    fn represent_source(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<2>> {
        self.represented(networks, images, Of::Source)
    }
}
