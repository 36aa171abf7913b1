//! Van den Oord et al., *Pixel Recurrent Neural Networks*, 2016, §3.4 and §3.5 (2016a), and *Conditional Image Generation with
//! PixelCNN Decoders*, 2016 (2016b).
//!
//! Objective: −log p(x) = −Σᵢ log p(xᵢ | x₁ … xᵢ₋₁) (2016a, equation 1), every factor by one pass of a network whose
//! convolutions see only the pixels before. 2016a: residual blocks of masked convolutions, whose receptive field
//! misses a wedge to the upper right ("blind spot"). 2016b: layers of a *vertical* stack v over the rows above and a
//! *horizontal* one h over the current row, without a blind spot,
//!
//! v' = tanh(W₁ ∗ v + V₁ᵀc) ⊙ σ(W₂ ∗ v + V₂ᵀc), and likewise h' of W₃ ∗ h + W₄ (W ∗ v) + V₃ᵀc, added to h (equations 2 and 4, figure 2).
//!
//! | paper | here |
//! |---|---|
//! | masks A and B | [`kiln_nn::masked`], which does not compute what a mask would make zero |
//! | PixelCNN (2016a, figure 5 left) | `stack = "residual"`: [`ResidualBlock`] |
//! | Gated PixelCNN (2016b, figure 2) | `stack = "gated"`: [`GatedLayer`] |
//! | h (2016a) / p (2016b) feature maps | `features`: a residual block's input has twice as many |
//! | c, V | `class_conditional`, [`GatedLayer`]'s `class` |
//! | softmax over 256 levels, sigmoid on binary pixels | `output`: [`super::autoregressive::Levels`] |
//!
//! `kiln train pixelcnn --data starter`, then `kiln sample RUN -n 64`.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::masked::{MaskType, PixelCache, Window, row_of};
use kiln_nn::{
    Activation, Conv2d, Conv2dConfig, Embedding, Init, MaskedConv2d, MaskedConv2dConfig, WeightInit, activate,
    add_activate, gate,
};
use kiln_train::{Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Schedule, System, TrainConfig};
use serde::{Deserialize, Serialize};

use super::autoregressive::{Autoregression, Autoregressive, LevelConfig, Walk};

/// The layers between the first and the last ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// Residual blocks of masked convolutions (2016a).
    Residual,
    /// Gated layers of two stacks (2016b).
    #[default]
    Gated,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `gated` (2016b) or `residual` (2016a).
    pub stack: Stack,
    /// Residual blocks, or gated layers after the first.
    pub layers: usize,
    /// Channels of a layer, a multiple of the image's channels.
    pub features: usize,
    /// Kernel size of the first layer, odd, 3 to 31.
    pub first_kernel: usize,
    /// Kernel size of the other layers, odd, 3 to 31.
    pub kernel: usize,
    /// Channels of the layer before the output, a multiple of the image's channels.
    pub head: usize,
    /// Condition on the class (`gated`).
    pub class_conditional: bool,
    /// The pixels.
    #[serde(flatten)]
    pub levels: LevelConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stack: Stack::Gated,
            layers: 7,
            features: 24,
            first_kernel: 7,
            kernel: 3,
            head: 48,
            class_conditional: false,
            levels: LevelConfig::default(),
            optimizer: OptimizerConfig::adam(2e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Networks {
    /// p(xᵢ | x₁ … xᵢ₋₁) of every pixel.
    pub pixelcnn: PixelCnn,
}

/// Both kinds of stack, one of which is empty, and the output.
#[derive(Module, Debug)]
pub struct PixelCnn {
    first: Option<MaskedConv2d>,
    blocks: Vec<ResidualBlock>,
    layers: Vec<GatedLayer>,
    head: Head,
}

/// h → h of twice as many maps as the masked convolution between two 1×1 ones has (2016a, figure 5 left).
#[derive(Module, Debug)]
pub struct ResidualBlock {
    down: MaskedConv2d,
    conv: MaskedConv2d,
    up: MaskedConv2d,
}

/// A layer of the vertical and the horizontal stack (2016b, figure 2).
#[derive(Module, Debug)]
pub struct GatedLayer {
    vertical: MaskedConv2d,
    horizontal: MaskedConv2d,
    /// From the vertical stack to the horizontal one.
    across: Conv2d,
    out: MaskedConv2d,
    /// Vᵀc of both stacks, one after the other.
    class: Option<Embedding>,
    /// Whether h is added to its output: in every layer but the first, whose h is the picture.
    #[module(skip)]
    residual: bool,
}

/// ReLU and 1×1 convolution, twice (2016a, §3.5).
#[derive(Module, Debug)]
pub struct Head {
    hidden: MaskedConv2d,
    out: MaskedConv2d,
}

fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activate(x, Activation::Relu)
}

fn sum<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    add_activate(x, y, Activation::None)
}

impl Head {
    /// `features` → `outputs` channels.
    pub fn new(features: usize, hidden: usize, outputs: usize, colours: usize, init: &mut Init) -> Self {
        let pointwise = |i, o| MaskedConv2dConfig { colours, ..MaskedConv2dConfig::pointwise(i, o) };
        Self {
            hidden: MaskedConv2dConfig { weight: WeightInit::He, ..pointwise(features, hidden) }.init(init),
            out: pointwise(hidden, outputs).init(init),
        }
    }

    /// # Shapes
    /// `[n, features, h, w]` → `[n, outputs, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.out.forward(relu(self.hidden.forward(relu(x))))
    }

    /// The same of one pixel at a time.
    pub fn cache(&self) -> HeadCache {
        HeadCache([self.hidden.cache(1, 1), self.out.cache(1, 1)])
    }
}

/// A [`Head`] that sees single pixels.
pub struct HeadCache([PixelCache; 2]);

impl HeadCache {
    /// # Shapes
    /// `[n, features]` → `[n, outputs]`
    pub fn at(&self, x: Tensor<2>) -> Tensor<2> {
        let [hidden, out] = &self.0;
        out.at(relu(hidden.at(relu(x))))
    }
}

impl ResidualBlock {
    fn new(c: &Config, colours: usize, init: &mut Init) -> Self {
        let (h, weight) = (c.features, WeightInit::He);
        let pointwise = |i, o| MaskedConv2dConfig { colours, ..MaskedConv2dConfig::pointwise(i, o) };
        Self {
            down: MaskedConv2dConfig { weight, ..pointwise(2 * h, h) }.init(init),
            conv: MaskedConv2dConfig {
                weight,
                colours,
                ..MaskedConv2dConfig::new(h, h, c.kernel, Window::Past, MaskType::B)
            }
            .init(init),
            up: pointwise(h, 2 * h).init(init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv.forward(relu(self.down.forward(relu(x.clone()))));
        sum(self.up.forward(relu(y)), x)
    }
}

impl GatedLayer {
    /// `inputs` channels, the picture's own of the first layer.
    fn new(c: &Config, inputs: usize, mask: MaskType, colours: usize, classes: usize, init: &mut Init) -> Self {
        let p = c.features;
        let kernel = if mask == MaskType::A { c.first_kernel } else { c.kernel };
        let conv = |window: Window, init: &mut Init| {
            MaskedConv2dConfig { colours, ..MaskedConv2dConfig::new(inputs, 2 * p, kernel, window, mask) }.init(init)
        };
        Self {
            vertical: conv(Window::Above, init),
            horizontal: conv(Window::Left, init),
            across: Conv2dConfig { bias: false, ..Conv2dConfig::new(2 * p, 2 * p, 1) }.init(init),
            out: MaskedConv2dConfig { colours, ..MaskedConv2dConfig::pointwise(p, p) }.init(init),
            class: (classes > 0)
                .then(|| Embedding::from_parameters(init.weight([classes, 4 * p], 1, WeightInit::Zero))),
            residual: mask == MaskType::B,
        }
    }

    /// Vᵀc of the vertical and of the horizontal stack, `[n, 2p, 1, 1]` each.
    fn condition(&self, classes: &Option<Tensor<1, Int>>) -> Option<[Tensor<4>; 2]> {
        let (table, classes) = (self.class.as_ref()?, classes.clone()?);
        let all = table.forward(classes);
        let [n, both] = all.dims();
        Some([0, both / 2].map(|from| all.clone().narrow(1, from, both / 2).reshape([n, both / 2, 1, 1])))
    }

    /// v and h of the next layer, v only if one is to come.
    fn forward(
        &self,
        v: Tensor<4>,
        h: Tensor<4>,
        classes: &Option<Tensor<1, Int>>,
        more: bool,
    ) -> (Option<Tensor<4>>, Tensor<4>) {
        let mut vertical = self.vertical.forward(v);
        let mut horizontal = sum(self.horizontal.forward(h.clone()), self.across.forward(vertical.clone()));
        if let Some([of_vertical, of_horizontal]) = self.condition(classes) {
            (vertical, horizontal) = (vertical + of_vertical, horizontal + of_horizontal);
        }
        let y = self.out.forward(gate(horizontal));
        let y = if self.residual { sum(y, h) } else { y };
        (more.then(|| gate(vertical)), y)
    }
}

impl PixelCnn {
    /// For pictures of so many `colours`, told one of `classes` if there are any.
    pub fn new(c: &Config, colours: usize, classes: usize, init: &mut Init) -> Self {
        let outputs = c.levels.outputs() * colours;
        match c.stack {
            Stack::Residual => {
                let first = MaskedConv2dConfig::new(colours, 2 * c.features, c.first_kernel, Window::Past, MaskType::A);
                Self {
                    first: Some(MaskedConv2dConfig { colours, ..first }.init(init)),
                    blocks: (0..c.layers).map(|_| ResidualBlock::new(c, colours, init)).collect(),
                    layers: Vec::new(),
                    head: Head::new(2 * c.features, c.head, outputs, colours, init),
                }
            }
            Stack::Gated => {
                let layer = |i: usize, init: &mut Init| match i {
                    0 => GatedLayer::new(c, colours, MaskType::A, colours, classes, init),
                    _ => GatedLayer::new(c, c.features, MaskType::B, colours, classes, init),
                };
                Self {
                    first: None,
                    blocks: Vec::new(),
                    layers: (0..=c.layers).map(|i| layer(i, init)).collect(),
                    head: Head::new(c.features, c.head, outputs, colours, init),
                }
            }
        }
    }
}

impl Autoregressive for PixelCnn {
    fn forward(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
        if let Some(first) = &self.first {
            let x = first.forward(x);
            return self.head.forward(self.blocks.iter().fold(x, |x, block| block.forward(x)));
        }
        let (mut v, mut h) = (Some(x.clone()), x);
        for (i, layer) in self.layers.iter().enumerate() {
            let Some(rows) = v else { break };
            (v, h) = layer.forward(rows, h, &classes, i + 1 < self.layers.len());
        }
        self.head.forward(h)
    }

    fn walk<'a>(&'a self, n: usize, width: usize, classes: Option<Tensor<1, Int>>) -> Box<dyn Walk + 'a> {
        match &self.first {
            Some(first) => Box::new(ResidualWalk {
                first: first.cache(n, width),
                blocks: self
                    .blocks
                    .iter()
                    .map(|b| [b.down.cache(n, width), b.conv.cache(n, width), b.up.cache(n, width)])
                    .collect(),
                head: self.head.cache(),
            }),
            None => Box::new(GatedWalk {
                layers: self.layers.iter().map(|layer| GatedCache::new(layer, n, width, &classes)).collect(),
                head: self.head.cache(),
                pixels: Vec::new(),
            }),
        }
    }
}

impl Autoregressive for Networks {
    fn forward(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
        self.pixelcnn.forward(x, classes)
    }

    fn walk<'a>(&'a self, n: usize, width: usize, classes: Option<Tensor<1, Int>>) -> Box<dyn Walk + 'a> {
        self.pixelcnn.walk(n, width, classes)
    }
}

/// The residual stack, pixel by pixel.
struct ResidualWalk {
    first: PixelCache,
    blocks: Vec<[PixelCache; 3]>,
    head: HeadCache,
}

impl Walk for ResidualWalk {
    fn begin_row(&mut self) {
        self.first.begin_row();
        self.blocks.iter_mut().for_each(|[_, conv, _]| conv.begin_row());
    }

    fn logits(&mut self, pixel: Tensor<2>, last: bool) -> Tensor<2> {
        let mut x = self.first.at(pixel);
        for [down, conv, up] in &mut self.blocks {
            let input = relu(down.at(relu(x.clone())));
            let y = up.at(relu(conv.at(input.clone())));
            if last {
                conv.push(input);
            }
            x = sum(y, x);
        }
        self.head.at(x)
    }

    fn push(&mut self, pixel: Tensor<2>) {
        self.first.push(pixel);
    }
}

/// The two stacks, the vertical one a row at a time and the horizontal one pixel by pixel.
struct GatedWalk<'a> {
    layers: Vec<GatedCache<'a>>,
    head: HeadCache,
    /// The picture's own pixels of this row.
    pixels: Vec<Tensor<2>>,
}

struct GatedCache<'a> {
    layer: &'a GatedLayer,
    /// The rows of v that the next one sees, `[n, c, 1, w]` each.
    rows: Vec<Tensor<4>>,
    condition: Option<[Tensor<4>; 2]>,
    /// What the rows above contribute to h, `[n, 2p, 1, w]`.
    from_above: Option<Tensor<4>>,
    horizontal: PixelCache,
    out: PixelCache,
}

impl<'a> GatedCache<'a> {
    fn new(layer: &'a GatedLayer, n: usize, width: usize, classes: &Option<Tensor<1, Int>>) -> Self {
        let [_, inputs, height, _] = layer.vertical.weight.dims();
        let empty = Tensor::zeros([n, inputs, 1, width], &layer.vertical.weight.val().device());
        Self {
            layer,
            rows: vec![empty; height],
            condition: layer.condition(classes),
            from_above: None,
            horizontal: layer.horizontal.cache(n, width),
            out: layer.out.cache(n, width),
        }
    }

    /// v's next row of this layer, after `row` of its input.
    fn begin_row(&mut self, row: Tensor<4>) -> Tensor<4> {
        self.rows.remove(0);
        self.rows.push(row);
        let vertical = self.layer.vertical.row(Tensor::cat(self.rows.clone(), 2));
        let across = self.layer.across.forward(vertical.clone());
        self.horizontal.begin_row();
        match &self.condition {
            None => {
                self.from_above = Some(across);
                gate(vertical)
            }
            Some([of_vertical, of_horizontal]) => {
                self.from_above = Some(across + of_horizontal.clone());
                gate(vertical + of_vertical.clone())
            }
        }
    }

    /// h at the pixel of `column`, of what it is one layer before.
    fn at(&self, h: Tensor<2>, column: usize) -> Tensor<2> {
        let own = self.horizontal.at(h.clone());
        let [n, channels] = own.dims();
        let above = self.from_above.clone().map(|row| row.narrow(3, column, 1).reshape([n, channels]));
        let y = self.out.at(gate(above.map_or(own.clone(), |above| sum(own, above))));
        if self.layer.residual { sum(y, h) } else { y }
    }
}

impl Walk for GatedWalk<'_> {
    fn begin_row(&mut self) {
        let pixels = std::mem::take(&mut self.pixels);
        // Nothing is above the first row: its empty rows are there already.
        let empty = self.layers[0].rows[0].clone();
        let mut row = if pixels.is_empty() { empty } else { row_of(pixels) };
        for layer in &mut self.layers {
            row = layer.begin_row(row);
        }
    }

    fn logits(&mut self, pixel: Tensor<2>, last: bool) -> Tensor<2> {
        let (column, mut h) = (self.pixels.len(), pixel);
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let y = layer.at(h.clone(), column);
            if last && i > 0 {
                layer.horizontal.push(h);
            }
            h = y;
        }
        self.head.at(h)
    }

    fn push(&mut self, pixel: Tensor<2>) {
        self.layers[0].horizontal.push(pixel.clone());
        self.pixels.push(pixel);
    }
}

/// The system.
pub struct PixelCnnSystem {
    pub(super) model: Autoregression,
    config: Config,
}

/// Whether the sizes of an autoregressive network fit its pictures.
///
/// # Errors
/// A usage error naming the setting that does not.
pub fn check_sizes(colours: usize, features: [(&str, usize); 2], kernels: [(&str, usize); 2]) -> Result<()> {
    for (name, value) in features {
        if value == 0 || !value.is_multiple_of(colours) {
            return Err(Error::usage(format!(
                "model.{name} = {value}: it must be a multiple of the pictures' {colours} channels, and not 0"
            )));
        }
    }
    for (name, value) in kernels {
        if value.is_multiple_of(2) || !(3..=31).contains(&value) {
            return Err(Error::usage(format!("model.{name} = {value}: it must be odd, and from 3 to 31")));
        }
    }
    Ok(())
}

/// The loop's settings that suit such networks.
pub fn training() -> TrainConfig {
    TrainConfig {
        batch: 16,
        images: 300_000,
        ema_half_life: 5_000.0,
        log_every: 2_000,
        checkpoint_every: 30_000,
        preview_every: 30_000,
        ..TrainConfig::default()
    }
}

impl System for PixelCnnSystem {
    const ID: &'static str = "pixelcnn";
    const PAPER: &'static str = "van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), training())
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        let features = [("features", config.features), ("head", config.head)];
        let kernels = [("first_kernel", config.first_kernel), ("kernel", config.kernel)];
        check_sizes(pictures.shape[0], features, kernels)?;
        if config.class_conditional && config.stack == Stack::Residual {
            return Err(Error::usage("model.class_conditional needs model.stack = \"gated\""));
        }
        let model = Autoregression::new(Self::ID, config.levels.clone(), pictures, config.class_conditional)?;
        Ok(Self { model, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let (colours, classes) = (self.model.shape[0], self.model.classes.len());
        Networks { pixelcnn: PixelCnn::new(&self.config, colours, classes, init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("pixelcnn", &["pixelcnn"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl PixelCnnSystem {
    /// −log p(x), the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        self.model.loss(networks, batch)
    }
}

#[cfg(test)]
impl PixelCnn {
    /// Tables of classes as after some learning; fresh ones are zero.
    pub fn scatter_classes(&mut self) {
        for (i, table) in self.layers.iter_mut().filter_map(|layer| layer.class.as_mut()).enumerate() {
            let shape = table.weight.dims();
            let device = table.weight.val().device();
            let key = kiln_core::random::Key::new(i as u64);
            let values = kiln_nn::tensor::normal::<2>(key, 0..shape[0] as u64, shape, &device);
            table.weight = burn::module::Param::from_tensor(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;

    use super::*;
    use crate::autoencoder::testing::{Fixtures, device};

    /// The reference's k×k kernels, masked rows and columns left out.
    #[test]
    fn the_gated_layer_is_pytorchs() {
        let f = Fixtures::open("pixelcnn");
        let config = Config { features: 4, ..Config::default() };
        let mut layer = GatedLayer::new(&config, 4, MaskType::B, 1, 5, &mut Init::new(&device().autodiff(), 0));
        let vertical = |name: &str| f.tensor::<4>(name).narrow(2, 0, 2);
        let horizontal = |name: &str| f.tensor::<4>(name).narrow(2, 1, 1).narrow(3, 0, 2);
        let param = |t: Tensor<4>| Param::from_tensor(t.autodiff());
        let bias = |name: &str| Some(Param::from_tensor(f.tensor::<1>(name).autodiff()));
        layer.vertical.weight = param(vertical("gated.vertical.weight"));
        layer.vertical.bias = bias("gated.vertical.bias");
        layer.horizontal.weight = param(horizontal("gated.horizontal.weight"));
        layer.horizontal.bias = bias("gated.horizontal.bias");
        layer.across.weight = param(f.tensor("gated.across.weight"));
        layer.out.weight = param(f.tensor("gated.out.weight"));
        layer.out.bias = bias("gated.out.bias");
        let table = Param::from_tensor(f.tensor::<2>("gated.klass.weight").autodiff());
        layer.class = Some(Embedding::from_parameters(table));

        let [v, h] = ["gated.v", "gated.h"].map(|name| f.tensor::<4>(name).autodiff().require_grad());
        let classes = kiln_nn::tensor::from_indices(&[3, 1], &device().autodiff());
        let (rows, y) = layer.forward(v.clone(), h.clone(), &Some(classes), true);
        let both = Tensor::cat(vec![rows.unwrap(), y], 1);
        f.assert_close(both.clone().inner(), "gated.output", 1e-5);
        let gradients = (both * f.tensor::<4>("gated.grad_output").autodiff()).sum().backward();
        let of = |got: Option<Tensor<4>>, wanted: Tensor<4>| {
            let off = (got.unwrap() - wanted).abs().max().into_scalar::<f32>();
            assert!(off < 1e-4, "{off}");
        };
        of(v.grad(&gradients), f.tensor("gated.grad_v"));
        of(h.grad(&gradients), f.tensor("gated.grad_h"));
        of(layer.vertical.weight.val().grad(&gradients), vertical("gated.grad_vertical.weight"));
        of(layer.horizontal.weight.val().grad(&gradients), horizontal("gated.grad_horizontal.weight"));
        of(layer.across.weight.val().grad(&gradients), f.tensor("gated.grad_across.weight"));
        of(layer.out.weight.val().grad(&gradients), f.tensor("gated.grad_out.weight"));
        let table = layer.class.unwrap().weight.val().grad(&gradients).unwrap();
        f.assert_close(table, "gated.grad_klass.weight", 1e-4);
    }
}
