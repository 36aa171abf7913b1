//! The diffusion model and the classifier learn a fixed batch by heart, and a sample does not depend on its batch.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_core::random::Key;
use kiln_data::{HostBatch, Part};
use kiln_nn::Init;
use kiln_nn::tensor::{normal, to_values};
use kiln_nn::unet::UNetConfig;
use kiln_systems::classifier::{self, Classifier};
use kiln_systems::diffusion::ddpm::{self, Ddpm};
use kiln_systems::diffusion::noisy_classifier::{self, NoisyClassifier};
use kiln_systems::diffusion::objective::{Objective, TimestepSampling, Weighting};
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::process::ProcessConfig;
use kiln_systems::diffusion::sampler::ancestral::Variance;
use kiln_systems::diffusion::sampler::settings::{SAMPLERS, SamplerSettings};
use kiln_systems::diffusion::schedule::Sde;
use kiln_systems::segmenter::{self, Segmenter};
use kiln_train::optim::Optimizer;
use kiln_train::params::take_gradients;
use kiln_train::{
    Batch, Encode, Generate, Likelihood, OptimizerConfig, Pictures, Reconstruct, Request, Segment, System,
};

fn pictures() -> Pictures {
    Pictures::new([1, 8, 8], vec!["a".into(), "b".into()])
}

/// Four pictures of 8×8, bright at the top or at the bottom.
fn batch() -> Batch {
    let label = |i: usize| (i % 2) as u32;
    let value = |i: usize, p: usize| if (p < 32) == i.is_multiple_of(2) { 0.8 } else { -0.6 };
    let part = Part {
        shape: [4, 1, 8, 8],
        values: (0..4).flat_map(|i| (0..64).map(move |p| value(i, p))).collect(),
        labels: Some((0..4).map(label).collect()),
        captions: vec![None; 4],
        indices: (0..4).collect(),
        ..Part::default()
    };
    Batch::new(HostBatch { start: 0, parts: vec![part] }, 1000, Key::new(0), &Device::flex().autodiff())
}

/// First and last loss of `steps` steps on the one batch.
fn learn<S: System>(system: &mut S, steps: usize) -> (f32, f32) {
    let mut networks = system.networks(&mut Init::new(&Device::flex().autodiff(), 0));
    let mut optimizer = Optimizer::new(OptimizerConfig::adam(1e-2));
    let phase = system.phases().remove(0);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let loss = (phase.loss)(system, &networks, &batch()).unwrap().unwrap();
        losses.push(loss.total.clone().into_scalar::<f32>());
        let gradients = take_gradients(&networks, &mut loss.total.backward());
        networks = optimizer.step(networks, gradients, 1.0, 1.0);
    }
    (losses[0], losses[steps - 1])
}

fn small() -> ddpm::Config {
    let unet = UNetConfig {
        base_channels: 16,
        channel_multipliers: vec![1, 2],
        blocks: 1,
        attention_levels: vec![1],
        groups: 4,
        ..UNetConfig::default()
    };
    ddpm::Config { process: process(), unet, ..ddpm::Config::default() }
}

fn process() -> ProcessConfig {
    ProcessConfig { timesteps: 50, sampling_steps: 5, ..ProcessConfig::default() }
}

fn with(process: ProcessConfig) -> ddpm::Config {
    ddpm::Config { process, ..small() }
}

#[test]
fn a_denoiser_learns_a_batch_by_heart_in_every_parameterisation() {
    for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::V] {
        let mut system = Ddpm::new(with(ProcessConfig { prediction, ..process() }), &pictures()).unwrap();
        let (first, last) = learn(&mut system, 60);
        assert!(last < 0.3 * first, "{prediction:?}: {first} to {last}");
    }
}

/// Every noise, weighting and draw of times.
#[test]
fn a_denoiser_learns_from_every_noise() {
    let ve = || ProcessConfig { sde: Sde::Ve, sigma_max: 20.0, ..process() };
    for config in [
        with(ProcessConfig { prediction: Prediction::Epsilon, ..ve() }),
        with(ProcessConfig { prediction: Prediction::V, ..ve() }),
        with(ProcessConfig { prediction: Prediction::Edm, timestep_sampling: TimestepSampling::Lognormal, ..ve() }),
        with(ProcessConfig { sde: Sde::SubVp, prediction: Prediction::V, ..process() }),
        with(ProcessConfig {
            sde: Sde::Flow,
            prediction: Prediction::Flow,
            timestep_sampling: TimestepSampling::Logitnormal,
            ..process()
        }),
        with(ProcessConfig { prediction: Prediction::V, weighting: Weighting::MinSnr, ..process() }),
        with(ProcessConfig { prediction: Prediction::V, weighting: Weighting::P2, weighting_gamma: 1.0, ..process() }),
        with(ProcessConfig { prediction: Prediction::V, zero_terminal_snr: true, ..process() }),
        with(ProcessConfig {
            prediction: Prediction::V,
            timestep_sampling: TimestepSampling::Importance,
            objective: Objective::Bound,
            ..process()
        }),
    ] {
        let p = &config.process;
        let place = format!("{:?} {:?} {:?} {:?}", p.sde, p.prediction, p.weighting, p.timestep_sampling);
        let mut system = Ddpm::new(config, &pictures()).unwrap();
        let (first, last) = learn(&mut system, 100);
        assert!(last < 0.5 * first, "{place}: {first} to {last}");
    }
}

/// TimestepSampling are drawn by the losses that count: before any is drawn more often than another, their mean is the loss.
#[test]
fn importance_is_of_weighted_losses() {
    let weighted = ProcessConfig { weighting: Weighting::MinSnr, weighting_gamma: 0.1, ..process() };
    let mut system =
        Ddpm::new(with(ProcessConfig { timestep_sampling: TimestepSampling::Importance, ..weighted }), &pictures())
            .unwrap();
    let networks = system.networks(&mut Init::new(&Device::flex().autodiff(), 0));
    let phase = system.phases().remove(0);
    let loss = (phase.loss)(&mut system, &networks, &batch()).unwrap().unwrap().total.into_scalar::<f32>();
    let known = &system.state()["second_moment"].values;
    let losses: Vec<f32> = known.chunks(11).flat_map(|row| row[1..=row[0] as usize].to_vec()).collect();
    assert_eq!(losses.len(), 4);
    assert!((losses.iter().sum::<f32>() / 4.0 - loss).abs() < 1e-5, "{losses:?} {loss}");
}

#[test]
fn a_noisy_classifier_learns_a_batch_by_heart() {
    let config = noisy_classifier::Config { timesteps: 50, unet: small().unet, ..noisy_classifier::Config::default() };
    let mut system = NoisyClassifier::new(config, &pictures()).unwrap();
    let (first, last) = learn(&mut system, 60);
    assert!(last < 0.3 * first, "{first} to {last}");
}

/// The lower grey is the ground; the brighter half is of the picture's class.
#[test]
fn a_segmenter_learns_a_batch_by_heart() {
    let config = segmenter::Config { ground: -0.6, unet: small().unet, ..segmenter::Config::default() };
    let mut system = Segmenter::new(config, &pictures()).unwrap();
    let batch = batch();
    let map = to_values(system.segment_map(batch.images(), batch.labels().unwrap()).float());
    let expected = |i: usize| if ((i % 64) < 32) == (i / 64).is_multiple_of(2) { 1 + i / 64 % 2 } else { 0 } as f32;
    assert_eq!(map, (0..256).map(expected).collect::<Vec<_>>());
    let (first, last) = learn(&mut system, 40);
    assert!(last < 0.1 * first, "{first} to {last}");
}

#[test]
fn a_denoiser_learns_the_bound_and_a_variance() {
    for (objective, variance) in [
        (Objective::Bound, Variance::Large),
        (Objective::Bound, Variance::Learned),
        (Objective::Hybrid, Variance::Learned),
    ] {
        let config = with(ProcessConfig { prediction: Prediction::V, objective, variance, ..process() });
        let mut system = Ddpm::new(config, &pictures()).unwrap();
        let (first, last) = learn(&mut system, 60);
        assert!(last < 0.5 * first, "{objective:?}: {first} to {last}");
    }
}

/// The mean over many draws of a few terms is the sum of all, and the figure does not depend on the batch.
#[test]
fn a_bound_by_few_terms_is_the_bound() {
    let device = Device::flex();
    let system = Ddpm::new(with(ProcessConfig { prediction: Prediction::V, ..process() }), &pictures()).unwrap();
    let networks = system.networks(&mut Init::new(&device, 0)).valid();
    let images = normal(Key::new(3), 0..4, [4, 1, 8, 8], &device).clamp(-1.0, 1.0);
    let nll = |samples, seed: u64| to_values(system.nll(&networks, images.clone(), samples, Key::new(seed)).unwrap());
    let mean = |v: Vec<f32>| v.iter().sum::<f32>() / v.len() as f32;
    let all = mean(nll(0, 0));
    let few = (0..40).map(|seed| mean(nll(10, seed))).sum::<f32>() / 40.0;
    assert!((all - few).abs() < 0.03 * all, "{few} instead of {all}");
    let one = to_values(system.nll(&networks, images.clone().narrow(0, 0, 1), 10, Key::new(5)).unwrap());
    assert!((one[0] - nll(10, 5)[0]).abs() < 1e-3 * one[0].abs());
}

/// Without a class there is one drawn for each sample, and a picture is as probable as its mean over classes: never that of
/// "no class", which a network whose labels were never dropped has not seen.
#[test]
fn a_network_told_classes_is_never_asked_without_one() {
    let device = Device::flex();
    let config = |label_dropout| {
        let process = ProcessConfig { sampling_steps: 4, ..process() };
        ddpm::Config { class_conditional: true, label_dropout, process, ..small() }
    };
    let system = Ddpm::new(config(0.0), &pictures()).unwrap();
    let networks = kiln_train::params::map_flat(system.networks(&mut Init::new(&device, 0)), |path, value| {
        let len = value.dims()[0];
        let noise = normal(Key::new(1).purpose(path), 0..1, [1, len], &device).reshape([len]) * 0.2;
        // The row of no class, the last, is broken.
        match path {
            "denoiser.class.weight" => {
                Tensor::cat(vec![(value + noise).slice(0..len * 2 / 3), Tensor::full([len / 3], f32::NAN, &device)], 0)
            }
            _ => value + noise,
        }
    })
    .valid();
    let classes = pictures().classes.len() as u32;
    assert_eq!(classes, 2);
    let request = || Request::new(0..8, 3, &device);
    let drawn = request().classes(2);
    assert!(drawn.contains(&0) && drawn.contains(&1));
    let all = to_values(system.generate(&networks, &request()).unwrap());
    let told = [0, 1].map(|class| to_values(system.generate(&networks, &request().of_class(Some(class))).unwrap()));
    for (i, class) in drawn.into_iter().enumerate() {
        let part = i * 64..(i + 1) * 64;
        assert!(all[part.clone()].iter().zip(&told[class as usize][part]).all(|(a, b)| (a - b).abs() < 1e-4), "{i}");
    }
    let images = normal(Key::new(3), 0..2, [2, 1, 8, 8], &device).clamp(-1.0, 1.0);
    for nll in [
        system.nll(&networks, images.clone(), 5, Key::new(0)).unwrap(),
        system.exact_nll(&networks, images.clone(), 1, Key::new(0)).unwrap().unwrap(),
    ] {
        assert!(to_values(nll).into_iter().all(f32::is_finite));
    }
    let guided = Request { sampler: "guidance_scale = 2.0".parse().unwrap(), ..request() };
    for refused in [
        system.generate(&networks, &guided).unwrap_err(),
        system.encode(&networks, images.clone(), &request()).unwrap_err(),
        system.reconstruct(&networks, images).unwrap_err(),
    ] {
        assert!(refused.is_usage() && refused.to_string().contains("model.label_dropout above 0"), "{refused}");
    }
    assert!(Ddpm::new(config(1.0), &pictures()).err().unwrap().is_usage());
}

#[test]
fn a_classifier_learns_a_batch_by_heart() {
    let config = classifier::Config { channels: 4, features: 16, dropout: 0.0, ..classifier::Config::default() };
    let (first, last) = learn(&mut Classifier::new(config, &pictures()).unwrap(), 30);
    assert!(last < 0.1 * first, "{first} to {last}");
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let system = Ddpm::new(small(), &pictures()).unwrap();
    // Fresh networks end in zeros; noise on every weight makes them say something.
    let device = Device::flex();
    let networks = system.networks(&mut Init::new(&device, 0));
    let networks = kiln_train::params::map_flat(networks, |path, value| {
        let len = value.dims()[0];
        value + kiln_nn::tensor::normal(Key::new(1).purpose(path), 0..1, [1, len], &device).reshape([len]) * 0.05
    });
    for (sampler, _) in SAMPLERS {
        let eta = (sampler == "ddim").then_some(0.5);
        let request = |indices| Request {
            sampler: SamplerSettings { sampler: Some(sampler.into()), eta, ..SamplerSettings::default() }.table(),
            ..Request::new(indices, 7, &device)
        };
        let all = system.generate(&networks.valid(), &request(0..6)).unwrap();
        let one = system.generate(&networks.valid(), &request(4..5)).unwrap();
        let (all, one) = (to_values(all.narrow(0, 4, 1)), to_values(one));
        for (a, b) in all.iter().zip(&one) {
            assert!((a - b).abs() < 2.0 / 127.5, "{sampler}: {a} and {b}");
        }
        assert!(one.iter().any(|v| v.abs() < 0.99), "{sampler}: nothing to compare");
    }
}

#[test]
fn settings_that_do_not_fit_are_usage_errors() {
    let refused = |config: ddpm::Config| Ddpm::new(config, &pictures()).err().unwrap();
    let wrong = [
        ddpm::Config { unet: UNetConfig { groups: 7, ..small().unet }, ..small() },
        ddpm::Config { unet: UNetConfig { channel_multipliers: vec![1; 5], ..small().unet }, ..small() },
        with(ProcessConfig { sampler: "magic".into(), ..process() }),
        with(ProcessConfig { sampling_steps: 51, ..process() }),
        with(ProcessConfig { variance: Variance::Learned, ..process() }),
        with(ProcessConfig { objective: Objective::Hybrid, ..process() }),
        with(ProcessConfig { bound_weight: f64::NAN, ..process() }),
        with(ProcessConfig { zero_terminal_snr: true, ..process() }),
        with(ProcessConfig { sde: Sde::Ve, sigma_min: 2.0, sigma_max: 1.0, ..process() }),
        with(ProcessConfig {
            timestep_sampling: TimestepSampling::Lognormal,
            objective: Objective::Bound,
            ..process()
        }),
        with(ProcessConfig { weighting_gamma: 0.0, ..process() }),
        with(ProcessConfig { sde: Sde::Flow, ..process() }),
        with(ProcessConfig { prediction: Prediction::Flow, ..process() }),
        with(ProcessConfig { sde: Sde::Flow, prediction: Prediction::Flow, zero_terminal_snr: true, ..process() }),
        ddpm::Config { unet: UNetConfig { head_channels: 5, ..small().unet }, ..small() },
    ];
    for config in wrong {
        assert!(refused(config).is_usage());
    }
}
