//! What a target is, and the files that readers open.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kiln_core::Result;

/// What a target does with an input.
pub type Reader = fn(&[u8]) -> Result<()>;

/// The folder of this process for the files that readers open. It lies in `$TMPDIR`, which should be in memory.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    // Kept: a process that is killed could not remove it either. Whoever set `$TMPDIR` removes all.
    FOLDER.get_or_init(|| tempfile::Builder::new().prefix("kiln-fuzz-").tempdir().unwrap().keep())
}

/// Writes a file below [`folder`], and gives its path.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The input before the first 0 byte, and the rest.
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&b| b == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}
