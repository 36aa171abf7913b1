//! The antialiased resize, and the nearest, against Pillow (golden values by tests/reference/resize.py).
#![allow(clippy::unwrap_used)]

use kiln_data::Picture;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    grey: Vec<u8>,
    cases: Vec<Case>,
    nearest: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    mode: String,
    size: (usize, usize),
    pixels: Vec<u8>,
}

fn source(channels: usize) -> Picture {
    let (width, height) = (23, 17);
    let pixels = (0..width * height * channels).map(|k| ((k * k * 7 + k * 13) % 251) as u8);
    Picture::new(width, height, channels, pixels.collect()).unwrap()
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/resize.json")).unwrap()
}

#[test]
fn agrees_with_pillow_in_both_directions() {
    for case in golden().cases {
        let source =
            source(["L", "RGB", "", "RGBA"].iter().position(|m| *m == case.mode).map_or(1, |i| [1, 3, 3, 4][i]));
        let ours = source.resize(case.size.0, case.size.1);
        assert_eq!(ours.pixels.len(), case.pixels.len());
        if source.channels == 4 {
            // Pillow keeps premultiplied bytes between its passes, so colours under thin alpha are
            // coarse: compare what is seen over black.
            let theirs = Picture::new(case.size.0, case.size.1, 4, case.pixels).unwrap();
            let (a, b) = (ours.with_channels(3, [0; 3]), theirs.with_channels(3, [0; 3]));
            close(&a.pixels, &b.pixels, 2, &case.mode);
        } else {
            close(&ours.pixels, &case.pixels, 1, &case.mode);
        }
    }
}

fn close(a: &[u8], b: &[u8], limit: u8, what: &str) {
    let worst = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= limit, "{what}: off by {worst}");
}

#[test]
fn grey_is_pillows_luma() {
    assert_eq!(source(3).with_channels(1, [0; 3]).pixels, golden().grey);
}

#[test]
fn a_mask_takes_the_pixels_that_pillow_takes() {
    for case in golden().nearest {
        let ours = source(1).resize_nearest(case.size.0, case.size.1);
        assert_eq!(ours.pixels, case.pixels, "{:?}", case.size);
    }
}

#[test]
fn a_checkerboard_shrinks_to_its_mean() {
    let pixels = (0..64 * 64).map(|i| if (i / 64 + i % 64) % 2 == 0 { 0 } else { 255 }).collect();
    let small = Picture::new(64, 64, 1, pixels).unwrap().resize(8, 8);
    assert!(small.pixels.iter().all(|&v| (126..=129).contains(&v)), "{:?}", small.pixels);
}
