//! Captions of many pictures in one file, as trainers of the field have them: a `metadata.jsonl`, or a `captions.csv` or
//! `metadata.csv`, with `file_name` and `text`.

use std::collections::BTreeMap;

use kiln_core::{Context, Error, Result, refuse_if};
use serde::Deserialize;

/// What such a file is called.
const FILES: [&str; 3] = ["metadata.jsonl", "captions.csv", "metadata.csv"];

/// Whether a file of this path holds captions.
pub(crate) fn is_captions(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| FILES.contains(&name))
}

/// A line.
#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

/// A caption, and the line that it stands in.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The captions of a file by the path of the picture, which is written from the file's own folder. `path` is the file's, `place`
/// what messages call it.
///
/// # Errors
/// Names the line that is no caption of a picture, has no words, or speaks of the same picture as another.
pub(crate) fn parse(bytes: Vec<u8>, path: &str, place: &str) -> Result<BTreeMap<String, Told>> {
    let text = String::from_utf8(bytes).context(|| format!("{place}: not UTF-8 text"))?;
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let mut captions = BTreeMap::new();
    let lines = if path.ends_with(".csv") { csv_lines(&text, place)? } else { json_lines(&text, place)? };
    for (line, Line { file_name, text }) in lines {
        let text = text.trim();
        refuse_if!(
            !text.chars().any(char::is_alphanumeric),
            "{place}, line {line}: the caption of {file_name} has no words; write some, or leave the line out"
        );
        let picture = format!("{folder}{}", file_name.trim_start_matches("./").replace('\\', "/"));
        let told = Told { text: text.split_whitespace().collect::<Vec<_>>().join(" "), line };
        if let Some(before) = captions.insert(picture, told) {
            let before = before.line;
            return Err(Error::new(format!(
                "{place}, line {line}: {file_name} has a caption in line {before} already"
            )));
        }
    }
    Ok(captions)
}

fn json_lines(text: &str, place: &str) -> Result<Vec<(usize, Line)>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line)| {
        let wrong = |e: serde_json::Error| {
            Error::new(format!("{place}, line {number}: no object with a `file_name` and a `text` ({e})"))
        };
        Ok((number, serde_json::from_str(line).map_err(wrong)?))
    };
    lines.map(read).collect()
}

fn csv_lines(text: &str, place: &str) -> Result<Vec<(usize, Line)>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().context(|| place)?;
    refuse_if!(
        !["file_name", "text"].iter().all(|column| header.iter().any(|name| name == *column)),
        "{place}: its first line must name the columns file_name and text"
    );
    let header = header.clone();
    let read = |record: csv::Result<csv::StringRecord>| {
        let record = record.context(|| place)?;
        let line = record.position().map_or(0, |at| at.line() as usize);
        Ok((line, record.deserialize(Some(&header)).context(|| format!("{place}, line {line}"))?))
    };
    reader.records().map(read).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(path: &str, text: &str) -> Result<Vec<(String, String)>> {
        let captions = parse(text.into(), path, path)?;
        Ok(captions.into_iter().map(|(picture, told)| (picture, told.text)).collect())
    }

    #[test]
    fn lines_of_either_kind() {
        let json = "{\"file_name\": \"b.png\", \"text\": \" a \\n red fish\", \"other\": 3}\n\n{\"text\": \"two\", \"file_name\": \"./c/d.jpg\"}\n";
        let expected = [("train/b.png", "a red fish"), ("train/c/d.jpg", "two")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(read("train/metadata.jsonl", json).unwrap(), expected);
        let csv = "id,file_name,text\n1,b.png,\"a\nred fish\"\n2,c\\d.jpg,two\n";
        assert_eq!(read("train/captions.csv", csv).unwrap(), expected);
        assert!(is_captions("a/metadata.csv") && is_captions("metadata.jsonl") && !is_captions("metadata.json"));
    }

    #[test]
    fn what_is_no_caption_is_named_by_its_line() {
        for (path, text, said) in [
            ("metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"b.png\"}", "line 2"),
            ("metadata.jsonl", "{\"file_name\": \"a.png\", \"text\": \" … \"}", "no words"),
            ("metadata.jsonl", "nothing", "line 1"),
            ("captions.csv", "file,caption\na.png,x\n", "file_name and text"),
            ("captions.csv", "file_name,text\na.png,x\na.png,y\n", "line 3: a.png has a caption in line 2"),
            ("captions.csv", "file_name,text\na.png,x,z\n", "captions.csv"),
        ] {
            let error = read(path, text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = parse(vec![0xff], "metadata.jsonl", "metadata.jsonl").unwrap_err().to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}
