//! Against PyTorch, function by function (`tests/reference/growing.py`).

use burn::module::Module;
use burn::tensor::Device;
use kiln_nn::norm::pixel_norm;
use kiln_nn::penalty::wgan_gp;
use kiln_nn::tensor::{from_values, to_values};
use kiln_nn::{Augmentation, Init};
use kiln_train::{HostTensor, params};

use super::discriminator::Critic;
use super::*;
use crate::adversarial::dcgan::Sizes;
use crate::adversarial::equalised::Widths;
use crate::adversarial::progan::BOX;
use crate::adversarial::style::latents::repeated;
use crate::testing::hashed::uniform;
use crate::testing::{Fixtures, values};

const SIZES: Sizes = Sizes { base: [2, 3], doublings: 2 };
/// 8, 6 and 3.
const WIDTHS: Widths = Widths { base: 48, max: 8 };
const LATENT: usize = 6;
const LEVELS: [(&str, Level); 4] = [
    ("0", Level { size: 0, fade: 1.0 }),
    ("1.5", Level { size: 2, fade: 0.5 }),
    ("1", Level { size: 1, fade: 1.0 }),
    ("2", Level { size: 2, fade: 1.0 }),
];

fn formula(name: &str, count: usize) -> Vec<f32> {
    let near_0 = name.ends_with("bias") || name.ends_with("strength");
    let value = |u: f64| if near_0 { 0.2 * u - 0.1 } else { (2.0 * u - 1.0) * 3f64.sqrt() };
    uniform(name, count).map(|u| value(u) as f32).collect()
}

fn input<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    from_values(formula(name, shape.iter().product()), shape, device)
}

fn filled<M: Module>(module: M) -> M {
    let value = |(path, tensor): (String, HostTensor)| {
        let values = formula(&path, tensor.values.len());
        (path, HostTensor { values, ..tensor })
    };
    let state = params::state(&module).into_iter().map(value).collect();
    params::load(module, &state, "the formula").unwrap()
}

#[test]
fn pictures_of_growing_networks_are_pytorchs() {
    let (f, device) = (Fixtures::open("growing"), Device::flex());
    let plain = Parts { latent: LATENT, filter: &BOX, styles: false, constant: false, noise: false };
    let styled = Parts { styles: true, constant: true, noise: true, ..plain };
    for (kind, parts) in [("progan", plain), ("stylegan", styled)] {
        let g = filled(Synthesis::new(parts, WIDTHS, 2, SIZES, &mut Init::new(&device, 0)));
        let z = input("z", [3, LATENT], &device);
        let z = if parts.styles { z } else { pixel_norm(z) };
        let noise = |(i, layer): (usize, Tensor<4>)| {
            let [_, _, h, w] = layer.dims();
            input(&format!("noise {i}"), [3, 1, h, w], &device)
        };
        let noise: Vec<_> = g.constant_noise().into_iter().enumerate().map(noise).collect();
        for (name, level) in LEVELS {
            let picture = g.forward(repeated(z.clone(), g.layers()), &noise, level);
            f.assert_close(picture, &format!("{kind}.{name}.picture"), 1e-5);
        }
    }
}

#[test]
fn scores_and_penalties_of_growing_networks_are_pytorchs() {
    let (f, device) = (Fixtures::open("growing"), Device::flex().autodiff());
    let d = filled(Discriminator::new(2, WIDTHS, SIZES, &BOX, 4, &mut Init::new(&device, 0)));
    for (name, level) in LEVELS {
        let [h, w] = SIZES.base.map(|side| side << level.size);
        let real = input("real", [3, 2, h, w], &device);
        let scores = d.scores(real.clone(), level);
        f.assert_close(scores.inner(), &format!("d.{name}.scores"), 1e-5);

        let mix = input("mix", [3], &device).abs() * 0.5;
        let critic = Critic { discriminator: &d, level, augmentation: Augmentation::none() };
        let penalty = wgan_gp(&critic, real, input("fake", [3, 2, h, w], &device), mix, &device);
        let expected = values(&f, &format!("d.{name}.gp"))[0];
        let value = penalty.clone().into_scalar::<f32>();
        assert!((value - expected).abs() < 1e-4 * expected, "{name}: {value}, expected {expected}");
        let gradients = params::take_gradients(&d, &mut penalty.backward());
        let (mut off, mut all) = (0.0, 0.0);
        for path in params::state(&d).keys() {
            let key = format!("d.{name}.gp.{path}");
            if !f.names().contains(&key) {
                // A layer of a size not reached, or the last bias, which the penalty does not see.
                let zero = |g: &Tensor<1>| to_values(g.clone()).iter().all(|v| *v == 0.0);
                assert!(gradients.get(path).is_none_or(zero), "{name}: {path}");
                continue;
            }
            let expected = values(&f, &key);
            let found = gradients.get(path).map_or(vec![0.0; expected.len()], |g| to_values(g.clone()));
            for (a, e) in found.into_iter().zip(expected) {
                off += f64::from(a - e).powi(2);
                all += f64::from(e).powi(2);
            }
        }
        assert!((off / all).sqrt() < 1e-4, "{name}: gradients are off by {:e}", (off / all).sqrt());
    }
}
