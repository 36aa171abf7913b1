//! Loads shuffled batches for the training loop.
//!
//! The only state is the number of images seen. Item i of a stream over a set of length L belongs
//! to epoch i / L and is the (i mod L)-th of that epoch's keyed permutation, so any position can
//! be reached directly, and a resumed run sees exactly what an uninterrupted one would.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};

use crate::{DataSet, Prepared, PreparedSample, TokenRows};

/// Batches prefetched, besides the one being made.
const AHEAD: usize = 2;

/// Attempts to draw a combination of factors that is in the set, before the current one is used.
const ATTEMPTS: u64 = 64;

/// One batch of every stream.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// Pictures of each stream seen before this batch.
    pub start: u64,
    /// One part a stream, in the order given.
    pub parts: Vec<Part>,
}

impl HostBatch {
    /// Cut into `parts` of equal length, which divides the batch.
    pub fn split(self, parts: usize) -> Vec<Self> {
        if parts == 1 {
            return vec![self];
        }
        let n = self.parts.first().map_or(0, |p| p.shape[0]) / parts;
        let piece = |i: usize| Self {
            start: self.start + (i * n) as u64,
            parts: self.parts.iter().map(|p| p.piece(i * n..(i + 1) * n)).collect(),
        };
        (0..parts).map(piece).collect()
    }
}

/// The batch of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// [batch, channels, height, width].
    pub shape: [usize; 4],
    /// Values in [-1, 1], in the order of the shape.
    pub values: Vec<f32>,
    /// The class of each picture, if the set has classes.
    pub labels: Option<Vec<u32>>,
    /// The class of each pixel, [batch, height, width], of a stream with masks or of label maps.
    pub masks: Option<Vec<u8>>,
    /// The caption of each picture.
    pub captions: Vec<Option<String>>,
    /// The captions as tokens, of a stream with a tokenizer.
    pub tokens: Option<TokenRows>,
    /// The place of each picture in its set.
    pub indices: Vec<usize>,
}

impl Part {
    /// The pictures at `places` of a stream as they are, never mirrored.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn of(stream: &Prepared, places: &[usize]) -> Result<Self> {
        assemble(stream, places, |_, index| stream.get(index))
    }

    fn piece(&self, items: Range<usize>) -> Self {
        let [_, channels, height, width] = self.shape;
        let of = |size: usize| items.start * size..items.end * size;
        Self {
            shape: [items.len(), channels, height, width],
            values: self.values[of(channels * height * width)].to_vec(),
            labels: self.labels.as_ref().map(|l| l[items.clone()].to_vec()),
            masks: self.masks.as_ref().map(|m| m[of(height * width)].to_vec()),
            captions: self.captions[items.clone()].to_vec(),
            tokens: self.tokens.as_ref().map(|t| t.rows(items.clone())),
            indices: self.indices[items.clone()].to_vec(),
        }
    }
}

/// Which images form a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Grouping {
    /// Those that follow each other in the epoch's keyed permutation.
    #[default]
    Shuffled,
    /// Images that differ in one factor only (Kulkarni 2015, §3.1): each batch is of one of several kinds, drawn by weight.
    Clamped(Vec<Clamp>),
}

/// A kind of batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Clamp {
    /// The factor that varies, of [`DataSet::factors`]; without one, all factors that no other kind names.
    pub factor: Option<String>,
    /// Weight: how often the kind is drawn, relative to the others.
    pub weight: u64,
}

impl Grouping {
    /// The kind of the `number`-th batch of a loader with this key, as a place in the list; `None` if there are no kinds.
    pub fn kind(&self, key: Key, number: u64) -> Option<usize> {
        let Self::Clamped(clamps) = self else {
            return None;
        };
        let total: u64 = clamps.iter().map(|c| c.weight).sum();
        let mut drawn = *key.purpose("kind of batch").below([number], total.max(1)).first()?;
        clamps.iter().position(|c| {
            let found = drawn < c.weight;
            drawn = drawn.saturating_sub(c.weight);
            found
        })
    }

    /// Checks that a set can be grouped like this.
    ///
    /// # Errors
    /// A usage error naming the factor that the set does not have.
    pub fn check(&self, set: &dyn DataSet) -> Result<()> {
        let Self::Clamped(clamps) = self else {
            return Ok(());
        };
        let known: Vec<&str> = set.factors().iter().map(|f| f.name).collect();
        if known.is_empty() {
            return Err(Error::usage(format!(
                "batches in which one factor varies need a set with known factors, and {} has none; take shapes3d or dsprites",
                set.name()
            )));
        }
        let named = clamps.iter().filter_map(|c| c.factor.as_deref());
        for name in named.clone() {
            if !known.contains(&name) {
                return Err(Error::usage(format!(
                    "{}: no factor `{name}`; there are {}",
                    set.name(),
                    known.join(", ")
                )));
            }
        }
        if clamps.iter().all(|c| c.weight == 0) {
            return Err(Error::usage("each kind of batch has the weight 0; give one of them more"));
        }
        Ok(())
    }

    /// Whether each factor varies in a batch of this kind.
    fn varying(&self, kind: usize, set: &dyn DataSet) -> Vec<bool> {
        let Self::Clamped(clamps) = self else {
            return Vec::new();
        };
        let named = |name: &str| clamps.iter().any(|c| c.factor.as_deref() == Some(name));
        let varies = |name: &str| match &clamps[kind].factor {
            Some(one) => one == name,
            None => !named(name),
        };
        set.factors().iter().map(|f| varies(f.name)).collect()
    }
}

/// Background-prefetching loader over one or several streams (domains), each with its own keyed
/// permutation, which pairs share.
pub struct Loader {
    /// `None` only while dropping.
    batches: Option<Receiver<Result<HostBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Batches of `batch` pictures from each stream, after `start` pictures of each already seen. The
    /// order depends on `key`, the stream's place and the epoch alone, not on the batch size. A batch
    /// of 0, or larger than a set, is an error.
    pub fn new(streams: Vec<Arc<Prepared>>, batch: usize, key: Key, start: u64) -> Result<Self> {
        Self::grouped(streams, batch, key, start, Grouping::Shuffled)
    }

    /// As [`Loader::new`], with pictures that belong together. A batch of a kind begins with the picture whose turn it is,
    /// and the others differ from it in what varies, as keyed by their own turns. `start` is a multiple of `batch`.
    /// A set that lacks the factors is an error.
    pub fn grouped(
        streams: Vec<Arc<Prepared>>,
        batch: usize,
        key: Key,
        start: u64,
        grouping: Grouping,
    ) -> Result<Self> {
        if batch == 0 || streams.is_empty() {
            return Err(Error::usage("a loader needs a data set and a batch of at least 1"));
        }
        // A few labelled pictures may repeat in a batch of many others.
        if let Some(longest) = streams.iter().max_by_key(|s| s.len()).filter(|s| s.len() < batch) {
            return Err(Error::usage(format!(
                "a batch of {batch} pictures, but {} has only {}: use a smaller batch",
                longest.set().name(),
                longest.len()
            )));
        }
        streams.iter().try_for_each(|stream| grouping.check(&**stream.set()))?;
        if let Some(other) = streams.iter().find(|s| s.is_with_first() && s.len() != streams[0].len()) {
            return Err(Error::usage(format!(
                "pairs of {} and {}: {} pictures and {}",
                streams[0].set().name(),
                other.set().name(),
                streams[0].len(),
                other.len()
            )));
        }
        let (sender, batches) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || serve(&streams, batch, key, start, &grouping, &sender))
            .context(|| "starting the loader's thread")?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    /// The next batch; the first failure of a stream ends the loader.
    // Not an iterator: there is no end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<HostBatch> {
        let ended = || Error::new("the loader has ended after an earlier error");
        self.batches.as_ref().and_then(|b| b.recv().ok()).ok_or_else(ended)?
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The closed channel ends the thread at its next send.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been reported on its standard error.
            drop(thread.join());
        }
    }
}

fn serve(
    streams: &[Arc<Prepared>],
    batch: usize,
    key: Key,
    mut start: u64,
    grouping: &Grouping,
    sender: &SyncSender<Result<HostBatch>>,
) {
    loop {
        let part = |(number, stream): (usize, &Arc<Prepared>)| {
            // Pairs are drawn by one key.
            let number = if stream.is_with_first() { 0 } else { number as u64 };
            gather(stream, key, number, start, &chosen(stream, key, number, start, batch, grouping))
        };
        let parts: Result<Vec<Part>> = streams.iter().enumerate().map(part).collect();
        let failed = parts.is_err();
        if sender.send(parts.map(|parts| HostBatch { start, parts })).is_err() || failed {
            return;
        }
        start += batch as u64;
    }
}

/// The places of items `start..start + batch` of stream `number` in its set.
fn chosen(stream: &Prepared, key: Key, number: u64, start: u64, batch: usize, grouping: &Grouping) -> Vec<usize> {
    let len = stream.len() as u64;
    let shuffle = key.purpose("shuffle").at(number);
    let turn = |item: u64| shuffle.at(item / len).permute(item % len, len) as usize;
    let items = start..start + batch as u64;
    let Some(kind) = grouping.kind(key, start / batch as u64) else {
        return items.map(turn).collect();
    };
    let set = stream.set();
    let (first, varying) = (turn(start), grouping.varying(kind, &**set));
    let origin = set.places(first);
    let draw = key.purpose("varying").at(number);
    let other = |item: u64| {
        let places = |attempt: u64| {
            let each = origin.iter().zip(set.factors()).zip(&varying).enumerate();
            each.map(|(factor, ((&place, of), &varies))| match varies {
                true => draw.at(item).at(factor as u64).below([attempt], of.values.len() as u64)[0] as usize,
                false => place,
            })
            .collect::<Vec<_>>()
        };
        // Not every combination need be in the set; the first picture's is.
        (0..ATTEMPTS).find_map(|attempt| set.find(&places(attempt))).unwrap_or(first)
    };
    std::iter::once(first).chain(items.skip(1).map(other)).collect()
}

/// The pictures at `places` of stream `number`, the items from `start` on.
fn gather(stream: &Prepared, key: Key, number: u64, start: u64, places: &[usize]) -> Result<Part> {
    let (flip, changes) = (key.purpose("flip").at(number), key.purpose("augment").at(number));
    assemble(stream, places, |place, index| {
        let item = start + place as u64;
        let flipped = stream.rule().flip && flip.below([item], 2)[0] == 1;
        stream.served(index, changes, item, flipped)
    })
}

/// The pictures at `places`, each made by `serve` of its number in the batch and its index in the set.
fn assemble(
    stream: &Prepared,
    places: &[usize],
    serve: impl Fn(usize, usize) -> Result<PreparedSample>,
) -> Result<Part> {
    let batch = places.len();
    let [channels, height, width] = stream.shape();
    let mut part = Part {
        shape: [batch, channels, height, width],
        values: Vec::with_capacity(batch * channels * height * width),
        labels: Some(Vec::with_capacity(batch)),
        masks: None,
        captions: Vec::with_capacity(batch),
        tokens: None,
        indices: places.to_vec(),
    };
    let mut masks = Vec::with_capacity(if stream.mask_values().is_empty() { 0 } else { batch * height * width });
    for (place, &index) in places.iter().enumerate() {
        let sample = serve(place, index)?;
        if !stream.mask_values().is_empty() {
            masks.extend(classes_of_mask(&sample, stream.mask_values())?);
        }
        masks.extend(stream.classes_of(&sample)?.unwrap_or_default());
        part.values.extend(sample.values);
        match sample.label {
            Some(label) => part.labels.iter_mut().for_each(|l| l.push(label)),
            None => part.labels = None,
        }
        part.captions.push(sample.caption);
    }
    part.masks = (!masks.is_empty()).then_some(masks);
    if let Some((tokenizer, length)) = stream.tokens() {
        let texts = part.captions.iter().map(|c| c.as_deref().unwrap_or_default());
        part.tokens = Some(tokenizer.rows(texts, length).context(|| stream.set().name())?);
    }
    Ok(part)
}

/// The class of each pixel of a sample's mask: the place of its grey value among `values`.
fn classes_of_mask(sample: &PreparedSample, values: &[u8]) -> Result<Vec<u8>> {
    let Some(mask) = &sample.mask else {
        return Err(Error::new(format!("{}: it has no mask", sample.name)));
    };
    let class = |value: &u8| {
        let place = values.iter().position(|v| v == value);
        place.map(|place| place as u8).ok_or_else(|| {
            Error::new(format!("{}: its mask has the value {value}, which is none of {values:?}", sample.name))
        })
    };
    mask.pixels.iter().map(class).collect()
}
