//! What holds for every set, size and seed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kiln_core::Result;
use kiln_core::random::Key;
use kiln_data::{
    Augment, DataKind, DataSet, Loader, Picture, PictureRule, Prepared, Resize, Sample, join_specs, split_specs,
};
use proptest::prelude::*;

/// Pictures given beforehand.
struct Given(Vec<Picture>);

impl DataSet for Given {
    fn name(&self) -> &str {
        "given"
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, index: usize) -> Result<Sample> {
        let picture = self.0[index].clone();
        // A map of the same values, as a mask of classes.
        let pixels = picture.pixels.iter().step_by(picture.channels).copied().collect();
        let mask = Some(Picture { channels: 1, pixels, ..picture });
        Ok(Sample { picture, label: None, caption: None, mask, name: index.to_string() })
    }
    fn kinds(&self) -> Vec<DataKind> {
        vec![DataKind::Images, DataKind::Masked]
    }
    fn fingerprint(&self) -> String {
        "given".into()
    }
}

fn numbered(len: usize) -> Given {
    Given((0..len).map(|i| Picture::new(1, 1, 1, vec![(i % 256) as u8]).unwrap()).collect())
}

fn picture(sides: std::ops::Range<usize>) -> impl Strategy<Value = Picture> {
    (sides.clone(), sides, prop_oneof![Just(1usize), Just(3), Just(4)], any::<u64>()).prop_map(|(w, h, c, seed)| {
        let pixels = Key::new(seed).below(0..(w * h * c) as u64, 256).into_iter().map(|v| v as u8).collect();
        Picture::new(w, h, c, pixels).unwrap()
    })
}

fn resize() -> impl Strategy<Value = Resize> {
    prop_oneof![Just(Resize::Stretch), Just(Resize::Crop), Just(Resize::Pad)]
}

fn augment() -> impl Strategy<Value = Augment> {
    (0.0..=0.5, 0.0..=180.0, 0.0..=1.0, 0.0..=1.0, 0.0..=1.0, 0.0..=0.5).prop_map(
        |(random_crop, rotation, b, c, s, hue)| Augment {
            random_crop,
            rotation,
            brightness: b,
            contrast: c,
            saturation: s,
            hue,
        },
    )
}

fn indices(len: usize, seed: u64, batch: usize, start: u64, batches: usize) -> Vec<usize> {
    let stream = Arc::new(Prepared::new(Arc::new(numbered(len)), PictureRule::default()).unwrap());
    let mut loader = Loader::new(vec![stream], batch, Key::new(seed), start).unwrap();
    (0..batches).flat_map(|_| loader.next().unwrap().parts.remove(0).indices).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_permutation_hits_every_place_once(len in 1u64..3000, seed: u64) {
        let key = Key::new(seed);
        let mut places: Vec<u64> = (0..len).map(|i| key.permute(i, len)).collect();
        places.sort_unstable();
        prop_assert!(places.into_iter().eq(0..len));
    }

    #[test]
    fn the_order_is_that_of_the_seed_alone(len in 1usize..60, seed: u64, batch in 1usize..60, start in 0u64..200) {
        let batch = batch.min(len);
        let batches = (3 * len).div_ceil(batch);
        let order = indices(len, seed, batch, start, batches);
        // One at a time, and from anywhere.
        prop_assert_eq!(&order, &indices(len, seed, 1, start, order.len()));
        // Every item once an epoch.
        let first = (len - start as usize % len) % len;
        for epoch in order[first..].chunks_exact(len) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert!(epoch.into_iter().eq(0..len));
        }
    }

    #[test]
    fn every_rule_gives_the_shape(source in picture(1..40), size in (1usize..40, 1usize..40), resize in resize()) {
        let rule = PictureRule { size: [size.0, size.1].into(), resize, background: [7; 3], ..PictureRule::default() };
        let sample = Prepared::new(Arc::new(Given(vec![source.clone()])), rule).unwrap().get(0).unwrap();
        let made = &sample.picture;
        prop_assert_eq!((made.height, made.width, made.channels), (size.0, size.1, source.channels));
        prop_assert_eq!(sample.values.len(), made.pixels.len());
        if source.channels != 4 {
            // A mean lies between what it is of.
            let (low, high) = (source.pixels.iter().min().unwrap().min(&7), source.pixels.iter().max().unwrap().max(&7));
            prop_assert!(made.pixels.iter().all(|v| (low..=high).contains(&v)));
        }
        let mask = sample.mask.unwrap();
        prop_assert_eq!((mask.height, mask.width), size);
        let known = |v: &u8| *v == 0 || source.pixels.iter().step_by(source.channels).any(|s| s == v);
        prop_assert!(mask.pixels.iter().all(known));
    }

    #[test]
    fn one_colour_stays_one_colour(side in (1usize..40, 1usize..40), size in (1usize..40, 1usize..40), value: u8) {
        let flat = Picture::new(side.0, side.1, 1, vec![value; side.0 * side.1]).unwrap();
        prop_assert!(flat.resize(size.0, size.1).pixels.iter().all(|v| *v == value));
    }

    #[test]
    fn changes_are_keyed_and_keep_the_shape(
        source in picture(1..24), size in (1usize..16, 1usize..16), augment in augment(), flip: bool, seed: u64,
    ) {
        let resize = Resize::Stretch;
        let rule = PictureRule { size: [size.0, size.1].into(), resize, flip, augment, ..PictureRule::default() };
        let stream = || {
            let prepared = Prepared::new(Arc::new(Given(vec![source.clone(); 3])), rule.clone()).unwrap();
            let values = prepared.find_mask_values().unwrap();
            Arc::new(prepared.with_masks(values))
        };
        let batches = |start| {
            let mut loader = Loader::new(vec![stream()], 1, Key::new(seed), start).unwrap();
            (0..4).map(|_| loader.next().unwrap()).collect::<Vec<_>>()
        };
        let all = batches(0);
        for batch in &all {
            let part = &batch.parts[0];
            prop_assert_eq!(part.values.len(), source.channels * size.0 * size.1);
            prop_assert!(part.values.iter().all(|v| (-1.0..=1.0).contains(v)));
            prop_assert_eq!(part.masks.as_ref().unwrap().len(), size.0 * size.1);
        }
        // What is served is a function of the item alone.
        prop_assert_eq!(&all[2..], &batches(2)[..2]);
        // What is asked for by its index is not changed.
        let still = Prepared::new(Arc::new(Given(vec![source.clone()])), rule.clone().still()).unwrap();
        prop_assert_eq!(still.get(0).unwrap(), stream().get(0).unwrap());
    }

    #[test]
    fn lists_of_sets_come_apart_as_they_were_put_together(names in prop::collection::vec("[a-z,/:]{1,8}[a-z]", 1..4)) {
        prop_assert_eq!(split_specs(&join_specs(&names)), names);
    }

    #[test]
    fn damaged_pictures_are_errors(place in 0usize..400, byte: u8, cut in 0usize..400, format in 0usize..6) {
        use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Tiff};
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, 99]));
        picture.write_to(&mut bytes, [Bmp, Gif, Jpeg, Png, Pnm, Tiff][format]).unwrap();
        let mut bytes = bytes.into_inner();
        let len = bytes.len();
        bytes[place % len] = byte;
        bytes.truncate(len - cut % len);
        // Either is right; a panic is not.
        drop(Picture::decode(&bytes, "damaged"));
    }
}
