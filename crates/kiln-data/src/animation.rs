//! Pictures one after another in one file: GIF and APNG.

use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbaImage};
use kiln_core::{Context, Error, Result, output, refuse_if};

use crate::Picture;

/// What an animation may be written as, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Animation {
    /// 256 colours a frame; every program shows it.
    Gif,
    /// Every colour; browsers show it.
    Apng,
}

impl Animation {
    /// By the end of a file's name: `.gif` or `.apng`; `None` for any other.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "gif" => Some(Self::Gif),
            "apng" => Some(Self::Apng),
            _ => None,
        }
    }

    /// Writes frames of one size, each shown for `milliseconds`, over and over again.
    ///
    /// # Errors
    /// If there are no frames, they differ in size, or the file cannot be written.
    pub fn write(self, path: &Path, frames: &[Picture], milliseconds: u32) -> Result<()> {
        let Some(first) = frames.first() else { return Err(Error::new("an animation of no frames")) };
        let size = (first.width, first.height);
        refuse_if!(frames.iter().any(|f| (f.width, f.height) != size), "an animation of frames of several sizes");
        let bytes = match self {
            Self::Gif => gif(frames, milliseconds),
            Self::Apng => apng(frames, milliseconds),
        };
        output::write(path, &bytes.context(|| path.display())?)
    }
}

fn gif(frames: &[Picture], milliseconds: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.set_repeat(Repeat::Infinite).context(|| "GIF")?;
    for frame in frames {
        let rgba = frame.with_channels(4, [255; 3]);
        let image = RgbaImage::from_raw(frame.width as u32, frame.height as u32, rgba.pixels)
            .ok_or_else(|| Error::new("a frame without its pixels"))?;
        let delay = Delay::from_numer_denom_ms(milliseconds, 1);
        encoder.encode_frame(Frame::from_parts(image, 0, 0, delay)).context(|| "GIF")?;
    }
    drop(encoder);
    Ok(bytes)
}

fn apng(frames: &[Picture], milliseconds: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = (frames[0].width as u32, frames[0].height as u32);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Played over and over: 0 has no end.
    encoder.set_animated(frames.len() as u32, 0).context(|| "APNG")?;
    encoder.set_frame_delay(milliseconds.min(u32::from(u16::MAX)) as u16, 1000).context(|| "APNG")?;
    let mut writer = encoder.write_header().context(|| "APNG")?;
    for frame in frames {
        writer.write_image_data(&frame.with_channels(3, [255; 3]).pixels).context(|| "APNG")?;
    }
    writer.finish().context(|| "APNG")?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::AnimationDecoder;
    use image::codecs::gif::GifDecoder;
    use image::codecs::png::PngDecoder;

    use super::*;

    #[test]
    fn frames_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let frame = |level: u8| Picture::new(3, 2, 1, vec![level; 6]).unwrap();
        let frames = [frame(0), frame(128), frame(255)];
        for (name, kind) in [("a.gif", Animation::Gif), ("a.APNG", Animation::Apng)] {
            let path = folder.path().join(name);
            assert_eq!(Animation::of(&path), Some(kind));
            kind.write(&path, &frames, 40).unwrap();
            let bytes = std::io::Cursor::new(std::fs::read(&path).unwrap());
            let read = match kind {
                Animation::Gif => GifDecoder::new(bytes).unwrap().into_frames().collect_frames().unwrap(),
                Animation::Apng => {
                    PngDecoder::new(bytes).unwrap().apng().unwrap().into_frames().collect_frames().unwrap()
                }
            };
            let levels: Vec<u8> = read.iter().map(|frame| frame.buffer().as_raw()[0]).collect();
            assert_eq!(levels, [0, 128, 255], "{name}");
            assert_eq!(read[1].delay().numer_denom_ms(), (40, 1), "{name}");
        }
        assert_eq!(Animation::of(Path::new("a.png")), None);
        let wide = Picture::new(4, 2, 1, vec![0; 8]).unwrap();
        assert!(Animation::Gif.write(&folder.path().join("b.gif"), &[frame(0), wide], 40).is_err());
        assert!(Animation::Gif.write(&folder.path().join("b.gif"), &[], 40).is_err());
    }
}
