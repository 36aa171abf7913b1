//! Models of diffusers through the verbs: in, used, and out again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn kiln(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).arg("--quiet").output().unwrap()
}

/// The object that a verb prints.
fn said(folder: &Path, args: &[&str]) -> Value {
    let output = kiln(folder, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The line that a refused verb prints, with its status.
fn refused(folder: &Path, args: &[&str], status: i32) -> String {
    let output = kiln(folder, args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("kiln: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {text}");
    lines[0].to_string()
}

fn model(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures/diffusers");
    folder.join(name).canonicalize().unwrap().display().to_string()
}

#[test]
fn a_model_comes_in_makes_pictures_and_goes_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let import = said(at, &["import", &model("published"), "--out", "run"]);
    let imported = json!({"model": "UNet2DModel", "scheduler": "DDPMScheduler", "parameters": 36167, "left_out": []});
    assert_eq!(import, json!({"run": "run", "imported": imported}));
    let export = said(at, &["export", "run", "--out", "out"]);
    let exported = json!({"model": "UNet2DModel", "pipeline": "DDPMPipeline", "parameters": 36167});
    assert_eq!(export, json!({"folder": "out", "exported": exported}));
    said(at, &["import", "out", "--out", "again"]);
    for run in ["run", "again"] {
        said(at, &["sample", run, "-n", "2", "--sampler", "ddim", "--steps", "3", "--out", &format!("of-{run}")]);
        said(at, &["interpolate", run, "--through", "0,1", "--steps", "2", "--out", &format!("{run}.png")]);
    }
    let picture = |run: &str| {
        let picture = kiln_data::Picture::open(&at.join(format!("of-{run}/00001.png"))).unwrap();
        (picture.width, picture.height, picture.channels, picture.pixels)
    };
    assert_eq!(picture("run"), picture("again"));
    assert_eq!((picture("run").0, picture("run").2), (8, 3));
}

/// Pictures that are not square, by label; and what a text would be, for some and for all.
#[test]
fn conditions_are_given_by_label_and_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    said(at, &["import", &model("options"), "--out", "labels"]);
    said(at, &["sample", "labels", "-n", "1", "--class", "2", "--steps", "2", "--out", "wide"]);
    let wide = kiln_data::Picture::open(&at.join("wide/00000.png")).unwrap();
    assert_eq!((wide.width, wide.height, wide.channels), (16, 8, 1));
    let line = refused(at, &["sample", "labels", "-n", "1", "--class", "3", "--out", "x"], 2);
    assert!(line.contains("--class 3") && line.contains("0 to 2"), "{line}");

    let context = format!("{}/expected.safetensors", model("text"));
    said(at, &["import", &model("text"), "--out", "text"]);
    let sample = ["sample", "text", "--steps", "2", "--context", &context, "-n"];
    let sample =
        |rest: &[&'static str]| sample.into_iter().chain(rest.iter().copied()).map(str::to_string).collect::<Vec<_>>();
    let two = sample(&["2", "--out", "two", "--guidance-scale", "2"]);
    said(at, &two.iter().map(String::as_str).collect::<Vec<_>>());
    let three = sample(&["3", "--out", "x"]);
    let line = refused(at, &three.iter().map(String::as_str).collect::<Vec<_>>(), 2);
    assert!(line.contains("`encoder_hidden_states` has shape [2, 5, 6]; expected [1 or at least 3"), "{line}");
    let line = refused(at, &["sample", "labels", "-n", "2", "--context", &context, "--out", "x"], 2);
    assert!(line.contains("--context"), "{line}");
}

#[test]
fn what_cannot_come_in_or_go_out_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let line = refused(at, &["import", "nowhere", "--out", "run"], 2);
    assert!(line.contains("nowhere: not a folder"), "{line}");
    fs::create_dir(at.join("empty")).unwrap();
    let line = refused(at, &["import", "empty", "--out", "run"], 1);
    assert!(line.contains("empty/unet/config.json is missing"), "{line}");
    let line = refused(at, &["import", &model("text"), "--out", "run", "--set", "model.unet.dropuot=0.1"], 2);
    assert!(line.contains("did you mean `model.unet.dropout`?"), "{line}");
    assert!(!at.join("run").exists(), "a refused import left something behind");

    said(at, &["import", &model("text"), "--out", "run"]);
    let line = refused(at, &["import", &model("text"), "--out", "run"], 2);
    assert!(line.contains("there is a run already"), "{line}");
    let line = refused(at, &["resume", "run"], 2);
    assert!(line.contains("no data set is named"), "{line}");
    said(at, &["export", "run", "--out", "out"]);
    let line = refused(at, &["export", "run", "--out", "out"], 2);
    assert!(line.contains("there is a model already"), "{line}");
    fs::write(at.join("run/recipe.toml"), "system = \"vae\"\n").unwrap();
    let line = refused(at, &["export", "run", "--out", "other"], 2);
    assert!(line.contains("vae has no counterpart in diffusers"), "{line}");
}
