//! How does a run show itself in TensorBoard?
//!
//! An event file is a row of TFRecords, each an `Event` message of TensorFlow's `event.proto` and `summary.proto`. Only the
//! fields that Kiln writes are declared here.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_core::{Context, Result};
use kiln_data::Picture;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1 is START.
    #[prost(int32, tag = "1")]
    status: i32,
}

const START: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 1 is grey, 3 RGB, 4 RGBA: the number of channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    png: Vec<u8>,
}

/// An event file that is written to.
pub(crate) struct EventFile(File);

impl EventFile {
    /// Opens a new event file in `folder`, which is made if need be, for what comes after `images`. TensorBoard then drops
    /// later events of older files, which a process that was killed has left.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(folder: &Path, images: u64) -> Result<Self> {
        fs::create_dir_all(folder).context(|| folder.display())?;
        // TensorBoard reads the files in the order of their names.
        let (mut second, path) = (now() as u64, |second| folder.join(format!("events.out.tfevents.{second:010}.kiln")));
        while path(second).exists() {
            second += 1;
        }
        let path = path(second);
        let file = File::options().create_new(true).append(true).open(&path).context(|| path.display())?;
        let mut events = Self(file);
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        events.write(images + 1, What::SessionLog(SessionLog { status: START }))?;
        Ok(events)
    }

    /// Writes each value as a scalar of its name.
    ///
    /// # Errors
    /// If the disk is full.
    pub(crate) fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let scalar =
            |(tag, value): &(String, f64)| Value { tag: tag.clone(), content: Some(Content::Scalar(*value as f32)) };
        self.write(step, What::Summary(Summary { values: values.iter().map(scalar).collect() }))
    }

    /// Writes a picture.
    ///
    /// # Errors
    /// If the disk is full.
    pub(crate) fn image(&mut self, step: u64, tag: &str, picture: &Picture) -> Result<()> {
        let image = Image {
            height: picture.height as i32,
            width: picture.width as i32,
            colorspace: picture.channels as i32,
            png: picture.encode_png(&[])?,
        };
        let value = Value { tag: tag.into(), content: Some(Content::Image(image)) };
        self.write(step, What::Summary(Summary { values: vec![value] }))
    }

    /// One TFRecord: length, its masked checksum, the bytes, their masked checksum.
    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time: now(), step: step as i64, what: Some(what) }.encode_to_vec();
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_checksum(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_checksum(&event).to_le_bytes());
        self.0.write_all(&record).context(|| "writing TensorBoard events")
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The events of a file.
    fn read(file: &Path) -> Vec<Event> {
        let bytes = fs::read(file).unwrap();
        let mut rest = bytes.as_slice();
        let mut take = |count: usize| rest.split_off(..count).unwrap();
        let mut events = Vec::new();
        let mut left = bytes.len();
        while left > 0 {
            let length: [u8; 8] = take(8).try_into().unwrap();
            assert_eq!(take(4), masked_checksum(&length).to_le_bytes());
            let length = u64::from_le_bytes(length) as usize;
            let event = take(length);
            assert_eq!(take(4), masked_checksum(event).to_le_bytes());
            events.push(Event::decode(event).unwrap());
            left -= 16 + length;
        }
        events
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tensorboard");
        let picture = Picture::new(3, 2, 3, (0..18).collect()).unwrap();
        let mut events = EventFile::create(&path, 0).unwrap();
        events.scalars(64, &[("loss".into(), 0.5), ("accuracy".into(), 0.0)]).unwrap();
        events.image(128, "preview", &picture).unwrap();

        let [version, start, scalars, image] =
            read(&fs::read_dir(&path).unwrap().next().unwrap().unwrap().path()).try_into().unwrap();
        assert!(version.wall_time > 1.7e9);
        assert_eq!((start.step, start.what), (1, Some(What::SessionLog(SessionLog { status: START }))));
        assert_eq!(version.what, Some(What::FileVersion("brain.Event:2".into())));
        let scalar = |tag: &str, value| Value { tag: tag.into(), content: Some(Content::Scalar(value)) };
        let values = vec![scalar("loss", 0.5), scalar("accuracy", 0.0)];
        assert_eq!((scalars.step, scalars.what), (64, Some(What::Summary(Summary { values }))));
        assert_eq!(image.step, 128);
        let Some(What::Summary(summary)) = image.what else { panic!("no summary") };
        let [Value { tag, content: Some(Content::Image(image)) }] = summary.values.as_slice() else {
            panic!("no image")
        };
        assert_eq!((tag.as_str(), image.height, image.width, image.colorspace), ("preview", 2, 3, 3));
        assert_eq!(Picture::decode(&image.png, "preview").unwrap(), picture);
    }

    #[test]
    fn a_resumed_run_begins_a_new_file_that_drops_later_events() {
        let folder = tempfile::tempdir().unwrap();
        // Killed before its first checkpoint, and after one.
        for images in [0, 0, 64] {
            EventFile::create(folder.path(), images).unwrap();
        }
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 3);
        for (file, step) in files.iter().zip([1, 1, 65]) {
            let [_, start] = read(file).try_into().unwrap();
            assert_eq!((start.step, start.what), (step, Some(What::SessionLog(SessionLog { status: START }))));
        }
    }

    /// The bytes that TensorFlow's own writer begins a file with, but for the time.
    #[test]
    fn messages_have_the_fields_of_tensorflow() {
        let version = Event { wall_time: 1.0, step: 0, what: Some(What::FileVersion("brain.Event:2".into())) };
        assert_eq!(version.encode_to_vec(), b"\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0dbrain.Event:2");
        let image = Image { height: 1, width: 2, colorspace: 3, png: vec![7] };
        let values = vec![Value { tag: "a".into(), content: Some(Content::Image(image)) }];
        let event = Event { wall_time: 0.0, step: 5, what: Some(What::Summary(Summary { values })) };
        assert_eq!(
            event.encode_to_vec(),
            b"\x10\x05\x2a\x10\x0a\x0e\x0a\x01a\x22\x09\x08\x01\x10\x02\x18\x03\x22\x01\x07"
        );
    }

    #[test]
    fn checksums_are_masked_crc32c() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_checksum(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
