//! The loader: order, resumption, flips, ending.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kiln_core::random::Key;
use kiln_core::{Error, Result};
use kiln_data::{Clamp, DataKind, DataSet, Grouping, HostBatch, Loader, Picture, PictureRule, Prepared, Sample};

/// Pictures of 2 x 1 that say their index, and perhaps one that cannot be read.
struct Numbers {
    len: usize,
    broken: Option<usize>,
}

impl DataSet for Numbers {
    fn name(&self) -> &str {
        "numbers"
    }
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, index: usize) -> Result<Sample> {
        if Some(index) == self.broken {
            return Err(Error::new(format!("number {index} is broken")));
        }
        let picture = Picture::new(2, 1, 1, vec![index as u8, 255])?;
        Ok(Sample { picture, label: Some(index as u32 % 3), caption: None, mask: None, name: index.to_string() })
    }
    fn kinds(&self) -> Vec<DataKind> {
        vec![DataKind::Images]
    }
    fn fingerprint(&self) -> String {
        "numbers".into()
    }
    fn uniform(&self) -> Option<[usize; 3]> {
        Some([1, 1, 2])
    }
}

fn numbers(len: usize, flip: bool) -> Arc<Prepared> {
    let rule = PictureRule { flip, ..PictureRule::default() };
    Arc::new(Prepared::new(Arc::new(Numbers { len, broken: None }), rule).unwrap())
}

fn key() -> Key {
    Key::new(11).purpose("data")
}

fn take(streams: &[Arc<Prepared>], batch: usize, start: u64, batches: usize) -> Vec<HostBatch> {
    let mut loader = Loader::new(streams.to_vec(), batch, key(), start).unwrap();
    (0..batches).map(|_| loader.next().unwrap()).collect()
}

fn indices(batches: &[HostBatch], stream: usize) -> Vec<usize> {
    batches.iter().flat_map(|b| b.parts[stream].indices.clone()).collect()
}

fn values(batches: &[HostBatch], stream: usize) -> Vec<f32> {
    batches.iter().flat_map(|b| b.parts[stream].values.clone()).collect()
}

#[test]
fn the_order_does_not_depend_on_the_batch_size() {
    let streams = [numbers(50, true), numbers(7, false)];
    let (by7, by2) = (take(&streams, 7, 0, 20), take(&streams, 2, 0, 70));
    for stream in 0..2 {
        assert_eq!(indices(&by7, stream), indices(&by2, stream));
        assert_eq!(values(&by7, stream), values(&by2, stream));
    }
    assert_eq!(by7[3].start, 21);
    assert_eq!(by7[0].parts[0].shape, [7, 1, 1, 2]);
    let part = &by7[0].parts[0];
    let labels: Vec<u32> = part.indices.iter().map(|&i| i as u32 % 3).collect();
    assert_eq!(part.labels.as_deref(), Some(&labels[..]));
    assert_eq!(part.captions, vec![None; 7]);
}

#[test]
fn pairs_come_in_one_order_and_are_mirrored_together() {
    let rule = PictureRule { flip: true, ..PictureRule::default() };
    let other = |len| {
        let set = Arc::new(Numbers { len, broken: None });
        Arc::new(Prepared::new(set, rule.clone()).unwrap().with_first())
    };
    let batches = take(&[numbers(20, true), other(20)], 6, 0, 10);
    assert_eq!(indices(&batches, 0), indices(&batches, 1));
    assert_eq!(values(&batches, 0), values(&batches, 1));
    // Two sets that are no pairs have orders of their own.
    let apart = take(&[numbers(20, true), numbers(20, true)], 6, 0, 10);
    assert_ne!(indices(&apart, 0), indices(&apart, 1));
    let error = Loader::new(vec![numbers(20, true), other(19)], 6, key(), 0).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("20 pictures and 19"), "{error}");
}

#[test]
fn a_short_stream_repeats_beside_a_long_one() {
    let batches = take(&[numbers(3, false), numbers(50, false)], 6, 0, 2);
    let mut short = indices(&batches, 0);
    assert_eq!((short.len(), indices(&batches, 1).len()), (12, 12));
    short.sort_unstable();
    assert_eq!(short, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(Loader::new(vec![numbers(3, false), numbers(5, false)], 6, key(), 0).is_err());
}

#[test]
fn a_resumed_loader_goes_on_where_it_was() {
    let streams = [numbers(50, true)];
    let (all, rest) = (take(&streams, 5, 0, 30), take(&streams, 5, 65, 17));
    assert_eq!(all[13..], rest);
}

#[test]
fn every_item_comes_once_an_epoch_in_a_new_order() {
    let order = indices(&take(&[numbers(50, false)], 10, 0, 15), 0);
    let epochs: Vec<&[usize]> = order.chunks(50).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_ne!(epochs[0], (0..50).collect::<Vec<_>>());
    // Two streams over the same set are not in step.
    let two = take(&[numbers(50, false), numbers(50, false)], 50, 0, 1);
    assert_ne!(indices(&two, 0), indices(&two, 1));
}

#[test]
fn flips_are_keyed_and_fair() {
    let batches = take(&[numbers(100, true)], 50, 0, 40);
    let white = |pair: &&[f32]| pair[0] == 1.0;
    let all = values(&batches, 0);
    let flipped = all.chunks(2).filter(white).count();
    assert!((900..1100).contains(&flipped), "{flipped} of 2000");
    let plain = values(&take(&[numbers(100, false)], 50, 0, 40), 0);
    assert_eq!(plain.chunks(2).filter(white).count(), 0);
    // The order is the same with and without flips.
    let sum = |v: &[f32]| v.chunks(2).map(|p| p[0] + p[1]).collect::<Vec<_>>();
    assert_eq!(sum(&all), sum(&plain));
}

#[test]
fn dropping_the_loader_ends_its_thread() {
    let stream = numbers(50, false);
    let mut loader = Loader::new(vec![stream.clone()], 5, key(), 0).unwrap();
    loader.next().unwrap();
    assert_eq!(Arc::strong_count(&stream), 2);
    drop(loader);
    assert_eq!(Arc::strong_count(&stream), 1);
}

#[test]
fn errors_come_through_next() {
    let set = Arc::new(Numbers { len: 9, broken: Some(4) });
    let stream = Arc::new(Prepared::new(set, PictureRule::default()).unwrap());
    let mut loader = Loader::new(vec![stream.clone()], 9, key(), 0).unwrap();
    assert_eq!(loader.next().unwrap_err().to_string(), "number 4 is broken");
    assert!(loader.next().is_err());
    let large = Loader::new(vec![stream.clone()], 10, key(), 0).err().unwrap();
    assert!(large.is_usage() && large.to_string().contains("only 9"), "{large}");
    assert!(Loader::new(vec![stream], 0, key(), 0).is_err());
}

fn clamped(factors: &[(Option<&str>, u64)]) -> Grouping {
    let clamp = |&(factor, weight): &(Option<&str>, u64)| Clamp { factor: factor.map(String::from), weight };
    Grouping::Clamped(factors.iter().map(clamp).collect())
}

#[test]
fn in_a_clamped_batch_one_factor_varies() {
    let set = kiln_data::open("dsprites", kiln_data::Split::Train, &PictureRule::default()).unwrap();
    let stream = Arc::new(Prepared::new(set.clone(), PictureRule::default()).unwrap());
    let grouping = clamped(&[(Some("scale"), 1), (Some("orientation"), 2), (None, 3)]);
    let served = |start: u64, batches: usize| -> Vec<HostBatch> {
        let mut loader = Loader::grouped(vec![stream.clone()], 20, key(), start, grouping.clone()).unwrap();
        (0..batches).map(|_| loader.next().unwrap()).collect()
    };
    let batches = served(0, 60);
    let mut kinds = [0; 3];
    for batch in &batches {
        let kind = grouping.kind(key(), batch.start / 20).unwrap();
        kinds[kind] += 1;
        let places: Vec<_> = batch.parts[0].indices.iter().map(|&i| set.places(i)).collect();
        let varies: Vec<bool> = (0..5).map(|f| places.iter().any(|p| p[f] != places[0][f])).collect();
        let wanted =
            [[false, true, false, false, false], [false, false, true, false, false], [true, false, false, true, true]];
        assert_eq!(varies, wanted[kind]);
        assert_eq!(batch.parts[0].values[..4096], stream.get(batch.parts[0].indices[0]).unwrap().values);
    }
    // Drawn 1 : 2 : 3.
    assert!(kinds[0] > 2 && kinds[0] < kinds[1] + 4 && kinds[1] > 10 && kinds[2] > 20, "{kinds:?}");
    assert!(batches[0].parts[0].indices[0] != batches[1].parts[0].indices[0]);
    // A resumed run sees the same.
    assert_eq!(batches[7..12], served(140, 5));
    assert_eq!(Grouping::Shuffled.kind(key(), 3), None);
}

#[test]
fn clamped_batches_need_factors() {
    let loader = |stream: Arc<Prepared>, grouping| Loader::grouped(vec![stream], 5, key(), 0, grouping);
    let error = loader(numbers(50, false), clamped(&[(None, 1)])).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("numbers has none"), "{error}");
    let set = kiln_data::open("dsprites", kiln_data::Split::Test, &PictureRule::default()).unwrap();
    let stream = Arc::new(Prepared::new(set, PictureRule::default()).unwrap());
    let error = loader(stream.clone(), clamped(&[(Some("light"), 1)])).err().unwrap().to_string();
    assert!(error.contains("no factor `light`; there are shape, scale"), "{error}");
    assert!(loader(stream, clamped(&[(Some("x"), 0)])).err().unwrap().to_string().contains("weight 0"));
}
