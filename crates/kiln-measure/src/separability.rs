//! Linear separability: whether a plane in latent space separates each attribute.
//!
//! Karras et al. 2019, *A Style-Based Generator Architecture for Generative Adversarial Networks*,
//! section 4.2: for each binary attribute i, a classifier labels generated pictures, the half it is least
//! sure of is dropped, and a linear SVM learns to tell the label Y from the latent vector. X being what the
//! SVM says of those same vectors,
//!
//! separability = exp( Σᵢ H(Yᵢ | Xᵢ) ),  1 when planes tell all, 2 for each fair attribute they cannot.
//!
//! The SVM is [`LinearSvm`] (features of unit variance; the authors' code leaves them as they are). The
//! entropy is in nats, as there.
//!
//! Does not see attributes nobody trained a classifier for; a rare attribute costs little however it lies.
//! The SVM is judged on what it learned from: with few pictures against latent dimensions everything is
//! separable. Needs 200,000 pictures (the paper's), and at least a hundred a latent dimension.

use kiln_core::{Error, Result};

use crate::Features;
use crate::svm::LinearSvm;

/// The score and each attribute's part in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Separability {
    /// exp Σ H(Y|X), at least 1.
    pub score: f64,
    /// H(Y|X) of each attribute, 0 to ln 2 nats.
    pub entropies: Vec<f64>,
}

/// Measures `latents`, a row a picture, by the classifiers' `logits`, a row a picture and a column an
/// attribute: above 0 the picture has it, and the farther from 0 the surer. `c` is the SVM's (1 in the
/// paper's code). An attribute that all or none of the surest half have is separated as it is: entropy 0.
///
/// # Errors
/// If the sides differ in number of pictures, there are fewer than 4, or `c` is not above 0.
pub fn measure(latents: Features<'_>, logits: Features<'_>, c: f64) -> Result<Separability> {
    let n = latents.n();
    if logits.n() != n || n < 4 {
        return Err(Error::new(format!(
            "{} has {n} pictures and {} has {}; give the same ones to both, 4 at least",
            latents.name(),
            logits.name(),
            logits.n()
        )));
    }
    if !(c > 0.0 && c.is_finite()) {
        return Err(Error::usage(format!("the SVM's C must be above 0, not {c}")));
    }
    let entropies =
        (0..logits.d()).map(|attribute| entropy_left(latents, logits, attribute, c)).collect::<Result<Vec<_>>>()?;
    Ok(Separability { score: entropies.iter().sum::<f64>().exp(), entropies })
}

/// H(Y|X) of one attribute.
fn entropy_left(latents: Features<'_>, logits: Features<'_>, attribute: usize, c: f64) -> Result<f64> {
    let logit = |i: usize| logits.row(i)[attribute];
    let mut surest: Vec<usize> = (0..latents.n()).collect();
    surest.sort_by(|&a, &b| logit(b).abs().total_cmp(&logit(a).abs()));
    surest.truncate(latents.n() / 2);
    let labels: Vec<usize> = surest.iter().map(|&i| usize::from(logit(i) > 0.0)).collect();
    if labels.iter().all(|l| *l == labels[0]) {
        return Ok(0.0);
    }
    let kept: Vec<f32> = surest.iter().flat_map(|&i| latents.row(i)).copied().collect();
    let kept = Features::new(latents.name(), &kept, latents.d())?;
    let said = LinearSvm::fit(kept, &labels, 2, c, 1e-6)?.predict(kept)?;
    let mut joint = [[0.0; 2]; 2];
    said.iter().zip(&labels).for_each(|(&x, &y)| joint[x][y] += 1.0 / labels.len() as f64);
    // H(Y|X) = H(X, Y) − H(X); p ln p tends to 0 with p.
    let entropy = |p: &[f64]| -> f64 { p.iter().map(|&p| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum() };
    Ok((entropy(&joint.concat()) - entropy(&joint.map(|of| of[0] + of[1]))).max(0.0))
}
