//! Models that diffusers saved: the same output, the same picture, and back again.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_nn::tensor::{from_indices, to_values};
use kiln_nn::{Condition, Init};
use kiln_systems::diffusion::diffusers::folder::{ImportOptions, Imported, export, import};
use kiln_systems::diffusion::diffusers::{Config, Diffusers, Networks};
use kiln_train::checkpoint::Checkpoint;
use kiln_train::{Context, Model, Options, Pictures, Recipe, Request, Run, System, WeightSet, params, recipe};
use serde_json::{Value, json};

const ALL: [&str; 7] = ["published", "options", "fourier", "text", "shards", "plain-middle", "no-middle"];

fn folder(name: &str) -> PathBuf {
    Fixtures::folder().join("diffusers").join(name)
}

fn expected(name: &str) -> Fixtures {
    Fixtures::open(&format!("diffusers/{name}/expected"))
}

fn imported(name: &str, root: &Path) -> Imported {
    import(&folder(name), root, &ImportOptions::default()).unwrap()
}

fn recipe_of(root: &Path) -> Recipe<Config> {
    Run::open(root).unwrap().recipe_of::<Diffusers>().unwrap()
}

fn networks(root: &Path) -> Networks {
    networks_on(root, &Device::flex())
}

fn networks_on(root: &Path, device: &Device) -> Networks {
    let recipe = recipe_of(root);
    let [height, width] = recipe.model.unet.sample_size;
    let pictures = Pictures::new([recipe.data.channels, height, width], recipe.data.classes.clone());
    let system = Diffusers::new(recipe.model, &pictures).unwrap();
    let saved = Checkpoint::newest(&Run::open(root).unwrap().checkpoints(), &mut |_| ()).unwrap().unwrap();
    params::load(system.networks(&mut Init::new(device, 1)), &saved.network, "network").unwrap()
}

fn has(f: &Fixtures, name: &str) -> bool {
    f.names().iter().any(|n| n == name)
}

fn model(root: &Path) -> Box<dyn Model> {
    let system = kiln_systems::find("diffusers").unwrap();
    system.open(&Run::open(root).unwrap(), WeightSet::Ema, &Device::flex()).unwrap()
}

/// The network's output for the stored input.
fn output(networks: &Networks, f: &Fixtures, input: Tensor<4>) -> Tensor<4> {
    let device = input.device();
    let labels = has(f, "labels").then(|| {
        let labels: Vec<u32> = f.values("labels").1.into_iter().map(|l| l as u32).collect();
        from_indices(&labels, &device)
    });
    let on = |x: Tensor<3>| if device.is_autodiff() { x.autodiff() } else { x };
    let context = has(f, "encoder_hidden_states").then(|| on(f.tensor("encoder_hidden_states")));
    let times: Tensor<1> = f.tensor("timesteps");
    let times = if device.is_autodiff() { times.autodiff() } else { times };
    networks.unet.forward(input, times, &Condition { class: labels, context, ..Condition::default() })
}

#[test]
fn networks_give_what_theirs_give() {
    let dir = tempfile::tempdir().unwrap();
    for name in ALL {
        let root = dir.path().join(name);
        imported(name, &root);
        let f = expected(name);
        f.assert_close(output(&networks(&root), &f, f.tensor("input")), "output", 1e-4);

        let networks = networks_on(&root, &Device::flex().autodiff());
        let input = f.tensor::<4>("input").autodiff().require_grad();
        let upstream = f.tensor::<4>("grad_output").autodiff();
        let mut gradients = (output(&networks, &f, input.clone()) * upstream).sum().backward();
        f.assert_close(input.grad(&gradients).unwrap(), "grad_input", 1e-3);
        let of_weights = params::take_gradients(&networks, &mut gradients);
        let weight = "time_embedding.linear_1.weight";
        let (shape, _) = f.values(&format!("grad_{weight}"));
        let gradient = of_weights[&format!("unet.{weight}")].clone().reshape([shape[0], shape[1]]);
        f.assert_close(gradient, &format!("grad_{weight}"), 1e-3);
        assert!(!of_weights.contains_key("unet.time_proj.weight"), "{name}: fixed frequencies are trained");
    }
}

/// Of each picture by itself, as each has its own label.
fn sampled(model: &dyn Model, f: &Fixtures, sampler: Option<&str>) -> Tensor<4> {
    let noise: Tensor<4> = f.tensor("noise");
    let labels = has(f, "labels").then(|| f.values("labels").1);
    let row = |i: usize| {
        let mut request = Request::new(i as u64..i as u64 + 1, 0, &Device::flex());
        request.noise = Some(noise.clone().narrow(0, i, 1));
        request.condition.class = labels.as_ref().map(|l| l[i] as u32);
        if has(f, "encoder_hidden_states") {
            let context = Context { with: Some(f.tensor("encoder_hidden_states")), without: None };
            request.condition.context = Some(context.narrow(i, 1));
        }
        if let Some(sampler) = sampler {
            request.sampler.insert("sampler".into(), sampler.into());
        }
        request.sampler.insert("steps".into(), toml::Value::try_from(20).unwrap());
        model.generate(&request).unwrap()
    };
    Tensor::cat(vec![row(0), row(1)], 0)
}

fn off(a: Tensor<4>, b: Tensor<4>) -> f32 {
    to_values((a - b).abs()).into_iter().fold(0.0, f32::max)
}

#[test]
fn twenty_steps_of_ddim_give_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    for name in ALL.into_iter().filter(|name| *name != "options") {
        let (root, f) = (dir.path().join(name), expected(name));
        imported(name, &root);
        let off = off(sampled(&*model(&root), &f, Some("ddim")), f.tensor("ddim"));
        assert!(off <= 1.0 / 255.0, "{name}: a pixel is off by {off}");
    }
}

/// A model whose own scheduler is DPM-Solver++ is sampled by it.
#[test]
fn twenty_steps_of_the_solver_give_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    imported("shards", dir.path());
    assert_eq!(recipe_of(dir.path()).model.sampler, "dpm++");
    let f = expected("shards");
    let off = off(sampled(&*model(dir.path()), &f, None), f.tensor("solver"));
    assert!(off <= 1.0 / 255.0, "a pixel is off by {off}");
}

/// A small run of Kiln's own system, trained a little so that no layer is zero.
fn trained(root: &Path, settings: &[&str]) {
    let system = kiln_systems::find("ddpm").unwrap();
    let mut table = system.defaults().unwrap();
    let common = [
        "train.batch=4",
        "train.preview_every=0",
        "train.preview_count=1",
        "model.unet.base_channels=8",
        "model.unet.groups=4",
        "model.unet.blocks=1",
        "model.unet.patch=1",
        "model.unet.channel_multipliers=[1, 2, 2]",
        "model.unet.attention_levels=[1]",
        "model.schedule=linear",
        "model.prediction=epsilon",
        "model.eta=0",
        "model.sampling_steps=4",
        "model.optimizer.learning_rate=0.01",
        "model.optimizer.warmup=0",
    ];
    for text in common.iter().chain(settings) {
        recipe::merge(&mut table, &recipe::assignment(text).unwrap(), "test").unwrap();
    }
    let options = Options { steps: Some(3), quiet: true, ..Options::on(Device::flex()) };
    system.train(table, root, &options).unwrap();
}

fn generated(root: &Path, class: Option<u32>, steps: usize) -> Tensor<4> {
    let run = Run::open(root).unwrap();
    let table = run.recipe().unwrap();
    let system = kiln_systems::find(table["system"].as_str().unwrap()).unwrap();
    let mut request = Request::new(3..5, 7, &Device::flex());
    request.condition.class = class;
    request.sampler.insert("steps".into(), toml::Value::try_from(steps).unwrap());
    system.open(&run, WeightSet::Ema, &Device::flex()).unwrap().generate(&request).unwrap()
}

/// Both systems draw from the same keys, so that the same seed gives the same picture.
#[test]
fn a_run_that_goes_out_and_comes_in_makes_the_same_pictures() {
    let cases: [(&str, &[&str], Option<u32>); 5] = [
        ("plain", &["model.sampler=ddpm"], None),
        ("ddim", &["model.prediction=v", "model.schedule=cosine", "model.unet.channel_multipliers=[1, 2]"], None),
        (
            "learned",
            &[
                "model.sampler=ddpm",
                "model.variance=learned",
                "model.objective=hybrid",
                "model.unet.heads=2",
                "model.unet.channel_multipliers=[1, 1]",
                "model.unet.attention_levels=[0, 1]",
                "model.timesteps=40",
            ],
            None,
        ),
        (
            "adm",
            &[
                "model.sampler=ddpm",
                "model.unet.scale_shift=true",
                "model.unet.resample_blocks=true",
                "model.unet.head_channels=4",
                "model.unet.channel_multipliers=[1, 2]",
            ],
            None,
        ),
        ("classes", &["model.sampler=ddpm", "model.class_conditional=true", "model.variance=small"], Some(4)),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, settings, class) in cases {
        let at = |part: &str| dir.path().join(format!("{name}-{part}"));
        trained(&at("run"), settings);
        let exported = export(&Run::open(&at("run")).unwrap(), WeightSet::Ema, &at("out")).unwrap();
        assert_eq!(exported.pipeline, Some(if name == "ddim" { "DDIMPipeline" } else { "DDPMPipeline" }));
        let changes = recipe::assignment("model.use_clipped_model_output=true").unwrap();
        let options = ImportOptions { changes: vec![(changes, "test".into())], ..ImportOptions::default() };
        import(&at("out"), &at("in"), &options).unwrap();
        let (ours, theirs) = (generated(&at("run"), class, 4), generated(&at("in"), class, 4));
        let spread = to_values(ours.clone()).into_iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(v), b.max(v)));
        assert!(spread.1 - spread.0 > 0.1, "{name}: a picture of nothing");
        let off = off(ours, theirs);
        assert!(off < 1e-4, "{name}: a pixel is off by {off}");
    }
}

/// What was read is what is written: the same tensors, and settings that read the same again.
#[test]
fn a_model_that_comes_in_goes_out_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for name in ALL {
        let at = |part: &str| dir.path().join(format!("{name}-{part}"));
        imported(name, &at("run"));
        let exported = export(&Run::open(&at("run")).unwrap(), WeightSet::Live, &at("out")).unwrap();
        let again = import(&at("out"), &at("again"), &ImportOptions::default()).unwrap();
        assert_eq!((again.model, again.parameters), (exported.model, exported.parameters), "{name}");
        assert_eq!(recipe_of(&at("run")), recipe_of(&at("again")), "{name}");
        let network = |root: &Path| params::state(&networks(root));
        assert!(network(&at("run")) == network(&at("again")), "{name}: another network came back");
    }
}

#[test]
fn settings_without_a_counterpart_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("run");
    trained(&root, &["model.unet.channel_multipliers=[1, 2]", "model.unet.attention_levels=[0]"]);
    let run = Run::open(&root).unwrap();
    let recipe = run.recipe().unwrap();
    let cases = [
        ("model.unet.patch=2", "model.unet.patch = 2"),
        ("model.unet.channel_multipliers=[2, 2]", "channel_multipliers = [2, 2]"),
        ("model.unet.base_channels=6", "base_channels = 6"),
        ("model.timestep_spacing=quadratic", "timestep_spacing"),
        ("model.unet.heads=2", "model.unet.heads = 2"),
    ];
    for (setting, says) in cases {
        let mut changed = recipe.clone();
        recipe::merge(&mut changed, &recipe::assignment(setting).unwrap(), "test").unwrap();
        run.write_recipe(&changed).unwrap();
        let refused = export(&run, WeightSet::Live, &dir.path().join("out")).unwrap_err();
        assert!(refused.is_usage() && refused.to_string().contains(says), "{refused}");
    }
    assert!(!dir.path().join("out").exists(), "a refused export left something behind");
}

/// The JSON of a run of Ho's settings, field by field.
#[test]
fn an_exported_run_has_the_fields_that_diffusers_expects() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (dir.path().join("run"), dir.path().join("out"));
    trained(&run, &["model.unet.channel_multipliers=[1, 2]", "model.sampler=ddpm"]);
    export(&Run::open(&run).unwrap(), WeightSet::Ema, &out).unwrap();
    let read = |file: &str| -> Value { serde_json::from_slice(&fs::read(out.join(file)).unwrap()).unwrap() };
    assert_eq!(
        read("model_index.json"),
        json!({
            "_class_name": "DDPMPipeline",
            "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        })
    );
    let expected = json!({
        "_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "sample_size": 28, "in_channels": 1,
        "out_channels": 1, "center_input_sample": false, "time_embedding_type": "positional",
        "time_embedding_dim": null, "freq_shift": 1, "flip_sin_to_cos": false,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "block_out_channels": [8, 16], "layers_per_block": 1,
        "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv",
        "dropout": 0.0, "act_fn": "silu", "attention_head_dim": null, "norm_num_groups": 4,
        "attn_norm_num_groups": null, "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": true,
        "class_embed_type": null, "num_class_embeds": null,
    });
    assert_eq!(read("unet/config.json"), expected);
    let expected = json!({
        "_class_name": "DDPMScheduler", "_diffusers_version": "0.42.1", "num_train_timesteps": 1000,
        "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "trained_betas": null,
        "rescale_betas_zero_snr": false, "prediction_type": "epsilon", "steps_offset": 0,
        "timestep_spacing": "trailing", "variance_type": "fixed_large", "clip_sample": true, "clip_sample_range": 1.0,
    });
    assert_eq!(read("scheduler/scheduler_config.json"), expected);
    let bytes = fs::read(out.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("down_blocks.1.attentions.0.to_q.weight").unwrap().shape(), [16, 16]);
    assert_eq!(file.tensor("up_blocks.0.upsamplers.0.conv.weight").unwrap().shape(), [16, 16, 3, 3]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let name = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &name);
        } else {
            fs::copy(&entry, &name).unwrap();
        }
    }
}

/// The one line that an import of a fixture ends in after `spoil` had its way with the folder.
fn refused(name: &str, spoil: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (model, root) = (dir.path().join("model"), dir.path().join("run"));
    copy(&folder(name), &model);
    spoil(&model);
    let refused = import(&model, &root, &ImportOptions::default()).expect_err("it was read").to_string();
    assert!(!root.exists(), "a refused import left something behind: {refused}");
    assert_eq!(refused.lines().count(), 1);
    refused.replace(&model.display().to_string(), "MODEL")
}

/// Sets a field of a JSON file.
fn set(file: &'static str, field: &'static str, value: Value) -> impl FnOnce(&Path) {
    move |model| {
        let path = model.join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[field] = value;
        fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
    }
}

#[test]
fn settings_that_are_not_supported_are_named() {
    let (unet, scheduler) = ("unet/config.json", "scheduler/scheduler_config.json");
    let cases = [
        (unet, "surprise", json!(3), "MODEL/unet/config.json: unknown field `surprise` = 3"),
        (
            unet,
            "_class_name",
            json!("UNet3DModel"),
            "`_class_name` = \"UNet3DModel\" is not supported; supported: UNet2DModel",
        ),
        (
            unet,
            "down_block_types",
            json!(["SkipDownBlock2D", "DownBlock2D"]),
            "`down_block_types` = \"SkipDownBlock2D\"",
        ),
        (
            unet,
            "down_block_types",
            json!(["DownBlock2D"]),
            "`down_block_types` has 1 entries and `block_out_channels` 2",
        ),
        (unet, "mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), "supported: \"UNetMidBlock2DCrossAttn\""),
        (unet, "class_embed_type", json!("identity"), "supported: \"timestep\", null"),
        (unet, "encoder_hid_dim", json!(4), "`encoder_hid_dim` = 4 is not supported; supported: null"),
        (unet, "dual_cross_attention", json!(true), "supported: false, null"),
        (unet, "act_fn", json!(null), "`act_fn` = null"),
        (unet, "freq_shift", json!("one"), "`freq_shift` = \"one\" is not supported; expected a number"),
        (unet, "sample_size", json!(null), "--size"),
        (unet, "sample_size", json!(9), "divisible by 2"),
        (unet, "in_channels", json!(4), "`in_channels` = 4"),
        (unet, "norm_num_groups", json!(3), "8 is not divisible by `norm_num_groups` = 3"),
        (unet, "norm_num_groups", json!(0), "`norm_num_groups` must not be 0"),
        (unet, "attention_head_dim", json!([3, 2]), "3 heads do not divide the 8 channels"),
        (unet, "attention_head_dim", json!([2]), "a list of one for each of 2"),
        (unet, "block_out_channels", json!([]), "`block_out_channels` is missing or empty"),
        (unet, "block_out_channels", json!([1_000_000_000_000u64, 16]), "which no network has"),
        (unet, "block_out_channels", json!([65_536, 16]), "has at least"),
        (unet, "sample_size", json!(1 << 20), "more than 16384"),
        (scheduler, "steps_offset", json!(1000), "`steps_offset` = 1000"),
        (scheduler, "_class_name", json!("EulerDiscreteScheduler"), "supported: DDPMScheduler, DDIMScheduler"),
        (scheduler, "thresholding", json!(true), "`thresholding` = true is not supported"),
        (scheduler, "beta_schedule", json!("laplace"), "`beta_schedule` = \"laplace\""),
        (scheduler, "beta_end", json!(1.5), "must lie between 0 and 1"),
        (scheduler, "trained_betas", json!([0.1, 0.2]), "`trained_betas` has 2 numbers"),
        (scheduler, "prediction_type", json!("flow_prediction"), "`prediction_type` = \"flow_prediction\""),
        (scheduler, "num_train_timesteps", json!(1), "`num_train_timesteps` = 1"),
        (scheduler, "gamma", json!(0.1), "unknown field `gamma` = 0.1"),
    ];
    for (file, field, value, says) in cases {
        let line = refused("text", set(file, field, value));
        assert!(line.contains(says), "{field}: {line}");
    }
    let line = refused("fourier", set("model_index.json", "vae", json!(["diffusers", "AutoencoderKL"])));
    assert!(line.contains("component `vae`, a AutoencoderKL"), "{line}");
}

#[test]
fn weights_that_do_not_fit_are_named() {
    const FILE: &str = "unet/diffusion_pytorch_model.safetensors";
    let edited = |change: fn(&mut Vec<u8>)| {
        move |model: &Path| {
            let mut bytes = fs::read(model.join(FILE)).unwrap();
            change(&mut bytes);
            fs::write(model.join(FILE), bytes).unwrap();
        }
    };
    let renamed = |from: &'static [u8], to: &'static [u8]| {
        move |model: &Path| {
            let mut bytes = fs::read(model.join(FILE)).unwrap();
            let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to);
            fs::write(model.join(FILE), bytes).unwrap();
        }
    };
    type Spoil = Box<dyn FnOnce(&Path)>;
    let cases: [(&str, Spoil, &str); 11] = [
        ("text", Box::new(edited(|bytes| bytes.truncate(bytes.len() / 2))), "damaged safetensors"),
        ("text", Box::new(edited(|bytes| bytes.truncate(5))), "neither safetensors, nor written by torch.save"),
        ("text", Box::new(|m| fs::remove_file(m.join(FILE)).unwrap()), "there are the settings, but no weights"),
        ("text", Box::new(|m| fs::remove_file(m.join("unet/config.json")).unwrap()), "config.json is missing"),
        (
            "text",
            Box::new(|m| fs::remove_file(m.join("scheduler/scheduler_config.json")).unwrap()),
            "scheduler_config.json is missing",
        ),
        ("text", Box::new(renamed(b"conv_in.bias", b"conv_on.bias")), "no tensor `conv_in.bias`"),
        (
            "text",
            Box::new(set("unet/config.json", "layers_per_block", json!([1, 0]))),
            "`layers_per_block` must not be 0",
        ),
        (
            "text",
            Box::new(set("unet/config.json", "mid_block_type", json!("UNetMidBlock2D"))),
            "has no place in the network that config.json describes",
        ),
        (
            "text",
            Box::new(set("unet/config.json", "cross_attention_dim", json!(4))),
            "`down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight` has shape [8, 6], needed is [8, 4]",
        ),
        (
            "shards",
            Box::new(set("unet/diffusion_pytorch_model.safetensors.index.json", "weight_map", json!({"a": "../x"}))),
            "`../x` is not the name of a file beside it",
        ),
        (
            "no-middle",
            Box::new(|m| {
                let pickle = Fixtures::folder().join("weights/forbidden-zip.pth");
                fs::copy(pickle, m.join("unet/diffusion_pytorch_model.bin")).unwrap();
            }),
            "diffusion_pytorch_model.bin",
        ),
    ];
    for (name, spoil, says) in cases {
        let line = refused(name, spoil);
        assert!(line.contains(says), "{says}: {line}");
    }
    // NaN in half precision, where the numbers begin.
    let line = refused(
        "text",
        edited(|bytes| {
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            bytes[8 + header..10 + header].copy_from_slice(&0x7e00u16.to_le_bytes());
        }),
    );
    assert!(line.contains("NaN at 0"), "{line}");
}

/// What a person asks for that the model cannot give.
#[test]
fn requests_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |name: &str, change: &dyn Fn(&mut Request)| {
        let root = dir.path().join(name);
        if !root.exists() {
            imported(name, &root);
        }
        let mut request = Request::new(0..1, 0, &Device::flex());
        request.sampler.insert("steps".into(), toml::Value::try_from(2).unwrap());
        change(&mut request);
        let refused = model(&root).generate(&request).expect_err("it was done");
        assert!(refused.is_usage(), "{refused}");
        refused.to_string()
    };
    let context = |features: usize| {
        let rows = Tensor::zeros([1, 2, features], &Device::flex());
        Some(Context { with: Some(rows), without: None })
    };
    let line = ask("text", &|r| r.condition.context = context(5));
    assert!(line.contains("--context: 5 features; this network looks at 6"), "{line}");
    let line = ask("published", &|r| r.condition.context = context(6));
    assert!(line.contains("--context"), "{line}");
    let line = ask("published", &|r| r.sampler = "guidance_scale = 2.0".parse().unwrap());
    assert!(line.contains("--guidance-scale 2"), "{line}");
    let line = ask("text", &|r| r.sampler = "steps = 1000".parse().unwrap());
    assert!(line.contains("steps_offset = 1"), "{line}");
    let line = ask("fourier", &|r| r.sampler = "timestep_spacing = \'linspace\'".parse().unwrap());
    assert!(line.contains("logarithm"), "{line}");
    let line = ask("shards", &|r| r.condition.class = Some(3));
    assert!(line.contains("--class 3"), "{line}");
    let line = ask("published", &|r| r.sampler = "sampler = \'magic\'".parse().unwrap());
    assert!(line.contains("--sampler magic"), "{line}");
}

/// Guidance leads from what the network says without the context to what it says with it.
#[test]
fn guidance_of_one_is_none_and_of_more_is_some() {
    let dir = tempfile::tempdir().unwrap();
    imported("text", dir.path());
    let (model, f) = (model(dir.path()), expected("text"));
    let with = f.tensor::<3>("encoder_hidden_states").narrow(0, 0, 1);
    let made = |scale: f64, without: Option<Tensor<3>>| {
        let mut request = Request::new(0..1, 0, &Device::flex());
        request.condition.context = Some(Context { with: Some(with.clone()), without });
        request.sampler.insert("steps".into(), toml::Value::try_from(4).unwrap());
        request.sampler.insert("guidance_scale".into(), toml::Value::try_from(scale).unwrap());
        model.generate(&request).unwrap()
    };
    let plain = made(1.0, None);
    // Away from the same context there is nowhere to go.
    assert!(off(plain.clone(), made(3.0, Some(with.clone()))) < 1e-5);
    assert!(off(plain, made(3.0, None)) > 1e-3);
    // Zeros stand for no context, however many.
    assert!(off(made(3.0, None), made(3.0, Some(Tensor::zeros([1, 7, 6], &Device::flex())))) < 1e-5);
}

/// An imported run is trained further, from its weights and with an average that begins with them.
#[test]
fn an_imported_run_can_be_trained_further() {
    let dir = tempfile::tempdir().unwrap();
    let changes = [
        "data.set=starter",
        "data.resize=stretch",
        "train.batch=4",
        "train.preview_every=0",
        "train.preview_count=1",
        "model.sampling_steps=2",
        "model.sampler=ddim",
    ];
    let changes = changes.map(|text| (recipe::assignment(text).unwrap(), "test".to_string())).to_vec();
    import(&folder("published"), dir.path(), &ImportOptions { changes, ..ImportOptions::default() }).unwrap();
    let run = Run::open(dir.path()).unwrap();
    let before = params::state(&networks(dir.path()));
    let options = Options { steps: Some(1), quiet: true, ..Options::on(Device::flex()) };
    kiln_systems::find("diffusers").unwrap().resume(&run, &options).unwrap();
    let saved = Checkpoint::newest(&run.checkpoints(), &mut |_| ()).unwrap().unwrap();
    assert_eq!(saved.counters.images, 4);
    for state in [&saved.network, &saved.ema] {
        assert!(*state != before, "nothing was learned");
        // One step of warm-up moves no weight by more than a little: it was the model that was trained.
        for (name, tensor) in state {
            let off = tensor.values.iter().zip(&before[name].values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-3, "{name} moved by {off}");
        }
    }
}
