//! Outlier detection: the area under the ROC curve of a score.
//!
//! AUROC = P(s(outlier) > s(inlier)) + ½ P(equal), over all pairs: 1 when every outlier scores higher, ½ by chance, below ½
//! when the score has it the wrong way round, as plain likelihood may (Nalisnick et al. 2019, *Do Deep Generative Models
//! Know What They Don't Know?*).
//!
//! Does not give a threshold; choose the share of regular images that may be rejected. Equals scikit-learn's
//! `roc_auc_score`.

use kiln_core::{Error, Result};

/// The area for scores of pictures of one's own and of another kind, higher meaning more of an outlier.
///
/// # Errors
/// If a side is empty or a score is no number.
pub fn auroc(inliers: &[f64], outliers: &[f64]) -> Result<f64> {
    if inliers.is_empty() || outliers.is_empty() {
        return Err(Error::new("AUROC: scores of at least one picture of each kind are needed"));
    }
    let mut all: Vec<(f64, bool)> =
        inliers.iter().map(|&s| (s, false)).chain(outliers.iter().map(|&s| (s, true))).collect();
    if all.iter().any(|(s, _)| s.is_nan()) {
        return Err(Error::new("AUROC: a score is not a number"));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Ranks from 1; equal scores share the mean of theirs (Mann & Whitney 1947).
    let (mut rank_sum, mut before) = (0.0, 0);
    for equal in all.chunk_by(|a, b| a.0 == b.0) {
        let rank = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        rank_sum += rank * equal.iter().filter(|(_, outlier)| *outlier).count() as f64;
        before += equal.len();
    }
    let (n, m) = (inliers.len() as f64, outliers.len() as f64);
    Ok((rank_sum - m * (m + 1.0) / 2.0) / (n * m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_scores_part_and_equal_ones_do_not() {
        assert_eq!(auroc(&[1.0, 2.0], &[3.0, 4.0]).unwrap(), 1.0);
        assert_eq!(auroc(&[3.0, 4.0], &[1.0, 2.0]).unwrap(), 0.0);
        assert_eq!(auroc(&[1.0, 1.0], &[1.0]).unwrap(), 0.5);
        assert!(auroc(&[], &[1.0]).is_err() && auroc(&[f64::NAN], &[1.0]).is_err());
    }
}
