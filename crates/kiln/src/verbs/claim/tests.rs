#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;

use super::*;
use crate::verbs::evaluate;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn book() -> Book {
    Book::open(&project("recipes"), &project("docs/results")).unwrap()
}

/// Recipes exist and take their settings, `kiln evaluate` takes the measures, expectations speak of values that there are.
#[test]
fn every_claim_can_be_reproduced() {
    let book = book();
    assert!(book.claims.len() >= 24);
    let same = |word: &str| word.to_string();
    for (at, measured) in book.claims.iter().enumerate() {
        let claim = &measured.claim;
        let name = &claim.name;
        for variant in claim.variants.iter().chain(&claim.beside) {
            let (system, changes) = settings(claim, variant, 3, Some(100), &same).unwrap();
            changes.on(system.defaults().unwrap()).unwrap();
        }
        let filled: Vec<String> =
            claim.beside.iter().map(|v| format!("{{{}}}", claim.recipe(v).unwrap().0.id())).collect();
        for variant in &claim.variants {
            for text in &variant.set {
                let known = filled.iter().fold(text.replace("{seed}", ""), |text, run| text.replace(run, ""));
                assert!(!known.contains(['{', '}']), "{name}: `{text}` names no run beside");
            }
        }
        for measure in &claim.measures {
            for metric in claim.evaluation(measure, "RUN", &same).unwrap().metrics() {
                evaluate::find(metric).unwrap();
            }
        }
        assert!(!claim.expect.is_empty(), "{name} expects nothing");
        book.verdicts(at).unwrap();
        let metrics: Vec<&String> = measured.values.iter().map(|v| &v.metric).collect();
        let missing = claim.show.iter().find(|metric| !metrics.contains(metric));
        assert!(metrics.is_empty() || missing.is_none(), "{name}: shows {missing:?}, which was not measured");
        for value in &measured.values {
            assert!(claim.variants.iter().any(|v| v.name == value.variant), "{name}: {value:?} of no variant");
            assert!(claim.measures.iter().any(|m| m.label == value.measure), "{name}: {value:?} of no measure");
        }
    }
}

/// Names that people have typed so far.
#[test]
fn claims_go_by_their_names() {
    let names: Vec<String> =
        book().claims.iter().flat_map(|m| std::iter::once(&m.claim.name).chain(&m.claim.also)).cloned().collect();
    let known = "aae aae-semi-supervised ae betatcvae betavae cvae cyclegan dann dcgan dcign ddpm ddim solvers sde bound cfg adm \
                 universal dvae iwae pixelcnn pixelcnn-outliers pixelrnn ssvae vae vae-fashion vae-outliers";
    for name in known.split_whitespace() {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), names.len(), "a name of two claims");
}

#[test]
fn the_results_page_is_what_the_claims_and_their_values_say() {
    let written = fs::read_to_string(project("docs/results.md")).unwrap();
    assert!(page(&book()).unwrap() == written, "write it anew with `kiln claim --page`");
}

#[test]
fn digits_go_as_far_as_what_is_known() {
    let value = |value: f64, std: Option<f64>, interval: Option<[f64; 2]>| {
        let text = r#"{"variant":"a","measure":"","metric":"m","value":null,"n":1,"reference":"r","seeds":[0],"images":1,
                       "seconds":1,"hardware":"h","command":"c"}"#;
        let read: Value = serde_json::from_str(text).unwrap();
        assert!(read.value.is_nan());
        shown(&Value { value, std, interval, ..read })
    };
    assert_eq!(value(90.122, Some(0.223), None), "90.12 ± 0.22");
    assert_eq!(value(0.823, Some(0.005), None), "0.823 ± 0.005");
    assert_eq!(value(92.2, None, Some([91.7, 92.7])), "92.2 [91.7, 92.7]");
    assert_eq!(value(0.378, Some(0.01), None), "0.378 ± 0.010");
    assert_eq!(value(0.975, Some(0.001), None), "0.975 ± 0.001");
    assert_eq!(value(275.3, Some(11.5), None), "275.3 ± 11.5");
    assert_eq!(value(36.528, None, Some([32.846, 39.094])), "36.5 [32.8, 39.1]");
    assert_eq!(value(0.97, None, None), "0.970");
    assert_eq!(value(0.002, Some(0.0), None), "0.002 ± 0.000");
    assert_eq!(value(54.228, None, None), "54.2");
}

#[test]
fn values_over_seeds_are_a_mean_and_its_deviation() {
    let of = |values: &[f64]| values.iter().map(|&v| MetricValue::new("fid", v, 10)).collect::<Vec<_>>();
    assert_eq!(over_seeds(&of(&[1.0, 3.0])), (2.0, Some(2f64.sqrt()), None));
    let one = MetricValue::new("fid", 2.0, 10).within([1.0, 3.0]);
    assert_eq!(over_seeds(&[one]), (2.0, None, Some([1.0, 3.0])));
}

#[test]
fn a_run_of_other_settings_is_told_by_the_first_of_them() {
    let table = |text: &str| text.parse::<Table>().unwrap();
    let recipe = table(
        "system = 'vae'\n[data]\nset = 'mnist'\n[train]\nema_half_life = 60000.0\nlog_every = 5\n[model]\nhidden = [5, 5]",
    );
    let told = |text: &str| difference(&recipe, &table(text), "");
    assert_eq!(told("system = 'vae'\n[data]\nset = 'mnist'\n[model]\nhidden = [5, 5]"), None);
    assert_eq!(told("[train]\nema_half_life = 60000"), None);
    assert_eq!(told("[train]\nlog_every = 6"), None);
    assert_eq!(told("[data]\nset = 'fashion'").unwrap(), "data.set = \"mnist\" and not \"fashion\"");
    assert_eq!(told("[model]\nhidden = [5]").unwrap(), "model.hidden = [5, 5] and not [5]");
    assert_eq!(told("[model]\nlatent = 2").unwrap(), "model.latent unknown and not 2");
}
