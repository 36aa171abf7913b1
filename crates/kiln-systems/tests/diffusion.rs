//! Schedules, parameterisations and sampler steps against diffusers.

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::Tensor;
use fixtures::Fixtures;
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::sampler::{Variance, ddim_step, ddpm_step, timesteps};
use kiln_systems::diffusion::schedule::{BetaSchedule, NoiseSchedule};

const KINDS: [(&str, BetaSchedule); 2] = [("linear", BetaSchedule::Linear), ("cosine", BetaSchedule::Cosine)];
const PREDICTIONS: [(&str, Prediction); 3] =
    [("epsilon", Prediction::Epsilon), ("x0", Prediction::Sample), ("v", Prediction::V)];

#[test]
fn schedules() {
    let f = Fixtures::open("diffusion");
    for (name, kind) in KINDS {
        let schedule = NoiseSchedule::new(kind, 1000);
        for (values, what) in [(&schedule.betas, "betas"), (&schedule.alphas_cumprod, "alphas_cumprod")] {
            let (_, expected) = f.values(&format!("{name}.{what}"));
            for (a, e) in values.iter().zip(&expected) {
                assert!((a - e).abs() <= 1e-7 + 1e-6 * e.abs(), "{name}.{what}: {a} instead of {e}");
            }
        }
    }
}

fn row(tensor: Tensor<4>, i: usize) -> Tensor<4> {
    tensor.narrow(0, i, 1)
}

#[test]
fn ancestral_steps() {
    let f = Fixtures::open("diffusion");
    let times: Vec<usize> = f.values("ddpm.timesteps").1.into_iter().map(|t| t as usize).collect();
    for (name, kind) in KINDS {
        let schedule = NoiseSchedule::new(kind, 1000);
        for (p, prediction) in PREDICTIONS {
            for clip in ["noclip", "clip"] {
                for (v, variance) in [("fixed_small", Variance::Small), ("fixed_large", Variance::Large)] {
                    let mut samples = Vec::new();
                    for (i, &t) in times.iter().enumerate() {
                        let xt = row(f.tensor("ddpm.xt"), i);
                        let x0 = prediction.to_x0(
                            row(f.tensor("ddpm.model_output"), i),
                            xt.clone(),
                            schedule.alpha_bar(Some(t)),
                        );
                        let x0 = if clip == "clip" { x0.clamp(-1.0, 1.0) } else { x0 };
                        let at = (t, t.checked_sub(1));
                        samples.push(ddpm_step(&schedule, x0, xt, at, variance, || row(f.tensor("ddpm.noise"), i)));
                    }
                    f.assert_close(Tensor::cat(samples, 0), &format!("ddpm.{name}.{p}.{clip}.{v}.sample"), 1e-5);
                }
            }
        }
    }
}

#[test]
fn implicit_steps() {
    let f = Fixtures::open("diffusion");
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000);
    for steps in [10, 50] {
        let times = timesteps(&schedule, steps).unwrap();
        let expected: Vec<usize> =
            f.values(&format!("ddim.leading.{steps}.timesteps")).1.into_iter().map(|t| t as usize).collect();
        assert_eq!(times, expected);
        for (p, prediction) in PREDICTIONS {
            for clip in ["noclip", "clip_rederive"] {
                for (eta_name, eta) in [("0", 0.0), ("0.5", 0.5)] {
                    if steps == 50 && p != "epsilon" {
                        continue;
                    }
                    let mut x = f.tensor::<3>("ddim.start").unsqueeze::<4>();
                    let mut all = Vec::new();
                    for (k, &t) in times.iter().enumerate() {
                        let output = row(f.tensor("ddim.model_outputs"), k);
                        let x0 = prediction.to_x0(output, x.clone(), schedule.alpha_bar(Some(t)));
                        let x0 = if clip == "noclip" { x0 } else { x0.clamp(-1.0, 1.0) };
                        let at = (t, times.get(k + 1).copied());
                        x = ddim_step(&schedule, x0, x, at, eta, || row(f.tensor("ddim.noises"), k));
                        all.push(x.clone());
                    }
                    f.assert_close(
                        Tensor::cat(all, 0),
                        &format!("ddim.leading.{steps}.{p}.{clip}.eta{eta_name}"),
                        2e-5,
                    );
                }
            }
        }
    }
}

#[test]
fn a_schedule_has_no_more_steps_than_it_has() {
    let schedule = NoiseSchedule::new(BetaSchedule::Cosine, 20);
    assert!(timesteps(&schedule, 21).unwrap_err().is_usage() && timesteps(&schedule, 0).is_err());
}
