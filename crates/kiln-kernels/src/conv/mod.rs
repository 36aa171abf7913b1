//! Two-dimensional convolution as three products, which serve `conv2d` and `conv_transpose2d` alike.
//!
//! A convolution relates a *near* field (its input) to a *far* one (its output) through weights
//! `[far, near / groups, kh, kw]`:
//! far from near ([`to_far`]) is the convolution, near from far ([`to_near`]) its transpose and also
//! its gradient in the input, and [`weights`] the gradient in the weights.

mod axis;
mod band;
mod gather;
mod rows;
pub(crate) mod transpose;
mod weights;
mod winograd;

use crate::{ConvOptions, isa::Isa};

/// The far field `[images, far..]` from the near field: `conv2d`.
pub(crate) fn to_far(isa: Isa, s: &Shape, near: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    if winograd::applies(isa, s) {
        winograd::to_far(isa, s, near, w, bias)
    } else {
        gather::to_far(isa, s, near, w, bias)
    }
}

/// The near field `[images, near..]` from the far field: `conv_transpose2d`, and the gradient of
/// `conv2d` in its input.
pub(crate) fn to_near(isa: Isa, s: &Shape, far: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    if winograd::applies(isa, s) {
        winograd::to_near(isa, s, far, w, bias)
    } else {
        gather::to_near(isa, s, far, w, bias)
    }
}

/// The weight gradient `[far, near / groups, kh, kw]`.
pub(crate) fn weights(isa: Isa, s: &Shape, near: &[f32], far: &[f32]) -> Vec<f32> {
    if winograd::applies(isa, s) { winograd::weights(isa, s, near, far) } else { weights::weights(isa, s, near, far) }
}

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    /// Channels, height and width of the near field.
    pub(crate) near: [usize; 3],
    /// Channels, height and width of the far field.
    pub(crate) far: [usize; 3],
    /// Kernel height and width.
    pub(crate) kernel: [usize; 2],
    pub(crate) options: ConvOptions,
}

impl Shape {
    pub(crate) fn near_len(&self) -> usize {
        self.images * self.near.iter().product::<usize>()
    }

    pub(crate) fn far_len(&self) -> usize {
        self.images * self.far.iter().product::<usize>()
    }

    /// Near channels of one group.
    fn near_group(&self) -> usize {
        self.near[0] / self.options.groups
    }

    /// Far channels of one group.
    fn far_group(&self) -> usize {
        self.far[0] / self.options.groups
    }

    /// Kernel taps.
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(crate) fn weights_len(&self) -> usize {
        self.far[0] * self.near_group() * self.taps()
    }

    /// Multiply-adds of any of the three products.
    fn work(&self) -> usize {
        self.images * self.weights_len() * self.far[1] * self.far[2]
    }
}

#[cfg(test)]
pub(crate) mod plain {
    //! The definition of the three products in plain loops, in `f64`.
    use super::Shape;

    /// Calls `visit(near index, far index, weight index)` for every product of the convolution.
    pub(crate) fn visit(s: &Shape, mut visit: impl FnMut(usize, usize, usize)) {
        let ([nc, nh, nw], [fc, fh, fw], [kh, kw]) = (s.near, s.far, s.kernel);
        let (ng, fg) = (nc / s.options.groups, fc / s.options.groups);
        let ConvOptions { stride, padding, dilation, .. } = s.options;
        for image in 0..s.images {
            for f in 0..fc {
                for n in 0..ng {
                    for y in 0..fh {
                        for x in 0..fw {
                            for i in 0..kh {
                                for j in 0..kw {
                                    let (Some(r), Some(q)) = (
                                        (y * stride[0] + i * dilation[0]).checked_sub(padding[0]),
                                        (x * stride[1] + j * dilation[1]).checked_sub(padding[1]),
                                    ) else {
                                        continue;
                                    };
                                    if r < nh && q < nw {
                                        let c = f / fg * ng + n;
                                        visit(
                                            ((image * nc + c) * nh + r) * nw + q,
                                            ((image * fc + f) * fh + y) * fw + x,
                                            ((f * ng + n) * kh + i) * kw + j,
                                        );
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    use crate::ConvOptions;

    /// `(far, near, weights)` products of the given operands.
    pub(crate) fn products(s: &Shape, near: &[f32], far: &[f32], weights: &[f32]) -> [Vec<f64>; 3] {
        let mut out = [vec![0.0; far.len()], vec![0.0; near.len()], vec![0.0; weights.len()]];
        visit(s, |n, f, w| {
            let (vn, vf, vw) = (near[n] as f64, far[f] as f64, weights[w] as f64);
            out[0][f] += vn * vw;
            out[1][n] += vf * vw;
            out[2][w] += vn * vf;
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::{Isa, Kind},
        pairs,
    };

    fn noise(len: usize, salt: u64) -> Vec<f32> {
        let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn close(name: &str, got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            assert!((*g as f64 - e).abs() <= 1e-5 * scale, "{name}[{i}]: {g} against {e}");
        }
    }

    #[test]
    fn products_match_plain_loops() {
        let o = |stride, padding, dilation, groups| ConvOptions { stride, padding, dilation, groups };
        #[rustfmt::skip]
        let table = [
            // images, near, far channels, kernel, options, extra far size to drop
            (1, [1, 1, 1], 1, [1, 1], o([1, 1], [0, 0], [1, 1], 1)),
            (2, [3, 9, 7], 5, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [17, 32, 32], 19, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (3, [4, 8, 8], 33, [1, 1], o([1, 1], [0, 0], [1, 1], 1)),
            (2, [4, 8, 8], 6, [1, 1], o([2, 2], [0, 0], [1, 1], 1)),
            (2, [4, 19, 28], 6, [1, 1], o([2, 2], [0, 0], [1, 1], 1)),
            (1, [2, 6, 6], 3, [1, 1], o([1, 1], [1, 2], [1, 1], 1)),
            (5, [6, 11, 14], 9, [4, 4], o([2, 2], [1, 1], [1, 1], 1)),
            (2, [5, 15, 13], 4, [7, 7], o([2, 2], [3, 3], [1, 1], 1)),
            (2, [3, 13, 12], 7, [3, 3], o([2, 2], [2, 2], [2, 2], 1)),
            (2, [3, 12, 19], 7, [3, 1], o([3, 2], [1, 0], [2, 1], 1)),
            (1, [2, 7, 7], 2, [2, 2], o([3, 3], [0, 0], [1, 1], 1)),
            (2, [6, 10, 10], 9, [3, 3], o([1, 1], [1, 1], [1, 1], 3)),
            (3, [8, 16, 16], 8, [3, 3], o([1, 1], [1, 1], [1, 1], 8)),
            (2, [4, 9, 9], 8, [3, 3], o([2, 2], [1, 1], [1, 1], 4)),
            (2, [32, 9, 9], 8, [3, 3], o([1, 1], [1, 1], [1, 1], 4)),
            (9, [40, 4, 4], 35, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [3, 40, 64], 64, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (2, [64, 20, 20], 3, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [5, 3, 3], 4, [3, 3], o([1, 1], [0, 0], [1, 1], 1)),
            (1, [300, 48, 50], 20, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [48, 28, 28], 65, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [300, 7, 7], 200, [3, 3], o([1, 1], [1, 1], [1, 1], 1)),
            (1, [90, 16, 33], 97, [3, 3], o([1, 1], [0, 2], [1, 1], 1)),
            (2, [64, 5, 31], 64, [3, 3], o([1, 1], [2, 0], [1, 1], 1)),
        ];
        for (images, near, channels, kernel, options) in table {
            check(&shape(images, near, channels, kernel, options).unwrap());
        }
    }

    /// All three products of a shape, with and without bias, by every instruction set.
    fn check(s: &Shape) {
        let (x, g) = (noise(s.near_len(), 1), noise(s.far_len(), 2));
        let (w, b) = (noise(s.weights_len(), 3), noise(s.near[0].max(s.far[0]), 4));
        let [far, near, grad] = plain::products(s, &x, &g, &w);
        for isa in Isa::all() {
            close(&format!("far {isa:?} {s:?}"), &to_far(isa, s, &x, &w, None), &far);
            close(&format!("near {isa:?} {s:?}"), &to_near(isa, s, &g, &w, None), &near);
            close(&format!("weights {isa:?} {s:?}"), &weights(isa, s, &x, &g), &grad);
            if winograd::possible(s) {
                close(&format!("squares, far {isa:?} {s:?}"), &winograd::to_far(isa, s, &x, &w, None), &far);
                close(&format!("squares, near {isa:?} {s:?}"), &winograd::to_near(isa, s, &g, &w, None), &near);
                close(&format!("squares, weights {isa:?} {s:?}"), &winograd::weights(isa, s, &x, &g), &grad);
            }

            let plane = s.far[1] * s.far[2];
            let biased: Vec<f64> = far.iter().enumerate().map(|(i, v)| v + b[i / plane % s.far[0]] as f64).collect();
            close("far bias", &to_far(isa, s, &x, &w, Some(&b[..s.far[0]])), &biased);
            let plane = s.near[1] * s.near[2];
            let biased: Vec<f64> = near.iter().enumerate().map(|(i, v)| v + b[i / plane % s.near[0]] as f64).collect();
            close("near bias", &to_near(isa, s, &g, &w, Some(&b[..s.near[0]])), &biased);
        }
        if let Some(isa) = Isa::supported(Kind::Bf16) {
            check_pairs(isa, s, [&x, &g, &w]);
        }
    }

    /// The three products in bf16: those of the rounded operands, but for sums in `f32`. Winograd rounds what it
    /// has transformed, which may cost some times the error that rounding the operands does.
    fn check_pairs(isa: Isa, s: &Shape, operands: [&[f32]; 3]) {
        let round = |v: &f32| f32::from_bits(pairs::pair(0.0, *v).to_bits());
        let [x, g, w] = operands.map(|v| v.iter().map(round).collect::<Vec<_>>());
        let exact = plain::products(s, operands[0], operands[1], operands[2]);
        let rounded = plain::products(s, &x, &g, &w);
        let direct = [
            gather::to_far(isa, s, &x, &w, None),
            gather::to_near(isa, s, &g, &w, None),
            weights::weights(isa, s, &x, &g),
        ];
        for (got, expected) in direct.iter().zip(&rounded) {
            close(&format!("{isa:?} {s:?}"), got, expected);
        }
        if winograd::possible(s) {
            let [x, g, w] = operands;
            let squares = [
                winograd::to_far(isa, s, x, w, None),
                winograd::to_near(isa, s, g, w, None),
                winograd::weights(isa, s, x, g),
            ];
            for ((got, exact), rounded) in squares.iter().zip(&exact).zip(&rounded) {
                let distance = |other: &mut dyn Iterator<Item = f64>| {
                    other.zip(exact).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
                };
                let error = distance(&mut got.iter().map(|v| *v as f64));
                let usual = distance(&mut rounded.iter().copied());
                assert!(error <= 4.0 * usual, "{s:?}: {error} against {usual}");
            }
        }
    }

    /// The near field's size is given; the far one follows, if there is any.
    fn shape(images: usize, near: [usize; 3], far: usize, kernel: [usize; 2], options: ConvOptions) -> Option<Shape> {
        let size = |a: usize| {
            let reach = options.dilation[a] * (kernel[a] - 1) + 1;
            Some((near[1 + a] + 2 * options.padding[a]).checked_sub(reach)? / options.stride[a] + 1)
        };
        Some(Shape { images, near, far: [far, size(0)?, size(1)?], kernel, options })
    }

    #[test]
    fn products_match_plain_loops_whatever_the_shape() {
        // Odd counts, lone pixels, long and thin pictures: what nobody would list by hand.
        const CHANNELS: [usize; 8] = [1, 3, 5, 16, 17, 48, 64, 130];
        const SIZES: [usize; 9] = [1, 2, 4, 7, 13, 16, 30, 63, 257];
        let mut state = 1u64;
        let mut pick = |count: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % count
        };
        let (mut checked, mut by_squares) = (0, 0);
        while checked < 160 {
            let groups = [1, 1, 1, 1, 2, 5][pick(6)];
            let near = [CHANNELS[pick(8)] * groups, SIZES[pick(9)], SIZES[pick(9)]];
            let far = CHANNELS[pick(8)] * groups;
            let images = [1, 2, 7, 33][pick(4)];
            // Most of them as the networks have them.
            let usual = [None, Some((3, 1)), Some((4, 2))][pick(3)];
            let mut two = |usual: Option<usize>, from: usize, count: usize| match usual {
                Some(value) => [value; 2],
                None => [from + pick(count), from + pick(count)],
            };
            let (kernel, stride) = (two(usual.map(|u| u.0), 1, 5), two(usual.map(|u| u.1), 1, 3));
            let (padding, dilation) = (two(None, 0, 4), two(usual.map(|_| 1), 1, 2));
            let Some(s) = shape(images, near, far, kernel, ConvOptions { stride, padding, dilation, groups }) else {
                continue;
            };
            // The plain loops take their time.
            if s.work() > 8_000_000 {
                continue;
            }
            check(&s);
            checked += 1;
            by_squares += usize::from(winograd::possible(&s));
        }
        assert!(by_squares > 40, "only {by_squares} of the shapes went by Winograd");
    }
}
