//! The seam between the loop and a system, and what a system can do.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{DataKind, Grouping};
use kiln_nn::Init;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Batch;
use crate::optim::OptimizerConfig;
use crate::params::State;
use crate::recipe::{DataConfig, TrainConfig};
use crate::sizes::SizeRule;

/// The pictures a system works on, known once the data is.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Names of the classes; empty if unlabelled.
    pub classes: Vec<String>,
    /// Classes of pixels in masks; 0 where masks are not read.
    pub mask_classes: usize,
    /// Different tokens of captions; 0 where captions are not read as tokens.
    pub vocabulary: usize,
    /// Tokens of each caption.
    pub caption_length: usize,
}

impl Pictures {
    /// Of this shape (channels, height, width) and these classes, with nothing else.
    pub fn new(shape: [usize; 3], classes: Vec<String>) -> Self {
        Self { shape, classes, mask_classes: 0, vocabulary: 0, caption_length: 0 }
    }

    /// What a recipe says of them once its data has been prepared.
    pub fn of(data: &DataConfig) -> Self {
        Self {
            mask_classes: data.mask_values.len(),
            vocabulary: data.vocabulary,
            caption_length: data.caption_length,
            ..Self::new(data.shape, data.classes.clone())
        }
    }
}

/// One paper's system: networks, losses and abilities. The loop does everything else.
pub trait System: Send + Sync + Sized + 'static {
    /// Its name on the command line.
    const ID: &'static str;
    /// Authors, title, year.
    const PAPER: &'static str;
    /// The data it trains on.
    const DATA: DataKind;
    /// Its own settings: the `[model]` table of a recipe.
    type Config: Serialize + DeserializeOwned + Default + Clone + Send + Sync;
    /// All its networks, one field each; the field's name is the network's.
    type Networks: Module + 'static;

    /// The data it trains on under these settings, where they have a say.
    fn data_kind(_config: &Self::Config) -> DataKind {
        Self::DATA
    }

    /// Its settings with what another run determines, where they name one; done once, before training starts.
    ///
    /// # Errors
    /// A usage error if the other run is not to be had, or does not serve.
    fn settle(config: Self::Config) -> Result<Self::Config> {
        Ok(config)
    }

    /// What it takes over from another run when training starts, if its settings name one.
    fn begins_with(_config: &Self::Config) -> Option<Beginning<'_>> {
        None
    }

    /// Defaults of the `[data]` and `[train]` tables.
    fn defaults() -> (DataConfig, TrainConfig);

    /// The sizes of pictures it takes under these settings, which [`System::new`] checks.
    fn sizes(_config: &Self::Config) -> SizeRule {
        SizeRule::any()
    }

    /// Checks the settings against the pictures.
    ///
    /// # Errors
    /// A usage error naming the setting that does not fit.
    fn new(config: Self::Config, pictures: &Pictures) -> Result<Self>;

    /// Makes fresh networks.
    fn networks(&self, init: &mut Init) -> Self::Networks;

    /// What happens in a step, in order.
    fn phases(&self) -> Vec<Phase>;

    /// Which pictures come together in a batch; it knows its kind as [`Batch::kind`].
    fn grouping(&self) -> Grouping {
        Grouping::Shuffled
    }

    /// The loss of one phase on a batch.
    ///
    /// # Errors
    /// If the batch lacks what the system needs.
    fn loss(&mut self, networks: &Self::Networks, phase: &str, batch: &Batch) -> Result<Loss>;

    /// What the system can do.
    fn abilities(&self) -> Abilities<'_, Self::Networks>;

    /// Tensors beside the networks that a resumed run needs (an image pool).
    fn state(&self) -> State {
        State::new()
    }

    /// Takes back what [`System::state`] gave.
    fn restore(&mut self, _state: State) {}
}

/// Networks that a system does not make afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// The folder of the run that has trained them.
    pub run: &'a str,
    /// Their paths there and here. All that a network has here must be there, and there may be more.
    pub networks: &'static [(&'static str, &'static str)],
}

/// A part of a step that updates some networks by one loss.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name in logs and checkpoints.
    pub name: &'static str,
    /// The networks it updates: names of fields of [`System::Networks`].
    pub trains: Vec<&'static str>,
    /// How they are updated.
    pub optimizer: OptimizerConfig,
    /// It runs every so many steps (lazy regularisers, several discriminator steps).
    pub every: u64,
}

impl Phase {
    /// A phase of every step.
    pub fn new(name: &'static str, trains: &[&'static str], optimizer: OptimizerConfig) -> Self {
        Self { name, trains: trains.to_vec(), optimizer, every: 1 }
    }

    /// A phase of every n-th step.
    pub fn every(self, n: u64) -> Self {
        Self { every: n.max(1), ..self }
    }
}

/// What a phase minimises, and the numbers it reports.
pub struct Loss {
    /// The scalar to descend.
    pub total: Tensor<1>,
    /// Named terms for the log.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl Loss {
    /// A loss of one term.
    pub fn new(name: &'static str, total: Tensor<1>) -> Self {
        Self { terms: vec![(name, total.clone().detach())], total }
    }

    /// Adds a term to the total and to the log.
    pub fn plus(mut self, name: &'static str, weight: f64, term: Tensor<1>) -> Self {
        self.terms.push((name, term.clone().detach()));
        self.total = self.total + term * weight;
        self
    }

    /// Adds a number to the log only.
    pub fn report(mut self, name: &'static str, value: Tensor<1>) -> Self {
        self.terms.push((name, value.detach()));
        self
    }
}

/// Something a system may be able to do; each is a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ability {
    /// `sample`
    Generate,
    /// `reconstruct`
    Reconstruct,
    /// `encode`, and the ends of `interpolate` from pictures
    Encode,
    /// `interpolate`, `edit`: pictures from latents
    Decode,
    /// `translate`
    Translate,
    /// `complete`
    Complete,
    /// `classify`
    Classify,
    /// `evaluate --metrics segments`, and guidance by a map
    Segment,
    /// `evaluate --metrics svm`, and the features other runs are judged by
    Represent,
    /// `evaluate --metrics nll,bpd`
    Likelihood,
}

impl Ability {
    /// The verb that needs the ability.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Generate => "sample",
            Self::Reconstruct => "reconstruct",
            Self::Encode => "encode",
            Self::Decode => "interpolate",
            Self::Translate => "translate",
            Self::Complete => "complete",
            Self::Classify => "classify",
            Self::Segment => "evaluate --metrics segments",
            Self::Represent => "evaluate --metrics svm",
            Self::Likelihood => "evaluate --metrics nll",
        }
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Which samples: sample 17 is the same picture whatever else is asked for.
    pub indices: Range<u64>,
    /// The seed behind `key`.
    pub seed: u64,
    /// Keys all randomness.
    pub key: Key,
    /// The class, for class-conditional systems.
    pub class: Option<u32>,
    /// Settings of the sampler.
    pub sampler: SamplerSettings,
    /// Initial noise `[n, c, h, w]` or latents, in place of keyed noise.
    pub noise: Option<Tensor<4>>,
    /// What systems look at that are conditioned on a sequence; 0 if nothing is given.
    pub context: Option<Context>,
    /// What steers the chain beside the model itself.
    pub guides: Vec<Guided>,
    /// Told of the chain on its way.
    pub watch: Option<ChainWatch>,
    /// Where to compute; not an autodiff device.
    pub device: Device,
}

impl GenerateRequest {
    /// `indices` of `seed` with a system's own sampler settings.
    pub fn new(indices: Range<u64>, seed: u64, device: &Device) -> Self {
        Self {
            indices,
            seed,
            key: Key::new(seed).purpose("sample"),
            class: None,
            sampler: SamplerSettings::default(),
            noise: None,
            context: None,
            guides: Vec::new(),
            watch: None,
            device: device.clone(),
        }
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        (self.indices.end - self.indices.start) as usize
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of each sample: the one asked for, else one of `count` drawn for it.
    pub fn classes(&self, count: usize) -> Vec<u32> {
        match self.class {
            Some(class) => vec![class; self.len()],
            None => {
                let draws = self.key.purpose("class").below(self.indices.clone(), count as u64);
                draws.into_iter().map(|c| c as u32).collect()
            }
        }
    }

    /// Standard normal numbers for each sample.
    pub fn normal<const D: usize>(&self, purpose: &str, shape: [usize; D]) -> Tensor<D> {
        kiln_nn::tensor::normal(self.key.purpose(purpose), self.indices.clone(), shape, &self.device)
    }
}

/// Sequences of features that condition samples, such as a text's: `[n, tokens, features]`, or
/// `[1, tokens, features]` for all samples.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What samples are to show.
    pub with: Option<Tensor<3>>,
    /// What guidance leads away from; 0 if it is not given.
    pub without: Option<Tensor<3>>,
}

impl Context {
    /// The part of samples `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let part = |rows: &Option<Tensor<3>>| {
            rows.clone().map(|rows| if rows.dims()[0] == 1 { rows } else { rows.narrow(0, start, len) })
        };
        Self { with: part(&self.with), without: part(&self.without) }
    }
}

/// What a [`Guide`] is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// The noisy picture of the chain.
    Noisy,
    /// The picture that the model expects behind it.
    Clean,
}

/// A score that pictures are steered to raise: a classifier's log-probability, nearness to something.
pub trait Guide {
    /// What it must be shown.
    fn looks_at(&self) -> Looks;

    /// The score of each picture x = `signal`·x₀ + `sigma`·ε of a request, `[n]`; differentiable in `x`.
    ///
    /// # Errors
    /// If the pictures do not fit.
    fn score(&self, x: Tensor<4>, signal: f64, sigma: f64, request: &GenerateRequest) -> Result<Tensor<1>>;
}

/// A guide and how strongly it steers.
#[derive(Clone)]
pub struct Guided {
    /// What scores.
    pub guide: Rc<dyn Guide>,
    /// What its gradient is multiplied by.
    pub scale: f64,
    /// The flags that ask for it, as a picture's text keeps them.
    pub name: String,
}

impl fmt::Debug for Guided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Told at each evaluation of a chain: which it is, of how many if that is known, and the picture `[n, c, h, w]` that
/// the model expects so far.
#[derive(Clone)]
pub struct ChainWatch(pub Rc<WatchChain>);

/// See [`ChainWatch`].
pub type WatchChain = dyn Fn(usize, Option<usize>, &Tensor<4>);

impl fmt::Debug for ChainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainWatch")
    }
}

/// Settings of `kiln sample`; `None` is the system's own choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplerSettings {
    /// `ddpm`, `ddim`, …
    pub sampler: Option<String>,
    /// Number of denoising steps.
    pub steps: Option<usize>,
    /// Which of the schedule's times a shorter walk visits: `leading`, `trailing`, …
    pub timestep_spacing: Option<String>,
    /// DDIM's η: 0 deterministic, 1 as random as DDPM.
    pub eta: Option<f64>,
    /// Of DDPM's step: `small` or `large`.
    pub variance: Option<String>,
    /// Spacing of a solver's noise levels: `schedule`, `karras` or `exponential`.
    pub sigmas: Option<String>,
    /// The most noise σ/α that such a spacing begins at.
    pub sigma_max: Option<f64>,
    /// Where a solver ends: `zero` or `sigma_min`.
    pub final_sigma: Option<String>,
    /// Order of a multistep solver.
    pub order: Option<usize>,
    /// Its kind: `midpoint`, `heun`; `bh1`, `bh2`.
    pub solver_type: Option<String>,
    /// Of predictor–corrector: `reverse-diffusion`, `ancestral` or `none`.
    pub predictor: Option<String>,
    /// Langevin steps at each level.
    pub corrector_steps: Option<usize>,
    /// Their signal-to-noise ratio.
    pub snr: Option<f64>,
    /// Relative tolerance of the adaptive solver.
    pub rtol: Option<f64>,
    /// Its absolute tolerance.
    pub atol: Option<f64>,
    /// Classifier-free guidance scale w.
    pub guidance_scale: Option<f64>,
    /// How far guidance is brought back to the unguided deviation: 0 to 1.
    pub guidance_rescale: Option<f64>,
    /// Noise σ/α between which to guide.
    pub guidance_interval: Option<[f64; 2]>,
    /// Steps of universal guidance on the picture itself.
    pub backward_steps: Option<usize>,
    /// The size of each.
    pub backward_rate: Option<f64>,
    /// How often each step is undone and taken again.
    pub recurrence: Option<usize>,
    /// Truncation ψ of the latent.
    pub truncation_psi: Option<f64>,
}

impl SamplerSettings {
    /// What is set, as flags of `kiln sample` with their values.
    pub fn given(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("--sampler", self.sampler.clone()),
            ("--steps", self.steps.map(|v| v.to_string())),
            ("--timestep-spacing", self.timestep_spacing.clone()),
            ("--eta", self.eta.map(|v| v.to_string())),
            ("--variance", self.variance.clone()),
            ("--sigmas", self.sigmas.clone()),
            ("--sigma-max", self.sigma_max.map(|v| v.to_string())),
            ("--final-sigma", self.final_sigma.clone()),
            ("--order", self.order.map(|v| v.to_string())),
            ("--solver-type", self.solver_type.clone()),
            ("--predictor", self.predictor.clone()),
            ("--corrector-steps", self.corrector_steps.map(|v| v.to_string())),
            ("--snr", self.snr.map(|v| v.to_string())),
            ("--rtol", self.rtol.map(|v| v.to_string())),
            ("--atol", self.atol.map(|v| v.to_string())),
            ("--guidance-scale", self.guidance_scale.map(|v| v.to_string())),
            ("--guidance-rescale", self.guidance_rescale.map(|v| v.to_string())),
            ("--guidance-interval", self.guidance_interval.map(|[low, high]| format!("{low},{high}"))),
            ("--backward-steps", self.backward_steps.map(|v| v.to_string())),
            ("--backward-rate", self.backward_rate.map(|v| v.to_string())),
            ("--recurrence", self.recurrence.map(|v| v.to_string())),
            ("--truncation-psi", self.truncation_psi.map(|v| v.to_string())),
        ];
        all.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect()
    }
}

/// Makes pictures from nothing but randomness (and perhaps a class).
pub trait Generate<N>: Sync {
    /// Pictures `[n, c, h, w]` in [−1, 1].
    ///
    /// # Errors
    /// If the request asks for what the system does not have (a class, a sampler).
    fn generate(&self, networks: &N, request: &GenerateRequest) -> Result<Tensor<4>>;

    /// Features of the context that it looks at, if it does.
    fn context_features(&self) -> Option<usize> {
        None
    }
}

/// Encodes pictures and decodes them again.
pub trait Reconstruct<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → the same.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn reconstruct(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<4>>;
}

/// Maps pictures to latents.
pub trait Encode<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → `[n, d]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn encode(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;
}

/// Maps latents to pictures: what interpolation and latent arithmetic walk on.
pub trait Decode<N>: Sync {
    /// Latents of samples: the ones [`Generate`] would use.
    fn latents(&self, request: &GenerateRequest) -> Tensor<2>;

    /// `[n, d]` → `[n, c, h, w]` in [−1, 1].
    ///
    /// # Errors
    /// If the latents do not fit the network.
    fn decode(&self, networks: &N, latents: Tensor<2>) -> Result<Tensor<4>>;

    /// The point a fraction `t` of the way from `a` to `b`, `[1, d]` each. By default on the great
    /// circle, which keeps a Gaussian latent's norm (White 2016).
    fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        slerp(a, b, t)
    }
}

/// Spherical interpolation: sin((1−t)θ)/sin θ · a + sin(tθ)/sin θ · b, θ the angle between them.
pub fn slerp(a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
    let dot = |x: &Tensor<2>, y: &Tensor<2>| f64::from((x.clone() * y.clone()).sum().into_scalar::<f32>());
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt().max(1e-12);
    let theta = cosine.clamp(-1.0, 1.0).acos();
    if theta.sin() < 1e-4 {
        return a * (1.0 - t) + b * t;
    }
    a * (((1.0 - t) * theta).sin() / theta.sin()) + b * ((t * theta).sin() / theta.sin())
}

/// Turns pictures of one domain into another.
pub trait Translate<N>: Sync {
    /// Names of the directions, the default first (`a2b`, `b2a`).
    fn directions(&self) -> Vec<&'static str>;

    /// For a network that takes pictures of any size: what both sides must be multiples of.
    fn any_multiple_of(&self) -> Option<usize> {
        None
    }

    /// `[n, c, h, w]` in [−1, 1] → the same, along a direction from [`Translate::directions`].
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn translate(&self, networks: &N, images: Tensor<4>, direction: &str) -> Result<Tensor<4>>;
}

/// Fills in what it does not see of a picture.
pub trait Complete<N>: Sync {
    /// Whether it looks at each pixel, `h·w`, row by row.
    fn seen(&self) -> Vec<bool>;

    /// `[n, c, h, w]` in [−1, 1] → the same with what is not seen drawn anew, picture i by draw `request.indices[i]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network, or the request asks for what the system does not have.
    fn complete(&self, networks: &N, images: Tensor<4>, request: &GenerateRequest) -> Result<Tensor<4>>;
}

/// Says which class a picture shows.
pub trait Classify<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → logits `[n, classes]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn classify(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;

    /// For a classifier that knows noise: the logits of x = `signal`·x₀ + `sigma`·ε; `None` for any other.
    fn classify_noisy(&self, _networks: &N, _x: Tensor<4>, _signal: f64, _sigma: f64) -> Option<Tensor<2>> {
        None
    }
}

/// Says which class each pixel shows; class 0 is the ground, and class c + 1 is label c.
pub trait Segment<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → logits `[n, classes, h, w]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn segment(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<4>>;

    /// The true classes `[n, h, w]` of pictures `[n, c, h, w]` with labels `[n]`.
    fn map(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Tensor<3, Int>;
}

/// Sees more in a picture than its pixels: features learned for another end.
pub trait Represent<N>: Sync {
    /// `[n, c, h, w]` in [−1, 1] → features `[n, d]`.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn represent(&self, networks: &N, images: Tensor<4>) -> Result<Tensor<2>>;
}

/// Knows (a bound on) the probability of a picture.
pub trait Likelihood<N>: Sync {
    /// Negative log-likelihood in nats of each picture, `[n]`: the evidence bound if `samples` is 0,
    /// else the importance-sampled estimate with that many samples.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn nll(&self, networks: &N, images: Tensor<4>, samples: usize, key: Key) -> Result<Tensor<1>>;

    /// Negative log-likelihood in nats of each picture's 256 levels, `[n]`, exact but for the noise of `probes`
    /// random vectors; `None` if there is only a bound.
    ///
    /// # Errors
    /// If the pictures do not fit the network.
    fn exact_nll(&self, _networks: &N, _images: Tensor<4>, _probes: usize, _key: Key) -> Result<Option<Tensor<1>>> {
        Ok(None)
    }

    /// The pictures that the probability is of, `[n, c, h, w]`: those given, unless they are made binary first.
    fn observed(&self, images: Tensor<4>) -> Tensor<4> {
        images
    }

    /// What a figure with so many samples is called.
    fn name(&self, samples: usize) -> String {
        if samples == 0 { "nll_bound".into() } else { format!("nll_{samples}") }
    }
}

/// The abilities of a system, as far as it has them.
pub struct Abilities<'a, N> {
    /// `sample`
    pub generate: Option<&'a dyn Generate<N>>,
    /// `reconstruct`
    pub reconstruct: Option<&'a dyn Reconstruct<N>>,
    /// `encode`
    pub encode: Option<&'a dyn Encode<N>>,
    /// `interpolate`, `edit`
    pub decode: Option<&'a dyn Decode<N>>,
    /// `translate`
    pub translate: Option<&'a dyn Translate<N>>,
    /// `complete`
    pub complete: Option<&'a dyn Complete<N>>,
    /// `classify`
    pub classify: Option<&'a dyn Classify<N>>,
    /// `evaluate --metrics segments`
    pub segment: Option<&'a dyn Segment<N>>,
    /// `evaluate --metrics svm`
    pub represent: Option<&'a dyn Represent<N>>,
    /// `evaluate --metrics nll`
    pub likelihood: Option<&'a dyn Likelihood<N>>,
}

impl<N> Default for Abilities<'_, N> {
    fn default() -> Self {
        Self {
            generate: None,
            reconstruct: None,
            encode: None,
            decode: None,
            translate: None,
            complete: None,
            classify: None,
            segment: None,
            represent: None,
            likelihood: None,
        }
    }
}

impl<N> Abilities<'_, N> {
    /// Their names.
    pub fn list(&self) -> Vec<Ability> {
        let all = [
            (self.generate.is_some(), Ability::Generate),
            (self.reconstruct.is_some(), Ability::Reconstruct),
            (self.encode.is_some(), Ability::Encode),
            (self.decode.is_some(), Ability::Decode),
            (self.translate.is_some(), Ability::Translate),
            (self.complete.is_some(), Ability::Complete),
            (self.classify.is_some(), Ability::Classify),
            (self.segment.is_some(), Ability::Segment),
            (self.represent.is_some(), Ability::Represent),
            (self.likelihood.is_some(), Ability::Likelihood),
        ];
        all.into_iter().filter_map(|(has, ability)| has.then_some(ability)).collect()
    }
}

/// Checks a requested class against the classes there are.
///
/// # Errors
/// A usage error if the class does not exist, or if the system takes none.
pub fn check_class(class: Option<u32>, classes: &[String]) -> Result<()> {
    match class {
        Some(c) if classes.is_empty() => {
            Err(Error::usage(format!("--class {c}: this run has no classes; train it with a class-conditional recipe")))
        }
        Some(c) if c as usize >= classes.len() => Err(Error::usage(format!(
            "--class {c}: this run has {} classes, 0 to {} ({})",
            classes.len(),
            classes.len() - 1,
            classes.join(", ")
        ))),
        _ => Ok(()),
    }
}

/// Whether pictures are of a run's shape: channels, height, width.
///
/// # Errors
/// A usage error with both shapes.
pub fn check_pictures(images: &Tensor<4>, shape: [usize; 3]) -> Result<()> {
    let [_, c, h, w] = images.dims();
    if [c, h, w] == shape {
        return Ok(());
    }
    Err(Error::usage(format!(
        "pictures of {:?} (channels, height, width) do not fit: this run's are {shape:?}",
        [c, h, w]
    )))
}

/// Refuses the settings of samplers that a network of one pass does not have.
///
/// # Errors
/// A usage error naming the flag.
pub fn check_one_pass(system: &str, request: &GenerateRequest) -> Result<()> {
    let guided = (!request.guides.is_empty()).then_some("--classifier (and --guide)");
    let given = request.sampler.given().into_iter().map(|(flag, _)| flag);
    match given.chain(guided).find(|flag| *flag != "--truncation-psi") {
        Some(flag) => Err(Error::usage(format!("{flag}: {system} samples in one pass of its network; leave it out"))),
        None => Ok(()),
    }
}
