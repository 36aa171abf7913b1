use burn::module::Module;
use burn::tensor::Device;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::{HostTensor, params};

use super::rosinality::{discriminator_name, generator_name};
use super::*;
use crate::adversarial::testing::{Fixtures, batch, close, overfit, values};
use crate::testing::hashed::uniform;
use crate::testing::requested;

/// What the reference script makes of a name.
fn formula(name: &str, count: usize) -> Vec<f32> {
    let value = |u: f64| {
        let value = if name.ends_with("modulation.bias") {
            0.9 + 0.2 * u
        } else if name.ends_with("bias") || name.ends_with("noise.weight") || name == "latent_avg" {
            0.2 * u - 0.1
        } else {
            (2.0 * u - 1.0) * 3f64.sqrt()
        };
        if name.starts_with("style.") { 100.0 * value } else { value }
    };
    uniform(name, count).map(|u| value(u) as f32).collect()
}

fn input<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    from_values(formula(name, shape.iter().product()), shape, device)
}

/// The reference's networks.
fn reference(side: usize, channel_base: usize, modulation: Modulation, device: &Device) -> Networks {
    let config = Config { latent_size: 16, channel_base, channel_max: 8, modulation, ..Config::default() };
    let s = StyleGan2::new(config, &Pictures::new([3, side, side], Vec::new())).unwrap();
    let networks = s.networks(&mut Init::new(device, 0));
    let state = params::state(&networks).into_iter().map(|(path, tensor)| {
        let values = formula(&name(&path), tensor.values.len());
        (path, HostTensor { values, ..tensor })
    });
    params::load(networks, &state.collect(), "the formula").unwrap()
}

/// Its noise, of two samples.
fn input_noise(g: &Generator) -> Noise {
    let device = Device::flex();
    let layer = |(i, constant): (usize, Tensor<4>)| {
        let [_, _, h, w] = constant.dims();
        input(&format!("input noise {i}"), [2, 1, h, w], &device)
    };
    g.constant_noise().into_iter().enumerate().map(layer).collect()
}

/// Sides with every how many pixels the file has, and the channels.
const SIDES: [(usize, usize, usize); 3] = [(32, 1, 128), (64, 2, 192), (256, 8, 512)];

/// The reference's name of a path, a discriminator's behind `d.`.
fn name(path: &str) -> String {
    match path.strip_prefix("generator.") {
        Some(rest) => generator_name(rest).unwrap(),
        None => format!("d.{}", discriminator_name(path.strip_prefix("discriminator.").unwrap()).unwrap()),
    }
}

/// The same weights, latents and noise give the same pictures and logits.
#[test]
fn pictures_are_those_of_the_port() {
    let f = Fixtures::open("stylegan2");
    let device = Device::flex();
    for (side, step, base) in SIDES {
        for modulation in [Modulation::Maps, Modulation::Weights] {
            let n = reference(side, base, modulation, &device);
            let g = &n.generator;
            let noise = input_noise(g);
            let w = g.mapping.forward(input("z", [2, 16], &device));
            let image = g.synthesise(latents::repeated(w.clone(), g.layers()), &noise);
            let kept = |x: Tensor<4>| {
                let rows: Vec<_> = (0..side).step_by(step).map(|i| x.clone().narrow(2, i, 1)).collect();
                let x = Tensor::cat(rows, 2);
                Tensor::cat((0..side).step_by(step).map(|i| x.clone().narrow(3, i, 1)).collect(), 3)
            };
            // Within 1/255 of the range of a picture is asked for, which is 2.
            f.assert_close(kept(image.clone()), &format!("{side}.image"), 2e-5);
            let logits = n.discriminator.logits(image);
            f.assert_close(logits, &format!("{side}.logits"), 2e-5);

            let w = g.mapping.truncate(w, 0.7);
            let layer = |i: usize| w.clone().narrow(0, usize::from(i >= 3), 1);
            let w = Tensor::cat((0..g.layers()).map(layer).collect(), 0).unsqueeze::<3>();
            f.assert_close(kept(g.synthesise(w, &g.constant_noise())), &format!("{side}.mixed"), 2e-5);
        }
    }
}

/// How far the gradients below a network are from the reference's, ‖a − e‖ / ‖e‖ over all.
fn off(f: &Fixtures, prefix: &str, network: &str, n: &Networks, loss: Tensor<1>) -> f64 {
    let gradients = params::take_gradients(n, &mut loss.backward());
    let (mut off, mut all) = (0.0, 0.0);
    for path in params::state(n).keys().filter(|path| path.starts_with(network)) {
        let name = name(path);
        let name = format!("{prefix}.{}", name.strip_prefix("d.").unwrap_or(&name));
        if !f.names().contains(&name) {
            continue;
        }
        let expected = values(f, &name);
        let found = gradients.get(path).map(|g| to_values(g.clone())).unwrap_or_else(|| vec![0.0; expected.len()]);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (a, e) in found.into_iter().zip(expected) {
            off += f64::from(a - e).powi(2);
            all += f64::from(e).powi(2);
        }
    }
    assert!(all > 0.0);
    (off / all).sqrt()
}

#[test]
fn penalties_and_their_gradients_are_those_of_the_port() {
    let f = Fixtures::open("stylegan2");
    let device = Device::flex().autodiff();
    for (side, _, base) in SIDES {
        let value = |name: &str| values(&f, &format!("{side}.{name}"))[0];
        let near = |found: Tensor<1>, name: &str| {
            let (found, expected) = (found.into_scalar::<f32>(), value(name));
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{side} {name}: {found}, expected {expected}");
        };
        let n = reference(side, base, Modulation::Maps, &device);
        let penalty =
            r1(&Critic(&n.discriminator, Augmentation::none()), input("real", [4, 3, side, side], &device), &device);
        near(penalty.clone(), "r1");
        let apart = off(&f, &format!("{side}.r1"), "discriminator", &n, penalty);
        assert!(apart < 1e-4, "{side}: gradients of R1 are off by {apart:e}");

        for modulation in [Modulation::Maps, Modulation::Weights] {
            let n = reference(side, base, modulation, &device);
            let g = &n.generator;
            let noise = input_noise(g);
            let w = latents::repeated(g.mapping.forward(input("z", [2, 16], &device)), g.layers());
            let mut lengths = MeanLength { mean: f64::from(0.3f32), rate: 0.01 };
            let y = input("y", [2, 3, side, side], &device);
            let penalty = path_length(&Painter(&g.synthesis, &noise), w, y, &mut lengths, &device);
            near(penalty.clone(), "path");
            assert!((lengths.mean - f64::from(value("path_mean"))).abs() < 1e-4 * lengths.mean);
            let apart = off(&f, &format!("{side}.path"), "generator", &n, penalty);
            assert!(apart < 1e-4, "{side} {modulation:?}: gradients of the path length are off by {apart:e}");
        }
    }
}

fn tiny() -> Config {
    Config { latent_size: 8, mapping_layers: 2, channel_base: 64, channel_max: 8, ..Config::default() }
}

fn system(config: Config, [h, w]: [usize; 2]) -> Result<StyleGan2> {
    StyleGan2::new(config, &Pictures::new([1, h, w], Vec::new()))
}

#[test]
fn shapes_at_every_size() {
    let device = Device::flex();
    for size in [[8, 8], [28, 28], [16, 24], [48, 64], [112, 92]] {
        let s = system(tiny(), size).unwrap();
        let n = s.networks(&mut Init::new(&device, 0));
        let out = s.generate(&n, &Request::new(0..3, 1, &device)).unwrap();
        assert_eq!(out.dims(), [3, 1, size[0], size[1]]);
        assert_eq!(n.discriminator.logits(out).dims(), [3]);
    }
}

#[test]
fn each_player_wins_a_fixed_batch_it_plays_alone() {
    let mut s = system(tiny(), [16, 16]).unwrap();
    let phases: Vec<_> = s.phases().iter().map(|p| p.name).collect();
    assert_eq!(phases, ["discriminator", "r1", "generator", "path_length"]);
    for (phase, rate) in [(0, 5e-3), (1, 5e-3), (2, 2e-2)] {
        let (first, last) = overfit(&mut s, phase, rate, 40, &batch(8, [1, 16, 16], 0));
        assert!(last < 0.8 * first, "{}: {first} to {last}", phases[phase]);
    }
}

#[test]
fn optimisers_make_room_for_lazy_losses() {
    let s = system(tiny(), [16, 16]).unwrap();
    let phases = s.phases();
    let d = &phases[0].optimizer;
    assert!((d.learning_rate - 2e-3 * 16.0 / 17.0).abs() < 1e-12 && d.beta1 == 0.0);
    assert!((d.beta2 - 0.99f64.powf(16.0 / 17.0)).abs() < 1e-12);
    assert_eq!((phases[1].every, phases[1].shares), (16, Some("discriminator")));
    assert_eq!((phases[3].every, phases[3].shares), (4, Some("generator")));
    // Without them, the rates are the recipe's.
    let s = system(Config { r1_gamma: 0.0, path_length_weight: 0.0, ..tiny() }, [16, 16]).unwrap();
    let phases = s.phases();
    assert_eq!(phases.iter().map(|p| p.optimizer.learning_rate).collect::<Vec<_>>(), [2e-3; 2]);
}

#[test]
fn fine_layers_learn_alone() {
    let s = system(Config { frozen_sizes: 2, ..tiny() }, [32, 32]).unwrap();
    let paths = ["generator.synthesis.blocks.2", "generator.synthesis.blocks.3"];
    assert_eq!(s.phases()[2].trains, paths);
    let n = s.networks(&mut Init::new(&Device::flex(), 0));
    let all = params::state(&n);
    assert!(paths.iter().all(|path| all.keys().any(|known| params::is_below(known, &[path]))));
    assert!(system(Config { frozen_sizes: 4, ..tiny() }, [32, 32]).err().unwrap().is_usage());
}

/// The first network's tests of what the verbs ask for.
#[test]
fn requests_are_of_z_and_w() {
    let device = Device::flex();
    let s = system(tiny(), [16, 16]).unwrap();
    let n = s.networks(&mut Init::new(&device, 0));
    n.generator.mapping.mean.update(input("latent_avg", [8], &device));
    let with = |settings: &str, samples: std::ops::Range<u64>| Request {
        sampler: settings.parse().unwrap(),
        ..Request::new(samples, 1, &device)
    };
    let all = to_values(s.generate(&n, &with("", 0..3)).unwrap());
    // A sample alone, by its latents in either space, and by its own noise.
    close(&to_values(s.generate(&n, &with("", 2..3)).unwrap()), &all[512..], 1e-5);
    for space in ["z", "w"] {
        let latents = s.latents(&n, &with(&format!("space = '{space}'"), 0..3)).unwrap();
        assert_eq!(latents.dims()[1], if space == "z" { 8 } else { 48 });
        close(&to_values(s.decode(&n, latents.clone()).unwrap()), &all, 1e-5);
        let ends = [0, 1].map(|i| latents.clone().narrow(0, i, 1));
        close(&to_values(s.between(ends[0].clone(), ends[1].clone(), 1.0)), &to_values(ends[1].clone()), 1e-5);
    }
    // ψ = 0 is the mean, whatever z; −1 is on its other side.
    let mean = to_values(s.generate(&n, &with("truncation_psi = 0.0", 0..2)).unwrap());
    close(&mean[..256], &mean[256..], 1e-5);
    let w = |psi: &str| to_values(s.latents(&n, &with(&format!("truncation_psi = {psi}"), 0..1)).unwrap());
    for ((full, none), opposite) in w("1.0").iter().zip(w("0.0")).zip(w("-1.0")) {
        assert!((full + opposite - 2.0 * none).abs() < 1e-5);
    }
    // Another noise is another picture of the same w, and the same again with the same seed. Strengths are 0 at first.
    let mut state = params::state(&n);
    let strengths = state.iter_mut().filter(|(path, _)| path.ends_with("noise.strength"));
    strengths.for_each(|(_, tensor)| tensor.values = vec![0.5]);
    let n = params::load(n, &state, "the test").unwrap();
    let of = |seed: u64| to_values(s.generate(&n, &with(&format!("noise_seed = {seed}"), 0..2)).unwrap());
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
    for (settings, says) in
        [("truncation_psi = 1.5", "between −1 and 1"), ("steps = 10", "--steps"), ("space = 'y'", "`z` or `w`")]
    {
        let said = s.generate(&n, &with(settings, 0..1)).unwrap_err();
        assert!(said.is_usage() && said.to_string().contains(says), "{said}");
    }
    let said = s.latents(&n, &with("space = 'z'\ntruncation_psi = 0.5", 0..1)).unwrap_err();
    assert!(said.is_usage(), "{said}");
    assert!(s.decode(&n, Tensor::zeros([1, 9], &device)).unwrap_err().is_usage());
    let mut request = with("", 0..2);
    request.noise = Some(Tensor::zeros([2, 7, 1, 1], &device));
    assert!(requested(&s, &n, &request).unwrap_err().is_usage());
}

#[test]
fn groups_of_styles_are_the_papers() {
    let of =
        |layers| latents::groups(layers, 1).into_iter().map(|(name, n)| (name, n.start, n.end)).collect::<Vec<_>>();
    assert_eq!(of(18), [("coarse", 0, 4), ("middle", 4, 8), ("fine", 8, 18)]);
    assert_eq!(of(10), [("coarse", 0, 2), ("middle", 2, 4), ("fine", 4, 10)]);
    assert_eq!(of(6), [("coarse", 0, 2), ("middle", 2, 4), ("fine", 4, 6)]);
    assert_eq!(of(4), [("coarse", 0, 2), ("fine", 2, 4)]);
}

/// The mean of W follows in training, and is the same network's elsewhere.
#[test]
fn the_mean_of_w_is_tracked() {
    let device = Device::flex().autodiff();
    let s = system(tiny(), [16, 16]).unwrap();
    let n = s.networks(&mut Init::new(&device, 0));
    let w = n.generator.mapping.forward(Tensor::ones([4, 8], &device));
    let mean = to_values(n.generator.mapping.mean.value_sync());
    let expected: Vec<f32> = to_values(w.mean_dim(0)).into_iter().map(|w| 0.005 * w).collect();
    close(&mean, &expected, 1e-6);
    let still = n.valid();
    still.generator.mapping.forward(Tensor::ones([4, 8], &Device::flex()));
    close(&to_values(still.generator.mapping.mean.value_sync()), &mean, 0.0);
}

#[test]
fn bad_settings_are_usage_errors() {
    let bad = [
        Config { latent_size: 0, ..tiny() },
        Config { channel_max: 0, ..tiny() },
        Config { minibatch_std_group: 0, ..tiny() },
        Config { r1_interval: 0, ..tiny() },
        Config { path_length_shrink: 0, ..tiny() },
    ];
    for config in bad {
        assert!(system(config.clone(), [16, 16]).err().is_some_and(|e| e.is_usage()), "{config:?}");
    }
}

/// A checkpoint of the port's trainer, one of its converter in PyTorch's older format, and the averaged generator alone: each
/// becomes a run whose pictures are the port's, and which can be trained further.
#[test]
fn the_ports_files_become_runs() {
    let f = Fixtures::open("stylegan2");
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let system = crate::find("stylegan2").unwrap();
    for (file, discriminator, mean) in
        [("trainer.pt", true, false), ("converter.pt", false, true), ("g_ema.safetensors", false, false)]
    {
        let root = dir.path().join(file);
        let imported = import::import(&Fixtures::folder().join("stylegan2").join(file), &root, &[]).unwrap();
        assert_eq!((imported.size, imported.discriminator, imported.mean), ([8, 8], discriminator, mean), "{file}");
        let run = kiln_train::Run::open(&root).unwrap();
        let model = system.open(&run, kiln_train::WeightSet::Ema, &device).unwrap();
        let with = |settings: &str| {
            let noise = Some(input("z", [2, 4, 1, 1], &device));
            model.generate(&Request { sampler: settings.parse().unwrap(), noise, ..Request::new(0..2, 0, &device) })
        };
        f.assert_close(with("").unwrap(), "import.image", 2e-5);
        let truncated = with("truncation_psi = 0.5").unwrap();
        if mean {
            f.assert_close(truncated, "import.truncated", 2e-5);
        }
        // Its own noise, or that of a seed.
        assert_ne!(to_values(with("noise_seed = 1").unwrap()), to_values(with("").unwrap()));
        let saved = run.newest_checkpoint().unwrap();
        let bias = &saved.network["discriminator.from_picture.bias"].values;
        assert_eq!(*bias == formula("d.convs.0.1.bias", 3), discriminator, "{file}");

        let mut recipe = system.defaults_from(&run).unwrap();
        for text in ["data.set=starter:noto", "data.resize=stretch", "train.batch=2", "model.frozen_sizes=1"] {
            let change = kiln_train::recipe::assignment(text).unwrap();
            kiln_train::recipe::merge(&mut recipe, &change, "test").unwrap();
        }
        let options = kiln_train::Options { steps: Some(1), quiet: true, ..kiln_train::Options::on(device.clone()) };
        system.train(recipe, &dir.path().join(format!("{file}-tuned")), &options).unwrap();
    }
}

/// Shape and bytes of each tensor of a file.
type Tensors = std::collections::BTreeMap<String, (Vec<usize>, Vec<u8>)>;

#[test]
fn files_of_other_networks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = |file: &std::path::Path| import::import(file, &dir.path().join("run"), &[]).unwrap_err().to_string();
    assert!(said(&Fixtures::folder().join("weights/zip.pth")).contains("g_ema.input.input"));
    // One tensor away, one too many, and one of another shape.
    let whole = std::fs::read(Fixtures::folder().join("stylegan2/g_ema.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut all = tensors.iter().map(|(n, v)| (n.to_string(), (v.shape().to_vec(), v.data().to_vec()))).collect();
        change(&mut all);
        let views = all.iter().map(|(name, (shape, data))| {
            (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
        });
        let path = dir.path().join("changed.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        said(&path)
    };
    let gone = changed(&|all| drop(all.remove("style.2.bias")));
    assert!(gone.contains("`style.2.bias` is missing"), "{gone}");
    let more = changed(&|all| drop(all.insert("extra".into(), (vec![1], vec![0; 4]))));
    assert!(more.contains("`extra` has no place"), "{more}");
    let other = changed(&|all| drop(all.insert("to_rgbs.0.upsample.kernel".into(), (vec![4, 4], vec![0; 64]))));
    assert!(other.contains("a filter other than"), "{other}");
    let shape = changed(&|all| drop(all.insert("style.1.bias".into(), (vec![5], vec![0; 20]))));
    assert!(shape.contains("has shape [5]"), "{shape}");
    assert!(!dir.path().join("run").exists());
}

/// A picture of the network is found again, and nearer than one that it did not make.
#[test]
fn a_projection_knows_its_own() {
    let device = Device::flex();
    let s = system(tiny(), [16, 16]).unwrap();
    let n = s.networks(&mut Init::new(&device, 0));
    let of = |settings: &str, n_: std::ops::Range<u64>| Request {
        sampler: settings.parse().unwrap(),
        ..Request::new(n_, 3, &device)
    };
    let own = s.generate(&n, &of("", 5..7)).unwrap();
    let squared = |a: Tensor<4>, b: Tensor<4>| Ok((a - b).square().mean_dims(&[1, 2, 3]).flatten(0, 3));
    let shown = std::rc::Rc::new(std::cell::Cell::new(0));
    let mut request = of("steps = 120\nspace = 'w+'", 0..2);
    let seen = shown.clone();
    request.watch = Some(kiln_train::ChainWatch(std::rc::Rc::new(move |_, of, picture: &Tensor<4>| {
        assert_eq!((of, picture.dims()), (Some(121), [2, 1, 16, 16]));
        seen.set(seen.get() + 1);
    })));
    let found = s.project(&n, own.clone(), &squared, &request).unwrap();
    assert_eq!((shown.get(), found.latents.dims()), (121, [2, 48]));
    let start = to_values(squared(s.generate(&n, &of("truncation_psi = 0.0", 0..2)).unwrap(), own.clone()).unwrap());
    let distances = to_values(found.distances);
    close(&to_values(squared(found.images, own).unwrap()), &distances, 1e-5);
    for (distance, start) in distances.iter().zip(start) {
        assert!(*distance < 0.3 * start, "{distance} from {start}");
    }
    let said = s.project(&n, Tensor::zeros([2, 1, 16, 16], &device), &squared, &of("eta = 1.0", 0..2)).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("--steps, --space"), "{said}");
    assert!(s.project(&n, Tensor::zeros([1, 1, 8, 8], &device), &squared, &of("", 0..1)).unwrap_err().is_usage());
}
