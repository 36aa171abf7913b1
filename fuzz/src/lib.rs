//! Every reader of Kiln as a function of bytes.
//!
//! A reader accepts an input or refuses it with an error. All else is a finding: a panic, an abort, too much memory,
//! too much time. `crates/kiln-systems/examples/mutated.rs` gives the same readers other inputs.

pub mod data;
#[cfg(feature = "engine")]
pub mod engine;
pub mod files;

use kiln_core::{Budget, set_budget};

/// Gives a target an input. A file may have 16 million pixels and 64 MiB: what is above is refused by the same line as what
/// is above the default, which a fuzzer would spend its time on.
///
/// # Panics
/// If there is no target of the name.
pub fn fuzz(name: &str, bytes: &[u8]) {
    set_budget(Budget { pixels: 1 << 24, bytes: 64 << 20 });
    let all = data::READERS.to_vec();
    #[cfg(feature = "engine")]
    let all = [all, engine::READERS.to_vec()].concat();
    let found = all.into_iter().find(|(own, _)| *own == name);
    // Refused is as good as accepted.
    _ = found.unwrap_or_else(|| panic!("no target {name}")).1(bytes);
}
