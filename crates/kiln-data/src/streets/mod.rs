//! Draws `streets`: small scenes of a street in two looks, with the class of every pixel known exactly.
//!
//! | set | what it shows |
//! |---|---|
//! | `streets:day`, `streets:dusk` | the scenes by day and at dusk: other light, colours and textures. The class of each pixel is their mask |
//! | `streets:dusk-still` | `streets:dusk`; its masks are 1 where a second visit at another time, with other cars and people, looks the same |
//! | `streets:labels` | the classes themselves, each in the colour of [`class::PALETTE`] |
//!
//! Image i of each is the same scene. A scene is drawn from its number at any size: where things stand in
//! [`scene`], what colour they have in [`look`]. A pixel has four samples; pictures show their mean, and maps the class
//! that most of them have, so that maps have hard edges.

mod chance;
mod class;
mod look;
mod scene;
mod things;

use kiln_core::{Error, Result};

use self::class::{Class, PALETTE};
use self::look::Look;
use self::scene::{Scene, Spot};
use crate::set::{fingerprint, picture_kinds};
use crate::{DataKind, DataSet, PaletteColour, Picture, PictureRule, Sample, Split};

/// Scenes in both parts together.
const SCENES: u32 = 6_000;
/// Default side in pixels.
const SIDE: usize = 64;

/// Which side of the scenes a set shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Day,
    Dusk,
    DuskStill,
    Labels,
}

/// The set, without its pictures.
pub(crate) struct Streets {
    name: String,
    view: View,
    split: Split,
    /// Height and width.
    size: [usize; 2],
    palette: Vec<PaletteColour>,
    /// Numbers of the scenes that belong to the split, ascending.
    numbers: Vec<u32>,
}

impl Streets {
    pub(crate) fn new(name: &str, view: View, split: Split, rule: &PictureRule) -> Self {
        let palette = match view {
            View::Labels => PALETTE.map(|(name, colour)| PaletteColour { name: name.into(), colour }).to_vec(),
            View::Day | View::Dusk | View::DuskStill => Vec::new(),
        };
        let numbers = split.keep((0..SCENES).collect(), u32::to_string);
        Self { name: name.into(), view, split, size: rule.size.or([SIDE; 2]), palette, numbers }
    }

    /// The kinds of data that such a set offers.
    pub(crate) fn kinds_of(view: View) -> Vec<DataKind> {
        let mut kinds = picture_kinds(false, false);
        kinds.push(DataKind::Paired);
        kinds.push(if view == View::Labels { DataKind::LabelMaps } else { DataKind::Masked });
        kinds
    }
}

/// The classes of a scene's pixels, and its picture if it is asked for.
fn draw(scene: &Scene, look: Option<Look>, [height, width]: [usize; 2]) -> (Vec<u8>, Vec<u8>) {
    let (across, down) = (2 * width, 2 * height);
    let step = 1.0 / down as f32;
    let mut classes = vec![0; across * down];
    let mut colours = vec![[0.0; 3]; if look.is_some() { across * down } else { 0 }];
    for row in 0..down {
        for column in 0..across {
            let at = row * across + column;
            let Spot { class, surface, depth } = scene.spot((column as f32 + 0.5) * step, (row as f32 + 0.5) * step);
            classes[at] = class as u8;
            if let Some(look) = look {
                let height = (row as f32 + 0.5) * step;
                colours[at] = look.surface(scene, surface, depth, height, [column as u32, row as u32]);
            }
        }
    }
    for thing in &scene.things {
        let frame = scene.frame(thing);
        let inside = |from: f32, to: f32, end: usize| {
            let cell = |x: f32| (x * down as f32).max(0.0) as usize;
            cell(from).min(end)..(cell(to) + 1).min(end)
        };
        let [left, right, top, bottom] = frame.bounds();
        for row in inside(top, bottom, down) {
            for column in inside(left, right, across) {
                let at = row * across + column;
                let [u, v] = frame.inside((column as f32 + 0.5) * step, (row as f32 + 0.5) * step);
                if let Some(part) = thing.part(u, v) {
                    classes[at] = thing.class() as u8;
                    if let Some(look) = look {
                        colours[at] = look.thing(scene, thing, part, [u, v], [column as u32, row as u32]);
                    }
                } else if let (Some(look), Some(dark)) = (look, thing.shadow(u, v))
                    && [Class::Road as u8, Class::Pavement as u8].contains(&classes[at])
                {
                    colours[at] = colours[at].map(|c| c * (1.0 - look.shadows() * dark));
                }
            }
        }
    }
    let four = |at: usize| {
        let first = at / width * 2 * across + at % width * 2;
        [first, first + 1, first + across, first + across + 1]
    };
    let most = |at: usize| {
        let found = four(at).map(|sample| classes[sample]);
        let count = |class: u8| found.iter().filter(|&&other| other == class).count();
        found.into_iter().max_by_key(|&class| (count(class), class)).unwrap_or(0)
    };
    let map = (0..width * height).map(most).collect();
    let mean = |at: usize| {
        let samples = four(at);
        let grain = look.map_or(0.0, |look| look.grain(scene, [(at % width) as u32, (at / width) as u32]));
        [0, 1, 2].map(|c| {
            let sum: f32 = samples.iter().map(|&sample| colours[sample][c].clamp(0.0, 1.0)).sum();
            ((sum / 4.0 + grain) * 255.0).round().clamp(0.0, 255.0) as u8
        })
    };
    let picture = if look.is_some() { (0..width * height).flat_map(mean).collect() } else { Vec::new() };
    (map, picture)
}

/// The largest difference, in levels, of a pixel that has stayed the same.
const SAME: u8 = 12;

/// 1 for each pixel that, with its neighbours, looks the same in two pictures of three channels, else 0.
fn still(a: &[u8], b: &[u8], [height, width]: [usize; 2]) -> Vec<u8> {
    let same: Vec<bool> =
        a.chunks(3).zip(b.chunks(3)).map(|(a, b)| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= SAME)).collect();
    let around = |at: usize, end: usize| at.saturating_sub(1)..(at + 2).min(end);
    let all = |at: usize| {
        let (row, column) = (at / width, at % width);
        around(row, height).all(|row| around(column, width).all(|column| same[row * width + column]))
    };
    (0..width * height).map(|at| u8::from(all(at))).collect()
}

impl DataSet for Streets {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let Some(&number) = self.numbers.get(index) else {
            return Err(Error::new(format!("{}: no sample {index} of {}", self.name, self.len())));
        };
        let [height, width] = self.size;
        let look = match self.view {
            View::Day => Some(Look::Day),
            View::Dusk | View::DuskStill => Some(Look::Dusk),
            View::Labels => None,
        };
        let scene = Scene::of(number, width as f32 / height as f32);
        let (mut map, pixels) = draw(&scene, look, self.size);
        if self.view == View::DuskStill {
            let (_, again) = draw(&scene.again(), look, self.size);
            map = still(&pixels, &again, self.size);
        }
        let name = format!("{} {number}", self.name);
        let (picture, mask) = match look {
            Some(_) => (Picture::new(width, height, 3, pixels)?, Some(Picture::new(width, height, 1, map)?)),
            None => {
                let pixels = map.iter().flat_map(|&class| PALETTE[usize::from(class)].1).collect();
                (Picture::new(width, height, 3, pixels)?, None)
            }
        };
        Ok(Sample { picture, label: None, caption: None, mask, name })
    }

    fn stem(&self, index: usize) -> Option<String> {
        self.numbers.get(index).map(u32::to_string)
    }

    fn palette(&self) -> &[PaletteColour] {
        &self.palette
    }

    fn kinds(&self) -> Vec<DataKind> {
        Self::kinds_of(self.view)
    }

    fn fingerprint(&self) -> String {
        // Counts up when a picture changes.
        let what = format!("streets 1 {:?} {} {:?}", self.view, self.split, self.size);
        fingerprint([what.as_bytes()])
    }

    fn uniform(&self) -> Option<[usize; 3]> {
        let [height, width] = self.size;
        Some([3, height, width])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use kiln_core::hex;

    use super::*;
    use crate::PictureSize;
    use crate::set::hash_of;

    fn set(view: View, size: [usize; 2]) -> Streets {
        let size = PictureSize::from(size);
        Streets::new("streets", view, Split::All, &PictureRule { size, ..PictureRule::default() })
    }

    /// The same bytes everywhere: scenes are drawn with additions, products, divisions and roots alone.
    #[test]
    fn scenes_are_what_they_were() {
        let hash = |view: View| {
            let set = set(view, [24, 32]);
            let pictures: Vec<Vec<u8>> = (0..40).map(|i| set.get(i * 149).unwrap().picture.pixels).collect();
            hex(&hash_of(pictures.iter().map(Vec::as_slice))[..8])
        };
        assert_eq!([View::Labels, View::Day, View::Dusk].map(hash), GOLDEN);
    }

    const GOLDEN: [&str; 3] = ["a7dfdcc11f7135ef", "ee56663026754d12", "f2f314316d9ba6ba"];

    #[test]
    fn maps_and_masks_are_of_one_scene() {
        let [labels, day, dusk] = [View::Labels, View::Day, View::Dusk].map(|view| set(view, [48, 64]));
        for i in [0, 7, 5_999] {
            let map = labels.get(i).unwrap().picture;
            let [day, dusk] = [&day, &dusk].map(|set| set.get(i).unwrap());
            assert_eq!(day.mask, dusk.mask);
            let drawn: Vec<u8> =
                day.mask.unwrap().pixels.iter().flat_map(|&class| PALETTE[usize::from(class)].1).collect();
            assert_eq!(drawn, map.pixels);
            assert_ne!(day.picture, dusk.picture);
        }
    }

    #[test]
    fn every_class_is_common_and_none_fills_the_street() {
        let set = set(View::Labels, [64, 64]);
        let (mut pixels, mut scenes) = ([0usize; 8], [0usize; 8]);
        for i in 0..200 {
            let picture = set.get(i * 30).unwrap().picture;
            let mut seen = [0usize; 8];
            for pixel in picture.pixels.chunks_exact(3) {
                seen[PALETTE.iter().position(|(_, colour)| colour == pixel).unwrap()] += 1;
            }
            (0..8).for_each(|c| pixels[c] += seen[c]);
            (0..8).for_each(|c| scenes[c] += usize::from(seen[c] > 8));
        }
        let shares = pixels.map(|n| n as f64 / (200 * 64 * 64) as f64);
        assert!(shares.iter().all(|share| (0.008..0.45).contains(share)), "{shares:?}");
        assert!(scenes.iter().all(|&n| n > 80), "{scenes:?}");
    }
}
