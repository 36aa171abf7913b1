//! The same run on a GPU and on the CPU: `CUBECL_AUTOTUNE_LEVEL=0 cargo test --release -p kiln --features wgpu
//! --test gpu`. A software driver (Debian's `mesa-vulkan-drivers`) will do.

#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn kiln(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The losses of a few steps of a small network, and its first sample's pixels.
fn run(folder: &Path, device: &str) -> (Vec<f64>, Vec<u8>) {
    let settings = [
        "data.set=starter",
        "model.unet.base_channels=16",
        "model.unet.channel_multipliers=[1, 2]",
        "model.unet.blocks=1",
        "model.unet.attention_levels=[]",
        "train.log_every=8",
        "train.preview_every=0",
        "train.ema_half_life=0.0",
    ];
    let mut args =
        vec!["train", "ddpm", "--batch", "8", "--steps", "6", "--quiet", "--out", device, "--device", device];
    args.extend(settings.iter().flat_map(|s| ["--set", *s]));
    kiln(folder, &args);
    let log = std::fs::read_to_string(folder.join(device).join("log.jsonl")).unwrap();
    let losses = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()?["loss"].as_f64()).collect();
    let out = format!("{device}-samples");
    kiln(folder, &["sample", device, "-n", "1", "--steps", "3", "--quiet", "--out", &out, "--device", device]);
    (losses, kiln_data::Picture::open(&folder.join(out).join("00000.png")).unwrap().pixels)
}

#[test]
fn a_gpu_trains_and_samples_as_the_cpu_does() {
    let dir = tempfile::tempdir().unwrap();
    let ((ours, picture), (theirs, other)) = (run(dir.path(), "cpu"), run(dir.path(), "wgpu"));
    assert!(ours.len() > 2 && ours.len() == theirs.len(), "{ours:?} {theirs:?}");
    for (a, b) in ours.iter().zip(&theirs) {
        assert!((a - b).abs() < 1e-3 * a.abs(), "{ours:?} {theirs:?}");
    }
    assert!(picture.iter().zip(&other).all(|(a, b)| a.abs_diff(*b) <= 2), "the samples differ");
}
