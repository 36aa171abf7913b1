//! A contact sheet of the first samples of a data set:
//! `cargo run --release -p kiln-data --example sheet NAME train 32 sheet.png` (32 = picture size, 0 as stored)

use std::path::Path;

use kiln_core::{Error, Result};
use kiln_data::{PictureRule, PictureSize, Prepared, Resize, contact_sheet, open};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, split, size, out] = &arguments[..] else {
        return Err(Error::usage("give NAME, train or test, a size, and a PNG to write"));
    };
    let size: PictureSize = size.parse()?;
    let resize = if size == PictureSize::STORED { Resize::None } else { Resize::Crop };
    let rule = PictureRule { size, resize, ..PictureRule::default() };
    let set = open(name, split.parse()?, &rule)?;
    let prepared = Prepared::new(set, rule)?;
    println!("{name}: {} of {:?}", prepared.len(), prepared.shape());
    let some = (0..prepared.len().min(96)).map(|i| Ok(prepared.get(i)?.picture));
    let pictures: Vec<_> = some.collect::<Result<_>>()?;
    contact_sheet(&pictures, 12, 0)?.write_png(Path::new(out), &[])
}
