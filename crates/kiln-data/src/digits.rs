//! Readers of digit sets that come as a CSV table or as one image.

use std::path::Path;

use kiln_core::{Error, Result, budget, read_file};

use crate::Picture;
use crate::idx::gunzip;
use crate::memory::MemorySet;

fn ten() -> Vec<String> {
    (0..10).map(|d| d.to_string()).collect()
}

/// A CSV (plain or gzipped) of one digit a line: `side * side` grey levels from 0 to `white`, then the
/// class.
pub(crate) fn table(set: &str, file: &Path, side: usize, white: u32) -> Result<MemorySet> {
    let name = file.display().to_string();
    let bytes = read_file(file, budget().bytes)?;
    let text = String::from_utf8_lossy(&gunzip(&bytes, &name)?).into_owned();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let values: Option<Vec<u32>> = line.split(',').map(whole).collect();
        match values.as_deref().and_then(|v| v.split_last()) {
            Some((label, grey)) if grey.len() == side * side && grey.iter().all(|g| *g <= white) => {
                pixels.extend(grey.iter().map(|g| ((g * 255 + white / 2) / white) as u8));
                labels.push(*label);
            }
            _ => {
                return Err(Error::new(format!(
                    "{name}: line {}: not {} numbers from 0 to {white} and a class",
                    number + 1,
                    side * side
                )));
            }
        }
    }
    MemorySet::new(set, [1, side, side], pixels, Some(labels), ten())
}

/// A whole number, perhaps written as `3.0`.
fn whole(text: &str) -> Option<u32> {
    let value: f64 = text.trim().parse().ok()?;
    (value >= 0.0 && value.fract() == 0.0).then_some(value as u32)
}

/// A sheet of digits side by side, each `side` pixels square, the same number of rows for each class.
pub(crate) fn sheet(set: &str, file: &Path, side: usize) -> Result<MemorySet> {
    let sheet = Picture::open(file)?.with_channels(1, [255; 3]);
    let (columns, rows) = (sheet.width / side, sheet.height / side);
    if (columns * side, rows * side) != (sheet.width, sheet.height) || rows % 10 != 0 {
        return Err(Error::new(format!(
            "{}: {} x {} pixels are no sheet of ten classes of {side} x {side} digits",
            file.display(),
            sheet.width,
            sheet.height
        )));
    }
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for row in 0..rows {
        for column in 0..columns {
            pixels.extend(sheet.crop(column * side, row * side, side, side).pixels);
            labels.push((row / (rows / 10)) as u32);
        }
    }
    MemorySet::new(set, [1, side, side], pixels, Some(labels), ten())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::DataSet;

    #[test]
    fn a_table_of_digits() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("digits.csv");
        std::fs::write(&file, "0,8,16,4,7\n1.0,0,0,0,3\n").unwrap();
        let set = table("t", &file, 2, 16).unwrap();
        let sample = set.get(0).unwrap();
        assert_eq!((sample.picture.pixels, sample.label), (vec![0, 128, 255, 64], Some(7)));
        for bad in ["0,8,16,7\n", "0,8,17,4,7\n", "0,8,x,4,7\n", "0,8,1,4,11\n", ""] {
            std::fs::write(&file, bad).unwrap();
            let error = table("t", &file, 2, 16).err().unwrap().to_string();
            assert!(error.contains("line 1") || error.contains("label 11") || bad.is_empty());
        }
    }

    #[test]
    fn a_sheet_of_digits() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sheet.png");
        // Twenty rows of three 2x2 digits, each filled with its place.
        let pixel = |i: usize| ((i / 6 / 2) * 3 + i % 6 / 2) as u8;
        let sheet_picture = Picture::new(6, 40, 1, (0..240).map(pixel).collect()).unwrap();
        sheet_picture.write_png(&file, &[]).unwrap();
        let set = sheet("s", &file, 2).unwrap();
        assert_eq!(set.len(), 60);
        for i in [0, 5, 6, 59] {
            let sample = set.get(i).unwrap();
            assert_eq!(sample.picture.pixels, [i as u8; 4]);
            assert_eq!(sample.label, Some(i as u32 / 6));
        }
        assert!(sheet("s", &file, 4).is_err());
    }
}
