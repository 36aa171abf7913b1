//! A convolutional LSTM that walks over a map: the recurrent layers of PixelRNN (van den Oord 2016a, equation 3).
//!
//! A step is a row or a diagonal of the map, and a *place* one of its pixels. At step t and place p, with `*` a
//! convolution over the places of a step and `x` what the input contributes, bias included,
//!
//! `[o, f, i, g] = [sigmoid, sigmoid, sigmoid, tanh](x_t + w * h_{t-1})`,
//! `c_t = f c_{t-1} + i g`, `h_t = o tanh(c_t)`.
//!
//! What lies outside of the map is zero. An image is walked by one task, its pixels channels last, so that the window of
//! a place is one run of floats and each step one product. The gradient walks back over what the forward pass kept.

pub(crate) mod plain;

use crate::{
    ScanDirection,
    conv::transpose,
    isa::Isa,
    lanes,
    output::Output,
    product::parts,
    tasks,
    tile::{Start, Steps, Tile},
};
use std::ops::Range;

/// The sizes of a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    /// Numbers in a place's state.
    pub(crate) state: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) taps: usize,
    pub(crate) direction: ScanDirection,
}

impl Shape {
    /// Of an input `[n, 4 state, height, width]` and weights `[4 state, state, taps]`.
    pub(crate) fn new([images, gates, height, width]: [usize; 4], taps: usize, direction: ScanDirection) -> Self {
        Self { images, state: gates / 4, height, width, taps, direction }
    }

    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }

    pub(crate) fn steps(&self) -> usize {
        match self.direction {
            ScanDirection::Rows => self.height,
            ScanDirection::Diagonals | ScanDirection::Antidiagonals => self.height + self.width - 1,
        }
    }

    /// The most places of a step.
    pub(crate) fn places(&self) -> usize {
        match self.direction {
            ScanDirection::Rows => self.width,
            ScanDirection::Diagonals | ScanDirection::Antidiagonals => self.height,
        }
    }

    /// Places before its own that a place's window begins.
    pub(crate) fn before(&self) -> usize {
        match self.direction {
            ScanDirection::Rows => self.taps / 2,
            ScanDirection::Diagonals | ScanDirection::Antidiagonals => self.taps - 1,
        }
    }

    /// The places of a step that are pixels. Neither end ever moves back, and each by at most one a step.
    pub(crate) fn range(&self, step: usize) -> Range<usize> {
        match self.direction {
            ScanDirection::Rows => 0..self.width,
            ScanDirection::Diagonals | ScanDirection::Antidiagonals => {
                (step + 1).saturating_sub(self.width)..(step + 1).min(self.height)
            }
        }
    }

    /// The pixel at a place of the step.
    pub(crate) fn pixel(&self, step: usize, place: usize) -> usize {
        match self.direction {
            ScanDirection::Rows => step * self.width + place,
            ScanDirection::Diagonals => place * self.width + (step - place),
            ScanDirection::Antidiagonals => place * self.width + self.width - 1 - (step - place),
        }
    }

    /// Pixels from one place to the next.
    fn apart(&self) -> usize {
        match self.direction {
            ScanDirection::Rows => 1,
            ScanDirection::Diagonals => self.width - 1,
            ScanDirection::Antidiagonals => self.width + 1,
        }
    }

    /// The pixel that a place was at one step earlier.
    fn previous(&self, step: usize, place: usize) -> Option<usize> {
        let step = step.checked_sub(1)?;
        self.range(step).contains(&place).then(|| self.pixel(step, place))
    }

    /// Multiply-adds of a scan.
    fn work(&self) -> usize {
        self.images * self.pixels() * 4 * self.state * self.state * self.taps
    }

    /// Floats of a pixel's gates and of its state: whole vectors.
    fn pitches(&self) -> [usize; 2] {
        [(4 * self.state).next_multiple_of(VECTOR), self.state.next_multiple_of(VECTOR)]
    }

    /// Floats that are kept of an image for the gradient: gates, cells and hidden states of its pixels.
    pub(crate) fn kept(&self) -> usize {
        let [gates, state] = self.pitches();
        self.pixels() * (gates + 2 * state)
    }
}

/// Floats of two of the longest vectors, which tiles write at a time.
const VECTOR: usize = 32;

/// Adds the products of `count` windows of `left`, which begin `apart` floats from one another, with the `width`
/// columns of `right` to rows of `out`, `pitch` floats from one another.
#[allow(clippy::too_many_arguments)]
fn add(
    tile: Tile,
    steps: &Steps,
    (left, apart): (&[f32], usize),
    right: &[f32],
    width: usize,
    out: &mut [f32],
    pitch: usize,
    count: usize,
) {
    let (lanes, block) = (tile.lanes(), tile.block(count));
    for first in (0..count).step_by(block) {
        let height = block.min(count - first);
        for lane in (0..width).step_by(2 * lanes) {
            let at = &[lane, lane + lanes][..(width - lane).div_ceil(lanes).min(2)];
            let (left, out) = (&left[first * apart..], &mut out[first * pitch + lane..]);
            tile.run(height, (left, apart), right, at, steps, Start::Stored, out, pitch);
        }
    }
}

/// `h` `[images, state, pixels]` and what is kept for the gradient, of `x` `[images, 4 state, pixels]` and `w`
/// `[4 state, state, taps]`.
pub(crate) fn forward(isa: Isa, s: &Shape, x: &[f32], w: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (tile, pixels, n, [gate_pitch, pitch]) = (Tile::new(isa), s.pixels(), s.state, s.pitches());
    let mut panel = vec![0.0; s.taps * n * gate_pitch];
    for (at, value) in w.iter().enumerate() {
        let (o, i, tap) = (at / s.taps / n, at / s.taps % n, at % s.taps);
        panel[(tap * n + i) * gate_pitch + o] = *value;
    }
    let steps = Steps::new((0..s.taps * n).map(|i| (i, i * gate_pitch)));
    let (mut h, mut kept) = (vec![0.0; s.images * n * pixels], vec![0.0; s.images * s.kept()]);
    let (out, keeping) = (Output::new(&mut h), Output::new(&mut kept));
    tasks::each(s.images, s.work(), |image| {
        // SAFETY: each task has its own image in both, which are initialised.
        let (h, kept) = unsafe {
            (
                out.slice(image * n * pixels..(image + 1) * n * pixels).assume_init_mut(),
                keeping.slice(image * s.kept()..(image + 1) * s.kept()).assume_init_mut(),
            )
        };
        let [gates, cells, hidden] = parts(kept, [pixels * gate_pitch, pixels * pitch, pixels * pitch]);
        transpose::channels_last(isa, &x[image * 4 * n * pixels..], pixels, 4 * n, pixels, gates, gate_pitch);
        let lengths = [(s.places() + s.taps) * n, s.places() * n];
        tasks::with_scratch(lengths.iter().sum(), |scratch| {
            scratch.fill(0.0);
            let [window, carry] = parts(scratch, lengths);
            for step in 0..s.steps() {
                let range = s.range(step);
                let first = s.pixel(step, range.start) * gate_pitch;
                if step > 0 {
                    let left = (&window[range.start * n..], n);
                    add(tile, &steps, left, &panel, 4 * n, &mut gates[first..], s.apart() * gate_pitch, range.len());
                }
                for place in range {
                    let pixel = s.pixel(step, place);
                    let gates = &mut gates[pixel * gate_pitch..][..4 * n];
                    let (cell, state) = (&mut carry[place * n..][..n], &mut hidden[pixel * pitch..][..n]);
                    lanes::lstm(isa, gates, cell, state);
                    cells[pixel * pitch..][..n].copy_from_slice(cell);
                    window[(place + s.before()) * n..][..n].copy_from_slice(state);
                }
            }
        });
        transpose::channels_last(isa, hidden, pitch, pixels, n, h, pixels);
    });
    (h, kept)
}

/// The gradients in `x` and `w` from that in `h`.
pub(crate) fn backward(isa: Isa, s: &Shape, g: &[f32], kept: &[f32], w: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (tile, pixels, n, [gate_pitch, pitch]) = (Tile::new(isa), s.pixels(), s.state, s.pitches());
    // The weights turned round: tap `taps - 1 - tap`, from gates to states.
    let mut panel = vec![0.0; s.taps * 4 * n * pitch];
    for (at, value) in w.iter().enumerate() {
        let (o, i, tap) = (at / s.taps / n, at / s.taps % n, at % s.taps);
        panel[((s.taps - 1 - tap) * 4 * n + o) * pitch + i] = *value;
    }
    let steps = Steps::new((0..s.taps * 4 * n).map(|i| (i, i * pitch)));
    // Of the weights' gradient: the places of a step, by their number.
    let sums: Vec<Steps> = (0..=s.places())
        .map(|count| Steps::new((0..count).map(|place| (place * n, place * s.apart() * gate_pitch))))
        .collect();
    let workers = tasks::threads().min(s.images).max(1);
    let size = s.taps * n * gate_pitch;
    let (mut dx, mut partials) = (vec![0.0; s.images * 4 * n * pixels], vec![0.0; workers * size]);
    let (out, shares) = (Output::new(&mut dx), Output::new(&mut partials));
    let after = s.taps - 1 - s.before();
    tasks::each(workers, 3 * s.work(), |worker| {
        // SAFETY: each task has its own part, which is initialised.
        let dw = unsafe { shares.slice(worker * size..(worker + 1) * size).assume_init_mut() };
        let lengths = [
            pixels * gate_pitch,
            pixels * pitch,
            (s.places() + s.taps - 1) * 4 * n,
            (s.places() + s.taps) * n,
            s.places() * n,
        ];
        tasks::with_scratch(lengths.iter().sum(), |scratch| {
            let [dgates, dh, ahead, window, dc] = parts(scratch, lengths);
            let none = vec![0.0; n];
            for image in worker * s.images / workers..(worker + 1) * s.images / workers {
                let kept = &kept[image * s.kept()..][..s.kept()];
                let (gates, states) = kept.split_at(pixels * gate_pitch);
                let (cells, hidden) = states.split_at(pixels * pitch);
                transpose::channels_last(isa, &g[image * n * pixels..], pixels, n, pixels, dh, pitch);
                // Vectors reach beyond the channels, into what nobody reads but must be finite to stay harmless.
                for row in dgates.chunks_exact_mut(gate_pitch) {
                    row[4 * n..].fill(0.0);
                }
                ahead.fill(0.0);
                dc.fill(0.0);
                for step in (0..s.steps()).rev() {
                    let range = s.range(step);
                    if step + 1 < s.steps() {
                        let first = s.pixel(step, range.start) * pitch;
                        let left = (&ahead[range.start * 4 * n..], 4 * n);
                        add(tile, &steps, left, &panel, n, &mut dh[first..], s.apart() * pitch, range.len());
                    }
                    for place in range.clone() {
                        let pixel = s.pixel(step, place);
                        let before = match s.previous(step, place) {
                            Some(previous) => &cells[previous * pitch..][..n],
                            None => &none,
                        };
                        let to = &mut dgates[pixel * gate_pitch..][..4 * n];
                        lanes::unlstm(
                            isa,
                            &gates[pixel * gate_pitch..][..4 * n],
                            before,
                            &cells[pixel * pitch..][..n],
                            &dh[pixel * pitch..][..n],
                            &mut dc[place * n..][..n],
                            to,
                        );
                        ahead[(place + after) * 4 * n..][..4 * n].copy_from_slice(to);
                    }
                    if step == 0 {
                        continue;
                    }
                    window.fill(0.0);
                    for place in s.range(step - 1) {
                        let state = &hidden[s.pixel(step - 1, place) * pitch..][..n];
                        window[(place + s.before()) * n..][..n].copy_from_slice(state);
                    }
                    let first = s.pixel(step, range.start) * gate_pitch;
                    let left = (&window[range.start * n..], 1);
                    let steps = &sums[range.len()];
                    add(tile, steps, left, &dgates[first..], 4 * n, dw, gate_pitch, s.taps * n);
                }
                // SAFETY: each image belongs to one task; the buffer is initialised.
                let dx = unsafe { out.slice(image * 4 * n * pixels..(image + 1) * 4 * n * pixels).assume_init_mut() };
                transpose::channels_last(isa, dgates, gate_pitch, pixels, 4 * n, dx, pixels);
            }
        });
    });
    let mut dw = vec![0.0; w.len()];
    for (at, to) in dw.iter_mut().enumerate() {
        let (o, i, tap) = (at / s.taps / n, at / s.taps % n, at % s.taps);
        let place = (tap * n + i) * gate_pitch + o;
        *to = partials.chunks_exact(size).map(|part| part[place]).sum();
    }
    (dx, dw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Flex, ops::FloatTensorOps};
    use burn::tensor::{Shape as Dims, TensorData};
    use burn_flex::FlexTensor;

    fn noise(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + salt * 104_729) as f32 * 0.37).sin()).collect()
    }

    fn tensor(values: &[f32], dims: &[usize]) -> FlexTensor {
        let device = Default::default();
        Flex::float_from_data(TensorData::new(values.to_vec(), Dims::from(dims.to_vec())), &device)
    }

    fn close(what: &str, got: &[f32], expected: FlexTensor) {
        let expected = expected.to_contiguous();
        let expected = expected.as_slice::<f32>().unwrap();
        assert_eq!(got.len(), expected.len(), "{what}");
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!((g - e).abs() <= 2e-6 * scale, "{what}[{i}]: {g} against {e}");
        }
    }

    /// PyTorch's values of small walks are among the tests of `kiln-nn`.
    #[test]
    fn every_instruction_set_walks_as_burns_operations_do() {
        for direction in [ScanDirection::Rows, ScanDirection::Diagonals, ScanDirection::Antidiagonals] {
            for (images, state, height, width, taps) in [
                (1, 1, 1, 1, 1),
                (3, 5, 4, 7, 3),
                (2, 16, 9, 5, 1),
                (2, 33, 6, 6, 3),
                (4, 8, 28, 28, 3),
                (1, 4, 1, 9, 3),
            ] {
                let taps = if direction == ScanDirection::Rows { taps } else { taps.min(2) };
                let s = Shape::new([images, 4 * state, height, width], taps, direction);
                let x = noise(images * 4 * state * height * width, 1);
                // As large as keeps sums near 1, whatever their length.
                let w = noise(4 * state * state * taps, 2);
                let w: Vec<f32> = w.iter().map(|v| v / ((state * taps) as f32).sqrt()).collect();
                let g = noise(images * state * height * width, 3);
                let (tx, tw) = (tensor(&x, &[images, 4 * state, height, width]), tensor(&w, &[4 * state, state, taps]));
                let tg = tensor(&g, &[images, state, height, width]);
                let (h, kept) = plain::forward::<Flex>(tx, tw.clone(), direction);
                let (dx, dw) = plain::backward::<Flex>(tw, kept, tg, direction);
                for isa in Isa::all() {
                    let what = format!("{isa:?} {s:?}");
                    let (hidden, kept) = forward(isa, &s, &x, &w);
                    close(&format!("h {what}"), &hidden, h.clone());
                    let (input, weight) = backward(isa, &s, &g, &kept, &w);
                    close(&format!("dx {what}"), &input, dx.clone());
                    close(&format!("dw {what}"), &weight, dw.clone());
                }
            }
        }
    }
}
