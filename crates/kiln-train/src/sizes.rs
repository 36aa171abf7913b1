//! Which sizes of pictures does a system take?

use std::fmt;

use kiln_core::{Error, Result};

/// The heights and widths that a system takes under its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeRule {
    /// What asks for it, for messages: a setting with its value, or the system.
    pub because: String,
    /// Both sides are multiples of this.
    pub multiple_of: usize,
    /// Neither side is shorter.
    pub min: usize,
    /// The only height and width, of a network made for one size.
    pub fixed: Option<[usize; 2]>,
}

impl SizeRule {
    /// All sizes.
    pub fn any() -> Self {
        Self { because: String::new(), multiple_of: 1, min: 1, fixed: None }
    }

    /// Sides that are multiples of a number.
    pub fn multiple_of(multiple_of: usize, because: impl Into<String>) -> Self {
        Self { because: because.into(), multiple_of: multiple_of.max(1), ..Self::any() }
    }

    /// Sides of at least `min` pixels.
    pub fn at_least(self, min: usize) -> Self {
        Self { min, ..self }
    }

    /// One size only.
    pub fn fixed(size: [usize; 2], because: impl Into<String>) -> Self {
        Self { because: because.into(), fixed: Some(size), ..Self::any() }
    }

    /// Whether a side may be so long.
    pub fn fits(&self, side: usize) -> bool {
        side >= self.min && side.is_multiple_of(self.multiple_of)
    }

    /// Whether pictures of this shape (channels, height, width) fit.
    ///
    /// # Errors
    /// A usage error that says which setting does not let them, and which size would fit.
    pub fn check(&self, [_, height, width]: [usize; 3]) -> Result<()> {
        let fits = match self.fixed {
            Some(size) => size == [height, width],
            None => self.fits(height) && self.fits(width),
        };
        if fits {
            return Ok(());
        }
        let near = kiln_data::PictureSize::from(self.nearest([height, width]));
        Err(Error::usage(format!(
            "data.size: pictures of {width} x {height} (width x height) do not fit {}, which takes {self}; \
             set data.size={near} and data.resize to stretch, crop or pad",
            self.because
        )))
    }

    /// The size that fits and is nearest to one that does not.
    fn nearest(&self, size: [usize; 2]) -> [usize; 2] {
        let n = self.multiple_of;
        let near = |side: usize| ((side + n / 2) / n * n).max(self.min.next_multiple_of(n));
        self.fixed.unwrap_or(size.map(near))
    }
}

impl fmt::Display for SizeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.fixed, self.multiple_of, self.min) {
            (Some([height, width]), ..) => write!(f, "{width} x {height} only"),
            (None, 1, 0 | 1) => f.write_str("any size"),
            (None, 1, min) => write!(f, "sides of at least {min}"),
            (None, of, min) if min <= of => write!(f, "sides that are multiples of {of}"),
            (None, of, min) => write!(f, "sides that are multiples of {of} and at least {min}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        let rule = SizeRule::multiple_of(8, "model.levels = 3");
        assert!(rule.check([1, 48, 64]).is_ok());
        let said = rule.check([1, 112, 92]).map_err(|e| (e.is_usage(), e.to_string()));
        let expected = "data.size: pictures of 92 x 112 (width x height) do not fit model.levels = 3, which takes sides that are \
                        multiples of 8; set data.size=[112, 96] and data.resize to stretch, crop or pad";
        assert_eq!(said, Err((true, expected.to_string())));
        let rule = SizeRule::multiple_of(4, "cyclegan").at_least(8);
        assert!(rule.fits(8) && !rule.fits(4) && !rule.fits(9));
        assert_eq!(rule.nearest([3, 30]), [8, 32]);
        let rule = SizeRule::fixed([32, 48], "model.unet.sample_size");
        assert!(rule.check([3, 32, 48]).is_ok() && rule.check([3, 48, 32]).is_err());
        assert_eq!(SizeRule::any().to_string(), "any size");
        assert!(SizeRule::any().check([1, 1, 7]).is_ok());
    }
}
