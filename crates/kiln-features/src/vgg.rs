//! VGG (Simonyan & Zisserman 2015), 16 and 19 layers, in torchvision's layout.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};
use kiln_nn::Linear;

use crate::WeightsFile;
use crate::layers::{Conv, Loader, Window, max_pool};

/// Which of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Configuration D: 13 convolutions.
    Vgg16,
    /// Configuration E: 16 convolutions.
    Vgg19,
}

impl Depth {
    /// Convolutions in each of the five blocks.
    fn blocks(self) -> [usize; 5] {
        match self {
            Self::Vgg16 => [2, 2, 3, 3, 3],
            Self::Vgg19 => [2, 2, 4, 4, 4],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Vgg16 => "vgg16",
            Self::Vgg19 => "vgg19",
        }
    }
}

/// What [`crate::pixels::imagenet`] takes away, in red, green and blue from 0 to 1,
pub const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// and divides by.
pub const DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];
/// What Caffe's VGG is given less of, from 0 to 255.
const BLUE_GREEN_RED: [f64; 3] = [103.939, 116.779, 123.68];

/// The convolutions, with a maximum pooling after each block.
#[derive(Debug)]
pub struct Vgg {
    depth: Depth,
    blocks: Vec<Vec<Conv>>,
}

impl Vgg {
    /// Reads the convolutions (`features.N`); a file may hold the classifier or not.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, depth: Depth, device: &Device) -> Result<Self> {
        let loader = Loader { file, net: depth.name(), device, eps: 0.0 };
        // torchvision counts convolutions, rectifiers and poolings.
        let (mut inputs, mut at, mut blocks) = (3, 0, Vec::new());
        for (count, outputs) in depth.blocks().into_iter().zip([64, 128, 256, 512, 512]) {
            let mut convs = Vec::new();
            for _ in 0..count {
                convs.push(loader.conv(&format!("features.{at}"), [inputs, outputs], Window::same(3, 3))?);
                inputs = outputs;
                at += 2;
            }
            blocks.push(convs);
            at += 1;
        }
        Ok(Self { depth, blocks })
    }

    /// Reads the convolutions of VGG16 as HED's package has them: see [`hed_as_torchvision`].
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load_hed(file: &WeightsFile, device: &Device) -> Result<Self> {
        let (depth, mut blocks) = (Depth::Vgg16, Vec::new());
        let loader = Loader { file, net: "vgg16-hed", device, eps: 0.0 };
        let mut layers = hed_as_torchvision(file)?.into_iter();
        for count in depth.blocks() {
            let made = |layer: ConvValues| loader.made(layer.weight, layer.bias, layer.inputs, Window::same(3, 3));
            blocks.push(layers.by_ref().take(count).map(made).collect());
        }
        Ok(Self { depth, blocks })
    }

    /// Activations by the names of the paper's layers, `relu1_1` to `relu5_3` (`relu5_4` of VGG19), in
    /// the order of `names`, of pictures on the scale of [`crate::pixels::imagenet`]. Nothing beyond
    /// the last one needed is computed.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` → `[n, 64 to 512, h / 2ᵇ⁻¹, w / 2ᵇ⁻¹]` in block b
    ///
    /// # Errors
    /// If there is no such activation, or the pictures are too small for it.
    pub fn activations(&self, x: Tensor<4>, names: &[&str]) -> Result<Vec<Tensor<4>>> {
        let mut found: Vec<Option<Tensor<4>>> = vec![None; names.len()];
        let mut x = x;
        'all: for (b, convs) in self.blocks.iter().enumerate() {
            let [.., h, w] = x.dims();
            if b > 0 {
                if h.min(w) < 2 {
                    break;
                }
                x = max_pool(x, 2, 2);
            }
            for (i, conv) in convs.iter().enumerate() {
                if found.iter().all(Option::is_some) {
                    break 'all;
                }
                x = relu(conv.forward(x));
                let name = format!("relu{}_{}", b + 1, i + 1);
                for (slot, _) in found.iter_mut().zip(names).filter(|(_, n)| **n == name) {
                    *slot = Some(x.clone());
                }
            }
        }
        let known = |name: &&str| {
            let numbers = name.strip_prefix("relu").and_then(|rest| rest.split_once('_'));
            let numbers = numbers.and_then(|(b, i)| Some((b.parse::<usize>().ok()?, i.parse::<usize>().ok()?)));
            numbers.is_some_and(|(b, i)| b > 0 && i > 0 && self.blocks.get(b - 1).is_some_and(|c| i <= c.len()))
        };
        let checked = |(slot, name): (Option<Tensor<4>>, &&str)| {
            slot.ok_or_else(|| {
                let net = self.depth.name();
                if known(name) {
                    Error::new(format!("{net}: the pictures are too small for {name}; sides of 16 do for all"))
                } else {
                    Error::usage(format!("{net} has no activation {name}; there are relu1_1, relu1_2, relu2_1, …"))
                }
            })
        };
        found.into_iter().zip(names).map(checked).collect()
    }
}

/// A convolution's numbers in torchvision's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvValues {
    /// torchvision's name, `features.0`.
    pub name: String,
    /// Channels that go in.
    pub inputs: usize,
    /// `[outputs, inputs, 3, 3]`.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// The convolutions of VGG16 in HED's package (Xie & Tu 2015, fine-tuned to find edges) as torchvision would have them. There they are in Keras's
/// layout, for blue, green and red from 0 to 255 less their means; here the first takes the scale of [`crate::pixels::imagenet`].
///
/// # Errors
/// Names the first tensor that is missing or of another shape.
pub fn hed_as_torchvision(file: &WeightsFile) -> Result<Vec<ConvValues>> {
    let (mut inputs, mut at, mut layers) = (3, 0, Vec::new());
    for (block, (count, outputs)) in Depth::Vgg16.blocks().into_iter().zip([64, 128, 256, 512, 512]).enumerate() {
        for i in 0..count {
            let layer = if i == 0 { "conv2d".to_string() } else { format!("conv2d_{i}") };
            let path = format!("block{}/layers/{layer}/vars", block + 1);
            let stored = file.values(&format!("{path}/0"), &[3, 3, inputs, outputs])?;
            let mut bias = file.values(&format!("{path}/1"), &[outputs])?;
            let of = |tap: usize, input: usize, output: usize| stored[(tap * inputs + input) * outputs + output];
            let mut weight = Vec::with_capacity(stored.len());
            for (output, bias) in bias.iter_mut().enumerate() {
                for input in 0..inputs {
                    for tap in 0..9 {
                        if block + i > 0 {
                            weight.push(of(tap, input, output));
                            continue;
                        }
                        let value = of(tap, 2 - input, output);
                        weight.push(value * (255.0 * DEVIATION[input]) as f32);
                        *bias += value * (255.0 * MEAN[input] - BLUE_GREEN_RED[2 - input]) as f32;
                    }
                }
            }
            layers.push(ConvValues { name: format!("features.{at}"), inputs, weight, bias });
            (inputs, at) = (outputs, at + 2);
        }
        at += 1;
    }
    Ok(layers)
}

/// The network up to its second fully connected layer, whose activation precision and recall are
/// customarily measured in (Kynkäänniemi 2019).
#[derive(Debug)]
pub struct VggFc2 {
    trunk: Vgg,
    layers: [Linear; 2],
}

impl VggFc2 {
    /// Side of the pictures it sees.
    pub const SIZE: usize = 224;

    /// Reads the convolutions and the first two layers of the classifier.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, depth: Depth, device: &Device) -> Result<Self> {
        let loader = Loader { file, net: depth.name(), device, eps: 0.0 };
        let layers =
            [loader.linear("classifier.0", [512 * 7 * 7, 4096])?, loader.linear("classifier.3", [4096, 4096])?];
        Ok(Self { trunk: Vgg::load(file, depth, device)?, layers })
    }

    /// Which of the two networks.
    pub fn depth(&self) -> Depth {
        self.trunk.depth
    }

    /// The features of pictures on the scale of [`crate::pixels::imagenet`].
    ///
    /// # Shapes
    /// `[n, 3, 224, 224]` → `[n, 4096]`
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.trunk.blocks.iter().fold(x, |x, convs| {
            let x = convs.iter().fold(x, |x, conv| relu(conv.forward(x)));
            max_pool(x, 2, 2)
        });
        self.layers.iter().fold(x.flatten(1, 3), |x, layer| relu(layer.forward(x)))
    }
}
