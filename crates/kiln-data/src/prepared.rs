//! Brings every sample of a set to the same shape.

use std::sync::{Arc, OnceLock};

use kiln_core::random::Key;
use kiln_core::{Error, Result, refuse_if};
use rayon::prelude::*;

use crate::palette::classes_of;
use crate::rule::RULES;
use crate::{Contents, DataKind, DataSet, Picture, PictureRule, Resize, Sample, Survey, Tokenizer};

/// Prepared sets below this many bytes stay in memory, since decoding or rendering each time is slow.
const KEEP: usize = 256 << 20;
/// Bytes that a sample takes beside its pictures: its name and the places of all its parts.
const BESIDE: usize = 256;

/// A set and the rule that gives every sample the same [channels, height, width].
pub struct Prepared {
    set: Arc<dyn DataSet>,
    rule: PictureRule,
    shape: [usize; 3],
    contents: Contents,
    /// The shape that samples are kept in: larger where parts are cut out of them.
    roomy: [usize; 3],
    /// Adapted samples, filled as they are asked for; empty when the set is too large to keep.
    kept: Vec<OnceLock<Sample>>,
    with_first: bool,
    with_classes: bool,
    /// The grey values of masks, in the order of their classes; empty where masks are left out.
    mask_values: Vec<u8>,
    /// What makes tokens of captions, and how many of each.
    tokens: Option<(Arc<Tokenizer>, usize)>,
}

/// One sample ready for a network.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedSample {
    /// Planar (channels, height, width) in [-1, 1].
    pub values: Vec<f32>,
    /// Index into the classes of the set.
    pub label: Option<u32>,
    /// A line of text that describes the picture.
    pub caption: Option<String>,
    /// The class of each pixel as a grey value, after the rule.
    pub mask: Option<Picture>,
    /// The sample's name in messages.
    pub name: String,
    /// The picture the values are from, after the rule.
    pub picture: Picture,
}

impl Prepared {
    /// Checks the whole set first: an image that cannot be read, or whose size the rule cannot change, is an
    /// error that names its file. The rule's flip is applied by the loader.
    pub fn new(set: Arc<dyn DataSet>, rule: PictureRule) -> Result<Self> {
        rule.check()?;
        if set.is_empty() {
            return Err(Error::new(format!("{}: the set is empty", set.name())));
        }
        let Survey { contents, stored } = Survey::of(set.as_ref())?;
        let shape = common_shape(&stored, &rule, set.name())?;
        let roomy @ [channels, height, width] = rule.augment.roomy(shape);
        let masks = usize::from(set.kinds().contains(&DataKind::Masked));
        let bytes = ((channels + masks) * height * width + BESIDE).saturating_mul(set.len());
        let kept = if bytes <= KEEP { set.len() } else { 0 };
        let kept = (0..kept).map(|_| OnceLock::new()).collect();
        refuse_if!(
            !set.palette().is_empty() && channels != 3,
            "data.channels = {channels}: {} has label maps, whose classes are told by colours; set it to 3",
            set.name()
        );
        Ok(Self {
            set,
            rule,
            shape,
            contents,
            roomy,
            kept,
            with_first: false,
            with_classes: false,
            mask_values: Vec::new(),
            tokens: None,
        })
    }

    /// Whether its pictures are label maps, between whose colours there is nothing.
    fn is_maps(&self) -> bool {
        !self.set.palette().is_empty()
    }

    /// Serves the class of each pixel of label maps too.
    pub fn with_classes(self) -> Self {
        Self { with_classes: true, ..self }
    }

    /// Which class each pixel of a sample has, where it is to say so.
    pub(crate) fn classes_of(&self, sample: &PreparedSample) -> Result<Option<Vec<u8>>> {
        let classes = || classes_of(&sample.picture, self.set.palette(), &sample.name);
        self.with_classes.then(classes).transpose()
    }

    /// Served in step with a loader's first stream, in its order and mirrored with it: the two are pairs.
    pub fn with_first(self) -> Self {
        Self { with_first: true, ..self }
    }

    /// Whether it is one of a pair with a loader's first stream.
    pub fn is_with_first(&self) -> bool {
        self.with_first
    }

    /// The grey values that the set's masks have after the rule, from dark to light: a class each.
    ///
    /// # Errors
    /// If a picture or a mask cannot be read.
    pub fn find_mask_values(&self) -> Result<Vec<u8>> {
        let look = |index| {
            let mut seen = [false; 256];
            let mask = self.kept(index)?.mask;
            mask.iter().flat_map(|mask| &mask.pixels).for_each(|&value| seen[usize::from(value)] = true);
            Ok(seen)
        };
        let all: Result<Vec<[bool; 256]>> = (0..self.len()).into_par_iter().map(look).collect();
        let all = all?;
        Ok((0..=255).filter(|&value| all.iter().any(|seen| seen[usize::from(value)])).collect())
    }

    /// The captions of all samples.
    ///
    /// # Errors
    /// Names a sample that has none, or a file that cannot be read.
    pub fn captions(&self) -> Result<Vec<String>> {
        let caption = |index| {
            let caption = self.set.caption(index)?.filter(|caption| !caption.is_empty());
            let name = || Ok::<_, Error>(self.set.get(index)?.name);
            caption.ok_or(()).or_else(|()| Err(Error::new(format!("{}: it has no caption", name()?))))
        };
        let all: Vec<Result<String>> = (0..self.len()).into_par_iter().map(caption).collect();
        all.into_iter().collect()
    }

    /// Serves captions as rows of `length` tokens too.
    pub fn with_tokens(self, tokenizer: Arc<Tokenizer>, length: usize) -> Self {
        Self { tokens: Some((tokenizer, length)), ..self }
    }

    /// What makes tokens of captions, and how many of each.
    pub fn tokens(&self) -> Option<(&Tokenizer, usize)> {
        self.tokens.as_ref().map(|(tokenizer, length)| (&**tokenizer, *length))
    }

    /// Serves masks with the set's pictures, grey values as the places they have in `values`.
    pub fn with_masks(self, values: Vec<u8>) -> Self {
        Self { mask_values: values, ..self }
    }

    /// The grey values of masks in the order of their classes; empty where masks are left out.
    pub fn mask_values(&self) -> &[u8] {
        &self.mask_values
    }

    /// [channels, height, width] of every sample.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// What the set holds, to know it again.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there are none (never: [`Prepared::new`] refuses an empty set).
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Sample `index` in `0..len`, never flipped.
    pub fn get(&self, index: usize) -> Result<PreparedSample> {
        // What is kept is of the shape unless parts are cut out of it.
        let sample = if self.roomy == self.shape { self.kept(index) } else { self.adapted(index, self.shape) };
        Ok(sample?.into())
    }

    /// Sample `index` as the loader serves it for an item: changed as drawn by the key of its stream, and perhaps mirrored.
    pub(crate) fn served(&self, index: usize, changes: Key, item: u64, flipped: bool) -> Result<PreparedSample> {
        let mut sample = self.kept(index)?;
        if !self.rule.augment.is_off() {
            let [_, height, width] = self.shape;
            let change = self.rule.augment.draw(changes, item);
            sample.picture = match self.is_maps() {
                true => change.mask(&sample.picture, width, height),
                false => change.picture(&sample.picture, width, height),
            };
            sample.mask = sample.mask.map(|mask| change.mask(&mask, width, height));
        }
        if flipped {
            sample.picture = sample.picture.flipped();
            sample.mask = sample.mask.map(|mask| mask.flipped());
        }
        Ok(sample.into())
    }

    /// A sample that was adapted before, or is now.
    fn kept(&self, index: usize) -> Result<Sample> {
        match self.kept.get(index) {
            None => self.adapted(index, self.roomy),
            Some(place) => match place.get() {
                Some(sample) => Ok(sample.clone()),
                None => {
                    let sample = self.adapted(index, self.roomy)?;
                    Ok(place.get_or_init(|| sample).clone())
                }
            },
        }
    }

    fn adapted(&self, index: usize, shape: [usize; 3]) -> Result<Sample> {
        let sample = self.set.get(index)?;
        // A picture that is of the shape, and need not be, is enlarged for its parts.
        let stretched = PictureRule { resize: Resize::Stretch, ..self.rule.clone() };
        let rule = if shape != self.shape && self.rule.resize == Resize::None { &stretched } else { &self.rule };
        let picture = match self.set.palette().first() {
            Some(first) => rule.adapt_map(&sample.picture, shape, &sample.name, &first.colour)?,
            None => rule.adapt(&sample.picture, shape, &sample.name)?,
        };
        let mask = sample.mask.as_ref().map(|m| rule.adapt_mask(m, shape, &sample.name)).transpose()?;
        Ok(Sample { picture, mask, ..sample })
    }

    /// The set as stored.
    pub fn set(&self) -> &Arc<dyn DataSet> {
        &self.set
    }

    /// The rule.
    pub fn rule(&self) -> &PictureRule {
        &self.rule
    }
}

impl From<Sample> for PreparedSample {
    fn from(sample: Sample) -> Self {
        let Sample { picture, label, caption, mask, name } = sample;
        Self { values: picture.to_unit(), label, caption, mask, name, picture }
    }
}

fn common_shape(stored: &[([usize; 3], String)], rule: &PictureRule, set: &str) -> Result<[usize; 3]> {
    let Some(&([first_channels, first_height, first_width], _)) = stored.first() else {
        return Err(Error::new(format!("{set}: the set is empty")));
    };
    let channels = match rule.channels {
        0 if stored.iter().all(|s| s.0[0] == first_channels) => first_channels,
        0 => 3,
        given => given,
    };
    let [height, width] = rule.size.or([first_height, first_width]);
    if rule.resize == Resize::None {
        let other = stored.iter().find(|s| s.0[1..] != [height, width]);
        if let Some(([_, h, w], name)) = other {
            let what = if name.is_empty() { set } else { name };
            return Err(Error::usage(format!("{what}: {w} x {h} where {width} x {height} is needed; {RULES}")));
        }
    }
    Ok([channels, height, width])
}
