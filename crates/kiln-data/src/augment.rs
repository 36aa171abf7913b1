//! Random changes of pictures as they are served, so that a small set goes farther.
//!
//! What changes is drawn by a key and the number of the item in its stream, as its place in the epoch is: a resumed run sees
//! what an uninterrupted one would. Where things are (crop, rotation, mirror) changes for a picture, its mask and its
//! counterpart alike; so do its colours, which a mask has none of.

use std::f32::consts::TAU;

use kiln_core::random::Key;
use kiln_core::{Result, refuse_if};
use serde::{Deserialize, Serialize};

use crate::Picture;

/// How far pictures are changed at random each time they are served; 0 everywhere leaves them as they are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default)]
pub struct Augment {
    /// Cut a random part out of each image, of sides shorter by up to this share (0 to 0.5), and resize it to the size.
    pub random_crop: f64,
    /// Rotate images by up to this many degrees each way (0 to 180); edges are mirrored into the corners.
    pub rotation: f64,
    /// Multiply brightness by 1 ± up to this (0 to 1).
    pub brightness: f64,
    /// Multiply contrast by 1 ± up to this (0 to 1).
    pub contrast: f64,
    /// Multiply the saturation of colours by 1 ± up to this (0 to 1).
    pub saturation: f64,
    /// Turn hues by up to this share of the colour circle each way (0 to 0.5).
    pub hue: f64,
}

impl Augment {
    /// Refuses what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("random_crop", self.random_crop, 0.5),
            ("rotation", self.rotation, 180.0),
            ("brightness", self.brightness, 1.0),
            ("contrast", self.contrast, 1.0),
            ("saturation", self.saturation, 1.0),
            ("hue", self.hue, 0.5),
        ] {
            refuse_if!(!(0.0..=most).contains(&value), "data.{name} = {value}: it must be from 0 to {most}");
        }
        Ok(())
    }

    /// Whether nothing changes.
    pub(crate) fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// The size that a picture needs so that its smallest crop is of `shape`: what is cut out is not enlarged then.
    pub(crate) fn roomy(&self, [channels, height, width]: [usize; 3]) -> [usize; 3] {
        let more = |side: usize| (side as f64 / (1.0 - self.random_crop)).round() as usize;
        [channels, more(height), more(width)]
    }

    /// The change of item `item` of a stream with this key.
    pub(crate) fn draw(&self, key: Key, item: u64) -> Change {
        let u = key.uniform([item], 8);
        // From -1 to 1, and around 1.
        let signed = |i: usize| 2.0 * u[i] - 1.0;
        let around = |i: usize, by: f64| 1.0 + by as f32 * signed(i);
        Change {
            side: 1.0 - self.random_crop as f32 * u[0],
            x: u[1],
            y: u[2],
            angle: (self.rotation as f32).to_radians() * signed(3),
            brightness: around(4, self.brightness),
            contrast: around(5, self.contrast),
            saturation: around(6, self.saturation),
            hue: self.hue as f32 * TAU * signed(7),
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// The share of each side that is cut out.
    side: f32,
    /// Where the cut lies between the left and the right, and between the upper and the lower edge.
    x: f32,
    y: f32,
    /// In radians.
    angle: f32,
    brightness: f32,
    contrast: f32,
    saturation: f32,
    /// In radians.
    hue: f32,
}

impl Change {
    /// Rotated alone, by degrees against the clock.
    pub(crate) fn rotated(degrees: f32) -> Self {
        let (whole, same) = (1.0, 1.0);
        let angle = degrees.to_radians();
        Self { side: whole, x: 0.5, y: 0.5, angle, brightness: same, contrast: same, saturation: same, hue: 0.0 }
    }

    /// The picture with its colours changed, cut and rotated to a width and a height.
    pub(crate) fn picture(&self, picture: &Picture, width: usize, height: usize) -> Picture {
        let cut = if self.is_straight() && (picture.width, picture.height) == (width, height) {
            picture.clone()
        } else {
            self.warp(picture, width, height, Picture::between)
        };
        self.colours(cut)
    }

    /// A map of classes, which goes the way of its picture.
    pub(crate) fn mask(&self, mask: &Picture, width: usize, height: usize) -> Picture {
        self.warp(mask, width, height, Picture::nearest)
    }

    fn is_straight(&self) -> bool {
        self.side == 1.0 && self.angle == 0.0
    }

    /// For each place of the result, the place in the picture that it shows, its value taken by `value`.
    fn warp(
        &self,
        picture: &Picture,
        width: usize,
        height: usize,
        value: fn(&Picture, f32, f32, &mut Vec<u8>),
    ) -> Picture {
        let (w, h) = (picture.width as f32, picture.height as f32);
        let (sin, cos) = self.angle.sin_cos();
        // The middle of the cut, which lies inside.
        let middle = |side: f32, at: f32| side * (self.side / 2.0 + at * (1.0 - self.side));
        let (cx, cy) = (middle(w, self.x), middle(h, self.y));
        let mut pixels = Vec::with_capacity(width * height * picture.channels);
        for y in 0..height {
            let dy = ((y as f32 + 0.5) / height as f32 - 0.5) * self.side * h;
            for x in 0..width {
                let dx = ((x as f32 + 0.5) / width as f32 - 0.5) * self.side * w;
                value(picture, cx + cos * dx - sin * dy, cy + sin * dx + cos * dy, &mut pixels);
            }
        }
        Picture { width, height, channels: picture.channels, pixels }
    }

    fn colours(&self, mut picture: Picture) -> Picture {
        let n = picture.channels;
        if (self.brightness, self.contrast) == (1.0, 1.0) && (n == 1 || (self.saturation, self.hue) == (1.0, 0.0)) {
            return picture;
        }
        let grey = |p: &[u8]| match *p {
            [r, g, b, ..] => luma([r, g, b].map(f32::from)),
            _ => f32::from(p[0]),
        };
        let count = (picture.pixels.len() / n).max(1) as f64;
        let mean = picture.pixels.chunks_exact(n).map(|p| f64::from(grey(p))).sum::<f64>() / count;
        let mean = mean as f32 * self.brightness;
        let shade = |v: f32| mean + self.contrast * (v * self.brightness - mean);
        let byte = |v: f32| v.round().clamp(0.0, 255.0) as u8;
        let (sin, cos) = self.hue.sin_cos();
        for p in picture.pixels.chunks_exact_mut(n) {
            let [r, g, b, ..] = *p else {
                p[0] = byte(shade(p[0].into()));
                continue;
            };
            let rgb = [r, g, b].map(|v| shade(v.into()));
            let y = luma(rgb);
            // Distances from grey, times saturation, turned in the plane of equal luma (YIQ).
            let [r, g, b] = rgb.map(|v| self.saturation * (v - y));
            let (i, q) = (0.596 * r - 0.274 * g - 0.322 * b, 0.211 * r - 0.523 * g + 0.312 * b);
            let (i, q) = (cos * i - sin * q, sin * i + cos * q);
            let turned = match self.hue {
                0.0 => [r, g, b],
                _ => [0.956 * i + 0.621 * q, -0.272 * i - 0.647 * q, -1.106 * i + 1.703 * q],
            };
            p.iter_mut().zip(turned).for_each(|(p, v)| *p = byte(y + v));
        }
        picture
    }
}

/// BT.601 luma.
fn luma([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

impl Picture {
    /// The pixel at a place, mirrored at the edges.
    fn mirrored(&self, x: i64, y: i64) -> &[u8] {
        let inside = |at: i64, side: usize| {
            let side = side as i64;
            let at = at.rem_euclid(2 * side);
            (if at < side { at } else { 2 * side - 1 - at }) as usize
        };
        let at = inside(y, self.height) * self.width + inside(x, self.width);
        &self.pixels[at * self.channels..][..self.channels]
    }

    /// The value at a point, where pixel (0, 0) covers the unit square: between the four pixels around it. Colours count as
    /// much as they are opaque.
    fn between(&self, x: f32, y: f32, out: &mut Vec<u8>) {
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = (x - left, y - top);
        let mut sum = [0.0f32; 4];
        let mut opaque = 0.0;
        for (dx, dy, weight) in
            [(0, 0, (1.0 - fx) * (1.0 - fy)), (1, 0, fx * (1.0 - fy)), (0, 1, (1.0 - fx) * fy), (1, 1, fx * fy)]
        {
            let pixel = self.mirrored(left as i64 + dx, top as i64 + dy);
            let alpha = if self.channels == 4 { f32::from(pixel[3]) / 255.0 } else { 1.0 };
            opaque += weight * alpha;
            sum.iter_mut().zip(pixel.iter().take(3)).for_each(|(s, &v)| *s += weight * alpha * f32::from(v));
        }
        let colour = |sum: f32| if opaque > 0.0 { (sum / opaque).round().clamp(0.0, 255.0) as u8 } else { 0 };
        out.extend(sum.iter().take(self.channels.min(3)).map(|&s| colour(s)));
        if self.channels == 4 {
            out.push((opaque * 255.0).round() as u8);
        }
    }

    /// The pixel at a point.
    fn nearest(&self, x: f32, y: f32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.mirrored(x.floor() as i64, y.floor() as i64));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STILL: Change =
        Change { side: 1.0, x: 0.0, y: 0.0, angle: 0.0, brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0 };

    fn picture(channels: usize) -> Picture {
        let pixels = (0..8 * 8 * channels).map(|k| ((k * k * 7 + k * 13) % 251) as u8).collect();
        Picture::new(8, 8, channels, pixels).unwrap()
    }

    #[test]
    fn nothing_drawn_is_nothing_changed() {
        let off = Augment::default();
        assert!(off.is_off() && off.check().is_ok() && off.roomy([3, 5, 7]) == [3, 5, 7]);
        assert_eq!(
            off.draw(Key::new(1), 3),
            Change { x: off.draw(Key::new(1), 3).x, y: off.draw(Key::new(1), 3).y, ..STILL }
        );
        for channels in [1, 3, 4] {
            let picture = picture(channels);
            assert_eq!(STILL.picture(&picture, 8, 8), picture);
            assert_eq!(STILL.mask(&picture, 8, 8), picture);
        }
    }

    #[test]
    fn cuts_and_turns_are_exact_where_they_meet_pixels() {
        let whole = picture(3);
        let cut = Change { side: 0.5, x: 1.0, y: 0.5, ..STILL };
        assert_eq!(cut.picture(&whole, 4, 4), whole.crop(4, 2, 4, 4));
        assert_eq!(cut.mask(&whole, 4, 4), whole.crop(4, 2, 4, 4));
        // A half turn is two mirrors.
        let turned = Change { angle: std::f32::consts::PI, ..STILL }.mask(&whole, 8, 8);
        let reversed: Vec<u8> = whole.pixels.chunks_exact(3).rev().flatten().copied().collect();
        assert_eq!(turned.pixels, reversed);
        // All of a picture at half its size is the mean of each four pixels.
        let small = STILL.picture(&picture(1), 4, 4);
        let mean = (0..4).map(|k| f32::from(picture(1).pixels[k / 2 * 8 + k % 2])).sum::<f32>() / 4.0;
        assert_eq!(small.pixels[0], mean.round() as u8);
    }

    #[test]
    fn colours_change_as_named() {
        let one = |change: Change, p: [u8; 3]| change.colours(Picture::new(1, 1, 3, p.to_vec()).unwrap()).pixels;
        assert_eq!(one(Change { brightness: 0.5, ..STILL }, [100, 50, 200]), [50, 25, 100]);
        let grey = one(Change { saturation: 0.0, ..STILL }, [100, 50, 200]);
        assert!(grey.iter().all(|v| *v == grey[0]));
        let flat = Change { contrast: 0.0, ..STILL }.colours(Picture::new(2, 1, 1, vec![0, 200]).unwrap());
        assert_eq!(flat.pixels, [100, 100]);
        // Turned by half a circle and back, and grey stays grey.
        let half = Change { hue: TAU / 2.0, ..STILL };
        let there = one(half, [120, 100, 110]);
        assert_ne!(there, [120, 100, 110]);
        let back = one(half, [there[0], there[1], there[2]]);
        assert!(back.iter().zip([120, 100, 110]).all(|(a, b)| a.abs_diff(b) <= 2), "{back:?}");
        assert_eq!(one(half, [90, 90, 90]), [90, 90, 90]);
        // Alpha stays.
        let clear = Change { brightness: 0.5, ..STILL }.colours(Picture::new(1, 1, 4, vec![80, 80, 80, 7]).unwrap());
        assert_eq!(clear.pixels, [40, 40, 40, 7]);
    }

    #[test]
    fn ranges_are_refused() {
        for (augment, name) in [
            (Augment { random_crop: 0.6, ..Augment::default() }, "random_crop"),
            (Augment { rotation: f64::NAN, ..Augment::default() }, "rotation"),
            (Augment { hue: -0.1, ..Augment::default() }, "hue"),
        ] {
            let error = augment.check().unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(name), "{error}");
        }
    }
}
