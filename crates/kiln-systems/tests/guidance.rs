//! Guidance: scores that steer, classifiers, and settings that would break a chain.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::cell::RefCell;
use std::rc::Rc;

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, normal, to_values};
use kiln_nn::unet::UNetConfig;
use kiln_systems::diffusion::ddpm::{self, Ddpm};
use kiln_systems::diffusion::guidance::{Backward, ColourHistogram, Edges, steer};
use kiln_systems::diffusion::noisy_classifier::{self, NoisyClassifier};
use kiln_systems::diffusion::parameterisation::Prediction;
use kiln_systems::diffusion::process::ProcessConfig;
use kiln_systems::diffusion::sampler::grid::Sigmas;
use kiln_systems::diffusion::sampler::settings::{SAMPLERS, SamplerSettings};
use kiln_systems::diffusion::schedule::{BetaSchedule, Level, NoiseSchedule, Sde};
use kiln_train::params::map_flat;
use kiln_train::{ChainWatch, Classify, Decode, Encode, Generate, Guide, Guided, Looks, Pictures, Request, System};

const NO_STEPS: Backward = Backward { steps: 0, rate: 0.0 };

fn pictures() -> Pictures {
    Pictures::new([1, 8, 8], vec!["a".into(), "b".into(), "c".into()])
}

fn unet() -> UNetConfig {
    UNetConfig {
        base_channels: 8,
        channel_multipliers: vec![1, 2],
        blocks: 1,
        attention_levels: vec![1],
        groups: 4,
        ..UNetConfig::default()
    }
}

fn config() -> ddpm::Config {
    ddpm::Config { process: process(), unet: unet(), ..ddpm::Config::default() }
}

fn process() -> ProcessConfig {
    ProcessConfig { timesteps: 50, sampling_steps: 5, ..ProcessConfig::default() }
}

/// Fresh networks end in zeros; noise on every weight makes them say something.
fn stirred(networks: ddpm::Networks, size: f64) -> ddpm::Networks {
    let device = Device::flex();
    map_flat(networks, |path, value| {
        let len = value.dims()[0];
        value + normal(Key::new(1).purpose(path), 0..1, [1, len], &device).reshape([len]) * size
    })
}

fn system(config: ddpm::Config) -> (Ddpm, ddpm::Networks) {
    let system = Ddpm::new(config, &pictures()).unwrap();
    let networks = stirred(system.networks(&mut Init::new(&Device::flex(), 0)), 0.1);
    (system, networks)
}

fn request(n: u64, sampler: SamplerSettings) -> Request {
    Request { sampler: sampler.table(), ..Request::new(0..n, 7, &Device::flex()) }
}

/// −½ Σ (x − goal)².
struct Near(f64, Looks);

impl Guide for Near {
    fn looks_at(&self) -> Looks {
        self.1
    }

    fn score(&self, x: Tensor<4>, _signal: f64, _sigma: f64, _request: &Request) -> Result<Tensor<1>> {
        let [n, c, h, w] = x.dims();
        Ok(((x - self.0).square() * -0.5).reshape([n, c * h * w]).sum_dim(1).reshape([n]))
    }
}

fn guided(guide: impl Guide + 'static, scale: f64) -> Guided {
    Guided { guide: Rc::new(guide), scale, name: String::new() }
}

/// ε̂ − w σ ∇ log p, as Dhariwal & Nichol's algorithm 2 and Bansal's equation 6 have it.
#[test]
fn scores_shift_the_noise() {
    let device = Device::flex();
    let level = NoiseSchedule::new(BetaSchedule::Linear, 1000).level(400);
    let xt = normal(Key::new(0), 0..2, [2, 1, 3, 3], &device);
    // A network of x̂₀ = tanh(x / 2).
    let predict = |x: Tensor<4>| Ok((x * 0.5).tanh());
    let epsilon = |x0: Tensor<4>| (xt.clone() - x0 * level.signal) / level.sigma;
    let with = |guides: Vec<Guided>, backward| {
        let request = Request { guides, ..Request::new(0..2, 0, &device) };
        steer(&predict, xt.clone(), level, &request, backward).unwrap()
    };
    let close = |a: Tensor<4>, b: Tensor<4>| {
        let off = to_values(a - b).into_iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(off < 1e-4, "{off}");
    };
    let x0 = (xt.clone() * 0.5).tanh();
    close(with(vec![], NO_STEPS), x0.clone());
    // At the noisy picture: ∇ = goal − x.
    let noisy = with(vec![guided(Near(0.7, Looks::Noisy), 2.0)], NO_STEPS);
    close(epsilon(noisy), epsilon(x0.clone()) - (-xt.clone() + 0.7) * (2.0 * level.sigma));
    // Through the network: ∇ = (goal − x̂₀)·∂x̂₀/∂x, which is ½(1 − x̂₀²).
    let through = (-x0.clone() + 0.7) * (-x0.clone().square() + 1.0) * 0.5;
    let clean = with(vec![guided(Near(0.7, Looks::Clean), 2.0)], NO_STEPS);
    close(epsilon(clean.clone()), epsilon(x0.clone()) - through * (2.0 * level.sigma));
    // Backward on x̂₀: each step goes a share of the way to the goal.
    let back = with(vec![guided(Near(0.7, Looks::Clean), 2.0)], Backward { steps: 3, rate: 0.1 });
    close(back, (clean - 0.7) * 0.8f64.powi(3) + 0.7);
}

/// The gradient through the whole network, its weights being off the tape, against central differences.
#[test]
fn gradients_reach_the_chain_through_the_network() {
    let (system, networks) =
        system(ddpm::Config { process: ProcessConfig { clip_sample: false, ..process() }, ..config() });
    let guides = vec![guided(Near(0.3, Looks::Clean), 1.0)];
    let settings = SamplerSettings {
        sampler: Some("ddim".into()),
        steps: Some(1),
        timestep_spacing: Some("leading".into()),
        ..SamplerSettings::default()
    };
    // One step of DDIM ends at the guided x̂₀; its level is time 0, where x̂₀ + (σ²/α)·∇ is told from x̂₀.
    let noise = normal(Key::new(2), 0..1, [1, 1, 8, 8], &Device::flex()) * 0.3;
    let run = |noise: Tensor<4>, guides: Vec<Guided>| {
        let request = Request { noise: Some(noise), guides, ..request(1, settings.clone()) };
        to_values(system.generate(&networks, &request).unwrap())
    };
    let level = NoiseSchedule::new(BetaSchedule::Linear, 50).level(0);
    let (plain, steered) = (run(noise.clone(), vec![]), run(noise.clone(), guides));
    let factor = level.sigma * level.sigma / level.signal;
    let score = |x0: &[f32]| x0.iter().map(|v| -0.5 * (f64::from(*v) - 0.3).powi(2)).sum::<f64>();
    let mut compared = 0;
    for i in (0..64).step_by(7).filter(|&i| plain[i].abs() < 0.9 && steered[i].abs() < 0.9) {
        let nudge = |d: f32| {
            from_values((0..64).map(|k| if k == i { d } else { 0.0 }).collect(), [1, 1, 8, 8], &Device::flex())
        };
        let (up, down) = (run(noise.clone() + nudge(5e-3), vec![]), run(noise.clone() + nudge(-5e-3), vec![]));
        let slope = (score(&up) - score(&down)) / 1e-2;
        let got = f64::from(steered[i] - plain[i]) / factor;
        assert!((got - slope).abs() < 0.03 * slope.abs().max(1.0), "{i}: {got} instead of {slope}");
        compared += 1;
    }
    assert!(compared > 3);
}

#[test]
fn colours_and_edges_score_best_at_their_picture() {
    let device = Device::flex();
    let goal = normal(Key::new(4), 0..1, [1, 3, 9, 7], &device).clamp(-1.0, 1.0);
    let other = normal(Key::new(5), 0..2, [2, 3, 9, 7], &device).clamp(-1.0, 1.0) * 0.5;
    let request = Request::new(0..2, 0, &device);
    let guides: [Box<dyn Guide>; 2] = [Box::new(ColourHistogram::of(goal.clone())), Box::new(Edges::of(goal.clone()))];
    for guide in guides {
        let score = |x: Tensor<4>| to_values(guide.score(x, 1.0, 0.0, &request).unwrap());
        assert!(score(goal.clone())[0].abs() < 1e-6);
        let before = score(other.clone());
        // Uphill is better, for each picture.
        let x = other.clone().autodiff().require_grad();
        let gradients = guide.score(x.clone(), 1.0, 0.0, &request).unwrap().sum().backward();
        let uphill = x.grad(&gradients).unwrap();
        let after = score(other.clone() + uphill.clone() / uphill.abs().max().into_scalar::<f32>() * 0.02);
        assert!(before.iter().zip(&after).all(|(b, a)| b < a && *a < 0.0), "{before:?} {after:?}");
    }
}

/// One level of the noise stands for another's scale and time.
#[test]
fn a_noisy_classifier_serves_any_noise() {
    let device = Device::flex();
    let config = noisy_classifier::Config { unet: unet(), ..noisy_classifier::Config::default() };
    let system = NoisyClassifier::new(config, &pictures()).unwrap();
    let networks = system.networks(&mut Init::new(&device, 3));
    let x = normal(Key::new(6), 0..2, [2, 1, 8, 8], &device);
    let Level { signal, sigma, .. } = Sde::Vp.level(0.0, 3.0);
    let here = to_values(system.classify_noisy(&networks, x.clone(), signal, sigma).unwrap().unwrap());
    let exploded = to_values(system.classify_noisy(&networks, x / signal, 1.0, 3.0).unwrap().unwrap());
    assert_eq!(here.len(), 6);
    for (a, b) in here.iter().zip(&exploded) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// Every sampler from every noise, the cosine's last step among them, under guidance of weight 100, with nothing left
/// of the picture at the last time: what comes out is a picture, and one that a single error would have kept back.
#[test]
fn no_setting_makes_pictures_that_are_not_finite() {
    let configs = [
        ProcessConfig { schedule: BetaSchedule::Cosine, clip_sample: false, ..process() },
        ProcessConfig { schedule: BetaSchedule::Cosine, ..process() },
        ProcessConfig {
            zero_terminal_snr: true,
            prediction: Prediction::V,
            schedule: BetaSchedule::ScaledLinear,
            ..process()
        },
        ProcessConfig { sde: Sde::SubVp, ..process() },
        ProcessConfig { sde: Sde::Ve, prediction: Prediction::Edm, clip_sample: false, ..process() },
    ];
    for process in configs {
        let (sde, shape, clip) = (process.sde, process.schedule, process.clip_sample);
        let (system, networks) = system(ddpm::Config { process, class_conditional: true, ..config() });
        for (sampler, _) in SAMPLERS {
            let loose = (sampler == "ode").then_some(1e-1);
            for (class, guidance_scale) in [(None, None), (Some(1), Some(100.0))] {
                let settings = SamplerSettings {
                    sampler: Some(sampler.into()),
                    guidance_scale,
                    timestep_spacing: (sampler != "ode").then(|| "trailing".into()),
                    rtol: loose,
                    atol: loose,
                    ..SamplerSettings::default()
                };
                let request = request(2, settings).of_class(class);
                let place = format!("{sde:?} {shape:?} clip {clip} {sampler} {class:?}");
                match system.generate(&networks, &request) {
                    Ok(out) => {
                        let out = to_values(out);
                        assert!(out.iter().all(|v| (-1.0..=1.0).contains(v)), "{place}");
                    }
                    // Unclipped and pushed a hundredfold, a chain may leave the numbers there are; it then says so.
                    Err(e) => {
                        assert!(!clip && class.is_some(), "{place}: {e}");
                        assert!(e.to_string().contains("finite") || e.to_string().contains("shrank"), "{place}: {e}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_chain_that_leaves_the_numbers_says_so() {
    let (system, networks) = system(config());
    let broken = stirred(networks, f64::INFINITY);
    let e = system.generate(&broken, &request(1, SamplerSettings::default())).unwrap_err();
    assert!(!e.is_usage() && e.to_string().contains("not finite at t = "), "{e}");
}

#[test]
fn a_chain_is_watched_and_split() {
    let (system, networks) = system(config());
    let seen = Rc::new(RefCell::new(Vec::new()));
    let into = seen.clone();
    let mut request = request(3, SamplerSettings { sampler: Some("heun".into()), ..SamplerSettings::default() });
    request.watch =
        Some(ChainWatch(Rc::new(move |i, of, x0: &Tensor<4>| into.borrow_mut().push((i, of, x0.dims()[0])))));
    system.generate(&networks, &request).unwrap();
    assert_eq!(*seen.borrow(), (0..9).map(|i| (i, Some(9), 3)).collect::<Vec<_>>());
}

/// Solvers space their levels as Karras from 80 on, unless a recipe or a request says otherwise.
#[test]
fn solvers_begin_where_noise_is_enough() {
    let config = ProcessConfig { schedule: BetaSchedule::Cosine, ..ProcessConfig::default() };
    let ratios = |config: &ProcessConfig, settings: &str| {
        let settings: SamplerSettings = settings.parse::<toml::Table>().unwrap().try_into().unwrap();
        let plan = config.process(1).unwrap().plan(&settings).unwrap();
        plan.levels.iter().map(|level| level.ratio()).collect::<Vec<f64>>()
    };
    let last = config.process(1).unwrap().schedule.ratio(999);
    for sampler in ["euler", "heun", "dpm++", "dpm++-sde", "unipc"] {
        let named = format!("sampler = '{sampler}'\nsteps = 10\n");
        let usual = ratios(&config, &named);
        let asked = ratios(&config, &format!("{named}sigmas = 'karras'\nsigma_max = 80.0"));
        assert_eq!(usual, asked, "{sampler}");
        let least = config.process(1).unwrap().schedule.ratio(0);
        assert!((usual[0] - 80.0).abs() < 1e-6 && (usual[9] - least).abs() < 1e-6 && usual[10] == 0.0, "{usual:?}");
        let ends = |text: &str| ratios(&config, &format!("{named}{text}"))[0];
        assert!((ends("sigma_max = 20.0") - 20.0).abs() < 1e-6, "{sampler}");
        assert!((ends("sigmas = 'schedule'") / last - 1.0).abs() < 1e-9, "{sampler}");
        assert!((ends("timestep_spacing = 'trailing'") / last - 1.0).abs() < 1e-9, "{sampler}");
        let older = ProcessConfig { sigmas: Sigmas::Schedule, ..config.clone() };
        assert!((ratios(&older, &named)[0] / last - 1.0).abs() < 1e-9, "{sampler}");
    }
}

#[test]
fn encoding_is_taken_back_by_decoding() {
    // A network that predicts nothing of x₀ but what it sees: the flow of N(0, 1) data keeps every picture.
    let v = Prediction::V;
    let process =
        ProcessConfig { prediction: v, timesteps: 1000, sampling_steps: 250, clip_sample: false, ..process() };
    let config = ddpm::Config { process, ..config() };
    let system = Ddpm::new(config, &pictures()).unwrap();
    let networks = stirred(system.networks(&mut Init::new(&Device::flex(), 0)), 0.02);
    let images = normal(Key::new(3), 0..2, [2, 1, 8, 8], &Device::flex()).clamp(-0.9, 0.9);
    let request = Request::new(0..2, 0, &Device::flex());
    let latents = system.encode(&networks, images.clone(), &request).unwrap();
    let back = system.decode(&networks, latents).unwrap();
    let off = to_values(back - images).into_iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(off < 0.05, "{off}");
}

#[test]
fn settings_that_do_not_belong_are_named() {
    let (system, networks) = system(config());
    let refused = |sampler: SamplerSettings, class| {
        let request = request(1, sampler).of_class(class);
        let e = system.generate(&networks, &request).unwrap_err();
        assert!(e.is_usage(), "{e}");
        e.to_string()
    };
    let of = |name: &str| SamplerSettings { sampler: Some(name.into()), ..SamplerSettings::default() };
    assert!(refused(of("magic"), None).contains("ddpm, ddim, euler"));
    assert!(refused(SamplerSettings { eta: Some(0.5), ..of("euler") }, None).starts_with("--eta: the sampler euler"));
    assert!(refused(SamplerSettings { order: Some(4), ..of("dpm++") }, None).contains("1 to 3"));
    let all = SamplerSettings { steps: Some(50), timestep_spacing: Some("leading".into()), ..of("dpm++") };
    assert!(refused(all, None).contains("1 to 49"));
    // Whoever names timesteps or the schedule's levels has no other end.
    let schedule = SamplerSettings { sigmas: Some("schedule".into()), ..of("heun") };
    let trailing = SamplerSettings { timestep_spacing: Some("trailing".into()), ..of("dpm++") };
    for of in [schedule, trailing] {
        assert!(refused(SamplerSettings { sigma_max: Some(80.0), ..of }, None).starts_with("--sigma-max"));
    }
    assert!(refused(SamplerSettings { s_noise: Some(1.0), ..of("heun") }, None).contains("--s-churn above 0"));
    assert!(refused(SamplerSettings { s_churn: Some(-1.0), ..of("euler") }, None).starts_with("--s-churn -1"));
    assert!(refused(SamplerSettings { s_churn: Some(5.0), ..of("ddim") }, None).contains("it is for euler, heun"));
    let nowhere = SamplerSettings { s_churn: Some(5.0), s_tmin: Some(2.0), s_tmax: Some(1.0), ..of("heun") };
    assert!(refused(nowhere, None).starts_with("--s-tmin 2"));
    let short = SamplerSettings {
        final_sigma: Some("sigma_min".into()),
        steps: Some(1),
        timestep_spacing: Some("leading".into()),
        ..of("heun")
    };
    assert!(refused(short, None).contains("take more steps"));
    assert!(refused(SamplerSettings { variance: Some("learned".into()), ..of("ddpm") }, None).contains("--variance"));
    assert!(refused(SamplerSettings { guidance_scale: Some(2.0), ..of("ddim") }, None).contains("class_conditional"));
    assert!(refused(SamplerSettings { backward_steps: Some(2), ..of("ddim") }, None).contains("--guide"));
    assert!(refused(of("ddim"), Some(1)).contains("--class 1"));
    let still = SamplerSettings { predictor: Some("none".into()), corrector_steps: Some(0), ..of("pc") };
    assert!(refused(still, None).contains("nothing is left"));
    let twice =
        SamplerSettings { timestep_spacing: Some("trailing".into()), sigmas: Some("karras".into()), ..of("dpm++") };
    assert!(refused(twice, None).starts_with("--timestep-spacing"));
    let first = SamplerSettings { order: Some(1), solver_type: Some("heun".into()), ..of("dpm++") };
    assert!(refused(first, None).starts_with("--solver-type"));
}
