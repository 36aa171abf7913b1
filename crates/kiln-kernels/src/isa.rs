//! Which vector instructions this process uses, and how a loop is compiled for each of them.
//!
//! Binaries are built for the baseline CPU of the target, so hot loops are compiled several times
//! and the best version the machine can run is picked once. `KILN_KERNELS=portable|avx2|avx512`
//! asks for a lower one; a name that is unknown or not supported here means "pick the best".

use crate::Precision;
use std::sync::OnceLock;

/// The instruction sets with a version of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whatever the build targets; no fused multiply-add.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
    /// AVX-512 whose products are of pairs of bf16 ([`crate::pairs`]): for [`crate::Precision::Bf16`].
    Bf16,
}

/// A [`Kind`] this machine supports: holding one is the proof that its instructions may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(Kind);

impl Isa {
    /// The given kind, if this machine has it.
    pub(crate) fn supported(kind: Kind) -> Option<Isa> {
        #[cfg(target_arch = "x86_64")]
        let available = match kind {
            Kind::Portable => true,
            Kind::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Kind::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
            }
            Kind::Bf16 => Isa::supported(Kind::Avx512).is_some() && is_x86_feature_detected!("avx512bf16"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let available = kind == Kind::Portable;
        available.then_some(Isa(kind))
    }

    /// Every kind in full precision that this machine supports, the fastest first.
    pub(crate) fn all() -> impl Iterator<Item = Isa> {
        [Kind::Avx512, Kind::Avx2, Kind::Portable].into_iter().filter_map(Isa::supported)
    }

    /// The kind this process uses, decided on first call.
    pub(crate) fn current() -> Isa {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| {
            let asked = match std::env::var("KILN_KERNELS").as_deref() {
                Ok("portable") => Isa::supported(Kind::Portable),
                Ok("avx2") => Isa::supported(Kind::Avx2),
                Ok("avx512") => Isa::supported(Kind::Avx512),
                _ => None,
            };
            asked.or_else(|| Isa::all().next()).unwrap_or(Isa(Kind::Portable))
        })
    }

    /// The kind for products of the given precision. Where nothing multiplies bf16 faster than `f32`, that is the
    /// one in full precision.
    pub(crate) fn for_products(precision: Precision) -> Isa {
        let current = Isa::current();
        match precision {
            Precision::Bf16 if current.kind() == Kind::Avx512 => Isa::supported(Kind::Bf16).unwrap_or(current),
            _ => current,
        }
    }

    /// Which kind this is.
    pub(crate) fn kind(self) -> Kind {
        self.0
    }
}

/// Defines a function compiled once per instruction set and dispatched on its first argument.
///
/// The body is ordinary safe Rust that the compiler vectorises; it sees a constant `FMA` telling
/// whether a fused multiply-add is one instruction (see [`mul_add`]).
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$generic:ident : $bound:path])?
     ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$generic: $bound>)? (isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool $(, $generic: $bound)?>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                body::<true $(, $generic)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512 $(<$generic: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                body::<true $(, $generic)?>($($arg),*)
            }

            match isa.kind() {
                // SAFETY: an `Isa` of this kind exists only where these features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 | $crate::isa::Kind::Bf16 => unsafe { avx512($($arg),*) },
                _ => body::<false $(, $generic)?>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;

/// `a * b + c`, fused where that is one instruction (elsewhere it would be a library call).
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
