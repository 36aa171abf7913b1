//! Is a WebP all there?
//!
//! The decoder makes room for a part of the file, such as its camera's data, before it looks whether it is there. So the parts
//! are walked first: each has a name of four bytes, its length, and its bytes, filled up to an even number.

/// A WebP without what follows it.
///
/// # Errors
/// If a part of it is not there.
pub(crate) fn whole(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let cut = "cut off, its end is missing";
    // Where the bytes end whose length stands four bytes after `at`.
    let end = |at: usize, most: usize| {
        let field = bytes.get(at + 4..at + 8).ok_or(cut)?;
        let len = u32::from_le_bytes([field[0], field[1], field[2], field[3]]) as usize;
        Some(at + 8 + len).filter(|end| *end <= most).ok_or(cut)
    };
    let most = end(0, bytes.len())?;
    let mut at = 12;
    // What is too short to have a name and a length is no part.
    while at + 8 <= most {
        at = end(at, most)?.next_multiple_of(2);
    }
    Ok(&bytes[..most])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_lies_in_the_file() {
        let file = b"RIFF\x1a\0\0\0WEBPVP8 \x01\0\0\0.\0EXIF\x04\0\0\0....";
        assert_eq!(whole(file), Ok(&file[..]));
        assert_eq!(whole(&[&file[..], b"more"].concat()), Ok(&file[..]));
        for len in 0..file.len() {
            assert!(whole(&file[..len]).is_err(), "{len}");
        }
        // Camera's data of 4 GiB.
        let mut damaged = *file;
        damaged[26..30].fill(0xff);
        assert_eq!(whole(&damaged), Err("cut off, its end is missing"));
    }
}
