//! Every recipe of the repository, and every variant of its claims, builds its networks and takes two steps, on a set that
//! ships with Kiln in the place of one that must be fetched.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_systems::find;
use kiln_train::Options;
use kiln_train::recipe::{assignment, merge};
use kiln_train::run::read_table;
use toml::{Table, Value};

/// Settings in the place of the recipe's: the set, and what would take long and builds no network.
fn stand_in(recipe: &Table) -> Vec<String> {
    let text = |table: &str, key: &str| recipe[table].get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let set = match text("data", "set").as_str() {
        "mnist,mnistm" | "mnist,digits20" | "mnist,digits8" | "digits8,mnist" => "starter,starter",
        "digits8,mnistm" | "mnistm,mnist" | "mnistm,digits8" => "starter,starter",
        set if set.starts_with("joined:") => "starter:noto",
        set if set.starts_with("objects:") => "starter,starter",
        set if set.starts_with("emoji:") && set.contains(',') => "starter:noto,starter:twemoji",
        set if set.starts_with("emoji:") => "starter:noto",
        "dsprites" | "shapes3d:chairs" => "dsprites",
        "streets:labels,streets:day" => "streets:labels,streets:day",
        "streets:labels,streets:dusk" => "streets:labels,streets:dusk",
        "streets:day,streets:dusk" => "streets:day,streets:dusk",
        "streets:day,streets:dusk-still" => "streets:day,streets:dusk-still",
        "streets:day" => "streets:day",
        "silhouettes:starter,starter" | "silhouettes:fashion,fashion" => "silhouettes:starter,starter",
        "rings" => "rings",
        "starter:noto" => "starter:noto",
        "starter:twemoji" => "starter:twemoji",
        "starter:noto,starter:twemoji" => "starter:noto,starter:twemoji",
        "mnist" | "fashion" | "starter" => "starter",
        other => panic!("data.set = {other}: name the shipped set that stands in for it"),
    };
    let mut settings = vec![format!("data.set={set}")];
    let short = ["train.batch=2", "train.accumulate=1", "train.preview_every=0", "train.preview_count=1"];
    settings.extend(short.map(String::from));
    // A hundred labels of each class, where the recipe has more.
    if recipe["data"]["labels"].as_integer().unwrap() > 1000 {
        settings.push("data.labels=1000".into());
    }
    // The last preview is a short walk; the corrector's noise is too much for two steps.
    if recipe["model"].get("sampling_steps").is_some() {
        settings.push("model.sampling_steps=2".into());
    }
    // The paper's widths take long.
    if recipe["model"].get("unet").and_then(|unet| unet.get("base_channels")).and_then(Value::as_integer) > Some(64) {
        settings.push("model.unet.base_channels=64".into());
    }
    if recipe["system"].as_str() == Some("kmeans") {
        settings.extend(
            ["model.patches=1000", "model.features=16", "model.groups=2", "model.group_size=8"].map(String::from),
        );
    }
    if recipe["model"].get("channel_base").and_then(Value::as_integer) > Some(2048) {
        settings.extend(["model.channel_base=512", "model.channel_max=64", "model.latent_size=64"].map(String::from));
    }
    if recipe["system"].as_str() == Some("shallow") {
        let few = ["model.samples=40", "model.dimension=5", "model.words=10"];
        settings.extend(few.map(String::from));
        if text("model", "features") == "mobilenetv2" {
            settings.push("model.features=pixels".into());
        }
    }
    if recipe["system"].as_str() == Some("pix2pix") {
        settings.push("model.generator_channels=8".into());
    }
    // Published networks, which no test fetches.
    if !text("model", "perceptual").is_empty() {
        settings.push("model.perceptual=".into());
    }
    if recipe["system"].as_str() == Some("spade") {
        settings.extend(["model.generator_channels=2", "model.hidden=4", "model.encoder_channels=4"].map(String::from));
    }
    if text("model", "encoder").starts_with("weights:") {
        settings.extend(["model.encoder=random", "model.encoder_channels=4"].map(String::from));
    }
    if text("model", "sampler") == "pc" {
        settings.push("model.sampler=heun".into());
    }
    if recipe["system"].as_str() == Some("dcign") {
        settings.push(r#"model.factors=["scale", "orientation", "x"]"#.into());
    }
    settings
}

/// Two steps of a recipe file with other settings.
fn two_steps(path: &Path, set: &[String], root: &Path) {
    let place = format!("{} {set:?}", path.display());
    let changes = read_table(path).unwrap();
    let system = find(changes["system"].as_str().unwrap()).unwrap();
    let mut recipe = system.defaults().unwrap();
    merge(&mut recipe, &changes, &place).unwrap();
    for text in set {
        merge(&mut recipe, &assignment(text).unwrap(), &place).unwrap();
    }
    for text in stand_in(&recipe) {
        merge(&mut recipe, &assignment(&text).unwrap(), &place).unwrap();
    }
    let options = Options { steps: Some(2), quiet: true, ..Options::on(Device::flex()) };
    let summary = system.train(recipe, root, &options).unwrap_or_else(|e| panic!("{place}: {e}"));
    let closed_form = ["kmeans", "shallow"].contains(&system.id());
    assert_eq!(summary.steps, if closed_form { 1 } else { 2 }, "{place}");
    assert!(summary.parameters > 0 && summary.losses.values().all(|loss| loss.is_finite()), "{place}: {summary:?}");
}

/// The TOML files beside recipes: the claims, or all others.
fn files(claims: bool) -> Vec<PathBuf> {
    let inside = |folder: &Path| fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut all: Vec<PathBuf> = inside(&recipes).iter().flat_map(|folder| inside(folder)).collect();
    // A map that a claim guides by lies there too.
    all.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    all.retain(|path| path.file_stem().unwrap().to_str().unwrap().starts_with("claim") == claims);
    all.sort();
    all
}

#[test]
fn every_recipe_takes_two_steps() {
    let dir = tempfile::tempdir().unwrap();
    let root = |path: &Path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        dir.path().join(format!("{folder}-{name}"))
    };
    let recipes = files(false);
    assert!(recipes.len() >= 48);
    let beside = |name: &str| recipes.iter().find(|path| path.ends_with(name)).unwrap();
    // Recipes that begin with another's run, by the setting that names it.
    let begun = [
        ("encoder", beside("ae/fashion.toml")),
        ("m1", beside("ssvae/mnist-m1.toml")),
        ("first_stage", beside("first-stage/starter.toml")),
        ("text_encoder", beside("clip/starter.toml")),
        ("source", beside("dann/mnist-mnistm.toml")),
    ];
    let setting = |path: &PathBuf| {
        let table = read_table(path).unwrap();
        let model = table.get("model").and_then(Value::as_table);
        begun.iter().find(|(key, _)| model.is_some_and(|m| m.contains_key(*key)))
    };
    let (last, first): (Vec<&PathBuf>, Vec<&PathBuf>) = recipes.iter().partition(|path| setting(path).is_some());
    for path in first.into_iter().chain(last) {
        let run = setting(path).map(|(key, other)| format!("model.{key}={}", root(other).display()));
        two_steps(path, run.as_slice(), &root(path));
    }
}

#[test]
fn every_variant_of_a_claim_takes_two_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut done = BTreeMap::new();
    let claims = files(true);
    assert!(claims.len() >= 26);
    for claim in &claims {
        let table = read_table(claim).unwrap();
        let mut runs: Vec<(String, String)> = vec![("{seed}".into(), "3".into())];
        for kind in ["beside", "variant"] {
            for variant in table.get(kind).and_then(Value::as_array).into_iter().flatten() {
                let path = claim.parent().unwrap().join(variant["recipe"].as_str().unwrap()).canonicalize().unwrap();
                let set =
                    variant.get("set").and_then(Value::as_array).into_iter().flatten().map(|v| v.as_str().unwrap());
                let fill = |text: &str| runs.iter().fold(text.to_string(), |text, (from, to)| text.replace(from, to));
                let set: Vec<String> = set.map(fill).collect();
                // Recipes by themselves are the other test's.
                if kind == "variant" && set.is_empty() {
                    continue;
                }
                let number = done.len();
                let root = done.entry((path.clone(), set.clone())).or_insert_with(|| {
                    let root = dir.path().join(number.to_string());
                    two_steps(&path, &set, &root);
                    root
                });
                if kind == "beside" {
                    let system = read_table(&path).unwrap()["system"].as_str().unwrap().to_string();
                    runs.push((format!("{{{system}}}"), root.display().to_string()));
                }
            }
        }
    }
    assert!(done.len() >= 25, "{}", done.len());
}

#[test]
fn every_default_is_within_its_range() {
    for system in kiln_systems::registry() {
        kiln_train::ranges::check(&system.defaults().unwrap(), system.id()).unwrap();
    }
}
