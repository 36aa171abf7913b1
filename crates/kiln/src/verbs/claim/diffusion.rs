//! What papers after DDPM claim of it: how it is sampled, guided and measured.

use kiln_data::Split;

use super::{Claim, Measurement, Variant};

/// The run that most of them share.
pub const DDPM: Variant = Variant {
    name: "fashion",
    set: &[
        "data.set=fashion",
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
    ],
};

const fn sampled(label: &'static str, sampler: &'static str) -> Measurement {
    Measurement { label, sampler, metrics: "fid,is", n: 1000, split: Split::Train, samples: 0 }
}

/// What other papers claim of the same model: how it is sampled, guided, or measured. Runs of the same settings are shared.
pub fn of_ddpm(name: &str) -> Option<Claim> {
    let whole =
        |measurements, reference| Claim { variants: &[DDPM], seeds: &[0], images: 200_000, measurements, reference };
    Some(match name {
        "ddim" => whole(
            const {
                &[
                    sampled("S = 10, eta = 0", "--sampler ddim --steps 10 --eta 0"),
                    sampled("S = 10, eta = 1", "--sampler ddim --steps 10 --eta 1"),
                    sampled("S = 10, DDPM", "--sampler ddpm --steps 10 --variance large"),
                    sampled("S = 20, eta = 0", "--sampler ddim --steps 20 --eta 0"),
                    sampled("S = 20, eta = 1", "--sampler ddim --steps 20 --eta 1"),
                    sampled("S = 20, DDPM", "--sampler ddpm --steps 20 --variance large"),
                    sampled("S = 50, eta = 0", "--sampler ddim --steps 50 --eta 0"),
                    sampled("S = 50, eta = 1", "--sampler ddim --steps 50 --eta 1"),
                    sampled("S = 50, DDPM", "--sampler ddpm --steps 50 --variance large"),
                ]
            },
            "eta = 0 below eta = 1 below DDPM's larger variance at few steps (Song 2021a, table 1)",
        ),
        "solvers" => whole(
            const {
                &[
                    sampled("DDIM 50", "--sampler ddim --steps 50 --eta 0"),
                    sampled("DPM-Solver++ 10", "--sampler dpm++ --steps 10 --sigmas karras"),
                    sampled("DPM-Solver++ 20", "--sampler dpm++ --steps 20 --sigmas karras"),
                    sampled("UniPC 10", "--sampler unipc --steps 10 --sigmas karras"),
                    sampled("Heun, 19 evaluations", "--sampler heun --steps 10 --sigmas karras"),
                ]
            },
            "10 to 20 evaluations no worse than DDIM 50 (Lu 2022; Karras 2022)",
        ),
        "cfg" => Claim {
            variants: &[Variant {
                name: "classes",
                set: &[
                    "data.set=fashion",
                    "train.batch=16",
                    "train.ema_half_life=4000",
                    "model.schedule=cosine",
                    "model.prediction=v",
                    "model.class_conditional=true",
                    "model.unet.patch=2",
                    "model.unet.base_channels=32",
                    "model.unet.channel_multipliers=[1, 2]",
                    "model.unet.blocks=1",
                    "model.unet.attention_levels=[]",
                    "model.unet.scale_shift=true",
                    "model.optimizer.learning_rate=1e-3",
                    "model.optimizer.warmup=5000",
                    "model.optimizer.schedule=cosine",
                ],
            }],
            ..whole(
                const {
                    &[
                        sampled("w = 1", "--guidance-scale 1"),
                        sampled("w = 1.5", "--guidance-scale 1.5"),
                        sampled("w = 2", "--guidance-scale 2"),
                        sampled("w = 3", "--guidance-scale 3"),
                        sampled("w = 5", "--guidance-scale 5"),
                    ]
                },
                "IS grows with w, FID falls and rises (Ho & Salimans 2021, table 1)",
            )
        },
        "sde" => whole(
            const {
                &[
                    sampled("predictor, 200 evaluations", "--sampler pc --steps 200 --corrector-steps 0"),
                    sampled("predictor and corrector, 200 evaluations", "--sampler pc --steps 100 --corrector-steps 1"),
                    Measurement { metrics: "nll", n: 100, split: Split::Test, samples: 100, ..sampled("bound", "") },
                    Measurement { metrics: "nll_exact", n: 100, split: Split::Test, samples: 1, ..sampled("flow", "") },
                ]
            },
            "the corrector helps; the flow's bits are below the bound's (Song 2021b, tables 1 and 2)",
        ),
        _ => return None,
    })
}
