//! Minimising over tensors, against PyTorch (`tests/reference/minimise.py`), and a decoder inverted by it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

#[path = "../../../tests/reference/fixtures.rs"]
mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::Fixtures;
use kiln_core::{Error, Result};
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::OptimizerConfig;
use kiln_train::minimise::{Descent, Lbfgs, minimise};

type Objective<'a> = &'a dyn Fn(&[Tensor<1>]) -> Tensor<1>;

fn rosenbrock(v: &[Tensor<1>]) -> Tensor<1> {
    let (x, y) = (v[0].clone(), v[1].clone());
    (x.clone() * -1.0 + 1.0).square() + (y - x.square()).square() * 100.0
}

#[test]
fn steps_are_pytorchs() {
    let f = Fixtures::open("minimise");
    let matrix = f.tensor::<2>("quadratic.matrix").autodiff();
    let quadratic = |v: &[Tensor<1>]| {
        let x = Tensor::cat(v.to_vec(), 0);
        let row: Tensor<2> = x.clone().unsqueeze();
        (row.clone().matmul(matrix.clone()) * row * 0.5).sum() - x.sum()
    };
    let adam = Descent::Optimizer(OptimizerConfig::adam(0.1));
    let lbfgs = Descent::Lbfgs(Lbfgs::default());
    let short = Descent::Lbfgs(Lbfgs { history: 2, learning_rate: 0.5, ..Lbfgs::default() });
    let fixed = Descent::Lbfgs(Lbfgs { line_search: false, learning_rate: 0.2, ..Lbfgs::default() });
    let objectives: [(&str, Objective<'_>); 2] = [("rosenbrock", &rosenbrock), ("quadratic", &quadratic)];
    for (name, objective) in objectives {
        for (method, descent) in
            [("adam", &adam), ("lbfgs", &lbfgs), ("lbfgs_history2", &short), ("lbfgs_fixed", &fixed)]
        {
            let start = vec![f.tensor(&format!("{name}.start.0")), f.tensor(&format!("{name}.start.1"))];
            let (mut path, mut values) = (Vec::new(), Vec::new());
            let (shape, _) = f.values(&format!("{name}.{method}.values"));
            let steps = shape[0];
            let end = minimise(
                start,
                |v| Ok(objective(v)),
                descent,
                steps,
                |step, value, v| {
                    assert_eq!(step, path.len());
                    path.push(Tensor::cat(v.to_vec(), 0).unsqueeze::<2>());
                    values.push(value as f32);
                },
            );
            let end = end.unwrap();
            // The report is of where a step begins, the fixture of where it ends.
            path.push(Tensor::cat(end.variables, 0).unsqueeze());
            values.push(end.value as f32);
            assert_eq!((end.steps, end.converged, path.len()), (steps, false, steps + 1), "{name} {method}");
            f.assert_close(Tensor::cat(path.split_off(1), 0), &format!("{name}.{method}.path"), 1e-5);
            let values = from_values(values.split_off(1), [steps], &Device::flex());
            f.assert_close(values, &format!("{name}.{method}.values"), 1e-5);
        }
    }
}

#[test]
fn lbfgs_stops_where_there_is_no_way_to_go() {
    let device = Device::flex();
    let start = || [-1.2, 1.0].map(|v| from_values::<1>(vec![v], [1], &device)).to_vec();
    let descent = Descent::Lbfgs(Lbfgs::default());
    let end = minimise(start(), |v| Ok(rosenbrock(v)), &descent, 200, |_, _, _| {}).unwrap();
    assert!(end.converged && end.steps < 60 && end.value < 1e-9, "{} {}", end.steps, end.value);
    for x in end.variables {
        assert!((to_values(x)[0] - 1.0).abs() < 1e-4);
    }
    // Already there, and no step allowed.
    let ones = || vec![from_values::<1>(vec![1.0], [1], &device); 2];
    let end = minimise(ones(), |v| Ok(rosenbrock(v)), &descent, 200, |_, _, _| {}).unwrap();
    assert_eq!((end.converged, end.steps, end.value), (true, 0, 0.0));
    for descent in [descent, Descent::Optimizer(OptimizerConfig::adam(0.1))] {
        let end = minimise(start(), |v| Ok(rosenbrock(v)), &descent, 0, |_, _, _| {}).unwrap();
        assert!(!end.converged && end.steps == 0 && (end.value - 24.2).abs() < 1e-4);
    }
}

#[test]
fn the_last_finite_point_survives() {
    let device = Device::flex();
    let start = || vec![from_values::<1>(vec![1.0, 2.0], [2], &device)];
    // Each step of plain descent triples the distance, until its square overflows.
    let sgd = OptimizerConfig::sgd(2.0, 0.0);
    let mut seen = Vec::new();
    let square = |v: &[Tensor<1>]| Ok(v[0].clone().square().sum());
    let failed = minimise(start(), square, &Descent::Optimizer(sgd), 1000, |_, value, v| {
        seen.push((value, to_values(v[0].clone())));
    });
    let failed = failed.unwrap_err();
    let message = failed.error.to_string();
    assert!(message.starts_with("the objective is inf at step ") && !message.contains('\n'), "{message}");
    let last = failed.last.unwrap();
    assert_eq!((last.value, to_values(last.variables[0].clone())), *seen.last().unwrap());
    assert!(last.value.is_finite() && last.value > 1e30);

    let adam = Descent::Optimizer(OptimizerConfig::adam(0.1));
    let never = minimise(start(), |v| Ok(v[0].clone().log().sum() * f32::NAN), &adam, 3, |_, _, _| {}).unwrap_err();
    assert!(never.last.is_none() && never.error.to_string().contains("NaN at step 0"), "{}", never.error);
    // An objective that fails, that is several numbers, and that has nothing to do with the variables.
    let error = |objective: &dyn Fn(&[Tensor<1>]) -> Result<Tensor<1>>| {
        minimise(start(), objective, &adam, 3, |_, _, _| {}).map_err(Error::from).unwrap_err().to_string()
    };
    assert_eq!(error(&|_| Err(Error::new("no such layer"))), "no such layer");
    assert_eq!(error(&|v| Ok(v[0].clone())), "an objective is one number, and this one has 2");
    let constant = from_values::<1>(vec![1.0], [1], &device).autodiff();
    assert_eq!(error(&|_| Ok(constant.clone())), "the objective does not depend on the variables");
    let nothing = minimise(Vec::new(), |_: &[Tensor<1>]| Ok(constant.clone()), &adam, 3, |_, _, _| {}).unwrap_err();
    assert_eq!(nothing.error.to_string(), "there are no variables to minimise over");
}

/// GAN inversion in small: the latent whose picture a decoder would make.
#[test]
fn a_decoder_is_inverted() {
    let device = Device::flex();
    let noise = |len: usize, by: usize| (0..len).map(|i| (i * i * by % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
    let first = from_values::<2>(noise(4 * 24, 37), [4, 24], &device).autodiff();
    let second = from_values::<2>(noise(24 * 64, 53), [24, 64], &device).autodiff() * 0.3;
    let decode = |z: &Tensor<2>| (z.clone().matmul(first.clone()).tanh().matmul(second.clone())).tanh();
    let hidden = from_values::<2>(vec![0.4, -0.7, 0.2, 0.5], [1, 4], &device).autodiff();
    let target = decode(&hidden);
    let objective = |z: &[Tensor<2>]| Ok((decode(&z[0]) - target.clone()).square().mean());
    let adam = OptimizerConfig::adam(0.05).schedule(kiln_train::Schedule::Cosine);
    for (descent, steps, off) in [(Descent::Optimizer(adam), 400, 1e-3), (Descent::Lbfgs(Lbfgs::default()), 60, 1e-3)] {
        let start = vec![from_values::<2>(vec![0.0; 4], [1, 4], &device)];
        let end = minimise(start, objective, &descent, steps, |_, _, _| {}).unwrap();
        let found = to_values(end.variables[0].clone());
        for (found, hidden) in found.iter().zip([0.4, -0.7, 0.2, 0.5]) {
            assert!((found - hidden).abs() < off, "{descent:?}: {found} instead of {hidden}, {} steps", end.steps);
        }
    }
}
