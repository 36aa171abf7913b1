//! Reads files within bounds: only regular ones, and never more than there may be.
//!
//! A header can claim any size, and a few kilobytes can decompress to gigabytes. So everything that is decoded has
//! a [`Budget`], which is asked before memory is taken.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::RwLock;

use crate::{Context, Error, Result};

/// How much one file may decode to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Pixels of one picture.
    pub pixels: u64,
    /// Bytes of one file, decompressed: a picture, a table, an array, an entry of an archive.
    pub bytes: u64,
}

/// What holds unless [`set_budget`] says otherwise: a picture of 10,000 x 10,000, and 1 GiB.
const DEFAULT: Budget = Budget { pixels: 100_000_000, bytes: 1 << 30 };

static BUDGET: RwLock<Budget> = RwLock::new(DEFAULT);

impl Default for Budget {
    fn default() -> Self {
        DEFAULT
    }
}

/// The budget of this process.
pub fn budget() -> Budget {
    // A plain value is never left half written.
    *BUDGET.read().unwrap_or_else(|e| e.into_inner())
}

/// Sets the budget of this process.
pub fn set_budget(budget: Budget) {
    *BUDGET.write().unwrap_or_else(|e| e.into_inner()) = budget;
}

impl Budget {
    /// Refuses a picture of more pixels than there may be; `place` names it.
    ///
    /// # Errors
    /// One line that says how many it has and what to do.
    pub fn check_pixels(&self, width: u64, height: u64, place: &str) -> Result<()> {
        match width.checked_mul(height) {
            Some(pixels) if pixels <= self.pixels => Ok(()),
            _ => Err(Error::new(format!(
                "{place}: {width} x {height} pixels, and a picture may have {} in all; make it smaller, or allow \
                 more by --max-pixels",
                self.pixels
            ))),
        }
    }

    /// Refuses more bytes than there may be; `place` names what they are of.
    ///
    /// # Errors
    /// One line that says how many there are and what to do.
    pub fn check_bytes(&self, bytes: u64, place: &str) -> Result<()> {
        if bytes <= self.bytes { Ok(()) } else { Err(too_long(self.bytes, place)) }
    }
}

fn too_long(most: u64, place: &str) -> Error {
    Error::new(format!("{place}: more than {most} bytes, which is the most that is read; allow more by --max-bytes"))
}

/// Opens a regular file, with its length. Links are followed; a folder, a device, a pipe or a socket is refused, since
/// reading one can wait for ever or never end.
///
/// # Errors
/// If there is no such file, it cannot be opened, or is not a regular one.
pub fn open_file(path: &Path) -> Result<(File, u64)> {
    let place = || format!("reading {}", path.display());
    // Opening a pipe waits for its other end, so the kind is asked first.
    let regular = |meta: std::fs::Metadata| match meta.is_file() {
        true => Ok(meta.len()),
        false if meta.is_dir() => Err(Error::new(format!("{}: a folder, where a file is needed", path.display()))),
        false => Err(Error::new(format!("{}: not a regular file (a device, a pipe or a socket)", path.display()))),
    };
    regular(std::fs::metadata(path).context(place)?)?;
    let file = File::open(path).context(place)?;
    let len = regular(file.metadata().context(place)?)?;
    Ok((file, len))
}

/// The bytes of a regular file of at most `most` bytes. For what is decoded `most` is [`Budget::bytes`] of [`budget`]; a
/// file whose size nothing bounds, such as weights, has `u64::MAX`.
///
/// # Errors
/// As [`open_file`], or if it is longer.
pub fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, len) = open_file(path)?;
    let place = path.display().to_string();
    if len > most {
        return Err(too_long(most, &place));
    }
    read_within(file, len, most, &place)
}

/// The text of a regular file of at most `most` bytes: see [`read_file`].
///
/// # Errors
/// As [`read_file`], or if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_file(path, most)?).map_err(|_| Error::new(format!("{}: not UTF-8 text", path.display())))
}

/// All that a reader gives, if that is at most `most` bytes. It is expected to be `len` bytes, for which room is made; a
/// wrong `len` costs time alone.
///
/// # Errors
/// If the reader fails or has more; `place` names it.
pub fn read_within(reader: impl Read, len: u64, most: u64, place: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let room = usize::try_from(len.min(most)).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(room).map_err(|_| Error::new(format!("{place}: no memory for its {len} bytes")))?;
    reader.take(most.saturating_add(1)).read_to_end(&mut bytes).context(|| format!("reading {place}"))?;
    if bytes.len() as u64 > most { Err(too_long(most, place)) } else { Ok(bytes) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold() {
        let said = |result: Result<Vec<u8>>| result.unwrap_err().to_string();
        let path = std::env::temp_dir().join(format!("kiln-files-{}", std::process::id()));
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_file(&path, 5).unwrap(), b"12345");
        assert!(said(read_file(&path, 4)).contains("more than 4 bytes"));
        std::fs::remove_file(&path).unwrap();
        assert!(said(read_file(&path, 4)).contains("reading"));
        assert!(said(read_file(&std::env::temp_dir(), 4)).contains("a folder"));
        assert!(said(read_within(std::io::repeat(0), 0, 1000, "zeros")).contains("zeros: more than 1000 bytes"));
        assert!(said(read_within(&b"1"[..], u64::MAX, u64::MAX, "a claim")).contains("no memory"));
        assert_eq!(read_within(&b"12"[..], 0, 2, "two").unwrap(), b"12");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_read() {
        let error = read_file(Path::new("/dev/zero"), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("/dev/zero: not a regular file"), "{error}");
    }

    #[test]
    fn a_picture_has_a_budget() {
        let budget = Budget::default();
        budget.check_pixels(10_000, 10_000, "a.png").unwrap();
        let error = budget.check_pixels(u64::MAX, 2, "a.png").unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("--max-pixels"), "{error}");
        assert!(budget.check_bytes(1 << 30, "a").is_ok() && budget.check_bytes((1 << 30) + 1, "a").is_err());
    }
}
