//! What papers after DDPM claim of it: how it is sampled, guided and measured.

use kiln_data::Split;

use super::{Beside, Claim, Measurement, SCORE, Variant};

/// A run of the network that the claims share, so small that ten thousand pictures of it are soon made: its data, and
/// what else is other.
macro_rules! small {
    ($($more:literal),*) => {
        &[
            "train.batch=16",
            "train.ema_half_life=4000",
            "model.schedule=cosine",
            "model.prediction=v",
            "model.unet.patch=2",
            "model.unet.base_channels=32",
            "model.unet.channel_multipliers=[1, 2]",
            "model.unet.blocks=1",
            "model.unet.attention_levels=[]",
            "model.optimizer.learning_rate=1e-3",
            "model.optimizer.warmup=5000",
            "model.optimizer.schedule=cosine",
            $($more),*
        ]
    };
}

/// The run that most of them share.
pub const DDPM: Variant = Variant { name: "fashion", set: small!("data.set=fashion") };

/// Told classes, a tenth of which it does not hear.
const CLASSES: Variant = Variant {
    name: "classes",
    set: small!("data.set=fashion", "model.class_conditional=true", "model.unet.scale_shift=true"),
};

const NOISY_CLASSIFIER: Beside = Beside {
    system: "noisy-classifier",
    variant: Variant { name: "fashion", set: &["data.set=fashion", "train.batch=32", "model.schedule=cosine"] },
    images: 120_000,
};

const CLASSIFIER: Beside =
    Beside { system: "classifier", variant: Variant { name: "fashion", set: &["data.set=fashion"] }, images: 120_000 };

const fn sampled(label: &'static str, sampler: &'static str) -> Measurement {
    Measurement { label, sampler, metrics: "fid,is", n: 10_000, bootstrap: 200, ..SCORE }
}

/// With what guidance trades against each other.
const fn guided(label: &'static str, sampler: &'static str) -> Measurement {
    Measurement { metrics: "fid,is,precision,recall,class_accuracy", ..sampled(label, sampler) }
}

/// How many of a few thousand show the class they were to show.
const fn steered(label: &'static str, sampler: &'static str) -> Measurement {
    Measurement { n: 2000, bootstrap: 0, ..guided(label, sampler) }
}

/// `samples` of the bound's terms, or probes of the flow, for `n` test pictures.
const fn likelihood(label: &'static str, metrics: &'static str, n: usize, samples: usize) -> Measurement {
    Measurement { metrics, n, split: Split::Test, samples, ..sampled(label, "") }
}

/// The claims that are not a system's own.
#[cfg(test)]
pub const NAMES: [&str; 7] = ["ddim", "solvers", "sde", "bound", "cfg", "adm", "universal"];

/// What other papers claim of the same model: how it is sampled, guided, or measured. Runs of the same settings are shared.
pub fn of_ddpm(name: &str) -> Option<Claim> {
    let whole = |measurements, reference| Claim {
        variants: &[DDPM],
        seeds: &[0],
        images: 500_000,
        measurements,
        beside: &[],
        reference,
    };
    let of_classes =
        |measurements, reference| Claim { variants: &[CLASSES], images: 300_000, ..whole(measurements, reference) };
    Some(match name {
        "ddim" => whole(
            const {
                &[
                    sampled("S = 10, eta = 0", "--timestep-spacing trailing --sampler ddim --steps 10 --eta 0"),
                    sampled("S = 10, eta = 1", "--timestep-spacing trailing --sampler ddim --steps 10 --eta 1"),
                    sampled("S = 10, DDPM", "--timestep-spacing trailing --sampler ddpm --steps 10 --variance large"),
                    sampled("S = 20, eta = 0", "--timestep-spacing trailing --sampler ddim --steps 20 --eta 0"),
                    sampled("S = 20, eta = 1", "--timestep-spacing trailing --sampler ddim --steps 20 --eta 1"),
                    sampled("S = 20, DDPM", "--timestep-spacing trailing --sampler ddpm --steps 20 --variance large"),
                    sampled("S = 50, eta = 0", "--timestep-spacing trailing --sampler ddim --steps 50 --eta 0"),
                    sampled("S = 50, eta = 1", "--timestep-spacing trailing --sampler ddim --steps 50 --eta 1"),
                    sampled("S = 50, DDPM", "--timestep-spacing trailing --sampler ddpm --steps 50 --variance large"),
                ]
            },
            "eta = 0 below eta = 1 below DDPM's larger variance at few steps (Song 2021a, table 1)",
        ),
        "solvers" => whole(
            const {
                &[
                    sampled(
                        "DPM-Solver++, 10 evaluations",
                        "--sampler dpm++ --steps 10 --sigmas karras --sigma-max 80",
                    ),
                    sampled(
                        "DPM-Solver++, 20 evaluations",
                        "--sampler dpm++ --steps 20 --sigmas karras --sigma-max 80",
                    ),
                    sampled("UniPC, 10 evaluations", "--sampler unipc --steps 10 --sigmas karras --sigma-max 80"),
                    sampled(
                        "Heun, 19 evaluations",
                        "--sampler heun --steps 10 --timestep-spacing trailing --sigmas karras --sigma-max 80",
                    ),
                ]
            },
            "no worse than DDIM's S = 50, eta = 0 (Lu 2022; Karras 2022)",
        ),
        "sde" => whole(
            const {
                &[
                    sampled(
                        "predictor, 30 steps",
                        "--timestep-spacing trailing --sampler pc --steps 30 --corrector-steps 0",
                    ),
                    sampled(
                        "predictor, 60 steps",
                        "--timestep-spacing trailing --sampler pc --steps 60 --corrector-steps 0",
                    ),
                    sampled(
                        "predictor and corrector, 30 steps",
                        "--timestep-spacing trailing --sampler pc --steps 30 --corrector-steps 1",
                    ),
                ]
            },
            "better with the corrector, at equal steps and at equal evaluations (Song 2021b, table 1)",
        ),
        "bound" => Claim {
            variants: &[
                Variant { name: "mnist, L_simple", set: small!("data.set=mnist") },
                Variant { name: "mnist, bound", set: small!("data.set=mnist", "model.objective=bound") },
            ],
            images: 150_000,
            ..whole(
                const {
                    &[
                        likelihood("bound", "nll", 1000, 100),
                        likelihood("flow", "nll_exact", 200, 1),
                        sampled("eta = 1, S = 50", "--timestep-spacing trailing --sampler ddim --steps 50 --eta 1"),
                    ]
                },
                "L_simple has the better fid, the bound the better bits (Ho 2020, table 2); the flow's bits within 0.1 of \
                 the bound's side (Song 2021b, table 2)",
            )
        },
        "cfg" => of_classes(
            const {
                &[
                    guided("w = 1", "--sampler dpm++ --steps 15 --sigmas karras --sigma-max 80 --guidance-scale 1"),
                    guided("w = 1.5", "--sampler dpm++ --steps 15 --sigmas karras --sigma-max 80 --guidance-scale 1.5"),
                    guided("w = 2", "--sampler dpm++ --steps 15 --sigmas karras --sigma-max 80 --guidance-scale 2"),
                    guided("w = 3", "--sampler dpm++ --steps 15 --sigmas karras --sigma-max 80 --guidance-scale 3"),
                    guided("w = 5", "--sampler dpm++ --steps 15 --sigmas karras --sigma-max 80 --guidance-scale 5"),
                ]
            },
            "IS grows with w, FID falls and rises (Ho & Salimans 2021, table 1)",
        ),
        "adm" => Claim {
            beside: &[NOISY_CLASSIFIER],
            ..whole(
                const {
                    &[
                        guided(
                            "scale 1",
                            "--timestep-spacing trailing --sampler ddim --steps 20 --eta 1 --classifier {noisy-classifier} --classifier-scale 1",
                        ),
                        guided(
                            "scale 3",
                            "--timestep-spacing trailing --sampler ddim --steps 20 --eta 1 --classifier {noisy-classifier} --classifier-scale 3",
                        ),
                        guided(
                            "scale 10",
                            "--timestep-spacing trailing --sampler ddim --steps 20 --eta 1 --classifier {noisy-classifier} --classifier-scale 10",
                        ),
                    ]
                },
                "class accuracy and precision up, recall down (Dhariwal & Nichol 2021, figure 4)",
            )
        },
        "universal" => Claim {
            beside: &[CLASSIFIER],
            ..whole(
                const {
                    &[
                        steered(
                            "shown x_t",
                            "--timestep-spacing trailing --sampler ddim --steps 50 --eta 1 --classifier {classifier} --classifier-scale 3 \
                             --classifier-looks-at noisy",
                        ),
                        steered(
                            "shown the predicted picture",
                            "--timestep-spacing trailing --sampler ddim --steps 50 --eta 1 --classifier {classifier} --classifier-scale 3",
                        ),
                        steered(
                            "shown the predicted picture, backward 5, recurrence 2",
                            "--timestep-spacing trailing --sampler ddim --steps 50 --eta 1 --classifier {classifier} --classifier-scale 3 \
                             --backward-steps 5 --backward-rate 0.1 --recurrence 2",
                        ),
                    ]
                },
                "the clean classifier steers by the predicted picture, and not by x_t (Bansal 2023)",
            )
        },
        _ => return None,
    })
}
