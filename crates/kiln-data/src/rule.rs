//! The rule that brings images of any size to one shape.

use kiln_core::{Error, Result, budget};
use serde::{Deserialize, Serialize};

use crate::picture::luma;
use crate::resize::Window;
use crate::{Augment, Picture, PictureSize};

/// How pictures of a set become tensors of one shape.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PictureRule {
    /// Height and width, or those that are stored.
    pub size: PictureSize,
    /// 1 (grey), 3 (RGB) or 4 (RGBA); 0 = as stored (3 if mixed).
    pub channels: usize,
    /// How to resize an image of another size.
    pub resize: Resize,
    /// What transparent pictures are composited over, and what padding is made of.
    pub background: [u8; 3],
    /// Mirror each picture left to right with probability 1/2 each time it is served.
    pub flip: bool,
    /// Other random changes of each picture each time it is served.
    pub augment: Augment,
}

impl Default for PictureRule {
    fn default() -> Self {
        Self {
            size: PictureSize::STORED,
            channels: 0,
            resize: Resize::None,
            background: [255; 3],
            flip: false,
            augment: Augment::default(),
        }
    }
}

/// How to resize an image of another size.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Nothing: another size is an error.
    #[default]
    None,
    /// Stretch both sides to the size.
    Stretch,
    /// Scale the picture until it covers the size, and cut the middle out.
    Crop,
    /// Scale the picture until it fits into the size, and pad it with the background.
    Pad,
}

impl PictureRule {
    /// The rule without what is random.
    pub fn still(self) -> Self {
        Self { flip: false, augment: Augment::default(), ..self }
    }

    /// Refuses invalid rules.
    pub(crate) fn check(&self) -> Result<()> {
        self.augment.check()?;
        if !matches!(self.channels, 0 | 1 | 3 | 4) {
            return Err(Error::usage(format!(
                "channels = {}: use 1 (grey), 3 (RGB), 4 (RGBA) or 0 (as stored)",
                self.channels
            )));
        }
        match self.size.pixels() {
            None if self.resize != Resize::None => {
                Err(Error::usage("a resize rule needs a size: set the picture size in pixels"))
            }
            Some([height, width]) if height == 0 || width == 0 => {
                Err(Error::usage(format!("size = [{height}, {width}]: both must be above 0")))
            }
            Some([height, width]) => budget().check_pixels(width as u64, height as u64, "size").map_err(Error::usage),
            None => Ok(()),
        }
    }

    /// The picture with shape [channels, height, width]; `name` is for the error when the rule does
    /// not resize and the picture has another size.
    pub(crate) fn adapt(&self, picture: &Picture, shape: [usize; 3], name: &str) -> Result<Picture> {
        let [channels, height, width] = shape;
        let picture = picture.with_channels(channels, self.background);
        let [r, g, b] = self.background;
        let padding = match channels {
            1 => vec![luma(self.background)],
            4 => vec![r, g, b, 0],
            _ => vec![r, g, b],
        };
        self.fit(picture, [height, width], name, Picture::resize_part, &padding)
    }

    /// A map of classes, which goes the way of its picture: the nearest pixel stands for each, and 0 for what is beyond.
    ///
    /// # Errors
    /// If the sizes differ and the rule does not resize.
    pub fn adapt_mask(&self, mask: &Picture, shape: [usize; 3], name: &str) -> Result<Picture> {
        self.adapt_map(mask, shape, name, &[0])
    }

    /// The same with a pixel for what is beyond.
    pub(crate) fn adapt_map(
        &self,
        map: &Picture,
        [_, height, width]: [usize; 3],
        name: &str,
        beyond: &[u8],
    ) -> Result<Picture> {
        self.fit(map.clone(), [height, width], name, Picture::resize_nearest_part, beyond)
    }

    /// A picture of a height and a width, scaled by `resize` and padded with pixels of `padding`.
    fn fit(
        &self,
        picture: Picture,
        [height, width]: [usize; 2],
        name: &str,
        resize: fn(&Picture, usize, usize, Window) -> Picture,
        padding: &[u8],
    ) -> Result<Picture> {
        if (picture.width, picture.height) == (width, height) {
            return Ok(picture);
        }
        // Both sides scaled by what makes one of them as long as it must be.
        let scale = |side: usize, to: usize, from: usize| ((side * to + from / 2) / from).max(1);
        let by_width = (width, scale(picture.height, width, picture.width));
        let by_height = (scale(picture.width, height, picture.height), height);
        let is_wider = picture.width * height > picture.height * width;
        let whole = |width: usize, height: usize| resize(&picture, width, height, Window { x: 0, y: 0, width, height });
        Ok(match self.resize {
            Resize::None => {
                return Err(Error::new(format!(
                    "{name}: {} x {} where {width} x {height} is needed; {RULES}",
                    picture.width, picture.height
                )));
            }
            Resize::Stretch => whole(width, height),
            Resize::Crop => {
                let (w, h) = if is_wider { by_height } else { by_width };
                resize(&picture, w, h, Window { x: (w - width) / 2, y: (h - height) / 2, width, height })
            }
            Resize::Pad => {
                let (w, h) = if is_wider { by_width } else { by_height };
                pad(&whole(w, h), width, height, padding)
            }
        })
    }
}

/// The picture in the middle of a larger one that is all of one colour.
fn pad(picture: &Picture, width: usize, height: usize, colour: &[u8]) -> Picture {
    let n = picture.channels;
    let (left, top) = ((width - picture.width) / 2, (height - picture.height) / 2);
    let mut pixels = colour.repeat(width * height);
    for (y, row) in picture.pixels.chunks_exact(picture.width * n).enumerate() {
        pixels[((top + y) * width + left) * n..][..row.len()].copy_from_slice(row);
    }
    Picture { width, height, channels: n, pixels }
}

/// What to tell who has pictures of the wrong size.
pub(crate) const RULES: &str = "set a picture size with the resize rule stretch, crop (cut the middle out) or pad";
