//! Renders icon sets to images with captions.
//!
//! The sets are in Iconify's JSON: the bodies of SVG files keyed by an English name. A picture is
//! rendered at the requested size. Its caption is the name with spaces for dashes, and OpenMoji's tags; the same name
//! in two sets is a known pair. Emoji may have the group that Unicode puts them in as their class.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use kiln_core::{Context, Error, Result, budget, read_file, read_text};
use serde::Deserialize;

use crate::set::{fingerprint, picture_kinds};
use crate::svg::draw;
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
    /// The class of each icon that has one, once [`IconFile::with_groups`] was asked for them.
    #[serde(skip)]
    groups: Option<BTreeMap<String, u32>>,
}

/// The groups of Unicode's list of emoji that every vendor draws. Not all of them draw flags.
static GROUPS: LazyLock<Vec<String>> = LazyLock::new(|| {
    [
        "Activities",
        "Animals & Nature",
        "Food & Drink",
        "Objects",
        "People & Body",
        "Smileys & Emotion",
        "Symbols",
        "Travel & Places",
    ]
    .map(String::from)
    .into()
});

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
    /// More words for it, with commas between.
    #[serde(skip)]
    tags: String,
}

impl IconFile {
    /// Parses the JSON; an error names `name`.
    pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        serde_json::from_slice(bytes).context(|| format!("{name}: not an Iconify icon set"))
    }

    /// A set as Iconify packs it.
    pub(crate) fn of_iconify(folder: &Path) -> Result<Self> {
        let file = folder.join("icons.json");
        Self::parse(&read_file(&file, budget().bytes)?, &file.display().to_string())
    }

    /// The icons of [`GROUPS`] alone, each with its group as its class. `metadata.json` has the lists of names; some
    /// vendors write `Animals Nature` for `Animals & Nature`.
    pub(crate) fn with_groups(mut self, folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            categories: BTreeMap<String, Vec<String>>,
        }
        let file = folder.join("metadata.json");
        let bytes = read_file(&file, budget().bytes)?;
        let place = || format!("{}: not the groups of an Iconify icon set", file.display());
        let metadata: Metadata = serde_json::from_slice(&bytes).context(place)?;
        let plain = |group: &str| group.replace("& ", "");
        let mut groups = BTreeMap::new();
        for (class, group) in (0..).zip(GROUPS.iter()) {
            let here = metadata.categories.iter().filter(|(name, _)| plain(name) == plain(group));
            groups.extend(here.flat_map(|(_, icons)| icons).map(|icon| (icon.clone(), class)));
        }
        self.groups = Some(groups);
        Ok(self)
    }

    /// An edition, `color` or `black`, of OpenMoji's own package: a file an icon, named by
    /// `data/openmoji.json`. Skin tones are left out; of several icons with one name the first is kept.
    pub(crate) fn of_openmoji(folder: &Path, edition: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Entry {
            hexcode: String,
            annotation: String,
            #[serde(default)]
            tags: String,
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
            icons.insert(
                name,
                Icon { body, width: None, height: None, left: 0.0, top: 0.0, hidden: false, tags: entry.tags.clone() },
            );
        }
        Ok(Self { icons, width: OPENMOJI_SIDE, height: OPENMOJI_SIDE, groups: None })
    }

    /// The names that make pictures of their own: neither hidden nor a skin tone of another, and of a group if those are
    /// asked for.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let in_group = |name: &str| self.groups.as_ref().is_none_or(|groups| groups.contains_key(name));
        let own = |(name, icon): &(&String, &Icon)| !icon.hidden && !self.is_tone(name) && in_group(name);
        self.icons.iter().filter(own).map(|(n, _)| n.clone()).collect()
    }

    /// Skin tones are written `NAME-dark-skin-tone`, or `NAME-dark` where `NAME` has all five.
    fn is_tone(&self, name: &str) -> bool {
        let tones = ["-light", "-medium-light", "-medium", "-medium-dark", "-dark"];
        let has_tones = |base: &str| tones.iter().all(|t| self.icons.contains_key(&format!("{base}{t}")));
        name.contains("skin-tone") || tones.iter().filter_map(|t| name.strip_suffix(t)).any(has_tones)
    }
}

/// Rendered icons in the order of their names.
pub(crate) struct IconSet {
    name: String,
    icons: Vec<(String, Icon)>,
    groups: Option<BTreeMap<String, u32>>,
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
            groups: file.groups,
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
        draw(&svg, self.size, self.channels, self.background).context(place)
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
        let label = self.groups.as_ref().and_then(|groups| groups.get(name).copied());
        Ok(Sample { picture, label, caption: self.caption(index)?, mask: None, name: name.clone() })
    }

    fn caption(&self, index: usize) -> Result<Option<String>> {
        let said = |(name, icon): &(String, Icon)| {
            let name = name.replace('-', " ");
            if icon.tags.is_empty() { name } else { format!("{name}, {}", icon.tags) }
        };
        Ok(self.icons.get(index).map(said))
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.icons.get(index).map(|(name, _)| name.clone())
    }

    fn kinds(&self) -> Vec<DataKind> {
        icon_kinds(self.groups.is_some())
    }

    fn classes(&self) -> &[String] {
        if self.groups.is_some() { &GROUPS } else { &[] }
    }

    fn fingerprint(&self) -> String {
        let size = PictureSize::from(self.size);
        let mut how = format!("{size} {} {:?}", self.channels, self.background);
        if let Some(groups) = &self.groups {
            let _ = write!(how, " {groups:?}");
        }
        let icons = self.icons.iter().flat_map(|(n, i)| [n.as_bytes(), i.body.as_bytes()]);
        fingerprint([how.as_bytes()].into_iter().chain(icons))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([self.channels, self.size[0], self.size[1]])
    }
}

/// The kinds of data that a set of icons can serve as.
pub(crate) fn icon_kinds(labelled: bool) -> Vec<DataKind> {
    let mut kinds = picture_kinds(labelled, true);
    kinds.push(DataKind::Paired);
    kinds
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A one-icon set, drawn.
    fn drawn(body: &str) -> Result<Picture> {
        let json = serde_json::json!({ "icons": { "a": { "body": body } } }).to_string();
        let file = IconFile::parse(json.as_bytes(), "icons.json").unwrap();
        let names = file.names();
        let rule = PictureRule { size: 4.into(), ..PictureRule::default() };
        Ok(IconSet::new("icons", file, names, Split::All, &rule).get(0)?.picture)
    }

    #[test]
    fn groups_are_classes() {
        let folder = tempfile::tempdir().unwrap();
        let icons = ["dog", "cat", "pizza", "flag-chad", "heart"].map(|name| (name, serde_json::json!({ "body": "" })));
        let icons = serde_json::json!({ "icons": serde_json::Map::from_iter(icons.map(|(n, i)| (n.into(), i))) });
        let groups = serde_json::json!({ "categories": {
            "Animals Nature": ["cat", "dog"], "Food & Drink": ["pizza", "lost"], "Flags": ["flag-chad"]
        } });
        std::fs::write(folder.path().join("icons.json"), icons.to_string()).unwrap();
        std::fs::write(folder.path().join("metadata.json"), groups.to_string()).unwrap();
        let read = || IconFile::of_iconify(folder.path()).unwrap();
        assert_eq!(read().names().len(), 5);
        let file = read().with_groups(folder.path()).unwrap();
        let names = file.names();
        let set = IconSet::new("objects", file, names, Split::All, &PictureRule::default());
        let classes: Vec<_> = (0..set.len()).map(|i| set.get(i).unwrap()).map(|s| (s.name, s.label.unwrap())).collect();
        assert_eq!(classes, [("cat".into(), 1), ("dog".into(), 1), ("pizza".into(), 2)]);
        assert_eq!(set.classes()[2], "Food & Drink");
        assert!(set.kinds().contains(&DataKind::SourceTarget));
    }

    #[test]
    fn an_icon_reads_no_other_file() {
        let red = "<rect width='16' height='16' fill='red'/>";
        assert_eq!(drawn(red).unwrap().pixels[..3], [255, 0, 0]);
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.svg");
        let svg = format!("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{red}</svg>");
        std::fs::write(&other, svg).unwrap();
        // A device without an end would fill the memory.
        for href in [&other.display().to_string(), "/dev/zero"] {
            let picture = drawn(&format!("<image href='{href}' width='16' height='16'/>")).unwrap();
            assert_eq!(picture.pixels[..3], [255; 3], "{href}");
        }
    }
}
