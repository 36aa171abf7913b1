//! The gated activation of van den Oord 2016b, equation 2: `tanh(a) sigmoid(b)`, where `a` is the first half of
//! the channels and `b` the second.

use crate::{isa::Isa, lanes, output, output::Output, tasks};

/// `[images, half]` from `[images, 2 half]`.
pub(crate) fn forward(isa: Isa, x: &[f32], images: usize, half: usize) -> Vec<f32> {
    let fill = |out: &Output<'_>| {
        tasks::each(images, images * half, |image| {
            let (a, b) = x[2 * image * half..][..2 * half].split_at(half);
            // SAFETY: each task has an image of its own.
            lanes::gate(isa, a, b, unsafe { out.slice(image * half..(image + 1) * half) });
        });
    };
    // SAFETY: the images together are the whole output, and `lanes::gate` writes all of each.
    unsafe { output::filled(images * half, fill) }
}

/// The gradient `[images, 2 half]` in `x` from that in the output.
pub(crate) fn backward(isa: Isa, x: &[f32], g: &[f32], images: usize, half: usize) -> Vec<f32> {
    let fill = |out: &Output<'_>| {
        tasks::each(images, images * half, |image| {
            let (a, b) = x[2 * image * half..][..2 * half].split_at(half);
            let start = 2 * image * half;
            // SAFETY: each task has two ranges of its own, which do not meet.
            let (da, db) = unsafe { (out.slice(start..start + half), out.slice(start + half..start + 2 * half)) };
            lanes::ungate(isa, a, b, &g[image * half..][..half], da, db);
        });
    };
    // SAFETY: the two ranges of all images together are the whole gradient, and `lanes::ungate` writes them.
    unsafe { output::filled(2 * images * half, fill) }
}
