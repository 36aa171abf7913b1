//! The networks of Park 2019 (appendix A): a generator that is told the classes of pixels in every norm, an encoder of styles, and a
//! discriminator whose inner maps are compared.

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::resample::{Interpolation, avg_pool2d_inside, interpolate, upsample_nearest};
use kiln_nn::{
    Activation, Conv2d, Conv2dConfig, Init, InstanceNorm2d, Linear, LinearConfig, Parametrization, SpatialNorm2d,
    WeightInit, activate, add_activate,
};
use kiln_train::SizeRule;

use super::Normalization;

/// Slope of LeakyReLU.
const LEAK: Activation = Activation::LeakyRelu(0.2);
/// Side of the map that the encoder's linear layers see, about.
const ENCODED: usize = 4;

/// Drawn from N(0, 0.02² · 2 / (fan_in + fan_out)), as in the authors' code.
fn glorot(inputs: usize, outputs: usize, taps: usize) -> WeightInit {
    WeightInit::Normal(0.02 * (2.0 / ((inputs + outputs) * taps) as f64).sqrt())
}

/// A convolution with a border that keeps the size where its stride is 1 and its kernel odd.
fn conv(inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
    let weight = glorot(inputs, outputs, kernel * kernel);
    Conv2dConfig { padding: kernel / 2, weight, ..Conv2dConfig::new(inputs, outputs, kernel) }
}

/// The same with spectral normalisation.
fn spectral(inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
    Conv2dConfig { parametrization: Parametrization::Spectral, ..conv(inputs, outputs, kernel) }
}

fn linear(inputs: usize, outputs: usize, init: &mut Init) -> Linear {
    LinearConfig { weight: glorot(inputs, outputs, 1), ..LinearConfig::new(inputs, outputs) }.init(init)
}

/// A label map, one channel a class, of the size of other maps.
fn at_size_of(map: &Tensor<4>, x: &Tensor<4>) -> Tensor<4> {
    let ([_, _, h, w], [_, _, rows, columns]) = (x.dims(), map.dims());
    if [h, w] == [rows, columns] {
        return map.clone();
    }
    interpolate(map.clone(), [h, w], Interpolation::Nearest)
}

/// What all blocks of a generator share.
#[derive(Clone, Copy, Debug)]
pub struct SpadeConfig {
    /// Classes of label maps.
    pub classes: usize,
    /// Channels between a map and its scales and shifts. The paper has 128.
    pub hidden: usize,
    /// By which statistics maps are normalised: `batch` or `instance`.
    pub norm: Normalization,
}

/// SPADE (equations 1 and 2): (1 + γ(m)) ⊙ norm(x) + β(m), where a 3×3 convolution and ReLU make what γ and β, 3×3
/// convolutions, see of the label map m.
#[derive(Module, Debug)]
pub struct SpadeNorm {
    norm: SpatialNorm2d,
    shared: Conv2d,
    gamma: Conv2d,
    beta: Conv2d,
}

impl SpadeNorm {
    /// Of maps of `channels` channels.
    pub fn new(channels: usize, config: SpadeConfig, init: &mut Init) -> Self {
        let norm = match config.norm {
            Normalization::Instance | Normalization::None => SpatialNorm2d::instance(),
            Normalization::Batch => SpatialNorm2d::batch(channels, init),
        };
        Self {
            norm,
            shared: conv(config.classes, config.hidden, 3).init(init),
            gamma: conv(config.hidden, channels, 3).init(init),
            beta: conv(config.hidden, channels, 3).init(init),
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]`, map `[n, classes, h, w]` → `[n, channels, h, w]`
    pub fn forward(&self, x: Tensor<4>, map: &Tensor<4>, activation: Activation) -> Tensor<4> {
        let seen = activate(self.shared.forward(map.clone()), Activation::Relu);
        let gamma = self.gamma.forward(seen.clone()) + 1.0;
        self.norm.forward(x, gamma, self.beta.forward(seen), activation)
    }
}

/// Two 3×3 convolutions after SPADE and leaky ReLU each, beside the input, which a 1×1 convolution after SPADE gives other
/// channels (figure 14).
#[derive(Module, Debug)]
pub struct SpadeBlock {
    norm1: SpadeNorm,
    conv1: Conv2d,
    norm2: SpadeNorm,
    conv2: Conv2d,
    norm_shortcut: Option<SpadeNorm>,
    shortcut: Option<Conv2d>,
}

impl SpadeBlock {
    /// From `inputs` channels to `outputs`.
    pub fn new(inputs: usize, outputs: usize, config: SpadeConfig, init: &mut Init) -> Self {
        let middle = inputs.min(outputs);
        let learned = inputs != outputs;
        let pointwise = Conv2dConfig { bias: false, ..spectral(inputs, outputs, 1) };
        Self {
            norm1: SpadeNorm::new(inputs, config, init),
            conv1: spectral(inputs, middle, 3).init(init),
            norm2: SpadeNorm::new(middle, config, init),
            conv2: spectral(middle, outputs, 3).init(init),
            norm_shortcut: learned.then(|| SpadeNorm::new(inputs, config, init)),
            shortcut: learned.then(|| pointwise.init(init)),
        }
    }

    /// # Shapes
    /// `[n, inputs, h, w]`, map `[n, classes, …]` → `[n, outputs, h, w]`
    pub fn forward(&self, x: Tensor<4>, map: &Tensor<4>) -> Tensor<4> {
        let map = &at_size_of(map, &x);
        let h = self.conv1.forward(self.norm1.forward(x.clone(), map, LEAK));
        let h = self.conv2.forward(self.norm2.forward(h, map, LEAK));
        let beside = match (&self.norm_shortcut, &self.shortcut) {
            (Some(norm), Some(conv)) => conv.forward(norm.forward(x, map, Activation::None)),
            _ => x,
        };
        add_activate(h, beside, Activation::None)
    }
}

/// How a generator is laid out.
#[derive(Clone, Copy, Debug)]
pub struct SpadeLayout {
    /// Channels of the last block; each block before it on the way up has twice as many. The paper has 64.
    pub channels: usize,
    /// Blocks that halve the channels, each after the maps have been doubled. The paper has 4.
    pub doublings: usize,
    /// Whether maps are doubled between the two middle blocks as well (`more` in the authors' code).
    pub middle: bool,
    /// Numbers of z; 0 begins with the label map made small.
    pub latent: usize,
}

impl SpadeLayout {
    /// How many times as large a picture is as the maps of the first block.
    pub fn factor(&self) -> usize {
        2 << (self.doublings + usize::from(self.middle))
    }

    /// Pictures that it makes.
    pub fn sizes(&self, norm: Normalization, system: &str) -> SizeRule {
        let factor = self.factor();
        // A single pixel is 0 after a norm of its own picture.
        let least = if norm == Normalization::Batch { factor } else { 2 * factor };
        SizeRule::multiple_of(factor, system).at_least(least)
    }
}

/// Blocks of SPADE (figure 11): one, doubled, two, and then doubled before each of those on the way up; leaky ReLU, a 3×3
/// convolution and tanh.
#[derive(Module, Debug)]
pub struct SpadeGenerator {
    /// From z to the first maps.
    from_latent: Option<Linear>,
    /// From the small label map to the first maps.
    from_map: Option<Conv2d>,
    head: SpadeBlock,
    middle: Vec<SpadeBlock>,
    up: Vec<SpadeBlock>,
    last: Conv2d,
    #[module(skip)]
    layout: SpadeLayout,
    /// Height and width of the first maps in training.
    #[module(skip)]
    begin: [usize; 2],
}

impl SpadeGenerator {
    /// Of pictures of `channels` channels and these sides.
    pub fn new(channels: usize, sides: [usize; 2], layout: SpadeLayout, config: SpadeConfig, init: &mut Init) -> Self {
        let begin = sides.map(|side| side / layout.factor());
        let width = |at: usize| layout.channels << (layout.doublings - at);
        let top = width(0);
        let block = |from: usize, to: usize, init: &mut Init| SpadeBlock::new(from, to, config, init);
        let from_latent = |init: &mut Init| linear(layout.latent, top * begin[0] * begin[1], init);
        Self {
            from_latent: (layout.latent > 0).then(|| from_latent(init)),
            from_map: (layout.latent == 0).then(|| conv(config.classes, top, 3).init(init)),
            head: block(top, top, init),
            middle: (0..2).map(|_| block(top, top, init)).collect(),
            up: (0..layout.doublings).map(|at| block(width(at), width(at + 1), init)).collect(),
            last: conv(layout.channels, channels, 3).init(init),
            layout,
            begin,
        }
    }

    /// z is looked at where the layout has one. The first maps are made of it at the size of the training, and resized for another.
    ///
    /// # Shapes
    /// map `[n, classes, h, w]`, z `[n, latent]` → `[n, channels, h, w]` in (−1, 1)
    pub fn forward(&self, map: &Tensor<4>, z: Option<Tensor<2>>) -> Tensor<4> {
        let [n, _, h, w] = map.dims();
        let size = [h, w].map(|side| side / self.layout.factor());
        let small = || interpolate(map.clone(), size, Interpolation::Nearest);
        let x = match (&self.from_latent, &self.from_map, z) {
            (Some(linear), _, Some(z)) => {
                let top = self.layout.channels << self.layout.doublings;
                let x = linear.forward(z).reshape([n, top, self.begin[0], self.begin[1]]);
                if size == self.begin { x } else { interpolate(x, size, Interpolation::NearestExact) }
            }
            (_, Some(conv), _) => conv.forward(small()),
            // A network with a latent is never run without one.
            _ => Tensor::zeros([n, self.layout.channels << self.layout.doublings, size[0], size[1]], &map.device()),
        };
        let doubled = |x: Tensor<4>| upsample_nearest(x, 2);
        let x = self.middle[0].forward(doubled(self.head.forward(x, map)), map);
        let x = if self.layout.middle { doubled(x) } else { x };
        let x = self.middle[1].forward(x, map);
        let x = self.up.iter().fold(x, |x, block| block.forward(doubled(x), map));
        self.last.forward(activate(x, LEAK)).tanh()
    }
}

/// Mean and log variance of a style (figure 13): 3×3 convolutions of stride 2 with spectral and instance norm until the map has 4 pixels
/// a side, and a linear layer for each.
#[derive(Module, Debug)]
pub struct SpadeEncoder {
    layers: Vec<Conv2d>,
    mean: Linear,
    log_var: Linear,
    #[module(skip)]
    size: [usize; 2],
}

impl SpadeEncoder {
    /// Pictures of `channels` channels, `k` after the first layer and at most eight times as many, z of `latent` numbers. A
    /// picture of another size is resized to `size`.
    pub fn new(channels: usize, k: usize, size: [usize; 2], latent: usize, init: &mut Init) -> Self {
        let halvings = (size[0].min(size[1]) / ENCODED).max(2).ilog2() as usize;
        let width = |at: usize| k << at.min(3);
        let layer = |at: usize, init: &mut Init| {
            let inputs = if at == 0 { channels } else { width(at - 1) };
            Conv2dConfig { stride: 2, bias: false, ..spectral(inputs, width(at), 3) }.init(init)
        };
        let left = size.map(|side| (0..halvings).fold(side, |side, _| side.div_ceil(2)));
        let features = width(halvings - 1) * left[0] * left[1];
        Self {
            layers: (0..halvings).map(|at| layer(at, init)).collect(),
            mean: linear(features, latent, init),
            log_var: linear(features, latent, init),
            size,
        }
    }

    /// # Shapes
    /// `[n, channels, h, w]` → mean and log variance, `[n, latent]` each
    pub fn forward(&self, x: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let [n, _, h, w] = x.dims();
        let x = match [h, w] == self.size {
            true => x,
            false => interpolate(x, self.size, Interpolation::Bilinear { antialias: false }),
        };
        let x = self.layers.iter().fold(x, |x, conv| InstanceNorm2d::default().forward(conv.forward(x), LEAK));
        let [_, c, h, w] = x.dims();
        let x = x.reshape([n, c * h * w]);
        (self.mean.forward(x.clone()), self.log_var.forward(x))
    }
}

/// One scale of a discriminator (figure 12): 4×4 convolutions with a border of 2, the last two of stride 1, with spectral and instance
/// norm but after the first and the last.
#[derive(Module, Debug)]
pub struct SpadePatches {
    first: Conv2d,
    middle: Vec<Conv2d>,
    last: Conv2d,
}

impl SpadePatches {
    fn new(channels: usize, k: usize, layers: usize, init: &mut Init) -> Self {
        let width = |at: usize| k << at.min(3);
        let strided = |config: Conv2dConfig, stride: usize| Conv2dConfig { stride, ..config };
        let middle = |at: usize, init: &mut Init| {
            let config = Conv2dConfig { bias: false, ..spectral(width(at - 1), width(at), 4) };
            strided(config, if at < layers { 2 } else { 1 }).init(init)
        };
        Self {
            first: strided(conv(channels, k, 4), 2).init(init),
            middle: (1..=layers).map(|at| middle(at, init)).collect(),
            last: conv(width(layers), 1, 4).init(init),
        }
    }

    /// The maps after each layer; the last are the outputs for patches.
    fn maps(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps = vec![activate(self.first.forward(x), LEAK)];
        for conv in &self.middle {
            let x = conv.forward(maps[maps.len() - 1].clone());
            maps.push(InstanceNorm2d::default().forward(x, LEAK));
        }
        maps.push(self.last.forward(maps[maps.len() - 1].clone()));
        maps
    }
}

/// Discriminators of the picture, of the picture at half its size, and so on, whose inner maps are to be seen (Wang 2018, §3.2).
#[derive(Module, Debug)]
pub struct SpadeDiscriminator {
    scales: Vec<SpadePatches>,
}

impl SpadeDiscriminator {
    /// Of label map and picture, `channels` together; `k` channels after the first layer.
    pub fn new(channels: usize, k: usize, [layers, scales]: [usize; 2], init: &mut Init) -> Self {
        Self { scales: (0..scales).map(|_| SpadePatches::new(channels, k, layers, init)).collect() }
    }

    /// The maps after each layer of each scale; the last of a scale are its outputs.
    ///
    /// # Shapes
    /// `[n, channels, h, w]` → `[n, c, h′, w′]` each
    pub fn maps(&self, x: Tensor<4>) -> Vec<Vec<Tensor<4>>> {
        let smaller = |x: &Tensor<4>| Some(avg_pool2d_inside(x.clone(), 3, 2, 1));
        let sizes = std::iter::successors(Some(x), smaller);
        self.scales.iter().zip(sizes).map(|(scale, x)| scale.maps(x)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;
    use kiln_train::params;

    use super::*;
    use crate::translation::testing::{assert_close, host, tensor, with_fixture_of, with_weights_by_formula};

    /// tests/reference/spade.py: weights by formula, with the fixture's singular vectors.
    pub(crate) fn of_fixture<M: Module>(prefix: &str, network: M) -> M {
        let network = with_weights_by_formula(network);
        let mut state = params::state(&network);
        with_fixture_of("spade", |file| {
            for (path, tensor) in state.iter_mut().filter(|(path, _)| path.contains("parametrization.")) {
                *tensor = host(file, &format!("{prefix}.{path}"));
            }
        });
        params::load(network, &state, prefix).unwrap()
    }

    /// The output, the gradient of the input, and those of parameters that the fixture has.
    fn compare<M: Module, const D: usize>(
        prefix: &str,
        network: impl FnOnce(&mut Init) -> M,
        forward: impl FnOnce(&M, Tensor<4>, &safetensors::SafeTensors) -> Tensor<D>,
    ) {
        let device = Device::flex().autodiff();
        let network = of_fixture(prefix, network(&mut Init::new(&device, 0)));
        with_fixture_of("spade", |file| {
            let input = tensor::<4>(file, &format!("{prefix}_io.input"), &device).require_grad();
            let output = forward(&network, input.clone(), file);
            assert_close(prefix, to_values(output.clone()), host(file, &format!("{prefix}_io.output")).values, 2e-5);
            let upstream = tensor::<D>(file, &format!("{prefix}_io.grad_output"), &device);
            let mut gradients = (output * upstream).sum().backward();
            let got = to_values(input.grad(&gradients).unwrap());
            assert_close(prefix, got, host(file, &format!("{prefix}_io.grad_input")).values, 2e-4);
            let got = params::take_gradients(&network, &mut gradients);
            let start = format!("{prefix}_grad.");
            let names = file.names();
            let wanted: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(&start)).collect();
            assert!(wanted.len() > 1, "{prefix}: {wanted:?}");
            for path in wanted {
                let found = got.get(path).unwrap_or_else(|| panic!("{prefix}: {path} has no gradient"));
                assert_close(path, to_values(found.clone()), host(file, &format!("{start}{path}")).values, 2e-4);
            }
        });
    }

    fn map(prefix: &str, file: &safetensors::SafeTensors) -> Tensor<4> {
        tensor(file, &format!("{prefix}_io.map"), &Device::flex().autodiff())
    }

    const CONFIG: SpadeConfig = SpadeConfig { classes: 3, hidden: 4, norm: Normalization::Batch };

    #[test]
    fn norms_equal_the_authors() {
        for (prefix, norm) in [("norm_batch", Normalization::Batch), ("norm_instance", Normalization::Instance)] {
            let network = |init: &mut Init| SpadeNorm::new(5, SpadeConfig { norm, ..CONFIG }, init);
            compare(prefix, network, |net, x, file| {
                let map = at_size_of(&map(prefix, file), &x);
                net.forward(x, &map, Activation::None)
            });
        }
    }

    #[test]
    fn blocks_equal_the_authors() {
        for (prefix, [inputs, outputs]) in [("block", [4, 2]), ("block_same", [3, 3])] {
            let network = |init: &mut Init| SpadeBlock::new(inputs, outputs, CONFIG, init);
            compare(prefix, network, |net, x, file| net.forward(x, &map(prefix, file)));
        }
    }

    /// The generator of the fixture.
    pub(crate) fn generator(init: &mut Init) -> SpadeGenerator {
        let layout = SpadeLayout { channels: 1, doublings: 4, middle: false, latent: 3 };
        SpadeGenerator::new(3, [64, 64], layout, CONFIG, init)
    }

    /// Its encoder.
    pub(crate) fn encoder(init: &mut Init) -> SpadeEncoder {
        SpadeEncoder::new(3, 1, [64, 64], 3, init)
    }

    /// Its discriminator.
    pub(crate) fn discriminator(init: &mut Init) -> SpadeDiscriminator {
        SpadeDiscriminator::new(6, 2, [2, 2], init)
    }

    #[test]
    fn generators_equal_the_authors() {
        compare("g_latent", generator, |net, x, file| {
            net.forward(&x, Some(tensor(file, "g_latent_io.z", &Device::flex().autodiff())))
        });
        let layout = SpadeLayout { channels: 1, doublings: 4, middle: false, latent: 0 };
        let config = SpadeConfig { norm: Normalization::Instance, ..CONFIG };
        let network = |init: &mut Init| SpadeGenerator::new(3, [64, 64], layout, config, init);
        compare("g_map", network, |net, x, _| net.forward(&x, None));
    }

    #[test]
    fn maps_are_doubled_once_more_in_the_middle() {
        let layout = SpadeLayout { channels: 1, doublings: 1, middle: true, latent: 2 };
        let device = Device::flex();
        let net = SpadeGenerator::new(3, [16, 8], layout, CONFIG, &mut Init::new(&device, 0));
        assert_eq!((layout.factor(), net.begin), (8, [2, 1]));
        let made = |h: usize, w: usize| {
            net.forward(&Tensor::zeros([1, 3, h, w], &device), Some(Tensor::zeros([1, 2], &device))).dims()
        };
        assert_eq!((made(16, 8), made(8, 24)), ([1, 3, 16, 8], [1, 3, 8, 24]));
    }

    #[test]
    fn encoder_and_discriminator_equal_the_authors() {
        compare("e", encoder, |net, x, _| {
            let (mean, log_var) = net.forward(x);
            Tensor::cat(vec![mean.flatten::<1>(0, 1), log_var.flatten(0, 1)], 0)
        });
        compare("d", discriminator, |net, x, _| {
            Tensor::cat(net.maps(x).into_iter().flatten().map(|map| map.flatten::<1>(0, 3)).collect(), 0)
        });
    }
}
