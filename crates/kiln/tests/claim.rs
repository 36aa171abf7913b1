//! A claim from its file to the results page.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const RECIPE: &str = "system = 'vae'
[data]
set = 'starter'
[train]
batch = 8
images = 16
preview_every = 0
preview_count = 1
[model]
network = 'mlp'
hidden = [8]
latent = 2
";

const CLAIM: &str = "says = 'A code of four numbers tells more than one of two.'
expect = ['nll_3[four] < nll_3[two]', 'nll_3 < 0 and bpd > 1', '0 < bpd[two] < 1e9']
seeds = [0, 1]
show = ['nll_3']
[[variant]]
name = 'two'
recipe = 'tiny.toml'
paper = '90.00'
[[variant]]
name = 'four'
recipe = 'tiny.toml'
set = ['model.latent=4']
images = 8
[[measure]]
label = 'test'
args = '--metrics nll -n 20 --split test --samples 3'
";

fn kiln(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).arg("--quiet").args(args).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = kiln(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(folder: &Path, args: &[&str]) -> String {
    let output = kiln(folder, args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn written(folder: &Path, path: &str) -> String {
    fs::read_to_string(folder.join(path)).unwrap()
}

#[test]
fn a_claim_is_trained_measured_judged_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let write = |path: &str, text: &str| {
        fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
        fs::write(folder.join(path), text).unwrap();
    };
    assert!(refused(folder, &["claim"]).contains("no folder `recipes`"));
    assert!(refused(folder, &["claim", "vae"]).contains("no folder `recipes`"));
    write("recipes/vae/tiny.toml", RECIPE);
    write("recipes/vae/claim-tiny.toml", CLAIM);

    // An expectation that names several values is refused before anything is trained.
    assert!(refused(folder, &["claim", "vae-tniy"]).contains("did you mean `vae-tiny`?"));
    write("recipes/vae/claim-tiny.toml", &CLAIM.replace("'nll_3 < 0 and bpd > 1', ", ""));
    assert!(
        done(folder, &["claim"])
            .contains("vae-tiny: A code of four numbers tells more than one of two. (not measured)")
    );

    // A part of it at first: the other half is not measured.
    let said = done(folder, &["claim", "vae-tiny", "--variant", "two"]);
    assert!(said.contains("nll_3[four] < nll_3[two]: not measured"), "{said}");
    assert!(said.contains("0 < bpd[two] < 1e9: holds"), "{said}");
    let page = written(folder, "docs/results.md");
    assert!(page.contains("| four | – | – | not measured |"), "{page}");
    assert!(page.contains("| 1 of 2 hold, 1 not measured |"), "{page}");
    assert!(folder.join("runs/claims/vae-two-1/recipe.toml").exists());

    let said = done(folder, &["--json", "claim", "recipes/vae/claim-tiny.toml"]);
    let objects: Vec<serde_json::Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let value = objects.iter().find(|o| o["variant"] == "four" && o["metric"] == "nll_3").unwrap();
    assert_eq!((&value["n"], &value["images"], &value["reference"]), (&20.into(), &8.into(), &"starter/test".into()));
    assert!(value["std"].as_f64().unwrap() > 0.0 && value["seeds"] == serde_json::json!([0, 1]));
    let verdict = objects.iter().find(|o| o["expect"] == "nll_3[four] < nll_3[two]").unwrap();
    assert!(verdict["verdict"] == "holds" || verdict["verdict"] == "does not hold");
    let kept = written(folder, "docs/results/vae-tiny.json");
    assert_eq!(kept.lines().count(), 6, "{kept}");

    // The page is written anew from what was kept, whatever stood there.
    let page = written(folder, "docs/results.md");
    assert!(page.contains("| two | ") && page.contains(" | 90.00 | ") && !page.contains("| bpd |"), "{page}");
    write("docs/results.md", "something else");
    done(folder, &["claim", "--page"]);
    assert_eq!(written(folder, "docs/results.md"), page);

    // Runs of other settings are not taken for the claim's; what does not change a run may differ.
    write("recipes/vae/tiny.toml", &RECIPE.replace("preview_count = 1", "preview_count = 2"));
    done(folder, &["claim", "vae-tiny"]);
    write("recipes/vae/tiny.toml", &RECIPE.replace("hidden = [8]", "hidden = [9]"));
    let said = refused(folder, &["claim", "vae-tiny"]);
    assert!(said.contains("a run with model.hidden = [8] and not [9], as this claim wants"), "{said}");

    // Mistakes in the file.
    for (from, to, part) in [
        ("nll_3[four]", "nll_3[five]", "no such label; there are `two`, `four`, `test`"),
        ("nll_3[four]", "nll_4[four]", "no such value; there are"),
        ("nll_3[four]", "nll_3", "one of several: `nll_3[two, test]`, `nll_3[four, test]`"),
        ("expect = ['", "expect = ['<", "expected a value"),
        ("says", "said", "line 1: unknown field `said`"),
        ("name = 'four'", "name = 'two'", "names of variants and labels of measures differ"),
        ("--metrics nll", "--metric nll", "--metric"),
        ("latent=4", "latnet=4", "did you mean `model.latent`?"),
    ] {
        assert!(CLAIM.contains(from));
        write("recipes/vae/claim-tiny.toml", &CLAIM.replace("'nll_3 < 0 and bpd > 1', ", "").replace(from, to));
        let said = refused(folder, &["claim", "vae-tiny"]);
        assert!(said.contains(part) && said.contains("claim-tiny.toml"), "{to}: {said}");
    }
}
