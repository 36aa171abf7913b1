//! How large are the pictures to be?

use std::fmt;
use std::str::FromStr;

use kiln_core::{Error, Result};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Height and width in pixels, or the size that is stored. Written as one number where both are equal, else as a list of
/// two: `64`, `[48, 64]`; 0 keeps the stored size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PictureSize(Option<[usize; 2]>);

impl PictureSize {
    /// As it is stored.
    pub const STORED: Self = Self(None);

    /// Height and width, unless the stored size is kept.
    pub fn pixels(self) -> Option<[usize; 2]> {
        self.0
    }

    /// Height and width, those of `stored` if they are kept.
    pub fn or(self, stored: [usize; 2]) -> [usize; 2] {
        self.0.unwrap_or(stored)
    }
}

/// Height and width are equal; 0 keeps the stored size.
impl From<usize> for PictureSize {
    fn from(side: usize) -> Self {
        [side; 2].into()
    }
}

/// Height and width; two zeros keep the stored size.
impl From<[usize; 2]> for PictureSize {
    fn from(sides: [usize; 2]) -> Self {
        Self((sides != [0, 0]).then_some(sides))
    }
}

impl fmt::Display for PictureSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("0"),
            Some([height, width]) if height == width => write!(f, "{height}"),
            Some([height, width]) => write!(f, "[{height}, {width}]"),
        }
    }
}

/// `64`, or height and width: `48,64`.
impl FromStr for PictureSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sides: Option<Vec<usize>> = text.split(',').map(|side| side.trim().parse().ok()).collect();
        match sides.as_deref() {
            Some(&[side]) => Ok(side.into()),
            Some(&[height, width]) if height > 0 && width > 0 => Ok([height, width].into()),
            _ => Err(Error::usage(format!("size {text}: give one number, or height and width, such as 48,64"))),
        }
    }
}

impl Serialize for PictureSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_u64(0),
            Some([height, width]) if height == width => serializer.serialize_u64(height as u64),
            Some(sides) => sides.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PictureSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneOrTwo;
        impl<'de> Visitor<'de> for OneOrTwo {
            type Value = PictureSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in pixels, one number or [height, width]")
            }

            fn visit_u64<E: serde::de::Error>(self, side: u64) -> std::result::Result<PictureSize, E> {
                usize::try_from(side).map(PictureSize::from).map_err(|_| E::custom(format!("{side}: too large a size")))
            }

            fn visit_i64<E: serde::de::Error>(self, side: i64) -> std::result::Result<PictureSize, E> {
                let fail = || E::custom(format!("size = {side}: a size in pixels must not be negative"));
                usize::try_from(side).map(PictureSize::from).map_err(|_| fail())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<PictureSize, A::Error> {
                let mut sides = Vec::new();
                while let Some(side) = list.next_element::<usize>()? {
                    sides.push(side);
                }
                match sides[..] {
                    [height, width] if height > 0 && width > 0 => Ok([height, width].into()),
                    _ => Err(serde::de::Error::custom(format!(
                        "size = {sides:?}: give one number, or two above 0: [height, width]"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(OneOrTwo)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_two() {
        for (text, size) in [("0", PictureSize::STORED), ("64", 64.into()), ("[48,64]", [48, 64].into())] {
            assert_eq!(serde_json::from_str::<PictureSize>(text).unwrap(), size);
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
        }
        assert_eq!(serde_json::from_str::<PictureSize>("[32, 32]").unwrap(), 32.into());
        for text in ["-1", "[1]", "[1,2,3]", "[0,5]", "\"x\"", "1.5"] {
            assert!(serde_json::from_str::<PictureSize>(text).is_err(), "{text}");
        }
        assert_eq!("48, 64".parse::<PictureSize>().unwrap(), [48, 64].into());
        assert!("48,".parse::<PictureSize>().unwrap_err().is_usage());
    }
}
