//! Data sets from folders and zips of images.
//!
//! Sub-folders are classes, in the order of their names; a flat folder is unlabelled. `train` and
//! `test` folders at the top are the splits, otherwise one picture in five (by a keyed hash of its
//! name) is test. `NAME.txt` beside `NAME.png` is its caption. A set of `images` and `masks` (below the split, if there
//! is one) has a mask for each picture: `masks/NAME.png` holds the class of each pixel of `images/NAME.jpg` as a grey value,
//! and sub-folders of both are classes of whole pictures. Hidden files and files that are not
//! pictures are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kiln_core::{Context, Error, Result, refuse_if};
use zip::ZipArchive;

use crate::png_text::read_png_text;
use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, Picture, Sample, Split};

const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "pgm", "ppm", "pnm"];
/// Largest size of an image file; a larger zip entry is refused instead of filling the memory.
const LONGEST: u64 = 1 << 30;

/// Where the bytes are.
enum Store {
    Folder(PathBuf),
    Zip(PathBuf, Mutex<ZipArchive<File>>),
}

/// One file: its path inside the store with `/` between the parts, and its length.
struct Entry {
    path: String,
    bytes: u64,
}

/// A data set of picture files, read one at a time.
pub(crate) struct FileSet {
    name: String,
    store: Store,
    items: Vec<Item>,
    classes: Vec<String>,
}

struct Item {
    path: String,
    /// The path below the set and its split, without the ending.
    stem: String,
    bytes: u64,
    label: Option<u32>,
    caption: Option<String>,
    mask: Option<Entry>,
}

impl FileSet {
    /// A folder of pictures. The overview that `kiln sample` puts beside its pictures is none of them.
    pub(crate) fn folder(name: &str, folder: &Path, split: Split) -> Result<Self> {
        let mut entries = Vec::new();
        walk(folder, "", &mut entries)?;
        entries.retain(|e| e.path != "grid.png" || !is_overview(&folder.join("grid.png")));
        Self::new(name, Store::Folder(folder.into()), entries, split)
    }

    /// A zip of such a folder; folders around all of its pictures are looked through.
    pub(crate) fn zip(name: &str, file: &Path, split: Split) -> Result<Self> {
        let place = || format!("{}: not a readable zip", file.display());
        let mut archive = ZipArchive::new(File::open(file).context(place)?).context(place)?;
        let mut entries = Vec::new();
        for i in 0..archive.len() {
            let entry = archive.by_index_raw(i).context(place)?;
            if entry.is_file() {
                entries.push(Entry { path: entry.name().context(place)?.into(), bytes: entry.size() });
            }
        }
        Self::new(name, Store::Zip(file.into(), Mutex::new(archive)), entries, split)
    }

    /// The given files below a folder, each (path, key for the split), unlabelled.
    pub(crate) fn files(name: &str, root: &Path, files: Vec<(String, String)>, split: Split) -> Result<Self> {
        let mut items = Vec::new();
        for (path, _) in split.keep(files, |(_, key)| key.clone()) {
            let file = root.join(&path);
            let meta = std::fs::metadata(&file).context(|| format!("reading {}", file.display()))?;
            let stem = without_ending(&path).to_string();
            items.push(Item { path, stem, bytes: meta.len(), label: None, caption: None, mask: None });
        }
        if items.is_empty() {
            return Err(Error::new(format!("{name}: no pictures for the {split} split")));
        }
        Ok(Self { name: name.into(), store: Store::Folder(root.into()), items, classes: vec![] })
    }

    fn new(name: &str, store: Store, mut entries: Vec<Entry>, split: Split) -> Result<Self> {
        entries.retain(|e| !e.path.split('/').any(|p| p.starts_with('.') || p == "__MACOSX"));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let texts: BTreeSet<String> =
            entries.iter().filter(|e| extension(&e.path) == "txt").map(|e| e.path.clone()).collect();
        entries.retain(|e| is_picture(&e.path));
        let place = store.path().display().to_string();
        if entries.is_empty() {
            return Err(Error::new(format!("{place}: no pictures in it (looked for {})", PICTURES.join(", "))));
        }
        let root = match store {
            Store::Zip(..) => common_root(&entries),
            Store::Folder(_) => 0,
        };
        // The part of a path below the folders around everything, and below its split.
        let top = |part: &str| entries.iter().any(|e| e.path[root..].starts_with(part));
        let parted = top("train/") && top("test/");
        let below_split = |path: &str| {
            let path = &path[root..];
            let cut = if parted { path.find('/').map_or(0, |i| i + 1) } else { 0 };
            path[cut..].to_string()
        };
        let mut masks = take_masks(&place, &mut entries, &below_split)?;
        // The folder that holds all pictures of a set with masks is no class.
        let masked = !masks.is_empty();
        let inner = |path: &str| {
            let path = below_split(path);
            if masked { path[IMAGES.len()..].to_string() } else { path }
        };
        let classes = classes(&place, entries.iter().map(|e| inner(&e.path)))?;
        let kept = if parted {
            let parts: Vec<String> = split.parts().map(|p| format!("{p}/")).collect();
            entries.retain(|e| parts.iter().any(|p| e.path[root..].starts_with(p)));
            entries
        } else {
            split.keep(entries, |e| e.path[root..].to_string())
        };
        if kept.is_empty() {
            return Err(Error::new(format!(
                "{place}: no pictures for the {split} split: add more pictures, or sort them into \
                 folders train and test"
            )));
        }
        let item = |e: Entry| {
            let inside = inner(&e.path);
            let class = inside.split_once('/').map(|(c, _)| c.to_string());
            let label = class.and_then(|c| classes.binary_search(&c).ok()).map(|i| i as u32);
            let caption = Some(format!("{}.txt", without_ending(&e.path))).filter(|t| texts.contains(t));
            let mask = masks.remove(&mask_key(&e.path, &below_split));
            Item { stem: without_ending(&inside).to_string(), path: e.path, bytes: e.bytes, label, caption, mask }
        };
        let items = kept.into_iter().map(item).collect();
        Ok(Self { name: name.into(), store, items, classes })
    }
}

/// Where the pictures and the masks of a set with masks lie.
const IMAGES: &str = "images/";
const MASKS: &str = "masks/";

/// Takes the masks out of the files of a set that is all `images` and `masks`, by [`mask_key`]; none of another set.
fn take_masks(
    place: &str,
    entries: &mut Vec<Entry>,
    below_split: &impl Fn(&str) -> String,
) -> Result<BTreeMap<String, Entry>> {
    let lies_in = |e: &Entry, folder: &str| below_split(&e.path).starts_with(folder);
    let all = |folders: &[&str]| entries.iter().all(|e| folders.iter().any(|folder| lies_in(e, folder)));
    if !all(&[IMAGES, MASKS]) || all(&[IMAGES]) || all(&[MASKS]) {
        return Ok(BTreeMap::new());
    }
    let (masks, images): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|e| lies_in(e, MASKS));
    let images = by_mask_key(place, images, below_split)?;
    let masks = by_mask_key(place, masks, below_split)?;
    if let Some((_, image)) = images.iter().find(|(key, _)| !masks.contains_key(*key)) {
        return Err(Error::usage(format!("{place}: {} has no mask of its name below {MASKS}", image.path)));
    }
    entries.extend(images.into_values());
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(masks)
}

/// Files by their [`mask_key`]; an error names two that have the same.
fn by_mask_key(
    place: &str,
    entries: Vec<Entry>,
    below_split: &impl Fn(&str) -> String,
) -> Result<BTreeMap<String, Entry>> {
    let mut by_key = BTreeMap::<String, Entry>::new();
    for entry in entries {
        let key = mask_key(&entry.path, below_split);
        if let Some(other) = by_key.get(&key) {
            return Err(Error::usage(format!(
                "{place}: {} and {} differ in their endings alone, so a picture and its mask cannot be told by their \
                 name; rename or remove one",
                other.path, entry.path
            )));
        }
        by_key.insert(key, entry);
    }
    Ok(by_key)
}

/// What the paths of a picture and of its mask have in common: all but `images` or `masks`, and the ending.
fn mask_key(path: &str, below_split: &impl Fn(&str) -> String) -> String {
    let inside = below_split(path);
    let rest = inside.split_once('/').map_or("", |(_, rest)| rest);
    format!("{}{}", &path[..path.len() - inside.len()], without_ending(rest))
}

/// Whether an image is an overview made by Kiln (a grid), not a single sample.
fn is_overview(path: &Path) -> bool {
    read_png_text(path).is_ok_and(|text| {
        let has = |key: &str| text.iter().any(|(k, _)| k == key);
        has("system") && !has("index")
    })
}

/// The files below a folder.
fn walk(folder: &Path, inside: &str, out: &mut Vec<Entry>) -> Result<()> {
    let place = || format!("reading {}", folder.display());
    for entry in std::fs::read_dir(folder).context(place)? {
        let entry = entry.context(place)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        // Links are followed; a circle of them ends in the system's own error, which names it.
        let meta = std::fs::metadata(&path).context(|| format!("reading {}", path.display()))?;
        if meta.is_dir() {
            walk(&path, &format!("{inside}{name}/"), out)?;
        } else {
            out.push(Entry { path: format!("{inside}{name}"), bytes: meta.len() });
        }
    }
    Ok(())
}

/// Whether a file is a picture, by its name.
pub(crate) fn is_picture(path: &str) -> bool {
    PICTURES.contains(&extension(path).as_str())
}

fn extension(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('.').map_or(String::new(), |(_, e)| e.to_ascii_lowercase())
}

/// A path without what tells the format of its file.
fn without_ending(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(stem, _)| stem)
}

/// The length of the folder path (with its last `/`) that all entries share.
fn common_root(entries: &[Entry]) -> usize {
    let Some(first) = entries.first() else {
        return 0;
    };
    let shared = entries.iter().fold(first.path.as_str(), |shared, e| {
        let same = shared.bytes().zip(e.path.bytes()).take_while(|(a, b)| a == b).count();
        // Cut at a folder, which is also a character boundary.
        &shared[..shared.as_bytes()[..same].iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1)]
    });
    shared.rfind('/').map_or(0, |i| i + 1)
}

/// The first folders of the paths, sorted; none if all are flat.
fn classes(place: &str, paths: impl Iterator<Item = String>) -> Result<Vec<String>> {
    let mut flat = None;
    let mut classes = BTreeSet::new();
    for path in paths {
        match path.split_once('/') {
            Some((class, _)) => _ = classes.insert(class.to_string()),
            None => flat = flat.or(Some(path)),
        }
    }
    match (flat, classes.first()) {
        (Some(file), Some(class)) => Err(Error::new(format!(
            "{place}: {file} lies beside the class folder {class}: put every picture into a class \
             folder, or none"
        ))),
        _ => Ok(classes.into_iter().collect()),
    }
}

impl Store {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Zip(path, _) => path,
        }
    }

    fn place(&self, path: &str) -> String {
        self.path().join(path).display().to_string()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        let place = || format!("reading {}", self.place(path));
        match self {
            Self::Folder(folder) => std::fs::read(folder.join(path)).context(place),
            Self::Zip(_, archive) => {
                // Nothing that holds the lock can leave the archive in a bad state.
                let mut archive = archive.lock().unwrap_or_else(|e| e.into_inner());
                let entry = archive.by_name(path).context(place)?;
                let mut bytes = Vec::new();
                entry.take(LONGEST).read_to_end(&mut bytes).context(place)?;
                Ok(bytes)
            }
        }
    }
}

impl FileSet {
    /// The mask of a picture, as grey values.
    fn mask(&self, mask: &Entry, picture: &Picture) -> Result<Picture> {
        let name = self.store.place(&mask.path);
        let bytes = self.store.read(&mask.path)?;
        let found = Picture::decode(&bytes, &name)?;
        let largest = Picture::largest_value(&bytes, &name)?;
        refuse_if!(
            largest != 255,
            "{name}: a mask needs 8 bits a value, and the values of this one go up to {largest}; save it with 8 bits a pixel"
        );
        if (found.width, found.height) != (picture.width, picture.height) {
            return Err(Error::new(format!(
                "{name}: {} x {}, and its picture is {} x {}; a mask has its picture's size",
                found.width, found.height, picture.width, picture.height
            )));
        }
        let is_grey = |p: &[u8]| p.iter().take(3).all(|value| *value == p[0]);
        if found.channels > 1 && !found.pixels.chunks_exact(found.channels).all(is_grey) {
            return Err(Error::new(format!(
                "{name}: a mask must be grey, and this one has colours; give each class a grey value"
            )));
        }
        let pixels = found.pixels.iter().step_by(found.channels).copied().collect();
        Ok(Picture { channels: 1, pixels, ..found })
    }
}

impl DataSet for FileSet {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(item) = self.items.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let name = self.store.place(&item.path);
        let picture = Picture::decode(&self.store.read(&item.path)?, &name)?;
        let caption = match &item.caption {
            None => None,
            Some(path) => {
                let text = String::from_utf8(self.store.read(path)?)
                    .context(|| format!("{}: not UTF-8 text", self.store.place(path)))?;
                Some(text.trim().to_string())
            }
        };
        let mask = item.mask.as_ref().map(|mask| self.mask(mask, &picture)).transpose()?;
        Ok(Sample { picture, label: item.label, caption, mask, name })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.items.get(index).map(|item| item.stem.clone())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn kinds(&self) -> Vec<DataKind> {
        let mut kinds = picture_kinds(!self.classes.is_empty(), self.items.iter().all(|i| i.caption.is_some()));
        if self.items.iter().all(|i| i.mask.is_some()) {
            kinds.push(DataKind::Masked);
        }
        kinds
    }

    fn fingerprint(&self) -> String {
        let listed = |i: &Item| format!("{} {}", i.bytes, i.path);
        let masks = self.items.iter().filter_map(|i| i.mask.as_ref());
        let masks = masks.map(|mask| format!("{} {}", mask.bytes, mask.path));
        let lines: Vec<String> = self.items.iter().map(listed).chain(masks).collect();
        fingerprint(lines.iter().map(|l| l.as_bytes()))
    }
}
