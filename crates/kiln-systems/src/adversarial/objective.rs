//! The losses of a generator and a discriminator. Means are over the batch. D(x) is the raw output of the
//! discriminator, which is a logit for the two cross-entropy losses.

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};
use kiln_core::{Error, Result};
use kiln_nn::loss::{binary_cross_entropy_to, softplus, squared_to};
use kiln_train::augment::SIGNS;
use kiln_train::{Loss, OptimizerConfig};
use serde::{Deserialize, Serialize};

/// The adversarial loss.
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
    /// Arjovsky 2017: the difference of the means, of a D whose slope a penalty keeps at 1 (Gulrajani 2017).
    Wasserstein,
}

impl Objective {
    /// What the discriminator minimises, its target for real pictures being 1 − `smoothing`
    /// (one-sided label smoothing, Salimans 2016, §3.4; `hinge` and `wasserstein` have no target):
    ///
    /// - cross-entropy: −(1−s)·log σ(D(x)) − s·log(1 − σ(D(x))) − log(1 − σ(D(G(z))))
    /// - `least-squares`: ½(D(x) − (1−s))² + ½D(G(z))²
    /// - `hinge`: max(0, 1 − D(x)) + max(0, 1 + D(G(z)))
    /// - `wasserstein`: D(G(z)) − D(x)
    ///
    /// # Shapes
    /// `[n]`, `[m]` → `[1]`
    pub fn discriminator(self, real: Tensor<1>, fake: Tensor<1>, smoothing: f64) -> Tensor<1> {
        let target = 1.0 - smoothing;
        match self {
            Self::NonSaturating | Self::Saturating => {
                binary_cross_entropy_to(real, target) + binary_cross_entropy_to(fake, 0.0)
            }
            Self::LeastSquares => (squared_to(real, target) + squared_to(fake, 0.0)) * 0.5,
            Self::Hinge => relu(-real + 1.0).mean() + relu(fake + 1.0).mean(),
            Self::Wasserstein => fake.mean() - real.mean(),
        }
    }

    /// [`Objective::discriminator`] as a phase's loss, with how real both sides look to D, and r_t, beside it.
    pub fn discriminator_loss(self, real: Tensor<1>, fake: Tensor<1>, smoothing: f64) -> Loss {
        let signs = self.signs(real.clone());
        Loss::new("discriminator", self.discriminator(real.clone(), fake.clone(), smoothing))
            .report("d_real", self.belief(real))
            .report("d_fake", self.belief(fake))
            .report(SIGNS, signs)
    }

    /// What the generator minimises:
    ///
    /// - `non-saturating`: −log σ(D(G(z)))
    /// - `saturating`: log(1 − σ(D(G(z))))
    /// - `least-squares`: ½(D(G(z)) − 1)²
    /// - `hinge`, `wasserstein`: −D(G(z))
    ///
    /// # Shapes
    /// `[n]` → `[1]`
    pub fn generator(self, fake: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating => binary_cross_entropy_to(fake, 1.0),
            Self::Saturating => -softplus(fake).mean(),
            Self::LeastSquares => squared_to(fake, 1.0) * 0.5,
            Self::Hinge | Self::Wasserstein => -fake.mean(),
        }
    }

    /// How real the discriminator takes pictures to be, on average: the probability σ(D) under
    /// cross-entropy; D itself under `least-squares` (0 fake, 1 real), `hinge` (−1, 1) and `wasserstein` (of any size).
    ///
    /// # Shapes
    /// `[n]` → `[1]`
    pub fn belief(self, output: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating | Self::Saturating => sigmoid(output).mean(),
            Self::LeastSquares | Self::Hinge | Self::Wasserstein => output.mean(),
        }
    }

    /// r_t of real pictures (Karras 2020a, equation 1): the mean sign of D, where 0 is as real as fake.
    ///
    /// # Shapes
    /// `[n]` → `[1]`
    pub fn signs(self, real: Tensor<1>) -> Tensor<1> {
        let middle = if self == Self::LeastSquares { 0.5 } else { 0.0 };
        (real - middle).sign().mean()
    }

    /// Checks that `wasserstein` keeps its discriminator's slope finite: by a penalty, or by an optimiser that cuts weights.
    ///
    /// # Errors
    /// A usage error if nothing does.
    pub fn check_penalty(self, penalised: bool, discriminator: &OptimizerConfig) -> Result<()> {
        if self == Self::Wasserstein && !penalised && discriminator.clip_weights == 0.0 {
            return Err(Error::usage(
                "model.objective = \"wasserstein\" needs a limit to D, which grows without end: set clip_weights of D's optimizer, \
                 0.01 in the paper, or take the system gan with model.gradient_penalty, 10 in Gulrajani 2017",
            ));
        }
        Ok(())
    }

    /// Checks the label smoothing.
    ///
    /// # Errors
    /// A usage error if it is not in [0, 0.5).
    pub fn check_smoothing(smoothing: f64) -> Result<()> {
        if !(0.0..0.5).contains(&smoothing) {
            return Err(Error::usage(format!(
                "model.label_smoothing = {smoothing}: must be at least 0 and below 0.5; 0.1 makes the real target 0.9"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::to_values;

    use super::*;
    use crate::adversarial::testing::{Fixtures, close, values};

    /// Value and gradients against PyTorch.
    fn agrees(name: &str, inputs: &[&str], loss: impl Fn(&[Tensor<1>]) -> Tensor<1>) {
        let fixture = Fixtures::open("losses");
        let at = |what: &str| fixture.tensor::<1>(&format!("{name}.{what}")).autodiff().require_grad();
        let inputs: Vec<_> = inputs.iter().map(|&i| (i, at(i))).collect();
        let tensors: Vec<_> = inputs.iter().map(|(_, t)| t.clone()).collect();
        let value = loss(&tensors);
        close(&to_values(value.clone()), &values(&fixture, &format!("{name}.value")), 1e-5);
        let gradients = value.backward();
        for (input, tensor) in inputs {
            let gradient = to_values(tensor.grad(&gradients).unwrap());
            close(&gradient, &values(&fixture, &format!("{name}.grad_{input}")), 1e-6);
        }
    }

    #[test]
    fn losses_are_pytorchs() {
        let d = |o: Objective, smoothing: f64| {
            move |x: &[Tensor<1>]| o.discriminator(x[0].clone(), x[1].clone(), smoothing)
        };
        let g = |o: Objective| move |x: &[Tensor<1>]| o.generator(x[0].clone());
        agrees("gan_softplus_d", &["real", "fake"], d(Objective::NonSaturating, 0.0));
        agrees("gan_label_smoothing_d", &["real", "fake"], d(Objective::Saturating, 0.1));
        agrees("gan_softplus_g", &["fake"], g(Objective::NonSaturating));
        agrees("gan_saturating_g", &["fake"], g(Objective::Saturating));
        agrees("gan_least_squares_d", &["real", "fake"], d(Objective::LeastSquares, 0.0));
        agrees("gan_least_squares_g", &["fake"], g(Objective::LeastSquares));
        agrees("gan_hinge_d", &["real", "fake"], d(Objective::Hinge, 0.0));
        agrees("gan_hinge_g", &["fake"], g(Objective::Hinge));
    }

    #[test]
    fn a_winning_discriminator_stops_the_saturating_generator_alone() {
        let slope = |o: Objective| {
            let logit = Tensor::<1>::full([1], -12.0, &Device::flex().autodiff()).require_grad();
            let gradients = o.generator(logit.clone()).backward();
            to_values(logit.grad(&gradients).unwrap())[0].abs()
        };
        assert!(slope(Objective::Saturating) < 1e-4);
        assert!(slope(Objective::NonSaturating) > 0.99);
    }
}
