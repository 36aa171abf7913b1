//! The palette of a PNG: whether it has one of whole colours, and which index each pixel has.
//!
//! The decoder takes three bytes a colour, and panics where the last colour has fewer.

use std::collections::BTreeMap;
use std::io::Cursor;

use kiln_core::{Error, Result, budget};

/// A picture of indices into a palette.
pub(crate) struct Indexed {
    pub(crate) indices: Vec<u8>,
    palette: Vec<[u8; 3]>,
}

impl Indexed {
    /// The colours of the indices that it uses.
    ///
    /// # Errors
    /// If two of them have one colour.
    pub(crate) fn used(&self, name: &str) -> Result<BTreeMap<u8, [u8; 3]>> {
        let mut used = BTreeMap::new();
        for &index in &self.indices {
            used.entry(index).or_insert(self.palette.get(usize::from(index)).copied().unwrap_or_default());
        }
        for (index, colour) in &used {
            if let Some((other, _)) = used.iter().find(|(other, found)| *other < index && *found == colour) {
                let [r, g, b] = colour;
                return Err(Error::new(format!(
                    "{name}: the indices {other} and {index} of its palette have the same colour, {r} {g} {b}; give each class its own"
                )));
            }
        }
        Ok(used)
    }
}

/// The indices of a PNG that has a palette; `None` of any other picture. [`Picture::decode`](crate::Picture::decode) has read it before.
pub(crate) fn indexed(bytes: &[u8], name: &str) -> Result<Option<Indexed>> {
    let fail = |e: &dyn std::fmt::Display| Error::new(format!("{name}: not a readable picture ({e})"));
    // The type of colours follows the size and the bits in the first chunk; 3 is a palette.
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") || bytes.get(25) != Some(&3) {
        return Ok(None);
    }
    if let Some(flaw) = flaw(bytes) {
        return Err(fail(&flaw));
    }
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().map_err(|e| fail(&e))?;
    let info = reader.info();
    budget().check_pixels(info.width.into(), info.height.into(), name)?;
    let (width, bits) = (info.width as usize, info.bit_depth as usize);
    let palette = info.palette.as_deref().unwrap_or_default().chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect();
    let size = reader.output_buffer_size().ok_or_else(|| fail(&"too many bytes"))?;
    let mut packed = vec![0; size];
    let frame = reader.next_frame(&mut packed).map_err(|e| fail(&e))?;
    let index = |row: &[u8], x: usize| {
        let bit = x * bits;
        (row[bit / 8] >> (8 - bits - bit % 8)) & (u8::MAX >> (8 - bits))
    };
    let rows = packed[..frame.buffer_size()].chunks_exact(frame.line_size);
    let indices = rows.flat_map(|row| (0..width).map(move |x| index(row, x))).collect();
    Ok(Some(Indexed { indices, palette }))
}

/// What is wrong with a PNG's palette, if it has one and anything is.
pub(crate) fn flaw(bytes: &[u8]) -> Option<&'static str> {
    let mut at = 8;
    // A chunk is its length, its name of four bytes, its bytes and a sum of four.
    while let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..at + 8) {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        match name {
            b"PLTE" if len == 0 || !len.is_multiple_of(3) => return Some("its palette is no list of colours"),
            b"IDAT" => return None,
            _ => at = at.checked_add(len)?.checked_add(12)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_palette_is_of_whole_colours() {
        let png = |palette: &[u8]| {
            let len = (palette.len() as u32).to_be_bytes();
            let header = b"\x89PNG\r\n\x1a\n\0\0\0\x02IHDR..sums";
            [&header[..], &len, b"PLTE", palette, b"sums\0\0\0\x01IDAT.sums"].concat()
        };
        assert_eq!(flaw(&png(&[1, 2, 3, 4, 5, 6])), None);
        for palette in [&[][..], &[1], &[1, 2, 3, 4]] {
            assert!(flaw(&png(palette)).is_some(), "{palette:?}");
        }
        assert_eq!(flaw(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR"), None);
    }
}
