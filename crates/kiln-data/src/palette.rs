//! The palette of label maps: the classes and the colour that each has.

use std::fmt;
use std::str::FromStr;

use kiln_core::{Error, Result, refuse_if};
use serde::{Deserialize, Serialize};

use crate::Picture;

/// The file in a folder of maps that says its classes and their colours.
pub(crate) const PALETTE_FILE: &str = "palette.txt";
/// Classes that a set of maps can have.
pub(crate) const MOST: usize = 256;

/// A class of label maps, written `name #rrggbb` or `name R G B`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PaletteColour {
    /// Its name.
    pub name: String,
    /// Red, green, blue.
    pub colour: [u8; 3],
}

/// A colour as it is written.
fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

impl fmt::Display for PaletteColour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, hex(self.colour))
    }
}

impl FromStr for PaletteColour {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let of_hex = |word: &str| {
            let digits = word.strip_prefix('#').filter(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
            Some([byte(0)?, byte(2)?, byte(4)?])
        };
        let found = match words.as_slice() {
            [name @ .., last] if !name.is_empty() && last.starts_with('#') => of_hex(last).map(|c| (name, c)),
            [name @ .., r, g, b] if !name.is_empty() => match (r.parse(), g.parse(), b.parse()) {
                (Ok(r), Ok(g), Ok(b)) => Some((name, [r, g, b])),
                _ => None,
            },
            _ => None,
        };
        match found {
            Some((name, colour)) => Ok(Self { name: name.join(" "), colour }),
            None => Err(Error::usage(format!(
                "`{text}`: a class of label maps is a name and its colour, such as `road #804080` or `road 128 64 128`"
            ))),
        }
    }
}

impl TryFrom<String> for PaletteColour {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PaletteColour> for String {
    fn from(class: PaletteColour) -> Self {
        class.to_string()
    }
}

/// The classes of a palette file, one a line; empty lines count for nothing.
pub(crate) fn parse_palette(text: &str, place: &str) -> Result<Vec<PaletteColour>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let class = |(number, line): (usize, &str)| {
        line.parse().map_err(|e: Error| Error::new(format!("{place}, line {}: {e}", number + 1)))
    };
    let palette = lines.map(class).collect::<Result<Vec<_>>>()?;
    check_palette(&palette, place)?;
    Ok(palette)
}

pub(crate) fn check_palette(palette: &[PaletteColour], place: &str) -> Result<()> {
    refuse_if!(palette.is_empty() || palette.len() > MOST, "{place}: {} classes; from 1 to {MOST}", palette.len());
    let twice = palette.iter().enumerate().find_map(|(i, class)| {
        palette[..i].iter().find(|other| other.colour == class.colour).map(|other| (other, class))
    });
    match twice {
        Some((one, other)) => Err(Error::usage(format!(
            "{place}: {} and {} have the same colour, {}",
            one.name,
            other.name,
            hex(one.colour)
        ))),
        None => Ok(()),
    }
}

/// The class of each pixel, by its place in the palette.
///
/// # Errors
/// Names the picture and the first colour that is none of the palette's.
pub(crate) fn classes_of(picture: &Picture, palette: &[PaletteColour], name: &str) -> Result<Vec<u8>> {
    // Neighbours mostly have one class.
    let mut last = 0;
    let class = |(at, pixel): (usize, &[u8])| {
        let colour = match *pixel {
            [r, g, b, ..] => [r, g, b],
            _ => [pixel[0]; 3],
        };
        if palette.get(last).is_none_or(|class| class.colour != colour) {
            let place = palette.iter().position(|class| class.colour == colour);
            last = place.ok_or_else(|| unknown(colour, [at % picture.width, at / picture.width], palette, name))?;
        }
        Ok(last as u8)
    };
    picture.pixels.chunks_exact(picture.channels).enumerate().map(class).collect()
}

fn unknown(colour: [u8; 3], [x, y]: [usize; 2], palette: &[PaletteColour], name: &str) -> Error {
    let apart = |class: &&PaletteColour| -> u32 {
        class.colour.iter().zip(colour).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
    };
    let near = palette.iter().min_by_key(apart).map_or(String::new(), |class| format!("; the nearest is {class}"));
    Error::new(format!(
        "{name}: the colour {} at ({x}, {y}) is none of the {} classes of its maps{near}; a map has hard edges and is no JPEG",
        hex(colour),
        palette.len()
    ))
}

/// A picture in colours, all of which must be of the palette.
pub(crate) fn in_palette(picture: &Picture, palette: &[PaletteColour], name: &str) -> Result<Picture> {
    let picture = picture.with_channels(3, [255; 3]);
    classes_of(&picture, palette, name)?;
    Ok(picture)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn class(name: &str, colour: [u8; 3]) -> PaletteColour {
        PaletteColour { name: name.into(), colour }
    }

    #[test]
    fn a_palette_is_read_and_written() {
        let text = "road #804080\n\nstreet light 1 2 3\n7 0 0 0\n";
        let want = vec![class("road", [128, 64, 128]), class("street light", [1, 2, 3]), class("7", [0; 3])];
        assert_eq!(parse_palette(text, "p").unwrap(), want);
        assert_eq!(want[1].to_string().parse::<PaletteColour>().unwrap(), want[1]);
        for bad in ["", "road", "road #80408", "road 1 2 256", "#804080", "1 2 3", "a #000000\nb 0 0 0"] {
            assert!(parse_palette(bad, "p").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_colour_is_named_with_its_picture() {
        let palette = [class("a", [0; 3]), class("b", [250; 3])];
        let picture = Picture::new(3, 1, 3, vec![0, 0, 0, 250, 250, 250, 249, 250, 250]).unwrap();
        let e = classes_of(&picture, &palette, "x.png").unwrap_err().to_string();
        assert!(e.contains("x.png") && e.contains("#f9fafa") && e.contains("(2, 0)") && e.contains("b #fafafa"), "{e}");
        let known = picture.crop(0, 0, 2, 1);
        assert_eq!(classes_of(&known, &palette, "x.png").unwrap(), [0, 1]);
    }
}
