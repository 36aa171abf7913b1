//! The networks of perceptual distances, by the words of `--perceptual`.

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_features::Lpips;
use kiln_nn::resample::avg_pool2d;
pub use kiln_systems::perceptual::DEFAULT;
use kiln_systems::perceptual::lpips;

/// The one that needs no file at all, for searches.
pub const PIXELS: &str = "pixels";

/// The mean square of the differences at the pictures' size and at each half of it down to 4 pixels, added up.
///
/// # Shapes
/// twice `[n, c, h, w]` → `[n]`
pub fn pixels(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let mut difference = a - b;
    let [n, ..] = difference.dims();
    let mut total = Tensor::<1>::zeros([n], &difference.device());
    loop {
        total = total + difference.clone().square().mean_dims(&[1, 2, 3]).reshape([n]);
        let [_, _, h, w] = difference.dims();
        if h.min(w) < 8 || h % 2 == 1 || w % 2 == 1 {
            return total;
        }
        difference = avg_pool2d(difference, 2, 2, 0);
    }
}

/// The network of `--perceptual`, as [`lpips`] names it.
///
/// # Errors
/// As [`lpips`].
pub fn open(spec: &str, device: &Device) -> Result<Lpips> {
    lpips("--perceptual", spec, device)
}
