//! Training in closed form: a pass over the whole data in place of steps.

use std::sync::Arc;

use burn::tensor::Device;
use kiln_core::Result;
use kiln_data::{Part, Prepared};

use crate::batch::Domain;

/// The data of a run as a whole, for [`System::fit`](crate::System::fit).
pub struct FitData<'a> {
    streams: &'a [Arc<Prepared>],
    batch: usize,
    device: &'a Device,
}

impl<'a> FitData<'a> {
    pub(crate) fn new(streams: &'a [Arc<Prepared>], batch: usize, device: &'a Device) -> Self {
        Self { streams, batch, device }
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
        let (stream, len) = (&self.streams[domain], self.len(domain));
        (0..len).step_by(self.batch.max(1)).map(move |start| {
            let places: Vec<usize> = (start..len.min(start + self.batch)).collect();
            Ok(Domain::new(Part::of(stream, &places)?, self.device))
        })
    }
}
