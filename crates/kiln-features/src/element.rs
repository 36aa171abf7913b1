//! How the numbers of weights files are stored.

/// How a number is stored; all are little-endian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The number at the beginning of `bytes`.
    pub(crate) fn read(self, bytes: &[u8]) -> f32 {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.first_chunk().copied().unwrap_or([0; N])
        }
        match self {
            Self::F64 => f64::from_le_bytes(array(bytes)) as f32,
            Self::F32 => f32::from_le_bytes(array(bytes)),
            Self::F16 => half(u16::from_le_bytes(array(bytes))),
            Self::Bf16 => f32::from_bits(u32::from(u16::from_le_bytes(array(bytes))) << 16),
            Self::I64 => i64::from_le_bytes(array(bytes)) as f32,
            Self::I32 => i32::from_le_bytes(array(bytes)) as f32,
            Self::I16 => i16::from_le_bytes(array(bytes)).into(),
            Self::I8 => i8::from_le_bytes(array(bytes)).into(),
            Self::U8 | Self::Bool => array::<1>(bytes)[0].into(),
        }
    }
}

/// IEEE 754's binary16: sign, five bits of exponent, ten of fraction.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff);
    sign * match (bits >> 10) & 0x1f {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_exact() {
        for (bits, value) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x3555, 0.333_251_95), (0x0001, 5.960_464_5e-8), (0x7bff, 65504.0)]
        {
            assert_eq!(half(bits), value);
        }
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
        assert!(half(0x7e00).is_nan());
        assert!(half(0x8000).is_sign_negative());
    }
}
