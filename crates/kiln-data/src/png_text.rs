//! PNG files with text chunks, which record how an image was made.

use std::io::BufReader;
use std::path::Path;

use kiln_core::{Context, Result, open_file, output};

use crate::Picture;

impl Picture {
    /// The picture as PNG with (keyword, text) pairs: a tEXt chunk where the text is Latin-1, else an
    /// iTXt chunk. Keywords are 1 to 79 Latin-1 characters, anything else is an error.
    pub fn encode_png(&self, text: &[(&str, &str)]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write_to(&mut out, text).context(|| "encoding a PNG")?;
        Ok(out)
    }

    fn write_to(&self, out: &mut Vec<u8>, text: &[(&str, &str)]) -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(out, self.width as u32, self.height as u32);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            4 => png::ColorType::Rgba,
            _ => png::ColorType::Rgb,
        });
        for &(keyword, value) in text {
            // NUL ends a tEXt keyword and is not text; iTXt holds any other Unicode.
            if value.chars().all(|c| c != '\0' && (c as u32) < 256) {
                encoder.add_text_chunk(keyword.into(), value.into())?;
            } else {
                encoder.add_itxt_chunk(keyword.into(), value.into())?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()
    }

    /// Writes [`Picture::encode_png`] as [`output::write`] does.
    pub fn write_png(&self, path: &Path, text: &[(&str, &str)]) -> Result<()> {
        output::write(path, &self.encode_png(text)?)
    }
}

/// Bytes that the texts of a PNG may have, decompressed.
const TEXT: usize = 1 << 26;

/// The (keyword, text) pairs of a PNG: tEXt first, then zTXt and iTXt, each in the file's order.
pub fn read_png_text(path: &Path) -> Result<Vec<(String, String)>> {
    let (file, _) = open_file(path)?;
    let place = || format!("{}: reading its PNG text", path.display());
    let mut reader =
        png::Decoder::new_with_limits(BufReader::new(file), png::Limits { bytes: TEXT }).read_info().context(place)?;
    reader.finish().context(place)?;
    let info = reader.info();
    let mut pairs: Vec<(String, String)> = Vec::new();
    pairs.extend(info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone())));
    for mut chunk in info.compressed_latin1_text.iter().cloned() {
        chunk.decompress_text_with_limit(TEXT).context(place)?;
        pairs.push((chunk.keyword.clone(), chunk.get_text().context(place)?));
    }
    for mut chunk in info.utf8_text.iter().cloned() {
        chunk.decompress_text_with_limit(TEXT).context(place)?;
        pairs.push((chunk.keyword.clone(), chunk.get_text().context(place)?));
    }
    Ok(pairs)
}
