//! The cache folder of downloaded data.

use std::path::{Path, PathBuf};

use kiln_core::{Error, Result};

use crate::packages::{Files, Package};

/// The folder for everything that can be downloaded or made again: `$KILN_CACHE`, else `$XDG_CACHE_HOME/kiln`, else
/// `~/.cache/kiln`. It need not exist yet.
pub fn cache_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("KILN_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|p| p.join("kiln")))
        .or_else(|| std::env::home_dir().map(|p| p.join(".cache").join("kiln")))
        .ok_or_else(|| Error::new("no home folder for the cache: set KILN_CACHE to a folder"))
}

/// The folder of a package below `data` if everything needed is there. Folders get their name only
/// when complete; the look at the files is for folders made when fewer of them were needed.
pub(crate) fn package_folder(data: &Path, package: &Package) -> Option<PathBuf> {
    let folder = data.join(package.folder());
    let complete = match package.files {
        Files::List(files) => files.iter().all(|f| folder.join(f).is_file()),
        Files::Like(_) => folder.is_dir(),
    };
    complete.then_some(folder)
}
