//! Adversarial generators.
