//! Local descriptors and a bag of words of them.
//!
//! Dalal & Triggs, *Histograms of Oriented Gradients for Human Detection*, 2005: each cell of pixels has a histogram
//! of the orientations of its gradients, weighed by their length; the histograms of 2×2 neighbouring cells, together
//! of length 1, are a descriptor. Csurka 2004: descriptors of many pictures are clustered, and a picture is how many
//! of its descriptors are nearest to each centre (a word). It says what is in a picture and not where.

use kiln_core::Result;
use kiln_core::random::Key;
use kiln_measure::Features;
use kiln_measure::kmeans::KMeans;

/// Orientations of half a turn.
const ORIENTATIONS: usize = 9;
/// Cells of a descriptor's side.
const BLOCK: usize = 2;
/// Numbers of a descriptor.
pub const WIDTH: usize = BLOCK * BLOCK * ORIENTATIONS;
/// No number of a descriptor is more before it is brought to length 1 the second time (Lowe 2004).
const LIMIT: f64 = 0.2;
/// Keeps lengths above 0.
const EPS: f64 = 1e-5;

/// Descriptors of a grey picture, `height` × `width`, of all blocks of cells of `cell`×`cell` pixels, row by row:
/// those of scikit-image's `hog` with `block_norm="L2-Hys"`.
pub fn descriptors(grey: &[f64], [height, width]: [usize; 2], cell: usize) -> Vec<[f64; WIDTH]> {
    let at = |row: usize, column: usize| grey[row * width + column];
    let (rows, columns) = (height / cell, width / cell);
    let mut cells = vec![[0.0; ORIENTATIONS]; rows * columns];
    for row in 0..rows * cell {
        for column in 0..columns * cell {
            let down = if row == 0 || row + 1 == height { 0.0 } else { at(row + 1, column) - at(row - 1, column) };
            let right =
                if column == 0 || column + 1 == width { 0.0 } else { at(row, column + 1) - at(row, column - 1) };
            let degrees = down.atan2(right).to_degrees().rem_euclid(180.0);
            let bin = ((degrees / 180.0 * ORIENTATIONS as f64) as usize).min(ORIENTATIONS - 1);
            cells[row / cell * columns + column / cell][bin] += down.hypot(right) / (cell * cell) as f64;
        }
    }
    let blocks = |len: usize| (len + 1).saturating_sub(BLOCK);
    let block = |top: usize, left: usize| {
        let mut block = [0.0; WIDTH];
        for i in 0..BLOCK * BLOCK {
            let cell = &cells[(top + i / BLOCK) * columns + left + i % BLOCK];
            block[i * ORIENTATIONS..][..ORIENTATIONS].copy_from_slice(cell);
        }
        normalise(&mut block);
        block.iter_mut().for_each(|v| *v = v.min(LIMIT));
        normalise(&mut block);
        block
    };
    (0..blocks(rows))
        .flat_map(|top| (0..blocks(columns)).map(move |left| (top, left)))
        .map(|(t, l)| block(t, l))
        .collect()
}

fn normalise(block: &mut [f64; WIDTH]) {
    let length = (block.iter().map(|v| v * v).sum::<f64>() + EPS * EPS).sqrt();
    block.iter_mut().for_each(|v| *v /= length);
}

/// Words: the centres of descriptors, row-major.
///
/// # Errors
/// If fewer descriptors differ than there are to be words.
pub fn vocabulary(descriptors: &[f32], words: usize, key: Key) -> Result<Vec<f32>> {
    let found = KMeans::fit(Features::new("descriptors of both domains", descriptors, WIDTH)?, words, key)?;
    Ok(found.centres().iter().map(|v| *v as f32).collect())
}

/// The share of each word among descriptors; flat ones, where the picture has no gradient, are of no word.
pub fn histogram(descriptors: &[[f64; WIDTH]], words: &[f32]) -> Vec<f32> {
    let mut counts = vec![0usize; words.len() / WIDTH];
    for descriptor in descriptors.iter().filter(|descriptor| !is_flat(descriptor)) {
        let apart = |word: &[f32]| word.iter().zip(descriptor).map(|(w, d)| (f64::from(*w) - d).powi(2)).sum::<f64>();
        let each = words.chunks_exact(WIDTH).map(apart).enumerate();
        let (nearest, _) = each.fold((0, f64::INFINITY), |best, (i, d)| if d < best.1 { (i, d) } else { best });
        counts[nearest] += 1;
    }
    let all = counts.iter().sum::<usize>().max(1) as f32;
    counts.into_iter().map(|count| count as f32 / all).collect()
}

/// Whether there is no gradient in it.
pub fn is_flat(descriptor: &[f64; WIDTH]) -> bool {
    descriptor.iter().all(|v| *v < 1e-3)
}

#[cfg(test)]
mod tests {
    use super::super::golden::Fixture;
    use super::*;

    /// scikit-image adds up cells in 32 bits.
    #[test]
    fn descriptors_equal_scikit_image() {
        let fixture = Fixture::open();
        let (picture, want) = (fixture.matrix("hog.picture"), fixture.matrix("hog.descriptors"));
        let size @ [h, w] = [picture.nrows(), picture.ncols()];
        let grey: Vec<f64> = (0..h * w).map(|i| picture[(i / w, i % w)]).collect();
        let got = descriptors(&grey, size, 4);
        assert_eq!(got.len(), want.nrows());
        for (i, block) in got.iter().enumerate() {
            for (j, v) in block.iter().enumerate() {
                assert!((v - want[(i, j)]).abs() < 1e-6, "{i}, {j}: {v}, expected {}", want[(i, j)]);
            }
        }
    }

    #[test]
    fn a_picture_without_gradients_has_no_words() {
        let flat = descriptors(&[0.3; 144], [12, 12], 4);
        assert_eq!(flat.len(), 4);
        assert!(histogram(&flat, &[0.1; 2 * WIDTH]).iter().all(|share| *share == 0.0));
        assert!(descriptors(&[0.0; 49], [7, 7], 4).is_empty());
    }
}
