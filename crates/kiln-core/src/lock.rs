//! File locks between processes.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::{Context, Result};

/// A file that stays locked while this value lives.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// The lock, or `None` while another process holds it.
    ///
    /// # Errors
    /// If the file cannot be made or locked.
    pub fn attempt(path: &Path) -> Result<Option<Self>> {
        let file = File::create(path).context(|| path.display())?;
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
        let file = File::create(path).context(|| path.display())?;
        file.lock().context(|| path.display())?;
        Ok(Self(file))
    }
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
}
