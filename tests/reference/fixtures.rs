//! Reads the reference values that the scripts beside this file made.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors};

/// One file of reference values.
pub struct Fixtures {
    bytes: Vec<u8>,
}

#[allow(dead_code)] // each test file uses some
impl Fixtures {
    /// The file of a topic, such as `layers`.
    pub fn open(topic: &str) -> Self {
        Self { bytes: std::fs::read(Self::folder().join(format!("{topic}.safetensors"))).unwrap() }
    }

    /// Where they all are.
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures")
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_string).collect()
    }

    /// Shape and values of a tensor; f64 and i64 are converted.
    pub fn values(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            other => panic!("{name}: {other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    /// A tensor on the plain CPU device.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.tensor_of(name, DType::F32)
    }

    /// The same in another precision.
    pub fn tensor_of<const D: usize>(&self, name: &str, dtype: DType) -> Tensor<D> {
        let (shape, values) = self.values(name);
        let shape: [usize; D] = shape.try_into().unwrap_or_else(|s| panic!("{name} has shape {s:?}"));
        let data = TensorData::new(values, shape).convert_dtype(dtype);
        Tensor::from_data(data, (&Device::flex(), dtype))
    }

    /// Asserts that a tensor equals the reference within `tolerance`, relative to its largest value.
    pub fn assert_close<const D: usize>(&self, actual: Tensor<D>, name: &str, tolerance: f64) {
        let (shape, expected) = self.values(name);
        assert_eq!(actual.dims().to_vec(), shape, "{name}");
        let actual = actual.try_into_vec_as::<f32>().unwrap();
        let scale = expected.iter().fold(1e-6f64, |m, v| m.max(v.abs()));
        for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
            let off = (f64::from(*a) - e).abs();
            assert!(off <= tolerance * scale, "{name}[{i}]: {a} instead of {e}");
        }
    }
}
