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
    assert!(page(&book()) == written, "write it anew with `kiln claim --page`");
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
    let open = MetricValue::new("fid", 2.0, 10).within([1.0, f64::NAN]);
    assert_eq!(over_seeds(&[open]), (2.0, None, None));
    assert_eq!(over_seeds(&of(&[1.0, f64::INFINITY])), (f64::INFINITY, None, None));
}

/// A claim file of a VAE in a folder of its own, with these lines on top and this variant below.
fn claim_of(folder: &Path, top: &str, below: &str) -> Result<Claim> {
    let system = folder.join("recipes/vae");
    fs::create_dir_all(&system).unwrap();
    for name in ["vae", "ae", "ssvae"] {
        fs::write(system.join(format!("{name}.toml")), format!("system = \"{name}\"\n")).unwrap();
    }
    let path = system.join("claim.toml");
    fs::write(&path, format!("says = \"It\\nworks.\"\n{top}\n{below}")).unwrap();
    Claim::read(&path)
}

const VARIANT: &str = "[[variant]]\nname = \"a\"\nrecipe = \"vae.toml\"\n";
const MEASURE: &str = "[[measure]]\nlabel = \"test\"\nargs = \"--metrics nll --samples 200\"\n";

fn value_of(metric: &str, value: f64) -> Value {
    let text = r#"{"variant":"a","measure":"test","metric":"","value":0,"interval":[null,null],"n":1,"reference":"r","seeds":[0],
                   "images":1,"seconds":1,"hardware":"h","command":"c"}"#;
    Value { metric: metric.into(), value, ..serde_json::from_str(text).unwrap() }
}

#[test]
fn an_interval_without_ends_is_read_as_none() {
    assert_eq!(value_of("fid", 1.0).interval, None);
}

#[test]
fn metrics_go_by_their_base_and_are_known_before_they_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |expect: &str, measured: &[(&str, f64)]| {
        claim_of(dir.path(), &format!("expect = ['{expect}']"), &format!("{VARIANT}{MEASURE}")).unwrap();
        let results = dir.path().join("results");
        let mut book = Book::open(&dir.path().join("recipes"), &results).unwrap();
        book.keep(0, "a", "test", measured.iter().map(|(metric, value)| value_of(metric, *value)).collect()).unwrap();
        let verdict = book.verdicts(0).map(|judged| judged[0].0.to_string());
        (verdict.map_err(|e| e.to_string()), page(&book))
    };
    let known = [("bpd", 0.2), ("nll_200", 90.0)];
    for expect in ["nll <= 90", "nll[a] <= 90", "nll_200 <= 90", "nll_200[test] <= 90", "a <= 90", "bpd < 1"] {
        assert_eq!(judge(expect, &[]).0.unwrap(), "not measured", "{expect}");
        assert_eq!(judge(expect, &known).0.unwrap(), "holds", "{expect}");
    }
    for expect in ["nll_100 <= 90", "nll_exact <= 90", "nl <= 90", "fid[a] < 1", "nll <= 90 and fid < 1", "fid < nll"] {
        for measured in [&[][..], &known] {
            let (verdict, page) = judge(expect, measured);
            let said = verdict.unwrap_err();
            assert!(said.contains("no such value"), "{said}");
            // The page is written all the same, and its tables are whole.
            assert!(page.contains(&format!("| [vae](#vae) | It works. | error: {said} |\n")), "{page}");
        }
    }
    assert!(judge("conditional_nll <= 90", &[("conditional_nll_200", 90.0)]).0.is_ok());
    assert!(judge("a <= 90", &[("conditional_nll_200", 90.0)]).0.is_ok());
    assert!(judge("nll < 1", &[("nll_bound", 1.0), ("nll_200", 1.0)]).0.unwrap_err().contains("one of several"));
}

#[test]
fn what_nothing_fills_is_refused_when_a_claim_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let read = |below: &str| claim_of(dir.path(), "expect = []", below);
    let beside = |name: &str, system: &str| format!("[[beside]]\nname = \"{name}\"\nrecipe = \"{system}.toml\"\n");
    let set = |text: &str| format!("{VARIANT}set = [\"data.label_seed={{seed}}\", \"{text}\"]\n{MEASURE}");
    let args = |text: &str| format!("{VARIANT}[[measure]]\nargs = \"{text}\"\n");
    read(&format!("{}{}", set("model.m1={ae}"), beside("b", "ae"))).unwrap();
    read(&format!("{}{}", args("--classifier {ae}"), beside("b", "ae"))).unwrap();
    for (below, part) in [
        (set("model.m1={ae}"), "nothing fills `{ae}`"),
        (set("model.m1={ea}") + &beside("b", "ae"), "nothing fills `{ea}`; there is {seed}, {ae}"),
        (args("--classifier {vea}"), "nothing fills `{vea}`"),
        (args("--seed {seed}"), "nothing fills `{seed}`"),
        (set("x=1") + &beside("b", "ae") + "set = [\"x={ae}\"]\n", "nothing fills `{ae}`"),
        (set("x=1") + &beside("b", "ae") + &beside("c", "ae"), "two [[beside]] of ae"),
        (set("x=1") + &beside("A", "vae"), "one folder"),
    ] {
        let said = read(&below).unwrap_err();
        assert!(said.is_usage() && said.to_string().contains(part), "{said}");
    }
}

#[test]
fn names_of_variants_are_names_of_folders() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str| format!("[[variant]]\nname = \"{name}\"\nrecipe = \"vae.toml\"\n");
    let read = |names: &[&str]| {
        let variants: String = names.iter().map(|name| named(name)).collect();
        claim_of(dir.path(), "expect = []", &format!("{variants}{MEASURE}"))
    };
    read(&["K = 1.5", "K = 2"]).unwrap();
    for names in [&["a/b"][..], &["a\\\\b"], &["..", "b"], &["a\\nb"], &["A b", "a, b"], &["a b", "A B"]] {
        let said = read(names).unwrap_err();
        assert!(said.is_usage() && !said.to_string().contains('\n'), "{said}");
    }
}

#[test]
fn a_run_from_another_begins_with_its_settings() {
    let system = kiln_systems::find("vae").unwrap();
    let table = |text: &str| text.parse::<Table>().unwrap();
    let start = |tables: &[Table]| starting_point(&*system, tables.iter());
    assert_eq!(start(&[table("seed = 3")]).unwrap(), system.defaults().unwrap());
    let there_is_none = table("[train]\ninit_from = 'no such run'");
    start(std::slice::from_ref(&there_is_none)).unwrap_err();
    // The last says what counts.
    assert_eq!(start(&[there_is_none, table("[train]\ninit_from = ''")]).unwrap(), system.defaults().unwrap());
    // Another run's size and model are taken over.
    let dir = tempfile::tempdir().unwrap();
    let mut theirs = system.defaults().unwrap();
    let changes = "[data]\nsize = 8\nchannels = 1\nshape = [1, 8, 8]\n[model]\nlatent = 3";
    kiln_train::recipe::merge(&mut theirs, &table(changes), "test").unwrap();
    fs::write(dir.path().join("recipe.toml"), toml::to_string(&theirs).unwrap()).unwrap();
    let from = assignment(&format!("train.init_from={}", dir.path().display())).unwrap();
    let changes = Changes(vec![("test".into(), from)]);
    let recipe = changes.on_their_start(&*system).unwrap();
    assert_eq!((&recipe["model"], recipe["data"]["size"].as_integer()), (&theirs["model"], Some(8)));
}

#[test]
fn settings_that_a_run_fills_in_are_no_difference() {
    let table = |text: &str| text.parse::<Table>().unwrap();
    let told = |has: &str, wants: &str| difference(&table(has), &table(wants), "");
    for (has, wants) in [
        ("[data]\nsize = 64", "[data]\nsize = [64, 64]"),
        ("[data]\nsize = [64, 64]", "[data]\nsize = 64"),
        ("[data]\nvocabulary = 50", "[data]\nvocabulary = 100"),
        ("[data]\nvocabulary = 50", "[data]\nvocabulary = 0"),
    ] {
        assert_eq!(told(has, wants), None, "{has} {wants}");
    }
    // A folder that a run starts from, as a claim's command line says it and as the run keeps it.
    let whole = std::path::absolute("src").unwrap();
    let whole = format!("[model]\nencoder = '{}'", whole.display());
    assert_eq!(told(&whole, "[model]\nencoder = 'src'"), None);
    assert!(told(&whole, "[model]\nencoder = 'tests'").is_some());
    assert!(told("[data]\nsize = 64", "[data]\nsize = [64, 32]").is_some());
    assert!(told("[data]\nsize = 64", "[data]\nsize = 32").is_some());
    assert!(told("[data]\nvocabulary = 50", "[data]\nvocabulary = 20").is_some());
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
