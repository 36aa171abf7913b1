//! Convolutions with fewer multiplications, by Winograd's F(2×2, r×r).
//!
//! Lavin and Gray 2016, *Fast Algorithms for Convolutional Neural Networks*, section 4. A 2×2 square of
//! outputs comes from the square d of inputs it sees and the kernel g as
//!
//! `y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A`:
//!
//! 16 products for what takes 36 with 3×3 taps, 9 for 16 with 2×2, of which 4×4 taps of stride 2 are made
//! ([`geometry`]). The sum over input channels can be taken before Aᵀ · A, so the bulk of the work is matrix products,
//! one for each place of the transformed square. The transforms hold only 0, ±1 and ±½, so rounding stays that of a
//! plain sum of the same length.
//!
//! Fields are transformed with their channels last, a vector of channels at a time ([`transforms`]), which fills
//! vectors however narrow a picture is.

mod geometry;
mod lines;
mod products;
mod transforms;
mod weights;

use super::Shape;
use crate::{isa::Isa, tile::Tile};
use transforms::{Form, LANES, Three, Two};

pub(super) use products::{to_far, to_near};
pub(super) use weights::weights;

/// What transforming a number costs, in multiplications of the products.
const TRANSFORM: f64 = 10.0;
/// The same for a kernel's, which are transformed anew for each call.
const KERNEL: f64 = 40.0;

/// Runs `$body` with `$form` bound to the form for kernels of `$taps` taps.
macro_rules! with_form {
    ($taps:expr, $form:ident => $body:expr) => {
        match $taps {
            2 => {
                let $form = $crate::conv::winograd::Two;
                $body
            }
            _ => {
                let $form = $crate::conv::winograd::Three;
                $body
            }
        }
    };
}
use with_form;

/// Whether the products of this convolution are best computed here.
pub(super) fn applies(isa: Isa, s: &Shape) -> bool {
    // A product of pairs takes half the time, the transforms what they took.
    let product = if Tile::new(isa).takes_pairs() { 0.5 } else { 1.0 };
    possible(s) && pays(s, product)
}

/// Whether they can be.
pub(super) fn possible(s: &Shape) -> bool {
    geometry::taps(s).is_some()
}

/// Whether the multiplications saved are worth the transforms, one multiplication taking `product`.
fn pays(s: &Shape, product: f64) -> bool {
    let places = with_form!(geometry::taps(s).unwrap_or(3), form => places(form)) as f64;
    let views = (s.options.stride[0] * s.options.stride[1]) as f64;
    let squares = (s.images * s.far[1].div_ceil(2) * s.far[2].div_ceil(2)) as f64;
    let [near, far] = [s.near[0], s.far[0]].map(|channels| channels.next_multiple_of(LANES) as f64);
    let kernels = near * far * views * places;
    let transforms = TRANSFORM * squares * places * (views * near + far) + KERNEL * kernels;
    let here = squares * kernels * product + transforms;
    here < 0.9 * s.work() as f64 * product
}

fn places<F: Form>(_: F) -> usize {
    F::PLACES
}

/// As many rows of `across` squares as `most` squares hold, rather fewer than leave much of their last `block`
/// empty.
fn rows_of_squares(across: usize, most: usize, block: usize) -> usize {
    let filled = |rows: usize| {
        let squares = rows * across;
        squares * 1000 / squares.next_multiple_of(block)
    };
    (1..=(most / across).max(1)).max_by_key(|&rows| (filled(rows) / 50, rows)).unwrap_or(1)
}
