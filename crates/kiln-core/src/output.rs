//! The one writer of files: whole or not at all, and never in the place of anything but a regular file.
//!
//! A device, a folder or a FIFO is refused, not replaced. So is a link: what it points to may lie outside the folder that
//! the output belongs to, and replacing it would lose the link. A link in the way there, such as a run folder on
//! another disk, is followed as usual.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, TryLockError};
use std::time::Duration;

use crate::{Context, Error, Result};

/// Refuses a place that a file cannot be written to; best before long work.
///
/// # Errors
/// If it is a link, a folder, a device or the like, or has no name.
pub fn check(path: &Path) -> Result<()> {
    let refuse = |what: &str| Err(Error::usage(format!("{}: {what}", path.display())));
    if path.file_name().is_none() || path.as_os_str().to_string_lossy().ends_with('/') {
        return refuse("not the name of a file");
    }
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let kind = found.file_type();
    match () {
        () if kind.is_file() => Ok(()),
        () if kind.is_dir() => refuse("is a folder; give the name of a file"),
        () if kind.is_symlink() => {
            refuse("is a link, which is not written through; give the file itself, or remove it")
        }
        () => refuse("is not a regular file, so it is not replaced; give another name"),
    }
}

/// Writes a file: whoever reads it sees the old bytes or the new ones, never a mix. Where that fails, as on a full disk,
/// the old file is left as it was and nothing beside it.
///
/// # Errors
/// As [`check`]; if the disk is full or not writable.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| file.write_all(bytes))
}

/// [`write()`], and the file is on the disk when this returns: for what a lost power supply must not take.
///
/// # Errors
/// As [`write()`].
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |file| file.write_all(bytes).and_then(|()| file.sync_all()))
}

/// Held by whoever has a file half written.
static WRITING: RwLock<()> = RwLock::new(());

/// Waits until no file is half written, two seconds at most, and lets none begin: just before a process ends in the middle of
/// its work.
pub fn settle() {
    for _ in 0..200 {
        match WRITING.try_write() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            // Never given back: whoever wants to write waits for the end of the process.
            Ok(guard) => return std::mem::forget(guard),
            Err(TryLockError::Poisoned(guard)) => return std::mem::forget(guard.into_inner()),
        }
    }
}

fn replace(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    check(path)?;
    let _writing = WRITING.read().unwrap_or_else(PoisonError::into_inner);
    let half = half_written(path);
    let written = OpenOptions::new().write(true).create_new(true).open(&half).and_then(|mut file| {
        fill(&mut file)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        drop(file);
        fs::rename(&half, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&half))).context(|| format!("writing {}", path.display()))
}

/// A name beside `path` that no other thread or process takes, short whatever the length of its own.
fn half_written(path: &Path) -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".kiln-{}-{number}.partial", std::process::id()))
}

/// Removes what processes that were killed have left half written in a folder: best effort, when nobody writes there.
pub fn remove_half_written(folder: &Path) {
    let is_half = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        name.starts_with(".kiln-") && name.ends_with(".partial")
    };
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    found.filter(|path| is_half(path)).for_each(|path| drop(fs::remove_file(path)));
}

/// Opens a file to add to its end, made if it is not there.
///
/// # Errors
/// As [`check`]; if it cannot be opened.
pub fn append(path: &Path) -> Result<File> {
    check(path)?;
    OpenOptions::new().append(true).create(true).open(path).context(|| format!("writing {}", path.display()))
}

/// Refuses a place that no folder can be made at, nor files in it; best before long work.
///
/// # Errors
/// If something else than a folder lies there.
pub fn check_folder(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            Err(Error::usage(format!("{}: is not a folder; give another name", path.display())))
        }
        _ => Ok(()),
    }
}

/// Makes a folder, and those above it.
///
/// # Errors
/// If it cannot be made.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("creating {}", path.display()))
}

/// Makes the folder that a file is to lie in.
///
/// # Errors
/// If it cannot be made.
pub fn folder_of(file: &Path) -> Result<()> {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), folder)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A folder of its own, removed with what is in it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kiln-output-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().to_string_lossy().into_owned();
            let mut names: Vec<String> = fs::read_dir(&self.0).unwrap().map(name).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_written_whole_and_replaced_whole() {
        let scratch = Scratch::new("whole");
        let path = scratch.0.join("n".repeat(255));
        write(&path, b"one").unwrap();
        write_synced(&path, b"two").unwrap();
        append(&path).unwrap().write_all(b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"twothree");
        assert_eq!(scratch.names().len(), 1);
    }

    #[test]
    fn what_fails_leaves_the_old_file_and_nothing_beside_it() {
        let scratch = Scratch::new("fails");
        let path = scratch.0.join("a");
        write(&path, b"old").unwrap();
        let full = |_: &mut File| Err(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!replace(&path, full).unwrap_err().is_usage());
        assert!(replace(&scratch.0.join("b"), full).is_err());
        assert_eq!((fs::read(&path).unwrap(), scratch.names()), (b"old".to_vec(), vec!["a".to_string()]));
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let scratch = Scratch::new("kinds");
        let at = |name: &str| scratch.0.join(name);
        fs::create_dir(at("folder")).unwrap();
        let mut wrong = vec![at("folder"), at("file/"), scratch.0.join(".."), PathBuf::from("/")];
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            fs::write(at("file"), "kept").unwrap();
            symlink(at("file"), at("link")).unwrap();
            symlink(at("nowhere"), at("dangling")).unwrap();
            wrong.extend([at("link"), at("dangling"), PathBuf::from("/dev/null")]);
            let socket = std::os::unix::net::UnixListener::bind(at("socket"));
            wrong.extend(socket.is_ok().then(|| at("socket")));
        }
        for path in wrong {
            for refused in [write(&path, b"x"), append(&path).map(drop)] {
                assert!(refused.unwrap_err().is_usage(), "{}", path.display());
            }
        }
        #[cfg(unix)]
        assert_eq!(fs::read(at("file")).unwrap(), b"kept");
        assert!(check_folder(&at("folder")).is_ok() && check_folder(&at("new")).is_ok());
        #[cfg(unix)]
        assert!(check_folder(&at("file")).is_err() && check_folder(&at("link")).is_err());
        assert!(!at("nowhere").exists() && !scratch.names().iter().any(|name| name.ends_with("partial")));
    }
}
