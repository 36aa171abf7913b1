//! One axis of a convolution pass: which source positions its outputs see.

/// One axis of a pass: output `first + i * stride` for `i < count` sees, through each tap
/// `(kernel index, shift)`, the source at `i * step + shift`.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    taps: Vec<(usize, isize)>,
    pub(super) step: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl Axis {
    pub(super) fn convolution(kernel: usize, stride: usize, padding: usize, dilation: usize, count: usize) -> Axis {
        let taps = (0..kernel).map(|k| (k, (k * dilation) as isize - padding as isize)).collect();
        Axis { taps, step: stride, first: 0, stride: 1, count }
    }

    /// The classes of outputs of a transposed convolution: output `o` sees source `i` through tap
    /// `k` where `i * stride + k * dilation - padding = o`.
    pub(super) fn transposed(kernel: usize, stride: usize, padding: usize, dilation: usize, count: usize) -> Vec<Axis> {
        (0..stride.min(count))
            .map(|first| {
                let taps = (0..kernel)
                    .map(|k| (k, (first + padding) as isize - (k * dilation) as isize))
                    .filter(|(_, shift)| shift.rem_euclid(stride as isize) == 0)
                    .map(|(k, shift)| (k, shift.div_euclid(stride as isize)))
                    .collect();
                Axis { taps, step: 1, first, stride, count: (count - first).div_ceil(stride) }
            })
            .collect()
    }

    pub(super) fn least_shift(&self) -> isize {
        self.taps.iter().map(|tap| tap.1).min().unwrap_or(0)
    }

    /// Residues modulo `step` that some tap reads, in the order of the buffer's planes.
    pub(super) fn residues(&self) -> Vec<usize> {
        let least = self.least_shift();
        let mut residues: Vec<usize> = self.taps.iter().map(|tap| (tap.1 - least) as usize % self.step).collect();
        residues.sort_unstable();
        residues.dedup();
        residues
    }

    /// For each tap `(kernel index, place among the residues, index within the residue)`.
    pub(super) fn places(&self) -> Vec<(usize, usize, usize)> {
        let (least, residues) = (self.least_shift(), self.residues());
        self.taps
            .iter()
            .map(|&(k, shift)| {
                let offset = (shift - least) as usize;
                let residue = residues.iter().position(|r| *r == offset % self.step).unwrap_or(0);
                (k, residue, offset / self.step)
            })
            .collect()
    }

    /// How far beyond `count` the buffer must extend within a residue.
    pub(super) fn reach(&self) -> usize {
        self.places().iter().map(|place| place.2).max().unwrap_or(0)
    }
}
