//! Data sets from folders, zips and tars of images.
//!
//! Sub-folders are classes, in the order of their names; a flat folder is unlabelled. `train` and
//! `test` folders at the top are the splits ([`layout`](crate::layout)), otherwise one picture in five (by a keyed hash of its
//! name) is test. The first line of `NAME.txt` beside `NAME.png` is its caption, or a
//! file says those of many ([`captions`]). A set of `images` and `masks` (below the split, if there
//! is one) has a mask for each picture: `masks/NAME.png` holds the class of each pixel of `images/NAME.jpg` as a grey value,
//! and sub-folders of both are classes of whole pictures. A `palette.txt` says the classes of a set of label maps, or of
//! masks in colours. What else lies there is left out and counted
//! ([`litter`](crate::litter)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kiln_core::{Context, Error, Result, refuse_if};
use rayon::prelude::*;

use crate::captions::{self, Told, is_captions};
use crate::layout::{PICTURES, Parts, classes, common_root, extension, is_picture, without_ending};
use crate::litter::{HEAD, LeftOut, Own, is_run, is_unread_picture, own};
use crate::masks::{IMAGES, mask_key, take_masks};
use crate::palette::{PALETTE_FILE, classes_of, in_palette, parse_palette};
use crate::set::{fingerprint, picture_kinds};
use crate::store::{At, Entry, Store};
use crate::{DataKind, DataSet, PaletteColour, Picture, Sample, Split, png_palette};

/// A data set of picture files, read one at a time.
pub(crate) struct FileSet {
    name: String,
    store: Store,
    items: Vec<Item>,
    classes: Vec<String>,
    /// The classes of label maps, where a file says them: of the masks, if there are any, else of the pictures.
    palette: Vec<PaletteColour>,
    notes: Vec<String>,
}

struct Item {
    file: Entry,
    /// The path below the set and its split, without the ending.
    stem: String,
    label: Option<u32>,
    caption: Option<Caption>,
    mask: Option<Box<Entry>>,
}

/// Where a caption is.
enum Caption {
    /// In a file of its own.
    File(Box<Entry>),
    Text(String),
}

impl FileSet {
    /// A folder of pictures.
    pub(crate) fn folder(name: &str, folder: &Path, split: Split) -> Result<Self> {
        refuse_if!(
            is_run(folder),
            "{0}: a run, not a data set; its samples, if it has any, are in {0}/samples",
            folder.display()
        );
        let mut left = LeftOut::default();
        let (store, entries) = Store::folder(folder, &mut left)?;
        Self::new(name, store, entries, split, left)
    }

    /// A zip or a tar of such a folder; folders around all of its pictures are looked through.
    pub(crate) fn archive(name: &str, file: &Path, split: Split) -> Result<Self> {
        let mut left = LeftOut::default();
        let (store, entries) = Store::archive(file, &mut left)?;
        Self::new(name, store, entries, split, left)
    }

    /// The given files below a folder, each (path, key for the split), unlabelled.
    pub(crate) fn files(name: &str, root: &Path, files: Vec<(String, String)>, split: Split) -> Result<Self> {
        let mut items = Vec::new();
        for (path, _) in split.keep(files, |(_, key)| key.clone()) {
            let file = root.join(&path);
            let meta = std::fs::metadata(&file).context(|| format!("reading {}", file.display()))?;
            let stem = without_ending(&path).to_string();
            let file = Entry { path, bytes: meta.len(), at: At::Path };
            items.push(Item { file, stem, label: None, caption: None, mask: None });
        }
        if items.is_empty() {
            return Err(Error::new(format!("{name}: no pictures for the {split} split")));
        }
        Ok(Self {
            name: name.into(),
            store: Store::Folder(root.into()),
            items,
            classes: vec![],
            palette: vec![],
            notes: vec![],
        })
    }

    fn new(name: &str, store: Store, mut entries: Vec<Entry>, split: Split, mut left: LeftOut) -> Result<Self> {
        let place = store.path().display().to_string();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let (mut pictures, others): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| is_picture(&e.path));
        let (tables, others): (Vec<Entry>, Vec<Entry>) = others.into_iter().partition(|e| is_captions(&e.path));
        let mut told = told(&store, &tables, &pictures)?;
        let (texts, unread): (Vec<Entry>, Vec<Entry>) = others.into_iter().partition(|e| extension(&e.path) == "txt");
        let mut texts: BTreeMap<String, Entry> = texts.into_iter().map(|e| (e.path.clone(), e)).collect();
        let palette = match texts.values().filter(|e| is_palette(&e.path)).min_by_key(|e| e.path.len()) {
            Some(file) => {
                let place = store.place(&file.path);
                let text = String::from_utf8(store.read(file)?).context(|| format!("{place}: not UTF-8 text"))?;
                parse_palette(&text, &place)?
            }
            None => Vec::new(),
        };
        leave_out_own(&store, &mut pictures, &mut left)?;
        if pictures.is_empty() {
            count_unread(&unread, &mut left);
            let left = left.notes().into_iter().map(|note| format!("; {note}")).collect::<String>();
            return Err(Error::new(format!("{place}: no pictures in it (looked for {}){left}", PICTURES.join(", "))));
        }
        let root = match store {
            Store::Folder(_) => 0,
            _ => common_root(&pictures),
        };
        let parts = Parts::of(&place, &pictures, root)?;
        pictures.iter().filter(|e| !parts.within(&e.path)).for_each(|e| left.outside(top(&e.path[root..])));
        pictures.retain(|e| parts.within(&e.path));
        let mut masks = take_masks(&place, &mut pictures, &parts)?;
        // The folder that holds all pictures of a set with masks is no class.
        let cut = if masks.is_empty() { 0 } else { IMAGES.len() };
        let insides: Vec<String> = pictures.iter().map(|e| parts.below(&e.path)[cut..].to_string()).collect();
        let classes = classes(&place, insides.iter().map(String::as_str))?;
        check_unread(&place, &unread, &parts, &classes)?;
        let sides = sides(&pictures, &insides, &parts, root);
        let trained = |side: &Option<Split>| *side == Some(Split::Train);
        if parts.is_given() && sides.iter().any(trained) {
            let taught = insides.iter().zip(&sides).filter(|(_, side)| trained(side)).map(|(inside, _)| top(inside));
            let taught: BTreeSet<&str> = taught.collect();
            left.untaught = classes.iter().filter(|class| !taught.contains(class.as_str())).cloned().collect();
        }
        let neither = pictures.iter().zip(&sides).filter(|(_, side)| side.is_none() && split != Split::All);
        neither.for_each(|(e, _)| left.outside(parts.part(&e.path)));
        let mut item = |(file, inside): (Entry, &String)| {
            let label = classes.binary_search_by(|class| class.as_str().cmp(top(inside))).ok().map(|i| i as u32);
            let own = texts.remove(&format!("{}.txt", without_ending(&file.path)));
            let own = own.map(|file| Caption::File(Box::new(file)));
            let caption = own.or_else(|| told.remove(&file.path).map(Caption::Text));
            let mask = masks.remove(&mask_key(&file.path, &parts)).map(Box::new);
            Item { stem: without_ending(inside).to_string(), file, label, caption, mask }
        };
        let held = sides.iter().map(|side| split == Split::All || *side == Some(split));
        let kept = pictures.into_iter().zip(&insides).zip(held).filter(|(_, held)| *held);
        let items: Vec<Item> = kept.map(|(picture, _)| item(picture)).collect();
        if items.is_empty() {
            return Err(Error::new(format!(
                "{place}: no pictures for the {split} split: add more pictures, or sort them into \
                 folders train and test"
            )));
        }
        count_unread(&unread, &mut left);
        Ok(Self { name: name.into(), store, items, classes, palette, notes: left.notes() })
    }
}

/// The captions that files of many say, by the path of the picture.
fn told(store: &Store, tables: &[Entry], pictures: &[Entry]) -> Result<BTreeMap<String, String>> {
    let there: BTreeSet<&str> = pictures.iter().map(|e| e.path.as_str()).collect();
    let mut all = BTreeMap::new();
    for table in tables {
        let place = store.place(&table.path);
        for (picture, Told { text, line }) in captions::parse(store.read(table)?, &table.path, &place)? {
            refuse_if!(
                !there.contains(picture.as_str()),
                "{place}, line {line}: there is no picture {picture}; paths are written from the folder of this file"
            );
            refuse_if!(
                all.insert(picture.clone(), text).is_some(),
                "{place}, line {line}: another file has a caption of {picture} already"
            );
        }
    }
    Ok(all)
}

/// Whether a file is a palette.
fn is_palette(path: &str) -> bool {
    path.rsplit('/').next() == Some(PALETTE_FILE)
}

/// The first folder of a path, or nothing.
fn top(path: &str) -> &str {
    path.split_once('/').map_or("", |(top, _)| top)
}

/// The split that each picture belongs to: by its part, else by the keyed hash of its name. Sets of a few have no test part,
/// and where all pictures of a class would be held out, none is.
fn sides(pictures: &[Entry], insides: &[String], parts: &Parts, root: usize) -> Vec<Option<Split>> {
    if parts.is_given() {
        return pictures.iter().map(|e| parts.side(&e.path)).collect();
    }
    let few = pictures.len() < FEW;
    let train = |e: &Entry| few || Split::Train.holds(&e.path[root..]);
    let taught: BTreeSet<&str> =
        pictures.iter().zip(insides).filter(|(e, _)| train(e)).map(|(_, inside)| top(inside)).collect();
    let side = |(e, inside): (&Entry, &String)| match train(e) || !taught.contains(top(inside)) {
        true => Some(Split::Train),
        false => Some(Split::Test),
    };
    pictures.iter().zip(insides).map(side).collect()
}

/// Sets of fewer have no test part.
const FEW: usize = 5;

/// Takes out what Kiln has drawn: sheets always; in a folder of other pictures also the folders below it that hold nothing
/// else, such as samples of a run that was trained on it. A set that is all drawn by Kiln is wanted as it is.
fn leave_out_own(store: &Store, pictures: &mut Vec<Entry>, left: &mut LeftOut) -> Result<()> {
    let look = |e: &Entry| match extension(&e.path) == "png" {
        true => Ok(own(&store.head(e, HEAD)?)),
        false => Ok(None),
    };
    let marks: Result<Vec<Option<Own>>> = pictures.par_iter().map(look).collect();
    let marks = marks?;
    let sheets = marks.iter().filter(|mark| **mark == Some(Own::Sheet)).count();
    let mut made = marks.iter();
    pictures.retain(|_| made.next() != Some(&Some(Own::Sheet)));
    let made: Vec<bool> = marks.iter().filter(|mark| **mark != Some(Own::Sheet)).map(Option::is_some).collect();
    let folder = |e: &Entry| e.path.rsplit_once('/').map_or("", |(folder, _)| folder).to_string();
    let others: BTreeSet<String> =
        pictures.iter().zip(&made).filter(|(_, made)| !**made).map(|(e, _)| folder(e)).collect();
    // Of a sheet among Kiln's samples, where it belongs, there is nothing to be said.
    left.sheets = if others.is_empty() { 0 } else { sheets };
    if others.is_empty() || !matches!(store, Store::Folder(_)) {
        return Ok(());
    }
    pictures.retain(|e| {
        let folder = folder(e);
        let kept = folder.is_empty() || others.contains(&folder);
        if !kept {
            *left.made.entry(folder).or_default() += 1;
        }
        kept
    });
    Ok(())
}

fn count_unread(unread: &[Entry], left: &mut LeftOut) {
    for entry in unread {
        let ending = extension(&entry.path);
        let kind = if ending.is_empty() { "without an ending".into() } else { format!(".{ending}") };
        *left.unread.entry(kind).or_default() += 1;
    }
}

/// Refuses a set of classes in which one would vanish, since none of its pictures can be read.
fn check_unread(place: &str, unread: &[Entry], parts: &Parts, classes: &[String]) -> Result<()> {
    let lost = |e: &&Entry| {
        let inside = parts.below(&e.path);
        let is_lost = inside.contains('/') && !classes.iter().any(|class| class == top(&inside));
        is_unread_picture(&extension(&e.path)) && is_lost
    };
    match unread.iter().find(lost).filter(|e| !classes.is_empty() && parts.within(&e.path)) {
        Some(e) => Err(Error::new(format!(
            "{place}: {} cannot be read, nor any picture beside it, so a class would be missing; convert them to PNG or \
             JPEG, or move the folder away",
            e.path
        ))),
        None => Ok(()),
    }
}

impl FileSet {
    /// Whether the set has masks, which a palette is then of.
    fn has_masks(&self) -> bool {
        self.items.iter().any(|item| item.mask.is_some())
    }

    /// The mask of a picture, as grey values: those that it has, or the numbers of its classes by their colours or indices.
    fn mask(&self, mask: &Entry, picture: &Picture) -> Result<Picture> {
        let name = self.store.place(&mask.path);
        let bytes = self.store.read(mask)?;
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
        let pixels = if !self.palette.is_empty() {
            classes_of(&found, &self.palette, &name)?
        } else if found.channels == 1 || found.pixels.chunks_exact(found.channels).all(is_grey) {
            found.pixels.iter().step_by(found.channels).copied().collect()
        } else if let Some(indexed) = png_palette::indexed(&bytes, &name)? {
            indexed.indices
        } else {
            return Err(Error::new(format!(
                "{name}: a mask of colours, which says no classes; add a {PALETTE_FILE} of lines `name #rrggbb`, or give each \
                 class a grey value"
            )));
        };
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
        let name = self.store.place(&item.file.path);
        let picture = Picture::decode(&self.store.read(&item.file)?, &name)?;
        let caption = self.caption(index)?;
        let mask = item.mask.as_ref().map(|mask| self.mask(mask, &picture)).transpose()?;
        let picture = match self.palette() {
            [] => picture,
            palette => in_palette(&picture, palette, &name)?,
        };
        Ok(Sample { picture, label: item.label, caption, mask, name })
    }

    fn caption(&self, index: usize) -> Result<Option<String>> {
        match self.items.get(index).and_then(|item| item.caption.as_ref()) {
            None => Ok(None),
            Some(Caption::Text(text)) => Ok(Some(text.clone())),
            Some(Caption::File(file)) => {
                let text = String::from_utf8(self.store.read(file)?)
                    .context(|| format!("{}: not UTF-8 text", self.store.place(&file.path)))?;
                Ok(Some(text.trim().lines().next().unwrap_or_default().trim().to_string()))
            }
        }
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.items.get(index).map(|item| item.stem.clone())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn palette(&self) -> &[PaletteColour] {
        if self.has_masks() { &[] } else { &self.palette }
    }

    fn indexed_colours(&self, index: usize) -> Result<Option<BTreeMap<u8, [u8; 3]>>> {
        let Some(item) = self.items.get(index) else { return Ok(None) };
        let name = self.store.place(&item.file.path);
        let indexed = png_palette::indexed(&self.store.read(&item.file)?, &name)?;
        indexed.map(|indexed| indexed.used(&name)).transpose()
    }

    fn kinds(&self) -> Vec<DataKind> {
        let mut kinds = picture_kinds(!self.classes.is_empty(), self.items.iter().all(|i| i.caption.is_some()));
        if self.items.iter().all(|i| i.mask.is_some()) {
            kinds.push(DataKind::Masked);
        }
        if !self.palette().is_empty() {
            kinds.push(DataKind::LabelMaps);
        }
        kinds
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn fingerprint(&self) -> String {
        let listed = |i: &Item| format!("{} {}", i.file.bytes, i.file.path);
        let masks = self.items.iter().filter_map(|i| i.mask.as_ref());
        let masks = masks.map(|mask| format!("{} {}", mask.bytes, mask.path));
        let classes = self.palette.iter().map(PaletteColour::to_string);
        let told = self.items.iter().filter_map(|i| match &i.caption {
            Some(Caption::Text(text)) => Some(text.clone()),
            _ => None,
        });
        let lines: Vec<String> = self.items.iter().map(listed).chain(masks).chain(classes).chain(told).collect();
        fingerprint(lines.iter().map(|l| l.as_bytes()))
    }
}
