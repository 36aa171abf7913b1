//! Contact sheets: many images in a grid.

use kiln_core::{Error, Result, refuse_if};

use crate::Picture;

const GAP: usize = 2;
/// Pixels of a sheet, at most.
const LARGEST: usize = 1 << 28;
/// Without a scale, pictures are enlarged until their longer side has at least this many pixels.
const VISIBLE: usize = 64;

/// Grid of equally sized pictures, row by row, with 2-pixel white gaps.
///
/// `columns` 0 makes the grid about square. Each picture is enlarged `scale` times by repeating
/// pixels; `scale` 0 enlarges small ones until they are easily seen. Grey if all are grey, else RGB,
/// with alpha over white. Pictures of different sizes, or none at all, are an error.
pub fn contact_sheet(pictures: &[Picture], columns: usize, scale: usize) -> Result<Picture> {
    let Some(first) = pictures.first() else {
        return Err(Error::new("a contact sheet of no pictures"));
    };
    let (width, height) = (first.width, first.height);
    if let Some(other) = pictures.iter().find(|p| (p.width, p.height) != (width, height)) {
        return Err(Error::new(format!(
            "a contact sheet of pictures of {width} x {height} and {} x {}: resize them first",
            other.width, other.height
        )));
    }
    let columns = match columns {
        0 => (pictures.len() as f64).sqrt().ceil() as usize,
        given => given.min(pictures.len()),
    };
    let scale = if scale == 0 { VISIBLE.div_ceil(width.max(height)) } else { scale };
    let rows = pictures.len().div_ceil(columns);
    let channels = if pictures.iter().all(|p| p.channels == 1) { 1 } else { 3 };
    let (cell_w, cell_h) = (width * scale, height * scale);
    let sheet_w = columns * (cell_w + GAP) - GAP;
    let sheet_h = rows * (cell_h + GAP) - GAP;
    refuse_if!(
        sheet_w.saturating_mul(sheet_h) > LARGEST,
        "a sheet of {columns} x {rows} pictures has {sheet_w} x {sheet_h} pixels, and at most {LARGEST} are drawn; draw fewer"
    );
    let mut pixels = vec![255; sheet_w * sheet_h * channels];
    for (i, picture) in pictures.iter().enumerate() {
        let picture = picture.with_channels(channels, [255; 3]);
        let (left, top) = ((i % columns) * (cell_w + GAP), (i / columns) * (cell_h + GAP));
        for y in 0..cell_h {
            let row = &picture.pixels[(y / scale) * width * channels..][..width * channels];
            let out = &mut pixels[((top + y) * sheet_w + left) * channels..][..cell_w * channels];
            for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                out.copy_from_slice(&row[(x / scale) * channels..][..channels]);
            }
        }
    }
    Picture::new(sheet_w, sheet_h, channels, pixels)
}
