//! The gradient of a convolution in its weights where groups have few channels, as in depthwise
//! convolution: each weight is an inner product of far rows with shifted near rows.

use super::{Shape, axis::Axis, band::Bands};
use crate::{ConvOptions, isa::Isa, lanes, output, output::Output, tasks};

/// The weight gradient `[far, near / groups, kh, kw]`.
pub(super) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    let axis = |a: usize| {
        let ConvOptions { stride, padding, dilation, .. } = s.options;
        Axis::convolution(s.kernel[a], stride[a], padding[a], dilation[a], s.far[1 + a])
    };
    let (ng, fg) = (s.near_group(), s.far_group());
    let ([nc, nh, nw], [fc, fh, fw]) = (s.near, s.far);
    let bands = Bands::new(axis(0), axis(1), ng, 1);
    let taps = bands.taps(s.kernel[1]);
    let per_group = fg * ng * s.taps();

    let fill = |gradient: &Output<'_>| {
        tasks::each(s.options.groups, s.work(), |group| {
            let mut sums = vec![0.0f64; per_group];
            tasks::with_scratch(ng * bands.plane, |buffer| {
                for image in 0..s.images {
                    let at = (image * nc + group * ng) * nh * nw;
                    let source = &near[at..at + ng * nh * nw];
                    for band in 0..bands.count {
                        bands.fill(source, [nh, nw], band, buffer);
                        let (first, rows) = bands.rows_of(band);
                        for f in 0..fg {
                            let at = ((image * fc + group * fg + f) * fh + first) * fw;
                            let far = &far[at..at + rows * fw];
                            for n in 0..ng {
                                for (tap, offset) in &taps {
                                    let near = &buffer[n * bands.plane + offset..];
                                    sums[(f * ng + n) * s.taps() + tap] +=
                                        lanes::inner_product(isa, near, bands.pitch, far, fw, rows);
                                }
                            }
                        }
                    }
                }
            });
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            // SAFETY: each group has its own part of the gradient.
            unsafe { gradient.write(group * per_group, 1, &sums) };
        });
    };
    // SAFETY: the groups' parts together are the whole gradient.
    unsafe { output::filled(s.weights_len(), fill) }
}
