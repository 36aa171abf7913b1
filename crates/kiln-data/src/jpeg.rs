//! Is a JPEG all there?
//!
//! The decoder fills what is missing with grey and says nothing, so the markers are walked first: segments by their
//! lengths, entropy-coded data up to its next marker. A whole file has its end marker (EOI) after the last scan. What
//! follows that, such as a second image or padding, is the business of others, as are thumbnails, which lie inside a
//! segment.

/// Scans of one picture. Encoders write about ten; each costs a pass over the whole picture, however few its bytes are.
const SCANS: usize = 200;

/// What is wrong with a JPEG as a file, if anything is.
pub(crate) fn flaw(bytes: &[u8]) -> Option<&'static str> {
    const CUT: Option<&str> = Some("cut off, its end is missing");
    let (mut at, mut scans) = (2, 0);
    loop {
        // Bytes between segments are skipped, as are those that fill up a marker.
        let Some(fill) = bytes[at.min(bytes.len())..].iter().position(|&b| b == 0xff) else { return CUT };
        at += fill;
        let Some(more) = bytes[at..].iter().position(|&b| b != 0xff) else { return CUT };
        at += more + 1;
        match bytes[at - 1] {
            // Without a length: stuffing, TEM, restarts, SOI.
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 if scans == 0 => return Some("no picture in it"),
            0xd9 => return None,
            marker => {
                let Some(&[high, low]) = bytes.get(at..at + 2) else { return CUT };
                at += usize::from(u16::from_be_bytes([high, low]));
                if at > bytes.len() {
                    return CUT;
                }
                // In the data that follows a start of scan, 0xff is itself before 0x00, and restarts belong to it: both
                // are passed above.
                scans += usize::from(marker == 0xda);
                if scans > SCANS {
                    return Some("too many scans");
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Segments around two scans with stuffed bytes, a restart and fill bytes; a thumbnail has an end of its own.
    const WHOLE: &[u8] =
        b"\xff\xd8\xff\xe1\0\x08\xff\xd8\xff\xd9..\xff\xda\0\x03?12\xff\x003\xff\xd04\xff\xff\xda\0\x03?5\xff\xd9";

    #[test]
    fn the_end_counts_and_what_follows_does_not() {
        assert_eq!(flaw(WHOLE), None);
        assert_eq!(flaw(&[WHOLE, b"\0\0\xff\xd8 another"].concat()), None);
        for len in 2..WHOLE.len() {
            assert!(flaw(&WHOLE[..len]).is_some(), "{len}");
        }
        assert_eq!(flaw(b"\xff\xd8\xff\xd9"), Some("no picture in it"));
        let many = [b"\xff\xd8".as_slice(), &b"\xff\xda\0\x02".repeat(SCANS + 1), b"\xff\xd9"].concat();
        assert_eq!(flaw(&many), Some("too many scans"));
    }
}
