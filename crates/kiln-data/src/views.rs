//! Sets as seen in another way, named by a word in front of them: `left:SET`, `inverted:SET`.
//!
//! | word | what is seen |
//! |---|---|
//! | `left:`, `right:` | a half of every picture of two things side by side, as the data sets of pix2pix have them |
//! | `inverted:` | light for dark |
//! | `rotated-30:` | turned by so many degrees, clockwise; what comes in from outside is mirrored |
//! | `blurred-1.5:` | blurred by a Gaussian of so many pixels |
//! | `jpeg-10:` | as they come back from a JPEG of this quality, 1 to 100 |
//! | `only-A+B:` | the pictures of these classes alone; the set keeps the names of all its classes |
//! | `without-red.apple+dog:` | the pictures whose captions have neither both of the words `red` and `apple` nor the word `dog` |
//! | `with-red.apple+dog:` | the others: a held-out part of words and of combinations that were never seen |
//! | `half-1:`, `half-2:` | either half of the pictures, by a keyed hash of their names |
//! | `named:` | the pictures of a labelled set with the names of their classes as captions |

use std::sync::Arc;

use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};

use crate::augment::Change;
use crate::{DataKind, DataSet, PaletteColour, Picture, Sample, Split};

/// How a set is seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum View {
    Left,
    Right,
    Inverted,
    /// Degrees.
    Rotated(f32),
    /// Pixels.
    Blurred(f32),
    /// Quality.
    Jpeg(u8),
    /// Names of classes.
    Only(Vec<String>),
    /// The first half, or the second.
    Half(u64),
    /// Captioned by the names of classes.
    Named,
    /// Words of which a caption has all of one list, or of none.
    Captions {
        words: Vec<Vec<String>>,
        has: bool,
    },
}

/// The view that a word of the command line names, and what stands behind it.
pub(crate) fn view_of(spec: &str) -> Option<(View, &str)> {
    let (word, rest) = spec.split_once(':')?;
    let (name, value) = word.split_once('-').unwrap_or((word, ""));
    let number = |least: f32, most: f32| value.parse().ok().filter(|v| (least..=most).contains(v));
    let view = match (name, value) {
        ("left", "") => View::Left,
        ("right", "") => View::Right,
        ("inverted", "") => View::Inverted,
        ("rotated", _) => View::Rotated(number(-360.0, 360.0)?),
        ("blurred", _) => View::Blurred(number(0.0, 100.0)?),
        ("jpeg", quality) => View::Jpeg(quality.parse().ok().filter(|q| (1..=100).contains(q))?),
        ("only", classes) if !classes.is_empty() => View::Only(classes.split('+').map(String::from).collect()),
        ("half", "1" | "2") => View::Half(if value == "1" { 0 } else { 1 }),
        ("named", "") => View::Named,
        ("with", words) | ("without", words) if words.split(['+', '.']).all(|word| !word.is_empty()) => {
            let together = |words: &str| words.split('.').map(str::to_lowercase).collect();
            View::Captions { words: words.split('+').map(together).collect(), has: name == "with" }
        }
        _ => return None,
    };
    Some((view, rest))
}

/// A set, seen so.
pub(crate) struct Viewed {
    name: String,
    whole: Arc<dyn DataSet>,
    view: View,
    /// The samples that are left, where some are.
    places: Option<Vec<usize>>,
}

impl Viewed {
    pub(crate) fn new(spec: &str, whole: Arc<dyn DataSet>, view: View) -> Result<Self> {
        let places = match &view {
            View::Only(classes) => Some(of_classes(&*whole, classes)?),
            View::Half(which) => Some((0..whole.len()).filter(|&place| half(&*whole, place) == *which).collect()),
            View::Named if whole.classes().is_empty() => {
                return Err(Error::usage(format!("{spec}: {} has no classes to name", whole.name())));
            }
            View::Captions { words, has } => Some(of_captions(spec, &*whole, words, *has)?),
            _ => None,
        };
        Ok(Self { name: spec.into(), whole, view, places })
    }

    fn place(&self, index: usize) -> Option<usize> {
        self.places.as_ref().map_or(Some(index), |places| places.get(index).copied())
    }

    /// What a class is called in a caption.
    fn class_name(&self, label: Option<u32>) -> Option<String> {
        Some(self.whole.classes().get(label? as usize)?.to_lowercase())
    }

    fn see(&self, picture: &Picture, name: &str, colours: bool) -> Result<Picture> {
        let (width, height) = (picture.width, picture.height);
        Ok(match &self.view {
            View::Left | View::Right => {
                if width % 2 == 1 || width == 0 {
                    return Err(Error::new(format!(
                        "{name}: {width} x {height} pixels do not halve into two pictures side by side"
                    )));
                }
                let left = if self.view == View::Left { 0 } else { width / 2 };
                picture.crop(left, 0, width / 2, height)
            }
            View::Rotated(degrees) if colours => Change::rotated(-*degrees).picture(picture, width, height),
            View::Rotated(degrees) => Change::rotated(-*degrees).mask(picture, width, height),
            View::Inverted if colours => inverted(picture),
            View::Blurred(pixels) if colours => blurred(picture, *pixels),
            View::Jpeg(quality) if colours => picture.compressed(*quality).context(|| name.to_string())?,
            _ => picture.clone(),
        })
    }
}

/// Where the pictures of these classes are.
fn of_classes(set: &dyn DataSet, classes: &[String]) -> Result<Vec<usize>> {
    let known = set.classes();
    let number = |class: &String| {
        known
            .iter()
            .position(|name| name == class)
            .ok_or_else(|| Error::usage(format!("only-{class}: {} has the classes {}", set.name(), known.join(", "))))
    };
    let wanted: Vec<usize> = classes.iter().map(number).collect::<Result<_>>()?;
    let mut places = Vec::new();
    for place in 0..set.len() {
        if set.get(place)?.label.is_some_and(|label| wanted.contains(&(label as usize))) {
            places.push(place);
        }
    }
    match places.is_empty() {
        true => Err(Error::usage(format!("only-{}: {} has no such pictures", classes.join("+"), set.name()))),
        false => Ok(places),
    }
}

/// Which half a picture is in.
fn half(set: &dyn DataSet, place: usize) -> u64 {
    let name = set.stem(place).unwrap_or_else(|| place.to_string());
    Key::new(0).purpose("half").purpose(&name).below([0], 2)[0]
}

/// Where the pictures are whose captions have all words of one of the lists, or of none.
fn of_captions(spec: &str, set: &dyn DataSet, lists: &[Vec<String>], has: bool) -> Result<Vec<usize>> {
    let mut places = Vec::new();
    for place in 0..set.len() {
        let Some(caption) = set.caption(place)? else {
            return Err(Error::usage(format!("{spec}: {} has no captions to look for words in", set.name())));
        };
        let caption = caption.to_lowercase();
        let said: Vec<&str> = caption.split(|c: char| !c.is_alphanumeric()).collect();
        if lists.iter().any(|words| words.iter().all(|word| said.contains(&word.as_str()))) == has {
            places.push(place);
        }
    }
    match places.is_empty() {
        true => Err(Error::usage(format!("{spec}: no caption of {} is so", set.name()))),
        false => Ok(places),
    }
}

/// Light for dark; transparency stays.
fn inverted(picture: &Picture) -> Picture {
    let colours = if picture.channels.is_multiple_of(2) { picture.channels - 1 } else { picture.channels };
    let mut picture = picture.clone();
    for pixel in picture.pixels.chunks_exact_mut(picture.channels) {
        pixel[..colours].iter_mut().for_each(|v| *v = 255 - *v);
    }
    picture
}

/// By a Gaussian of a deviation in pixels, cut at three deviations; edges repeat.
fn blurred(picture: &Picture, deviation: f32) -> Picture {
    let reach = (3.0 * deviation).ceil() as i64;
    let weight = |at: i64| (-0.5 * (at as f32 / deviation.max(1e-6)).powi(2)).exp();
    let sum: f32 = (-reach..=reach).map(weight).sum();
    let (w, h, c) = (picture.width as i64, picture.height as i64, picture.channels);
    let along = |values: &[f32], step: [i64; 2]| -> Vec<f32> {
        let value = |at: usize| {
            let (pixel, channel) = ((at / c) as i64, at % c);
            let (x, y) = (pixel % w, pixel / w);
            let near = |by: i64| {
                let (x, y) = ((x + by * step[0]).clamp(0, w - 1), (y + by * step[1]).clamp(0, h - 1));
                values[(y * w + x) as usize * c + channel] * weight(by)
            };
            (-reach..=reach).map(near).sum::<f32>() / sum
        };
        (0..values.len()).map(value).collect()
    };
    let values: Vec<f32> = picture.pixels.iter().map(|&v| f32::from(v)).collect();
    let values = along(&along(&values, [1, 0]), [0, 1]);
    Picture { pixels: values.into_iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect(), ..picture.clone() }
}

impl DataSet for Viewed {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.places.as_ref().map_or_else(|| self.whole.len(), Vec::len)
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(place) = self.place(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let sample = self.whole.get(place)?;
        let picture = self.see(&sample.picture, &sample.name, self.whole.palette().is_empty())?;
        let mask = sample.mask.as_ref().map(|mask| self.see(mask, &sample.name, false)).transpose()?;
        let caption = match self.view {
            View::Named => self.class_name(sample.label),
            _ => sample.caption,
        };
        Ok(Sample { picture, mask, caption, ..sample })
    }

    fn caption(&self, index: usize) -> Result<Option<String>> {
        match (&self.view, self.place(index)) {
            (_, None) => Ok(None),
            (View::Named, Some(place)) => Ok(self.class_name(self.whole.get(place)?.label)),
            (_, Some(place)) => self.whole.caption(place),
        }
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.whole.stem(self.place(index)?)
    }

    fn classes(&self) -> &[String] {
        self.whole.classes()
    }

    fn palette(&self) -> &[PaletteColour] {
        self.whole.palette()
    }

    fn kinds(&self) -> Vec<DataKind> {
        let known = |kind: &DataKind| !matches!(kind, DataKind::Factors);
        let mut kinds: Vec<DataKind> = self.whole.kinds().into_iter().filter(known).collect();
        if self.view == View::Named && !kinds.contains(&DataKind::Captioned) {
            kinds.push(DataKind::Captioned);
        }
        kinds
    }

    fn notes(&self) -> Vec<String> {
        self.whole.notes()
    }

    fn fingerprint(&self) -> String {
        format!("{:?}:{}", self.view, self.whole.fingerprint())
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        let whole = self.whole.uniform();
        match self.view {
            View::Left | View::Right => {
                whole.filter(|[_, _, width]| width % 2 == 0).map(|[c, h, width]| [c, h, width / 2])
            }
            _ => whole,
        }
    }
}

/// Opens a set seen so, by what stands behind its view.
pub(crate) fn open(
    spec: &str,
    (view, rest): (View, &str),
    split: Split,
    rule: &crate::PictureRule,
) -> Result<Arc<dyn DataSet>> {
    Ok(Arc::new(Viewed::new(spec, crate::open(rest, split, rule)?, view)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{PictureRule, check_pairs, open_all};

    /// As `datasets/facades/train` of pix2pix: the same name is both.
    #[test]
    fn two_pictures_side_by_side_are_a_pair() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, width: usize| {
            let pixels = (0..2 * width).map(|p| if p % width < width / 2 { 10 } else { 200 }).collect();
            Picture::new(width, 2, 1, pixels).unwrap().write_png(&dir.path().join(name), &[]).unwrap();
        };
        write("1.png", 6);
        write("2.png", 6);
        let place = dir.path().display();
        let opened = || open_all(&format!("left:{place},right:{place}"), Split::All, &PictureRule::default());
        let sets = opened().unwrap();
        check_pairs(&sets[0], &sets[1]).unwrap();
        assert_ne!(sets[0].fingerprint(), sets[1].fingerprint());
        for (set, level) in sets.iter().zip([10, 200]) {
            let picture = set.get(1).unwrap().picture;
            assert_eq!((picture.width, picture.height), (3, 2));
            assert!(picture.pixels.iter().all(|&p| p == level), "{}", set.name());
        }
        let whole = crate::absolute("left:.,right:.").unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(whole, format!("left:{0},right:{0}", here.display()));
        assert_eq!(crate::relative(&whole), "left:.,right:.");
        write("3.png", 5);
        let e = opened().unwrap()[0].get(2).unwrap_err().to_string();
        assert!(e.contains("3.png") && e.contains("halve"), "{e}");
    }

    fn level(set: &dyn DataSet, index: usize) -> Vec<u8> {
        set.get(index).unwrap().picture.pixels
    }

    #[test]
    fn views_change_what_is_seen_and_not_what_it_is() {
        let open = |spec: &str| crate::open(spec, Split::Train, &PictureRule::default()).unwrap();
        let plain = open("starter");
        let (a, b) = (level(&*plain, 3), level(&*open("inverted:starter"), 3));
        assert!(a.iter().zip(&b).all(|(a, b)| *a == 255 - *b));
        assert_eq!(level(&*open("inverted:inverted:starter"), 3), a);
        assert_eq!(level(&*open("rotated-0:starter"), 3), a);
        assert_eq!(level(&*open("blurred-0:starter"), 3), a);
        // A quarter turn clockwise: the first row becomes the last column.
        let side = plain.get(3).unwrap().picture.width;
        let turned = level(&*open("rotated-90:starter"), 3);
        assert!((0..side).all(|i| turned[i * side + side - 1].abs_diff(a[i]) <= 1));
        // A blur keeps the mean about, and lowers the highest.
        let soft = level(&*open("blurred-2:starter"), 3);
        let mean = |v: &[u8]| v.iter().map(|&v| f32::from(v)).sum::<f32>() / v.len() as f32;
        assert!((mean(&soft) - mean(&a)).abs() < 12.0 && soft.iter().max() <= a.iter().max());
        assert_ne!(open("blurred-2:starter").fingerprint(), open("blurred-1:starter").fingerprint());
        let apart =
            |spec: &str| -> u32 { level(&*open(spec), 3).iter().zip(&a).map(|(a, b)| u32::from(a.abs_diff(*b))).sum() };
        assert!(0 < apart("jpeg-90:starter") && 2 * apart("jpeg-90:starter") < apart("jpeg-5:starter"));
        for wrong in [
            "jpeg-0:starter",
            "jpeg-101:starter",
            "rotated-x:starter",
            "rotated:starter",
            "blurred--1:starter",
            "only-:starter",
            "left-1:starter",
        ] {
            assert!(crate::open(wrong, Split::Train, &PictureRule::default()).err().unwrap().is_usage(), "{wrong}");
        }
    }

    #[test]
    fn words_of_captions_are_held_out() {
        let open = |spec: &str| crate::open(spec, Split::All, &PictureRule::default());
        let captions = |spec: &str| -> Vec<String> {
            let set = open(spec).unwrap();
            (0..set.len()).map(|i| set.caption(i).unwrap().unwrap()).collect()
        };
        let (all, seen) = (captions("starter:noto"), captions("without-face+red.heart:starter:noto"));
        let held = captions("with-face+red.heart:starter:noto");
        assert_eq!(all.len(), seen.len() + held.len());
        let has = |caption: &String, word: &str| caption.split(' ').any(|w| w == word);
        assert!(seen.iter().all(|c| !has(c, "face")) && held.iter().any(|c| has(c, "face")));
        // A combination leaves its words on their own.
        assert!(held.iter().all(|c| has(c, "face") || (has(c, "red") && has(c, "heart"))));
        assert!(seen.iter().any(|c| has(c, "red") || has(c, "heart")));
        for (wrong, said) in [
            ("with-face:starter", "no captions"),
            ("with-qqq:starter:noto", "no caption of"),
            ("with-a..b:starter:noto", ""),
        ] {
            let error = open(wrong).err().unwrap();
            assert!(error.is_usage() && error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn halves_classes_as_captions_and_joined_sets() {
        let open = |spec: &str| crate::open(spec, Split::Train, &PictureRule::default());
        let (all, a, b) = (open("starter:noto"), open("half-1:starter:noto"), open("half-2:starter:noto"));
        let [all, a, b] = [all, a, b].map(|set| {
            let set = set.unwrap();
            (0..set.len()).map(|i| set.stem(i).unwrap()).collect::<Vec<_>>()
        });
        assert!(a.len() + b.len() == all.len() && a.len().abs_diff(b.len()) < all.len() / 4);
        assert!(a.iter().all(|name| !b.contains(name)));

        let named = open("named:starter").unwrap();
        let sample = named.get(3).unwrap();
        assert_eq!(sample.caption, Some(named.classes()[sample.label.unwrap() as usize].to_lowercase()));
        assert!(named.kinds().contains(&DataKind::Captioned));
        assert!(open("named:starter:noto").err().unwrap().to_string().contains("no classes"));

        let joined = open("joined:starter:noto+starter:twemoji").unwrap();
        assert_eq!(joined.len(), 2 * all.len());
        assert!(joined.kinds().contains(&DataKind::Captioned) && joined.classes().is_empty());
        assert_eq!(joined.caption(all.len()).unwrap(), joined.caption(0).unwrap());
        assert!(open("joined:starter:noto+nothing").err().unwrap().to_string().contains("nothing"));
        assert_eq!(crate::absolute("joined:starter:noto+starter").unwrap(), "joined:starter:noto+starter");
    }

    #[test]
    fn some_classes_of_a_set_keep_its_names() {
        let open = |spec: &str| crate::open(spec, Split::Train, &PictureRule::default());
        let plain = open("starter").unwrap();
        let [a, b] = [&plain.classes()[1], &plain.classes()[4]];
        let some = open(&format!("only-{a}+{b}:starter")).unwrap();
        assert_eq!(some.classes(), plain.classes());
        assert!(some.len() > 2 && some.len() < plain.len());
        assert!((0..some.len()).all(|i| [Some(1), Some(4)].contains(&some.get(i).unwrap().label)));
        let said = open("only-hat:starter").err().unwrap();
        assert!(said.is_usage() && said.to_string().contains(a.as_str()), "{said}");
    }
}
