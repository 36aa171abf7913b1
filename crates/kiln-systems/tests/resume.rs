//! Every registered system: 2N steps and N + resume + N steps give identical files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_core::random::Key;
use kiln_data::{DataKind, TokenRows};
use kiln_nn::tensor::from_values;
use kiln_systems::registry;
use kiln_train::checkpoint::list;
use kiln_train::recipe::{assignment, merge};
use kiln_train::request::{Condition, Style};
use kiln_train::{
    Ability, AnySystem, Evaluation, Model, Options, Precision, Request, Run, Tokens, Watch, Watcher, WeightSet,
};
use toml::Table;

/// Settings that make a system small enough to train in a second or two.
fn tiny(id: &str) -> &'static [&'static str] {
    match id {
        "classifier" => &["model.channels=4", "model.features=16"],
        "ddpm" => &[
            "model.timesteps=20",
            "model.sampling_steps=2",
            "model.class_conditional=true",
            "model.unet.base_channels=8",
            "model.unet.groups=4",
            "model.unet.channel_multipliers=[1, 2]",
            "model.unet.blocks=1",
            "model.unet.dropout=0.1",
        ],
        "diffusers" => &[
            "data.channels=1",
            "data.size=28",
            "model.scheduler.num_train_timesteps=20",
            "model.unet.sample_size=[28, 28]",
            "model.unet.in_channels=1",
            "model.unet.out_channels=1",
            "model.unet.block_out_channels=[4, 8, 8]",
            "model.unet.layers_per_block=[1, 1, 1]",
            "model.unet.norm_num_groups=2",
            "model.unet.time_embedding_type=fourier",
            "model.unet.class=UNet2DConditionModel",
            "model.unet.cross_attention_dim=[4, 4, 4]",
            "model.unet.attention_head_dim=[2, 2, 2]",
            "model.unet.down_block_types=[\"DownBlock2D\", \"AttnDownBlock2D\", \"CrossAttnDownBlock2D\"]",
            "model.unet.num_class_embeds=10",
            "model.unet.dropout=0.1",
        ],
        "noisy-classifier" => &[
            "model.timesteps=20",
            "model.unet.base_channels=8",
            "model.unet.groups=4",
            "model.unet.channel_multipliers=[1, 2]",
            "model.unet.attention_levels=[1]",
            "model.unet.dropout=0.1",
        ],
        "segmenter" => &[
            "model.unet.base_channels=8",
            "model.unet.groups=4",
            "model.unet.channel_multipliers=[1, 2]",
            "model.unet.dropout=0.1",
        ],
        "gan" => &[
            "model.generator_hidden=[8]",
            "model.discriminator_hidden=[8]",
            "model.objective=wasserstein",
            "model.gradient_penalty=10",
            "train.augment=ada",
            "train.augment_images=100",
        ],
        "infogan" => &["model.channels=4", "train.augment=diffaugment"],
        // The game begins within the run.
        "ebgan" => &["model.channels=4", "model.pretrain=9", "model.margin=1"],
        "dcgan" | "cgan" | "acgan" | "msgan" | "sagan" => {
            &["model.generator_channels=4", "model.discriminator_channels=4", "model.discriminator_steps=2"]
        }
        // Sizes fade in while a run is stopped and resumed, and lazy losses come before and after.
        "progan" => &["model.latent_size=8", "model.channel_base=64", "model.channel_max=8", "train.images=32"],
        "stylegan" => &["model.latent_size=8", "model.channel_base=64", "model.channel_max=8", "train.images=16"],
        "stylegan2" => &[
            "model.latent_size=8",
            "model.mapping_layers=2",
            "model.channel_base=64",
            "model.channel_max=8",
            "model.r1_interval=2",
            "model.path_length_interval=2",
        ],
        "biggan" => &["model.generator_channels=4", "model.discriminator_channels=4", "model.embedding_size=8"],
        "ae" | "vae" | "cvae" | "iwae" | "dvae" => &["model.network=mlp", "model.hidden=[16]", "model.latent=4"],
        "exemplar" => &["model.exemplars=8", "model.channels=4", "model.hidden=16"],
        "kmeans" => &[
            "model.layers=2",
            "model.features=8",
            "model.patch=3",
            "model.patches=200",
            "model.groups=2",
            "model.group_size=4",
        ],
        "probe" => &["model.tune=raw", "model.head=[8]"],
        "aae" => &[
            "data.labels=10",
            "model.mode=semi-supervised",
            "model.network=mlp",
            "model.hidden=[16]",
            "model.discriminator=[8]",
            "model.input_noise=0.1",
        ],
        "ssvae" => &["data.labels=10", "model.hidden=[16]", "model.classifier=[8]", "model.class_prior=empirical"],
        "betavae" | "betatcvae" => &["model.network=mlp", "model.hidden=[16]", "model.latent=4"],
        "dcign" => &[
            "data.channels=1",
            "model.network=mlp",
            "model.hidden=[16]",
            "model.latent=4",
            "model.factors=[\"scale\", \"orientation\"]",
        ],
        "pixelcnn" => &[
            "model.layers=1",
            "model.features=4",
            "model.head=8",
            "model.class_conditional=true",
            "model.output=bernoulli",
            "model.binarize=dynamic",
        ],
        "pixelrnn" => &["model.layers=1", "model.features=4", "model.head=8"],
        "cyclegan" => &[
            "data.size=16",
            "model.generator_channels=4",
            "model.discriminator_channels=4",
            "model.blocks=1",
            "model.dropout=0.5",
            "model.pool=3",
        ],
        "pix2pix" => &[
            "data.size=16",
            "model.generator_channels=4",
            "model.discriminator_channels=4",
            "model.noise_size=2",
            "model.mode_seeking_weight=1",
        ],
        "bicyclegan" => &[
            "data.size=16",
            "model.generator_channels=4",
            "model.encoder_channels=4",
            "model.discriminator_channels=4",
        ],
        "discogan" => {
            &["data.size=16", "model.generator_channels=4", "model.discriminator_channels=4", "model.curriculum=9"]
        }
        "dualgan" => &["data.size=16", "model.generator_channels=4", "model.discriminator_channels=4"],
        "adain" | "styleswap" => &["data.size=16", "model.encoder=random", "model.encoder_channels=2"],
        "texnet" => &[
            "data.size=16",
            "model.encoder=random",
            "model.encoder_channels=2",
            "model.style_pixels=32",
            "model.network=pyramid",
            "model.generator_channels=2",
            "model.scales=2",
        ],
        "munit" => {
            &["model.generator_channels=2", "model.blocks=1", "model.hidden=8", "model.discriminator_channels=2"]
        }
        "unit" => &["data.size=16", "model.generator_channels=2", "model.blocks=2", "model.discriminator_channels=2"],
        "spade" => &[
            "data.size=16",
            "model.generator_channels=2",
            "model.doublings=2",
            "model.hidden=4",
            "model.noise_size=3",
            "model.encoder_channels=2",
            "model.discriminator_channels=2",
            "model.discriminator_layers=1",
        ],
        "drit" => &[
            "data.size=16",
            "model.generator_channels=4",
            "model.discriminator_channels=4",
            "model.blocks=1",
            "model.content_steps=2",
            "model.mode_seeking_weight=1",
        ],
        "ddc" => &["data.channels=3", "model.channels=[4, 4]", "model.label_hidden=[8, 8]", "model.adaptation_width=4"],
        "adda" => &[
            "data.channels=3",
            "model.channels=[4, 4]",
            "model.source=random",
            "model.batch_norm=true",
            "model.label_hidden=[8, 8]",
            "model.adversary_hidden=[8]",
        ],
        "dsn" => &[
            "data.channels=3",
            "model.channels=[4, 4]",
            "model.label_hidden=[8, 8]",
            "model.domain_hidden=[8]",
            "model.private_channels=[4, 4]",
            "model.decoder_channels=4",
            "model.start=0.3",
        ],
        "pixelda" => &[
            "data.channels=3",
            "model.channels=[4, 4]",
            "model.label_hidden=[8, 8]",
            "model.generator_channels=4",
            "model.blocks=1",
            "model.discriminator_channels=4",
        ],
        "crosscity" => &[
            "data.size=16",
            "data.channels=3",
            "model.channels=4",
            "model.discriminator_channels=4",
            "model.static_prior=true",
            "model.start=0.3",
        ],
        "dann" => &["data.channels=3", "model.channels=[4, 4]", "model.label_hidden=[8, 8]", "model.domain_hidden=[8]"],
        "gan-int-cls" => &[
            "data.channels=3",
            "model.text_encoder=random",
            "model.encoder.text_width=8",
            "model.encoder.projection_dim=6",
            "model.embedding_size=4",
            "model.generator_channels=4",
            "model.discriminator_channels=4",
        ],
        "stackgan" => &[
            "data.channels=3",
            "data.size=16",
            "model.text_encoder=random",
            "model.encoder.text_width=8",
            "model.encoder.projection_dim=6",
            "model.embedding_size=4",
            "model.stage_one_images=6",
            "model.residual_blocks=1",
            "model.generator_channels=4",
            "model.discriminator_channels=4",
        ],
        "ldm" => &[
            "data.channels=3",
            "data.size=16",
            "model.first_stage=random",
            "model.autoencoder.latent_channels=3",
            "model.autoencoder.block_out_channels=[4, 8]",
            "model.autoencoder.norm_num_groups=4",
            "model.text_width=8",
            "model.text_layers=1",
            "model.unet.base_channels=8",
            "model.unet.groups=4",
            "model.sampling_steps=3",
        ],
        "palette" => &[
            "data.channels=3",
            "data.size=16",
            "data.resize=stretch",
            "model.unet.base_channels=8",
            "model.unet.groups=4",
            "model.sampling_steps=3",
        ],
        "first-stage" => &[
            "model.regularization=vq",
            "model.latent_channels=3",
            "model.block_out_channels=[4, 8]",
            "model.norm_num_groups=4",
            "model.num_vq_embeddings=16",
            "model.discriminator_channels=4",
            "model.adversarial_start=0",
        ],
        "clip" => &[
            "data.channels=3",
            "model.image_width=8",
            "model.image_layers=1",
            "model.text_width=8",
            "model.text_layers=1",
            "model.projection_dim=4",
            "train.accumulate=2",
        ],
        "shallow" => &["model.method=jda", "model.kernel=rbf", "model.dimension=3", "model.samples=20"],
        other => panic!("{other}: give settings that make it small"),
    }
}

/// Steps of a run that is asked for so many: one where the whole data is looked at in closed form.
fn steps(id: &str, asked: u64) -> u64 {
    if ["kmeans", "shallow"].contains(&id) { 1 } else { asked }
}

fn recipe(system: &dyn AnySystem) -> Table {
    let set = match system.data_kind() {
        DataKind::TwoDomains | DataKind::Paired => "data.set=starter:noto,starter:twemoji",
        DataKind::SourceTarget => "data.set=starter,starter",
        DataKind::LabelMaps => "data.set=streets:labels,streets:day",
        DataKind::MaskedSource | DataKind::MaskedSourceStill => "data.set=streets:day,streets:dusk-still",
        DataKind::Factors => "data.set=dsprites",
        DataKind::Captioned => "data.set=starter:noto",
        _ => "data.set=starter",
    };
    let common =
        ["train.batch=4", "train.accumulate=2", "train.images=1000", "train.preview_every=0", "train.preview_count=1"];
    let mut recipe = system.defaults().unwrap();
    for text in common.iter().chain([&set]).chain(tiny(system.id())) {
        merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
    }
    recipe
}

fn options(steps: u64) -> Options {
    Options { steps: Some(steps), quiet: true, ..Options::on(Device::flex()) }
}

fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let folder = Run::open(root).unwrap().checkpoints();
    let newest = *list(&folder).last().unwrap();
    let mut files: Vec<_> = fs::read_dir(kiln_train::checkpoint::path(&folder, newest))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(p).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn two_n_steps_are_n_steps_a_resume_and_n_steps() {
    for system in registry() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        system.train(recipe(&*system), &whole, &options(4)).unwrap();
        system.train(recipe(&*system), &parts, &options(2)).unwrap();
        let summary = system.resume(&Run::open(&parts).unwrap(), &options(4)).unwrap();
        assert_eq!(summary.steps, steps(system.id(), 4), "{}", system.id());
        let (a, b) = (files(&whole), files(&parts));
        let names = |f: &[(String, Vec<u8>)]| f.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(&a), names(&b), "{}", system.id());
        for ((name, x), (_, y)) in a.iter().zip(&b) {
            assert!(x == y, "{}: {name} differs after a resume", system.id());
        }
    }
}

/// What the tape did not keep is computed again to the same bits.
#[test]
fn gradient_checkpointing_changes_no_weight() {
    for system in registry() {
        let dir = tempfile::tempdir().unwrap();
        let trained = |checkpointing: bool| {
            let root = dir.path().join(checkpointing.to_string());
            let mut recipe = recipe(&*system);
            let switch = format!("train.gradient_checkpointing={checkpointing}");
            merge(&mut recipe, &assignment(&switch).unwrap(), "test").unwrap();
            system.train(recipe, &root, &options(2)).unwrap();
            files(&root)
        };
        let (kept, again) = (trained(false), trained(true));
        assert!(!kept.is_empty() && kept.len() == again.len(), "{}", system.id());
        for ((name, x), (_, y)) in kept.iter().zip(&again) {
            assert!(x == y, "{}: {name} differs", system.id());
        }
    }
}

/// Two times are known well enough after some steps to be drawn by their losses, which a resume must remember.
#[test]
fn importance_sampled_times_survive_a_resume() {
    let system = kiln_systems::find("ddpm").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&*system);
    for text in
        ["model.timesteps=2", "model.objective=hybrid", "model.variance=learned", "model.timestep_sampling=importance"]
    {
        merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
    }
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    system.train(recipe.clone(), &whole, &options(24)).unwrap();
    system.train(recipe, &parts, &options(17)).unwrap();
    // Without what is remembered, the same draws are other times.
    let folder = Run::open(&parts).unwrap().checkpoints();
    let saved = kiln_train::checkpoint::Checkpoint::newest(&folder, &mut |_| ()).unwrap().unwrap();
    assert!(saved.system["second_moment"].values.iter().step_by(11).all(|&known| known == 10.0));
    system.resume(&Run::open(&parts).unwrap(), &options(24)).unwrap();
    assert!(files(&whole) == files(&parts));
}

/// Pictures need not be square, whatever a system makes of them; and a run keeps the shape it began with.
#[test]
fn every_system_takes_rectangles() {
    for system in registry() {
        let id = system.id();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let mut recipe = recipe(&*system);
        let mut set = |text: &str| merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
        // An encoder of styles that halves the picture four times has no smaller one.
        let [height, width] = if id == "munit" { [48, 32] } else { [24, 16] };
        set(&format!("data.size=[{height}, {width}]"));
        set("data.resize=stretch");
        match id {
            "diffusers" => set("model.unet.sample_size=[24, 16]"),
            "cvae" => set("model.condition=quadrants"),
            _ => {}
        }
        system.train(recipe, &root, &options(1)).unwrap();
        let run = Run::open(&root).unwrap();
        assert_eq!(system.resume(&run, &options(2)).unwrap().steps, steps(id, 2), "{id}");

        let model = system.open(&run, WeightSet::Ema, &Device::flex()).unwrap();
        let shape @ [c, h, w] = model.info().pictures.shape;
        assert_eq!([h, w], [height, width], "{id}");
        assert_eq!(model.info().data.shape, shape);
        let first = model.info().pictures.palette.first().copied();
        let images = || match first {
            // A label map that is all of the first class.
            Some(colour) => {
                let value = |at: usize| f32::from(colour[at / (h * w) % c]) / 127.5 - 1.0;
                from_values((0..2 * c * h * w).map(value).collect(), [2, c, h, w], &Device::flex())
            }
            None => Tensor::<4>::zeros([2, c, h, w], &Device::flex()),
        };
        let made = |images: Tensor<4>| assert_eq!(images.dims(), [2, c, h, w], "{id}");
        for ability in model.abilities() {
            let request = Request::new(0..2, 0, &Device::flex());
            match ability {
                Ability::Generate => made(model.generate(&request).unwrap()),
                Ability::Reconstruct => made(model.reconstruct(images()).unwrap()),
                Ability::Encode => assert_eq!(model.encode(images(), &request).unwrap().dims()[0], 2),
                Ability::Decode => match model.decode(model.latents(&request).unwrap()) {
                    Ok(images) => made(images),
                    // This one needs a label, which latents do not have.
                    Err(e) => assert!(id == "diffusers" && e.is_usage(), "{id}: {e}"),
                },
                Ability::Mix => {
                    let width = model.latents(&request).unwrap().dims()[1];
                    let groups = model.styles().unwrap();
                    assert_eq!(groups.last().unwrap().1.end, width, "{id}: styles are the latents");
                }
                Ability::Project => {
                    let squared = |a: Tensor<4>, b: Tensor<4>| Ok((a - b).square().mean_dims(&[1, 2, 3]).flatten(0, 3));
                    let request = Request { sampler: "steps = 2".parse().unwrap(), ..request };
                    let found = model.project(images(), &squared, &request).unwrap();
                    made(found.images);
                    made(model.decode(found.latents).unwrap());
                }
                Ability::Translate => {
                    let style = Style { image: images().narrow(0, 0, 1), weight: 1.0 };
                    let styles = if model.needs_style().unwrap() { vec![style] } else { Vec::new() };
                    let condition = Condition { styles, ..request.condition.clone() };
                    made(model.translate(images(), &Request { condition, ..request }).unwrap());
                }
                Ability::Inpaint => made(model.inpaint(images(), &request).unwrap()),
                Ability::Classify => assert_eq!(model.classify(images()).unwrap().dims()[0], 2),
                Ability::Segment => assert_eq!(model.segment(images()).unwrap().dims()[2..], [h, w]),
                Ability::Represent => assert_eq!(model.represent(images()).unwrap().dims()[0], 2),
                Ability::MatchTexts => {
                    let length = model.info().pictures.caption_length;
                    let rows = TokenRows { ids: vec![1; 3 * length], lengths: vec![1, length, 1], length };
                    let texts = Tokens::new(rows, &Device::flex());
                    assert_eq!(model.match_texts(images(), &texts).unwrap().dims(), [2, 3]);
                }
                Ability::Cluster => assert_eq!(model.cluster(images()).unwrap().dims()[0], 2),
                Ability::Discriminate => assert_eq!(model.scores(images()).unwrap().dims(), [2]),
                Ability::Likelihood => assert_eq!(model.nll(images(), 1, Key::new(0)).unwrap().dims(), [2]),
            }
        }

        // The folder's pictures have become others.
        let path = root.join("recipe.toml");
        let text = fs::read_to_string(&path).unwrap();
        let mut other: Table = text.parse().unwrap();
        other["data"]["size"] = 32.into();
        fs::write(&path, other.to_string()).unwrap();
        let said = system.resume(&run, &options(3)).unwrap_err();
        assert!(said.is_usage() && said.to_string().contains(&format!("{height}, {width}]")), "{id}: {said}");
    }
}

/// What came from another run stays where it is frozen, learns where it is not, and is in the new run's own folder.
#[test]
fn a_run_begins_with_the_networks_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let text = |name: &str| place(name).display().to_string();
    for id in ["ae", "vae"] {
        let system = kiln_systems::find(id).unwrap();
        system.train(recipe(&*system), &place(id), &options(2)).unwrap();
    }
    let saved = |name: &str| {
        let folder = Run::open(&place(name)).unwrap().checkpoints();
        kiln_train::checkpoint::Checkpoint::newest(&folder, &mut |_| ()).unwrap().unwrap()
    };
    let begun = |id: &str, name: &str, set: &[String], steps: u64| {
        let system = kiln_systems::find(id).unwrap();
        let mut recipe = recipe(&*system);
        for text in set {
            merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
        }
        system.train(recipe, &place(name), &options(steps))
    };
    let mode =
        |key: &str, value: &str, run: &str| vec![format!("model.{key}={value}"), format!("{run}={}", text("ae"))];
    begun("probe", "frozen", &mode("tune", "frozen", "model.encoder"), 3).unwrap();
    begun("probe", "tuned", &mode("tune", "fine-tune", "model.encoder"), 3).unwrap();
    let m1 = format!("model.m1={}", text("vae"));
    begun("ssvae", "stacked", &["model.mode=m1+m2".into(), m1.clone()], 2).unwrap();
    begun("ssvae", "m1", &["model.mode=m1".into(), m1], 2).unwrap();

    // The average is what a run is used by, so that is what another begins with.
    let of = |state: kiln_train::State, network: &str, below: &str| -> Vec<Vec<f32>> {
        let there = state.into_iter().filter_map(|(path, t)| Some((path.strip_prefix(network)?.to_string(), t.values)));
        there.filter(|(path, _)| path.starts_with(below)).map(|(_, values)| values).collect()
    };
    let encoder = of(saved("ae").ema, "encoder", ".");
    assert!(!encoder.is_empty());
    assert!(of(saved("frozen").network, "encoder", ".") == encoder);
    // What stays as it is has no average, and is kept once.
    assert!(of(saved("frozen").ema, "encoder", ".").is_empty());
    assert!(of(saved("tuned").network, "encoder", ".") != encoder);
    for name in ["stacked", "m1"] {
        for network in ["encoder", "decoder"] {
            assert!(of(saved(name).network, &format!("m1.{network}"), ".") == of(saved("vae").ema, network, "."));
        }
    }

    // The other run may go; what was taken is in the folder.
    let whole = files(&place("stacked"));
    begun("ssvae", "part", &["model.mode=m1+m2".into(), format!("model.m1={}", text("vae"))], 1).unwrap();
    fs::remove_dir_all(place("vae")).unwrap();
    let system = kiln_systems::find("ssvae").unwrap();
    system.resume(&Run::open(&place("part")).unwrap(), &options(2)).unwrap();
    assert!(files(&place("part")) == whole);
    system.open(&Run::open(&place("part")).unwrap(), WeightSet::Ema, &Device::flex()).unwrap();

    let said = begun("ssvae", "no", &["model.mode=m1+m2".into(), "model.m1=/no/such".into()], 1).err().unwrap();
    assert!(said.is_usage() && said.to_string().contains("/no/such"), "{said}");
    let said = begun("ssvae", "no", &["model.mode=m1+m2".into(), format!("model.m1={}", text("ae"))], 1).err().unwrap();
    assert!(said.is_usage() && said.to_string().contains("head.log_var"), "{said}");
    let said = begun("probe", "no", &["model.tune=frozen".into()], 1).err().unwrap();
    assert!(said.is_usage() && said.to_string().contains("model.encoder"), "{said}");
    assert!(!place("no").exists());
}

/// A run of an older version lacks the settings that came later.
#[test]
fn a_recipe_with_fewer_settings_is_still_a_run() {
    let system = kiln_systems::find("classifier").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("run");
    system.train(recipe(&*system), &root, &options(1)).unwrap();
    let path = root.join("recipe.toml");
    let text = fs::read_to_string(&path).unwrap();
    let older: String = text.lines().filter(|l| !l.starts_with("evaluate_every")).map(|l| format!("{l}\n")).collect();
    assert!(older.len() < text.len());
    fs::write(&path, older).unwrap();
    let run = Run::open(&root).unwrap();
    assert_eq!(system.resume(&run, &options(2)).unwrap().steps, 2);
    system.open(&run, WeightSet::Ema, &Device::flex()).unwrap();
}

/// Another seed must change the weights, or the test above could not fail.
#[test]
fn another_seed_is_another_run() {
    let system = kiln_systems::find("classifier").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = |seed: i64| {
        let root = dir.path().join(seed.to_string());
        let mut recipe = recipe(&*system);
        recipe.insert("seed".into(), seed.into());
        system.train(recipe, &root, &options(2)).unwrap();
        files(&root)
    };
    assert!(run(0) != run(1));
}

/// Draws samples, as a measure would, and finds the second of three figures the best.
struct Sampling(AtomicUsize);

impl Watch for Sampling {
    fn check(&self, _metrics: &str) -> Result<()> {
        Ok(())
    }

    fn measure(&self, model: &dyn Model) -> Result<Vec<Evaluation>> {
        model.generate(&Request::new(0..3, 0, &model.info().device))?;
        let value = [3.0, 1.0, 2.0][self.0.fetch_add(1, Ordering::Relaxed)];
        Ok(vec![Evaluation { name: "fid[net]".into(), value, larger_is_better: false }])
    }
}

#[test]
fn measuring_changes_no_byte_and_keeps_the_best() {
    for id in ["ddpm", "dcgan"] {
        let system = kiln_systems::find(id).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (plain, watched) = (dir.path().join("plain"), dir.path().join("watched"));
        let mut recipe = recipe(&*system);
        for text in ["train.evaluate_every=8", "train.best=fid", "train.keep=1"] {
            merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
        }
        system.train(recipe.clone(), &plain, &options(7)).unwrap();
        let watcher = Some(Watcher(Arc::new(Sampling(AtomicUsize::new(0)))));
        system.train(recipe, &watched, &Options { watcher, ..options(7) }).unwrap();
        assert!(files(&plain) == files(&watched), "{id}: measuring left a trace");
        // Measured at 8, 16 and 24 images, best at 16; 28 is the newest.
        assert_eq!(list(&Run::open(&watched).unwrap().checkpoints()), [16, 28]);
        let log = fs::read_to_string(watched.join("log.jsonl")).unwrap();
        assert_eq!(log.matches("measure.fid[net]").count(), 3, "{log}");
    }
}

/// The losses of a run, step by step.
fn losses(root: &Path) -> Vec<f64> {
    let log = fs::read_to_string(root.join("log.jsonl")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let of = |r: serde_json::Value| ["loss", "discriminator", "generator"].map(|t| r.get(t)?.as_f64());
    records.flat_map(of).flatten().collect()
}

#[test]
fn bf16_tracks_f32() {
    for id in ["ddpm", "dcgan"] {
        let system = kiln_systems::find(id).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str, precision: &str, steps: &[u64]| {
            let root = dir.path().join(name);
            let mut recipe = recipe(&*system);
            for text in [&format!("train.precision={precision}"), "train.log_every=4"] {
                merge(&mut recipe, &assignment(text).unwrap(), "test").unwrap();
            }
            system.train(recipe, &root, &options(steps[0])).unwrap();
            for steps in &steps[1..] {
                system.resume(&Run::open(&root).unwrap(), &options(*steps)).unwrap();
            }
            root
        };
        let (f32, bf16) = (run("f32", "f32", &[40]), run("bf16", "bf16", &[40]));
        let (a, b) = (losses(&f32), losses(&bf16));
        assert!(a.len() >= 40 && a.len() == b.len(), "{id}: {} losses", a.len());
        for (step, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 0.05 * a.abs().max(0.1), "{id}, {step}: {a} in f32, {b} in bf16");
        }
        // Not the same numbers by another name, where the processor has others.
        assert_eq!(a != b, Precision::Bf16.is_native(), "{id}");
        assert!(files(&bf16) == files(&run("parts", "bf16", &[20, 40])), "{id}: bf16 differs after a resume");
    }
}
