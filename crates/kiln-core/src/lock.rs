//! File locks between processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::{Context, Result, output};

/// A file that stays locked while this value lives.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// The lock, or `None` while another process holds it.
    ///
    /// # Errors
    /// If the file cannot be made or locked.
    pub fn attempt(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e).context(|| path.display()),
        }
    }

    /// Waits until no other process holds the lock, and takes it.
    ///
    /// # Errors
    /// If the file cannot be made or locked.
    pub fn wait(path: &Path) -> Result<Self> {
        let file = open(path)?;
        file.lock().context(|| path.display())?;
        Ok(Self(file))
    }
}

/// What lies there keeps its bytes, and a link is refused: it may point to anything.
fn open(path: &Path) -> Result<File> {
    output::check(path)?;
    OpenOptions::new().write(true).create(true).truncate(false).open(path).context(|| path.display())
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file alone would leave the lock to a child process that another thread is just
        // starting, until that child's program begins. Nothing is to be done where it fails.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let path = std::env::temp_dir().join(format!("kiln-lock-{}", std::process::id()));
        let held = Lock::attempt(&path).unwrap().unwrap();
        assert!(Lock::attempt(&path).unwrap().is_none());
        drop(held);
        let again = Lock::wait(&path).unwrap();
        drop(again);
        std::fs::remove_file(&path).unwrap();
        assert!(Lock::attempt(&path.join("no/such/folder")).is_err());
    }

    #[test]
    fn no_file_is_emptied() {
        let path = |end: &str| std::env::temp_dir().join(format!("kiln-lock-{}-{end}", std::process::id()));
        std::fs::write(path("full"), "kept").unwrap();
        drop(Lock::wait(&path("full")).unwrap());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(path("full"), path("link")).unwrap();
            assert!(Lock::attempt(&path("link")).is_err() && Lock::wait(&path("link")).is_err());
            std::fs::remove_file(path("link")).unwrap();
        }
        assert_eq!(std::fs::read(path("full")).unwrap(), b"kept");
        std::fs::remove_file(path("full")).unwrap();
    }
}
