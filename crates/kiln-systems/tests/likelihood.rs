//! The likelihood by the probability flow, where every part of it can be written down.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_nn::Condition;
use kiln_nn::tensor::{from_values, normal, to_values};
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::process::ProcessConfig;
use kiln_systems::diffusion::schedule::{BetaSchedule, Level, NoiseLevels};

/// Mean and deviation of the pixels.
const DATA: [f64; 2] = [-0.3, 0.2];

fn log_normal(x: f64, mean: f64, variance: f64) -> f64 {
    -0.5 * ((x - mean).powi(2) / variance + (std::f64::consts::TAU * variance).ln())
}

/// The mass of a Gaussian on half a level either way, by Simpson's rule.
fn log_mass(x: f64, mean: f64, variance: f64) -> f64 {
    let (n, half) = (200, 1.0 / 255.0);
    let weight = |i: usize| if i == 0 || i == n { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
    let at = |i: usize| log_normal(x - half + 2.0 * half * i as f64 / n as f64, mean, variance).exp();
    ((0..=n).map(|i| weight(i) * at(i)).sum::<f64>() * 2.0 * half / (3 * n) as f64).ln()
}

/// Where the data are Gaussian and the network is right, every part can be written down; and the sum is a little above
/// what the levels' own probability is.
#[test]
fn the_likelihood_of_gaussian_pixels_is_theirs() {
    let device = Device::flex();
    let [mean, deviation] = DATA;
    let (n, d) = (6, 36);
    for schedule in [BetaSchedule::Cosine, BetaSchedule::Linear] {
        let config = ProcessConfig { schedule, prediction: Prediction::Sample, ..ProcessConfig::default() };
        let process = config.process(64).unwrap();
        // E[x₀ | x] = (α s² x + σ² m) / (α² s² + σ²).
        let predict = |x: Tensor<4>, levels: &[Level], _: &Condition| {
            let levels = NoiseLevels::new(levels, &x.device());
            let total = |l: Level| (l.signal * deviation).powi(2) + l.sigma.powi(2);
            x * levels.each(|l| l.signal * deviation.powi(2) / total(l))
                + levels.each(|l| l.sigma.powi(2) * mean / total(l))
        };
        let (key, shape) = (Key::new(4), [n, 1, 6, 6]);
        let level = |v: f32| ((v * deviation as f32 + mean as f32 + 1.0) * 127.5).round() / 127.5 - 1.0;
        let values: Vec<f32> =
            to_values(normal(Key::new(3), 0..n as u64, shape, &device)).into_iter().map(level).collect();
        let images = from_values::<4>(values.clone(), shape, &device);
        let got = to_values(process.exact_nll(&predict, images, &Condition::default(), 200, key).unwrap());
        let noise = to_values(normal(key.purpose("dequantise"), 0..n as u64, shape, &device));

        let (first, second) = (process.schedule.level(0), process.schedule.level(1));
        let total = (first.signal * deviation).powi(2) + first.sigma.powi(2);
        // The decoder's variance is β̃ of the second timestep.
        let keep = second.signal / first.signal;
        let beta = second.sigma.powi(2) - (keep * first.sigma).powi(2);
        let beta_tilde = beta * first.sigma.powi(2) / second.sigma.powi(2);
        let of_pixel = |(&x0, &e): (&f32, &f32)| {
            let (x0, e) = (f64::from(x0), f64::from(e));
            let x = first.signal * x0 + first.sigma * e;
            let x_hat = (first.signal * deviation.powi(2) * x + first.sigma.powi(2) * mean) / total;
            let log_q = log_normal(x, first.signal * x0, first.sigma.powi(2));
            log_q - log_normal(x, first.signal * mean, total) - log_mass(x0, x_hat, beta_tilde)
        };
        let (mut sum, mut true_sum) = (0.0, 0.0);
        for ((x0, noise), got) in values.chunks(d).zip(noise.chunks(d)).zip(got) {
            let expected: f64 = x0.iter().zip(noise).map(of_pixel).sum();
            assert!((f64::from(got) - expected).abs() < 2e-3 * expected, "{schedule:?}: {got}, not {expected}");
            sum += f64::from(got);
            true_sum -= x0.iter().map(|&v| log_mass(f64::from(v), mean, deviation.powi(2))).sum::<f64>();
        }
        let above = (sum - true_sum) / (n * d) as f64;
        assert!((0.0..0.1).contains(&above), "{schedule:?}: {above} nats a pixel above the levels' own");
    }
}
