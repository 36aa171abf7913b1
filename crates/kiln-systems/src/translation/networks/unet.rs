//! The U-Net of pix2pix (Isola 2017, §6.1.1).

use burn::module::Module;
use burn::tensor::Tensor;
use kiln_nn::{Activation, Conv2d, Conv2dConfig, ConvTranspose2d, Init, activate, concat};

use super::{GeneratorConfig, Norms, Pass, beside, conv};

/// Slope of LeakyReLU on the way down.
const LEAK: f32 = 0.2;
/// So many levels have dropout on their way up, from the innermost on (Isola 2017, §6.1.1: CD512, CD1024, CD1024).
const DROPS: usize = 3;

/// C64-C128-C256-C512-C512-…: each level halves the picture by a 4×4 convolution and doubles it again by a transposed one, and
/// what came in is laid beside what comes out. A norm follows each convolution but the first, the last, and the innermost one on the way
/// down, where a map may be a single pixel.
#[derive(Module, Debug)]
pub struct UnetGenerator {
    down: Vec<Conv2d>,
    up: Vec<ConvTranspose2d>,
    down_norms: Norms,
    up_norms: Norms,
    #[module(skip)]
    dropout: f64,
}

impl UnetGenerator {
    /// From pictures of `inputs` channels to `outputs`, halved `halvings` times.
    pub fn new(inputs: usize, outputs: usize, halvings: usize, config: &GeneratorConfig, init: &mut Init) -> Self {
        Self::with_latent(inputs, outputs, halvings, 0, config, init)
    }

    /// The same with `latent` numbers laid beside the input of every level's way down (Zhu 2017, *Toward Multimodal Image-to-Image
    /// Translation*, figure 3).
    pub fn with_latent(
        inputs: usize,
        outputs: usize,
        halvings: usize,
        latent: usize,
        config: &GeneratorConfig,
        init: &mut Init,
    ) -> Self {
        let (k, norm) = (config.generator_channels, config.generator_norm);
        let width = |level: usize| k << level.min(3);
        let sized = |config: Conv2dConfig| Conv2dConfig { stride: 2, padding: 1, ..config };
        let down = |level: usize, init: &mut Init| {
            let from = if level == 0 { inputs } else { width(level - 1) };
            sized(norm.conv(from + latent, width(level), 4)).init(init)
        };
        let up = |level: usize, init: &mut Init| {
            let beside = if level + 1 == halvings { 1 } else { 2 };
            let layer = match level {
                0 => conv(beside * k, outputs, 4),
                _ => norm.conv(beside * width(level), width(level - 1), 4),
            };
            sized(layer).init_transposed(init)
        };
        let inner = halvings.saturating_sub(1);
        Self {
            down: (0..halvings).map(|level| down(level, init)).collect(),
            up: (0..halvings).map(|level| up(level, init)).collect(),
            down_norms: Norms::new(norm, (1..inner).map(width), init),
            up_norms: Norms::new(norm, (0..inner).map(width), init),
            dropout: config.dropout,
        }
    }

    /// # Shapes
    /// `[n, inputs, h, w]` → `[n, outputs, h, w]`; h and w must be divisible by 2^halvings.
    pub fn forward(&self, x: Tensor<4>, pass: &Pass) -> Tensor<4> {
        self.forward_by(x, |x| x, pass)
    }

    /// Of a network [`with_latent`](Self::with_latent).
    ///
    /// # Shapes
    /// `[n, inputs, h, w]`, `[n, latent]` → `[n, outputs, h, w]`
    pub fn forward_latent(&self, x: Tensor<4>, z: Tensor<2>, pass: &Pass) -> Tensor<4> {
        self.forward_by(x, |x| beside(x, z.clone()), pass)
    }

    fn forward_by(&self, x: Tensor<4>, with: impl Fn(Tensor<4>) -> Tensor<4>, pass: &Pass) -> Tensor<4> {
        let innermost = self.down.len() - 1;
        // What each level leaves for the one below it and for its own way up.
        let mut maps = vec![self.down[0].forward(with(x))];
        for level in 1..=innermost {
            // z goes through the activation as well, as in the authors' code.
            let x = self.down[level].forward(activate(with(maps[level - 1].clone()), Activation::LeakyRelu(LEAK)));
            maps.push(match level == innermost {
                true => x,
                false => self.down_norms.forward(level - 1, x, Activation::None, pass),
            });
        }
        let mut x = activate(maps[innermost].clone(), Activation::Relu);
        for level in (1..=innermost).rev() {
            x = self.up_norms.forward(level - 1, self.up[level].forward(x), Activation::None, pass);
            if level + DROPS > innermost {
                x = pass.drop(level, x, self.dropout);
            }
            x = activate(concat(maps[level - 1].clone(), x), Activation::Relu);
        }
        self.up[0].forward(x).tanh()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::translation::import::reference_names;
    use crate::translation::networks::{Architecture, Normalization};
    use crate::translation::testing::{compare_in, tensor, with_fixture_of};

    fn config(channels: usize, halvings: usize, generator_norm: Normalization) -> GeneratorConfig {
        let generator = Architecture::Unet;
        GeneratorConfig {
            generator,
            generator_channels: channels,
            halvings,
            generator_norm,
            ..GeneratorConfig::default()
        }
    }

    #[test]
    fn equals_the_authors() {
        for (name, outputs, norm) in
            [("unet_batch", 3, Normalization::Batch), ("unet_instance", 1, Normalization::Instance)]
        {
            let config = config(1, 5, norm);
            let network = |init: &mut Init| UnetGenerator::new(3, outputs, 5, &config, init);
            compare_in(
                "translation",
                name,
                network,
                |net, x| net.forward(x, &Pass::default()),
                &reference_names(&config),
            );
        }
    }

    /// In the authors' code what comes up is laid before what was there; the fixture's weights are as they have them.
    #[test]
    fn a_latent_beside_every_level_equals_the_authors() {
        let config = config(1, 6, Normalization::Instance);
        let inside = |level: usize| format!("model{}", ".submodule".repeat(level));
        let names: Vec<(String, String)> = (0..6)
            .flat_map(|level| {
                let entry = usize::from(level > 0);
                let (down, up) = (format!("{}.down.{entry}", inside(level)), format!("{}.up.1", inside(level)));
                [(format!("down.{level}"), down), (format!("up.{level}"), up)]
            })
            .collect();
        let z = with_fixture_of("translation", |file| tensor::<2>(file, "bicycle_g_io.z", &Device::flex().autodiff()));
        let network = |init: &mut Init| UnetGenerator::with_latent(3, 3, 6, 4, &config, init);
        let forward = |net: &UnetGenerator, x: Tensor<4>| {
            let swapped = |layer: &ConvTranspose2d| {
                let mut layer = layer.clone();
                layer.weight = layer.weight.map(|weight| {
                    let half = weight.dims()[0] / 2;
                    let required = weight.is_require_grad();
                    let parts = [weight.clone().narrow(0, half, half), weight.narrow(0, 0, half)];
                    let whole = Tensor::cat(parts.to_vec(), 0);
                    if required { whole.detach().require_grad() } else { whole }
                });
                layer
            };
            let mut net = net.clone();
            for layer in net.up.iter_mut().take(5) {
                *layer = swapped(layer);
            }
            net.forward_latent(x, z.clone(), &Pass::default())
        };
        compare_in("translation", "bicycle_g", network, forward, &names);
    }

    #[test]
    fn dropout_is_of_the_sample_and_not_of_the_batch() {
        let device = Device::flex();
        let config = GeneratorConfig { dropout: 0.5, ..config(2, 4, Normalization::Instance) };
        let net = UnetGenerator::new(3, 3, 4, &config, &mut Init::new(&device, 0));
        let x = kiln_nn::tensor::uniform(kiln_core::random::Key::new(2), 0..3, [3, 3, 16, 16], &device);
        let request = |from: u64, to: u64| kiln_train::Request::new(from..to, 0, &device);
        let all = to_values(net.forward(x.clone(), &Pass::dropping(&request(4, 7))).narrow(0, 1, 1));
        let one = to_values(net.forward(x.clone().narrow(0, 1, 1), &Pass::dropping(&request(5, 6))));
        assert_eq!(all, one);
        let plain = to_values(net.forward(x.narrow(0, 1, 1), &Pass::default()));
        assert_ne!(one, plain);
    }
}
