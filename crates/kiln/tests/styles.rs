//! What is done with styles through the verbs: truncation, noise, walks in Z and W, mixing, projection, and another's network.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kiln_data::Picture;

fn kiln(folder: &Path, args: &str) -> Output {
    let args: Vec<&str> = args.split_whitespace().collect();
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).arg("--quiet").output().unwrap()
}

fn done(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The line of a command that is refused as a wrong usage.
fn refused(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    assert_eq!(output.status.code(), Some(2), "{args}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn styles_are_drawn_walked_mixed_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small =
        "--set model.latent_size=8 --set model.channel_base=64 --set model.channel_max=8 --set train.preview_count=1";
    done(here, &format!("train stylegan2 --data starter --steps 2 --batch 4 --out run {small}"));
    let read = |path: &str| fs::read(here.join(path)).unwrap();

    done(here, "sample run -n 2 --out plain");
    done(here, "sample run -n 2 --truncation-psi 0 --out mean");
    done(here, "sample run -n 2 --noise-seed 7 --out noise");
    let pixels = |path: &str| Picture::open(&here.join(path)).unwrap().pixels;
    assert_eq!(pixels("mean/00000.png"), pixels("mean/00001.png"));
    assert!(refused(here, "sample run -n 1 --truncation-psi 3 --out no").contains("between −1 and 1"));

    done(here, "interpolate run --through 0,1 --steps 3 --out w.png");
    done(here, "interpolate run --through 0,1 --steps 3 --space z --out z.png");
    done(here, "interpolate run --through 0,1 --steps 3 --truncation-psi 0 --out still.png");
    assert_ne!(read("w.png"), read("still.png"));
    assert!(
        refused(here, "interpolate run --space y --out no.png")
            .contains("--space y: the latents of this run are of w, z")
    );

    for group in ["coarse", "middle", "fine"] {
        done(here, &format!("edit run --mix {group} --start 0,1 --plus 2,3,4 --out {group}.png"));
        // A row and a column of the samples themselves, and the mixtures.
        let sheet = Picture::open(&here.join(format!("{group}.png"))).unwrap();
        assert!(sheet.width > 4 * 28 && sheet.width > sheet.height, "{}x{}", sheet.width, sheet.height);
    }
    assert!(refused(here, "edit run --mix rough --start 0 --plus 1 --out no.png").contains("coarse, middle, fine"));
    assert!(refused(here, "edit run --mix fine --start 0 --plus 1 --minus 2 --out no.png").contains("--minus"));

    // Five directions of W for each of two starts; the plane between two groups; and no class that nobody told.
    let said = done(here, "edit run --direction pca --start 0,1 --out pca.png --json");
    assert!(said.contains(r#""rows":10"#) && said.contains(r#""columns":9"#), "{said}");
    let said = done(here, "edit run --direction pca --rows 2 --space z --range 1 --columns 3 --out z.png --json");
    assert!(said.contains(r#""rows":2"#), "{said}");
    done(here, "edit run --direction svm --plus 0,1,2 --minus 3,4,5 --out svm.png");
    done(here, "train classifier --data starter --set model.channels=4 --batch 8 --steps 2 --out judge");
    let by_class = "edit run --direction svm:0 --features run:judge --out class.png";
    let found = kiln(here, by_class);
    // After two steps it may see one class alone.
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success() || said.contains("two groups are needed"), "{said}");
    assert!(refused(here, "edit run --direction svm --plus 0 --out no.png").contains("--minus"));
    assert!(refused(here, "edit run --direction up --out no.png").contains("pca, svm"));
    assert!(refused(here, "edit run --start 0 --minus 1 --plus 2 --range 2 --out no.png").contains("--"));

    fs::remove_file(here.join("plain/grid.png")).unwrap();
    let lines = done(here, "reconstruct run plain found --perceptual pixels --steps 3 --space w+ --json");
    assert_eq!(lines.matches("\"distance\":").count(), 2, "{lines}");
    assert!(here.join("found/00001.png").is_file());
    assert!(refused(here, "reconstruct run plain found --perceptual eyes").contains("--perceptual eyes"));

    let said = done(here, "evaluate run --metrics projection -n 3 --perceptual pixels --steps 3 --json");
    assert!(said.contains("auroc_projection") && said.contains("projection_real"), "{said}");

    // Of a run with an encoder nothing is searched.
    let mlp = "--set model.network=mlp --set model.hidden=[16] --set train.preview_count=1";
    done(here, &format!("train vae --data starter --steps 1 --batch 4 --out vae {mlp}"));
    assert!(refused(here, "reconstruct vae plain no --steps 3").contains("--steps 3: vae encodes"));
    assert!(refused(here, "edit vae --mix fine --start 0 --plus 1 --out no.png").contains("stylegan2"));
    assert!(refused(here, "interpolate vae --truncation-psi 0.5 --out no.png").contains("leave it out"));
}

#[test]
fn a_generator_of_the_port_is_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let files = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures/stylegan2");
    let file = |name: &str| files.join(name).canonicalize().unwrap().display().to_string();
    let said = done(here, &format!("import {} --out run --json", file("trainer.pt")));
    assert!(said.contains(r#""size":[8,8]"#) && said.contains(r#""discriminator":true"#), "{said}");
    done(here, "sample run -n 4 --truncation-psi 0.7 --out pictures");
    done(here, "edit run --mix coarse --start 0 --plus 1 --out mix.png");
    let args = format!("import {} --size 16 --out no", file("g_ema.safetensors"));
    assert!(refused(here, &args).contains("--size"));
    let tuned =
        "train stylegan2 --from run --data starter:noto --steps 1 --batch 4 --set data.resize=stretch --out tuned";
    done(here, tuned);
}
