//! A table of feature vectors, one row per image.

use faer::Mat;
use kiln_core::{Error, Result};

/// Features of `n` pictures, `d` each, row-major, every value finite.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    name: &'a str,
    d: usize,
    values: &'a [f32],
}

impl<'a> Features<'a> {
    /// `values` as rows of `d`; `name` is what errors call the set ("the generated pictures").
    ///
    /// Fails when there is no row, the length is no multiple of `d`, or a value is not finite.
    pub fn new(name: &'a str, values: &'a [f32], d: usize) -> Result<Self> {
        if values.is_empty() || d == 0 {
            return Err(Error::new(format!("{name}: no features to measure; give at least one picture")));
        }
        if !values.len().is_multiple_of(d) {
            return Err(Error::new(format!(
                "{name}: {} feature values are not rows of {d}; the features belong to another network",
                values.len()
            )));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::new(format!(
                "{name}: feature {} of picture {} is {}; leave that picture out or mend the network",
                at % d,
                at / d,
                values[at]
            )));
        }
        Ok(Self { name, d, values })
    }

    /// What errors call the set.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// How many pictures.
    pub fn n(&self) -> usize {
        self.values.len() / self.d
    }

    /// How many features a picture has.
    pub fn d(&self) -> usize {
        self.d
    }

    /// The features of picture `i` (below `n`).
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.d..(i + 1) * self.d]
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.d)
    }

    /// The rows `pick` as a matrix with a column for each: a row-major table is its transpose's
    /// column-major one.
    pub(crate) fn columns(&self, pick: impl ExactSizeIterator<Item = usize> + Clone) -> Mat<f64> {
        let rows: Vec<&[f32]> = pick.map(|i| self.row(i)).collect();
        Mat::from_fn(self.d, rows.len(), |k, i| f64::from(rows[i][k]))
    }

    /// Fails unless both sets come from networks of one width.
    pub(crate) fn same_width(&self, other: &Features<'_>) -> Result<()> {
        if self.d == other.d {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} has {} features a picture and {} has {}; take both from one network",
            self.name, self.d, other.name, other.d
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(values: &[f32], d: usize) -> String {
        Features::new("the generated pictures", values, d).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn bad_tables_are_named() {
        assert!(message(&[], 3).contains("no features"));
        assert!(message(&[1.0, 2.0], 0).contains("no features"));
        assert!(message(&[1.0, 2.0, 3.0], 2).contains("rows of 2"));
        let nan = message(&[1.0, 2.0, 3.0, f32::NAN], 2);
        assert!(nan.contains("the generated pictures: feature 1 of picture 1 is NaN"), "{nan}");
        assert!(message(&[f32::NEG_INFINITY], 1).contains("-inf"));
    }
}
