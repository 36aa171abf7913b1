//! Networks of image-to-image translation: Johnson's generator, the PatchGAN discriminator, and the pool of generated
//! pictures that a discriminator is shown (Zhu 2017, appendix 7.1 and 7.2).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_core::random::Key;
use kiln_nn::resample::reflect_pad;
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{
    Activation, Conv2d, Conv2dConfig, ConvTranspose2d, Init, InstanceNorm2d, WeightInit, activate, add_activate,
};
use kiln_train::HostTensor;

/// Every weight is drawn from N(0, 0.02²) (appendix 7.1).
const WEIGHTS: WeightInit = WeightInit::Normal(0.02);

fn conv(inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
    Conv2dConfig { weight: WEIGHTS, ..Conv2dConfig::new(inputs, outputs, kernel) }
}

fn norm(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    InstanceNorm2d::default().forward(x, activation)
}

/// c7s1-k, d2k, d4k, R4k…, u2k, uk, c7s1-channels, tanh: reflection padding, instance
/// normalisation, ReLU (Johnson 2016; appendix 7.2).
#[derive(Module, Debug)]
pub struct Generator {
    first: Conv2d,
    down: Vec<Conv2d>,
    blocks: Vec<ResidualBlock>,
    up: Vec<ConvTranspose2d>,
    last: Conv2d,
}

impl Generator {
    /// Pictures of `channels` channels, `k` channels inside, doubled twice.
    pub fn new(channels: usize, k: usize, blocks: usize, init: &mut Init) -> Self {
        let down = |i: usize, init: &mut Init| Conv2dConfig { stride: 2, padding: 1, ..conv(i, 2 * i, 3) }.init(init);
        let up = |o: usize, init: &mut Init| {
            Conv2dConfig { stride: 2, padding: 1, output_padding: 1, ..conv(2 * o, o, 3) }.init_transposed(init)
        };
        Self {
            first: conv(channels, k, 7).init(init),
            down: vec![down(k, init), down(2 * k, init)],
            blocks: (0..blocks).map(|_| ResidualBlock::new(4 * k, init)).collect(),
            up: vec![up(2 * k, init), up(k, init)],
            last: conv(k, channels, 7).init(init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same; h and w must be divisible by 4 and at least 8.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = norm(self.first.forward(reflect_pad(x, 3)), Activation::Relu);
        let x = self.down.iter().fold(x, |x, conv| norm(conv.forward(x), Activation::Relu));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = self.up.iter().fold(x, |x, conv| norm(conv.forward(x), Activation::Relu));
        self.last.forward(reflect_pad(x, 3)).tanh()
    }
}

/// Rk: two 3×3 convolutions with a ReLU between them, added to the input.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    conv1: Conv2d,
    conv2: Conv2d,
}

impl ResidualBlock {
    fn new(channels: usize, init: &mut Init) -> Self {
        let config = conv(channels, channels, 3);
        Self { conv1: config.init(init), conv2: config.init(init) }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → the same
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = norm(self.conv1.forward(reflect_pad(x.clone(), 1)), Activation::Relu);
        add_activate(norm(self.conv2.forward(reflect_pad(h, 1)), Activation::None), x, Activation::None)
    }
}

/// C64-C128-C256-C512 for three layers: 4×4 convolutions, the last Ck and the output with stride 1,
/// leaky ReLU 0.2, instance normalisation but for the first (appendix 7.2). Each output judges one
/// patch of the picture.
#[derive(Module, Debug)]
pub struct PatchDiscriminator {
    first: Conv2d,
    middle: Vec<Conv2d>,
    last: Conv2d,
}

impl PatchDiscriminator {
    /// Pictures of `channels` channels, `k` channels after the first of `layers` halvings.
    pub fn new(channels: usize, k: usize, layers: usize, init: &mut Init) -> Self {
        let layer = |i: usize, o: usize, stride: usize, init: &mut Init| {
            Conv2dConfig { stride, padding: 1, ..conv(i, o, 4) }.init(init)
        };
        // Widths grow to eight times the first.
        let width = |at: usize| k << at.min(3);
        let middle =
            |at: usize, init: &mut Init| layer(width(at - 1), width(at), if at < layers { 2 } else { 1 }, init);
        Self {
            first: layer(channels, k, 2, init),
            middle: (1..=layers).map(|at| middle(at, init)).collect(),
            last: layer(width(layers), 1, 1, init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → `[n, 1, h / 2^layers − 2, w / 2^layers − 2]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let leaky = Activation::LeakyRelu(0.2);
        let x = activate(self.first.forward(x), leaky);
        let x = self.middle.iter().fold(x, |x, conv| norm(conv.forward(x), leaky));
        self.last.forward(x)
    }
}

/// The last generated pictures of a domain (Shrivastava 2017, §2.3): a discriminator sees a new
/// picture or, with probability ½ once the pool is full, one from the pool, whose place the new one
/// takes.
#[derive(Default)]
pub struct ImagePool {
    images: Vec<Vec<f32>>,
}

impl ImagePool {
    /// Shows the pool `fakes`, the `samples` of a run, and gives what the discriminator sees. The
    /// choice for a sample depends on `key` and its index.
    ///
    /// # Shapes
    /// `[n, c, h, w]` → the same
    pub fn exchange(&mut self, fakes: Tensor<4>, size: usize, key: Key, samples: std::ops::Range<u64>) -> Tensor<4> {
        if size == 0 {
            return fakes;
        }
        let (shape, device) = (fakes.dims(), fakes.device());
        let coins = key.purpose("coin").below(samples.clone(), 2);
        let places = key.purpose("place").below(samples, size as u64);
        let len: usize = shape[1..].iter().product();
        let mut shown = to_values(fakes);
        for (image, (coin, place)) in shown.chunks_mut(len).zip(coins.into_iter().zip(places)) {
            if self.images.len() < size {
                self.images.push(image.to_vec());
            } else if coin == 1 {
                self.images[place as usize].swap_with_slice(image);
            }
        }
        from_values(shown, shape, &device)
    }

    /// The pictures as one tensor `[pictures, values]`, if there are any, for a checkpoint.
    pub fn state(&self) -> Option<HostTensor> {
        let len = self.images.first()?.len();
        Some(HostTensor { shape: vec![self.images.len(), len], values: self.images.concat() })
    }

    /// Takes back what [`ImagePool::state`] gave.
    pub fn restore(&mut self, saved: Option<HostTensor>) {
        self.images = match saved {
            Some(HostTensor { shape, values }) if shape.len() == 2 && shape[1] > 0 => {
                values.chunks(shape[1]).map(<[f32]>::to_vec).collect()
            }
            _ => Vec::new(),
        };
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::translation::testing::compare;

    #[test]
    fn generator_equals_pytorch() {
        compare(
            "cyclegan_g",
            |init| Generator::new(3, 4, 2, init),
            Generator::forward,
            &[
                ("first", "1"),
                ("down.0", "4"),
                ("down.1", "7"),
                ("blocks.0.conv1", "10.conv_block.1"),
                ("blocks.0.conv2", "10.conv_block.5"),
                ("blocks.1.conv1", "11.conv_block.1"),
                ("blocks.1.conv2", "11.conv_block.5"),
                ("up.0", "12"),
                ("up.1", "15"),
                ("last", "19"),
            ],
        );
    }

    #[test]
    fn discriminator_equals_pytorch() {
        compare(
            "cyclegan_d",
            |init| PatchDiscriminator::new(3, 4, 3, init),
            PatchDiscriminator::forward,
            &[("first", "0"), ("middle.0", "2"), ("middle.1", "5"), ("middle.2", "8"), ("last", "11")],
        );
    }

    #[test]
    fn pool_keeps_what_it_has_shown_whatever_the_batch() {
        let device = Device::flex();
        let run = |batch: u64| {
            let (mut pool, key, mut seen) = (ImagePool::default(), Key::new(1), Vec::new());
            for start in (0..40).step_by(batch as usize) {
                let values = (start..start + batch).map(|i| i as f32).collect();
                let fakes = from_values(values, [batch as usize, 1, 1, 1], &device);
                seen.extend(to_values(pool.exchange(fakes, 5, key, start..start + batch)));
            }
            (seen, pool.state().unwrap())
        };
        let (seen, state) = run(1);
        assert_eq!(seen[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
        let old = seen.iter().enumerate().filter(|(i, v)| **v < *i as f32).count();
        assert!((8..30).contains(&old), "{old} of 40 from the pool");
        assert_eq!(run(8), (seen, state.clone()));
        let mut again = ImagePool::default();
        again.restore(Some(state.clone()));
        assert_eq!(again.state(), Some(state));
    }
}
