//! Optimisers, clipping and the weight average against PyTorch, step by step.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use fixtures::Fixtures;
use kiln_train::optim::{Method, Optimizer, clip_scale, global_norm};
use kiln_train::params::Flat;
use kiln_train::{OptimizerConfig, ema};

#[derive(Module, Debug)]
struct One {
    weight: Param<Tensor<2>>,
}

fn start(f: &Fixtures) -> One {
    One { weight: Param::from_tensor(f.tensor::<2>("start")) }
}

#[test]
fn ten_steps_of_every_optimiser() {
    let f = Fixtures::open("optimizers");
    let adam = OptimizerConfig::adam(0.01);
    let sgd = OptimizerConfig::sgd(0.01, 0.9);
    for (name, config) in [
        ("adam", adam.clone().betas(0.5, 0.999)),
        ("adam_beta0", adam.clone().betas(0.0, 0.99)),
        ("adamw", OptimizerConfig { method: Method::AdamW, weight_decay: 0.01, ..adam.clone() }),
        ("sgd_momentum", sgd.clone()),
        ("sgd_nesterov", OptimizerConfig { nesterov: true, ..sgd.clone() }),
        ("sgd_weight_decay", OptimizerConfig { weight_decay: 0.1, ..sgd }),
        ("rmsprop", OptimizerConfig { method: Method::RmsProp, beta2: 0.99, ..adam }),
    ] {
        let mut optimizer = Optimizer::new(config);
        let mut module = start(&f);
        let mut steps = Vec::new();
        for step in 0..10 {
            let gradient = f.tensor::<3>("grads").narrow(0, step, 1).reshape([12]);
            module = optimizer.step(module, Flat::from([("weight".to_string(), gradient)]), 1.0, 1.0);
            steps.push(module.weight.val().inner().reshape([1, 3, 4]));
        }
        f.assert_close(Tensor::cat(steps, 0), &format!("{name}.steps"), 1e-5);
    }
}

#[test]
fn clipping_scales_to_the_global_norm() {
    let f = Fixtures::open("optimizers");
    let gradients = || {
        Flat::from([
            ("a".to_string(), f.tensor::<2>("clip.a").reshape([6])),
            ("b".to_string(), f.tensor::<1>("clip.b")),
            ("c".to_string(), f.tensor::<3>("clip.c").reshape([4])),
        ])
    };
    let norm = global_norm(&gradients());
    assert!((norm - f.values("clip.norm").1[0]).abs() < 1e-5);
    for kind in ["tight", "loose"] {
        let max = f.values(&format!("clip.{kind}_max_norm")).1[0];
        let scale = clip_scale(norm, max);
        let clipped: Flat = gradients().into_iter().map(|(path, g)| (path, g * scale)).collect();
        f.assert_close(clipped["a"].clone().reshape([2, 3]), &format!("clip.{kind}_a"), 1e-5);
        f.assert_close(clipped["b"].clone(), &format!("clip.{kind}_b"), 1e-5);
    }
}

#[test]
fn the_average_follows_with_its_decay() {
    let f = Fixtures::open("optimizers");
    let mut average = start(&f);
    let mut steps = Vec::new();
    for step in 0..10 {
        let live = One { weight: Param::from_tensor(f.tensor::<3>("adam.steps").narrow(0, step, 1).reshape([3, 4])) };
        average = ema::update(average, &live, 0.9, ema::Buffers::Average, |_| true);
        steps.push(average.weight.val().inner().reshape([1, 3, 4]));
    }
    f.assert_close(Tensor::cat(steps, 0), "ema.steps", 1e-5);
}
