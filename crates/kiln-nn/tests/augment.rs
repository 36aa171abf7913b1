//! DiffAugment and ADA against their authors' code (`tests/reference/augment.py`), and what both promise.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_core::random::Key;
use kiln_nn::augment::ada::Ada;
use kiln_nn::augment::diffaugment::DiffAugment;
use kiln_nn::augment::{Augmentation, Pipeline};
use kiln_nn::dual::{Dual, Signal};
use kiln_nn::tensor::{normal, to_values};

fn ada(policy: &str) -> Pipeline {
    Pipeline::Ada(Ada::parse(policy).unwrap())
}

fn diffaugment(policy: &str) -> Pipeline {
    Pipeline::DiffAugment(DiffAugment::parse(policy).unwrap())
}

fn pictures(shape: [usize; 4]) -> Tensor<4> {
    normal(Key::new(5), 0..shape[0] as u64, shape, &Device::flex())
}

#[test]
fn operations_agree_with_their_authors_code() {
    let f = Fixtures::open("augment");
    let cases: Vec<String> =
        f.names().into_iter().filter_map(|name| Some(name.strip_suffix(".draws")?.into())).collect();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let parts: Vec<&str> = case.split('.').collect();
        let pipeline = if parts[0] == "ada" { ada(parts[1]) } else { diffaugment(parts[1]) };
        let draws = f.values(&format!("{case}.draws")).1;
        let augmentation = Augmentation::fixed(pipeline, draws[0], draws[1]);
        let x = f.tensor::<4>(&format!("{case}.x")).autodiff().require_grad();
        let y = augmentation.apply(x.clone());
        // The reference rounds its maps of the plane to single precision.
        f.assert_close(y.clone().inner(), &format!("{case}.output"), 1e-4);
        let g = (y * f.tensor::<4>(&format!("{case}.grad_output")).autodiff()).sum().backward();
        f.assert_close(x.grad(&g).unwrap(), &format!("{case}.grad_x"), 1e-4);
    }
}

/// Affine in the picture, so that the tangent is the difference.
#[test]
fn tangents_are_differences() {
    let everything = "blit,geometry,color,filter,noise,cutout";
    for pipeline in [ada(everything), diffaugment("")] {
        let augmentation = Augmentation::new(pipeline, 1.0, Key::new(3), 7);
        let (x, v) = (pictures([3, 3, 24, 28]), pictures([3, 3, 24, 28]).square());
        let tangent = augmentation.apply(Dual::new(x.clone(), v.clone())).into_parts().1.unwrap();
        let difference = augmentation.apply(x.clone() + v) - augmentation.apply(x);
        let off = (tangent - difference).abs().max().into_scalar::<f32>();
        assert!(off < 1e-3, "{pipeline:?}: off by {off}");
    }
}

#[test]
fn draws_belong_to_samples() {
    let x = pictures([4, 1, 16, 16]);
    for pipeline in [ada("blit,geometry,color"), diffaugment("")] {
        let of = |first, x: Tensor<4>| Augmentation::new(pipeline, 0.7, Key::new(1), first).apply(x);
        let all = of(10, x.clone());
        // Reflections reach as far as the farthest sample of a batch needs.
        let off = (of(12, x.clone().narrow(0, 2, 2)) - all.clone().narrow(0, 2, 2)).abs().max().into_scalar::<f32>();
        assert!(off < 1e-5, "{pipeline:?}: off by {off}");
        assert_ne!(to_values(of(11, x.clone())), to_values(all));
    }
}

#[test]
fn nothing_happens_with_probability_0() {
    let x = pictures([4, 3, 16, 20]);
    let colors = Augmentation::new(ada("color,filter,noise,cutout"), 0.0, Key::new(1), 0).apply(x.clone());
    assert!((colors - x.clone()).abs().max().into_scalar::<f32>() < 1e-5);
    // The two low-pass filters are one orthogonal one.
    let places = Augmentation::new(ada("blit,geometry"), 0.0, Key::new(1), 0).apply(x.clone());
    assert!((places - x.clone()).abs().max().into_scalar::<f32>() < 1e-4);
    assert_eq!(to_values(Augmentation::none().apply(x.clone())), to_values(x));
}

/// How often each happens is p: brightness moves the mean of black pictures where it happens.
#[test]
fn operations_happen_with_probability_p() {
    let x = Tensor::zeros([2000, 1, 2, 2], &Device::flex());
    let y = Augmentation::new(ada("color"), 0.3, Key::new(9), 0).apply(x);
    let moved = to_values(y.mean_dims(&[1, 2, 3])).into_iter().filter(|v| *v != 0.0).count();
    assert!((540..660).contains(&moved), "{moved}");
}

#[test]
fn noise_has_its_deviation() {
    let x = Tensor::zeros([400, 1, 8, 8], &Device::flex());
    let y = to_values(Augmentation::new(ada("noise"), 1.0, Key::new(2), 0).apply(x));
    let variance = y.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / y.len() as f64;
    assert!((variance - 0.01).abs() < 0.002, "{variance}");
}
