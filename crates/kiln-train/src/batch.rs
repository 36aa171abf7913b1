//! A batch on the device, with randomness keyed to its samples.

use burn::tensor::{Device, Int, Tensor};
use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{HostBatch, Part, TokenRows};
use kiln_nn::Augmentation;
use kiln_nn::augment::Pipeline;
use kiln_nn::tensor::{from_indices, from_values};

/// Pictures of one domain.
#[derive(Clone)]
pub struct Domain {
    /// `[n, channels, height, width]` in [−1, 1].
    pub images: Tensor<4>,
    /// `[n]`, where the set is labelled.
    pub labels: Option<Tensor<1, Int>>,
    /// The same labels on the host.
    pub host_labels: Option<Vec<u32>>,
    /// The class of each pixel, `[n, height, width]`, where the set has masks.
    pub mask: Option<Tensor<3, Int>>,
    /// Captions, where the set has them.
    pub captions: Vec<Option<String>>,
    /// The captions as tokens, where the system learns from captions.
    pub tokens: Option<Tokens>,
    /// Indices within the data set.
    pub indices: Vec<usize>,
}

impl Domain {
    /// Puts loaded pictures on the device.
    pub(crate) fn new(part: Part, device: &Device) -> Self {
        Self {
            images: from_values(part.values, part.shape, device),
            labels: part.labels.as_ref().map(|l| from_indices(l, device)),
            host_labels: part.labels,
            mask: part.masks.map(|masks| {
                let [n, _, h, w] = part.shape;
                let masks: Vec<u32> = masks.into_iter().map(u32::from).collect();
                from_indices(&masks, device).reshape([n, h, w])
            }),
            captions: part.captions,
            tokens: part.tokens.map(|rows| Tokens::new(rows, device)),
            indices: part.indices,
        }
    }
}

/// Texts as tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[n, length]`, padded at the end.
    pub ids: Tensor<2, Int>,
    /// `[n, length]`: 1 for a token, 0 for padding.
    pub mask: Tensor<2>,
    /// Tokens of each text, padding not counted.
    pub lengths: Vec<usize>,
}

impl Tokens {
    /// Puts rows of tokens on a device.
    pub fn new(rows: TokenRows, device: &Device) -> Self {
        let (n, length) = (rows.lengths.len(), rows.length);
        let row = |&tokens: &usize| (0..length).map(move |at| if at < tokens { 1.0 } else { 0.0 });
        Self {
            ids: from_indices(&rows.ids, device).reshape([n, length]),
            mask: from_values(rows.lengths.iter().flat_map(row).collect(), [n, length], device),
            lengths: rows.lengths,
        }
    }

    /// One of the texts, `n` times.
    pub fn repeated(&self, text: usize, n: usize) -> Self {
        self.chosen(&vec![text; n])
    }

    /// The texts of these numbers.
    pub fn chosen(&self, texts: &[usize]) -> Self {
        let places: Vec<u32> = texts.iter().map(|&text| text as u32).collect();
        let places = from_indices(&places, &self.mask.device());
        Self {
            ids: self.ids.clone().select(0, places.clone()),
            mask: self.mask.clone().select(0, places),
            lengths: texts.iter().map(|&text| self.lengths[text]).collect(),
        }
    }
}

/// What a training step consumes: one [`Domain`] for each data set the system asked for.
pub struct Batch {
    /// The domains, in the order the data sets were named.
    pub domains: Vec<Domain>,
    /// Images seen before this batch: the index of its first sample.
    pub start: u64,
    /// Images the whole run will see.
    pub budget: u64,
    /// Pictures in the set behind each domain; those of the batch where nobody says more.
    pub set_sizes: Vec<usize>,
    /// Which of the kinds of [`System::grouping`](crate::System::grouping) it is.
    pub kind: Option<usize>,
    key: Key,
    device: Device,
    augment: Option<(Pipeline, f64)>,
}

impl Batch {
    /// Puts a loaded batch on the device. Random draws are keyed by `key` and the sample's index.
    pub fn new(host: HostBatch, budget: u64, key: Key, device: &Device) -> Self {
        let (key, device) = (key.purpose("training"), device.clone());
        let domains: Vec<Domain> = host.parts.into_iter().map(|part| Domain::new(part, &device)).collect();
        let set_sizes = domains.iter().map(|d| d.indices.len()).collect();
        Self { domains, start: host.start, budget, set_sizes, kind: None, key, device, augment: None }
    }

    /// Drawn from sets of so many pictures.
    pub fn of_sets(self, set_sizes: &[usize]) -> Self {
        Self { set_sizes: set_sizes.to_vec(), ..self }
    }

    /// Of a kind.
    pub fn of_kind(self, kind: Option<usize>) -> Self {
        Self { kind, ..self }
    }

    /// Whose discriminator sees pictures changed by a pipeline, with ADA's probability.
    pub(crate) fn augmented(self, pipeline: Option<Pipeline>, p: f64) -> Self {
        Self { augment: pipeline.map(|pipeline| (pipeline, p)), ..self }
    }

    /// The random changes of `train.augment`, for a discriminator's pictures; each `purpose` has its own.
    pub fn augmentation(&self, purpose: &str) -> Augmentation {
        match self.augment {
            Some((pipeline, p)) => Augmentation::new(pipeline, p, self.key(purpose), self.start),
            None => Augmentation::none(),
        }
    }

    /// The part of all pictures that the set behind a domain has: a mean over the domain times this is its part of
    /// the mean over all pictures.
    pub fn share(&self, domain: usize) -> f64 {
        self.set_sizes[domain] as f64 / self.set_sizes.iter().sum::<usize>().max(1) as f64
    }

    /// The labelled few and the others, each with as many pictures.
    ///
    /// # Errors
    /// If the batch is not of a partly labelled set.
    pub fn partly_labelled(&self) -> Result<(&Domain, &Domain)> {
        match self.domains.as_slice() {
            [labelled, others] if labelled.labels.is_some() => Ok((labelled, others)),
            _ => Err(Error::usage("this system needs a labelled set, all or a part of whose labels it is shown")),
        }
    }

    /// Both sides of pairs: picture i of one belongs to picture i of the other.
    ///
    /// # Errors
    /// If the batch is not of two sets.
    pub fn pairs(&self) -> Result<(&Domain, &Domain)> {
        match self.domains.as_slice() {
            [a, b] if a.indices == b.indices => Ok((a, b)),
            _ => Err(Error::usage("this system needs pairs: two sets whose pictures have the same names")),
        }
    }

    /// Samples in the batch.
    pub fn len(&self) -> usize {
        self.domains.first().map_or(0, |d| d.indices.len())
    }

    /// Whether the batch holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pictures of the first domain.
    pub fn images(&self) -> Tensor<4> {
        self.domains[0].images.clone()
    }

    /// The labels of the first domain.
    ///
    /// # Errors
    /// If the data set has none.
    pub fn labels(&self) -> Result<Tensor<1, Int>> {
        let labels = self.domains[0].labels.clone();
        labels.ok_or_else(|| {
            Error::usage(
                "this system needs labels, and the data set has none; use a folder with one sub-folder a class",
            )
        })
    }

    /// The class of each pixel of the first domain, `[n, height, width]`.
    ///
    /// # Errors
    /// If the data set has no masks.
    pub fn mask(&self) -> Result<Tensor<3, Int>> {
        let mask = self.domains[0].mask.clone();
        mask.ok_or_else(|| {
            Error::usage("this system needs masks; use a folder of `images` and `masks` with the same names in both")
        })
    }

    /// The captions of the first domain as tokens.
    ///
    /// # Errors
    /// If the data set has none, or its captions are not read as tokens.
    pub fn tokens(&self) -> Result<&Tokens> {
        self.domains[0].tokens.as_ref().ok_or_else(|| {
            Error::usage("this system needs captions; put a text file NAME.txt beside each NAME.png of a folder")
        })
    }

    /// Progress through the run, from 0 to 1.
    pub fn progress(&self) -> f64 {
        self.start as f64 / self.budget.max(1) as f64
    }

    /// The device of the batch.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The key of a purpose, to be indexed by sample.
    pub fn key(&self, purpose: &str) -> Key {
        self.key.purpose(purpose)
    }

    /// The key of dropout masks in this step. [`kiln_nn::tensor::dropout`] counts the samples of a batch from 0, so that without
    /// the step each place in the batch would keep one mask for the whole run.
    pub fn dropout_key(&self) -> Key {
        self.key("dropout").at(self.start)
    }

    /// Global indices of the samples: the n-th image of the run has index n.
    pub fn samples(&self) -> std::ops::Range<u64> {
        self.start..self.start + self.len() as u64
    }

    /// Standard normal numbers [n, shape`[1]`, …], `shape[0]` being the batch's length. The same
    /// `purpose` in the same batch gives the same numbers.
    pub fn normal<const D: usize>(&self, purpose: &str, shape: [usize; D]) -> Tensor<D> {
        kiln_nn::tensor::normal(self.key(purpose), self.samples(), shape, &self.device)
    }

    /// Uniform numbers in [0, 1), likewise.
    pub fn uniform<const D: usize>(&self, purpose: &str, shape: [usize; D]) -> Tensor<D> {
        kiln_nn::tensor::uniform(self.key(purpose), self.samples(), shape, &self.device)
    }

    /// One integer in `0..bound` a sample.
    pub fn below(&self, purpose: &str, bound: u64) -> Vec<u64> {
        self.key(purpose).below(self.samples(), bound)
    }
}

/// Labels with some replaced by `nothing` (the index after the last class), each with probability
/// `rate`: condition dropping as classifier-free guidance needs it (Ho & Salimans 2021, §3.2).
pub fn drop_labels(batch: &Batch, labels: &[u32], nothing: u32, rate: f64) -> Vec<u32> {
    let draws = batch.key("drop labels").uniform(batch.samples(), 1);
    let keep = |(&label, draw): (&u32, f32)| if f64::from(draw) < rate { nothing } else { label };
    labels.iter().zip(draws).map(keep).collect()
}
