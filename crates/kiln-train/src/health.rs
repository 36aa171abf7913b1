//! Whether an adversarial training has failed: what a person would see in the log and the previews.
//!
//! Looked for in every system whose discriminator reports `r_t`. Each failure is told once, with what to try, and kept in
//! `report.json`.

use burn::tensor::Tensor;

use crate::augment::SIGNS;
use crate::live::Terms;

/// Mean sign of D's output on real pictures over a window, from which on it is never in doubt.
const CERTAIN: f64 = 0.995;
/// Windows on end.
const WINDOWS: u32 = 2;
/// Spread of samples as a part of the data's, below which they are all alike.
const ALIKE: f64 = 0.1;

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    DiscriminatorWins,
    SamplesAlike,
    ClassesMissing,
}

impl Failure {
    /// What to say of it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::DiscriminatorWins => {
                "the discriminator is never in doubt about real images, so the generator learns little from it: with few images \
                 set train.augment (ada or diffaugment), else lower the discriminator's learning rate or its width"
            }
            Self::SamplesAlike => {
                "collapse: samples differ from each other less than a tenth as much as the data do: try another seed, a lower \
                 learning rate, train.augment, or model.objective = \"hinge\" or \"least-squares\" where there is that setting"
            }
            Self::ClassesMissing => {
                "collapse: samples show less than half of the classes: try another seed, a lower learning rate, or train.augment"
            }
        }
    }
}

/// Windows of the log so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    certain: u32,
}

impl Health {
    /// Takes the means of a window of the log.
    pub(crate) fn window(&mut self, means: &Terms) -> Option<Failure> {
        let (_, signs) = means.iter().find(|(name, _)| name == SIGNS)?;
        self.certain = if *signs >= CERTAIN { self.certain + 1 } else { 0 };
        (self.certain >= WINDOWS).then_some(Failure::DiscriminatorWins)
    }

    /// Takes figures measured during training.
    pub(crate) fn figures(figures: &Terms) -> Option<Failure> {
        let (_, share) = figures.iter().find(|(name, _)| name.starts_with("measure.class_coverage"))?;
        (*share < 0.5).then_some(Failure::ClassesMissing)
    }

    /// Compares samples with real pictures.
    ///
    /// # Shapes
    /// `[n, c, h, w]`, `[m, c, h, w]`
    pub(crate) fn samples(samples: Tensor<4>, real: Tensor<4>) -> Option<Failure> {
        let few = samples.dims()[0] < 2 || real.dims()[0] < 2;
        (!few && spread(samples) < ALIKE * spread(real)).then_some(Failure::SamplesAlike)
    }
}

/// The root of the mean variance of a pixel: a √2-th of the mean distance of two pictures, in the mean over squares.
fn spread(images: Tensor<4>) -> f64 {
    let n = images.dims()[0] as f64;
    let centred = images.clone() - images.mean_dim(0);
    let variance = f64::from((centred.square().mean()).into_scalar::<f32>()) * n / (n - 1.0);
    variance.sqrt()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_core::random::Key;
    use kiln_nn::tensor::normal;

    use super::*;

    #[test]
    fn a_certain_discriminator_is_told_after_two_windows() {
        let window = |signs: f64| vec![("generator".to_string(), 3.0), (SIGNS.to_string(), signs)];
        let mut health = Health::default();
        assert_eq!(health.window(&window(1.0)), None);
        assert_eq!(health.window(&window(0.9)), None);
        assert_eq!(health.window(&window(1.0)), None);
        assert_eq!(health.window(&window(1.0)), Some(Failure::DiscriminatorWins));
        assert_eq!(Health::default().window(&vec![("loss".to_string(), 1.0)]), None);
    }

    #[test]
    fn samples_that_are_alike_are_told() {
        let real = normal(Key::new(1), 0..16, [16, 1, 4, 4], &Device::flex());
        let one = real.clone().narrow(0, 0, 1).expand([16, 1, 4, 4]);
        assert_eq!(Health::samples(one.clone() + real.clone() * 0.05, real.clone()), Some(Failure::SamplesAlike));
        assert_eq!(Health::samples(one + real.clone() * 0.3, real.clone()), None);
        assert_eq!(Health::samples(real.clone().narrow(0, 0, 1), real), None);
    }

    #[test]
    fn missing_classes_are_told() {
        let figure = |share: f64| vec![("measure.class_coverage[classifier:starter]".to_string(), share)];
        assert_eq!(Health::figures(&figure(0.4)), Some(Failure::ClassesMissing));
        assert_eq!(Health::figures(&figure(0.9)), None);
    }
}
