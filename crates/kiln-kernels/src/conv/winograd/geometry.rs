//! Which convolutions are made of small ones of stride 1, and how their squares lie.
//!
//! A kernel of 3 taps and stride 1 is one itself. Of 4 taps and stride 2, the far field is a sum of four
//! convolutions of 2×2 taps, one over each class of near pixels (even or odd row, even or odd column), and each class
//! of near pixels is one such convolution of the far field. One class in one axis is a *view*.

use crate::conv::Shape;

/// One axis of the convolution as small ones of stride 1.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Squares along the axis, of two outputs of every class each.
    pub(super) squares: usize,
    /// Source pixels from one square to the next, and from one input of a view to the next.
    pub(super) step: usize,
    pub(super) spread: usize,
    /// Source pixels a square spans with all its views.
    pub(super) span: usize,
    /// Zeros before the first source pixel.
    pub(super) before: usize,
    pub(super) views: Vec<View>,
    /// Target pixels from one output of a class to the next.
    pub(super) target_spread: usize,
}

/// One class of source or target pixels.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Its first input within the span, and its first target pixel.
    pub(super) offset: usize,
    pub(super) target: usize,
    /// The kernel's index of each of its taps.
    pub(super) taps: Vec<usize>,
}

impl Axis {
    /// The far field from the near one: views are classes of near pixels.
    pub(super) fn to_far(s: &Shape, axis: usize) -> Axis {
        let (kernel, stride) = (s.kernel[axis], s.options.stride[axis]);
        // Tap `stride * i + a` reads the near pixel `a` of the i-th group of `stride`.
        let view = |a: usize| View { offset: a, target: 0, taps: (a..kernel).step_by(stride).collect() };
        let inputs = kernel / stride + 1;
        Axis {
            squares: s.far[1 + axis].div_ceil(2),
            step: 2 * stride,
            spread: stride,
            span: stride * inputs,
            before: s.options.padding[axis],
            views: (0..stride).map(view).collect(),
            target_spread: 1,
        }
    }

    /// The near field from the far one: views are classes of near pixels again, of the target now.
    pub(super) fn to_near(s: &Shape, axis: usize) -> Axis {
        let (kernel, stride, padding) = (s.kernel[axis], s.options.stride[axis], s.options.padding[axis]);
        let taps = kernel / stride;
        // Near pixel `stride * i + a` sees far pixel `i + shift - t` through tap `stride * t + first`.
        let parts = |a: usize| ((a + padding) / stride, (a + padding) % stride);
        let least = parts(0).0;
        let view = |a: usize| {
            let (shift, first) = parts(a);
            View { offset: shift - least, target: a, taps: (0..taps).rev().map(|t| stride * t + first).collect() }
        };
        let inputs = taps + 1;
        Axis {
            squares: s.near[1 + axis].div_ceil(stride).div_ceil(2),
            step: 2,
            spread: 1,
            span: inputs + parts(stride - 1).0 - least,
            before: taps - 1 - least,
            views: (0..stride).map(view).collect(),
            target_spread: stride,
        }
    }
}

/// The taps of the small convolutions, if the convolution is made of such: 2 or 3.
pub(super) fn taps(s: &Shape) -> Option<usize> {
    let options = &s.options;
    let taps = match (s.kernel, options.stride) {
        ([3, 3], [1, 1]) => 3,
        ([4, 4], [2, 2]) => 2,
        _ => return None,
    };
    let plain = options.dilation == [1, 1] && options.groups == 1 && s.images > 0;
    // With more padding there would be outputs of nothing but zeros, and negative `before`.
    let padded = options.padding.iter().all(|p| *p < s.kernel[0]);
    (plain && padded).then_some(taps)
}
