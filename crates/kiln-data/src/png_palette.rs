//! Has a PNG a palette of whole colours?
//!
//! The decoder takes three bytes a colour, and panics where the last colour has fewer.

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
