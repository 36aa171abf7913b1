//! A checksum that lies with the bytes it is of: what is cached is used whole or not at all.

use sha2::{Digest, Sha256};

/// Bytes of a seal.
const LENGTH: usize = 32;

/// Bytes in hexadecimal, two digits each.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes behind their SHA-256.
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Sha256::digest(bytes).to_vec();
    out.extend_from_slice(bytes);
    out
}

/// The bytes that were [`sealed`]; `None` if a bit of them or of the seal has changed, or a byte is missing.
pub fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (seal, rest) = bytes.split_at_checked(LENGTH)?;
    (Sha256::digest(rest).as_slice() == seal).then_some(rest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }

    #[test]
    fn every_bit_counts() {
        let whole = sealed(b"some bytes");
        assert_eq!(unsealed(&whole).unwrap(), b"some bytes");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert!(unsealed(&damaged).is_none() && unsealed(&whole[..at]).is_none(), "byte {at}, bit {bit}");
            }
        }
        assert_eq!(unsealed(&sealed(b"")).unwrap(), b"");
    }
}
