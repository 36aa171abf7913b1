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

    // The network of the statistics is the feature net when none is named, and no other will do.
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

#[test]
fn factors_of_a_set_are_told_by_latents_and_latents_are_walked_along() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small = ["--set", "model.network=mlp", "--set", "model.hidden=[8]", "--set", "model.latent=3", "--batch", "16"];
    let train = ["train", "betavae", "--data", "dsprites", "--steps", "3", "--out", "run", "--quiet"];
    assert!(kiln(here, &[&train[..], &small].concat()).status.success());
    let found =
        figures(here, &["evaluate", "run", "--metrics", "mig,factor_r2,factor_eta2", "-n", "300", "--split", "test"]);
    let value = |name: &str| found.iter().find(|(n, _)| n == name).unwrap().1["value"].as_f64().unwrap();
    let gaps = ["shape", "scale", "orientation", "x", "y"].map(|factor| value(&format!("mig_{factor}")));
    assert!((value("mig") - gaps.iter().sum::<f64>() / 5.0).abs() < 1e-12);
    assert_eq!(found.len(), 6 + 3 * 4 + 3 * 5, "{found:?}");
    for factor in ["scale", "orientation", "x", "y"] {
        let [best, second] = ["r2", "r2_second"].map(|what| value(&format!("factor_{what}_{factor}")));
        assert!((0.0..=1.0).contains(&best) && second <= best, "{factor}: {best} {second}");
        // A curve follows at least as well as a line.
        let [curve, next] = ["eta2", "eta2_second"].map(|what| value(&format!("factor_{what}_{factor}")));
        assert!((best - 1e-9..=1.0 + 1e-9).contains(&curve) && next <= curve, "{factor}: {best} {curve} {next}");
    }
    assert!(value("factor_eta2_shape") > 0.0);
    assert_eq!(found[0].1["n"], 300);
    // A row of pictures for each of three latents, for two starts, of which the tile in the middle is the start's own
    // if the latent is 0 there.
    let walk = ["edit", "run", "--traverse", "--start", "4,5", "--columns", "5", "--range", "2", "--out", "walk.png"];
    let output = kiln(here, &[&walk[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut latents: Vec<u64> = object["latents"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    let activity: Vec<f64> = object["activity"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!(activity.is_sorted_by(|a, b| a >= b) && activity.len() == 3);
    latents.sort_unstable();
    assert_eq!(latents, [0, 1, 2]);
    let sheet = Picture::open(&here.join("walk.png")).unwrap();
    // Five pictures of 64 with two pixels between, six rows of them.
    assert_eq!((sheet.width, sheet.height), (5 * 64 + 8, 6 * 64 + 10));
    let from = ["edit", "run", "--traverse", "--from", "dsprites", "--start", "9", "--rows", "1", "--out", "one.png"];
    assert!(kiln(here, &from).status.success());
    assert_eq!(Picture::open(&here.join("one.png")).unwrap().height, 64);

    let far = ["edit", "run", "--traverse", "--from", "dsprites/test", "--start", "999999", "--out", "no.png"];
    assert!(refused(here, &far).contains("--start 999999: dsprites has"));
    assert!(
        refused(here, &["edit", "run", "--traverse", "--columns", "1", "--out", "no.png"])
            .contains("'--columns <COLUMNS>': a whole number, 2 to")
    );
    let labels = ["evaluate", "run", "--metrics", "factor_r2", "--against", "starter", "-n", "4"];
    assert!(refused(here, &[&labels[..], &["--quiet"]].concat()).contains("28 x 28 where"));
}

#[test]
fn a_system_of_factors_refuses_sets_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let train = |more: &[&str]| refused(here, &[&["train", "dcign", "--out", "run", "--steps", "1"], more].concat());
    assert!(train(&["--data", "starter"]).contains("dcign wants Factors data, which starter is not"));
    let said = train(&["--data", "dsprites"]);
    assert!(said.contains("dsprites: no factor `azimuth`; there are shape, scale, orientation, x, y"), "{said}");
    assert!(!here.join("run").exists());
}

/// Any run that has features is a feature net, found again in the cache by its weights, wherever it lies.
#[test]
fn a_run_is_a_feature_net() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("a"), 40, 0);
    write_pictures(&here.join("b"), 40, 40);
    let train = |system: &str, out: &str, settings: &[&str]| {
        let mut args = vec!["train", system, "--data", "a", "--batch", "8", "--steps", "3", "--out", out, "--quiet"];
        settings.iter().for_each(|s| args.extend(["--set", s]));
        let output = kiln(here, &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    train("vae", "coder", &["model.network=mlp", "model.hidden=[16]", "model.latent=3"]);
    train("classifier", "known", &[]);
    let cached = || fs::read_dir(here.join("cache/features")).unwrap().count();
    let evaluate = |features: &str, metrics: &str| {
        figures(here, &["evaluate", "b", "--against", "a", "--metrics", metrics, "--features", features])
    };

    // The latents of an encoder, three of them, which tell no classes.
    let coded = evaluate("run:coder", "fid");
    assert_eq!(coded[0].1["features"], "run:coder");
    assert!(coded[0].1["value"].as_f64().unwrap() > 0.0);
    let entries = cached();
    assert!(entries > 0);
    // Moved, it has the same weights; trained on, it has others.
    fs::rename(here.join("coder"), here.join("moved")).unwrap();
    assert_eq!(evaluate("run:moved", "fid")[0].1["value"], coded[0].1["value"]);
    assert_eq!(cached(), entries);
    assert!(kiln(here, &["resume", "moved", "--steps", "6", "--quiet"]).status.success());
    assert_ne!(evaluate("run:moved", "fid")[0].1["value"], coded[0].1["value"]);
    assert!(cached() > entries);
    let ask = |features: &str, metrics: &str| {
        refused(here, &["evaluate", "b", "--against", "a", "--metrics", metrics, "--features", features, "--quiet"])
    };
    assert!(ask("run:moved", "is").contains("run:moved does not classify"));

    // A classifier of the reference's classes knows them.
    let names: Vec<String> = evaluate("run:known", "fid,is,classes").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["fid", "is", "class_coverage", "class_unevenness"]);

    // Statistics remember the run; a run without features, and no run, are refused.
    figures(here, &["data", "stats", "a", "--features", "run:known", "--out", "a.safetensors"]);
    let found = figures(here, &["evaluate", "b", "--against", "a.safetensors", "--metrics", "fid"]);
    assert_eq!(found[0].1["features"], "run:known");
    train("pixelcnn", "drawn", &["model.layers=1", "model.features=4", "model.head=8"]);
    assert!(ask("run:drawn", "fid").contains("pixelcnn has no features"), "{}", ask("run:drawn", "fid"));
    assert!(ask("run:nowhere", "fid").contains("not a run"));
}

/// Where a system was told classes, a classifier says how many samples are of the class they were to show.
#[test]
fn samples_of_a_system_of_classes_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("a"), 40, 0);
    let train = |system: &str, out: &str, more: &[&str]| {
        let args = ["train", system, "--data", "a", "--batch", "8", "--steps", "2", "--out", out, "--quiet"];
        let output = kiln(here, &[&args[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let narrow = ["--set", "model.generator_channels=4", "--set", "model.discriminator_channels=4"];
    train("classifier", "judge", &[]);
    train("cgan", "told", &narrow);
    train("sagan", "untold", &[&narrow[..], &["--set", "model.class_conditional=false"]].concat());
    let ask = |run| ["evaluate", run, "--metrics", "class_accuracy", "--features", "run:judge", "-n", "16"];
    let found = figures(here, &ask("told"));
    assert_eq!((found[0].0.as_str(), found[0].1["n"].as_u64()), ("class_accuracy", Some(16)));
    assert!((0.0..=1.0).contains(&found[0].1["value"].as_f64().unwrap()), "{found:?}");
    assert!(refused(here, &[&ask("untold")[..], &["--quiet"]].concat()).contains("nothing tells"));
}
