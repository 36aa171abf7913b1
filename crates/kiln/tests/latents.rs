//! What is done with pictures' latents and probabilities: encode, complete, outliers, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;

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

const SMALL: &str = "--set model.network=mlp --set model.hidden=[16] --set train.preview_count=1 --batch 16 --quiet";

/// A small PixelCNN.
const PIXELS: &str = "--quiet --batch 8 --set model.layers=1 --set model.features=4 --set model.head=8";

#[test]
fn pictures_are_encoded_completed_and_told_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("train vae --data starter --set model.decoder=logistic --steps 60 --out run {SMALL}"));
    done(here, &format!("train cvae --data starter --set model.condition=quadrants --steps 2 --out quarter {SMALL}"));
    done(here, &format!("train cvae --data starter --steps 2 --out told {SMALL}"));
    done(here, "sample run -n 3 --out pictures --quiet");
    fs::remove_file(here.join("pictures/grid.png")).unwrap();

    done(here, "encode run pictures --out latents.safetensors --quiet");
    let bytes = fs::read(here.join("latents.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("latents").unwrap().shape(), [3, 32]);
    let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(head.metadata().as_ref().unwrap()["names"].lines().count(), 3);

    done(here, "inpaint quarter pictures painted -n 4 --sheet sheet.png --quiet");
    for file in ["00000-0.png", "00002-3.png"] {
        assert!(here.join("painted").join(file).is_file(), "{file}");
    }
    let sheet = kiln_data::Picture::open(&here.join("sheet.png")).unwrap();
    assert!(sheet.height > 3 * 28 && sheet.height < 4 * 28 && sheet.width > 6 * 28, "{}x{}", sheet.width, sheet.height);

    // A mask goes the way of its picture, and no result takes another's name.
    let wide = kiln_data::Picture::new(60, 20, 1, vec![200; 1200]).unwrap();
    for name in ["a.png", "b.png"] {
        fs::create_dir_all(here.join("wide")).unwrap();
        wide.write_png(&here.join("wide").join(name), &[]).unwrap();
    }
    fs::rename(here.join("wide/b.png"), here.join("wide/a.PNG")).unwrap();
    let right = (0..1200).map(|at| if at % 60 >= 30 { 255 } else { 0 }).collect();
    kiln_data::Picture::new(60, 20, 1, right).unwrap().write_png(&here.join("mask.png"), &[]).unwrap();
    done(here, &format!("train pixelcnn --data starter --steps 1 --out pixels {PIXELS}"));
    done(here, "inpaint pixels wide filled --mask mask.png -n 2 --quiet");
    assert_eq!(fs::read_dir(here.join("filled")).unwrap().count(), 4);
    let filled = kiln_data::Picture::open(&here.join("filled/a-0.png")).unwrap();
    // Padded above and below: 60x20 lies in rows 9 to 18 of 28, and the mask's left half keeps what it covers.
    let kept = |y: usize, x: usize| filled.pixels[y * 28 + x];
    assert!((10..17).all(|y| (0..13).all(|x| kept(y, x) == kept(10, 0))), "the left half is kept");

    // A likelihood of 60 steps tells digits-like noise from clothes neither way; the scores are there, with their names.
    let lines = done(here, "outliers run pictures -n 50 --background run --quiet --json");
    assert_eq!(lines.lines().count(), 3);
    for name in ["nll", "typicality", "complexity", "ratio"] {
        assert!(lines.contains(&format!("\"{name}\"")), "{lines}");
    }
    assert!(lines.contains("\"ratio\":{\"nats\":0.0"), "against itself there is no ratio: {lines}");
    let figures = done(here, "evaluate run --metrics bpd,nll,outliers --against starter/train -n 40 --quiet --json");
    for name in ["nll_bound", "bpd", "auroc_nll", "auroc_typicality", "auroc_complexity"] {
        let found = figures.lines().filter(|l| l.contains(&format!("\"measure\":\"{name}\""))).count();
        assert_eq!(found, 1, "{name}: {figures}");
    }

    for (args, says) in [
        ("evaluate run --metrics nll --truncation-psi 0.5 -n 20", "--truncation-psi 0.5: nothing asked for"),
        ("inpaint told pictures x", "model.condition"),
        ("inpaint run pictures x", "these can: cvae"),
        ("inpaint quarter pictures x -n 0", "'0' for '-n <N>': a whole number, 1 to"),
        ("inpaint quarter pictures x --mask pictures/00000.png", "--mask"),
        ("sample run -n 1 --out x --steps 5", "--steps: not a sampler setting of vae; it has --truncation-psi"),
        ("encode quarter pictures --out x", "cannot encode"),
        ("sample told -n 1 --out x --class 10", "0 to 9"),
        ("outliers run nowhere", "nowhere"),
    ] {
        let output = kiln(here, args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args}: {text}");
        assert!(text.contains(says) && text.lines().count() == 1, "{args}: {text}");
    }
}

/// `train --from` takes over networks and settings; what is said on the command line or in a recipe goes above them.
#[test]
fn a_run_is_fine_tuned() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("train vae --data starter --set model.latent=5 --steps 2 --out first {SMALL}"));
    let plain = "--quiet --batch 16";
    done(here, &format!("train vae --from first --set model.free_bits=0.5 --steps 1 --out second {plain}"));
    let recipe = fs::read_to_string(here.join("second/recipe.toml")).unwrap();
    let from = format!("init_from = \"{}\"", here.join("first").display());
    for line in [&from, "latent = 5", "hidden = [16]", "free_bits = 0.5", "size = 28"] {
        assert!(recipe.lines().any(|l| l == line), "{line}: {recipe}");
    }
    fs::write(here.join("next.toml"), "system = 'vae'\n[train]\ninit_from = 'second'\n[model]\nfree_bits = 2\n")
        .unwrap();
    let resolved = done(here, "train next.toml --dry-run");
    assert!(resolved.contains("latent = 5") && resolved.contains("free_bits = 2.0"), "{resolved}");

    let refused = |args: &str| {
        let output = kiln(here, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.lines().count() == 1, "{args}: {said}");
        said
    };
    let said = refused(&format!("train vae --from first --set model.latent=6 --out third {plain}"));
    assert!(said.contains("where these settings need") && !here.join("third").exists(), "{said}");
    assert!(refused("train ae --from first --out third").contains("a run of vae, not of ae"));
    assert!(refused("train vae --from nowhere --out third").contains("nowhere: not a run"));
}
