//! Every reader of Kiln as a function of bytes.
//!
//! A reader accepts an input or refuses it with an error. All else is a finding: a panic, an abort, too much memory,
//! too much time.

pub mod data;
#[cfg(feature = "engine")]
pub mod engine;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kiln_core::{Budget, Result, set_budget};

/// What a target does with an input.
pub type Reader = fn(&[u8]) -> Result<()>;

/// All targets of this build, by name.
pub fn readers() -> Vec<(&'static str, Reader)> {
    let all = data::READERS.to_vec();
    #[cfg(feature = "engine")]
    let all = [all, engine::READERS.to_vec()].concat();
    all
}

/// The target of a name, where a file may have 16 million pixels and 64 MiB: what is above is refused by the same line as
/// what is above the default, which a fuzzer would spend its time on.
///
/// # Panics
/// If there is none.
pub fn reader(name: &str) -> Reader {
    set_budget(Budget { pixels: 1 << 24, bytes: 64 << 20 });
    reader_within_default_budget(name)
}

/// The target of a name.
///
/// # Panics
/// If there is none.
pub fn reader_within_default_budget(name: &str) -> Reader {
    let found = readers().into_iter().find(|(own, _)| *own == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
}

/// The folder of this process for the files that readers open. It lies in `$TMPDIR`, which should be in memory.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    // Kept: a process that is killed could not remove it either. Whoever set `$TMPDIR` removes all.
    FOLDER.get_or_init(|| tempfile::Builder::new().prefix("kiln-fuzz-").tempdir().unwrap().keep())
}

/// Writes a file below [`folder`], and gives its path.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The input before the first 0 byte, and the rest.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&b| b == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}
