//! Convolutions that see only pixels which come before their own, row by row and left to right: what makes a network
//! over pictures autoregressive (van den Oord 2016a, §3.4; 2016b, §2.2).
//!
//! The paper multiplies a k×k kernel by a mask of zeros and ones. Here the rows below and, where no other row is seen,
//! the columns to the right are not there at all: the kernel is as large as what it sees and the picture is shifted under
//! it, which is the same sum in about half the time. Only what is left inside a kernel is masked.
//!
//! Colours of a pixel come one after another too. Channel i of any map belongs to colour i mod `colours`, so halves and
//! quarters of a map whose channels divide by the colours hold all of them alike.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use kiln_kernels::{ConvOptions, conv2d, conv2d_to, linear};

use crate::tensor::from_values;
use crate::{Init, WeightInit, cost};

/// Whether a pixel's own place is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskType {
    /// Not, but for its earlier colours: the layer that reads the picture.
    A,
    /// With its earlier colours and the one itself: every further layer, whose input has not seen the pixel.
    B,
}

/// Which part of the k×k square around a pixel is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Rows above, and what is to the left in the pixel's own row.
    Past,
    /// Whole rows: those above, and the pixel's own with [`MaskType::B`] (the vertical stack of 2016b, whose maps hold
    /// in row r what is known of the rows above r).
    Above,
    /// What is to the left in the pixel's own row (the horizontal stack of 2016b; the 1-d input of the Row LSTM).
    Left,
}

/// Settings of a [`MaskedConv2d`].
#[derive(Clone, Copy, Debug)]
pub struct MaskedConv2dConfig {
    /// Channels that go in.
    pub inputs: usize,
    /// Channels that come out.
    pub outputs: usize,
    /// Rows and columns of the square, odd.
    pub kernel: usize,
    /// The part of the square that is seen.
    pub window: Window,
    /// Whether a pixel's own place is seen.
    pub mask: MaskType,
    /// Colours of a pixel, which must divide the channels on both sides.
    pub colours: usize,
    /// How the weight is drawn; the bias is zero unless the weight is [`WeightInit::FanIn`].
    pub weight: WeightInit,
}

impl MaskedConv2dConfig {
    /// `inputs` → `outputs` channels over `window` of a `kernel`×`kernel` square, of pictures with one colour.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, window: Window, mask: MaskType) -> Self {
        Self { inputs, outputs, kernel, window, mask, colours: 1, weight: WeightInit::FanIn }
    }

    /// A 1×1 convolution of [`MaskType::B`].
    pub fn pointwise(inputs: usize, outputs: usize) -> Self {
        Self::new(inputs, outputs, 1, Window::Left, MaskType::B)
    }

    /// Height and width of the kernel.
    fn size(&self) -> [usize; 2] {
        let reach = self.kernel / 2;
        let own = usize::from(self.mask == MaskType::B);
        match self.window {
            Window::Past => [reach + 1, self.kernel],
            Window::Above => [reach + own, self.kernel],
            Window::Left => [1, reach + if self.colours > 1 { 1 } else { own }],
        }
    }

    /// 1 where a weight `[out, in, kh, kw]` counts; nothing if all do.
    fn mask(&self) -> Option<Vec<f32>> {
        let ([height, width], reach) = (self.size(), self.kernel / 2);
        let seen = |o: usize, i: usize, row: usize, column: usize| {
            if self.window == Window::Above || row + 1 < height || column < reach {
                return true;
            }
            let (of, from) = (o % self.colours, i % self.colours);
            column == reach && (from < of || (from == of && self.mask == MaskType::B))
        };
        let mask: Vec<f32> = (0..self.outputs * self.inputs * height * width)
            .map(|at| {
                let (column, row, plane) = (at % width, at / width % height, at / width / height);
                f32::from(u8::from(seen(plane / self.inputs, plane % self.inputs, row, column)))
            })
            .collect();
        mask.contains(&0.0).then_some(mask)
    }

    /// Makes the layer. The kernel must be odd and see something.
    pub fn init(&self, init: &mut Init) -> MaskedConv2d {
        let (Self { inputs, outputs, .. }, [height, width]) = (*self, self.size());
        let fits = self.kernel % 2 == 1 && height * width > 0;
        assert!(fits, "a masked convolution of {self:?} sees nothing or has no middle");
        let mask = if init.counted().is_some() { None } else { self.mask() };
        let fan_in = match &mask {
            None => inputs * height * width,
            Some(mask) => (mask.iter().sum::<f32>() as usize / outputs).max(1),
        };
        MaskedConv2d {
            weight: init.weight([outputs, inputs, height, width], fan_in, self.weight),
            bias: Some(init.bias(outputs, fan_in, self.weight)),
            mask,
            reach: self.kernel / 2,
            above: height - usize::from(self.window != Window::Above),
        }
    }
}

/// A convolution over `[n, channels, height, width]` that sees what comes before a pixel.
#[derive(Module, Debug)]
pub struct MaskedConv2d {
    /// `[out, in, kh, kw]`: the part of the k×k kernel that is seen.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    mask: Option<Vec<f32>>,
    /// Columns to the left of a pixel, and rows above it, at which its window begins.
    #[module(skip)]
    reach: usize,
    /// Rows of the kernel that are whole.
    #[module(skip)]
    above: usize,
}

impl MaskedConv2d {
    /// The weight as it counts.
    pub fn masked(&self) -> Tensor<4> {
        let weight = self.weight.val();
        match &self.mask {
            None => weight,
            Some(mask) => {
                let mask = from_values(mask.clone(), weight.dims(), &weight.device());
                weight * mask
            }
        }
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }

    /// # Shapes
    /// `[n, in, h, w]` → `[n, out, h, w]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let ([n, inputs, height, width], [outputs, _, kh, kw]) = (x.dims(), self.weight.dims());
        cost::count(&[n, outputs, height, width, inputs, kh, kw]);
        // One row has nothing above it, one column nothing beside it.
        let padding = [if kh == 1 && self.above == 0 { 0 } else { self.reach }, self.reach];
        let options = ConvOptions { padding, ..ConvOptions::default() };
        conv2d_to(x, self.masked(), self.bias(), options, [height, width])
    }

    /// One row of [`Window::Above`]: of the rows of the input that it sees.
    ///
    /// # Shapes
    /// `[n, in, kh, w]` → `[n, out, 1, w]`
    pub fn row(&self, rows: Tensor<4>) -> Tensor<4> {
        conv2d(rows, self.weight.val(), self.bias(), along_rows(self.reach))
    }

    /// What it takes to go through `n` pictures of `width` columns a pixel at a time ([`Window::Past`], [`Window::Left`]).
    pub fn cache(&self, n: usize, width: usize) -> PixelCache {
        let (weight, above) = (self.masked(), self.above);
        let [outputs, inputs, _, kw] = weight.dims();
        let columns = kw.min(self.reach + 1);
        let beside = weight.clone().narrow(2, above, 1).narrow(3, 0, columns);
        let beside = beside.reshape([outputs, inputs, columns]).permute([0, 2, 1]).reshape([outputs, columns * inputs]);
        let device = weight.device();
        let rows = vec![Tensor::zeros([n, inputs, 1, width], &device); above];
        PixelCache {
            above: (above > 0).then(|| weight.narrow(2, 0, above)),
            beside,
            bias: self.bias(),
            rows,
            of_rows: None,
            pixels: Vec::new(),
            reach: self.reach,
            shape: [n, inputs],
            own: columns > self.reach,
            device,
        }
    }
}

fn along_rows(reach: usize) -> ConvOptions {
    ConvOptions { padding: [0, reach], ..ConvOptions::default() }
}

/// What a [`MaskedConv2d`] remembers of its input while pixels come one after another, so that a pixel costs its own
/// window only. Rows above are summed up once, a row at a time.
pub struct PixelCache {
    /// Weights of the rows above, and of the own row as `[out, columns · in]`.
    above: Option<Tensor<4>>,
    beside: Tensor<2>,
    bias: Option<Tensor<1>>,
    /// The rows above, `[n, in, 1, w]` each, and what they contribute to this row, `[n, out, 1, w]`.
    rows: Vec<Tensor<4>>,
    of_rows: Option<Tensor<4>>,
    /// The pixels of this row so far, `[n, in]` each.
    pixels: Vec<Tensor<2>>,
    reach: usize,
    shape: [usize; 2],
    /// Whether the pixel's own place is in the window.
    own: bool,
    device: Device,
}

impl PixelCache {
    /// Begins the next row, the one before being whole.
    pub fn begin_row(&mut self) {
        let pixels = std::mem::take(&mut self.pixels);
        let Some(weight) = &self.above else { return };
        if !pixels.is_empty() {
            self.rows.remove(0);
            self.rows.push(row_of(pixels));
        }
        let rows = Tensor::cat(self.rows.clone(), 2);
        self.of_rows = Some(conv2d(rows, weight.clone(), self.bias.clone(), along_rows(self.reach)));
    }

    /// The output at the next pixel of the row, given the input there.
    ///
    /// # Shapes
    /// `[n, in]` → `[n, out]`
    pub fn at(&self, x: Tensor<2>) -> Tensor<2> {
        let [n, inputs] = self.shape;
        let zeros = || Tensor::zeros([n, inputs], &self.device);
        let column = self.pixels.len();
        let seen = (0..self.reach).rev().map(|back| match column.checked_sub(back + 1) {
            Some(at) => self.pixels[at].clone(),
            None => zeros(),
        });
        let window: Vec<_> = seen.chain(self.own.then_some(x)).collect();
        let window = if window.len() == 1 { window[0].clone() } else { Tensor::cat(window, 1) };
        match &self.of_rows {
            None => linear(window, self.beside.clone(), self.bias.clone()),
            Some(rows) => {
                let outputs = rows.dims()[1];
                linear(window, self.beside.clone(), None) + rows.clone().narrow(3, column, 1).reshape([n, outputs])
            }
        }
    }

    /// Remembers the input at the pixel, and goes on to the next.
    ///
    /// # Shapes
    /// `[n, in]`
    pub fn push(&mut self, x: Tensor<2>) {
        self.pixels.push(x);
    }
}

/// A convolution of one row with a centred window.
///
/// # Shapes
/// `[n, in, 1, w]`, weight `[out, in, k]` → `[n, out, 1, w]`
pub fn along_row(row: Tensor<4>, weight: Tensor<3>) -> Tensor<4> {
    let reach = weight.dims()[2] / 2;
    conv2d(row, weight.unsqueeze_dim(2), None, along_rows(reach))
}

/// Pixels `[n, c]`, the first column's first, as a row `[n, c, 1, w]`.
pub fn row_of(pixels: Vec<Tensor<2>>) -> Tensor<4> {
    Tensor::stack::<3>(pixels, 2).unsqueeze_dim(2)
}
