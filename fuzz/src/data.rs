//! Readers of `kiln-data`.

use std::path::Path;

use kiln_core::Result;
use kiln_data::{DataSet, Picture, PictureRule, Split, Tokenizer, open, read_png_text, readers};

use crate::files::{Reader, file, folder, halves};

/// The targets of this file.
pub const READERS: [(&str, Reader); 12] = [
    ("picture", picture),
    ("png_text", png_text),
    ("zip", zip),
    ("tar", tar),
    ("npy", npy),
    ("npz", npz),
    ("idx", idx),
    ("gz", gz),
    ("csv", csv),
    ("icons", icons),
    ("obj", obj),
    ("tokenizer", tokenizer),
];

/// A picture of any format.
fn picture(bytes: &[u8]) -> Result<()> {
    let picture = Picture::decode(bytes, "picture")?;
    // What every verb does with one next.
    if picture.pixels.len() < 1 << 16 {
        let grey = picture.with_channels(1, [255; 3]);
        assert_eq!(grey.flipped().flipped(), grey);
        assert_eq!(picture.to_unit().len(), picture.pixels.len());
    }
    Ok(())
}

/// The text inside a PNG.
fn png_text(bytes: &[u8]) -> Result<()> {
    read_png_text(&file("text.png", bytes)).map(drop)
}

/// A zip of pictures, classes, captions and masks.
fn zip(bytes: &[u8]) -> Result<()> {
    open_all_of(&file("set.zip", bytes))
}

/// A tar of pictures, plain or compressed.
fn tar(bytes: &[u8]) -> Result<()> {
    open_all_of(&file("set.tar", bytes))
}

/// An array of pictures.
fn npy(bytes: &[u8]) -> Result<()> {
    open_all_of(&file("set.npy", bytes))
}

/// A zip of arrays.
fn npz(bytes: &[u8]) -> Result<()> {
    open_all_of(&file("set.npz", bytes))
}

/// A folder of IDX files: images, and perhaps `KILN` and labels.
fn idx(bytes: &[u8]) -> Result<()> {
    let cut = bytes.windows(4).rposition(|four| four == b"KILN");
    let (images, labels) = cut.map_or((bytes, None), |at| (&bytes[..at], Some(&bytes[at + 4..])));
    let path = file("idx/t10k-images-idx3-ubyte", images);
    let beside = folder().join("idx/t10k-labels-idx1-ubyte");
    match labels {
        Some(labels) => std::fs::write(beside, labels).unwrap(),
        None => _ = std::fs::remove_file(beside),
    }
    open_all_of(path.parent().unwrap())
}

/// A gzipped IDX file.
fn gz(bytes: &[u8]) -> Result<()> {
    open_all_of(file("gz/t10k-images-idx3-ubyte.gz", bytes).parent().unwrap())
}

/// A table of digits, plain or gzipped.
fn csv(bytes: &[u8]) -> Result<()> {
    look_at(&*readers::digit_table(&file("digits.csv", bytes))?)
}

/// A set of icons, rendered.
fn icons(bytes: &[u8]) -> Result<()> {
    let rule = PictureRule { size: 16.into(), ..PictureRule::default() };
    look_at(&*readers::icons(bytes, &rule)?)
}

/// A solid model, then a 0 byte and its materials, drawn.
fn obj(bytes: &[u8]) -> Result<()> {
    let (model, library) = halves(bytes);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    readers::solid(&text(model), &text(library), [16, 16]).map(drop)
}

/// A `tokenizer.json`, used.
fn tokenizer(bytes: &[u8]) -> Result<()> {
    let tokenizer = Tokenizer::open(&file("tokenizer.json", bytes))?;
    let rows = tokenizer.rows(["a red square", "", "ünï"], 4)?;
    assert_eq!(rows.ids.len(), rows.length * rows.lengths.len());
    Ok(())
}

fn open_all_of(path: &Path) -> Result<()> {
    let set = open(&path.display().to_string(), Split::All, &PictureRule::default())?;
    look_at(&*set)
}

/// The first samples of a set.
fn look_at(set: &dyn DataSet) -> Result<()> {
    for index in 0..set.len().min(32) {
        let sample = set.get(index)?;
        assert!(sample.label.is_none_or(|label| (label as usize) < set.classes().len()));
        set.stem(index);
    }
    Ok(())
}
