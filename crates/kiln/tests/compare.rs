//! `kiln compare`: the page is whole, says what it should and holds nothing from elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

fn kiln(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).output().unwrap()
}

fn done(folder: &Path, args: &[&str]) -> String {
    let output = kiln(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn train(folder: &Path, system: &str, settings: &[&str], out: &str) {
    let common = ["train.log_every=8", "train.preview_every=0", "train.preview_count=1"];
    let mut args = vec!["train", system, "--batch", "8", "--quiet", "--steps", "30", "--out", out];
    args.extend(settings.iter().chain(&common).flat_map(|s| ["--set", *s]));
    done(folder, &args);
}

const VAE: [&str; 3] = ["model.network=mlp", "model.hidden=[16]", "model.latent=4"];
/// As odd as the name of a folder gets.
const ODD: &str = "a<b>&\"c\" 'd'";

/// Every text of the elements with this name.
fn texts(document: &Document, name: &str) -> Vec<String> {
    let text = |n: Node| n.descendants().filter(Node::is_text).map(|d| d.text().unwrap()).collect::<String>();
    document.descendants().filter(|n| n.has_tag_name(name)).map(text).collect()
}

fn parse(page: &str) -> Document<'_> {
    Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..ParsingOptions::default() }).unwrap()
}

#[test]
fn two_runs_on_one_page() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "vae", &VAE, ODD);
    train(dir.path(), "vae", &[&VAE[..2], &["model.latent=6"]].concat(), "runs/plain");
    let args = ["compare", ODD, "runs/plain", "--metrics", "nll", "-n", "20", "--samples", "9", "--seed", "3"];
    let more = ["--out", "pages/all.html", "--markdown", "pages/all.md", "--json", "--quiet"];
    let said: Value = serde_json::from_str(&done(dir.path(), &[&args[..], &more].concat())).unwrap();

    let page = fs::read_to_string(dir.path().join("pages/all.html")).unwrap();
    assert!(!page.contains("http"), "the page refers to something outside");
    assert!(!page.contains(ODD) && !page.contains("<b>"), "a name is not escaped");
    let document = parse(&page);
    let heads = texts(&document, "th");
    for name in [ODD, "plain"] {
        assert!(heads.iter().any(|h| h.starts_with(name)), "{name}: {heads:?}");
        assert!(texts(&document, "text").iter().any(|t| t.trim() == name), "{name} is not in a legend");
    }
    assert!(texts(&document, "h1")[0].contains(ODD));

    // Both figures stand in the row of the measure, to the digits shown.
    let rows = texts(&document, "tr");
    let row = rows.iter().find(|r| r.starts_with("nll_bound")).unwrap();
    assert!(row.contains("n = 20 · starter/test"), "{row}");
    for run in said["runs"].as_array().unwrap() {
        let value = run["measures"][0]["value"].as_f64().unwrap();
        assert!(row.contains(&format!("{value:.1}")), "{value}: {row}");
    }
    // The recipes differ in one setting.
    assert!(rows.iter().any(|r| r == "model.latent46"), "{rows:?}");
    assert!(!rows.iter().any(|r| r.starts_with("model.hidden")), "a setting that does not differ");
    let cost = |label: &str| rows.iter().any(|r| r.starts_with(label));
    assert!(cost("parameters") && cost("multiply–adds") && cost("steps3030") && cost("images seen240240"), "{rows:?}");
    #[cfg(target_os = "linux")]
    assert!(cost("peak memory"));

    // Samples and reconstructions of both.
    let pictures: Vec<_> = document.descendants().filter(|n| n.has_tag_name("img")).collect();
    assert_eq!(pictures.len(), 4);
    assert!(pictures.iter().all(|p| p.attribute("src").unwrap().starts_with("data:image/png;base64,iVBOR")));
    // Each of a vae's logged terms against images and against time.
    let plots = document.descendants().filter(|n| n.has_tag_name("svg")).count();
    let record = fs::read_to_string(dir.path().join("runs/plain/log.jsonl")).unwrap();
    let record: Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    assert_eq!(plots, 2 * (record.as_object().unwrap().len() - 3));

    let text = fs::read_to_string(dir.path().join("pages/all.md")).unwrap();
    assert!(text.contains("| nll\\_bound ↓ (n = 20 · starter/test) |"), "{text}");
    // But for the commands, which are code.
    assert!(text.lines().filter(|l| !l.starts_with("    ")).all(|l| !l.contains("<b>")), "{text}");
    let links: Vec<&str> = text.split("](<").skip(1).map(|t| t.split(">)").next().unwrap()).collect();
    assert_eq!(links.len(), 4 + plots);
    for link in links {
        let file = dir.path().join("pages").join(link);
        if link.ends_with("svg") {
            parse(&fs::read_to_string(file).unwrap());
        } else {
            kiln_data::Picture::open(&file).unwrap();
        }
    }
}

/// Columns of different systems; the measures are those each can give.
#[test]
fn runs_of_different_systems() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "vae", &VAE, "vae");
    train(dir.path(), "classifier", &["model.channels=4", "model.features=16"], "classifier");
    let moji = [
        "data.size=16",
        "model.generator_channels=4",
        "model.discriminator_channels=4",
        "model.blocks=1",
        "model.discriminator_layers=1",
        "data.set=starter:noto,starter:twemoji",
    ];
    train(dir.path(), "cyclegan", &moji, "cyclegan");
    let args = ["compare", "vae", "classifier", "cyclegan", "--metrics", "nll,accuracy", "-n", "50", "--samples", "4"];
    done(dir.path(), &args);
    let page = fs::read_to_string(dir.path().join("compare.html")).unwrap();
    let document = parse(&page);
    let rows = texts(&document, "tr");
    let row = |label: &str| rows.iter().find(|r| r.starts_with(label)).unwrap().clone();
    assert!(row("nll_bound").ends_with("––") && row("accuracy").ends_with('–'), "{rows:?}");
    assert!(row("").contains("classifier on starter") && row("").contains("starter:noto,starter:twemoji"));
    let captions = texts(&document, "figcaption");
    for what in ["samples 0 to 3", "reconstruction below", "translation a2b below", "translation b2a below", "n = 50"] {
        assert_eq!(captions.iter().filter(|c| c.contains(what)).count(), 1, "{what}: {captions:?}");
    }
}

#[test]
fn requests_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "classifier", &["model.channels=4", "model.features=16"], "run");
    fs::create_dir_all(dir.path().join("young")).unwrap();
    fs::copy(dir.path().join("run/recipe.toml"), dir.path().join("young/recipe.toml")).unwrap();
    let cases: [(&[&str], i32, &str); 7] = [
        (&["compare"], 2, "no run given"),
        (&["compare", "nowhere"], 2, "not a run"),
        (&["compare", "run", "young"], 1, "young: no checkpoint yet"),
        (&["compare", "run", "--metrics", "vibes"], 2, "--metrics vibes: unknown"),
        (&["compare", "run", "-n", "1"], 2, "a whole number, 2 to"),
        (&["compare", "run", "--samples", "0"], 2, "'0' for '--samples <SAMPLES>'"),
        (&["compare", "run", "--out", "run"], 2, "give the name of a file"),
    ];
    for (args, status, says) in cases {
        let output = kiln(dir.path(), args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("kiln: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(says), "{args:?}: {text}");
    }
    assert!(!dir.path().join("compare.html").exists(), "a refused command left something behind");
}
