//! Draws an SVG.

use kiln_core::{Context, Error, Result};
use resvg::tiny_skia::{Color, Pixmap, PremultipliedColorU8, Transform};
use resvg::usvg::roxmltree::{Document, ParsingOptions};
use resvg::usvg::{ImageHrefResolver, Options, Tree};

use crate::Picture;

/// Draws the text of an SVG as large as fits, in the middle of `[height, width]` pixels: of 3 channels on a background, of 4
/// with its transparency.
///
/// # Errors
/// If it is no SVG, has numbers that no drawing has, or the size is none.
pub(crate) fn draw(svg: &str, size: [usize; 2], channels: usize, background: [u8; 3]) -> Result<Picture> {
    let document = Document::parse_with_options(svg, parsing()).context(|| "no SVG")?;
    check_numbers(&document)?;
    let tree = Tree::from_xmltree(&document, &options()).context(|| "no SVG")?;
    let [rows, columns] = size;
    let Some(mut canvas) = Pixmap::new(columns as u32, rows as u32) else {
        return Err(Error::usage(format!("{columns} x {rows} is no size for a drawing, in pixels")));
    };
    if channels == 3 {
        let [r, g, b] = background;
        canvas.fill(Color::from_rgba8(r, g, b, 255));
    }
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = (columns as f32 / width).min(rows as f32 / height);
    let inset = |pixels: usize, side: f32| (pixels as f32 - side * scale) / 2.0;
    let place = Transform::from_scale(scale, scale).post_translate(inset(columns, width), inset(rows, height));
    resvg::render(&tree, place, &mut canvas.as_mut());
    let bytes = |p: &PremultipliedColorU8| {
        let p = p.demultiply();
        [p.red(), p.green(), p.blue(), p.alpha()].into_iter().take(channels)
    };
    Picture::new(columns, rows, channels, canvas.pixels().iter().flat_map(bytes).collect())
}

/// How the XML is read: some drawings name their namespaces by entities of a DTD.
pub(crate) fn parsing<'input>() -> ParsingOptions<'input> {
    ParsingOptions { allow_dtd: true, ..ParsingOptions::default() }
}

/// How a drawing is read: of itself alone. A picture that it links to would be any file of this machine, or one inside the
/// text that is packed and may become as large as it likes.
fn options() -> Options<'static> {
    let image_href_resolver =
        ImageHrefResolver { resolve_data: Box::new(|_, _, _| None), resolve_string: Box::new(|_, _| None) };
    Options { image_href_resolver, ..Options::default() }
}

/// Refuses numbers that no drawing has. The library cuts an arc into pieces of a tenth, and would not come to an end.
fn check_numbers(document: &Document) -> Result<()> {
    const NAMES: [&str; 3] = ["id", "class", "href"];
    let attributes = document.descendants().flat_map(|node| node.attributes());
    let huge = attributes.filter(|a| !NAMES.contains(&a.name())).find(|a| has_huge_number(a.value()));
    huge.map_or(Ok(()), |a| Err(Error::new(format!("its `{}` has a number of ten digits or more", a.name()))))
}

/// Whether one of the numbers in a text has more than nine digits before its point, or more than one in its exponent.
fn has_huge_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let length = |from: usize, is_in: fn(&u8) -> bool| bytes[from..].iter().take_while(|byte| is_in(byte)).count();
    let mut at = 0;
    while at < bytes.len() {
        let (digits, most) = match bytes[at] {
            // Colours, and names that are referred to.
            b'#' => (1 + length(at + 1, |byte| !matches!(byte, b' ' | b')' | b';' | b'"')), usize::MAX),
            b'.' => (1 + length(at + 1, u8::is_ascii_digit), usize::MAX),
            b'0'..=b'9' => (length(at, u8::is_ascii_digit), 9),
            b'e' | b'E' if at > 0 && matches!(bytes[at - 1], b'0'..=b'9' | b'.') => {
                at += 1 + usize::from(bytes.get(at + 1) == Some(&b'+'));
                (length(at, u8::is_ascii_digit), 1)
            }
            _ => (1, usize::MAX),
        };
        if digits > most {
            return true;
        }
        at += digits;
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_any_drawing_are_refused() {
        let arc = "<svg xmlns='http://www.w3.org/2000/svg'><path d='M0 0A444444444444444444444444444444 9 0 0 0 30 15z'/></svg>";
        let error = draw(arc, [4; 2], 3, [255; 3]).unwrap_err().to_string();
        assert!(error.contains("`d` has a number of ten digits"), "{error}");
        for text in ["1e30", "M0 1.5E+12", "-12345678901.5", "a1 2 3e99z"] {
            assert!(has_huge_number(text), "{text}");
        }
        for text in ["M.12345678901.5-3 123456789", "1e-30", "1e9", "#1e99ff", "url(#a1234567890) 1", "e1 e12", "1.e"] {
            assert!(!has_huge_number(text), "{text}");
        }
    }
}
