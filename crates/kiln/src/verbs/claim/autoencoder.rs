//! What papers claim of autoencoders and of models with an explicit likelihood.

use kiln_data::Split;

use super::{Beside, Claim, Measurement, SCORE, Variant};

/// The share of right classes of the whole test part.
const ACCURACY: Measurement =
    Measurement { label: "1,000 labels, test", metrics: "accuracy", n: 10_000, split: Split::Test, ..SCORE };

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
        _ => return None,
    })
}
