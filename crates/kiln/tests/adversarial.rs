//! What is done with adversarial networks: films, how a discriminator scores, clusters, augmentation.

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
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    assert_eq!(output.status.code(), Some(2), "{args}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const GAN: &str =
    "--set model.generator_hidden=[16] --set model.discriminator_hidden=[16] --set train.preview_count=2 --quiet";

#[test]
fn a_discriminator_of_points_is_compared_with_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("train gan --data rings --steps 20 --out run {GAN}"));
    let said = done(here, "evaluate run --metrics scores,optimal_discriminator -n 3000 --quiet --json");
    for figure in
        ["score_real", "score_fake", "auroc_discriminator", "d_error", "value_optimum", "slope_non_saturating"]
    {
        assert!(said.contains(&format!("\"{figure}\"")), "{figure}: {said}");
    }
    // Of other data the density is not known; of another loss the output is no probability.
    assert!(refused(here, "evaluate run --metrics optimal_discriminator --against starter").contains("rings"));
    done(here, &format!("train gan --data rings --steps 2 --set model.objective=hinge --out hinge {GAN}"));
    assert!(refused(here, "evaluate hinge --metrics optimal_discriminator").contains("no probability"));
    assert!(refused(here, "evaluate hinge --metrics clusters").contains("infogan"));
}

#[test]
fn walks_are_filmed() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("train gan --data starter --steps 2 --out run {GAN}"));
    for name in ["walk.gif", "walk.apng"] {
        done(here, &format!("interpolate run --out {name} --frames 7 --quiet"));
        let frame = kiln_data::Picture::open(&here.join(name)).unwrap();
        assert_eq!((frame.width, frame.height), (84, 84), "enlarged until it is seen");
    }
    assert!(refused(here, "interpolate run --out walk.avi").contains(".png"));
    let film = fs::read(here.join("walk.gif")).unwrap();
    done(here, "interpolate run --out walk.gif --frames 14 --quiet");
    assert!(fs::read(here.join("walk.gif")).unwrap().len() > film.len());
}

#[test]
fn groups_are_compared_with_classes() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small = "--set model.channels=4 --set train.preview_count=2 --quiet";
    done(here, &format!("train infogan --data starter --steps 2 --out run {small}"));
    let said = done(here, "evaluate run --metrics clusters -n 200 --quiet --json");
    assert!(said.contains("cluster_error") && said.contains("cluster_nmi"), "{said}");
}

#[test]
fn augmentation_is_for_systems_with_a_discriminator() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    assert!(
        refused(here, "train vae --data starter --set train.augment=ada --steps 1 --out run").contains("data.flip")
    );
    let said = refused(here, "train gan --set train.augment=ada --set train.augment_policy=cubes --steps 1 --out run");
    assert!(said.contains("no `cubes`"), "{said}");
    let said = refused(here, "train gan --set train.augment=adda --steps 1 --out run");
    assert!(said.contains("diffaugment"), "{said}");
    assert!(!here.join("run").exists());
    // Its probability is in the log, and goes on where it was.
    let fast = "--set train.augment=ada --set train.augment_images=1000 --set train.augment_target=-1";
    let train =
        format!("train gan --data starter --batch 16 {fast} --set train.log_every=16 {GAN} --steps 8 --out run");
    done(here, &train);
    done(here, "resume run --steps 12 --quiet");
    let log = fs::read_to_string(here.join("run/log.jsonl")).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("\"augment_p\":0.128"), "{last}");
}
