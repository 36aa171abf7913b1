//! How exactly products are computed.

use crate::isa::{Isa, Kind};
use serde::{Deserialize, Serialize};
use std::{cell::Cell, fmt, str::FromStr};

/// What convolutions multiply. Tensors, sums, normalisation, attention, linear layers, losses, weights and their
/// updates stay `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `f32`.
    #[default]
    F32,
    /// Operands rounded to bf16 (8 bits of mantissa), products and sums in `f32`. Without instructions for it
    /// (AVX-512 BF16) the same as [`Precision::F32`], which is then as fast.
    Bf16,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Precision::F32),
            "bf16" => Ok(Precision::Bf16),
            _ => Err(format!("there are f32 and bf16, not `{name}`")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// Whether this machine, and `KILN_KERNELS`, have instructions for it.
    pub fn is_native(self) -> bool {
        self == Precision::F32 || Isa::for_products(self).kind() == Kind::Bf16
    }

    /// What operations started on this thread use.
    pub(crate) fn current() -> Precision {
        CURRENT.get()
    }

    /// Runs `work` with the operations it starts on this thread, forward and backward, in this precision.
    pub fn scope<T>(self, work: impl FnOnce() -> T) -> T {
        /// Puts back what was, whether `work` returns or panics.
        struct Restore(Precision);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(self));
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_where_it_ends() {
        assert_eq!(Precision::current(), Precision::F32);
        Precision::Bf16.scope(|| {
            assert_eq!(Precision::current(), Precision::Bf16);
            Precision::F32.scope(|| assert_eq!(Precision::current(), Precision::F32));
            assert_eq!(Precision::current(), Precision::Bf16);
            let other = std::thread::spawn(Precision::current).join();
            assert_eq!(other.ok(), Some(Precision::F32));
        });
        let _ = std::panic::catch_unwind(|| Precision::Bf16.scope(|| panic!("within")));
        assert_eq!(Precision::current(), Precision::F32);
    }
}
