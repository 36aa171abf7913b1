//! Is every dependency under a licence that `deny.toml` allows?
//!
//! On every platform and with every feature, so that all crates must have been fetched, not only those of a build: `.ci/run`
//! does so.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

use spdx::{Expression, Licensee, ParseMode};

/// The licences of `deny.toml`.
fn allowed() -> Vec<Licensee> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deny.toml");
    let file: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    let list = file["licenses"]["allow"].as_array().unwrap();
    list.iter().map(|name| Licensee::parse(name.as_str().unwrap()).unwrap()).collect()
}

/// Whether a licence expression can be met by the `allowed` licences; an empty or malformed one cannot.
fn meets(expression: &str, allowed: &[Licensee]) -> bool {
    // Lax, since some older crates write `MIT/Apache-2.0`.
    let parsed = Expression::parse_mode(expression, ParseMode::LAX);
    parsed.is_ok_and(|e| e.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted))))
}

#[test]
#[ignore = "needs `cargo fetch --locked`, as in .ci/run"]
fn every_dependency_has_an_allowed_licence() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--workspace", "--locked", "--offline", "--target", "all", "--all-features"]);
    cargo.args(["--edges", "normal,build,dev", "--prefix", "none", "--format", "{l}|{p}"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert!(packages.iter().any(|package| package.contains("|burn v")), "{text}");
    let allowed = allowed();
    let refused = |package: &&&str| !package.split_once('|').is_some_and(|(licence, _)| meets(licence, &allowed));
    let refused: Vec<_> = packages.iter().filter(refused).collect();
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
}

#[test]
fn expressions_are_understood() {
    let allowed = allowed();
    for fine in ["MIT", "GPL-3.0-only OR MIT", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(meets(fine, &allowed), "{fine}");
    }
    for not in ["", "GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0 WITH Classpath-exception-2.0", "as I like"] {
        assert!(!meets(not, &allowed), "{not}");
    }
}
