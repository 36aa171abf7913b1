//! Label maps through the verbs: training on a folder of them, translation of maps of other sizes, and what is said of a wrong colour.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use std::fs;
use std::path::Path;

use common::{done, refused};
use kiln_data::Picture;

/// Maps of two colours, parted at a column of their own, and pictures in which both are other ones; 16 pixels a side.
fn write(folder: &Path, colours: [[u8; 3]; 2], count: usize) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let pixels = (0..256).flat_map(|at| colours[usize::from(at % 16 > 3 + i)]).collect();
        Picture::new(16, 16, 3, pixels).unwrap().write_png(&folder.join(format!("{i}.png")), &[]).unwrap();
    }
}

/// The first thing that is done with a folder of one's own.
#[test]
fn a_folder_of_mixed_sizes_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    for (name, [width, height, channels]) in [("a.png", [20, 10, 3]), ("b.png", [9, 33, 3]), ("c.png", [16, 16, 1])] {
        let pixels = vec![90; width * height * channels];
        Picture::new(width, height, channels, pixels).unwrap().write_png(&dir.path().join(name), &[]).unwrap();
    }
    done(dir.path(), "data show . --out sheet.png");
    let sheet = Picture::open(&dir.path().join("sheet.png")).unwrap();
    assert!(sheet.width >= 2 * 128 && sheet.height >= 2 * 128, "{} x {}", sheet.width, sheet.height);
}

#[test]
fn maps_become_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write(&here.join("maps"), [[0, 0, 200], [90, 10, 10]], 8);
    fs::write(here.join("maps/palette.txt"), "sky 0 0 200\nroad 90 10 10\n").unwrap();
    write(&here.join("set/images"), [[30, 200, 30], [220, 220, 220]], 8);
    write(&here.join("set/masks"), [[0; 3], [1; 3]], 8);
    let small = "--set model.generator_channels=2 --set model.doublings=2 --set model.hidden=4 --set model.noise_size=3 \
                 --set model.encoder_channels=2 --set model.discriminator_channels=2 --set model.discriminator_layers=1 \
                 --set data.size=16 --set train.preview_count=1";
    done(here, &format!("train spade --data maps,set/images --steps 2 --batch 2 --out run {small}"));
    let recipe = fs::read_to_string(here.join("run/recipe.toml")).unwrap();
    assert!(recipe.contains("sky #0000c8") && recipe.contains("road #5a0a0a"), "{recipe}");

    // A map of another size, several times; the same by a style.
    let odd = |colours: [[u8; 3]; 2], name: &str| {
        let pixels = (0..13 * 9).flat_map(|at| colours[usize::from(at % 13 > 5)]).collect();
        Picture::new(13, 9, 3, pixels).unwrap().write_png(&here.join(name), &[]).unwrap();
    };
    odd([[0, 0, 200], [90, 10, 10]], "map.png");
    done(here, "translate run map.png made.png -n 2 --seed 1");
    let made = |name: &str| Picture::open(&here.join(name)).unwrap();
    let [first, second] = [made("made-0.png"), made("made-1.png")];
    assert_eq!((first.width, first.height), (13, 9));
    assert_ne!(first, second);
    done(here, "translate run map.png styled.png --seed 1 --style set/images/0.png");
    done(here, "translate run map.png again.png --seed 2 --style set/images/0.png");
    assert_eq!(made("styled.png"), made("again.png"));
    done(here, "translate run maps resized --trained-size");
    assert!(here.join("resized/7.png").is_file());

    odd([[0, 0, 200], [90, 10, 11]], "wrong.png");
    for flags in ["", "--trained-size"] {
        let said = refused(here, &format!("translate run wrong.png no.png {flags}"));
        assert!(said.contains("wrong.png") && said.contains("#5a0a0b") && said.contains("road #5a0a0a"), "{said}");
    }

    // How well a segmenter of masks finds the classes again.
    let unet = "--set model.unet.base_channels=4 --set model.unet.groups=2 --set model.unet.channel_multipliers=[1,2]";
    done(here, &format!("train segmenter --data set --steps 2 --batch 2 --out seg --set model.truth=masks {unet}"));
    let lines = done(here, "evaluate seg --metrics segments --json");
    assert!(lines.contains("\"miou\"") && lines.contains("\"pixel_accuracy\""), "{lines}");
    let lines = done(here, "evaluate run --metrics translation_segments --segment-by seg --json");
    assert!(lines.contains("translation_miou_a2b") && lines.contains("translation_miou_of_real"), "{lines}");
    assert!(refused(here, "evaluate run --metrics translation_segments").contains("--segment-by"));
    assert!(refused(here, "evaluate run --metrics translation_segments --segment-by run").contains("cannot"));
    assert!(refused(here, "evaluate seg --metrics segments --against maps").contains("masks"));
}
