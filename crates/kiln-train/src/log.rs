//! The log of a run: JSON lines, and the same numbers as TensorBoard events.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_core::{Context, Result};
use protobuf::Message;
use serde_json::{Map, Value};
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{Summary, Summary_Value};

use crate::checkpoint::write_atomically;

/// Appends records to `log.jsonl` and to an event file below `tensorboard`.
pub struct Log {
    path: PathBuf,
    lines: File,
    events: File,
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
            let file = File::open(&path).context(|| path.display())?;
            let kept: String = BufReader::new(file)
                .lines()
                .map_while(std::io::Result::ok)
                .filter(|line| {
                    let record: Option<Value> = serde_json::from_str(line).ok();
                    record.and_then(|r| r["images"].as_u64()).is_some_and(|i| i <= images)
                })
                .map(|line| line + "\n")
                .collect();
            write_atomically(&path, kept.as_bytes())?;
        }
        let lines = OpenOptions::new().create(true).append(true).open(&path).context(|| path.display())?;
        let folder = root.join("tensorboard");
        fs::create_dir_all(&folder).context(|| folder.display())?;
        let file = folder.join(format!("events.out.tfevents.{}.kiln", now() as u64));
        let events = OpenOptions::new().create(true).append(true).open(&file).context(|| file.display())?;
        let mut log = Self { path, lines, events };
        let mut version = Event::new();
        version.set_wall_time(now());
        version.set_file_version("brain.Event:2".to_string());
        log.write_event(&version)?;
        Ok(log)
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

        let mut summary = Summary::new();
        for (name, value) in values {
            let mut scalar = Summary_Value::new();
            scalar.set_tag(name.clone());
            scalar.set_simple_value(*value as f32);
            summary.mut_value().push(scalar);
        }
        let mut event = Event::new();
        event.set_wall_time(now());
        event.set_step(images as i64);
        event.set_summary(summary);
        self.write_event(&event)
    }

    /// One TFRecord: length, its masked checksum, the bytes, their masked checksum.
    fn write_event(&mut self, event: &Event) -> Result<()> {
        let bytes = event.write_to_bytes().context(|| "TensorBoard event")?;
        let length = (bytes.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_checksum(&length).to_le_bytes());
        record.extend(&bytes);
        record.extend(masked_checksum(&bytes).to_le_bytes());
        self.events.write_all(&record).context(|| "writing TensorBoard events")
    }
}

/// CRC-32C rotated and offset, so that the checksum of data holding checksums stays useful.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
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
        let mut log = Log::open(dir.path(), 20).unwrap();
        log.record(30, 3, 1.0, &[("loss".into(), 2.0)]).unwrap();
        let text = fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
        let images: Vec<u64> =
            text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["images"].as_u64().unwrap()).collect();
        assert_eq!(images, [10, 20, 30]);
    }

    /// The checksum TensorFlow's record reader expects of eight zero bytes' length field.
    #[test]
    fn checksums_are_masked_crc32c() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_checksum(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
