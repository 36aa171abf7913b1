//! Drawings in files of SVG that say what they show: `clipart`.
//!
//! A drawing's caption is its title and its keywords, as its metadata has them (Dublin Core), cleaned of numbers and of what is no
//! word. Its class is the folder at the top.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_core::{Context, Error, Result};
use rayon::prelude::*;
use resvg::usvg::roxmltree::{Document, Node};

use crate::icons::ICON_SIZE;
use crate::layout::{classes, extension, without_ending};
use crate::litter::LeftOut;
use crate::set::{fingerprint, picture_kinds};
use crate::store::{Entry, Store};
use crate::svg::{draw, parsing};
use crate::{DataKind, DataSet, PictureRule, PictureSize, Sample, Split};

/// Folders whose drawings are series of one thing.
const SERIES: [&str; 2] = ["computer/icons/", "shapes/stars/"];

/// Keywords that say nothing of the picture, cleaned.
const EMPTY: [&str; 7] = ["unsorted", "special", "signs and symbols", "clip art", "clipart", "hash", "miscellany"];

/// Keywords of a caption, at most.
const KEYWORDS: usize = 5;

/// A title that more drawings have is the name of a series; the file's name says more.
const SHARED: usize = 3;

/// The drawings of a folder, in the order of their paths.
pub(crate) struct Drawings {
    name: String,
    store: Store,
    drawings: Vec<Drawing>,
    classes: Vec<String>,
    /// Height and width.
    size: [usize; 2],
    channels: usize,
    background: [u8; 3],
}

struct Drawing {
    file: Entry,
    caption: String,
    label: Option<u32>,
}

impl Drawings {
    /// The drawings below a folder that belong to the split.
    ///
    /// # Errors
    /// If there are none, or one cannot be read.
    pub(crate) fn open(name: &str, folder: &Path, split: Split, rule: &PictureRule) -> Result<Self> {
        let (store, entries) = Store::folder(folder, &mut LeftOut::default())?;
        let wanted = |e: &Entry| extension(&e.path) == "svg" && !SERIES.iter().any(|series| e.path.starts_with(series));
        let mut files: Vec<Entry> = entries.into_iter().filter(wanted).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let said = files.par_iter().map(|file| {
            let bytes = store.read(file)?;
            Ok(Words::of(&String::from_utf8_lossy(&bytes)))
        });
        let said: Vec<Words> = said.collect::<Result<_>>()?;
        let mut titles: BTreeMap<&str, usize> = BTreeMap::new();
        said.iter().for_each(|words| *titles.entry(&words.title).or_default() += 1);
        let caption = |(file, words): (&Entry, &Words)| {
            let stem = without_ending(file.path.rsplit('/').next().unwrap_or(&file.path));
            let shared = titles.get(words.title.as_str()).is_some_and(|count| *count > SHARED);
            words.caption(if shared { stem } else { &words.title }, stem)
        };
        let captions: Vec<String> = files.iter().zip(&said).map(caption).collect();
        let place = store.path().display().to_string();
        let classes = classes(&place, files.iter().map(|file| file.path.as_str()))?;
        let drawing = |(file, caption): (Entry, String)| {
            let top = file.path.split_once('/').map_or("", |(top, _)| top);
            let label = classes.binary_search_by(|class| class.as_str().cmp(top)).ok().map(|at| at as u32);
            Drawing { file, caption, label }
        };
        let all = files.into_iter().zip(captions).filter(|(_, caption)| !caption.is_empty()).map(drawing).collect();
        let drawings = split.keep(all, |drawing| drawing.file.path.clone());
        if drawings.is_empty() {
            return Err(Error::new(format!("{place}: no drawings for the {split} split")));
        }
        Ok(Self {
            name: name.into(),
            store,
            drawings,
            classes: classes.iter().map(|class| class.replace('_', " ")).collect(),
            size: rule.size.or([ICON_SIZE; 2]),
            channels: if rule.channels == 4 { 4 } else { 3 },
            background: rule.background,
        })
    }
}

/// What a drawing says of itself.
#[derive(Debug, Default)]
struct Words {
    title: String,
    keywords: Vec<String>,
}

impl Words {
    /// Of the text of a drawing; nothing of one that cannot be read.
    fn of(svg: &str) -> Self {
        let Ok(document) = Document::parse_with_options(svg, parsing()) else { return Self::default() };
        let named = |name: &'static str| document.descendants().filter(move |node| node.tag_name().name() == name);
        // Agents have titles, too: their names.
        let is_of_work = |node: &Node<'_, '_>| node.parent().is_some_and(|parent| parent.tag_name().name() == "Work");
        let title = named("title").find(is_of_work).and_then(|node| node.text()).unwrap_or_default();
        let title =
            title.split_once(" - ").filter(|(by, _)| by.starts_with("Clipart by")).map_or(title, |(_, own)| own);
        let keywords =
            named("subject").flat_map(|node| node.descendants()).filter(|node| node.tag_name().name() == "li");
        let keywords = keywords.filter_map(|node| node.text()).map(cleaned);
        let keywords = keywords.filter(|word| !word.is_empty() && !EMPTY.contains(&word.as_str()));
        Self { title: title.trim().into(), keywords: keywords.collect() }
    }

    /// A title, or the file's name where it has no words, and the keywords that it does not have.
    fn caption(&self, title: &str, stem: &str) -> String {
        let title = Some(cleaned(title)).filter(|title| !title.is_empty()).unwrap_or_else(|| cleaned(stem));
        let mut parts = vec![title];
        for keyword in &self.keywords {
            let said = parts.iter().any(|part| format!(" {part} ").contains(&format!(" {keyword} ")));
            if !said && parts.len() <= KEYWORDS {
                parts.push(keyword.clone());
            }
        }
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    }
}

/// The words of a text in lower case: letters, with the numbers after and between them cut.
fn cleaned(text: &str) -> String {
    // Metadata that a program wrote as the address of a table.
    let text = if text.starts_with("HASH(") || text.starts_with("hash(") { "hash" } else { text };
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'');
    let words =
        words.map(|word| word.trim_matches(|c: char| c.is_numeric() || c == '\'')).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

impl DataSet for Drawings {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.drawings.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(drawing) = self.drawings.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let name = self.store.place(&drawing.file.path);
        let bytes = self.store.read(&drawing.file)?;
        let picture = draw(&String::from_utf8_lossy(&bytes), self.size, self.channels, self.background)
            .context(|| format!("drawing {name}"))?;
        Ok(Sample { picture, label: drawing.label, caption: Some(drawing.caption.clone()), mask: None, name })
    }

    fn caption(&self, index: usize) -> Result<Option<String>> {
        Ok(self.drawings.get(index).map(|drawing| drawing.caption.clone()))
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.drawings.get(index).map(|drawing| without_ending(&drawing.file.path).to_string())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn kinds(&self) -> Vec<DataKind> {
        picture_kinds(true, true)
    }

    fn fingerprint(&self) -> String {
        let how = format!("{} {} {:?}", PictureSize::from(self.size), self.channels, self.background);
        let lines = self.drawings.iter().map(|d| format!("{} {} {}", d.file.bytes, d.file.path, d.caption));
        let lines: Vec<String> = std::iter::once(how).chain(lines).collect();
        fingerprint(lines.iter().map(String::as_bytes))
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        Some([self.channels, self.size[0], self.size[1]])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn drawing(title: &str, keywords: &[&str]) -> String {
        let keywords: String = keywords.iter().map(|word| format!("<rdf:li>{word}</rdf:li>")).collect();
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' xmlns:rdf='r' xmlns:cc='c' xmlns:dc='d' width='8' height='8'><metadata><rdf:RDF>\
             <cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>\
             <dc:creator><cc:Agent><dc:title>Ann</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata>\
             <rect width='8' height='8' fill='red'/></svg>"
        )
    }

    #[test]
    fn captions_are_titles_and_keywords() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: String| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "animals/dog_06.svg",
            drawing("Dog 06 Drawn With Lines", &["mammal", "dog", "", "hash(0x8a)", "unsorted"]),
        );
        write("animals/bugs/bee.svg", drawing("", &["insect"]));
        write("food/tea.svg", drawing("Clipart by Nicu - tea_cup2", &[]));
        for i in 0..5 {
            write(&format!("signs_and_symbols/exit{i}_door.svg"), drawing("Symbol Signs", &["symbol"]));
        }
        write("shapes/stars/star1.svg", drawing("Star", &[]));
        let rule = PictureRule::default();
        let set = Drawings::open("clipart", dir.path(), Split::All, &rule).unwrap();
        let captions: Vec<String> = (0..4).map(|i| set.caption(i).unwrap().unwrap()).collect();
        let expected = ["bee, insect", "dog drawn with lines, mammal", "tea cup", "exit door, symbol"];
        assert_eq!(captions, expected);
        assert_eq!((set.len(), set.classes()), (8, &["animals", "food", "signs and symbols"].map(String::from)[..]));
        let sample = set.get(2).unwrap();
        assert_eq!((sample.label, &sample.picture.pixels[..3]), (Some(1), &[255, 0, 0][..]));
        assert_eq!(set.uniform(), Some([3, ICON_SIZE, ICON_SIZE]));
    }
}
