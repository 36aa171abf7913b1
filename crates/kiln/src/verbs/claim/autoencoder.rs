//! What papers claim of autoencoders and of models with an explicit likelihood.

use kiln_data::Split;

use super::{Beside, Claim, Measurement, SCORE, Variant};

/// The share of right classes of the whole test part.
const ACCURACY: Measurement =
    Measurement { label: "1,000 labels, test", metrics: "accuracy", n: 10_000, split: Split::Test, ..SCORE };

/// Settings on top of a small network that all models of dSprites here share.
macro_rules! dsprites {
    ($($more:literal),*) => {
        &[
            "data.set=dsprites",
            "train.batch=128",
            "model.latent=10",
            "model.channels=8",
            "model.levels=4",
            "model.hidden=[128]",
            $($more),*
        ]
    };
}

/// Settings on top of what all models of chairs here share.
macro_rules! chairs {
    ($($more:literal),*) => {
        &[
            "data.set=shapes3d:chairs",
            "data.channels=1",
            "train.batch=20",
            "model.latent=64",
            "model.channels=16",
            "model.levels=4",
            "model.optimizer.learning_rate=5e-4",
            $($more),*
        ]
    };
}

/// The claim of a system of this family, if it has one of its own.
pub fn of_autoencoder(name: &str) -> Option<Claim> {
    Some(match name {
        // The encoder has seen the pictures of the whole training part, and no label.
        "ae" => Claim {
            variants: &[
                Variant {
                    name: "frozen encoder",
                    set: &["system=probe", "data.set=fashion", "data.label_set={seed}", "model.encoder={ae}"],
                },
                Variant {
                    name: "fine-tuned encoder",
                    set: &[
                        "system=probe",
                        "data.set=fashion",
                        "data.label_set={seed}",
                        "model.encoder={ae}",
                        "model.tune=fine-tune",
                    ],
                },
                Variant {
                    name: "raw pixels",
                    set: &["system=probe", "data.set=fashion", "data.label_set={seed}", "model.tune=raw"],
                },
            ],
            seeds: &[0, 1, 2, 3, 4],
            images: 100_000,
            measurements: &[ACCURACY],
            beside: &[Beside {
                system: "ae",
                variant: Variant { name: "fashion", set: &["data.set=fashion"] },
                images: 600_000,
            }],
            reference: "the frozen encoder's above the pixels'",
        },
        "betatcvae" => Claim {
            variants: &[
                Variant { name: "VAE", set: dsprites!("system=vae") },
                Variant { name: "beta-VAE, beta = 4", set: dsprites!("system=betavae", "model.beta=4.0") },
                Variant { name: "beta-TCVAE, beta = 6", set: dsprites!("model.beta=6.0") },
            ],
            seeds: &[0, 1, 2],
            images: 600_000,
            measurements: &[Measurement {
                label: "five factors, 20 bins",
                metrics: "mig",
                n: 10_000,
                split: Split::Test,
                ..SCORE
            }],
            beside: &[],
            reference: "VAE < beta-VAE < beta-TCVAE (Chen 2018, figure 3, by another estimate)",
        },
        // Of chairs that were kept aside.
        "dcign" => Claim {
            variants: &[
                Variant { name: "clamped batches", set: chairs!() },
                Variant { name: "VAE", set: chairs!("system=vae") },
            ],
            seeds: &[0],
            images: 300_000,
            measurements: &[Measurement {
                label: "unseen chairs",
                metrics: "factor_r2",
                n: 2_000,
                split: Split::Test,
                ..SCORE
            }],
            beside: &[],
            reference: "one latent follows each factor, and no other does (Kulkarni 2015, §4.1)",
        },
        _ => return None,
    })
}
