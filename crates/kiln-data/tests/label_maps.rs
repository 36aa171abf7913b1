//! Label maps from files: their palettes, their classes, and what is said of colours that have none.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kiln_core::random::Key;
use kiln_data::{DataKind, DataSet, Loader, Picture, PictureRule, Prepared, Resize, Split, label_maps, open};

fn open_here(folder: &Path) -> Arc<dyn DataSet> {
    open(folder.to_str().unwrap(), Split::All, &PictureRule::default()).unwrap()
}

/// Maps of two halves, of colours of the index of a file.
fn write(folder: &Path, colours: impl Fn(usize) -> [[u8; 3]; 2]) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..6 {
        let pixels = (0..8 * 4).flat_map(|at| colours(i)[usize::from(at % 8 > 3)]).collect();
        Picture::new(8, 4, 3, pixels).unwrap().write_png(&folder.join(format!("{i}.png")), &[]).unwrap();
    }
}

/// A PNG of two halves of indices, four bits each.
fn write_indexed(path: &Path, palette: &[u8], halves: [u8; 2]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 7, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(palette.to_vec());
    let [l, r] = halves;
    // Seven pixels are three bytes and a half.
    let row = [l << 4 | l, l << 4 | r, r << 4 | r, r << 4];
    encoder.write_header().unwrap().write_image_data(&[row, row].concat()).unwrap();
}

fn names(set: &dyn DataSet) -> Vec<String> {
    set.palette().iter().map(|class| class.to_string()).collect()
}

const A: [u8; 3] = [200, 10, 10];
const B: [u8; 3] = [10, 10, 10];

#[test]
fn a_palette_file_says_the_classes() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| [A, B]);
    fs::write(folder.path().join("palette.txt"), "car 200 10 10\nsky #00ff00\nroad #0a0a0a\n").unwrap();
    let set = open_here(folder.path());
    assert_eq!(names(&*set), ["car #c80a0a", "sky #00ff00", "road #0a0a0a"]);
    assert!(set.kinds().contains(&DataKind::LabelMaps) && set.notes().is_empty(), "{:?}", set.notes());
    assert_eq!(label_maps(set.clone(), &[]).unwrap().palette(), set.palette());

    write(folder.path(), |i| if i == 3 { [A, [9, 10, 10]] } else { [A, B] });
    let said = Prepared::new(open_here(folder.path()), PictureRule::default()).err().unwrap().to_string();
    assert!(said.contains("3.png") && said.contains("#090a0a") && said.contains("(4, 0)"), "{said}");

    fs::write(folder.path().join("palette.txt"), "car 200 10 10\nsky\n").unwrap();
    let said = open(folder.path().to_str().unwrap(), Split::All, &PictureRule::default()).err().unwrap().to_string();
    assert!(said.contains("palette.txt, line 2") && said.contains("`sky`"), "{said}");
}

#[test]
fn colours_are_found_or_those_of_indices() {
    let folder = tempfile::tempdir().unwrap();
    let maps = |name: &str| label_maps(open_here(&folder.path().join(name)), &[]);
    write(&folder.path().join("plain"), |i| if i == 5 { [A, [255; 3]] } else { [A, B] });
    assert_eq!(names(&*maps("plain").unwrap()), ["10 #0a0a0a", "1 #c80a0a", "255 #ffffff"]);

    // Light before dark by the indices; what no map uses is no class, and unused colours may be equal.
    let palette = [A, B, [0; 3], [0; 3], [250; 3]].concat();
    for i in 0..6 {
        write_indexed(&folder.path().join(format!("indexed/{i}.png")), &palette, [i % 2, 4]);
    }
    let set = maps("indexed").unwrap();
    assert_eq!(names(&*set), ["0 #c80a0a", "1 #0a0a0a", "4 #fafafa"]);
    let picture = set.get(1).unwrap().picture;
    assert_eq!((&picture.pixels[..3], &picture.pixels[18..21]), (&B[..], &[250; 3][..]));

    write_indexed(&folder.path().join("twice/a.png"), &palette, [2, 3]);
    let said = maps("twice").err().unwrap().to_string();
    assert!(said.contains("a.png") && said.contains("2 and 3"), "{said}");
}

#[test]
fn maps_go_the_way_of_their_pictures_and_stay_maps() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    write(&a, |_| [A, B]);
    write(&b, |_| [[250; 3], [0; 3]]);
    let augment = kiln_data::Augment { rotation: 20.0, random_crop: 0.3, brightness: 0.5, ..Default::default() };
    let rule = PictureRule { size: [7, 9].into(), resize: Resize::Stretch, flip: true, augment, ..Default::default() };
    let maps = Prepared::new(label_maps(open_here(&a), &[]).unwrap(), rule.clone()).unwrap().with_classes();
    let pictures = Prepared::new(open_here(&b), rule).unwrap().with_first();
    let mut loader = Loader::new(vec![Arc::new(maps), Arc::new(pictures)], 6, Key::new(1), 0).unwrap();
    for _ in 0..4 {
        let batch = loader.next().unwrap();
        let [maps, pictures] = batch.parts.try_into().unwrap();
        let classes = maps.masks.unwrap();
        assert!(pictures.masks.is_none());
        let mut agree = 0;
        for (item, classes) in classes.chunks(63).enumerate() {
            for (at, &class) in classes.iter().enumerate() {
                let red = maps.values[item * 3 * 63 + at];
                assert_eq!(class, u8::from(red > 0.0), "dark is class 0, and nothing is between");
                agree += usize::from((pictures.values[item * 3 * 63 + at] > -0.6) == (class == 1));
            }
        }
        assert!(agree as f64 > 0.88 * classes.len() as f64, "{agree} of {}", classes.len());
    }
    let grey = PictureRule { channels: 1, ..PictureRule::default() };
    let said = Prepared::new(label_maps(open_here(&a), &[]).unwrap(), grey).err().unwrap();
    assert!(said.is_usage() && said.to_string().contains("data.channels = 1"), "{said}");
}

#[test]
fn masks_of_colours_and_indices_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let set = |name: &str| folder.path().join(name);
    write(&set("coloured/images"), |_| [[0; 3], [9; 3]]);
    write(&set("coloured/masks"), |_| [A, B]);
    let said = open_here(&set("coloured")).get(0).unwrap_err().to_string();
    assert!(said.contains("palette.txt"), "{said}");
    fs::write(set("coloured/palette.txt"), "none 0 0 0\nroad 10 10 10\ncar 200 10 10\n").unwrap();
    let opened = open_here(&set("coloured"));
    assert!(opened.palette().is_empty() && opened.kinds().contains(&DataKind::Masked));
    assert_eq!(opened.get(0).unwrap().mask.unwrap().pixels[..8], [2, 2, 2, 2, 1, 1, 1, 1]);

    for i in 0..6 {
        let path = |part: &str| set("indexed").join(format!("{part}/{i}.png"));
        write_indexed(&path("masks"), &[A, B, [90; 3], [1, 2, 3]].concat(), [3, 1]);
        write_indexed(&path("images"), &[A, B].concat(), [0, 1]);
    }
    assert_eq!(open_here(&set("indexed")).get(0).unwrap().mask.unwrap().pixels[..7], [3, 3, 3, 1, 1, 1, 1]);
}

#[test]
fn silhouettes_are_of_their_pictures() {
    let [maps, pictures] =
        ["silhouettes:starter", "starter"].map(|name| open(name, Split::Test, &PictureRule::default()).unwrap());
    assert_eq!((maps.len(), maps.palette().len()), (pictures.len(), 11));
    let (map, picture) = (maps.get(7).unwrap(), pictures.get(7).unwrap());
    let thing = maps.palette()[picture.label.unwrap() as usize + 1].colour;
    for (colour, value) in map.picture.pixels.chunks(3).zip(&picture.picture.pixels) {
        assert_eq!(colour, if *value > 6 { thing } else { [0; 3] });
    }
}
