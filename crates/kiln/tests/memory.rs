//! What a training run takes of memory, as the process itself reports it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The report of two steps of a U-Net of 53 residual blocks on batches of 32.
fn report(folder: &Path, checkpointing: bool) -> Value {
    let root = folder.join(checkpointing.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_kiln"))
        // With one thread: with more, the peak hangs on which tasks happen to meet.
        .args(["train", "ddpm", "--quiet", "--threads", "1", "--steps", "2", "--batch", "32", "--out"])
        .arg(&root)
        .args(["--set", "model.unet.base_channels=32", "--set", "model.unet.channel_multipliers=[1, 1, 1]"])
        .args([
            "--set",
            "model.unet.patch=1",
            "--set",
            "model.unet.blocks=8",
            "--set",
            "model.unet.attention_levels=[]",
        ])
        .args(["--set", "train.preview_every=0", "--set", "train.preview_count=1"])
        .args(["--set", "model.timesteps=2", "--set", "model.sampling_steps=1"])
        .args(["--set", &format!("train.gradient_checkpointing={checkpointing}")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(root.join("report.json")).unwrap()).unwrap()
}

#[test]
fn gradient_checkpointing_takes_a_third_less() {
    let dir = tempfile::tempdir().unwrap();
    let [kept, again] = [false, true].map(|checkpointing| report(dir.path(), checkpointing));
    assert_eq!(kept["losses"], again["losses"]);
    // Not every system tells.
    if let (Some(kept), Some(again)) = (kept["peak_memory"].as_f64(), again["peak_memory"].as_f64()) {
        assert!(again < 0.67 * kept, "{again} bytes with, {kept} without");
    }
}
