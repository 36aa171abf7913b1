//! What people type: names of any bytes, outputs of any kind, numbers of any size.

#![allow(clippy::unwrap_used)] // a test may panic

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

fn kiln<S: AsRef<OsStr>>(folder: &Path, words: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.current_dir(folder).env("KILN_CACHE", folder.join("cache")).args(["--quiet", "--threads", "1"]);
    command.args(words).output().unwrap()
}

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

fn done(folder: &Path, line: &str) -> String {
    let output = kiln(folder, &words(line));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line, and the last, that a refused command prints.
fn refused(folder: &Path, line: &str, status: i32) -> String {
    told(kiln(folder, &words(line)), line, status)
}

fn told(output: Output, line: &str, status: i32) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{line}: {text}");
    let last = text.lines().last().unwrap_or_default().to_string();
    assert!(last.starts_with("kiln: ") && text.matches("kiln: ").count() == 1, "{line}: {text}");
    last
}

/// A folder with small runs `vae` and `ddpm`, and pictures `in`.
fn place() -> &'static Path {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    PLACE
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let small = "--batch 4 --steps 2 --set train.preview_every=0 --set train.preview_count=1";
            done(dir.path(), &format!("train vae --set model.hidden=[8] --set model.latent=3 {small} --out vae"));
            let net = "--set model.unet.base_channels=8 --set model.unet.groups=4 --set model.unet.blocks=1";
            done(
                dir.path(),
                &format!("train ddpm {net} --set model.unet.channel_multipliers=[1,1] {small} --out ddpm"),
            );
            done(dir.path(), "sample vae -n 3 --out in");
            dir
        })
        .path()
}

#[cfg(unix)]
#[test]
fn names_of_any_bytes_are_written_and_said() {
    use std::os::unix::ffi::OsStringExt;
    let dir = place();
    let name = |ending: &str| OsString::from_vec([b"caf\xe9", ending.as_bytes()].concat());
    let cases: [(&str, &str, &str); 8] = [
        ("sample vae -n 1 --out", "", ""),
        ("data show in --out", ".png", ""),
        ("reconstruct vae in/00000.png", ".png", ""),
        ("reconstruct vae in", "-all", ""),
        ("encode vae in --out", ".safetensors", ""),
        ("interpolate vae --steps 2 --out", "-walk.png", ""),
        ("edit vae --out", "-edit.png", "--traverse --columns 2 --start 0"),
        ("compare vae --metrics none --samples 1 --out", ".html", ""),
    ];
    for (before, ending, after) in cases {
        let mut line = words(&format!("--json {before}"));
        line.push(name(ending));
        line.extend(after.split(' ').filter(|word| !word.is_empty()).map(OsString::from));
        let output = kiln(dir, &line);
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(dir.join(name(ending)).exists(), "{line:?}");
        for object in String::from_utf8(output.stdout).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(object).unwrap();
        }
    }
    // A run's folder, and words that are read as text.
    let run = name("-run");
    let copied = Command::new("cp").arg("-r").arg(dir.join("vae")).arg(dir.join(&run)).status().unwrap();
    assert!(copied.success());
    let mut line = words("sample");
    line.extend([run, "-n".into(), "1".into(), "--out".into(), "of-bytes".into()]);
    assert!(kiln(dir, &line).status.success());
    for before in ["data show", "train vae --data", "train vae --set", "evaluate", "classify"] {
        let mut line = words(before);
        line.push(name(""));
        told(kiln(dir, &line), before, 2);
    }
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_written() {
    let dir = place();
    fs::write(dir.join("precious.png"), "kept").unwrap();
    std::os::unix::fs::symlink("precious.png", dir.join("link.png")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket.png")).unwrap();
    fs::create_dir(dir.join("folder.png")).unwrap();
    for name in ["link.png", "socket.png", "folder.png"] {
        for before in ["data show in --out", "interpolate vae --steps 2 --out", "reconstruct vae in/00000.png"] {
            let line = refused(dir, &format!("{before} {name}"), 2);
            assert!(line.contains(name), "{line}");
        }
    }
    refused(dir, "compare vae --metrics none --out link.png", 2);
    refused(dir, "encode vae in --out link.png", 2);
    assert!(refused(dir, "encode vae in --out /dev/null", 2).contains("not a regular file"));
    assert!(refused(dir, "sample vae -n 1 --out precious.png", 2).contains("not a folder"));
    assert_eq!(fs::read(dir.join("precious.png")).unwrap(), b"kept");
    assert!(fs::symlink_metadata(dir.join("link.png")).unwrap().is_symlink());
    for name in ["walk.jpg", "walk", "walk.tar.gz"] {
        assert!(refused(dir, &format!("interpolate vae --out {name}"), 2).contains(".png"));
        assert!(refused(dir, &format!("reconstruct vae in/00000.png {name}"), 2).contains(".png"));
    }
}

#[test]
fn numbers_out_of_their_range_are_refused_by_their_flag() {
    let dir = place();
    let most = u64::MAX;
    let cases = [
        format!("train vae --batch {most} --out n"),
        format!("train vae --steps {most} --out n"),
        "train vae --set train.preview_count=0 --out n".into(),
        "train vae --set model.optimizer.learning_rate=nan --out n".into(),
        "train ddpm --set model.timesteps=1000000000000 --out n".into(),
        "train vae --set data.channels=9 --out n".into(),
        "train vae --set model.hidden=[0] --out n".into(),
        "train vae --set model.hidden=[65536,65536,65536,65536,65536] --out n".into(),
        "sample vae -n 1 --truncation-psi nan --out n".into(),
        "sample vae -n 1 --truncation-psi inf --out n".into(),
        "sample ddpm -n 1 --guidance-interval 0,nan --out n".into(),
        "sample ddpm -n 1 --steps 100001 --out n".into(),
        format!("sample vae -n {most} --out n"),
        format!("edit vae --start {most} --minus 1 --plus 2 --out n.png"),
        "edit vae --start 0 --minus 1 --plus 2 --turn 1000000 --out n.png".into(),
        "edit vae --traverse --columns 1000000 --out n.png".into(),
        "edit vae --traverse --range 0 --out n.png".into(),
        "interpolate vae --steps 1000000 --out n.png".into(),
        format!("evaluate vae --bootstrap {most}"),
        "data show in --size 1000000 --out n.png".into(),
        "bench conv --batch 4096 --size 4096 --channels 4096".into(),
        "systems --threads 100000".into(),
    ];
    for line in cases {
        let said = refused(dir, &line, 2);
        assert!([" to ", "at most", "GiB"].iter().any(|part| said.contains(part)), "{line}: {said}");
    }
    assert!(!dir.join("n").exists() && !dir.join("n.png").exists());
    let help = done(dir, "evaluate --help");
    assert!(help.contains("[range: 0 to 10000]"), "{help}");
}

#[test]
fn a_run_whose_recipe_was_edited_to_nonsense_is_refused() {
    let dir = place();
    let recipe = fs::read_to_string(dir.join("vae/recipe.toml")).unwrap();
    let copied = Command::new("cp").args(["-r", "vae", "edited"]).current_dir(dir).status().unwrap();
    assert!(copied.success());
    let shape: String = recipe.split("shape = [").nth(1).unwrap().chars().take_while(|c| *c != ']').collect();
    let edits = [
        "system = \"vae\"".to_string(),
        recipe.replace(&shape, "0, 28, 28"),
        recipe.replace(&shape, "1, 0, 28"),
        recipe.replace(&shape, "0, 0, 0").replace("channels = 1\n", "channels = 0\n").replace("size = 28", "size = 0"),
        recipe.replace("latent = 3", "latent = 0"),
        recipe.replace("latent = 3", "latent = 9223372036854775807"),
    ];
    for edit in edits {
        assert_ne!(edit, recipe);
        fs::write(dir.join("edited/recipe.toml"), &edit).unwrap();
        let said = refused(dir, "sample edited -n 1 --out nonsense", 2);
        assert!(said.contains("recipe.toml"), "{said}");
    }
}

/// The settings that flags set are text where a recipe has text.
#[test]
fn folders_may_be_called_like_numbers() {
    let dir = place();
    for name in ["2024", "true", "2024-05-01"] {
        let copied = Command::new("cp").args(["-r", "in", name]).current_dir(dir).status().unwrap();
        assert!(copied.success());
        let small = "--batch 2 --dry-run --json";
        for flag in [format!("--data {name}"), format!("--set data.set={name}")] {
            let recipe: serde_json::Value =
                serde_json::from_str(&done(dir, &format!("train vae {flag} {small}"))).unwrap();
            assert!(recipe["data"]["set"].as_str().unwrap().ends_with(name), "{recipe}");
        }
    }
}

#[test]
fn names_cannot_steer_the_terminal() {
    let dir = place();
    for line in [
        "data show no\u{1b}[31mset --out x.png",
        "sample no\u{1b}[2Jrun -n 1 --out x",
        "\u{1b}[1mtrain",
        "train va\u{9b}2J",
    ] {
        let said = refused(dir, line, 2);
        assert!(!said.contains(['\u{1b}', '\u{9b}']), "{said:?}");
    }
}

#[test]
fn figures_before_a_failure_are_printed() {
    let dir = place();
    let line = "evaluate in --against starter/test --features run:vae --metrics fid,precision -n 4 --json";
    let output = kiln(dir, &words(line));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("\"measure\":\"fid\""), "{text}");
    let said = told(output, line, 2);
    assert!(said.contains("--metrics precision: in has"), "{said}");
}

#[test]
fn guides_and_runs_have_the_same_classes() {
    let dir = place();
    for class in ["left", "right"] {
        fs::create_dir_all(dir.join("other").join(class)).unwrap();
        for i in 0..3 {
            fs::copy(dir.join(format!("in/0000{i}.png")), dir.join(format!("other/{class}/{i}.png"))).unwrap();
        }
    }
    let small = "--batch 2 --steps 1 --set train.preview_count=1 --set model.channels=4 --set model.features=8";
    done(dir, &format!("train classifier --data other {small} --out judge"));
    let said = refused(dir, "sample ddpm -n 1 --steps 2 --class 1 --classifier judge --out guided", 2);
    assert!(said.contains("left, right") && said.contains("same classes"), "{said}");
    // So must a run's and those of the labels that it is measured on.
    done(dir, "evaluate judge --metrics accuracy --against other --quiet");
    let said = refused(dir, "evaluate judge --metrics accuracy --against starter --split test --quiet", 2);
    assert!(said.contains("its classes (T-shirt/top") && said.contains("trained on (left, right)"), "{said}");
}

/// Said before a picture is made, not after all of them.
#[test]
fn the_ode_has_no_trajectory_whoever_asks_for_it() {
    let dir = place();
    let copied = Command::new("cp").args(["-r", "ddpm", "by-ode"]).current_dir(dir).status().unwrap();
    assert!(copied.success());
    let recipe = fs::read_to_string(dir.join("ddpm/recipe.toml")).unwrap();
    let at = recipe.find("\nsampler = \"").unwrap() + 12;
    let end = at + recipe[at..].find('"').unwrap();
    fs::write(dir.join("by-ode/recipe.toml"), format!("{}ode{}", &recipe[..at], &recipe[end..])).unwrap();
    for line in ["sample by-ode -n 1 --trajectory --out ode", "sample ddpm -n 1 --sampler ode --trajectory --out ode"] {
        assert!(refused(dir, line, 2).contains("--trajectory"));
    }
    assert!(!dir.join("ode").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_verb_with_130() {
    let dir = place();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.current_dir(dir).args(words("sample vae -n 1000000 --out interrupted --quiet --threads 1"));
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    // Until it is at work.
    for _ in 0..600 {
        if dir.join("interrupted/00000.png").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let half = fs::read_dir(dir.join("interrupted"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with("partial"));
    assert_eq!(half.count(), 0);
}

/// Names reach the terminal only through `tell!`, `Error` and `Output`; and `eprintln!` panics where nobody reads.
#[test]
fn nothing_is_printed_raw() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["tests", "examples", "benches"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("println!("), "{}: use tell! or Output", path.display());
            }
        }
    }
}
