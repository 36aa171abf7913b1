//! `kiln evaluate` and `kiln data stats`: figures of pictures, of files of statistics, and of a run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kiln_data::Picture;
use serde_json::Value;

fn kiln(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.current_dir(folder).env("KILN_CACHE", folder.join("cache")).args(args).output().unwrap()
}

/// The figures of a command by their names, and whole.
fn figures(folder: &Path, args: &[&str]) -> Vec<(String, Value)> {
    let output = kiln(folder, &[args, &["--json", "--quiet"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let parse = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["measure"].as_str().unwrap_or_default().to_string(), value)
    };
    text.lines().map(parse).collect()
}

fn refused(folder: &Path, args: &[&str]) -> String {
    let output = kiln(folder, args);
    assert!(!output.status.success(), "{args:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    said
}

/// Pictures of two classes, light above and light below, each a little different.
fn write_pictures(folder: &Path, count: usize, shift: u8) {
    for i in 0..count {
        let class = i % 2;
        let pixel = |y: usize, x: usize| if (y < 8) == (class == 0) { 200 + shift } else { (x * 3 + i) as u8 };
        let pixels = (0..256).map(|at| pixel(at / 16, at % 16)).collect();
        let file = folder.join(["above", "below"][class]).join(format!("{i:03}.png"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        Picture::new(16, 16, 1, pixels).unwrap().write_png(&file, &[]).unwrap();
    }
}

#[test]
fn pictures_beside_their_counterparts() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("a"), 10, 0);
    write_pictures(&here.join("b"), 10, 51);
    let found = figures(here, &["evaluate", "a", "--against", "b", "--metrics", "pairs"]);
    let value = |name: &str| found.iter().find(|(n, _)| n == name).unwrap().1["value"].as_f64().unwrap();
    // Half of the pixels are 51 of 255 levels apart, and values reach from -1 to 1.
    assert!((value("pair_l1") - 0.2).abs() < 1e-6, "{found:?}");
    assert!((value("pair_psnr") - 10.0 * (4.0f64 / 0.08).log10()).abs() < 1e-4, "{found:?}");
    // All of a folder counts, not only its training part.
    assert_eq!((found[0].1["n"].as_u64(), found[0].1["split"].as_str()), (Some(10), Some("all")));

    write_pictures(&here.join("b"), 11, 51);
    let said = refused(here, &["evaluate", "a", "--against", "b", "--metrics", "pairs"]);
    assert!(said.contains("10 pictures") && said.contains("11"), "{said}");
    Picture::new(17, 16, 1, vec![0; 272]).unwrap().write_png(&here.join("a/below/011.png"), &[]).unwrap();
    let said = refused(here, &["evaluate", "a", "--against", "b", "--metrics", "pairs"]);
    assert!(said.contains("17 x 16") && said.contains("011.png"), "{said}");
    let said = refused(here, &["evaluate", "a", "--against", "b", "--metrics", "lpips", "--perceptual", "eye"]);
    assert!(said.contains("--perceptual eye"), "{said}");
    let said = refused(here, &["evaluate", "a", "--against", "b", "--metrics", "ppl"]);
    assert!(said.contains("needs a run"), "{said}");
}

#[test]
fn statistics_stand_for_their_set() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("a"), 40, 0);
    write_pictures(&here.join("b"), 40, 40);
    let value = |args: &[&str]| {
        let found = figures(
            here,
            &[&["evaluate"], args, &["--metrics", "fid,precision", "--features", "classifier:a"]].concat(),
        );
        found.iter().map(|(_, v)| v["value"].as_f64().unwrap()).collect::<Vec<f64>>()
    };
    for name in ["a", "b"] {
        let file = format!("{name}.safetensors");
        figures(here, &["data", "stats", name, "--features", "classifier:a", "--out", &file]);
    }
    let looked = value(&["b", "--against", "a"]);
    assert!(looked[0] > 0.0);
    for against in [["b", "a.safetensors"], ["b.safetensors", "a"], ["b.safetensors", "a.safetensors"]] {
        let stored = value(&[against[0], "--against", against[1]]);
        assert!((stored[0] - looked[0]).abs() <= 1e-6 * looked[0], "{against:?}: {stored:?} {looked:?}");
        assert_eq!(stored[1], looked[1], "{against:?}");
    }
    assert!(value(&["a", "--against", "a.safetensors"])[0].abs() < 1e-6);

    // The network of the statistics is the judge when none is named, and no other will do.
    let found = figures(here, &["evaluate", "b", "--against", "a.safetensors", "--metrics", "fid"]);
    assert_eq!(found[0].1["features"], "classifier:a");
    let said = kiln(here, &["evaluate", "b", "--against", "a.safetensors", "--features", "classifier:b", "--quiet"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("other weights"), "{said:?}");

    let pictures = ["evaluate", "b", "--against", "a", "--metrics", "memorisation", "--pictures", "drawn"];
    figures(here, &[&pictures[..], &["--features", "classifier:a"]].concat());
    // Four rows of eight samples, each above its neighbour, enlarged until they are seen.
    let sheet = Picture::open(&here.join("drawn/neighbours.png")).unwrap();
    assert_eq!((sheet.width, sheet.height), (8 * 66 - 2, 8 * 66 - 2));

    // Stored statistics of a part lead to the same pictures as the part.
    let part = ["data", "stats", "a", "--split", "test", "--features", "classifier:a", "--out", "part.safetensors"];
    figures(here, &part);
    let args = ["evaluate", "b", "--against", "part.safetensors", "--metrics", "memorisation", "--pictures", "stored"];
    figures(here, &args);
    let stored = Picture::open(&here.join("stored/neighbours.png")).unwrap();
    let kept_aside: Vec<Vec<u8>> = kiln_data::open(
        &here.join("a").display().to_string(),
        kiln_data::Split::Test,
        &kiln_data::PictureRule::default(),
    )
    .map(|set| (0..set.len()).map(|i| set.get(i).unwrap().picture.pixels).collect())
    .unwrap();
    // Every second row of eight is of neighbours, each pixel four times as large.
    for (row, column) in (1..8).step_by(2).flat_map(|row| (0..8).map(move |column| (row, column))) {
        let pixel = |at: usize| stored.crop(column * 66 + at % 16 * 4, row * 66 + at / 16 * 4, 1, 1).pixels[0];
        let shown: Vec<u8> = (0..256).map(pixel).collect();
        assert!(kept_aside.contains(&shown), "the neighbour at {row}, {column} is not of the part");
    }

    let bytes = fs::read(here.join("a.safetensors")).unwrap();
    fs::write(here.join("a.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    let said = refused(here, &["evaluate", "b.safetensors", "--against", "a.safetensors", "--metrics", "fid"]);
    assert!(said.contains("a.safetensors") && said.contains("kiln data stats"), "{said}");
}
