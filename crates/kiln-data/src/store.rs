//! Where the files of a set lie: a folder, a zip or a tar.
//!
//! All three list their files by paths with `/` between the parts, and give the bytes of one. Nothing is unpacked, so a path
//! in an archive leads nowhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flate2::read::MultiGzDecoder;
use kiln_core::{Context, Error, Result, budget, open_file, read_file, read_within};
use zip::ZipArchive;

use crate::litter::{LeftOut, is_litter, is_run};

/// Where the bytes are.
pub(crate) enum Store {
    Folder(PathBuf),
    Zip(PathBuf, Mutex<ZipArchive<File>>),
    /// A tar, which is read where its files lie.
    Tar(PathBuf, Mutex<File>),
    /// A compressed tar, which is decompressed at once: there is no way into its middle.
    Memory(PathBuf, Vec<u8>),
}

/// One file of a store.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its path inside the store with `/` between the parts; bytes that are no text are written `\xE9`.
    pub(crate) path: String,
    /// Its length.
    pub(crate) bytes: u64,
    pub(crate) at: At,
}

/// How a store finds an entry.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// By its path.
    Path,
    /// By a path that is no text.
    Exact(PathBuf),
    /// By its number in a zip, or its first byte in a tar.
    Place(u64),
}

/// The first bytes of a gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Store {
    /// A folder, and all files below it but those that are known to be no data.
    pub(crate) fn folder(folder: &Path, left: &mut LeftOut) -> Result<(Self, Vec<Entry>)> {
        let mut entries = Vec::new();
        walk(folder, Path::new(""), "", &mut entries, left)?;
        Ok((Self::Folder(folder.into()), entries))
    }

    /// An archive and its files: a tar, plain or compressed, or else a zip.
    pub(crate) fn archive(file: &Path, left: &mut LeftOut) -> Result<(Self, Vec<Entry>)> {
        let (mut open, len) = open_file(file)?;
        let mut head = Vec::new();
        (&mut open).take(512).read_to_end(&mut head).context(|| format!("reading {}", file.display()))?;
        open.rewind().context(|| format!("reading {}", file.display()))?;
        let (store, mut entries) = if head.starts_with(&GZIP) {
            let place = file.display().to_string();
            let bytes = read_within(MultiGzDecoder::new(open), 0, budget().bytes, &place)?;
            let entries = tar_entries(Cursor::new(&bytes), bytes.len() as u64, file)?;
            (Self::Memory(file.into(), bytes), entries)
        } else if head.get(257..262) == Some(b"ustar") {
            let entries = tar_entries(&mut open, len, file)?;
            (Self::Tar(file.into(), Mutex::new(open)), entries)
        } else {
            let mut archive = ZipArchive::new(open)
                .context(|| format!("{}: not a readable zip (nor a tar, a picture, npy or npz)", file.display()))?;
            let entries = zip_entries(&mut archive, file)?;
            (Self::Zip(file.into(), Mutex::new(archive)), entries)
        };
        entries.retain(|e| {
            let hidden = e.path.split('/').any(|part| part.starts_with('.'));
            !hidden && !e.path.split('/').any(|part| is_litter(part) && left.litter(part))
        });
        Ok((store, entries))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Zip(path, _) | Self::Tar(path, _) | Self::Memory(path, _) => path,
        }
    }

    /// What to call an entry in messages.
    pub(crate) fn place(&self, path: &str) -> String {
        self.path().join(path).display().to_string()
    }

    /// All bytes of an entry.
    ///
    /// # Errors
    /// If it cannot be read, or is longer than [`budget`] allows.
    pub(crate) fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        budget().check_bytes(entry.bytes, &self.place(&entry.path))?;
        self.read_up_to(entry, budget().bytes)
    }

    /// The first bytes of an entry, at most `most`.
    pub(crate) fn head(&self, entry: &Entry, most: u64) -> Result<Vec<u8>> {
        let place = || format!("reading {}", self.place(&entry.path));
        let mut head = Vec::new();
        match self {
            Self::Folder(folder) => {
                open_file(&folder.join(entry.inside()))?.0.take(most).read_to_end(&mut head).context(place)?;
            }
            Self::Zip(_, archive) => {
                // Nothing that holds the lock can leave the archive in a bad state.
                let mut archive = archive.lock().unwrap_or_else(|e| e.into_inner());
                archive.by_index(entry.number()).context(place)?.take(most).read_to_end(&mut head).context(place)?;
            }
            Self::Tar(..) | Self::Memory(..) => {
                return self.read_up_to(&Entry { bytes: entry.bytes.min(most), ..entry.clone() }, most);
            }
        }
        Ok(head)
    }

    /// The bytes of an entry, if they are at most `most`.
    fn read_up_to(&self, entry: &Entry, most: u64) -> Result<Vec<u8>> {
        let place = self.place(&entry.path);
        match self {
            Self::Folder(folder) => read_file(&folder.join(entry.inside()), most),
            Self::Zip(_, archive) => {
                // Nothing that holds the lock can leave the archive in a bad state.
                let mut archive = archive.lock().unwrap_or_else(|e| e.into_inner());
                let file = archive.by_index(entry.number()).context(|| format!("reading {place}"))?;
                // What it claims costs nothing before it is true.
                read_within(file, entry.bytes.min(1 << 20), most, &place)
            }
            Self::Tar(_, file) => {
                let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
                file.seek(SeekFrom::Start(entry.number() as u64)).context(|| format!("reading {place}"))?;
                read_within((&mut *file).take(entry.bytes), entry.bytes, most, &place)
            }
            Self::Memory(_, all) => {
                let part = entry.number()..entry.number().saturating_add(entry.bytes as usize);
                all.get(part).map(<[u8]>::to_vec).ok_or_else(|| Error::new(format!("{place}: cut off")))
            }
        }
    }
}

impl Entry {
    /// Its path below a folder.
    fn inside(&self) -> &Path {
        match &self.at {
            At::Exact(exact) => exact,
            _ => Path::new(&self.path),
        }
    }

    /// Its number in a zip, or its first byte in a tar.
    fn number(&self) -> usize {
        match self.at {
            At::Place(number) => number as usize,
            _ => 0,
        }
    }
}

/// The files below a folder, without what is known to be no data.
fn walk(root: &Path, inside: &Path, shown: &str, out: &mut Vec<Entry>, left: &mut LeftOut) -> Result<()> {
    let folder = root.join(inside);
    let place = || format!("reading {}", folder.display());
    for entry in std::fs::read_dir(&folder).context(place)? {
        let name = entry.context(place)?.file_name();
        let text = readable(&name);
        if text.starts_with('.') || (is_litter(&text) && left.litter(&text)) {
            continue;
        }
        let path = inside.join(&name);
        let (full, shown) = (root.join(&path), format!("{shown}{text}"));
        // Links are followed; a circle of them ends in the system's own error, which names it.
        let meta = std::fs::metadata(&full).context(|| format!("reading {}", full.display()))?;
        if meta.is_dir() {
            match is_run(&full) {
                true => left.run(&shown),
                false => walk(root, &path, &format!("{shown}/"), out, left)?,
            }
        } else if meta.is_file() {
            let at = if path.to_str().is_some() { At::Path } else { At::Exact(path) };
            out.push(Entry { path: shown, bytes: meta.len(), at });
        } else {
            left.irregular();
        }
    }
    Ok(())
}

/// A name as text; bytes that are none are written `\xE9`.
fn readable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02X}")));
    }
    text
}

/// The files of a zip. Programs of Windows put `\` between the parts of a path, and others `./` in front.
fn zip_entries(archive: &mut ZipArchive<File>, file: &Path) -> Result<Vec<Entry>> {
    let place = || format!("{}: not a readable zip", file.display());
    if archive.has_overlapping_entries().context(place)? {
        return Err(Error::new(format!(
            "{}: its files share bytes, which no ordinary program writes; pack the pictures again",
            file.display()
        )));
    }
    let mut entries = Vec::new();
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).context(place)?;
        let name = match entry.name() {
            Ok(name) => name.into_owned(),
            Err(_) => String::from_utf8_lossy(entry.name_raw()).into_owned(),
        };
        if entry.is_file() && !name.ends_with('\\') {
            entries.extend(listed(&name.replace('\\', "/"), entry.size(), i as u64));
        }
    }
    Ok(last_of_each(entries))
}

/// The files of a tar.
fn tar_entries(data: impl Read + Seek, len: u64, file: &Path) -> Result<Vec<Entry>> {
    let place = || format!("{}: not a readable tar", file.display());
    let cut = || Error::new(format!("{}: cut off; copy or download it again", file.display()));
    let mut archive = tar::Archive::new(data);
    let (mut entries, mut end) = (Vec::new(), 0);
    for entry in archive.entries_with_seek().context(place)? {
        let entry = entry.context(place)?;
        // Links and sparse files are not what they seem to be.
        if !matches!(entry.header().entry_type(), tar::EntryType::Regular | tar::EntryType::Continuous) {
            continue;
        }
        let (start, bytes) = (entry.raw_file_position(), entry.size());
        if start.checked_add(bytes).is_none_or(|end| end > len) {
            return Err(cut());
        }
        end = start + bytes.next_multiple_of(512);
        entries.extend(listed(&readable(entry.path().context(place)?.as_os_str()), bytes, start));
    }
    // A block of zeros ends a tar: without it, files may be missing.
    if len <= end {
        return Err(cut());
    }
    Ok(last_of_each(entries))
}

/// An entry of an archive, its path without parts that say nothing.
fn listed(path: &str, bytes: u64, place: u64) -> Option<Entry> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    (!parts.is_empty()).then(|| Entry { path: parts.join("/"), bytes, at: At::Place(place) })
}

/// Of entries with one path the last, which an unpacked archive has.
fn last_of_each(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.reverse();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|later, first| later.path == first.path);
    entries
}
