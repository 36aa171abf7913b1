//! Images: decoding, and conversion to and from values in [-1, 1].

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::tiff::TiffDecoder;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, Limits};
use kiln_core::{Error, Result, budget, read_file};

use crate::{jpeg, png_palette, webp};

/// 8-bit picture, rows top to bottom, channels interleaved; channels is 1 (grey), 3 (RGB) or 4 (RGBA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey), 3 (RGB) or 4 (RGB and straight, not premultiplied, alpha).
    pub channels: usize,
    /// `height * width * channels` bytes.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A picture of the given bytes. An error if a side is 0, the channels are not 1, 3 or 4, or the
    /// bytes are not `width * height * channels`.
    pub fn new(width: usize, height: usize, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        if !matches!(channels, 1 | 3 | 4) {
            return Err(Error::new(format!(
                "a picture of {channels} channels: only 1 (grey), 3 (RGB) and 4 (RGBA) exist"
            )));
        }
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
        if width == 0 || height == 0 || wanted != Some(pixels.len()) {
            return Err(Error::new(format!(
                "{} bytes do not make a picture of {width} x {height} with {channels} channels",
                pixels.len()
            )));
        }
        Ok(Self { width, height, channels, pixels })
    }

    /// Decodes PNG, JPEG, WebP, GIF (the first frame), BMP, TIFF (the first page), PBM, PGM, PPM or PAM. 16-bit samples are
    /// rounded to 8 bits, palettes resolved, grey with alpha becomes RGBA, the camera's rotation is applied.
    ///
    /// # Errors
    /// Names `name`: what cannot be read, is cut off, or claims more pixels than [`budget`] allows.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(format!("{name}: not a readable picture ({e}); replace or remove the file"))
        };
        let format = image::guess_format(bytes).ok();
        let whole = match format {
            Some(ImageFormat::Jpeg) => jpeg::flaw(bytes).map_or(Ok(bytes), Err),
            Some(ImageFormat::Png) => png_palette::flaw(bytes).map_or(Ok(bytes), Err),
            Some(ImageFormat::WebP) => webp::whole(bytes),
            _ => Ok(bytes),
        };
        let whole = whole.map_err(|flaw| fail(&flaw))?;
        let mut reader = ImageReader::new(Cursor::new(whole)).with_guessed_format().map_err(|e| fail(&e))?;
        // What a picture of 16 bits a sample and four channels takes.
        let most = budget().pixels.saturating_mul(8);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(most);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|e| fail(&e))?;
        let (width, height) = decoder.dimensions();
        budget().check_pixels(width.into(), height.into(), name)?;
        if decoder.total_bytes() > most {
            return Err(fail(&"too many bytes a pixel"));
        }
        let turn = decoder.orientation().map_err(|e| fail(&e))?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(|e| fail(&e))?;
        image.apply_orientation(turn);
        let picture = Self::from_image(image).map_err(|e| fail(&e))?;
        // The GIF decoder always answers with alpha, used or not.
        let opaque = || picture.pixels.chunks_exact(4).all(|p| p[3] == 255);
        if format == Some(ImageFormat::Gif) && picture.channels == 4 && opaque() {
            return Ok(picture.with_channels(3, [255; 3]));
        }
        Ok(picture)
    }

    /// The largest value that a sample can have in a file: 255 where [`Picture::decode`] takes the values as they are, and
    /// another where it scales them to 8 bits. The colours of a palette are always of 8 bits.
    pub(crate) fn largest_value(bytes: &[u8], name: &str) -> Result<u32> {
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("{name}: not a readable picture ({e})"));
        Ok(match image::guess_format(bytes).map_err(|e| fail(&e))? {
            // Bits a sample and the colour type follow the size in a PNG's first chunk; type 3 is a palette.
            ImageFormat::Png => match bytes.get(24..26) {
                Some(&[_, 3]) => 255,
                Some(&[bits @ 1..=16, _]) => (1 << bits) - 1,
                _ => return Err(fail(&"it ends in its header")),
            },
            ImageFormat::Pnm => {
                PnmDecoder::new(Cursor::new(bytes)).map_err(|e| fail(&e))?.into_inner().1.maximal_sample()
            }
            ImageFormat::Tiff => {
                let colour = TiffDecoder::new(Cursor::new(bytes)).map_err(|e| fail(&e))?.original_color_type();
                let bits = colour.bits_per_pixel() / u16::from(colour.channel_count());
                u32::MAX >> (32 - u32::from(bits.clamp(1, 32)))
            }
            // The decoders of JPEG, WebP, GIF and BMP know 8 bits alone.
            _ => 255,
        })
    }

    fn from_image(image: DynamicImage) -> Result<Self> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let colour = image.color();
        let (channels, pixels) = match (colour.has_color(), colour.has_alpha()) {
            (false, false) => (1, image.into_luma8().into_raw()),
            (true, false) => (3, image.into_rgb8().into_raw()),
            (_, true) => (4, image.into_rgba8().into_raw()),
        };
        Self::new(width, height, channels, pixels)
    }

    /// The picture as it comes back from a JPEG of the given quality, 1 to 100; transparency is lost.
    ///
    /// # Errors
    /// If a side has more than 65,535 pixels, which a JPEG cannot have.
    pub fn compressed(&self, quality: u8) -> Result<Self> {
        let opaque = self.with_channels(self.channels.min(3), [255; 3]);
        let colour = if opaque.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode(&opaque.pixels, opaque.width as u32, opaque.height as u32, colour)
            .map_err(|e| Error::new(format!("a JPEG of {} x {} pixels: {e}", self.width, self.height)))?;
        Self::decode(&bytes, "a JPEG in memory")
    }

    /// Reads and decodes a file: see [`Picture::decode`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_file(path, budget().bytes)?;
        Self::decode(&bytes, &path.display().to_string())
    }

    /// The picture with 1, 3 or 4 channels (anything else counts as 3). Alpha is composited over
    /// `background`, colour becomes grey by the BT.601 luma, grey becomes three equal channels, and a
    /// new alpha is opaque.
    pub fn with_channels(&self, channels: usize, background: [u8; 3]) -> Self {
        if channels == self.channels {
            return self.clone();
        }
        let rgb = |p: &[u8]| match *p {
            [r, g, b, a] => {
                let over = |c: u8, under: u8| {
                    let a = u32::from(a);
                    ((u32::from(c) * a + u32::from(under) * (255 - a) + 127) / 255) as u8
                };
                [over(r, background[0]), over(g, background[1]), over(b, background[2])]
            }
            [r, g, b] => [r, g, b],
            _ => [p[0]; 3],
        };
        let from = self.pixels.chunks_exact(self.channels).map(rgb);
        let (channels, pixels) = match channels {
            1 => (1, from.map(luma).collect()),
            4 => (4, from.flat_map(|[r, g, b]| [r, g, b, 255]).collect()),
            _ => (3, from.flatten().collect()),
        };
        Self { width: self.width, height: self.height, channels, pixels }
    }

    /// The rectangle of the given size whose top left pixel is (`x`, `y`); it must lie inside.
    ///
    /// # Panics
    /// If it does not. This is an error of the caller; no input causes it.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let row = |r: usize| {
            let from = (r * self.width + x) * self.channels;
            &self.pixels[from..from + width * self.channels]
        };
        let pixels = (y..y + height).flat_map(|r| row(r).iter().copied()).collect();
        Self { width, height, channels: self.channels, pixels }
    }

    /// The picture with its last column and row repeated up to a size not below its own.
    pub fn extend(&self, width: usize, height: usize) -> Self {
        let pixel = |x: usize, y: usize| {
            let at = (y.min(self.height - 1) * self.width + x.min(self.width - 1)) * self.channels;
            &self.pixels[at..at + self.channels]
        };
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y).iter().copied())).collect();
        Self { width, height, channels: self.channels, pixels }
    }

    /// The mirror image: left becomes right.
    pub fn flipped(&self) -> Self {
        let row = |r: &[u8]| -> Vec<u8> { r.chunks_exact(self.channels).rev().flatten().copied().collect() };
        let pixels = self.pixels.chunks_exact(self.width * self.channels).flat_map(row).collect();
        Self { pixels, ..*self }
    }

    /// From planar values (channels, height, width) in [-1, 1]: `(v + 1) * 127.5`, rounded; values
    /// outside are clamped, NaN becomes black.
    ///
    /// # Panics
    /// If `values` is not `channels * height * width` long. This is an error of the caller; no input causes it.
    pub fn from_unit(values: &[f32], channels: usize, height: usize, width: usize) -> Self {
        assert_eq!(values.len(), channels * height * width, "values do not fit the shape");
        let plane = height * width;
        let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let pixels = (0..plane).flat_map(|p| (0..channels).map(move |c| byte(values[c * plane + p]))).collect();
        Self { width, height, channels, pixels }
    }

    /// Planar values (channels, height, width) in [-1, 1]: `v / 127.5 - 1`.
    pub fn to_unit(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.pixels.len());
        for c in 0..self.channels {
            let plane = self.pixels.iter().skip(c).step_by(self.channels);
            values.extend(plane.map(|&v| f32::from(v) / 127.5 - 1.0));
        }
        values
    }
}

/// BT.601 luma with 16-bit weights, rounded: what Pillow's `convert("L")` computes.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_that_of_the_file() {
        let png = |bits: u8, colours: u8| {
            let start = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01".iter().copied();
            Picture::largest_value(&start.chain([bits, colours, 0, 0, 0]).collect::<Vec<u8>>(), "a.png")
        };
        assert_eq!([1, 2, 4, 8, 16].map(|bits| png(bits, 0).unwrap()), [1, 3, 15, 255, 65535]);
        assert_eq!(png(4, 3).unwrap(), 255);
        assert!(Picture::largest_value(b"\x89PNG\r\n\x1a\n", "a.png").is_err());
        let pgm = |text: &str| Picture::largest_value(text.as_bytes(), "a.pgm").unwrap();
        assert_eq!((pgm("P2 2 1 15 3 4 "), pgm("P2 2 1 255 3 4 ")), (15, 255));
    }
}
