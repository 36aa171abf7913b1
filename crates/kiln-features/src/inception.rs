//! The Inception-v3 of the FID (Szegedy 2015; Heusel 2017).
//!
//! The network that TensorFlow published on 2015-12-05, in the layout of torch-fidelity's weights file
//! (`weights-inception-2015-12-05-6726825d.pth`; pytorch-fid's is the same). It differs from the paper
//! and from torchvision's network: 1008 logits, average pooling that does not count its padding, and a
//! maximum instead of an average in the last block. Pictures reach it by TensorFlow 1's resize.

use burn::tensor::activation::relu;
use burn::tensor::module::{avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_nn::Linear;
use kiln_nn::resample::global_mean;

use crate::WeightsFile;
use crate::layers::{Conv, Loader, Window, max_pool};
use crate::pixels::resize_tensorflow1;

/// Side of the pictures it sees.
pub const SIZE: usize = 299;

const K1: Window = Window::square(1, 1, 0);
const K3: Window = Window::same(3, 3);
const K5: Window = Window::same(5, 5);
const K3_VALID: Window = Window::square(3, 1, 0);
/// Halves the size.
const K3_HALF: Window = Window::square(3, 2, 0);
const ROW3: Window = Window::same(1, 3);
const COLUMN3: Window = Window::same(3, 1);
const ROW7: Window = Window::same(1, 7);
const COLUMN7: Window = Window::same(7, 1);

/// Name, output channels and window of a convolution in a block.
type Layer = (&'static str, usize, Window);

/// Convolutions one after another, and then perhaps several side by side.
#[derive(Debug)]
struct Branch {
    stem: Vec<Conv>,
    fork: Vec<Conv>,
}

impl Branch {
    /// `block.LAYER` for each layer, each reading what the one before made of `inputs` channels.
    fn load(loader: &Loader<'_>, block: &str, inputs: usize, stem: &[Layer], fork: &[Layer]) -> Result<Self> {
        let mut channels = inputs;
        let mut layers = Vec::new();
        for layer in stem {
            layers.push(basic(loader, block, channels, layer)?);
            channels = layer.1;
        }
        let fork = fork.iter().map(|layer| basic(loader, block, channels, layer)).collect::<Result<_>>()?;
        Ok(Self { stem: layers, fork })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.stem.iter().fold(x, seen);
        if self.fork.is_empty() {
            return x;
        }
        Tensor::cat(self.fork.iter().map(|conv| seen(x.clone(), conv)).collect(), 1)
    }
}

/// torch-fidelity's `BasicConv2d`: convolution, batch normalisation.
fn basic(loader: &Loader<'_>, block: &str, inputs: usize, (name, outputs, window): &Layer) -> Result<Conv> {
    let path = if block.is_empty() { name.to_string() } else { format!("{block}.{name}") };
    loader.normed(&format!("{path}.conv"), &format!("{path}.bn"), [inputs, *outputs], *window)
}

/// A convolution and its rectifier.
fn seen(x: Tensor<4>, conv: &Conv) -> Tensor<4> {
    relu(conv.forward(x))
}

/// What a block does with its input beside the branches, always over 3×3.
#[derive(Clone, Copy, Debug)]
enum Pool {
    /// Average without the padding, stride 1.
    Average,
    /// Maximum, stride 1.
    Max,
    /// Maximum, stride 2, without padding.
    Half,
}

/// Branches and a pooling, joined along the channels.
#[derive(Debug)]
struct Block {
    branches: Vec<Branch>,
    pool: Pool,
    /// The convolution after the pooling.
    projection: Option<Conv>,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut parts: Vec<Tensor<4>> = self.branches.iter().map(|b| b.forward(x.clone())).collect();
        let pooled = match self.pool {
            Pool::Average => {
                let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
                avg_pool2d(x, options.with_count_include_pad(false))
            }
            Pool::Max => max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1])),
            Pool::Half => max_pool(x, 3, 2),
        };
        parts.push(match &self.projection {
            Some(conv) => seen(pooled, conv),
            None => pooled,
        });
        Tensor::cat(parts, 1)
    }

    fn a(loader: &Loader<'_>, name: &str, inputs: usize, pooled: usize) -> Result<Self> {
        let branch = |stem: &[Layer]| Branch::load(loader, name, inputs, stem, &[]);
        Ok(Self {
            branches: vec![
                branch(&[("branch1x1", 64, K1)])?,
                branch(&[("branch5x5_1", 48, K1), ("branch5x5_2", 64, K5)])?,
                branch(&[("branch3x3dbl_1", 64, K1), ("branch3x3dbl_2", 96, K3), ("branch3x3dbl_3", 96, K3)])?,
            ],
            pool: Pool::Average,
            projection: Some(basic(loader, name, inputs, &("branch_pool", pooled, K1))?),
        })
    }

    fn b(loader: &Loader<'_>, name: &str, inputs: usize) -> Result<Self> {
        let branch = |stem: &[Layer]| Branch::load(loader, name, inputs, stem, &[]);
        Ok(Self {
            branches: vec![
                branch(&[("branch3x3", 384, K3_HALF)])?,
                branch(&[("branch3x3dbl_1", 64, K1), ("branch3x3dbl_2", 96, K3), ("branch3x3dbl_3", 96, K3_HALF)])?,
            ],
            pool: Pool::Half,
            projection: None,
        })
    }

    fn c(loader: &Loader<'_>, name: &str, inputs: usize, c7: usize) -> Result<Self> {
        let branch = |stem: &[Layer]| Branch::load(loader, name, inputs, stem, &[]);
        Ok(Self {
            branches: vec![
                branch(&[("branch1x1", 192, K1)])?,
                branch(&[("branch7x7_1", c7, K1), ("branch7x7_2", c7, ROW7), ("branch7x7_3", 192, COLUMN7)])?,
                branch(&[
                    ("branch7x7dbl_1", c7, K1),
                    ("branch7x7dbl_2", c7, COLUMN7),
                    ("branch7x7dbl_3", c7, ROW7),
                    ("branch7x7dbl_4", c7, COLUMN7),
                    ("branch7x7dbl_5", 192, ROW7),
                ])?,
            ],
            pool: Pool::Average,
            projection: Some(basic(loader, name, inputs, &("branch_pool", 192, K1))?),
        })
    }

    fn d(loader: &Loader<'_>, name: &str, inputs: usize) -> Result<Self> {
        let branch = |stem: &[Layer]| Branch::load(loader, name, inputs, stem, &[]);
        Ok(Self {
            branches: vec![
                branch(&[("branch3x3_1", 192, K1), ("branch3x3_2", 320, K3_HALF)])?,
                branch(&[
                    ("branch7x7x3_1", 192, K1),
                    ("branch7x7x3_2", 192, ROW7),
                    ("branch7x7x3_3", 192, COLUMN7),
                    ("branch7x7x3_4", 192, K3_HALF),
                ])?,
            ],
            pool: Pool::Half,
            projection: None,
        })
    }

    fn e(loader: &Loader<'_>, name: &str, inputs: usize, pool: Pool) -> Result<Self> {
        let branch = |stem: &[Layer], fork: &[Layer]| Branch::load(loader, name, inputs, stem, fork);
        Ok(Self {
            branches: vec![
                branch(&[("branch1x1", 320, K1)], &[])?,
                branch(&[("branch3x3_1", 384, K1)], &[("branch3x3_2a", 384, ROW3), ("branch3x3_2b", 384, COLUMN3)])?,
                branch(
                    &[("branch3x3dbl_1", 448, K1), ("branch3x3dbl_2", 384, K3)],
                    &[("branch3x3dbl_3a", 384, ROW3), ("branch3x3dbl_3b", 384, COLUMN3)],
                )?,
            ],
            pool,
            projection: Some(basic(loader, name, inputs, &("branch_pool", 192, K1))?),
        })
    }
}

/// The network.
#[derive(Debug)]
pub struct Inception {
    /// To the first and to the second maximum pooling.
    stems: [Branch; 2],
    blocks: Vec<Block>,
    fc: Linear,
    fc_bias: Tensor<1>,
}

impl Inception {
    /// Reads the network.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, device: &Device) -> Result<Self> {
        let loader = &Loader { file, net: "inception-v3-fid", device, eps: 1e-3 };
        let first = [("Conv2d_1a_3x3", 32, K3_HALF), ("Conv2d_2a_3x3", 32, K3_VALID), ("Conv2d_2b_3x3", 64, K3)];
        let second = [("Conv2d_3b_1x1", 80, K1), ("Conv2d_4a_3x3", 192, K3_VALID)];
        Ok(Self {
            stems: [Branch::load(loader, "", 3, &first, &[])?, Branch::load(loader, "", 64, &second, &[])?],
            blocks: vec![
                Block::a(loader, "Mixed_5b", 192, 32)?,
                Block::a(loader, "Mixed_5c", 256, 64)?,
                Block::a(loader, "Mixed_5d", 288, 64)?,
                Block::b(loader, "Mixed_6a", 288)?,
                Block::c(loader, "Mixed_6b", 768, 128)?,
                Block::c(loader, "Mixed_6c", 768, 160)?,
                Block::c(loader, "Mixed_6d", 768, 160)?,
                Block::c(loader, "Mixed_6e", 768, 192)?,
                Block::d(loader, "Mixed_7a", 768)?,
                Block::e(loader, "Mixed_7b", 1280, Pool::Average)?,
                Block::e(loader, "Mixed_7c", 2048, Pool::Max)?,
            ],
            fc: loader.linear_alone("fc", [2048, 1008])?,
            fc_bias: loader.bias("fc", 1008)?,
        })
    }

    /// The features of RGB pictures in levels 0..=255 of any size: the last feature map's mean.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, 2048]`
    pub fn features(&self, levels: Tensor<4>) -> Tensor<2> {
        let x = (resize_tensorflow1(levels, [SIZE; 2]) - 128.0) / 128.0;
        let x = self.stems.iter().fold(x, |x, stem| max_pool(stem.forward(x), 3, 2));
        global_mean(self.blocks.iter().fold(x, |x, block| block.forward(x)))
    }

    /// The logits without their bias, which the Inception score is customarily taken of
    /// (torch-fidelity's `logits_unbiased`).
    ///
    /// # Shapes
    /// `[n, 2048]` features → `[n, 1008]`
    pub fn logits_unbiased(&self, features: Tensor<2>) -> Tensor<2> {
        self.fc.forward(features)
    }

    /// The logits.
    ///
    /// # Shapes
    /// `[n, 2048]` features → `[n, 1008]`
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.logits_unbiased(features) + self.fc_bias.clone().unsqueeze()
    }
}
