//! How do shuffled batches reach the training loop?
//!
//! The only state is the number of pictures seen. Item i of a stream over a set of length L belongs
//! to epoch i / L and is the (i mod L)-th of that epoch's keyed permutation, so any position is
//! reached at once and a resumed run sees exactly what an uninterrupted one would.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};

use crate::Prepared;

/// Batches that may wait, besides the one being made.
const AHEAD: usize = 2;

/// One batch of every stream.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// Pictures of each stream seen before this batch.
    pub start: u64,
    /// One part a stream, in the order given.
    pub parts: Vec<Part>,
}

/// The batch of one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// [batch, channels, height, width].
    pub shape: [usize; 4],
    /// Values in [-1, 1], in the order of the shape.
    pub values: Vec<f32>,
    /// The class of each picture, if the set has classes.
    pub labels: Option<Vec<u32>>,
    /// The caption of each picture.
    pub captions: Vec<Option<String>>,
    /// The place of each picture in its set.
    pub indices: Vec<usize>,
}

/// Background-prefetching loader over one or several streams (domains), each with its own keyed
/// permutation.
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
        let (sender, batches) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || serve(&streams, batch, key, start, &sender))
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

fn serve(streams: &[Arc<Prepared>], batch: usize, key: Key, mut start: u64, sender: &SyncSender<Result<HostBatch>>) {
    loop {
        let part = |(number, stream): (usize, &Arc<Prepared>)| gather(stream, key, number as u64, start, batch);
        let parts: Result<Vec<Part>> = streams.iter().enumerate().map(part).collect();
        let failed = parts.is_err();
        if sender.send(parts.map(|parts| HostBatch { start, parts })).is_err() || failed {
            return;
        }
        start += batch as u64;
    }
}

/// Items `start..start + batch` of stream `number`.
fn gather(stream: &Prepared, key: Key, number: u64, start: u64, batch: usize) -> Result<Part> {
    let len = stream.len() as u64;
    let shuffle = key.purpose("shuffle").at(number);
    let flip = key.purpose("flip").at(number);
    let [channels, height, width] = stream.shape();
    let mut part = Part {
        shape: [batch, channels, height, width],
        values: Vec::with_capacity(batch * channels * height * width),
        labels: Some(Vec::with_capacity(batch)),
        captions: Vec::with_capacity(batch),
        indices: Vec::with_capacity(batch),
    };
    for item in start..start + batch as u64 {
        let index = shuffle.at(item / len).permute(item % len, len) as usize;
        let sample = stream.get(index)?;
        if stream.rule().flip && flip.below([item], 2)[0] == 1 {
            part.values.extend(sample.picture.flipped().to_unit());
        } else {
            part.values.extend(sample.values);
        }
        match sample.label {
            Some(label) => part.labels.iter_mut().for_each(|l| l.push(label)),
            None => part.labels = None,
        }
        part.captions.push(sample.caption);
        part.indices.push(index);
    }
    Ok(part)
}
