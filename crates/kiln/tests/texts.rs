//! Texts through the verbs: captions in files, words held out, matching, searching, drawing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use std::fs;

use common::{done, refused};
use kiln_data::Picture;
use serde_json::Value;

const CLIP: &str = "train clip --data starter:noto --steps 3 --batch 8 --set model.image_width=16 --set model.image_layers=1 \
                    --set model.text_width=16 --set model.text_layers=1 --set model.projection_dim=8";

#[test]
fn labels_are_chosen_and_images_found_by_texts() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    done(here, &format!("{CLIP} --out run"));
    done(here, "data show starter:noto -n 4 --size 32 --captions --out sheet.png");
    let rows = done(here, "data show starter:noto -n 4 --size 32 --captions --out sheet.png --json");
    let first: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!(first["captions"].as_array().unwrap().len(), 2);

    let folder = here.join("images");
    fs::create_dir(&folder).unwrap();
    for i in 0..5u8 {
        Picture::new(20, 20, 3, vec![40 * i; 1200]).unwrap().write_png(&folder.join(format!("{i}.png")), &[]).unwrap();
    }
    let text = done(here, "classify run images --labels heart face --template {} --template red.{} --json");
    assert_eq!(text.lines().count(), 5);
    assert!(text.lines().all(|line| line.contains("heart") || line.contains("face")), "{text}");
    let found = done(here, "search run images --text heart -n 3 --out found.png --json");
    assert_eq!(found.lines().count(), 4);
    assert!(here.join("found.png").is_file());
    done(here, "search run starter:twemoji --text heart -n 2");
    let measured = done(here, "evaluate run --metrics retrieval -n 20 --split test --json");
    assert_eq!(measured.lines().count(), 4, "{measured}");
    done(here, "evaluate run --metrics zero_shot -n 20 --split test --against starter --template a.{}");

    for (command, said) in [
        ("classify run images", "--labels"),
        ("classify run images --labels heart", "two"),
        ("classify run images --labels heart face --template red", "{}"),
        ("search run images --text qqqq", "qqqq"),
        ("evaluate run --metrics retrieval --against starter", "captions"),
        ("sample run -n 1 --out out", "sample"),
    ] {
        let line = refused(here, command);
        assert!(line.contains(said), "{command}: {line}");
    }
}

#[test]
fn images_are_drawn_from_texts() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let small = "--batch 4 --steps 2 --set data.size=16 --set train.preview_count=1";
    done(
        here,
        &format!(
            "train first-stage --data starter:noto {small} --set model.block_out_channels=[4,8] --set model.norm_num_groups=4 \
             --set model.discriminator_channels=4 --out stage"
        ),
    );
    done(here, "data show starter:noto -n 1 --size 16 --out one.png");
    done(here, "reconstruct stage one.png back.png");
    let unet =
        "--set model.unet.base_channels=8 --set model.unet.groups=4 --set model.text_width=8 --set model.text_layers=1";
    let ldm = format!("train ldm --data starter:noto {small} {unet} --set model.sampling_steps=3");
    done(here, &format!("{ldm} --set model.first_stage=stage --out run"));
    fs::write(here.join("texts.txt"), "heart\n\nface\n").unwrap();
    done(here, "sample run -n 4 --text-file texts.txt --out both");
    done(here, "sample run -n 2 --text heart --guidance-scale 3 --negative-text face --out one");
    let read = |name: &str| Picture::open(&here.join(name)).unwrap();
    let whole = read("both/00000.png");
    done(here, "sample run -n 1 --text heart --out alone");
    assert_eq!(whole.pixels, read("alone/00000.png").pixels);
    let kept = kiln_data::read_png_text(&here.join("both/00001.png")).unwrap();
    assert!(kept.iter().any(|(_, text)| text.contains("--text \"face\"")), "{kept:?}");

    for (command, said) in [
        (format!("{ldm} --out no"), "model.first_stage"),
        (format!("{ldm} --set model.first_stage=run --out no"), "first-stage"),
        ("sample run -n 1 --text qqqq --out no".into(), "qqqq"),
        ("sample run -n 1 --negative-text face --out no".into(), "--text"),
        ("sample run -n 1 --text heart --negative-text face --out no".into(), "--guidance-scale"),
        ("sample run -n 1 --text heart --class 1 --out no".into(), "--class"),
    ] {
        let line = refused(here, &command);
        assert!(line.contains(said), "{command}: {line}");
    }
}

#[test]
fn captions_of_many_are_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let set = here.join("set");
    fs::create_dir(&set).unwrap();
    for i in 0..8u8 {
        Picture::new(4, 4, 3, vec![30 * i; 48]).unwrap().write_png(&set.join(format!("{i}.png")), &[]).unwrap();
    }
    let lines = |last: &str| -> String {
        let all = (0..7).map(|i| format!("{{\"file_name\": \"{i}.png\", \"text\": \"grey {i}\"}}\n"));
        all.chain([last.to_string()]).collect()
    };
    let show = "data show set -n 8 --captions --split all --out sheet.png";
    fs::write(set.join("metadata.jsonl"), lines("{\"file_name\": \"7.png\", \"text\": \"white\"}\n")).unwrap();
    assert!(done(here, show).contains("white"));
    done(here, "data show without-white:set -n 8 --split all --out seen.png");
    for (last, said) in [
        ("{\"file_name\": \"9.png\", \"text\": \"none\"}", "line 8"),
        ("{\"file_name\": \"7.png\", \"text\": \"  \"}", "no words"),
        ("{\"file_name\": \"7.png\"}", "line 8"),
    ] {
        fs::write(set.join("metadata.jsonl"), lines(last)).unwrap();
        let line = refused(here, show);
        assert!(line.contains(said), "{line}");
    }
}
