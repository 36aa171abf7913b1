//! Channels joined and taken apart: copies, in parallel.

use crate::{output, output::Output, tasks};
use std::ops::Range;

/// The images of `x` and `y`, `x_len` and `y_len` elements each, joined one by one.
pub(crate) fn concat(images: usize, x: &[f32], x_len: usize, y: &[f32], y_len: usize) -> Vec<f32> {
    let len = x_len + y_len;
    let fill = |out: &Output<'_>| {
        tasks::each(2 * images, images * len, |task| {
            let (image, first) = (task / 2, task % 2 == 0);
            let (from, size, at) = if first { (x, x_len, 0) } else { (y, y_len, x_len) };
            let start = image * len + at;
            // SAFETY: each task has its own part of an image.
            let to = unsafe { out.slice(start..start + size) };
            to.write_copy_of_slice(&from[image * size..][..size]);
        });
    };
    // SAFETY: the parts together are the whole.
    unsafe { output::filled(images * len, fill) }
}

/// The elements `part` of each of the images of `len` elements.
pub(crate) fn parts(images: usize, x: &[f32], len: usize, part: Range<usize>) -> Vec<f32> {
    let size = part.len();
    let fill = |out: &Output<'_>| {
        tasks::each(images, images * size, |image| {
            // SAFETY: each task has its own image.
            let to = unsafe { out.slice(image * size..(image + 1) * size) };
            to.write_copy_of_slice(&x[image * len..][..len][part.clone()]);
        });
    };
    // SAFETY: the images together are the whole.
    unsafe { output::filled(images * size, fill) }
}
