//! The residual networks of SAGAN and BigGAN (Zhang 2019; Brock 2019, appendix B), which are those of Miyato & Koyama 2018 with
//! self-attention: blocks that double or halve the map, conditional batch norm in G, a projection of the class in D.
//!
//! | | G | D |
//! |---|---|---|
//! | ends | a linear layer of z to the smallest map; batch norm, ReLU, 3×3, tanh | ReLU, sum over pixels, a linear layer, + e_yᵀφ |
//! | a block | norm, ReLU, ×2, 3×3, norm, ReLU, 3×3 | ReLU, 3×3, ReLU, 3×3, ½ (the first without its first ReLU) |
//! | beside it | ×2, 1×1 | ½, 1×1 |
//! | size | nearest neighbour | means of 2×2 |
//!
//! A 1×1 convolution commutes with both changes of size, so it runs on the smaller map. D has one more block that keeps the size.
//! With the sizes of the papers' 128×128 pictures, the widths are theirs: 16, 16, 8, 4, 2, 1 times `channels`.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result};
use kiln_nn::discriminator::{SelfAttention, project};
use kiln_nn::dual::Of;
use kiln_nn::resample::{avg_pool2d, global_sum, upsample_nearest};
use kiln_nn::{
    Activation, BatchNorm2d, ConditionalBatchNorm2d, Conv2d, Conv2dConfig, Embedding, Init, Linear, LinearConfig,
    Parametrization, Signal, WeightInit, activate,
};

use super::dcgan::Sizes;

/// What a network is made of.
#[derive(Clone, Copy, Debug)]
pub struct Design<'a> {
    /// Channels of the largest maps, doubled each time the size is halved.
    pub channels: usize,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// Where there is self-attention: on maps halved so often.
    pub attention_levels: &'a [usize],
    /// How weights are drawn.
    pub weight: WeightInit,
    /// What they go through.
    pub parametrization: Parametrization,
}

impl Design<'_> {
    /// Checks that there are maps at the levels of attention.
    ///
    /// # Errors
    /// A usage error that names those there are.
    pub fn check(attention_levels: &[usize], sizes: Sizes) -> Result<()> {
        let last = sizes.doublings;
        match attention_levels.iter().find(|level| !(1..=last).contains(*level)) {
            None => Ok(()),
            Some(level) => Err(Error::usage(format!(
                "model.attention_levels: no map at level {level}; pictures of this size are halved {last} times, and level 1 is \
                 half their size: 1 to {last}"
            ))),
        }
    }

    fn conv(&self, config: Conv2dConfig, init: &mut Init) -> Conv2d {
        Conv2dConfig { weight: self.weight, parametrization: self.parametrization, ..config }.init(init)
    }

    fn linear(&self, inputs: usize, outputs: usize, init: &mut Init) -> Linear {
        let (weight, parametrization) = (self.weight, self.parametrization);
        LinearConfig { weight, parametrization, ..LinearConfig::new(inputs, outputs) }.init(init)
    }

    fn attention(&self, level: usize, channels: usize, init: &mut Init) -> Option<SelfAttention> {
        let there = self.attention_levels.contains(&level);
        there.then(|| SelfAttention::new(channels, self.weight, self.parametrization, init))
    }
}

/// What the norms of a generator are conditioned on, and how.
#[derive(Clone, Copy, Debug)]
pub struct Conditioned {
    /// Numbers of the condition.
    pub features: usize,
    /// How scales and shifts are drawn.
    pub weight: WeightInit,
    /// What they go through.
    pub parametrization: Parametrization,
}

/// Doubles a map.
#[derive(Module, Debug)]
pub struct UpBlock {
    norm1: ConditionalBatchNorm2d,
    conv1: Conv2d,
    norm2: ConditionalBatchNorm2d,
    conv2: Conv2d,
    shortcut: Conv2d,
    attention: Option<SelfAttention>,
}

impl UpBlock {
    fn forward(&self, x: Tensor<4>, condition: Tensor<2>) -> Tensor<4> {
        let h = upsample_nearest(self.norm1.forward(x.clone(), condition.clone(), Activation::Relu), 2);
        let h = self.norm2.forward(self.conv1.forward(h), condition, Activation::Relu);
        let y = self.conv2.forward(h) + upsample_nearest(self.shortcut.forward(x), 2);
        match &self.attention {
            Some(attention) => attention.forward(y),
            None => y,
        }
    }
}

/// G.
#[derive(Module, Debug)]
pub struct Generator {
    linear: Linear,
    attention: Option<SelfAttention>,
    blocks: Vec<UpBlock>,
    norm: BatchNorm2d,
    out: Conv2d,
    #[module(skip)]
    base: [usize; 2],
}

impl Generator {
    /// From `inputs` numbers to pictures of `outputs` channels.
    pub fn new(design: &Design<'_>, inputs: usize, norms: Conditioned, outputs: usize, init: &mut Init) -> Self {
        let Design { channels, sizes: Sizes { base, doublings }, .. } = *design;
        let widest = channels << (doublings - 1);
        let norm = |channels, init: &mut Init| {
            ConditionalBatchNorm2d::new(channels, norms.features, norms.weight, norms.parametrization, init)
        };
        let block = |level: usize, init: &mut Init| {
            let (i, o) = ((channels << (level + 1)).min(widest), channels << level);
            UpBlock {
                norm1: norm(i, init),
                conv1: design.conv(Conv2dConfig::same3(i, o), init),
                norm2: norm(o, init),
                conv2: design.conv(Conv2dConfig::same3(o, o), init),
                shortcut: design.conv(Conv2dConfig::new(i, o, 1), init),
                attention: design.attention(level, o, init),
            }
        };
        Self {
            linear: design.linear(inputs, widest * base[0] * base[1], init),
            attention: design.attention(doublings, widest, init),
            blocks: (0..doublings).rev().map(|level| block(level, init)).collect(),
            norm: BatchNorm2d::new(channels, init),
            out: design.conv(Conv2dConfig::same3(channels, outputs), init),
            base,
        }
    }

    /// # Shapes
    /// `[n, inputs]`, for each block `[n, features]` → `[n, c, h, w]` in (−1, 1), of sides base·2^doublings
    pub fn forward(&self, z: Tensor<2>, conditions: &[Tensor<2>]) -> Tensor<4> {
        let ([n, _], [h, w]) = (z.dims(), self.base);
        let x = self.linear.forward(z);
        let channels = x.dims()[1] / (h * w);
        let mut x = x.reshape([n, channels, h, w]);
        if let Some(attention) = &self.attention {
            x = attention.forward(x);
        }
        for (block, condition) in self.blocks.iter().zip(conditions) {
            x = block.forward(x, condition.clone());
        }
        self.out.forward(self.norm.forward(x, Activation::Relu)).tanh()
    }
}

/// Halves a map, or keeps its size.
#[derive(Module, Debug)]
pub struct DownBlock {
    conv1: Conv2d,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    attention: Option<SelfAttention>,
    #[module(skip)]
    first: bool,
    #[module(skip)]
    halves: bool,
}

impl DownBlock {
    fn forward<X: Signal<4>>(&self, x: X) -> X {
        let halved = |x: X| if self.halves { avg_pool2d(x, 2, 2, 0) } else { x };
        let h = if self.first { x.clone() } else { activate(x.clone(), Activation::Relu) };
        let h = self.conv2.forward(activate(self.conv1.forward(h), Activation::Relu));
        let x = halved(x);
        let y = halved(h) + self.shortcut.as_ref().map_or(x.clone(), |conv| conv.forward(x));
        match &self.attention {
            Some(attention) => attention.forward(y),
            None => y,
        }
    }
}

/// D.
#[derive(Module, Debug)]
pub struct Discriminator {
    blocks: Vec<DownBlock>,
    linear: Linear,
    embedding: Option<Embedding>,
}

impl Discriminator {
    /// From pictures of `inputs` channels, of so many classes, or 0.
    pub fn new(design: &Design<'_>, inputs: usize, classes: usize, init: &mut Init) -> Self {
        let Design { channels, sizes: Sizes { doublings, .. }, .. } = *design;
        let widest = channels << (doublings - 1);
        let block = |level: usize, init: &mut Init| {
            let i = if level == 0 { inputs } else { channels << (level - 1) };
            let (o, halves) = ((channels << level).min(widest), level < doublings);
            DownBlock {
                conv1: design.conv(Conv2dConfig::same3(i, o), init),
                conv2: design.conv(Conv2dConfig::same3(o, o), init),
                shortcut: halves.then(|| design.conv(Conv2dConfig::new(i, o, 1), init)),
                attention: if halves { design.attention(level + 1, o, init) } else { None },
                first: level == 0,
                halves,
            }
        };
        let table =
            |init: &mut Init| Embedding::parametrized(classes, widest, design.weight, design.parametrization, init);
        Self {
            blocks: (0..=doublings).map(|level| block(level, init)).collect(),
            linear: design.linear(widest, 1, init),
            embedding: (classes > 0).then(|| table(init)),
        }
    }

    /// Without `classes`, only of a network that knows none.
    ///
    /// # Shapes
    /// `[n, c, h, w]`, `[n]` → `[n, 1]`
    pub fn forward<X: Signal<4>>(&self, images: X, classes: Option<Tensor<1, Int>>) -> Of<X, 4, 2> {
        let x = self.blocks.iter().fold(images, |x, block| block.forward(x));
        let features = global_sum(activate(x, Activation::Relu));
        let score = self.linear.forward(features.clone());
        match (&self.embedding, classes) {
            (Some(table), Some(classes)) => score + project(features, table, classes),
            _ => score,
        }
    }

    /// D of real and of generated pictures of the same classes, in one pass.
    ///
    /// # Shapes
    /// `[n, c, h, w]` twice, `[n]` → `[n]` twice
    pub fn both(&self, real: Tensor<4>, fake: Tensor<4>, classes: Option<Tensor<1, Int>>) -> [Tensor<1>; 2] {
        let n = real.dims()[0];
        let classes = classes.map(|classes| Tensor::cat(vec![classes.clone(), classes], 0));
        let scores = self.forward(Tensor::cat(vec![real, fake], 0), classes).reshape([2 * n]);
        [scores.clone().narrow(0, 0, n), scores.narrow(0, n, n)]
    }

    /// D of generated pictures.
    ///
    /// # Shapes
    /// `[n, c, h, w]`, `[n]` → `[n]`
    pub fn one(&self, fake: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<1> {
        let n = fake.dims()[0];
        self.forward(fake, classes).reshape([n])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::dual::Differentiable;
    use kiln_nn::penalty::r1;
    use kiln_nn::tensor::{from_indices, to_values};
    use kiln_train::params;

    use super::*;
    use crate::adversarial::testing::{Fixtures, agrees, close, state, values};

    /// Pictures of 8×12: two doublings from 2×3.
    const SIZES: Sizes = Sizes { base: [2, 3], doublings: 2 };

    fn design(attention_levels: &[usize]) -> Design<'_> {
        let (weight, parametrization) = (WeightInit::Xavier, Parametrization::Spectral);
        Design { channels: 4, sizes: SIZES, attention_levels, weight, parametrization }
    }

    fn init() -> Init {
        Init::new(&Device::flex().autodiff(), 0)
    }

    #[test]
    fn the_generator_is_pytorchs() {
        let f = Fixtures::open("residual");
        let norms = Conditioned { features: 3, weight: WeightInit::Zero, parametrization: Parametrization::Direct };
        let g = Generator::new(&design(&[1]), 6, norms, 3, &mut init());
        let y = || f.tensor::<2>("sagan_g_io.y0").autodiff();
        agrees(&f, "sagan_g", g, "z", str::to_string, |g, z: Tensor<2>| g.forward(z, &[y(), y()]));
    }

    #[test]
    fn the_discriminator_is_pytorchs() {
        let f = Fixtures::open("residual");
        let d = Discriminator::new(&design(&[1]), 3, 3, &mut init());
        let classes = || from_indices(&[2, 0, 1, 2], &Device::flex().autodiff());
        agrees(&f, "sagan_d", d, "input", str::to_string, |d, x: Tensor<4>| d.forward(x, Some(classes())));
    }

    #[test]
    fn attention_is_where_it_is_asked_for() {
        for (levels, g, d) in [(&[][..], [false; 3], [false; 3]), (&[1], [false, true, false], [true, false, false])] {
            let norms = Conditioned { features: 1, weight: WeightInit::Zero, parametrization: Parametrization::Direct };
            let generator = Generator::new(&design(levels), 6, norms, 3, &mut init());
            let there = |block: &UpBlock| block.attention.is_some();
            assert_eq!([generator.attention.is_some(), there(&generator.blocks[0]), there(&generator.blocks[1])], g);
            let discriminator = Discriminator::new(&design(levels), 3, 0, &mut init());
            assert_eq!(discriminator.blocks.iter().map(|b| b.attention.is_some()).collect::<Vec<_>>(), d);
        }
        // At the smallest maps it is before G's first block and after D's last that halves.
        let norms = Conditioned { features: 1, weight: WeightInit::Zero, parametrization: Parametrization::Direct };
        assert!(Generator::new(&design(&[2]), 6, norms, 3, &mut init()).attention.is_some());
        assert!(Discriminator::new(&design(&[2]), 3, 0, &mut init()).blocks[1].attention.is_some());
        for level in [0, 3] {
            let said = Design::check(&[level], SIZES).unwrap_err();
            assert!(said.is_usage() && said.to_string().contains("1 to 2"), "{said}");
        }
    }

    struct Critic<'a>(&'a Discriminator);

    impl Differentiable<4, 2> for Critic<'_> {
        fn apply<X: Signal<4>>(&self, x: X) -> Of<X, 4, 2> {
            self.0.forward(x, Some(from_indices(&[2, 0, 1, 2], &Device::flex().autodiff())))
        }
    }

    /// R1 through the whole of D, its parameters' gradients by PyTorch's double backward.
    #[test]
    fn the_discriminator_takes_gradient_penalties() {
        let f = Fixtures::open("residual");
        let fresh = Discriminator::new(&design(&[1]), 3, 3, &mut init());
        let d = params::load(fresh, &state(&f, "sagan_d.", str::to_string), "fixture").unwrap();
        let penalty = r1(&Critic(&d), f.tensor::<4>("sagan_d_io.input"), &Device::flex().autodiff());
        close(&to_values(penalty.clone()), &values(&f, "sagan_d_r1.value"), 1e-4);
        let mut found = params::take_gradients(&d, &mut penalty.backward());
        let expected = state(&f, "sagan_d_r1_grad.", str::to_string);
        assert!(expected.len() > 10);
        for (path, expected) in expected {
            let (gradient, length) = (to_values(found.remove(&path).unwrap()), expected.values.len());
            let off = (0..length).map(|i| (gradient[i] - expected.values[i]).powi(2)).sum::<f32>().sqrt();
            let norm = expected.values.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!(off < 1e-4 * norm.max(1e-2), "{path}: {off} of {norm}");
        }
        assert!(
            found.values().all(|rest| to_values(rest.clone()).iter().all(|v| v.abs() < 1e-4)),
            "{:?}",
            found.keys()
        );
    }
}
