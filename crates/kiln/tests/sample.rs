//! `kiln sample` of a diffusion model: every sampler, guides, the chain's strip, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn kiln(folder: &Path, args: &str) -> Output {
    let args: Vec<&str> = args.split_whitespace().collect();
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).output().unwrap()
}

fn done(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args}: {text}");
    text
}

const UNET: &str = "--set model.timesteps=20 --set model.unet.base_channels=8 --set model.unet.groups=4 \
    --set model.unet.channel_multipliers=[1,2] --set model.unet.blocks=1 --set model.unet.attention_levels=[] \
    --set train.preview_every=0 --set train.preview_count=1 --batch 8 --steps 2 --quiet";

#[test]
fn a_run_is_sampled_by_any_sampler_and_guided_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("train ddpm --data starter --set model.sampling_steps=4 --out run {UNET}"));
    let told = "--set model.class_conditional=true --set model.sampling_steps=4";
    done(here, &format!("train ddpm --data starter {told} --out told {UNET}"));
    done(here, &format!("train noisy-classifier --data starter --out judge {UNET}"));
    let tiny = "--set model.unet.base_channels=8 --set model.unet.groups=4";
    done(here, &format!("train segmenter --data starter {tiny} --batch 8 --steps 2 --quiet --out areas"));
    done(here, "train classifier --data starter --set model.channels=4 --batch 8 --steps 2 --quiet --out clean");

    for sampler in ["ddpm", "ddim", "euler", "euler-ancestral", "heun", "dpm++", "dpm++-sde", "unipc", "pc"] {
        done(here, &format!("sample run -n 3 --sampler {sampler} --out {sampler} --quiet"));
        assert!(here.join(format!("{sampler}/00002.png")).exists(), "{sampler}");
    }
    done(here, "sample run -n 2 --sampler ode --rtol 0.1 --atol 0.1 --out ode --quiet");

    // Each guide changes the pictures, and the strip of the chain shows as many rows as there are.
    let plain = fs::read(here.join("ddim/00000.png")).unwrap();
    for (name, flags) in [
        ("noisy", "--class 3 --classifier judge --classifier-scale 50"),
        ("clean", "--class 3 --classifier clean --classifier-scale 50 --recurrence 1"),
        ("drawn", "--classifier judge --classifier-scale 50"),
        ("colours", "--guide colours:ddim/00001.png --guide-scale 500 --backward-steps 1"),
        ("edges", "--guide edges:ddim/00001.png --guide-scale 500"),
        ("areas", "--class 3 --segmenter areas --guide mask:ddim/00001.png --guide-scale 500 --preview"),
        ("fooled", "--class 3 --classifier clean --classifier-looks-at noisy --classifier-scale 50"),
    ] {
        done(here, &format!("sample run -n 3 --sampler ddim --out {name} --quiet --trajectory {flags}"));
        assert!(fs::read(here.join(format!("{name}/00000.png"))).unwrap() != plain, "{name}");
        let strip = kiln_data::Picture::open(&here.join(format!("{name}/trajectory.png"))).unwrap();
        assert!(strip.height > 3 * 28 && strip.height < 4 * 28 && strip.width > 4 * 28, "{name}");
    }
    assert!(here.join("areas/preview.png").exists());
    let measured = done(here, "evaluate areas --metrics segments -n 20 --quiet --json");
    assert!(measured.contains("\"miou\"") && measured.contains("\"pixel_accuracy\""), "{measured}");
    // What guides does not judge.
    done(
        here,
        &format!("train segmenter --data starter {tiny} --batch 8 --steps 2 --seed 1 --quiet --out judge_of_areas"),
    );
    let guided = "evaluate run --metrics guided_segments -n 3 --sampler ddim --segmenter areas --guide mask:ddim/00001.png --quiet";
    let measured = done(here, &format!("{guided} --features run:judge_of_areas --json"));
    assert!(measured.contains("\"guided_miou\"") && measured.contains("\"guided_pixel_accuracy\""), "{measured}");
    assert!(refused(here, &format!("{guided} --features run:areas")).contains("cannot judge"));
    let weights = "--guidance-scale 3 --guidance-interval 0.1,9 --guidance-rescale 0.5";
    done(here, &format!("sample told -n 2 --out free --quiet {weights}"));
    let [pictures, back] = ["ddim", "back"].map(|name| here.join(name));
    fs::copy(pictures.join("00001.png"), pictures.join("00000.webp")).unwrap();
    let before = fs::read(pictures.join("00000.png")).unwrap();
    done(here, &format!("reconstruct run {} {} --quiet", pictures.display(), back.display()));
    for name in ["00000.png", "00000.webp.png", "00002.png"] {
        assert!(back.join(name).exists(), "{name}");
    }
    assert_eq!(fs::read(pictures.join("00000.png")).unwrap(), before);
    let measured = done(here, "evaluate run --metrics nll_exact -n 2 --quiet --json");
    assert!(measured.contains("\"bpd_exact\""), "{measured}");

    for (args, says) in [
        ("reconstruct run ddim ./ddim", "what is read"),
        ("sample run -n 1 --out x --sampler magic", "ddpm, ddim, euler"),
        ("sample run -n 1 --out x --sampler heun --eta 1", "--eta"),
        ("sample run -n 1 --out x --guidance-scale 2", "class_conditional"),
        ("sample run -n 1 --out x --guidance-interval 3", "two numbers"),
        ("sample run -n 1 --out x --class 3", "--class 3"),
        ("sample run -n 1 --out x --class 30 --classifier judge", "10 classes"),
        ("sample run -n 1 --out x --classifier told", "cannot classify"),
        ("sample run -n 1 --out x --guide edges", "edges:FILE"),
        ("sample run -n 1 --out x --guide shapes:ddim/00000.png", "colours:FILE"),
        ("sample run -n 1 --out x --guide edges:nothing.png", "no such file"),
        ("sample run -n 1 --out x --classifier-scale 2", "--classifier"),
        ("sample run -n 1 --out x --trajectory --sampler ode", "--trajectory"),
        ("sample run -n 1 --out x --guide mask:ddim/00000.png", "--segmenter"),
        ("sample run -n 1 --out x --guide edges:ddim/00000.png --backward-rate 1", "--backward-steps"),
        ("sample run -n 1 --out x --classifier judge --classifier-looks-at both", "noisy and clean"),
        ("evaluate run -n 2 --metrics guided_segments", "mask:FILE"),
        ("evaluate run -n 2 --metrics class_accuracy --features classifier:starter", "nothing tells"),
    ] {
        let text = refused(here, args);
        assert!(text.contains(says), "{args}: {text}");
    }
    assert!(!here.join("x").exists(), "a refused request left a folder");
}
