//! The data as a whole: for training in closed form, a pass over it in place of steps, and for the state that networks
//! begin in.

use std::sync::Arc;

use burn::tensor::Device;
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_data::{Part, Prepared};

use crate::batch::Domain;

/// The data of a run as a whole, for [`System::fit`](crate::System::fit) and [`System::initialise`](crate::System::initialise).
pub struct FitData<'a> {
    streams: &'a [Arc<Prepared>],
    batch: usize,
    device: &'a Device,
    seed: u64,
}

impl<'a> FitData<'a> {
    pub(crate) fn new(streams: &'a [Arc<Prepared>], batch: usize, device: &'a Device, seed: u64) -> Self {
        Self { streams, batch, device, seed }
    }

    /// How many sets there are.
    pub fn domains(&self) -> usize {
        self.streams.len()
    }

    /// Pictures of a set.
    pub fn len(&self, domain: usize) -> usize {
        self.streams[domain].len()
    }

    /// Where to compute; not an autodiff device.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// All pictures of a set once, in its order and never mirrored, at most `train.batch` at a time.
    pub fn batches(&self, domain: usize) -> impl Iterator<Item = Result<Domain>> + '_ {
        self.parts(domain, self.len(domain), |i| i)
    }

    /// At most `n` pictures of a set from all over it, which the run's seed chooses, as [`FitData::batches`] gives them.
    pub fn drawn(&self, domain: usize, n: usize) -> impl Iterator<Item = Result<Domain>> + '_ {
        let (key, len) = (Key::new(self.seed).purpose("drawn").at(domain as u64), self.len(domain));
        self.parts(domain, n.min(len), move |i| key.permute(i as u64, len as u64) as usize)
    }

    /// At most `n` pictures of a set, always the same and from all over it, as [`FitData::batches`] gives them.
    pub fn some(&self, domain: usize, n: usize) -> impl Iterator<Item = Result<Domain>> + '_ {
        let (key, len) = (Key::new(0).purpose("some"), self.len(domain));
        self.parts(domain, n.min(len), move |i| key.permute(i as u64, len as u64) as usize)
    }

    fn parts<'b>(
        &'b self,
        domain: usize,
        n: usize,
        place: impl Fn(usize) -> usize + 'b,
    ) -> impl Iterator<Item = Result<Domain>> + 'b {
        let stream = &self.streams[domain];
        (0..n).step_by(self.batch.max(1)).map(move |start| {
            let places: Vec<usize> = (start..n.min(start + self.batch)).map(&place).collect();
            Ok(Domain::new(Part::of(stream, &places)?, self.device))
        })
    }
}
