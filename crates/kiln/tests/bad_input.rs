//! Bad input: one clear line, a non-zero status, nothing lost.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn kiln(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).output().unwrap()
}

/// The one line a refused command prints, with its status.
fn refused(folder: &Path, args: &[&str], status: i32) -> String {
    let output = kiln(folder, args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("kiln: ")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: {text}");
    lines[0].to_string()
}

const TINY: [&str; 12] = [
    "--set",
    "model.channels=4",
    "--set",
    "model.features=16",
    "--set",
    "train.preview_every=0",
    "--batch",
    "8",
    "--quiet",
    "--set",
    "train.checkpoint_every=16",
    "--seed=1",
];

fn train<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    ["train", "classifier"].into_iter().chain(TINY).chain(extra.iter().copied()).collect()
}

fn picture(path: &Path, width: usize, height: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels = (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect();
    kiln_data::Picture::new(width, height, 3, pixels).unwrap().write_png(path, &[]).unwrap();
}

#[test]
fn requests_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["train", "clasifier"], "did you mean `classifier`?"),
        (&["train", "classifier", "--set", "train.bacth=3"], "did you mean `train.batch`?"),
        (&["train", "classifier", "--set", "train.batch=many"], "must be a whole number"),
        (&["train", "classifier", "--batch", "20000"], "larger than the 9000 pictures"),
        (&["train", "classifier", "--steps", "0"], "'0' for '--steps <STEPS>': a whole number, 1 to"),
        (&["train", "classifier", "--device", "abacus"], "unknown"),
        (&["sample", "nowhere", "-n", "1", "--out", "x"], "not a run"),
        (&["evaluate", "starter", "--against", "starter", "--metrics", "vibes"], "unknown"),
    ];
    for (args, says) in cases {
        let line = refused(dir.path(), args, 2);
        assert!(line.contains(says), "{args:?}: {line}");
    }
    assert!(!dir.path().join("runs").exists(), "a refused command left something behind");
}

#[test]
fn folders_that_cannot_be_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let line = refused(dir.path(), &["train", "ddpm", "--data", "empty"], 1);
    assert!(line.contains("empty"), "{line}");

    for class in ["a", "b"] {
        for k in 0..12 {
            picture(&dir.path().join(format!("good/{class}/{k}.png")), 28, 28);
        }
    }
    let broken = dir.path().join("good/a/broken.png");
    let bytes = fs::read(dir.path().join("good/a/0.png")).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let line = refused(dir.path(), &train(&["--data", "good"]), 1);
    assert!(line.contains("broken.png"), "{line}");

    fs::remove_file(&broken).unwrap();
    picture(&dir.path().join("good/b/wide.png"), 40, 28);
    let output = kiln(dir.path(), &train(&["--data", "good"]));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("resize"), "{text}");
}

#[test]
fn a_run_refuses_what_its_system_cannot_do_and_survives_damage() {
    let dir = tempfile::tempdir().unwrap();
    let done = kiln(dir.path(), &train(&["--steps", "6", "--out", "run"]));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let line = refused(dir.path(), &["sample", "run", "-n", "1", "--out", "x"], 2);
    assert!(line.contains("classifier cannot sample") && line.contains("ddpm"), "{line}");
    let line = refused(dir.path(), &train(&["--steps", "6", "--out", "run"]), 2);
    assert!(line.contains("kiln resume"), "{line}");

    let checkpoints = dir.path().join("run/checkpoints");
    let newest = checkpoints.join("0000000048").join("network.safetensors");
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let output = kiln(dir.path(), &["resume", "run", "--quiet", "--steps", "6"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("damaged") && text.contains("0000000032"), "{text}");
    assert_eq!(fs::read(&newest).unwrap(), bytes, "the resumed run differs from the uninterrupted one");
}

#[test]
fn one_process_at_a_time_in_a_run_folder() {
    let dir = tempfile::tempdir().unwrap();
    let done = kiln(dir.path(), &train(&["--steps", "1", "--out", "run"]));
    assert!(done.status.success());
    let lock = fs::File::create(dir.path().join("run/lock")).unwrap();
    lock.lock().unwrap();
    let line = refused(dir.path(), &["resume", "run", "--steps", "2"], 1);
    assert!(line.contains("another process"), "{line}");
}

/// Killed at different moments, resumed each time: the final files are those of an undisturbed run.
#[test]
fn a_killed_run_ends_as_if_it_had_not_been() {
    let dir = tempfile::tempdir().unwrap();
    let steps = ["--steps", "40"];
    let done = kiln(dir.path(), &train(&[steps[0], steps[1], "--out", "whole"]));
    assert!(done.status.success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    let mut child =
        command.current_dir(dir.path()).args(train(&[steps[0], steps[1], "--out", "killed"])).spawn().unwrap();
    for moment in [700, 350, 500, 250, 400] {
        std::thread::sleep(std::time::Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        if !dir.path().join("killed/recipe.toml").exists() {
            let mut again = Command::new(env!("CARGO_BIN_EXE_kiln"));
            child =
                again.current_dir(dir.path()).args(train(&[steps[0], steps[1], "--out", "killed"])).spawn().unwrap();
            continue;
        }
        let mut again = Command::new(env!("CARGO_BIN_EXE_kiln"));
        child = again.current_dir(dir.path()).args(["resume", "killed", "--quiet"]).spawn().unwrap();
    }
    assert!(child.wait().unwrap().success());
    for file in ["network.safetensors", "ema.safetensors", "optimizer.safetensors"] {
        let read = |run: &str| fs::read(dir.path().join(run).join("checkpoints/0000000320").join(file)).unwrap();
        assert!(read("whole") == read("killed"), "{file} differs");
    }
}
