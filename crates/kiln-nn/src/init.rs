//! Where parameters come from: a device and a keyed random stream for each parameter.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_core::random::Key;

/// How a weight is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightInit {
    /// PyTorch's default for convolution and linear layers: uniform in ±1/√fan_in
    /// (`kaiming_uniform_` with a = √5).
    FanIn,
    /// Normal with mean 0 and this standard deviation (DCGAN and CycleGAN use 0.02).
    Normal(f64),
    /// Normal with standard deviation √(2 / fan_in) (He 2015).
    He,
    /// Uniform in ±√(6 / (fan_in + fan_out)) (Glorot & Bengio 2010; PyTorch's `xavier_uniform_`).
    Xavier,
    /// A matrix of orthogonal rows or columns, whichever are fewer, times a gain; of a convolution the matrix
    /// `[out, in · taps]` (Saxe 2014; PyTorch's `orthogonal_`).
    Orthogonal {
        /// 1 keeps lengths.
        gain: f64,
    },
    /// All zero (the last layer of a residual branch, ControlNet's zero convolution).
    Zero,
}

/// Makes parameters one after another; the n-th parameter made depends on the seed and n alone.
pub struct Init {
    device: Device,
    key: Key,
    made: u64,
    /// The numbers of the parameters so far, where they are counted and not made.
    counted: Option<u128>,
}

impl Init {
    /// Parameters on `device` from `seed`. On an autodiff device they require gradients.
    pub fn new(device: &Device, seed: u64) -> Self {
        Self { device: device.clone(), key: Key::new(seed).purpose("parameters"), made: 0, counted: None }
    }

    /// Counts the numbers of parameters without making them: each parameter is a single zero. Networks of any size can be
    /// counted, and are good for nothing else.
    pub fn counting() -> Self {
        Self { counted: Some(0), ..Self::new(&Device::flex(), 0) }
    }

    /// The numbers that were counted, if they were.
    pub fn counted(&self) -> Option<u128> {
        self.counted
    }

    /// The device parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A weight whose elements each see `fan_in` inputs.
    pub fn weight<const D: usize>(&mut self, shape: [usize; D], fan_in: usize, how: WeightInit) -> Param<Tensor<D>> {
        let scaled = |values: Vec<f32>, by: f64| values.into_iter().map(|v| v * by as f32).collect();
        self.param(shape, |key, index, len| match how {
            WeightInit::FanIn => {
                let unit = key.uniform([index], len);
                scaled(unit.into_iter().map(|u| 2.0 * u - 1.0).collect(), 1.0 / (fan_in as f64).sqrt())
            }
            WeightInit::Normal(std) => scaled(key.normal([index], len), std),
            WeightInit::He => scaled(key.normal([index], len), (2.0 / fan_in as f64).sqrt()),
            WeightInit::Xavier => {
                // Inputs and outputs are the first two dimensions, in either order; the others are taps.
                let fans = match shape[..] {
                    [outputs, inputs, ref taps @ ..] => (outputs + inputs) * taps.iter().product::<usize>(),
                    _ => fan_in + 1,
                };
                let unit = key.uniform([index], len);
                scaled(unit.into_iter().map(|u| 2.0 * u - 1.0).collect(), (6.0 / fans as f64).sqrt())
            }
            WeightInit::Orthogonal { gain } => {
                scaled(orthogonal(&key.normal([index], len), shape.first().map_or(1, |rows| *rows)), gain)
            }
            WeightInit::Zero => vec![0.0; len],
        })
    }

    /// The bias of a layer whose weight is drawn so. PyTorch draws biases like weights; every explicit initialisation in
    /// the papers sets them to 0.
    pub fn bias(&mut self, len: usize, fan_in: usize, how: WeightInit) -> Param<Tensor<1>> {
        self.weight([len], fan_in, if how == WeightInit::FanIn { how } else { WeightInit::Zero })
    }

    /// A parameter filled with one value.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.param(shape, |_, _, len| vec![value; len])
    }

    /// Normal with the given mean and standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], mean: f64, std: f64) -> Param<Tensor<D>> {
        self.param(shape, |key, index, len| {
            key.normal([index], len).into_iter().map(|v| v * std as f32 + mean as f32).collect()
        })
    }

    /// The next parameter, of what `values` makes of the key, its index and its length.
    fn param<const D: usize>(
        &mut self,
        shape: [usize; D],
        values: impl FnOnce(Key, u64, usize) -> Vec<f32>,
    ) -> Param<Tensor<D>> {
        self.made += 1;
        if let Some(counted) = &mut self.counted {
            *counted += shape.iter().map(|&side| side as u128).product::<u128>();
            return Param::initialized(ParamId::new(), Tensor::zeros([1; D], &self.device));
        }
        let values = values(self.key, self.made, shape.iter().product());
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        let tensor = if self.device.is_autodiff() { tensor.require_grad() } else { tensor };
        Param::initialized(ParamId::new(), tensor)
    }
}

/// Q of the QR decomposition of a matrix of `rows` rows, or of its transpose if it is wide, where R's diagonal is
/// positive: uniform over such matrices if the given one is normal (Mezzadri 2007). By Gram and Schmidt's method,
/// done twice against rounding.
pub fn orthogonal(normal: &[f32], rows: usize) -> Vec<f32> {
    let columns = normal.len() / rows.max(1);
    let place = |vector: usize, i: usize| if rows < columns { vector * columns + i } else { i * columns + vector };
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for vector in 0..rows.min(columns) {
        let mut v: Vec<f64> = (0..rows.max(columns)).map(|i| f64::from(normal[place(vector, i)])).collect();
        for other in basis.iter().chain(&basis) {
            let along = dot(other, &v);
            v.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
        }
        let length = dot(&v, &v).sqrt();
        v.iter_mut().for_each(|v| *v /= length);
        basis.push(v);
    }
    let mut out = vec![0.0; normal.len()];
    for (vector, v) in basis.iter().enumerate() {
        v.iter().enumerate().for_each(|(i, v)| out[place(vector, i)] = *v as f32);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_weights_stay_within_the_bound_and_fill_it() {
        let mut init = Init::new(&Device::flex(), 1);
        let w = init.weight([64, 16, 3, 3], 144, WeightInit::FanIn).val();
        let max = w.abs().max().into_scalar::<f32>();
        assert!(max <= 1.0 / 12.0 && max > 0.083);
    }

    #[test]
    fn xavier_weights_fill_their_bound() {
        let mut init = Init::new(&Device::flex(), 1);
        let w = init.weight([32, 16, 3, 3], 144, WeightInit::Xavier).val();
        let (max, bound) = (w.abs().max().into_scalar::<f32>(), (6.0f32 / (48.0 * 9.0)).sqrt());
        assert!(max <= bound && max > 0.99 * bound, "{max} of {bound}");
    }

    #[test]
    fn orthogonal_weights_keep_lengths() {
        let mut init = Init::new(&Device::flex(), 1);
        for shape in [[6, 3, 2, 2], [20, 3, 2, 2]] {
            let w = init.weight(shape, 12, WeightInit::Orthogonal { gain: 2.0 }).val().reshape([shape[0], 12]);
            let product = if shape[0] < 12 { w.clone().matmul(w.transpose()) } else { w.clone().transpose().matmul(w) };
            let size = shape[0].min(12);
            let off = (product - Tensor::eye(size, &Device::flex()) * 4.0).abs().max().into_scalar::<f32>();
            assert!(off < 1e-5, "{shape:?}: off by {off}");
        }
    }

    #[test]
    fn any_size_can_be_counted() {
        let mut init = Init::counting();
        let huge = init.weight([1 << 40, 1 << 40], 1, WeightInit::FanIn);
        let _ = (init.bias(5, 1, WeightInit::FanIn), init.constant([2], 1.0), init.normal([3], 0.0, 1.0));
        assert_eq!((init.counted(), huge.val().dims()), (Some((1 << 80) + 10), [1, 1]));
        assert_eq!(Init::new(&Device::flex(), 0).counted(), None);
    }

    #[test]
    fn the_same_seed_gives_the_same_parameters() {
        let draw = |seed| {
            let mut init = Init::new(&Device::flex(), seed);
            let _ = init.weight([4, 4], 4, WeightInit::He);
            init.weight([4, 4], 4, WeightInit::Normal(0.02)).val().into_data()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
