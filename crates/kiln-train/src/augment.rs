//! `train.augment`: random changes of what a discriminator sees, and how often they happen.
//!
//! A system whose discriminator looks at [`Batch::augmentation`](crate::Batch::augmentation)s says so by
//! [`System::augments`](crate::System::augments). ADA's probability p follows the discriminator: it rises while the mean
//! sign of D's output on real pictures, the term `r_t` of a phase's loss, is above its target, and falls while it is below
//! (Karras 2020a, section 3.2). p and what it goes by are in the checkpoint.

use kiln_core::Result;
use kiln_nn::augment::Pipeline;
use kiln_nn::augment::ada::Ada;
use kiln_nn::augment::diffaugment::DiffAugment;
use serde::{Deserialize, Serialize};

use crate::means::text;

/// Steps between two changes of p.
const INTERVAL: u64 = 4;
/// The loss term that says how often D takes real pictures to be real: its mean sign there.
pub const SIGNS: &str = "r_t";

/// How pictures are changed before a discriminator sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Not at all.
    #[default]
    None,
    /// Zhao 2020.
    DiffAugment,
    /// Karras 2020a.
    Ada,
}

/// The keys of the `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AugmentConfig {
    /// `none`, `diffaugment` (Zhao 2020) or `ada` (Karras 2020a): random changes of what a discriminator sees, for small
    /// sets.
    #[serde(rename = "augment")]
    pub method: Method,
    /// Which changes, separated by commas: color, translation, cutout of `diffaugment`; blit, geometry, color, filter,
    /// noise, cutout of `ada`. Empty is all of `diffaugment`, and the first three of `ada`.
    #[serde(rename = "augment_policy")]
    pub policy: String,
    /// ADA's target of `r_t`, the mean sign of D's output on real pictures. 0 leaves p where it starts.
    #[serde(rename = "augment_target")]
    pub target: f64,
    /// Images in which ADA's p may go from 0 to 1.
    #[serde(rename = "augment_images")]
    pub images: f64,
    /// ADA's p at the start.
    #[serde(rename = "augment_p")]
    pub p: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { method: Method::None, policy: String::new(), target: 0.6, images: 500_000.0, p: 0.0 }
    }
}

impl AugmentConfig {
    /// What is done to pictures, if anything is.
    ///
    /// # Errors
    /// A usage error if the policy has a name that the method does not know.
    pub fn pipeline(&self) -> Result<Option<Pipeline>> {
        Ok(match self.method {
            Method::None => None,
            Method::DiffAugment => Some(Pipeline::DiffAugment(DiffAugment::parse(&self.policy)?)),
            Method::Ada => Some(Pipeline::Ada(Ada::parse(&self.policy)?)),
        })
    }
}

/// ADA's probability, and the signs it goes by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Adaptation {
    /// p.
    #[serde(with = "text")]
    pub p: f64,
    /// The sum of `r_t` since p was changed.
    #[serde(with = "text")]
    signs: f64,
    /// Steps since then.
    steps: u64,
}

impl Adaptation {
    /// At the start.
    pub fn new(config: &AugmentConfig) -> Self {
        Self { p: config.p, ..Self::default() }
    }

    /// Takes the `r_t` of a step of `batch` images.
    pub fn observe(&mut self, config: &AugmentConfig, signs: f64, batch: u64) {
        if config.method != Method::Ada || config.target == 0.0 {
            return;
        }
        self.signs += signs;
        self.steps += 1;
        if self.steps < INTERVAL {
            return;
        }
        let direction = self.signs / self.steps as f64 - config.target;
        let step = (batch * self.steps) as f64 / config.images;
        let signum = if direction == 0.0 { 0.0 } else { direction.signum() };
        *self = Self { p: (self.p + signum * step).max(0.0), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_follows_the_signs() {
        let config = AugmentConfig { method: Method::Ada, images: 1_000.0, ..AugmentConfig::default() };
        let mut ada = Adaptation::new(&config);
        for _ in 0..3 {
            ada.observe(&config, 0.9, 10);
        }
        assert_eq!(ada.p, 0.0);
        ada.observe(&config, 0.9, 10);
        assert!((ada.p - 0.04).abs() < 1e-12);
        for _ in 0..8 {
            ada.observe(&config, 0.1, 10);
        }
        assert_eq!(ada.p, 0.0, "never below 0");
        let fixed = AugmentConfig { target: 0.0, p: 0.3, ..config };
        let mut ada = Adaptation::new(&fixed);
        (0..8).for_each(|_| ada.observe(&fixed, 1.0, 10));
        assert_eq!(ada.p, 0.3);
    }

    #[test]
    fn policies_are_checked() {
        let policy = |method, policy: &str| AugmentConfig { method, policy: policy.into(), ..AugmentConfig::default() };
        assert!(policy(Method::None, "").pipeline().unwrap().is_none());
        assert!(
            policy(Method::Ada, "").pipeline().unwrap()
                == Some(Pipeline::Ada(Ada::parse("blit, geometry,color").unwrap()))
        );
        let e = policy(Method::DiffAugment, "colour").pipeline().unwrap_err();
        assert!(e.is_usage() && e.to_string().contains("color, translation, cutout"), "{e}");
    }
}
