//! Pixel accuracy and mean intersection over union of segmentations.
//!
//! Everingham et al. 2010, *The PASCAL Visual Object Classes Challenge*, section 4.1, over all pixels of all
//! pictures: IoU(c) = pixels rightly called c / pixels that are c or were called c; mIoU is the mean
//! over the classes that occur in either. Pixels of the ignored label (borders) count nowhere.
//!
//! Does not see where in a region the errors are: a ragged border and a missing limb may weigh the same.
//! Pixel accuracy is that of the largest class. Needs some hundred pictures, and each class among them.

use kiln_core::{Error, Result};

use crate::classes::Confusion;

/// Pixels counted so far, a picture after another.
#[derive(Clone, Debug)]
pub struct Segmentation {
    confusion: Confusion,
    classes: usize,
    ignore: Option<usize>,
}

impl Segmentation {
    /// Of no picture yet; `ignore` is the true label (often 255) whose pixels do not count.
    pub fn new(classes: usize, ignore: Option<usize>) -> Result<Self> {
        Ok(Self { confusion: Confusion::empty(classes)?, classes, ignore })
    }

    /// Counts the pixels of a picture. Fails when the lengths differ or a label is neither a class nor the
    /// ignored one.
    pub fn push(&mut self, truth: &[usize], predicted: &[usize]) -> Result<()> {
        if truth.len() != predicted.len() {
            return Err(Error::new(format!(
                "{} pixels have a true class and {} a predicted one; give maps of one size",
                truth.len(),
                predicted.len()
            )));
        }
        let kept = truth.iter().zip(predicted).filter(|(t, _)| Some(**t) != self.ignore);
        let (truth, predicted): (Vec<usize>, Vec<usize>) = kept.map(|(&t, &p)| (t, p)).unzip();
        if truth.is_empty() {
            return Ok(());
        }
        self.confusion.add(&truth, &predicted)
    }

    /// Which class was taken for which.
    pub fn confusion(&self) -> &Confusion {
        &self.confusion
    }

    /// Intersection over union of each class, 0 to 1; none where the class is in neither map.
    pub fn iou(&self) -> Vec<Option<f64>> {
        (0..self.classes)
            .map(|c| {
                let of = |count: &dyn Fn(usize) -> usize| (0..self.classes).map(count).sum::<usize>();
                let right = self.confusion.count(c, c);
                let union = of(&|p| self.confusion.count(c, p)) + of(&|t| self.confusion.count(t, c)) - right;
                (union > 0).then(|| right as f64 / union as f64)
            })
            .collect()
    }

    /// The mean of [`iou`](Self::iou) over the classes that have one. Fails when no pixel counts.
    pub fn mean_iou(&self) -> Result<f64> {
        self.some()?;
        let seen: Vec<f64> = self.iou().into_iter().flatten().collect();
        Ok(seen.iter().sum::<f64>() / seen.len() as f64)
    }

    /// The part of the pixels that have their class. Fails when no pixel counts.
    pub fn pixel_accuracy(&self) -> Result<f64> {
        self.some()?;
        Ok(self.confusion.accuracy())
    }

    fn some(&self) -> Result<()> {
        if self.confusion.n() > 0 {
            return Ok(());
        }
        Err(Error::new("no pixel to judge; give pictures with labels other than the ignored one"))
    }
}
