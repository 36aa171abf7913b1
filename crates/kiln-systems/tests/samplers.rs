//! Whole chains of every sampler against diffusers, and the continuous samplers where the answer is known.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use std::cell::RefCell;

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_core::random::Key;
use kiln_nn::tensor::{from_values, normal, to_values};
use kiln_systems::diffusion::guidance::ClassifierFree;
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::sampler::ancestral::{Ancestral, Variance, ddim_invert};
use kiln_systems::diffusion::sampler::grid::{self, Family, Spacing, TimestepGrid};
use kiln_systems::diffusion::sampler::multistep::DpmSolver;
use kiln_systems::diffusion::sampler::ode::{Flow, Tolerance, rk45};
use kiln_systems::diffusion::sampler::plan::{Method, Plan};
use kiln_systems::diffusion::sampler::predictor_corrector::{Predictor, PredictorCorrector, correct, predict};
use kiln_systems::diffusion::sampler::settings::choice;
use kiln_systems::diffusion::sampler::sigma::Churn;
use kiln_systems::diffusion::sampler::unipc::UniPc;
use kiln_systems::diffusion::sampler::{Denoised, Denoiser};
use kiln_systems::diffusion::schedule::{BetaSchedule, Level, NoiseLevels, NoiseSchedule, ScheduleOptions, Sde};

/// `network` of the reference.
fn network(x: Tensor<4>, t: f64) -> Tensor<4> {
    (x.clone() * 1.7 + t / 200.0).sin() * 0.6 + x * 0.3
}

fn schedule(name: &str) -> NoiseSchedule {
    let (zero_terminal_snr, name) = name.strip_prefix("zero-").map_or((false, name), |name| (true, name));
    let shape = match name {
        "linear" => BetaSchedule::Linear,
        "scaled" => BetaSchedule::ScaledLinear,
        "cosine" => BetaSchedule::Cosine,
        other => panic!("{other}"),
    };
    ScheduleOptions { shape, zero_terminal_snr, ..ScheduleOptions::default() }.schedule()
}

fn prediction(name: &str) -> Prediction {
    match name {
        "epsilon" => Prediction::Epsilon,
        "x0" => Prediction::Sample,
        "v" => Prediction::V,
        other => panic!("{other}"),
    }
}

/// `dpm++:2:midpoint` as a method and its family of levels; `None` for whole times.
fn method(name: &str) -> (Method, Option<Family>) {
    let mut parts = name.split(':');
    let kind = parts.next().unwrap();
    let mut order = || parts.next().unwrap().parse().unwrap();
    match kind {
        "ddim" => {
            let eta = parts.next().map_or(0.0, |eta| eta.parse().unwrap());
            (Method::Ancestral(Ancestral { eta: Some(eta), variance: Variance::Large, recurrence: 0 }), None)
        }
        "euler" => (Method::Euler(Churn::NONE), Some(Family::Sigma)),
        "euler-ancestral" => (Method::EulerAncestral, Some(Family::Sigma)),
        "heun" => (Method::Heun(Churn::NONE), Some(Family::Sigma)),
        "dpm++" | "dpm++-sde" => {
            let solver = DpmSolver {
                order: order(),
                kind: choice("", parts.next().unwrap()).unwrap(),
                stochastic: kind == "dpm++-sde",
            };
            (Method::DpmSolver(solver), Some(Family::Dpm))
        }
        "unipc" => (
            Method::UniPc(UniPc { order: order(), kind: choice("", parts.next().unwrap()).unwrap() }),
            Some(Family::UniPc),
        ),
        other => panic!("{other}"),
    }
}

#[test]
fn schedules() {
    let f = Fixtures::open("samplers");
    let close = |name: &str, values: &[f64]| {
        let (_, expected) = f.values(name);
        assert_eq!(values.len(), expected.len());
        for (t, (a, e)) in values.iter().zip(&expected).enumerate() {
            assert!((a - e).abs() <= 1e-12 + 1e-9 * e.abs(), "{name}[{t}]: {a} instead of {e}");
        }
    };
    for (name, shape) in [("scaled", BetaSchedule::ScaledLinear), ("sigmoid", BetaSchedule::Sigmoid)] {
        let options = ScheduleOptions { shape, ..ScheduleOptions::default() };
        close(&format!("{name}.betas"), &options.betas());
        close(&format!("{name}.alphas_cumprod"), &options.alphas_cumprod());
    }
    for name in ["linear", "scaled", "cosine"] {
        let zero = schedule(&format!("zero-{name}"));
        close(&format!("zero.{name}.alphas_cumprod"), &zero.options().alphas_cumprod());
        assert_eq!(zero.level(999).signal, 0.0);
    }
    let latent = ScheduleOptions {
        shape: BetaSchedule::ScaledLinear,
        beta_start: 0.00085,
        beta_end: 0.012,
        ..ScheduleOptions::default()
    };
    close("latent.alphas_cumprod", &latent.alphas_cumprod());
}

/// Each chain of the reference: the same times, at each of them the same input of the network, and the same end.
#[test]
fn every_chain_is_diffusers() {
    let f = Fixtures::open("samplers");
    let device = Device::flex();
    let mut chains = 0;
    for name in f.names().iter().filter_map(|n| n.strip_suffix(".end")) {
        let parts: Vec<&str> = name.split('/').collect();
        let [family, steps, kind, predicted, spacing, sigmas, end] = parts[..] else { panic!("{name}") };
        let (schedule, predicted) = (schedule(kind), prediction(predicted));
        let (spacing, offset) = spacing.split_once('+').unwrap_or((spacing, "0"));
        let times = TimestepGrid { spacing: choice("", spacing).unwrap(), offset: offset.parse().unwrap() };
        let steps = steps.parse().unwrap();
        let inverse = family == "ddim-inverse";
        let (method, solver) = if inverse { method("ddim") } else { method(family) };
        let levels = match solver {
            None => grid::discrete(&schedule, steps, times).unwrap(),
            Some(family) => {
                let (sigmas, end) = (choice("", sigmas).unwrap(), choice("", end).unwrap());
                grid::solver(&schedule, steps, times, (sigmas, f64::INFINITY), end, family).unwrap()
            }
        };
        let seen = RefCell::new(Vec::new());
        let ask: &Denoiser<'_> = &|xt, level: Level| {
            let output = network(xt.clone(), level.t);
            seen.borrow_mut().push((level.t, xt.clone()));
            Ok(Denoised { x0: predicted.to_x0(output, xt, &NoiseLevels::new(&[level], &device)), variance: None })
        };
        let noise = |i: u64| {
            // The walk numbers its draws by time.
            let i = if family == "ddim:1" { seen.borrow().len() - 1 } else { i as usize };
            f.tensor::<5>("noises").narrow(0, i, 1).squeeze_dims(&[0])
        };
        let start = f.tensor::<4>("start");
        let out = if inverse {
            ddim_invert(start, &levels, ask).unwrap()
        } else {
            Plan { method, levels, raised: Vec::new() }.run(start, ask, &noise).unwrap()
        };
        let (mut times, mut pictures): (Vec<f64>, Vec<Tensor<4>>) = seen.into_inner().into_iter().unzip();
        // diffusers takes a last step of length 0 if a walk to σ_min is there already.
        let (_, expected) = f.values(&format!("{name}.times"));
        if end == "sigma_min" && times.len() + 1 == expected.len() {
            times.push(expected[times.len()]);
            pictures.push(out.clone());
        }
        assert_eq!(times.len(), expected.len(), "{name}: {times:?} instead of {expected:?}");
        for (a, e) in times.iter().zip(&expected) {
            assert!((a - e).abs() < 1e-6, "{name}: {times:?} instead of {expected:?}");
        }
        f.assert_close(Tensor::stack::<5>(pictures, 0), &format!("{name}.seen"), 1e-5);
        f.assert_close(out, &format!("{name}.end"), 1e-5);
        chains += 1;
    }
    assert!(chains > 150, "{chains}");
}

/// Euler's and Heun's steps along straight ways, at the times and with the velocities of diffusers, which counts times from 1.
#[test]
fn rectified_flow_is_diffusers() {
    let (f, device) = (Fixtures::open("flow"), Device::flex());
    let schedule = ScheduleOptions { sde: Sde::Flow, ..ScheduleOptions::default() }.schedule();
    let ask: &Denoiser<'_> = &|xt, level: Level| {
        let output = network(xt.clone(), level.t + 1.0);
        Ok(Denoised { x0: Prediction::Flow.to_x0(output, xt, &NoiseLevels::new(&[level], &device)), variance: None })
    };
    let noise = |_: u64| -> Tensor<4> { panic!("no noise is added") };
    // Steps that visit whole timesteps: of T by Euler, of T − 1 by Heun.
    let (trailing, even) = (Spacing::Trailing, Spacing::Linspace);
    for (name, spacing, steps) in
        [("euler", trailing, 1), ("euler", trailing, 4), ("euler", trailing, 8), ("heun", even, 4), ("heun", even, 10)]
    {
        let method = if name == "heun" { Method::HeunStraight } else { Method::Euler(Churn::NONE) };
        let sigmas = (grid::Sigmas::Schedule, f64::INFINITY);
        let levels = grid::solver(&schedule, steps, spacing, sigmas, Default::default(), Family::Sigma).unwrap();
        let out = Plan { method, levels, raised: Vec::new() }.run(f.tensor("start"), ask, &noise).unwrap();
        f.assert_close(out, &format!("{name}/{steps}"), 1e-5);
    }
    // Any level has its own time back, and the velocity is what leads from the picture to the noise.
    for t in [0, 400, 998] {
        assert!((schedule.time_of(schedule.level(t).ratio()) - t as f64).abs() < 1e-6);
    }
    let (x0, noise) = (f.tensor::<4>("start"), f.tensor::<4>("euler/4"));
    let levels = NoiseLevels::new(&[schedule.level(300)], &device);
    let target = Prediction::Flow.target(x0.clone(), noise.clone(), &levels);
    let back = Prediction::Flow.to_x0(target, levels.noised(x0.clone(), noise), &levels);
    assert!((back - x0).abs().max().into_scalar::<f32>() < 1e-5);
}

/// Churn: the same inputs of the network at the same times, and the same end, as k-diffusion.
#[test]
fn edms_stochastic_sampler_is_k_diffusions() {
    let f = Fixtures::open("edm");
    let device = Device::flex();
    let mut chains = 0;
    for name in f.names().iter().filter_map(|n| n.strip_suffix(".end")) {
        let parts: Vec<&str> = name.split('/').collect();
        let schedule = schedule(parts[1]);
        let (_, churn) = f.values(&format!("{name}.churn"));
        let churn = Churn { s_churn: churn[0], s_tmin: churn[1], s_tmax: churn[2], s_noise: churn[3] };
        let method = if parts[0] == "heun" { Method::Heun(churn) } else { Method::Euler(churn) };
        let sigmas = (grid::Sigmas::Karras, 80.0);
        let levels = grid::solver(&schedule, 8, Spacing::Linspace, sigmas, Default::default(), Family::Sigma).unwrap();
        let raised = churn.raised(&levels, |ratio| schedule.at_ratio(ratio));
        let seen = RefCell::new(Vec::new());
        let ask: &Denoiser<'_> = &|xt, level: Level| {
            let output = network(xt.clone(), level.t);
            seen.borrow_mut().push((level.t, xt.clone()));
            Ok(Denoised { x0: Prediction::V.to_x0(output, xt, &NoiseLevels::new(&[level], &device)), variance: None })
        };
        let noise = |i: u64| f.tensor::<5>("noises").narrow(0, i as usize, 1).squeeze_dims(&[0]);
        let out = Plan { method, levels, raised }.run(f.tensor("start"), ask, &noise).unwrap();
        let (times, pictures): (Vec<f64>, Vec<Tensor<4>>) = seen.into_inner().into_iter().unzip();
        let (_, expected) = f.values(&format!("{name}.times"));
        assert_eq!(times.len(), expected.len(), "{name}");
        for (a, e) in times.iter().zip(&expected) {
            assert!((a - e).abs() < 1e-6, "{name}: {times:?} instead of {expected:?}");
        }
        f.assert_close(Tensor::stack::<5>(pictures, 0), &format!("{name}.seen"), 1e-5);
        f.assert_close(out, &format!("{name}.end"), 1e-5);
        chains += 1;
    }
    assert_eq!(chains, 8);
}

/// Whatever is predicted, it leads back to the picture; and where variance explodes, the network is shown numbers of
/// unit variance.
#[test]
fn every_prediction_is_taken_back_at_every_noise() {
    let device = Device::flex();
    let (x0, noise) =
        (normal(Key::new(0), 0..4, [4, 1, 3, 3], &device), normal(Key::new(1), 0..4, [4, 1, 3, 3], &device));
    for schedule in processes() {
        let levels = [3, 300, 700, 990].map(|t| schedule.level(t));
        let at = NoiseLevels::new(&levels, &device);
        let xt = at.noised(x0.clone(), noise.clone());
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::V, Prediction::Edm, Prediction::Flow] {
            let target = prediction.target(x0.clone(), noise.clone(), &at);
            let back = prediction.to_x0(target, xt.clone(), &at);
            for (i, level) in levels.iter().enumerate() {
                let off = (back.clone() - x0.clone()).narrow(0, i, 1).abs().max().into_scalar::<f32>();
                assert!(f64::from(off) < 1e-5 * (1.0 + level.ratio()), "{prediction:?} {level:?}: {off}");
            }
        }
        let shown = Prediction::V.input(xt, &at).square().mean().into_scalar::<f32>();
        assert!((shown - 1.0).abs() < 0.5, "{:?}: {shown}", schedule.options().sde);
    }
}

/// Karras 2022, table 1: c_skip, c_out, c_in and the loss weight at σ_data = 0.5.
#[test]
fn the_preconditioning_of_edm() {
    let device = Device::flex();
    for sigma in [0.02, 0.7, 30.0f64] {
        let at = NoiseLevels::new(&[Sde::Ve.level(0.0, sigma)], &device);
        let of = |x: f64| Tensor::<4>::full([1, 1, 1, 1], x, &device);
        let number = |x: Tensor<4>| f64::from(x.into_scalar::<f32>());
        let whole = (sigma * sigma + 0.25).sqrt();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-5 * b.abs(), "{a} instead of {b} at {sigma}");
        close(number(Prediction::Edm.to_x0(of(0.0), of(1.0), &at)), 0.25 / (whole * whole));
        close(number(Prediction::Edm.to_x0(of(1.0), of(0.0), &at)), sigma * 0.5 / whole);
        close(number(Prediction::Edm.input(of(1.0), &at)), 1.0 / whole);
        close(Prediction::Edm.weight_on_x0(1.0 / (sigma * sigma)), (whole / (sigma * 0.5)).powi(2));
    }
    // The time steps of equation 5.
    let sigmas = grid::Sigmas::Karras.between(80.0, 0.002, 3);
    let middle = (80f64.powf(1.0 / 7.0) * 0.5 + 0.002f64.powf(1.0 / 7.0) * 0.5).powi(7);
    assert!((sigmas[0] - 80.0).abs() < 1e-9 && (sigmas[1] - middle).abs() < 1e-9 && (sigmas[2] - 0.002).abs() < 1e-9);
}

#[test]
fn predictor_and_corrector_where_variance_explodes() {
    let f = Fixtures::open("samplers");
    let options = ScheduleOptions { sde: Sde::Ve, sigma_min: 0.01, sigma_max: 50.0, ..ScheduleOptions::default() };
    let schedule = options.schedule();
    for (t, expected) in f.values("ve.sigmas").1.into_iter().enumerate() {
        assert!((schedule.level(t).sigma / expected - 1.0).abs() < 1e-9);
    }
    let (score, x, noise) = (f.tensor::<4>("ve.score"), f.tensor::<4>("ve.x"), f.tensor::<4>("ve.noise"));
    let steps = [0, 1, 500, 998].map(|t: usize| {
        let at = (schedule.level(t), schedule.level_or_picture(t.checked_sub(1)));
        let (mean, deviation) = predict(Predictor::ReverseDiffusion, at, x.clone(), score.clone());
        mean + noise.clone() * deviation
    });
    f.assert_close(Tensor::cat(steps.to_vec(), 0), "ve.predicted", 1e-5);
    f.assert_close(correct(x, score, noise, 0.15, 1.0), "ve.corrected", 1e-5);
}

#[test]
fn guidance_rescaled() {
    let f = Fixtures::open("samplers");
    let with = || (f.tensor::<4>("cfg.with"), f.tensor::<4>("cfg.without"));
    for (rescale, name) in [(0.0, "cfg.guided"), (0.7, "cfg.rescaled")] {
        let guidance = ClassifierFree::new(Some(7.5), Some(rescale), None).unwrap();
        f.assert_close(guidance.combine(with().0, with().1), name, 1e-5);
    }
    let guidance = ClassifierFree::new(Some(3.0), None, Some([0.5, 2.0])).unwrap();
    let inside = [0.4, 0.5, 1.0, 2.0, 2.1].map(|ratio| guidance.guides(Sde::Vp.level(0.0, ratio)));
    assert_eq!(inside, [false, true, true, true, false]);
    for refused in [
        ClassifierFree::new(Some(f64::NAN), None, None),
        ClassifierFree::new(None, Some(1.5), None),
        ClassifierFree::new(None, None, Some([2.0, 1.0])),
    ] {
        assert!(refused.unwrap_err().is_usage());
    }
}

/// Values and evaluations of scipy, forwards and backwards, two trajectories at once.
#[test]
fn the_adaptive_solver_is_scipys() {
    let f = Fixtures::open("samplers");
    let mut slope = |_: &[usize], u: &[f64], y: &[Vec<f64>]| {
        Ok(u.iter().zip(y).map(|(u, y)| vec![y[1] * u.cos(), -y[0] + (3.0 * u).sin()]).collect())
    };
    for (i, (span, tolerance)) in [((0.5, 6.0), 1e-5), ((6.0, 0.5), 1e-5), ((0.5, 6.0), 1e-9)].into_iter().enumerate() {
        let (_, expected) = f.values(&format!("rk45.{i}"));
        let tolerance = Tolerance { rtol: tolerance, atol: tolerance };
        let (y, cost) = rk45(&mut slope, span, vec![vec![1.0, -0.5]], tolerance).unwrap();
        assert!((y[0][0] - expected[0]).abs() < 1e-9 && (y[0][1] - expected[1]).abs() < 1e-9, "{y:?}, {expected:?}");
        assert_eq!(cost.evaluations as f64, expected[2]);
        // Another beside it changes nothing.
        let (two, _) = rk45(&mut slope, span, vec![vec![3.0, 0.2], vec![1.0, -0.5]], tolerance).unwrap();
        assert_eq!(two[1], y[0]);
    }
    let mut broken = |_: &[usize], u: &[f64], y: &[Vec<f64>]| {
        Ok(y.iter().map(|y| y.iter().map(|_| if u[0] > 1.0 { f64::NAN } else { 1.0 }).collect()).collect())
    };
    let e = rk45(&mut broken, (0.0, 2.0), vec![vec![0.0]], Tolerance::default()).unwrap_err();
    assert!(e.to_string().contains("shrank"), "{e}");
}

/// E[x₀ | x] of a mixture of Gaussians of equal shares and one deviation, each pixel of two channels being a draw.
struct Mixture {
    means: Vec<[f64; 2]>,
    deviation: f64,
}

impl Mixture {
    fn x0(&self, x: &[f32], level: Level) -> [f32; 2] {
        let v = (level.signal * self.deviation).powi(2) + level.sigma * level.sigma;
        let logs: Vec<f64> = self.means.iter().map(|m| self.log_kernel(x, m, level.signal, v)).collect();
        let most = logs.iter().copied().fold(f64::MIN, f64::max);
        let shares: Vec<f64> = logs.iter().map(|l| (l - most).exp()).collect();
        let total: f64 = shares.iter().sum();
        [0, 1].map(|c| {
            let gain = level.signal * self.deviation * self.deviation / v;
            let of = |m: &[f64; 2]| m[c] + gain * (f64::from(x[c]) - level.signal * m[c]);
            let mean: f64 = self.means.iter().zip(&shares).map(|(m, s)| s / total * of(m)).sum();
            mean as f32
        })
    }

    fn log_kernel(&self, x: &[f32], mean: &[f64; 2], signal: f64, v: f64) -> f64 {
        let far: f64 = (0..2).map(|c| (f64::from(x[c]) - signal * mean[c]).powi(2)).sum();
        -0.5 * far / v - (std::f64::consts::TAU * v).ln()
    }

    /// log p of x at a level.
    fn log_density(&self, x: &[f32], level: Level) -> f64 {
        let v = (level.signal * self.deviation).powi(2) + level.sigma * level.sigma;
        let logs = self.means.iter().map(|m| self.log_kernel(x, m, level.signal, v).exp());
        (logs.sum::<f64>() / self.means.len() as f64).ln()
    }

    fn predict(&self, x: Tensor<4>, levels: &[Level]) -> Tensor<4> {
        let ([n, c, h, w], device) = (x.dims(), x.device());
        let level = |i: usize| levels[(i / (h * w)).min(levels.len() - 1)];
        let pixels = points(x).into_iter().enumerate();
        let x0 = pixels.flat_map(|(i, x)| self.x0(&x, level(i))).collect();
        from_values(x0, [n, h, w, c], &device).permute([0, 3, 1, 2])
    }
}

/// The two channels of each pixel.
fn points(x: Tensor<4>) -> Vec<Vec<f32>> {
    to_values(x.permute([0, 2, 3, 1])).chunks(2).map(<[f32]>::to_vec).collect()
}

fn gaussian() -> Mixture {
    Mixture { means: vec![[0.3, -0.5]], deviation: 0.4 }
}

fn two() -> Mixture {
    Mixture { means: vec![[0.8, 0.2], [-0.6, -0.4]], deviation: 0.2 }
}

/// Along an axis, where one probe tells the whole trace; and nearly so.
fn along() -> [Mixture; 2] {
    [0.0, 0.02].map(|tilt| Mixture { means: vec![[0.7, 0.1 + tilt], [-0.5, 0.1 - tilt]], deviation: 0.3 })
}

fn processes() -> [NoiseSchedule; 4] {
    let of = |sde, shape| ScheduleOptions { sde, shape, sigma_max: 100.0, ..ScheduleOptions::default() }.schedule();
    [
        of(Sde::Vp, BetaSchedule::Linear),
        of(Sde::Vp, BetaSchedule::Cosine),
        of(Sde::SubVp, BetaSchedule::Linear),
        of(Sde::Ve, BetaSchedule::Linear),
    ]
}

#[test]
fn likelihood_of_known_densities() {
    let device = Device::flex();
    for schedule in processes() {
        let levels = [schedule.level(0), schedule.level(schedule.steps() - 1)];
        let [aligned, tilted] = along();
        for (mixture, probes) in [(gaussian(), 1), (aligned, 1), (tilted, 60)] {
            let x = normal(Key::new(3), 0..4, [4, 2, 1, 1], &device) * 0.5;
            let predict = |x: Tensor<4>, levels: &[Level], _: &[usize]| Ok(mixture.predict(x, levels));
            let at_ratio = |ratio: f64| schedule.at_ratio(ratio);
            let tolerance = Tolerance::default();
            let flow =
                Flow { predict: &predict, at_ratio: &at_ratio, shape: [2, 1, 1], tolerance, device: device.clone() };
            let got = flow.log_likelihood(x.clone(), levels[0], levels[1], probes, Key::new(1)).unwrap();
            let (mut off, mut whole) = (0.0, 0.0);
            for (x, got) in points(x).into_iter().zip(got) {
                let expected = mixture.log_density(&x, levels[0]);
                let place = format!("{:?}: {got} instead of {expected}", schedule.options().sde);
                assert!(probes > 1 || (got - expected).abs() < 0.01 * expected.abs().max(1.0), "{place}");
                (off, whole) = (off + got - expected, whole + expected);
            }
            // What the probes leave of noise is little over several pictures.
            assert!(off.abs() < 0.01 * f64::abs(whole), "{:?}: {off} of {whole}", schedule.options().sde);
        }
    }
}

/// Means and deviations of samples, and that the mixture's modes are both visited, by every sampler on every process.
#[test]
fn samples_of_known_densities() {
    let device = Device::flex();
    // 400 draws, as pictures in which the norms that the corrector goes by mean something.
    let (n, shape) = (16, [16, 2, 5, 5]);
    let plain = |name: &str| match name {
        "ddpm" => Method::Ancestral(Ancestral { eta: None, variance: Variance::Small, recurrence: 0 }),
        "ancestral" => Method::PredictorCorrector(PredictorCorrector {
            predictor: Predictor::Ancestral,
            corrector_steps: 0,
            snr: 0.1,
        }),
        "pc" => Method::PredictorCorrector(PredictorCorrector {
            predictor: Predictor::ReverseDiffusion,
            corrector_steps: 1,
            snr: 0.1,
        }),
        "langevin" => {
            Method::PredictorCorrector(PredictorCorrector { predictor: Predictor::None, corrector_steps: 1, snr: 0.3 })
        }
        other => method(other).0,
    };
    for schedule in processes() {
        let sde = schedule.options().sde;
        for name in [
            "ddpm",
            "ddim",
            "heun",
            "euler-ancestral",
            "dpm++:2:midpoint",
            "dpm++-sde:2:midpoint",
            "unipc:3:bh2",
            "ancestral",
            "pc",
            "langevin",
        ] {
            let method = plain(name);
            let many = matches!(name, "ddpm" | "ancestral" | "pc" | "langevin");
            let levels = if many {
                grid::discrete(&schedule, 1000, Spacing::default()).unwrap()
            } else {
                let family = Family::Sigma;
                grid::solver(
                    &schedule,
                    60,
                    Spacing::Linspace,
                    (grid::Sigmas::Karras, f64::INFINITY),
                    Default::default(),
                    family,
                )
                .unwrap()
            };
            let plan = Plan { method, levels, raised: Vec::new() };
            let mixture = two();
            let ask: &Denoiser<'_> = &|x, level| Ok(Denoised { x0: mixture.predict(x, &[level]), variance: None });
            let noise = |i: u64| normal(Key::new(9).at(i), 0..n, shape, &device);
            let start = normal(Key::new(8), 0..n, shape, &device) * plan.deviation(sde);
            let values = points(plan.run(start, ask, &noise).unwrap());
            let average = |f: &dyn Fn(&Vec<f32>) -> f64| values.iter().map(f).sum::<f64>() / values.len() as f64;
            let mean = |c: usize| average(&|v| f64::from(v[c]));
            let second = |c: usize| average(&|v| f64::from(v[c]).powi(2));
            // E x = (0.1, −0.1); E x² = mean of the squares + 0.04 = (0.54, 0.14).
            for (c, (m, s)) in [(0.1, 0.54), (-0.1, 0.14)].into_iter().enumerate() {
                let place = format!("{sde:?} {:?} {name}: {:.3} {:.3}", schedule.options().shape, mean(c), second(c));
                assert!((mean(c) - m).abs() < 0.12 && (second(c) - s).abs() < 0.08, "{place}");
            }
        }
        // The adaptive flow.
        let mixture = two();
        let predict = |x: Tensor<4>, levels: &[Level], _: &[usize]| Ok(mixture.predict(x, levels));
        let at_ratio = |ratio: f64| schedule.at_ratio(ratio);
        let flow = Flow {
            predict: &predict,
            at_ratio: &at_ratio,
            shape: [2, 5, 5],
            tolerance: Tolerance::default(),
            device: device.clone(),
        };
        let last = schedule.level(schedule.steps() - 1);
        let start = normal(Key::new(8), 0..n, shape, &device) * last.scale();
        let values = points(flow.sample(start, last, schedule.level(0)).unwrap().0);
        let first = values.iter().filter(|v| v[0] > 0.1).count() as f64 / values.len() as f64;
        assert!((first - 0.5).abs() < 0.1, "{sde:?}: {first}");
    }
}
