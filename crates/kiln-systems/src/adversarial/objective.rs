//! What a generator and a discriminator play for. Means are over the batch; D(x) below is the
//! discriminator's raw output, a logit under the two cross-entropy games.

use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::Tensor;
use kiln_core::{Error, Result};
use kiln_nn::loss::{binary_cross_entropy_to, softplus, squared_to};
use serde::{Deserialize, Serialize};

/// The adversarial game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Goodfellow 2014, §3: the generator maximises log σ(D(G(z))), which keeps its gradient alive
    /// while the discriminator still wins.
    NonSaturating,
    /// Goodfellow 2014, equation 1: the generator minimises log(1 − σ(D(G(z)))).
    Saturating,
    /// Mao 2017: squared distance of D to 1 for real and 0 for fake.
    LeastSquares,
    /// Lim & Ye 2017, Miyato 2018: a margin of 1 on either side.
    Hinge,
}

impl Objective {
    /// What the discriminator minimises, its target for real pictures being 1 − `smoothing`
    /// (one-sided label smoothing, Salimans 2016, §3.4; not under `hinge`):
    ///
    /// - cross-entropy: −(1−s)·log σ(D(x)) − s·log(1 − σ(D(x))) − log(1 − σ(D(G(z))))
    /// - `least-squares`: ½(D(x) − (1−s))² + ½D(G(z))²
    /// - `hinge`: max(0, 1 − D(x)) + max(0, 1 + D(G(z)))
    ///
    /// # Shapes
    /// [n], [m] → [1]
    pub fn discriminator(self, real: Tensor<1>, fake: Tensor<1>, smoothing: f64) -> Tensor<1> {
        let target = 1.0 - smoothing;
        match self {
            Self::NonSaturating | Self::Saturating => {
                binary_cross_entropy_to(real, target) + binary_cross_entropy_to(fake, 0.0)
            }
            Self::LeastSquares => (squared_to(real, target) + squared_to(fake, 0.0)) * 0.5,
            Self::Hinge => relu(-real + 1.0).mean() + relu(fake + 1.0).mean(),
        }
    }

    /// What the generator minimises:
    ///
    /// - `non-saturating`: −log σ(D(G(z)))
    /// - `saturating`: log(1 − σ(D(G(z))))
    /// - `least-squares`: ½(D(G(z)) − 1)²
    /// - `hinge`: −D(G(z))
    ///
    /// # Shapes
    /// [n] → [1]
    pub fn generator(self, fake: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating => binary_cross_entropy_to(fake, 1.0),
            Self::Saturating => -softplus(fake).mean(),
            Self::LeastSquares => squared_to(fake, 1.0) * 0.5,
            Self::Hinge => -fake.mean(),
        }
    }

    /// How real the discriminator takes pictures to be, on average: the probability σ(D) under
    /// cross-entropy; D itself under `least-squares` (0 fake, 1 real) and `hinge` (−1, 1).
    ///
    /// # Shapes
    /// [n] → [1]
    pub fn belief(self, output: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating | Self::Saturating => sigmoid(output).mean(),
            Self::LeastSquares | Self::Hinge => output.mean(),
        }
    }

    /// Checks the label smoothing.
    ///
    /// # Errors
    /// A usage error if it is not in [0, 0.5), or if the game has no target to smooth.
    pub fn check_smoothing(self, smoothing: f64) -> Result<()> {
        if !(0.0..0.5).contains(&smoothing) {
            return Err(Error::usage(format!(
                "model.label_smoothing = {smoothing}: must be at least 0 and below 0.5; 0.1 makes the real target 0.9"
            )));
        }
        if self == Self::Hinge && smoothing > 0.0 {
            return Err(Error::usage(
                "model.label_smoothing: the hinge loss has no target to smooth; set it to 0 or choose another model.objective",
            ));
        }
        Ok(())
    }
}
