//! How much arithmetic did the layers do?

use std::cell::Cell;

thread_local! {
    static DONE: Cell<u64> = const { Cell::new(0) };
}

/// Multiply–adds of the forward passes of convolutions, linear layers and attention on this thread so
/// far. What lies between two moments is the difference; backward passes, normalisation and activations
/// are not counted.
pub fn multiply_adds() -> u64 {
    DONE.get()
}

/// Adds the product of a layer's sizes.
pub(crate) fn count(factors: &[usize]) {
    DONE.set(DONE.get().wrapping_add(factors.iter().map(|&f| f as u64).product()));
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::{Conv2dConfig, Init, LinearConfig, attention::attention};

    /// Worked out by hand.
    #[test]
    fn layers_count_their_products() {
        let device = Device::flex();
        let mut init = Init::new(&device, 0);
        let spent = |f: &mut dyn FnMut()| {
            let before = multiply_adds();
            f();
            multiply_adds() - before
        };
        let images = || Tensor::<4>::zeros([2, 4, 8, 8], &device);
        let conv = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(4, 6, 3) }.init(&mut init);
        // Each of 2·6·4·4 outputs sums 4·3·3 products.
        assert_eq!(spent(&mut || drop(conv.forward(images()))), 2 * 6 * 16 * 36);
        let up = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::new(4, 6, 4) }.init_transposed(&mut init);
        // Each of 2·4·8·8 inputs is multiplied with 6·4·4 weights.
        assert_eq!(spent(&mut || drop(up.forward(images()))), 2 * 256 * 96);
        let project = Conv2dConfig::new(4, 6, 4).init_transposed(&mut init);
        assert_eq!(spent(&mut || drop(project.forward(Tensor::zeros([2, 4, 1, 1], &device)))), 2 * 4 * 96);
        let linear = LinearConfig::new(5, 7).init(&mut init);
        assert_eq!(spent(&mut || drop(linear.forward(Tensor::<3>::zeros([2, 3, 5], &device)))), 6 * 35);
        let q = || Tensor::<4>::zeros([2, 3, 10, 4], &device);
        let k = || Tensor::<4>::zeros([2, 3, 9, 4], &device);
        assert_eq!(spent(&mut || drop(attention(q(), k(), k()))), 2 * (6 * 10 * 9 * 4));
    }
}
