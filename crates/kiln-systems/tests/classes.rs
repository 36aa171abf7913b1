//! What a system of classes draws without being told one is of a class it was trained on, drawn for each sample.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use burn::tensor::{Device, Tensor};
use kiln_nn::tensor::to_values;
use kiln_systems::find;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Ability, Request};

const GAN: &[&str] = &["model.generator_channels=4", "model.discriminator_channels=4"];

const SYSTEMS: [(&str, &[&str]); 10] = [
    ("cvae", &["model.network=mlp", "model.hidden=[16]", "model.latent=4"]),
    ("ssvae", &["model.hidden=[16]", "model.classifier=[8]", "model.latent=4"]),
    ("aae", &["model.mode=semi-supervised", "model.network=mlp", "model.hidden=[16]", "model.discriminator=[8]"]),
    // Its tables of classes begin at zero.
    (
        "pixelcnn",
        &[
            "model.class_conditional=true",
            "model.layers=1",
            "model.features=6",
            "model.first_kernel=3",
            "model.head=6",
            "model.optimizer.learning_rate=0.1",
        ],
    ),
    ("cgan", GAN),
    ("acgan", GAN),
    ("msgan", GAN),
    ("cgan", &["model.generator_channels=4", "model.discriminator_channels=4", "model.generator_condition=batch-norm"]),
    ("sagan", GAN),
    ("biggan", GAN),
];

#[test]
fn a_sample_without_a_class_is_one_of_a_class_that_was_trained() {
    let device = Device::flex();
    for (id, set) in SYSTEMS {
        let system = find(id).unwrap();
        let mut recipe = system.defaults().unwrap();
        let data =
            ["data.shape=[1, 8, 8]", "data.classes=[\"a\", \"b\", \"c\"]", "train.batch=6", "train.ema_half_life=0"];
        for text in data.iter().chain(set) {
            merge(&mut recipe, &assignment(text).unwrap(), id).unwrap();
        }
        let mut trial = system.trial(recipe, &device).unwrap();
        (0..3).for_each(|_| trial.step().unwrap());
        let model = trial.model().unwrap();
        let request = || Request::new(3..15, 7, &device);
        let drawn = request().classes(3);
        assert!((0..3).all(|class| drawn.contains(&class)));
        let told: Vec<Tensor<4>> =
            (0..3).map(|class| model.generate(&request().of_class(Some(class))).unwrap()).collect();
        let differ = to_values(told[0].clone()) != to_values(told[1].clone());
        assert!(differ, "{id}: classes make no difference");
        let of_drawn = drawn.iter().enumerate().map(|(i, &class)| told[class as usize].clone().narrow(0, i, 1));
        let wanted = to_values(Tensor::cat(of_drawn.collect(), 0));
        let close = |found: Tensor<4>| {
            let found = to_values(found);
            assert_eq!(found.len(), wanted.len());
            assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{id}");
        };
        close(model.generate(&request()).unwrap());
        if model.abilities().contains(&Ability::Decode) {
            close(model.decode(model.latents(&request()).unwrap()).unwrap());
        }
    }
}
