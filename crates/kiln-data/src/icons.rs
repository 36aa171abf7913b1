//! Renders icon sets to images with captions.
//!
//! The sets are in Iconify's JSON: the bodies of SVG files keyed by an English name. A picture is
//! rendered at the requested size. Its caption is the name with spaces for dashes, and the same name
//! in two sets is a known pair.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kiln_core::{Context, Error, Result, budget, read_file, read_text};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::roxmltree::{Document, ParsingOptions};
use resvg::usvg::{ImageHrefResolver, Options, Tree};
use serde::Deserialize;

use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, Picture, PictureRule, PictureSize, Sample, Split};

/// The side in pixels at which icons are rendered when the rule gives no size.
pub const ICON_SIZE: usize = 32;

/// Iconify's `icons.json`.
#[derive(Deserialize)]
pub(crate) struct IconFile {
    icons: BTreeMap<String, Icon>,
    #[serde(default = "sixteen")]
    width: f32,
    #[serde(default = "sixteen")]
    height: f32,
}

/// Iconify's default for a missing side.
fn sixteen() -> f32 {
    16.0
}

/// The grid OpenMoji is drawn on.
const OPENMOJI_SIDE: f32 = 72.0;

#[derive(Deserialize, Clone)]
struct Icon {
    /// What is inside the `svg` element, or one of its own.
    body: String,
    width: Option<f32>,
    height: Option<f32>,
    #[serde(default)]
    left: f32,
    #[serde(default)]
    top: f32,
    /// Kept by Iconify only so that old links work.
    #[serde(default)]
    hidden: bool,
}

impl IconFile {
    /// Parses the JSON; an error names `name`.
    pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        serde_json::from_slice(bytes).context(|| format!("{name}: not an Iconify icon set"))
    }

    /// An edition, `color` or `black`, of OpenMoji's own package: a file an icon, named by
    /// `data/openmoji.json`. Skin tones are left out; of several icons with one name the first is kept.
    pub(crate) fn of_openmoji(folder: &Path, edition: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Entry {
            hexcode: String,
            annotation: String,
            /// "", or the number of a tone.
            skintone: serde_json::Value,
        }
        let list = folder.join("data/openmoji.json");
        let place = || format!("reading {}", list.display());
        let text = read_file(&list, budget().bytes)?;
        let entries: Vec<Entry> = serde_json::from_slice(&text).context(place)?;
        let mut icons = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.skintone == "") {
            let name = entry.annotation.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "-");
            if icons.contains_key(&name) {
                continue;
            }
            let file = folder.join(edition).join("svg").join(&entry.hexcode).with_extension("svg");
            let body = read_text(&file, budget().bytes)?;
            icons.insert(name, Icon { body, width: None, height: None, left: 0.0, top: 0.0, hidden: false });
        }
        Ok(Self { icons, width: OPENMOJI_SIDE, height: OPENMOJI_SIDE })
    }

    /// The names that make pictures of their own: neither hidden nor a skin tone of another.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let own = |(name, icon): &(&String, &Icon)| !icon.hidden && !self.is_tone(name);
        self.icons.iter().filter(own).map(|(n, _)| n.clone()).collect()
    }

    /// Skin tones are written `NAME-dark-skin-tone`, or `NAME-dark` where `NAME` has all five.
    fn is_tone(&self, name: &str) -> bool {
        let tones = ["-light", "-medium-light", "-medium", "-medium-dark", "-dark"];
        let has_tones = |base: &str| tones.iter().all(|t| self.icons.contains_key(&format!("{base}{t}")));
        name.contains("skin-tone") || tones.iter().filter_map(|t| name.strip_suffix(t)).any(has_tones)
    }
}

/// How an icon is read: of itself alone. A picture that it links to would be any file of this machine, or one inside the
/// text that is packed and may become as large as it likes.
fn options() -> Options<'static> {
    let image_href_resolver =
        ImageHrefResolver { resolve_data: Box::new(|_, _, _| None), resolve_string: Box::new(|_, _| None) };
    Options { image_href_resolver, ..Options::default() }
}

/// Refuses numbers that no icon has. The library cuts an arc into pieces of a tenth, and would not come to an end.
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

/// Rendered icons in the order of their names.
pub(crate) struct IconSet {
    name: String,
    icons: Vec<(String, Icon)>,
    /// Height and width.
    size: [usize; 2],
    channels: usize,
    background: [u8; 3],
}

impl IconSet {
    /// The icons of `names` that belong to the split.
    pub(crate) fn new(
        name: &str,
        mut file: IconFile,
        names: BTreeSet<String>,
        split: Split,
        rule: &PictureRule,
    ) -> Self {
        let (width, height) = (file.width, file.height);
        let take = |n: String| {
            let mut icon = file.icons.remove(&n)?;
            icon.width.get_or_insert(width);
            icon.height.get_or_insert(height);
            Some((n, icon))
        };
        let icons = split.keep(names.into_iter().collect(), String::clone);
        Self {
            name: name.into(),
            icons: icons.into_iter().filter_map(take).collect(),
            size: rule.size.or([ICON_SIZE; 2]),
            channels: if rule.channels == 4 { 4 } else { 3 },
            background: rule.background,
        }
    }

    fn render(&self, name: &str, icon: &Icon) -> Result<Picture> {
        let place = || format!("{}: rendering the icon {name}", self.name);
        let (width, height) = (icon.width.unwrap_or(sixteen()), icon.height.unwrap_or(sixteen()));
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
             width=\"{width}\" height=\"{height}\" viewBox=\"{} {} {width} {height}\">{}</svg>",
            icon.left, icon.top, icon.body
        );
        let document = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        let document = Document::parse_with_options(&svg, document).context(place)?;
        check_numbers(&document).context(place)?;
        let tree = Tree::from_xmltree(&document, &options()).context(place)?;
        let [rows, columns] = self.size;
        let Some(mut canvas) = Pixmap::new(columns as u32, rows as u32) else {
            return Err(Error::usage(format!("{columns} x {rows} is no size for an icon, in pixels")));
        };
        if self.channels == 3 {
            let [r, g, b] = self.background;
            canvas.fill(Color::from_rgba8(r, g, b, 255));
        }
        // As large as fits, in the middle.
        let scale = (columns as f32 / width).min(rows as f32 / height);
        let inset = |pixels: usize, side: f32| (pixels as f32 - side * scale) / 2.0;
        let place = Transform::from_scale(scale, scale).post_translate(inset(columns, width), inset(rows, height));
        resvg::render(&tree, place, &mut canvas.as_mut());
        let bytes = |p: &resvg::tiny_skia::PremultipliedColorU8| {
            let p = p.demultiply();
            [p.red(), p.green(), p.blue(), p.alpha()].into_iter().take(self.channels)
        };
        let pixels = canvas.pixels().iter().flat_map(bytes).collect();
        Picture::new(columns, rows, self.channels, pixels)
    }
}

impl DataSet for IconSet {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.icons.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some((name, icon)) = self.icons.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let picture = self.render(name, icon)?;
        Ok(Sample { picture, label: None, caption: Some(name.replace('-', " ")), mask: None, name: name.clone() })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.icons.get(index).map(|(name, _)| name.clone())
    }

    fn kinds(&self) -> Vec<DataKind> {
        let mut kinds = picture_kinds(false, true);
        kinds.push(DataKind::Paired);
        kinds
    }

    fn fingerprint(&self) -> String {
        let size = PictureSize::from(self.size);
        let how = format!("{size} {} {:?}", self.channels, self.background);
        let icons = self.icons.iter().flat_map(|(n, i)| [n.as_bytes(), i.body.as_bytes()]);
        fingerprint([how.as_bytes()].into_iter().chain(icons))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([self.channels, self.size[0], self.size[1]])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A one-icon set, drawn.
    fn draw(body: &str) -> Result<Picture> {
        let json = serde_json::json!({ "icons": { "a": { "body": body } } }).to_string();
        let file = IconFile::parse(json.as_bytes(), "icons.json").unwrap();
        let names = file.names();
        let rule = PictureRule { size: 4.into(), ..PictureRule::default() };
        Ok(IconSet::new("icons", file, names, Split::All, &rule).get(0)?.picture)
    }

    #[test]
    fn numbers_beyond_any_icon_are_refused() {
        let error = draw("<path d='M0 0A444444444444444444444444444444 9 0 0 0 30 15z'/>").unwrap_err().to_string();
        assert!(error.contains("`d` has a number of ten digits"), "{error}");
        for text in ["1e30", "M0 1.5E+12", "-12345678901.5", "a1 2 3e99z"] {
            assert!(has_huge_number(text), "{text}");
        }
        for text in ["M.12345678901.5-3 123456789", "1e-30", "1e9", "#1e99ff", "url(#a1234567890) 1", "e1 e12", "1.e"] {
            assert!(!has_huge_number(text), "{text}");
        }
    }

    #[test]
    fn an_icon_reads_no_other_file() {
        let red = "<rect width='16' height='16' fill='red'/>";
        assert_eq!(draw(red).unwrap().pixels[..3], [255, 0, 0]);
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.svg");
        let svg = format!("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{red}</svg>");
        std::fs::write(&other, svg).unwrap();
        // A device without an end would fill the memory.
        for href in [&other.display().to_string(), "/dev/zero"] {
            let picture = draw(&format!("<image href='{href}' width='16' height='16'/>")).unwrap();
            assert_eq!(picture.pixels[..3], [255; 3], "{href}");
        }
    }
}
