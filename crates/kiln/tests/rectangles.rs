//! Pictures that are not square go through every verb.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kiln_data::Picture;
use serde_json::Value;

fn kiln(folder: &Path, args: &str) -> Output {
    let args: Vec<&str> = args.split_whitespace().collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.current_dir(folder).env("KILN_CACHE", folder.join("cache")).args(args).output().unwrap()
}

fn done(folder: &Path, args: &str) -> String {
    let output = kiln(folder, &format!("{args} --quiet"));
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a usage error.
fn refused(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args}: {said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    said
}

/// Pictures of two classes, each a little different.
fn write_pictures(folder: &Path, count: usize, [channels, height, width]: [usize; 3]) {
    for i in 0..count {
        let pixel = |y: usize, x: usize| if y * 2 < height { 40 * (i % 2) + 3 * i } else { x * 2 + i };
        let each =
            (0..height * width).flat_map(|at| [pixel(at / width, at % width) as u8; 4].into_iter().take(channels));
        let file = folder.join(["above", "below"][i % 2]).join(format!("{i:03}.png"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        Picture::new(width, height, channels, each.collect()).unwrap().write_png(&file, &[]).unwrap();
    }
}

fn size(path: &Path) -> [usize; 3] {
    let picture = Picture::open(path).unwrap();
    [picture.channels, picture.height, picture.width]
}

const SYSTEMS: [(&str, &str); 3] = [
    ("vae", "--set model.channels=4 --set model.hidden=[16] --set model.latent=4"),
    (
        "ddpm",
        "--set model.timesteps=20 --set model.sampling_steps=2 --set model.unet.base_channels=8 --set model.unet.groups=4 \
         --set model.unet.channel_multipliers=[1,2] --set model.unet.blocks=1",
    ),
    ("dcgan", "--set model.latent_size=8 --set model.generator_channels=4 --set model.discriminator_channels=4"),
];

fn goes_through_every_verb(shape: [usize; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("set"), 24, shape);
    // The feature net learns from rectangles too, of another size.
    write_pictures(&here.join("small"), 64, [shape[0], 10, 14]);
    for (system, settings) in SYSTEMS {
        let common = "--batch 4 --set train.preview_count=2";
        done(here, &format!("train {system} --data set {settings} {common} --steps 2 --out {system}"));
        let recipe: toml::Table = fs::read_to_string(here.join(system).join("recipe.toml")).unwrap().parse().unwrap();
        let found: Vec<i64> =
            recipe["data"]["shape"].as_array().unwrap().iter().filter_map(toml::Value::as_integer).collect();
        assert_eq!(found, shape.map(|side| side as i64), "{system}");
        done(here, &format!("resume {system} --steps 4"));

        done(here, &format!("sample {system} -n 3 --out {system}-made"));
        assert_eq!(size(&here.join(format!("{system}-made/00002.png"))), shape, "{system}");
        done(here, &format!("interpolate {system} --through 0,1 --steps 3 --out {system}-walk.png"));
        let [channels, height, width] = shape;
        let walk = size(&here.join(format!("{system}-walk.png")));
        assert_eq!((walk[0], walk[1]), (channels, height), "{system}");
        assert!(walk[2] >= 3 * width, "{system}");
        let pictures = format!("reconstruct {system} set/above {system}-again");
        if system == "dcgan" {
            assert!(refused(here, &pictures).contains("dcgan cannot reconstruct"));
        } else {
            done(here, &pictures);
            assert_eq!(size(&here.join(format!("{system}-again/002.png"))), shape, "{system}");
        }

        let figure = |flags: &str| {
            let said = done(here, &format!("evaluate {system} -n 8 --json {flags}"));
            let figures: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            figures[0]["value"].as_f64().unwrap()
        };
        assert!(figure("--metrics fid --features classifier:small") > 0.0, "{system}");
        if system != "dcgan" {
            assert!(figure("--metrics nll --samples 1 --split train").is_finite(), "{system}");
        }
        done(here, &format!("edit {system} --start 0 --minus 1 --plus 2 --out {system}-edit.png"));
    }
    done(here, "outliers vae set/below -n 4");
    done(here, "encode vae set/below --out codes.safetensors");
    done(here, "compare vae dcgan --metrics fid --features classifier:small -n 8 --out page.html");
    // A picture of another size comes to the run's.
    write_pictures(&here.join("other"), 1, [shape[0], 30, 20]);
    done(here, "reconstruct vae other/above/000.png one.png");
    assert_eq!(size(&here.join("one.png")), shape);
}

#[test]
fn grey_portraits() {
    goes_through_every_verb([1, 112, 92]);
}

#[test]
fn landscapes_in_colour() {
    goes_through_every_verb([3, 48, 64]);
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_one_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    write_pictures(&here.join("set"), 12, [1, 42, 30]);
    for (system, near) in [("vae", "[44, 32]"), ("ddpm", "[44, 32]"), ("cyclegan", "[44, 32]"), ("diffusers", "32")] {
        let data = if system == "cyclegan" { "set,set --set data.size=0" } else { "set --set data.size=0" };
        let channels = if system == "diffusers" { 3 } else { 1 };
        let said = refused(here, &format!("train {system} --data {data} --set data.channels={channels} --batch 4"));
        assert!(said.contains("30 x 42") && said.contains(&format!("data.size={near} ")), "{system}: {said}");
    }
    // What is told, helps.
    let flags = "--set data.size=[44,32] --set data.resize=crop --set model.channels=4 --batch 4 --steps 1 --out run";
    done(here, &format!("train vae --data set {flags}"));
    // A run that does not say its shape is of an older version.
    let path = here.join("run/recipe.toml");
    let mut recipe: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let data = recipe["data"].as_table_mut().unwrap();
    data.remove("shape");
    data.insert("size".into(), 0.into());
    fs::write(&path, recipe.to_string()).unwrap();
    let said = refused(here, "sample run -n 1 --out made");
    assert!(said.contains("run/recipe.toml") && said.contains("`shape = [channels, height, width]`"), "{said}");
}
