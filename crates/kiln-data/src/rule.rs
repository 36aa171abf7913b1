//! The rule that brings images of any size to one shape.

use kiln_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::Picture;
use crate::picture::luma;

/// How pictures of a set become tensors of one shape.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PictureRule {
    /// Side of the square picture in pixels; 0 = as stored.
    pub size: usize,
    /// 1 (grey), 3 (RGB) or 4 (RGBA); 0 = as stored (3 if mixed).
    pub channels: usize,
    /// How to resize an image of another size.
    pub resize: Resize,
    /// What transparent pictures are composited over, and what padding is made of.
    pub background: [u8; 3],
    /// Mirror each picture left to right with probability 1/2 each time it is served.
    pub flip: bool,
}

impl Default for PictureRule {
    fn default() -> Self {
        Self { size: 0, channels: 0, resize: Resize::None, background: [255; 3], flip: false }
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
    /// Scale the shorter side to the size and cut the middle out of the longer.
    Crop,
    /// Scale the longer side to the size and pad the shorter with the background.
    Pad,
}

impl PictureRule {
    /// Refuses invalid rules.
    pub(crate) fn check(&self) -> Result<()> {
        if !matches!(self.channels, 0 | 1 | 3 | 4) {
            return Err(Error::usage(format!(
                "channels = {}: use 1 (grey), 3 (RGB), 4 (RGBA) or 0 (as stored)",
                self.channels
            )));
        }
        if self.size == 0 && self.resize != Resize::None {
            return Err(Error::usage("a resize rule needs a size: set the picture size in pixels"));
        }
        Ok(())
    }

    /// The picture with shape [channels, height, width]; `name` is for the error when the rule does
    /// not resize and the picture has another size.
    pub(crate) fn adapt(&self, picture: &Picture, shape: [usize; 3], name: &str) -> Result<Picture> {
        let [channels, height, width] = shape;
        let picture = picture.with_channels(channels, self.background);
        if (picture.width, picture.height) == (width, height) {
            return Ok(picture);
        }
        Ok(match self.resize {
            Resize::None => {
                return Err(Error::new(format!(
                    "{name}: {} x {} where {width} x {height} is needed; {RULES}",
                    picture.width, picture.height
                )));
            }
            Resize::Stretch => picture.resize(width, height),
            Resize::Crop => {
                let (w, h) = scaled(&picture, self.size, picture.width.min(picture.height));
                picture.resize(w, h).crop((w - width) / 2, (h - height) / 2, width, height)
            }
            Resize::Pad => {
                let (w, h) = scaled(&picture, self.size, picture.width.max(picture.height));
                self.pad(&picture.resize(w, h), width, height)
            }
        })
    }

    /// The picture in the middle of a larger one of background; with alpha, of transparent background.
    fn pad(&self, picture: &Picture, width: usize, height: usize) -> Picture {
        let [r, g, b] = self.background;
        let colour = match picture.channels {
            1 => vec![luma(self.background)],
            4 => vec![r, g, b, 0],
            _ => vec![r, g, b],
        };
        let n = picture.channels;
        let (left, top) = ((width - picture.width) / 2, (height - picture.height) / 2);
        let mut pixels = colour.repeat(width * height);
        for (y, row) in picture.pixels.chunks_exact(picture.width * n).enumerate() {
            pixels[((top + y) * width + left) * n..][..row.len()].copy_from_slice(row);
        }
        Picture { width, height, channels: n, pixels }
    }
}

/// What to tell who has pictures of the wrong size.
pub(crate) const RULES: &str = "set a picture size with the resize rule stretch, crop (cut the middle out) or pad";

/// Width and height when `side` of the picture becomes `size`.
fn scaled(picture: &Picture, size: usize, side: usize) -> (usize, usize) {
    let to = |x: usize| ((x * size + side / 2) / side).max(1);
    (to(picture.width), to(picture.height))
}
