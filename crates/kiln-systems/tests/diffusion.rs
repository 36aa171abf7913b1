//! Schedules, parameterisations and sampler steps against diffusers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_systems::diffusion::bound::{discretized_log_likelihood, gaussian_kl, prior, term};
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::sampler::Denoised;
use kiln_systems::diffusion::sampler::ancestral::{Variance, ddim_step, ddpm_step};
use kiln_systems::diffusion::sampler::grid::{Spacing, timesteps};
use kiln_systems::diffusion::schedule::{BetaSchedule, NoiseLevels, NoiseSchedule, Posterior, ScheduleOptions, Sde};

const KINDS: [(&str, BetaSchedule); 2] = [("linear", BetaSchedule::Linear), ("cosine", BetaSchedule::Cosine)];
const PREDICTIONS: [(&str, Prediction); 3] =
    [("epsilon", Prediction::Epsilon), ("x0", Prediction::Sample), ("v", Prediction::V)];

/// Those that the reference made.
const SPACINGS: [(&str, Spacing); 2] = [("leading", Spacing::Leading), ("trailing", Spacing::Trailing)];

#[test]
fn schedules() {
    let f = Fixtures::open("diffusion");
    for (name, kind) in KINDS {
        let options = ScheduleOptions { shape: kind, ..ScheduleOptions::default() };
        for (values, what) in [(options.betas(), "betas"), (options.alphas_cumprod(), "alphas_cumprod")] {
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
                for (v, variance) in [
                    ("fixed_small", Variance::Small),
                    ("fixed_large", Variance::Large),
                    ("learned_range", Variance::Learned),
                ] {
                    let mut samples = Vec::new();
                    for (i, &t) in times.iter().enumerate() {
                        let xt = row(f.tensor("ddpm.xt"), i);
                        let x0 = prediction.to_x0(
                            row(f.tensor("ddpm.model_output"), i),
                            xt.clone(),
                            &NoiseLevels::new(&[schedule.level(t)], &Device::flex()),
                        );
                        let x0 = if clip == "clip" { x0.clamp(-1.0, 1.0) } else { x0 };
                        let at = (schedule.level(t), schedule.level_or_picture(t.checked_sub(1)));
                        let learned = Some(row(f.tensor("ddpm.variance_output"), i));
                        let denoised = Denoised { x0, variance: learned };
                        samples.push(ddpm_step(at, xt, denoised, variance, || row(f.tensor("ddpm.noise"), i)));
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
    for (steps, name, spacing) in [10, 50].into_iter().flat_map(|steps| SPACINGS.map(|(n, s)| (steps, n, s))) {
        let times = timesteps(&schedule, steps, spacing).unwrap();
        let expected: Vec<usize> =
            f.values(&format!("ddim.{name}.{steps}.timesteps")).1.into_iter().map(|t| t as usize).collect();
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
                        let x0 = prediction.to_x0(
                            output,
                            x.clone(),
                            &NoiseLevels::new(&[schedule.level(t)], &Device::flex()),
                        );
                        let x0 = if clip == "noclip" { x0 } else { x0.clamp(-1.0, 1.0) };
                        let at = (schedule.level(t), schedule.level_or_picture(times.get(k + 1).copied()));
                        x = ddim_step(at, x, x0, eta, || row(f.tensor("ddim.noises"), k));
                        all.push(x.clone());
                    }
                    f.assert_close(Tensor::cat(all, 0), &format!("ddim.{name}.{steps}.{p}.{clip}.eta{eta_name}"), 2e-5);
                }
            }
        }
    }
}

#[test]
fn times_of_the_other_spacings() {
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1000);
    let times = |spacing| timesteps(&schedule, 10, spacing).unwrap();
    // numpy.linspace(0, 999, 10).round()[::-1], as diffusers.
    assert_eq!(times(Spacing::Linspace), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]);
    // numpy.linspace(0, sqrt(0.8 * 1000), 10) ** 2, as DDIM's code.
    assert_eq!(times(Spacing::Quadratic), [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]);
}

#[test]
fn a_schedule_has_no_more_steps_than_it_has() {
    let schedule = NoiseSchedule::new(BetaSchedule::Cosine, 20);
    for steps in [0, 21] {
        assert!(timesteps(&schedule, steps, Spacing::Leading).unwrap_err().is_usage());
    }
    // Near 0 the square moves by less than a time.
    assert_eq!(timesteps(&schedule, 8, Spacing::Quadratic).unwrap(), [16, 11, 8, 5, 2, 1, 0]);
}

#[test]
fn terms_of_the_bound() {
    let f = Fixtures::open("diffusion");
    let read = |name: &str| f.tensor::<2>(&format!("bound.{name}")).unsqueeze::<4>();
    let kl = gaussian_kl(read("mean1"), read("logvar1"), read("mean2"), read("logvar2"));
    f.assert_close(kl.reshape([2, 6]), "bound.kl", 1e-5);
    let levels = f.tensor::<1>("bound.levels") / 127.5 - 1.0;
    let x = levels.reshape([1, 1, 1, 6]).expand([1, 1, 2, 6]);
    let log = discretized_log_likelihood(x, read("mean"), read("logvar"));
    f.assert_close(log.reshape([2, 6]), "bound.discretized_log_likelihood", 1e-4);
}

/// If x̂₀ is x₀ and the variance β̃, the chain runs backwards exactly: every KL is 0.
#[test]
fn the_bound_of_a_perfect_denoiser_is_its_decoder_alone() {
    let device = Device::flex();
    let schedule = NoiseSchedule::new(BetaSchedule::Cosine, 100);
    let x0 = Tensor::<4>::full([3, 1, 4, 4], 1.0 / 255.0, &device);
    let xt = Tensor::<4>::full([3, 1, 4, 4], 0.3, &device);
    let perfect = Denoised { x0: x0.clone(), variance: None };
    let nats = term(&schedule, Variance::Small, &[0, 40, 99], x0.clone(), xt.clone(), perfect.clone());
    let nats = nats.try_into_vec_as::<f32>().unwrap();
    assert!(nats[0] > 0.0 && nats[1].abs() < 1e-3 && nats[2].abs() < 1e-3, "{nats:?}");
    // With β in its place each pixel pays ½ (β̃/β − 1 − log β̃/β).
    let large = term(&schedule, Variance::Large, &[0, 40, 99], x0.clone(), xt, perfect);
    let large = large.try_into_vec_as::<f32>().unwrap();
    let p = Posterior::between(schedule.level(40), schedule.level(39));
    let ratio = p.beta_tilde / p.beta;
    let expected = 16.0 * 0.5 * (ratio - 1.0 - ratio.ln());
    assert!((f64::from(large[1]) - expected).abs() < 1e-3, "{} instead of {expected}", large[1]);
    assert_eq!(large[0], nats[0]);
    // As with any other noise.
    for sde in [Sde::SubVp, Sde::Ve] {
        let other = ScheduleOptions { sde, steps: 100, ..ScheduleOptions::default() }.schedule();
        let perfect = Denoised { x0: x0.clone(), variance: None };
        let xt = Tensor::<4>::full([3, 1, 4, 4], 0.3, &device);
        let nats = term(&other, Variance::Small, &[0, 40, 99], x0.clone(), xt, perfect);
        let nats = nats.try_into_vec_as::<f32>().unwrap();
        assert!(nats[0] > 0.0 && nats[1].abs() < 1e-3 && nats[2].abs() < 1e-3, "{sde:?}: {nats:?}");
        let prior = prior(&other, x0.clone()).try_into_vec_as::<f32>().unwrap();
        assert!(prior.iter().all(|p| p.abs() < 1e-2), "{sde:?}: {prior:?}");
    }
    // Nothing is left of the picture at T.
    let prior = prior(&schedule, x0).try_into_vec_as::<f32>().unwrap();
    assert!(prior.iter().all(|p| p.abs() < 1e-3), "{prior:?}");
}
