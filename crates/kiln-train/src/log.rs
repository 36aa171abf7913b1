//! The log of a run: JSON lines, and the same numbers and the previews as TensorBoard events.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use kiln_core::{Context, Result, output, read_file};
use kiln_data::Picture;
use serde_json::{Map, Value};

use crate::tensorboard::EventFile;

/// Appends records to `log.jsonl` and to an event file below `tensorboard`.
pub struct Log {
    path: PathBuf,
    lines: File,
    events: EventFile,
}

impl Log {
    /// Opens the log of a run that has seen `images`. Records of later images, left by a process that
    /// was killed, are dropped, since they will be written again.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn open(root: &Path, images: u64) -> Result<Self> {
        let path = root.join("log.jsonl");
        if path.exists() {
            let bytes = read_file(&path, u64::MAX)?;
            let is_kept = |line: &&[u8]| {
                let record: Option<Value> = serde_json::from_slice(line).ok();
                record.and_then(|r| r["images"].as_u64()).is_some_and(|i| i <= images)
            };
            // A damaged line is dropped, and no other with it.
            let kept: Vec<u8> =
                bytes.split(|&b| b == b'\n').filter(is_kept).flat_map(|line| [line, b"\n"].concat()).collect();
            output::write(&path, &kept)?;
        }
        let lines = output::append(&path)?;
        let events = EventFile::create(&root.join("tensorboard"), images)?;
        Ok(Self { path, lines, events })
    }

    /// Writes one record, and each of its values as a TensorBoard scalar of the same name.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn record(&mut self, images: u64, steps: u64, seconds: f64, values: &[(String, f64)]) -> Result<()> {
        let mut record = Map::new();
        record.insert("images".into(), images.into());
        record.insert("steps".into(), steps.into());
        record.insert("seconds".into(), ((seconds * 1000.0).round() / 1000.0).into());
        record.extend(values.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        writeln!(self.lines, "{}", Value::Object(record)).context(|| self.path.display())?;
        self.events.scalars(images, values)
    }

    /// Shows a preview among TensorBoard's images.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn preview(&mut self, images: u64, picture: &Picture) -> Result<()> {
        self.events.image(images, "preview", picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_drops_what_came_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 0).unwrap();
        for images in [10, 20, 30] {
            log.record(images, images, 0.5, &[("loss".into(), 1.0)]).unwrap();
        }
        drop(log);
        // A damaged line takes no other with it.
        let path = dir.path().join("log.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.splice(0..0, *b"{\"images\": 5, \xff}\n");
        std::fs::write(&path, &bytes).unwrap();
        let mut log = Log::open(dir.path(), 20).unwrap();
        log.record(30, 3, 1.0, &[("loss".into(), 2.0)]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
        let images: Vec<u64> =
            text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["images"].as_u64().unwrap()).collect();
        assert_eq!(images, [10, 20, 30]);
    }
}
