//! What lies in a folder of pictures and is none of its data: folders of file servers and bins, Kiln's own runs and
//! pictures, files of kinds that are not read. None of it vanishes without a word.

use std::collections::BTreeMap;
use std::path::Path;

/// Folders that systems and file servers put among people's own, in lower case. Names that begin with a dot are never
/// looked at.
const LITTER: [&str; 15] = [
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@__thumb",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "recycled",
    "lost+found",
    "system volume information",
    "thumbnails",
    "__macosx",
    "thumbs.db",
    "desktop.ini",
];

/// Endings of pictures that Kiln does not read.
const UNREAD: [&str; 28] = [
    "avif", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "jpx", "svg", "psd", "xcf", "exr", "hdr", "tga", "dds", "ico",
    "qoi", "eps", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "pcx",
];

/// Whether a file or a folder of this name is never data.
pub(crate) fn is_litter(name: &str) -> bool {
    LITTER.contains(&name.to_lowercase().as_str())
}

/// Whether a file of this ending, in lower case, is a picture that cannot be read.
pub(crate) fn is_unread_picture(ending: &str) -> bool {
    UNREAD.contains(&ending)
}

/// Whether a folder is one of Kiln's runs.
pub(crate) fn is_run(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    has("recipe.toml") && (has("checkpoints") || has("log.jsonl"))
}

/// How a picture of Kiln's own is known: by the text in its PNG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// A sample.
    Sample,
    /// Several pictures on one sheet: a grid, a preview, a trajectory.
    Sheet,
    /// Made of another picture, such as a translation.
    Result,
}

/// Bytes at the beginning of a PNG in which [`own`] looks.
pub(crate) const HEAD: u64 = 8192;

/// Whether a PNG that begins with these bytes is Kiln's own.
pub(crate) fn own(head: &[u8]) -> Option<Own> {
    let texts = texts(head);
    let text = |keyword: &str| texts.iter().find(|(k, _)| *k == keyword.as_bytes()).map(|(_, text)| *text);
    text("system")?;
    match (text("index"), text("input")) {
        (Some(_), _) => Some(Own::Sample),
        (None, Some(_)) => Some(Own::Result),
        (None, None) => Some(Own::Sheet),
    }
}

/// Keyword and text of the text chunks before a PNG's pixels.
fn texts(head: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    let Some(mut rest) = head.strip_prefix(b"\x89PNG\r\n\x1a\n") else { return found };
    // Each chunk: length, kind, data, checksum.
    while let Some((&[a, b, c, d, ref kind @ ..], data)) = rest.split_first_chunk::<8>() {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let chunk = &data[..len.min(data.len())];
        match kind {
            b"tEXt" | b"iTXt" => {
                if let Some(end) = chunk.iter().position(|&b| b == 0) {
                    found.push((&chunk[..end], &chunk[end + 1..]));
                }
            }
            b"IDAT" => break,
            _ => {}
        }
        rest = data.get(len.saturating_add(4)..).unwrap_or_default();
    }
    found
}

/// What was left out of a set, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeftOut {
    litter: BTreeMap<String, usize>,
    runs: Vec<String>,
    irregular: usize,
    /// Files that are not read, by their endings.
    pub(crate) unread: BTreeMap<String, usize>,
    /// Folders of Kiln's own samples and results.
    pub(crate) made: BTreeMap<String, usize>,
    /// Kiln's own sheets.
    pub(crate) sheets: usize,
    /// Pictures outside of the folders of the splits.
    outside: BTreeMap<String, usize>,
    /// Classes without a picture to learn from.
    pub(crate) untaught: Vec<String>,
}

impl LeftOut {
    /// Counts a name that is never data. Always true, to stand in a condition.
    pub(crate) fn litter(&mut self, name: &str) -> bool {
        *self.litter.entry(name.into()).or_default() += 1;
        true
    }

    /// Notes one of Kiln's runs.
    pub(crate) fn run(&mut self, path: &str) {
        self.runs.push(path.into());
    }

    /// Counts a device, a pipe or a socket.
    pub(crate) fn irregular(&mut self) {
        self.irregular += 1;
    }

    /// Counts a picture in a folder that is in no part of the split.
    pub(crate) fn outside(&mut self, folder: &str) {
        let folder = if folder.is_empty() { "the folder itself" } else { folder };
        *self.outside.entry(folder.into()).or_default() += 1;
    }

    /// A line for each kind of thing that was left out; each begins with a verb's past.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let counted = |counts: &BTreeMap<String, usize>, dot: &str| {
            let each: Vec<String> = counts.iter().map(|(what, n)| format!("{n} {dot}{what}")).collect();
            each.join(", ")
        };
        if !self.unread.is_empty() {
            notes.push(format!("left out files that are not read as pictures: {}", counted(&self.unread, "")));
        }
        if !self.litter.is_empty() {
            // Windows and macOS leave these everywhere; there is nothing to be said of them.
            let told: Vec<&str> = self.litter.keys().map(String::as_str).filter(|name| !is_usual(name)).collect();
            if !told.is_empty() {
                notes.push(format!("left out {}: made by a system or a file server", told.join(", ")));
            }
        }
        if !self.runs.is_empty() {
            notes.push(format!("left out {}: made by kiln train", self.runs.join(", ")));
        }
        if !self.made.is_empty() {
            let folders: Vec<&str> = self.made.keys().map(String::as_str).collect();
            notes.push(format!(
                "left out {} that Kiln drew, in {}; a zip of the folder would keep them",
                pictures(self.made.values().sum()),
                folders.join(", ")
            ));
        }
        if self.sheets > 0 {
            notes.push(format!("left out {} of several pictures that Kiln drew", count(self.sheets, "sheet")));
        }
        if !self.outside.is_empty() {
            let all = self.outside.values().sum();
            let names: Vec<&str> = self.outside.keys().map(String::as_str).collect();
            notes.push(format!(
                "left out {} in {}, which is neither the part to train on nor the test part",
                pictures(all),
                names.join(", ")
            ));
        }
        if self.irregular > 0 {
            notes.push(format!("left out {}: devices, pipes or sockets", count(self.irregular, "file")));
        }
        if !self.untaught.is_empty() {
            notes.push(format!(
                "no picture to train on has the class {}; the only ones are in the test part",
                self.untaught.join(", ")
            ));
        }
        notes
    }
}

fn is_usual(name: &str) -> bool {
    ["thumbs.db", "desktop.ini", "__macosx"].contains(&name.to_lowercase().as_str())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn pictures(n: usize) -> String {
    count(n, "picture")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Picture;

    #[test]
    fn kilns_own_pictures_are_known_by_their_text() {
        let picture = Picture::new(1, 1, 1, vec![0]).unwrap();
        let kind = |text: &[(&str, &str)]| own(&picture.encode_png(text).unwrap());
        assert_eq!(kind(&[]), None);
        assert_eq!(kind(&[("index", "3")]), None);
        assert_eq!(kind(&[("system", "vae"), ("run", "日本"), ("index", "17")]), Some(Own::Sample));
        assert_eq!(kind(&[("system", "vae"), ("input", "a.png")]), Some(Own::Result));
        assert_eq!(kind(&[("system", "vae")]), Some(Own::Sheet));
        let whole = picture.encode_png(&[("system", "vae"), ("index", "17")]).unwrap();
        (0..whole.len()).for_each(|len| assert!(own(&whole[..len]).is_none_or(|own| own != Own::Result)));
        assert_eq!(own(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtsystem\0"), Some(Own::Sheet));
    }
}
