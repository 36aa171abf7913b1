//! What is asked of a system that draws: which samples, under which conditions, by which sampler.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::batch::Tokens;

/// What to draw. Every ability that draws takes one: generate, translate, encode, inpaint.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which samples: sample 17 is the same picture whatever else is asked for.
    pub indices: Range<u64>,
    /// The seed behind `key`.
    pub seed: u64,
    /// Keys all randomness.
    pub key: Key,
    /// What the samples are to show.
    pub condition: Condition,
    /// Settings of the sampler by name, as the flags or a recipe give them. A system reads them with
    /// [`Request::sampler`].
    pub sampler: Table,
    /// Initial noise `[n, c, h, w]` or latents, in place of keyed noise.
    pub noise: Option<Tensor<4>>,
    /// What steers a chain of denoising steps beside the model itself.
    pub guides: Vec<Guided>,
    /// Called at each step of a chain.
    pub watch: Option<ChainWatch>,
    /// Where to compute; not an autodiff device.
    pub device: Device,
}

/// What samples are to show. A system says which parts it uses ([`Input`]); the others are refused.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// The class, for class-conditional systems.
    pub class: Option<u32>,
    /// A description in words.
    pub text: Option<Prompt>,
    /// Sequences of features for cross-attention, such as those of a text encoder.
    pub context: Option<Context>,
    /// Pictures whose style to take, of any size, each with its part in the blend; the parts make 1.
    pub styles: Vec<Style>,
    /// Where to paint, `[n, 1, h, w]` or `[1, 1, h, w]`: 1 is painted anew, 0 is kept.
    pub mask: Option<Tensor<4>>,
    /// Of a translation: one of [`Translate::directions`](crate::Translate::directions), the first by default.
    pub direction: Option<String>,
}

/// A part of a [`Request`] that a system may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// [`Condition::class`]
    Class,
    /// [`Condition::text`]
    Text,
    /// [`Condition::context`]
    Context,
    /// [`Condition::styles`]
    Styles,
    /// [`Condition::mask`]
    Mask,
    /// [`Request::noise`]
    Noise,
    /// [`Request::guides`]
    Guides,
}

impl Input {
    /// The flag that gives it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Class => "--class",
            Self::Text => "--text",
            Self::Context => "--context",
            Self::Styles => "--style",
            Self::Mask => "--mask",
            Self::Noise => "--noise",
            Self::Guides => "--classifier (and --guide)",
        }
    }
}

impl Request {
    /// Samples `indices` of `seed`, without conditions and with the system's own sampler settings.
    pub fn new(indices: Range<u64>, seed: u64, device: &Device) -> Self {
        Self {
            indices,
            seed,
            key: Key::new(seed).purpose("sample"),
            condition: Condition::default(),
            sampler: Table::new(),
            noise: None,
            guides: Vec::new(),
            watch: None,
            device: device.clone(),
        }
    }

    /// The same samples, of a class.
    pub fn of_class(mut self, class: Option<u32>) -> Self {
        self.condition.class = class;
        self
    }

    /// The same samples, along a direction of a translation.
    pub fn along(mut self, direction: &str) -> Self {
        self.condition.direction = Some(direction.to_string());
        self
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        (self.indices.end - self.indices.start) as usize
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The request for `len` of its samples from the `start`-th on, with their part of whatever comes one a sample.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let first = self.indices.start + start as u64;
        Self {
            indices: first..first + len as u64,
            noise: self.noise.clone().map(|noise| noise.narrow(0, start, len)),
            condition: self.condition.narrow(start, len),
            ..self.clone()
        }
    }

    /// The class of each sample: the one asked for, else one of `count` drawn for it.
    pub fn classes(&self, count: usize) -> Vec<u32> {
        match self.condition.class {
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

    /// The sampler's settings as a system's own struct, which refuses those it does not have
    /// (`#[serde(deny_unknown_fields)]`).
    ///
    /// # Errors
    /// A usage error that names the flag without effect, and the flags there are.
    pub fn sampler<T: DeserializeOwned>(&self, system: &str) -> Result<T> {
        sampler_settings(&self.sampler, system)
    }

    /// Refuses conditions that a system has no use for, so that no flag is without effect.
    ///
    /// # Errors
    /// A usage error that names the flag.
    pub fn check(&self, system: &str, takes: &[Input]) -> Result<()> {
        let c = &self.condition;
        let given = [
            (c.text.is_some(), Input::Text),
            (c.context.is_some(), Input::Context),
            (!c.styles.is_empty(), Input::Styles),
            (c.mask.is_some(), Input::Mask),
            (self.noise.is_some(), Input::Noise),
            (!self.guides.is_empty(), Input::Guides),
        ];
        match given.into_iter().find(|(given, input)| *given && !takes.contains(input)) {
            Some((_, input)) => {
                Err(Error::usage(format!("{}: this {system} does not use it; leave it out", input.flag())))
            }
            // Without classes at all, `check_class` says what to do.
            None if takes.contains(&Input::Class) || !self.guides.is_empty() => Ok(()),
            None => check_class(c.class, &[]),
        }
    }
}

/// Sampler settings as flags with their values, such as `--eta 0.5`.
pub fn sampler_flags(sampler: &Table) -> Vec<String> {
    let number = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Float(number) => number.to_string(),
        other => other.to_string(),
    };
    let text = |value: &Value| match value {
        Value::Array(values) => values.iter().map(number).collect::<Vec<_>>().join(","),
        one => number(one),
    };
    sampler.iter().map(|(key, value)| format!("{} {}", flag(key), text(value))).collect()
}

/// `--guidance-scale` of `guidance_scale`.
fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// See [`Request::sampler`].
///
/// # Errors
/// A usage error that names the flag without effect, and the flags there are.
pub fn sampler_settings<T: DeserializeOwned>(table: &Table, system: &str) -> Result<T> {
    table.clone().try_into().map_err(|e: toml::de::Error| {
        let message = e.message();
        // serde: "unknown field `eta`, expected one of `steps`, `order`", "…, there are no fields".
        let mut quoted = message.split('`').skip(1).step_by(2);
        match (message.starts_with("unknown field"), quoted.next()) {
            (true, Some(unknown)) => {
                let known: Vec<String> = quoted.map(flag).collect();
                let known = match known.as_slice() {
                    [] => "it has none".to_string(),
                    known => format!("it has {}", known.join(", ")),
                };
                Error::usage(format!("{}: not a sampler setting of {system}; {known}", flag(unknown)))
            }
            _ => Error::usage(format!("sampler settings of {system}: {message}")),
        }
    })
}

impl Condition {
    /// The part of samples `start..start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        let rows =
            |t: &Option<Tensor<4>>| t.clone().map(|t| if t.dims()[0] == 1 { t } else { t.narrow(0, start, len) });
        Self {
            context: self.context.as_ref().map(|context| context.narrow(start, len)),
            mask: rows(&self.mask),
            ..self.clone()
        }
    }
}

/// Texts that samples are to show.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The texts: sample i has text i modulo their number.
    pub words: Vec<String>,
    /// Their tokens, in the vocabulary of the run that draws.
    pub tokens: Tokens,
    /// Tokens of a text that guidance leads away from.
    pub negative: Option<Tokens>,
}

impl Prompt {
    /// The text of a sample.
    pub fn word(&self, sample: u64) -> &str {
        self.words.get((sample % self.words.len().max(1) as u64) as usize).map_or("", String::as_str)
    }

    /// Tokens of some samples.
    pub fn of(&self, samples: &Range<u64>) -> Tokens {
        let texts = self.words.len().max(1) as u64;
        self.tokens.chosen(&samples.clone().map(|sample| (sample % texts) as usize).collect::<Vec<_>>())
    }
}

/// A picture whose style is taken.
#[derive(Clone, Debug)]
pub struct Style {
    /// `[1, c, h, w]` in [−1, 1].
    pub image: Tensor<4>,
    /// Its part in a blend of styles.
    pub weight: f64,
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
    fn score(&self, x: Tensor<4>, signal: f64, sigma: f64, request: &Request) -> Result<Tensor<1>>;
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

/// Called at each evaluation of a chain with its number, their count if it is known, and the picture
/// `[n, c, h, w]` that the model expects so far.
#[derive(Clone)]
pub struct ChainWatch(pub Rc<WatchChain>);

/// See [`ChainWatch`].
pub type WatchChain = dyn Fn(usize, Option<usize>, &Tensor<4>);

impl fmt::Debug for ChainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainWatch")
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

/// Checks that pictures have a run's shape: channels, height, width.
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

#[cfg(test)]
mod tests {
    use kiln_data::TokenRows;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        steps: Option<usize>,
        guidance_scale: Option<f64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    fn request(sampler: &str) -> Request {
        Request { sampler: sampler.parse().unwrap(), ..Request::new(0..2, 0, &Device::flex()) }
    }

    #[test]
    fn a_setting_without_effect_is_refused_by_its_flag() {
        let read = request("steps = 5\nguidance_scale = 2.0").sampler::<Settings>("ddpm").unwrap();
        assert_eq!(read, Settings { steps: Some(5), guidance_scale: Some(2.0) });
        let said = request("truncation_psi = 0.5").sampler::<Settings>("ddpm").unwrap_err();
        assert!(said.is_usage());
        assert_eq!(
            said.to_string(),
            "--truncation-psi: not a sampler setting of ddpm; it has --steps, --guidance-scale"
        );
        let said = request("steps = 5").sampler::<Nothing>("gan").unwrap_err().to_string();
        assert!(said.starts_with("--steps: not a sampler setting of gan; it has none"), "{said}");
    }

    #[test]
    fn conditions_without_effect_are_refused_by_their_flag() {
        let mut request = request("");
        let rows = TokenRows { ids: vec![1], lengths: vec![1], length: 1 };
        let tokens = Tokens::new(rows, &Device::flex());
        request.condition.text = Some(Prompt { words: vec!["a red fish".into()], tokens, negative: None });
        assert!(request.check("vae", &[Input::Class]).unwrap_err().to_string().starts_with("--text: this vae"));
        request.check("clip", &[Input::Text]).unwrap();
        request.condition = Condition { class: Some(1), ..Condition::default() };
        assert!(request.check("vae", &[]).unwrap_err().to_string().starts_with("--class 1"));
    }

    #[test]
    fn a_part_of_a_request_has_its_part_of_the_noise() {
        let device = Device::flex();
        let noise = Tensor::<4>::from_floats([[[[1.0]]], [[[2.0]]], [[[3.0]]]], &device);
        let whole = Request { noise: Some(noise), ..Request::new(4..7, 0, &device) };
        let part = whole.narrow(1, 2);
        assert_eq!(part.indices, 5..7);
        assert_eq!(kiln_nn::tensor::to_values(part.noise.unwrap()), [2.0, 3.0]);
    }

    #[test]
    fn settings_are_written_as_flags() {
        let sampler = "guidance_scale = 3.0\nguidance_interval = [0.2, 5.0]\nsampler = 'ddim'";
        let flags = sampler_flags(&sampler.parse().unwrap());
        assert_eq!(flags, ["--guidance-interval 0.2,5", "--guidance-scale 3", "--sampler ddim"]);
    }
}
