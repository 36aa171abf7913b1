//! Source and target through the verbs: criteria without labels, maps in the plane, parts of codes, predictions of pixels.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use std::fs;

use common::{done, refused};
use serde_json::Value;

const SMALL: &str = "--set model.channels=[4,4] --set model.label_hidden=[8,8] --set data.channels=1";

#[test]
fn a_run_on_two_domains_is_judged_without_labels_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let data = "--data starter,inverted:starter";
    done(here, &format!("train dann {data} --steps 3 --batch 8 --out run {SMALL} --set model.batch_norm=true"));
    let text = done(here, "evaluate run --metrics accuracy,a_distance,selection -n 60 --split test --json");
    let figures: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = figures.iter().map(|figure| figure["measure"].as_str().unwrap()).collect();
    let selection = ["source_risk", "weighted_risk", "deep_embedded_risk", "entropy", "neighbourhood_density"];
    assert_eq!(names, [&["accuracy", "a_distance"][..], &selection].concat());
    assert!(figures.iter().all(|figure| figure["value"].as_f64().unwrap().is_finite()), "{text}");
    let one_set = refused(here, "evaluate run --metrics selection --against starter");
    assert!(one_set.contains("two domains"), "{one_set}");

    for method in ["tsne --perplexity 5", "pca"] {
        done(here, &format!("embed run map.svg -n 20 --method {method}"));
        let svg = fs::read_to_string(here.join("map.svg")).unwrap();
        assert!(svg.matches("<circle").count() >= 80, "{method}");
        roxmltree::Document::parse(&svg).unwrap();
        done(here, &format!("embed run again.svg -n 20 --method {method} --threads 1"));
        assert!(svg == fs::read_to_string(here.join("again.svg")).unwrap(), "{method}");
    }
    assert!(refused(here, "embed run map.png").contains(".svg"));
    assert!(refused(here, "embed run map.svg -n 20 --perplexity 500").contains("perplexity"));
}

#[test]
fn a_few_labels_and_a_part_of_the_classes_are_settings() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let known = done(
        here,
        &format!("train dann --data starter,starter --steps 2 --batch 8 --out few {SMALL} --set data.labels=20 --json"),
    );
    assert!(known.contains("target_label_loss"), "{known}");
    let list = refused(here, "data show only-nothing:starter --out sheet.png");
    assert!(list.contains("the classes"), "{list}");
    done(here, &format!("train ddc --data starter,only-Trouser+Bag:starter --steps 2 --batch 4 --out part {SMALL}"));
    let wrong =
        refused(here, &format!("train dann --data starter,starter --steps 2 --out no {SMALL} --set data.labels=3"));
    assert!(wrong.contains("data.labels"), "{wrong}");
}

#[test]
fn domains_may_be_seen_by_different_features() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let train = "train shallow --data starter,inverted:starter --set model.samples=200 --set model.target_features=descriptors \
                 --set model.words=20 --set model.dimension=10";
    let joined = refused(here, &format!("{train} --out run"));
    assert!(joined.contains("data.labels"), "{joined}");
    // What could not be learned left nothing behind.
    assert!(!here.join("run").exists());
    let accuracy = |args: &str, run: &str| -> f64 {
        done(here, &format!("{train} --set data.labels=50 {args} --out {run}"));
        let text = done(here, &format!("evaluate {run} --metrics accuracy -n 300 --split test --json"));
        serde_json::from_str::<Value>(&text).unwrap()["value"].as_f64().unwrap()
    };
    assert!(accuracy("--set model.method=jgsa", "jgsa") > 0.4);
    assert!(accuracy("--set model.method=jda", "jda") > 0.3);
    for (args, said) in [
        ("--set model.method=gfk", "model.target_features"),
        ("--set model.kernel=rbf", "model.target_features"),
        ("--set model.standardize=joint", "model.standardize"),
        ("--set model.target_features=pxels", "pxels"),
    ] {
        let line = refused(here, &format!("{train} --set data.labels=50 {args} --out no"));
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn parts_of_codes_are_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small = "--set model.private_channels=[4,4] --set model.decoder_channels=4 --set model.start=0 --set train.preview_count=2";
    done(here, &format!("train dsn --data starter,inverted:starter --steps 20 --batch 8 --out run {SMALL} {small}"));
    done(here, "data show starter -n 1 --out sheet.png");
    let read = |name: &str| fs::read(here.join(name)).unwrap();
    for (name, args) in [
        ("whole.png", ""),
        ("shared.png", "--part shared"),
        ("private.png", "--part private"),
        ("source.png", "--part private --of-source"),
    ] {
        done(here, &format!("reconstruct run sheet.png {name} {args}"));
    }
    assert!(read("shared.png") != read("private.png"));
    assert!(read("source.png") != read("private.png"));
    assert!(refused(here, "reconstruct run sheet.png no.png --part half").contains("shared"));
    // Source, its three parts, target, its three parts.
    assert!(fs::read_dir(here.join("run/previews")).unwrap().next().is_some());
}

#[test]
fn predictions_of_pixels_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small = "--set model.channels=4 --set model.start=0 --set data.size=16 --set train.preview_count=2";
    done(
        here,
        &format!(
            "train crosscity --data streets:day,streets:dusk-still --steps 2 --batch 2 --out run {small} --set model.static_prior=true"
        ),
    );
    let text =
        done(here, "evaluate run --metrics segments -n 6 --split test --against streets:dusk --predictions seen.png");
    assert!(text.contains("miou"), "{text}");
    let seen = kiln_data::Picture::open(&here.join("seen.png")).unwrap();
    assert!(seen.width > 6 * 16 && seen.height > 3 * 16, "{} x {}", seen.width, seen.height);
    let still = refused(
        here,
        &format!(
            "train crosscity --data streets:day,streets:dusk --steps 1 --batch 2 --out no {small} --set model.static_prior=true"
        ),
    );
    assert!(still.contains("two"), "{still}");
}
