//! Reader of the IDX format of MNIST and similar sets.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use kiln_core::{Context, Error, Result, budget, read_file, read_within};

use crate::Split;
use crate::memory::MemorySet;

/// Sizes and bytes of an IDX file of unsigned bytes: two zeros, 8 for the type, the number of
/// dimensions, each as a big-endian u32, then the data.
fn parse(bytes: &[u8], name: &str, dimensions: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = gunzip(bytes, name)?;
    let header = 4 + 4 * dimensions;
    if bytes.len() < header || bytes[..3] != [0, 0, 8] || usize::from(bytes[3]) != dimensions {
        return Err(Error::new(format!("{name}: not an IDX file of unsigned bytes with {dimensions} dimension(s)")));
    }
    let size = |c: &[u8]| c.iter().fold(0, |n, &b| n << 8 | usize::from(b));
    let sizes: Vec<usize> = bytes[4..header].chunks_exact(4).map(size).collect();
    let total = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
    let mut data = bytes.into_owned();
    data.drain(..header);
    if total != Some(data.len()) {
        return Err(Error::new(format!(
            "{name}: {} bytes of data where its header says {}; the file is damaged",
            data.len(),
            sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
        )));
    }
    Ok((sizes, data))
}

/// The bytes, decompressed if they are gzip.
pub(crate) fn gunzip<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, [u8]>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Borrowed(bytes));
    }
    let out = read_within(MultiGzDecoder::new(bytes), 0, budget().bytes, name);
    Ok(Cow::Owned(out.context(|| "decompressing")?))
}

/// A set from an image file and perhaps a label file, each (bytes, name), raw or gzipped. Without
/// `classes` they are called 0, 1, ... up to the largest label.
pub(crate) fn read(
    set: &str,
    images: (&[u8], &str),
    labels: Option<(&[u8], &str)>,
    classes: Option<&[&str]>,
) -> Result<MemorySet> {
    let (sizes, pixels) = parse(images.0, images.1, 3)?;
    let labels = match labels {
        None => None,
        Some((bytes, name)) => {
            let (count, labels) = parse(bytes, name, 1)?;
            if count[0] != sizes[0] {
                return Err(Error::new(format!(
                    "{} holds {} images but {name} holds {} labels: they do not belong together",
                    images.1, sizes[0], count[0]
                )));
            }
            Some(labels.into_iter().map(u32::from).collect::<Vec<_>>())
        }
    };
    let classes = match (classes, &labels) {
        (Some(names), _) => names.iter().map(|n| n.to_string()).collect(),
        (None, Some(l)) => (0..=l.iter().copied().max().unwrap_or(0)).map(|c| c.to_string()).collect(),
        (None, None) => Vec::new(),
    };
    MemorySet::new(set, [1, sizes[1], sizes[2]], pixels, labels, classes)
}

/// The file of a folder as MNIST names it, raw or gzipped.
fn file(folder: &Path, split: Split, kind: &str) -> Option<PathBuf> {
    let part = if split == Split::Train { "train" } else { "t10k" };
    ["", ".gz"].map(|end| folder.join(format!("{part}-{kind}-ubyte{end}"))).into_iter().find(|p| p.is_file())
}

/// Which parts of a split a folder holds.
pub(crate) fn parts(folder: &Path, split: Split) -> Vec<Split> {
    split.parts().filter(|&s| file(folder, s, "images-idx3").is_some()).collect()
}

/// Whether a folder holds IDX files under MNIST's names.
pub(crate) fn is_idx(folder: &Path) -> bool {
    !parts(folder, Split::All).is_empty()
}

/// A folder with `train-` or `t10k-images-idx3-ubyte` and `-labels-idx1-ubyte`, raw or `.gz`. Without
/// a label file the set is unlabelled.
pub(crate) fn open(set: &str, folder: &Path, split: Split, classes: Option<&[&str]>) -> Result<MemorySet> {
    let read_file = |path: &PathBuf| Ok((read_file(path, budget().bytes)?, path.display().to_string()));
    let Some(images) = file(folder, split, "images-idx3") else {
        return Err(Error::new(format!("{}: no IDX images for the {split} split", folder.display())));
    };
    let images = read_file(&images)?;
    let labels = file(folder, split, "labels-idx1").as_ref().map(read_file).transpose()?;
    let labels = labels.as_ref().map(|(b, n)| (b.as_slice(), n.as_str()));
    read(set, (&images.0, &images.1), labels, classes)
}
