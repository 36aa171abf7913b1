//! Van den Oord et al., *Pixel Recurrent Neural Networks*, 2016.
//!
//! Objective: −log p(x) = −Σᵢ log p(xᵢ | x₁ … xᵢ₋₁) (equation 1). Every factor sees the pixels before it through LSTMs that run
//! over the feature map (equation 3),
//!
//! [o, f, i, g] = [σ, σ, σ, tanh](K_ss ∗ h' + K_is ∗ x), c = f ⊙ c' + i ⊙ g, h = o ⊙ tanh c,
//!
//! where ' is one step earlier: a row (Row LSTM, §3.1, whose context is a triangle) or a diagonal (Diagonal BiLSTM, §3.2, whose two
//! directions together see everything above). The output of the LSTM from the right is shifted down a row, so that it contains
//! only rows above. One pixel is missed: the last one of the row above, which masks keep out of the features of its own row. It
//! is seen only where the first layer's window reaches it.
//!
//! | paper | here |
//! |---|---|
//! | K_is, masked (§3.4) | [`MaskedConv2d`] |
//! | K_ss, the loop | [`recur`], which runs along the diagonals in place instead of skewing the map |
//! | Row LSTM, Diagonal BiLSTM | `recurrence`: [`RowLstm`], [`DiagonalBiLstm`] |
//! | h | `features`; a layer's input has twice as many |
//! | residual connections (§3.3, figure 5 right) | [`RowLstm`]'s and [`DiagonalBiLstm`]'s `out`, added to the input |
//! | skip connections from each layer to the output (§3.3) | `skip_connections`: their `skip`, added to what the head sees |
//! | two ReLU and 1×1 layers (§3.5) | [`super::pixelcnn::Head`] |
//!
//! The forget gates begin open, with a bias of 1 (Gers 2000; Jozefowicz 2015); the paper does not say.
//!
//! `kiln train pixelrnn --data starter`, then `kiln sample RUN -n 16`.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, activation::sigmoid};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::masked::{MaskType, PixelCache, Window, along_row, row_of};
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{Init, MaskedConv2d, MaskedConv2dConfig, ScanDirection, WeightInit, recur};
use kiln_train::params::map_flat;
use kiln_train::{Abilities, Batch, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Schedule, System, TrainConfig};
use serde::{Deserialize, Serialize};

use super::autoregressive::{Autoregression, Autoregressive, LevelConfig, Walk};
use super::pixelcnn::{Head, HeadCache, check_sizes, training};

/// How a layer walks over the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recurrence {
    /// Row by row; a pixel sees a triangle above it (§3.1).
    RowLstm,
    /// Along both diagonals; a pixel sees everything above and to the left (§3.2).
    #[default]
    DiagonalBilstm,
}

/// The `[model]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `row-lstm` or `diagonal-bilstm`.
    pub recurrence: Recurrence,
    /// Recurrent layers.
    pub layers: usize,
    /// Size of a pixel's state, a multiple of the image's channels; layers have twice as many channels between them.
    pub features: usize,
    /// Kernel size of the first layer, odd, 3 to 31.
    pub first_kernel: usize,
    /// Row LSTM only: columns of a row that input and state see, odd, 3 to 31.
    pub kernel: usize,
    /// Channels of the layer before the output, a multiple of the image's channels.
    pub head: usize,
    /// Whether the output sees every layer, beside the last one.
    pub skip_connections: bool,
    /// The pixels.
    #[serde(flatten)]
    pub levels: LevelConfig,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            recurrence: Recurrence::DiagonalBilstm,
            layers: 2,
            features: 24,
            first_kernel: 7,
            kernel: 3,
            head: 48,
            skip_connections: true,
            levels: LevelConfig::default(),
            optimizer: OptimizerConfig::adam(2e-3).schedule(Schedule::Cosine),
        }
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Networks {
    /// p(xᵢ | x₁ … xᵢ₋₁) of every pixel.
    pub pixelrnn: PixelRnn,
}

/// A masked convolution, recurrent layers of one kind, and the output.
#[derive(Module, Debug)]
pub struct PixelRnn {
    first: MaskedConv2d,
    rows: Vec<RowLstm>,
    diagonals: Vec<DiagonalBiLstm>,
    head: Head,
}

/// K_is and K_ss of one walk.
#[derive(Module, Debug)]
pub struct Lstm {
    /// K_is with its bias, to o, f, i and g.
    input: MaskedConv2d,
    /// K_ss, `[4h, h, taps]`.
    state: Param<Tensor<3>>,
}

impl Lstm {
    fn new(h: usize, taps: usize, input: MaskedConv2dConfig, init: &mut Init) -> Self {
        let state = |init: &mut Init| init.weight([4 * h, h, taps], h * taps, WeightInit::FanIn);
        let (input, state) = (input.init(init), state(init));
        // Gates are o, f, i and g.
        let open = |at: &str, bias: Tensor<1>| {
            if at != "bias" {
                return bias;
            }
            let (mut values, shape, device) = (to_values(bias.clone()), bias.dims(), bias.device());
            values.iter_mut().skip(h).take(h).for_each(|bias| *bias = 1.0);
            from_values(values, shape, &device)
        };
        Self { input: map_flat(input, open), state }
    }
}

/// From the top row down (§3.1).
#[derive(Module, Debug)]
pub struct RowLstm {
    walk: Lstm,
    out: MaskedConv2d,
    skip: Option<MaskedConv2d>,
}

/// From both top corners (§3.2).
#[derive(Module, Debug)]
pub struct DiagonalBiLstm {
    left: Lstm,
    right: Lstm,
    out: MaskedConv2d,
    skip: Option<MaskedConv2d>,
}

/// What a layer makes of its states h: the next layer's input, and what the output sees of them beside it.
type Outcome<const D: usize> = (Tensor<D>, Option<Tensor<D>>);

/// The 1×1 convolutions `out` and `skip` of h, the first added to the layer's input (§3.3).
fn outcome(out: &MaskedConv2d, skip: &Option<MaskedConv2d>, h: Tensor<4>, x: Tensor<4>) -> Outcome<4> {
    (out.forward(h.clone()) + x, skip.as_ref().map(|skip| skip.forward(h)))
}

/// `out` and `skip` of a layer.
fn ends(c: &Config, colours: usize, init: &mut Init) -> (MaskedConv2d, Option<MaskedConv2d>) {
    let end = MaskedConv2dConfig { colours, ..MaskedConv2dConfig::pointwise(c.features, 2 * c.features) };
    (end.init(init), c.skip_connections.then(|| end.init(init)))
}

/// The sum of what there is.
fn sum<const D: usize>(x: Option<Tensor<D>>, y: Option<Tensor<D>>) -> Option<Tensor<D>> {
    match (x, y) {
        (Some(x), Some(y)) => Some(x + y),
        (x, y) => x.or(y),
    }
}

impl RowLstm {
    fn new(c: &Config, colours: usize, init: &mut Init) -> Self {
        let h = c.features;
        let input = MaskedConv2dConfig::new(2 * h, 4 * h, c.kernel, Window::Left, MaskType::B);
        let walk = Lstm::new(h, c.kernel, MaskedConv2dConfig { colours, ..input }, init);
        let (out, skip) = ends(c, colours, init);
        Self { walk, out, skip }
    }

    /// # Shapes
    /// `[n, 2h, height, width]` → the same, twice
    pub fn forward(&self, x: Tensor<4>) -> Outcome<4> {
        let h = recur(self.walk.input.forward(x.clone()), self.walk.state.val(), ScanDirection::Rows);
        outcome(&self.out, &self.skip, h, x)
    }
}

/// A map one row further down, the last row gone.
fn shift_down(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let top = Tensor::zeros([n, c, 1, w], &x.device());
    if h == 1 { top } else { Tensor::cat(vec![top, x.narrow(2, 0, h - 1)], 2) }
}

impl DiagonalBiLstm {
    fn new(c: &Config, colours: usize, init: &mut Init) -> Self {
        let h = c.features;
        let input = MaskedConv2dConfig { colours, ..MaskedConv2dConfig::pointwise(2 * h, 4 * h) };
        let walk = |init: &mut Init| Lstm::new(h, 2, input, init);
        let (left, right) = (walk(init), walk(init));
        let (out, skip) = ends(c, colours, init);
        Self { left, right, out, skip }
    }

    /// # Shapes
    /// `[n, 2h, height, width]` → the same, twice
    pub fn forward(&self, x: Tensor<4>) -> Outcome<4> {
        let walk = |lstm: &Lstm, walk| recur(lstm.input.forward(x.clone()), lstm.state.val(), walk);
        let left = walk(&self.left, ScanDirection::Diagonals);
        let right = walk(&self.right, ScanDirection::Antidiagonals);
        outcome(&self.out, &self.skip, left + shift_down(right), x)
    }
}

impl PixelRnn {
    /// For pictures of so many `colours`.
    pub fn new(c: &Config, colours: usize, init: &mut Init) -> Self {
        let width = 2 * c.features;
        let of = |kind: Recurrence| if c.recurrence == kind { c.layers } else { 0 };
        let first = MaskedConv2dConfig::new(colours, width, c.first_kernel, Window::Past, MaskType::A);
        Self {
            first: MaskedConv2dConfig { colours, ..first }.init(init),
            rows: (0..of(Recurrence::RowLstm)).map(|_| RowLstm::new(c, colours, init)).collect(),
            diagonals: (0..of(Recurrence::DiagonalBilstm)).map(|_| DiagonalBiLstm::new(c, colours, init)).collect(),
            head: Head::new(width, c.head, c.levels.outputs() * colours, colours, init),
        }
    }
}

impl Autoregressive for PixelRnn {
    fn forward(&self, x: Tensor<4>, _classes: Option<Tensor<1, Int>>) -> Tensor<4> {
        let (mut x, mut skips) = (self.first.forward(x), None);
        let mut go_on = |(next, skip): Outcome<4>| {
            skips = sum(skips.take(), skip);
            next
        };
        for layer in &self.rows {
            x = go_on(layer.forward(x));
        }
        for layer in &self.diagonals {
            x = go_on(layer.forward(x));
        }
        self.head.forward(match skips {
            Some(skips) => x + skips,
            None => x,
        })
    }

    fn walk<'a>(&'a self, n: usize, width: usize, _classes: Option<Tensor<1, Int>>) -> Box<dyn Walk + 'a> {
        Box::new(RnnWalk {
            first: self.first.cache(n, width),
            rows: self.rows.iter().map(|layer| RowCache::new(layer, n, width)).collect(),
            diagonals: self.diagonals.iter().map(|layer| DiagonalCache::new(layer, n, width)).collect(),
            head: self.head.cache(),
        })
    }
}

impl Autoregressive for Networks {
    fn forward(&self, x: Tensor<4>, classes: Option<Tensor<1, Int>>) -> Tensor<4> {
        self.pixelrnn.forward(x, classes)
    }

    fn walk<'a>(&'a self, n: usize, width: usize, classes: Option<Tensor<1, Int>>) -> Box<dyn Walk + 'a> {
        self.pixelrnn.walk(n, width, classes)
    }
}

/// h and c of a pixel, of what comes before the gates' activations and the cell one step earlier.
///
/// # Shapes
/// `[n, 4h]`, `[n, h]` → `[n, h]` twice
fn cell(gates: Tensor<2>, before: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let h = before.dims()[1];
    let part = |i: usize| gates.clone().narrow(1, i * h, h);
    let [o, f, i] = [0, 1, 2].map(|at| sigmoid(part(at)));
    let c = f * before + i * part(3).tanh();
    (o * c.clone().tanh(), c)
}

/// A pixel of a row, `[n, c, 1, w]` → `[n, c]`.
fn pixel_of(row: &Tensor<4>, column: usize) -> Tensor<2> {
    let [n, c, _, _] = row.dims();
    row.clone().narrow(3, column, 1).reshape([n, c])
}

/// The network, pixel by pixel: states of the row above are remembered, and of the own row those so far.
struct RnnWalk<'a> {
    first: PixelCache,
    rows: Vec<RowCache<'a>>,
    diagonals: Vec<DiagonalCache>,
    head: HeadCache,
}

impl Walk for RnnWalk<'_> {
    fn begin_row(&mut self) {
        self.first.begin_row();
        self.rows.iter_mut().for_each(RowCache::begin_row);
        self.diagonals.iter_mut().for_each(DiagonalCache::begin_row);
    }

    fn logits(&mut self, pixel: Tensor<2>, last: bool) -> Tensor<2> {
        let (mut x, mut skips) = (self.first.at(pixel), None);
        let mut go_on = |(next, skip): Outcome<2>| {
            skips = sum(skips.take(), skip);
            next
        };
        for layer in &mut self.rows {
            x = go_on(layer.at(x, last));
        }
        for layer in &mut self.diagonals {
            x = go_on(layer.at(x, last));
        }
        self.head.at(match skips {
            Some(skips) => x + skips,
            None => x,
        })
    }

    fn push(&mut self, pixel: Tensor<2>) {
        self.first.push(pixel);
    }
}

/// [`outcome`] of single pixels.
struct EndCache {
    out: PixelCache,
    skip: Option<PixelCache>,
}

impl EndCache {
    fn new(out: &MaskedConv2d, skip: &Option<MaskedConv2d>) -> Self {
        Self { out: out.cache(1, 1), skip: skip.as_ref().map(|skip| skip.cache(1, 1)) }
    }

    fn at(&self, h: Tensor<2>, x: Tensor<2>) -> Outcome<2> {
        (self.out.at(h.clone()) + x, self.skip.as_ref().map(|skip| skip.at(h)))
    }
}

/// A [`RowLstm`], pixel by pixel.
struct RowCache<'a> {
    layer: &'a RowLstm,
    input: PixelCache,
    ends: EndCache,
    /// K_ss of the states of the row above, `[n, 4h, 1, w]`, and that row's cells.
    state: Tensor<4>,
    cells: Tensor<4>,
    /// h and c of the own row so far.
    own: [Vec<Tensor<2>>; 2],
}

impl<'a> RowCache<'a> {
    fn new(layer: &'a RowLstm, n: usize, width: usize) -> Self {
        let [gates, h, _] = layer.walk.state.dims();
        let device = layer.walk.state.val().device();
        Self {
            layer,
            input: layer.walk.input.cache(n, width),
            ends: EndCache::new(&layer.out, &layer.skip),
            state: Tensor::zeros([n, gates, 1, width], &device),
            cells: Tensor::zeros([n, h, 1, width], &device),
            own: [Vec::new(), Vec::new()],
        }
    }

    fn begin_row(&mut self) {
        self.input.begin_row();
        let [hidden, cells] = std::mem::take(&mut self.own);
        if hidden.is_empty() {
            return;
        }
        self.state = along_row(row_of(hidden), self.layer.walk.state.val());
        self.cells = row_of(cells);
    }

    fn at(&mut self, x: Tensor<2>, last: bool) -> Outcome<2> {
        let column = self.own[0].len();
        let gates = self.input.at(x.clone()) + pixel_of(&self.state, column);
        let (h, c) = cell(gates, pixel_of(&self.cells, column));
        let y = self.ends.at(h.clone(), x.clone());
        if last {
            self.input.push(x);
            self.own[0].push(h);
            self.own[1].push(c);
        }
        y
    }
}

/// One walk along the diagonals, a pixel at a time.
struct Diagonal {
    input: PixelCache,
    /// K_ss of the pixel above and of the one beside, `[2h, 4h]`.
    state: Tensor<2>,
    zeros: Tensor<2>,
    /// h of the row above, in the order in which the walk visits columns.
    above: Vec<Tensor<2>>,
    /// h of the own row so far, and c of its last pixel.
    own: Vec<Tensor<2>>,
    carry: Tensor<2>,
}

impl Diagonal {
    fn new(lstm: &Lstm, n: usize, width: usize) -> Self {
        let [gates, h, _] = lstm.state.dims();
        let state = lstm.state.val().permute([2, 1, 0]).reshape([2 * h, gates]);
        let zeros = Tensor::zeros([n, h], &state.device());
        Self {
            input: lstm.input.cache(n, width),
            state,
            above: vec![zeros.clone(); width],
            own: Vec::new(),
            carry: zeros.clone(),
            zeros,
        }
    }

    fn begin_row(&mut self) {
        let own = std::mem::take(&mut self.own);
        if !own.is_empty() {
            self.above = own;
        }
        self.carry = self.zeros.clone();
    }

    /// h and c at the next pixel of the walk, given the layer's input there.
    fn at(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let beside = self.own.last().unwrap_or(&self.zeros).clone();
        let states = Tensor::cat(vec![self.above[self.own.len()].clone(), beside], 1);
        cell(self.input.at(x) + states.matmul(self.state.clone()), self.carry.clone())
    }

    fn push(&mut self, (h, c): (Tensor<2>, Tensor<2>)) {
        self.own.push(h);
        self.carry = c;
    }
}

/// A [`DiagonalBiLstm`], pixel by pixel: the walk from the right takes a row once it is whole.
struct DiagonalCache {
    left: Diagonal,
    right: Diagonal,
    ends: EndCache,
    /// The layer's input in the own row so far.
    inputs: Vec<Tensor<2>>,
}

impl DiagonalCache {
    fn new(layer: &DiagonalBiLstm, n: usize, width: usize) -> Self {
        Self {
            left: Diagonal::new(&layer.left, n, width),
            right: Diagonal::new(&layer.right, n, width),
            ends: EndCache::new(&layer.out, &layer.skip),
            inputs: Vec::new(),
        }
    }

    fn begin_row(&mut self) {
        self.left.begin_row();
        self.right.begin_row();
        for x in std::mem::take(&mut self.inputs).into_iter().rev() {
            let state = self.right.at(x);
            self.right.push(state);
        }
    }

    fn at(&mut self, x: Tensor<2>, last: bool) -> Outcome<2> {
        let (h, c) = self.left.at(x.clone());
        // The other walk's states of the row above, from its right end; none above the first row.
        let right = self.right.own.iter().rev().nth(self.inputs.len()).unwrap_or(&self.right.zeros).clone();
        let y = self.ends.at(h.clone() + right, x.clone());
        if last {
            self.left.push((h, c));
            self.inputs.push(x);
        }
        y
    }
}

/// The system.
pub struct PixelRnnSystem {
    pub(super) model: Autoregression,
    config: Config,
}

impl System for PixelRnnSystem {
    const ID: &'static str = "pixelrnn";
    const PAPER: &'static str = "van den Oord et al.: Pixel Recurrent Neural Networks, 2016";
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
        if config.layers == 0 {
            return Err(Error::usage("model.layers must be at least 1"));
        }
        let model = Autoregression::new(Self::ID, config.levels.clone(), pictures, false)?;
        Ok(Self { model, config })
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks { pixelrnn: PixelRnn::new(&self.config, self.model.shape[0], init) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("pixelrnn", &["pixelrnn"], self.config.optimizer.clone(), |s, n, b| s.loss(n, b).map(Some))]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        self.model.abilities()
    }
}

impl PixelRnnSystem {
    /// −log p(x), the mean over the batch.
    fn loss(&mut self, networks: &Networks, batch: &Batch) -> Result<Loss> {
        self.model.loss(networks, batch)
    }
}

#[cfg(test)]
mod tests {
    use kiln_train::params::{self, HostTensor, take_gradients};

    use super::*;
    use crate::autoencoder::testing::{Fixtures, device};

    fn config(skip_connections: bool) -> Config {
        Config { features: 3, skip_connections, ..Config::default() }
    }

    /// Output and all gradients of a layer whose parameters have the reference's names. Of a 3×3 kernel to the left, the
    /// middle row's first columns are all there is.
    fn check<M: Module>(f: &Fixtures, name: &str, layer: M, forward: impl Fn(&M, Tensor<4>) -> Outcome<4>) {
        let values = |name: &str, shape: &[usize]| -> Vec<f32> {
            let all = f.values(name);
            if all.0 == shape {
                return all.1.into_iter().map(|v| v as f32).collect();
            }
            kiln_nn::tensor::to_values(f.tensor::<4>(name).narrow(2, 1, 1).narrow(3, 0, 2))
        };
        let state = params::state(&layer).into_iter().map(|(path, tensor)| {
            let values = values(&format!("{name}.{path}"), &tensor.shape);
            (path, HostTensor { shape: tensor.shape, values })
        });
        let layer = params::load(layer, &state.collect(), "fixture").unwrap();
        let x = f.tensor::<4>(&format!("{name}.input")).autodiff().require_grad();
        let (y, skip) = forward(&layer, x.clone());
        let y = Tensor::cat([Some(y), skip].into_iter().flatten().collect(), 1);
        f.assert_close(y.clone().inner(), &format!("{name}.output"), 1e-5);
        let mut gradients = (y * f.tensor::<4>(&format!("{name}.grad_output")).autodiff()).sum().backward();
        f.assert_close(x.grad(&gradients).unwrap(), &format!("{name}.grad_input"), 1e-5);
        let shapes = params::state(&layer);
        let found = take_gradients(&layer, &mut gradients);
        assert_eq!(found.len(), shapes.len());
        for (path, gradient) in found {
            let wanted = values(&format!("{name}.grad_{path}"), &shapes[&path].shape);
            for (g, w) in kiln_nn::tensor::to_values(gradient).iter().zip(wanted) {
                assert!((g - w).abs() < 1e-4, "{name}, {path}: {g} is not {w}");
            }
        }
    }

    #[test]
    fn the_row_lstm_is_pytorchs() {
        for (skip_connections, name) in [(false, "row_lstm"), (true, "row_lstm_skip")] {
            let layer = RowLstm::new(&config(skip_connections), 1, &mut Init::new(&device().autodiff(), 0));
            check(&Fixtures::open("pixelcnn"), name, layer, RowLstm::forward);
        }
    }

    #[test]
    fn the_diagonal_bilstm_is_pytorchs() {
        for (skip_connections, name) in [(false, "diagonal_bilstm"), (true, "diagonal_bilstm_skip")] {
            let layer = DiagonalBiLstm::new(&config(skip_connections), 1, &mut Init::new(&device().autodiff(), 0));
            check(&Fixtures::open("pixelcnn"), name, layer, DiagonalBiLstm::forward);
        }
    }

    #[test]
    fn forget_gates_begin_open() {
        let layer = RowLstm::new(&config(true), 1, &mut Init::new(&device().autodiff(), 0));
        let bias = kiln_nn::tensor::to_values(layer.walk.input.bias.unwrap().val());
        assert_eq!(bias[3..6], [1.0; 3]);
        assert!(bias[..3].iter().chain(&bias[6..]).all(|b| b.abs() < 0.5), "{bias:?}");
    }
}
