//! The methods against SKADA, POT and the papers' formulas in NumPy: `tests/reference/shallow.py`.

use faer::{Mat, MatRef};
use safetensors::SafeTensors;

use super::algebra::{largest, leading, leading_beside, nearest};
use super::domains::Domains;
use super::map::{Map, Of};
use super::method::{KernelName, Method, MethodConfig};
use super::otgl;

/// The reference values.
pub struct Fixture(Vec<u8>);

impl Fixture {
    /// All of them.
    pub fn open() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/fixtures");
        Self(std::fs::read(format!("{folder}/shallow.safetensors")).unwrap())
    }

    /// The values of a name.
    pub fn matrix(&self, name: &str) -> Mat<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<f64> =
            tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        let columns = tensor.shape().get(1).copied().unwrap_or(1);
        Mat::from_fn(values.len() / columns, columns, |i, j| values[i * columns + j])
    }

    fn classes(&self, name: &str) -> Vec<usize> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let data = file.tensor(name).unwrap();
        data.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize).collect()
    }

    fn domains(&self) -> Domains {
        let target = self.matrix("target");
        let known = vec![None; target.nrows()];
        Domains::new((self.matrix("source"), self.classes("labels")), (target, known), 3).unwrap()
    }

    /// The same points up to the sign of each column, and the same classes.
    fn check(&self, name: &str, map: &Map) {
        let domains = self.domains();
        let (source, target) =
            (map.points(domains.source.as_ref(), Of::Source), map.points(domains.target.as_ref(), Of::Target));
        let (want_source, want_target) =
            (self.matrix(&format!("{name}.source")), self.matrix(&format!("{name}.target")));
        for j in 0..want_source.ncols() {
            let products = want_source.col(j).transpose() * source.col(j);
            let sign = products.signum();
            for (got, want, side) in [(&source, &want_source, "source"), (&target, &want_target, "target")] {
                assert_eq!((got.nrows(), got.ncols()), (want.nrows(), want.ncols()));
                let size = want.norm_max();
                for i in 0..got.nrows() {
                    let (got, want) = (sign * got[(i, j)], want[(i, j)]);
                    assert!((got - want).abs() < 1e-6 * size, "{name} {side} [{i}, {j}]: {got}, expected {want}");
                }
            }
        }
        self.check_accuracy(name, source.as_ref(), target.as_ref());
    }

    fn check_accuracy(&self, name: &str, source: MatRef<'_, f64>, target: MatRef<'_, f64>) {
        let (labels, truth) = (self.classes("labels"), self.classes("target_labels"));
        let right = nearest(target, source).into_iter().zip(&truth).filter(|(i, class)| labels[*i] == **class).count();
        let accuracy = right as f64 / truth.len() as f64;
        assert_eq!(accuracy, self.matrix(&format!("{name}.accuracy"))[(0, 0)], "{name}");
    }
}

fn config(method: Method, kernel: KernelName) -> MethodConfig {
    MethodConfig { method, kernel, dimension: 3, whiten: true, ..MethodConfig::default() }
}

#[test]
fn subspace_methods_equal_their_references() {
    let fixture = Fixture::open();
    let domains = fixture.domains();
    for (name, method) in [("none", Method::None), ("sa", Method::Sa), ("sda", Method::Sda)] {
        fixture.check(name, &config(method, KernelName::Primal).learn(&domains).unwrap());
    }
    let map = config(Method::Gfk, KernelName::Primal).learn(&domains).unwrap();
    let root = map.source.weights.as_ref().unwrap();
    assert!((root * root.transpose() - fixture.matrix("gfk.kernel")).norm_max() < 1e-9);
    let [source, target] =
        [(&domains.source, Of::Source), (&domains.target, Of::Target)].map(|(x, of)| map.points(x.as_ref(), of));
    fixture.check_accuracy("gfk", source.as_ref(), target.as_ref());
}

#[test]
fn components_equal_their_references() {
    let fixture = Fixture::open();
    let domains = fixture.domains();
    for (kernel, name) in [(KernelName::Primal, "primal"), (KernelName::Linear, "linear"), (KernelName::Rbf, "rbf")] {
        for (method, id) in [(Method::Tca, "tca"), (Method::Jda, "jda"), (Method::Jgsa, "jgsa")] {
            fixture.check(&format!("{id}.{name}"), &config(method, kernel).learn(&domains).unwrap());
        }
    }
    let unit = MethodConfig { whiten: false, ..config(Method::Jda, KernelName::Primal) };
    fixture.check("jda.unit", &unit.learn(&domains).unwrap());
    fixture.check("sca", &config(Method::Sca, KernelName::Rbf).learn(&domains).unwrap());
    // The width of SKADA's kernel is 1 over the features.
    let tjm = MethodConfig { lambda: 0.1, iterations: 4, gamma: 1.0 / 8.0, ..config(Method::Tjm, KernelName::Rbf) };
    fixture.check("tjm", &tjm.learn(&domains).unwrap());
}

#[test]
fn transport_equals_pot() {
    let fixture = Fixture::open();
    let domains = fixture.domains();
    for (name, group) in [("otgl", 0.1), ("otgl.strong", 1.0)] {
        let config = MethodConfig { entropy: 0.05, group, ..config(Method::Otgl, KernelName::Primal) };
        fixture.check(name, &config.learn(&domains).unwrap());
        let cost = super::algebra::squared_distances(domains.source.as_ref(), domains.target.as_ref());
        let cost = &cost * faer::Scale(1.0 / cost.norm_max());
        let settings = otgl::Settings { entropy: 0.05, group, iterations: 10 };
        let plan = otgl::group_lasso_plan(cost.as_ref(), &domains.labels, &settings).unwrap();
        let want = fixture.matrix(&format!("{name}.plan"));
        assert!((&plan - &want).norm_max() < 1e-6 * want.norm_max(), "{name}");
    }
}

/// A symmetric matrix with numbers of no pattern, and eigenvalues that fall slowly.
fn matrix(n: usize, seed: u64) -> Mat<f64> {
    let values = kiln_core::random::Key::new(seed).uniform(0..1, n * n);
    let x = Mat::from_fn(n, n, |i, j| (f64::from(values[i * n + j]) - 0.5) / (1.0 + j as f64).sqrt());
    &x * x.transpose()
}

#[test]
fn a_krylov_subspace_holds_the_eigenvectors() {
    let s = matrix(600, 1);
    let (values, vectors) = largest(s.as_ref(), 12).unwrap();
    let eigen = s.self_adjoint_eigen(faer::Side::Lower).unwrap();
    for j in 0..12 {
        assert!((values[j] - eigen.S().column_vector()[599 - j]).abs() < 1e-10 * values[0]);
        let overlap = vectors.col(j).transpose() * eigen.U().col(599 - j);
        assert!((overlap.abs() - 1.0).abs() < 1e-10, "{j}: {overlap}");
    }
}

#[test]
fn a_matrix_of_low_rank_beside_one_is_the_general_problem() {
    let s = matrix(40, 2);
    let w = matrix(40, 3).subcols(0, 4).to_owned();
    let b = Mat::<f64>::identity(40, 40) + &w * w.transpose();
    let (want, vectors) = leading(s.as_ref(), b.as_ref(), 5).unwrap();
    let (values, found) = leading_beside(s.as_ref(), w.as_ref(), 5).unwrap();
    for j in 0..5 {
        assert!((values[j] - want[j]).abs() < 1e-10 * want[0]);
        let overlap = found.col(j).transpose() * &b * vectors.col(j);
        assert!((overlap.abs() - 1.0).abs() < 1e-9, "{j}: {overlap}");
    }
}

#[test]
fn known_classes_of_the_target_are_used() {
    let fixture = Fixture::open();
    let mut domains = fixture.domains();
    let truth = fixture.classes("target_labels");
    for method in [Method::Jda, Method::Jgsa, Method::Otgl, Method::None] {
        let right = |domains: &Domains| {
            let map = config(method, KernelName::Primal).learn(domains).unwrap();
            let [source, target] = [(&domains.source, Of::Source), (&domains.target, Of::Target)]
                .map(|(x, of)| map.points(x.as_ref(), of));
            let guesses = domains.guessed(source.as_ref(), target.as_ref());
            guesses.iter().zip(&truth).filter(|(a, b)| a == b).count()
        };
        domains.known = vec![None; truth.len()];
        let without = right(&domains);
        domains.known = truth.iter().map(|class| Some(*class)).collect();
        assert_eq!(right(&domains), truth.len(), "{method:?}");
        assert!(without < truth.len(), "{method:?}");
    }
}

#[test]
fn what_cannot_be_learned_from_is_said() {
    let fixture = Fixture::open();
    let good = fixture.domains();
    let new = |source: Mat<f64>, labels: Vec<usize>, target: Mat<f64>| {
        let known = vec![None; target.nrows()];
        Domains::new((source, labels), (target, known), 3).unwrap_err().to_string()
    };
    let (source, labels, target) = (&good.source, &good.labels, &good.target);
    let mut hurt = source.clone();
    hurt[(4, 2)] = f64::NAN;
    for (error, says) in [
        (new(hurt, labels.clone(), target.clone()), "feature 2 of picture 4 of the source is NaN"),
        (new(source.clone(), vec![1; 36], target.clone()), "one class"),
        (new(source.clone(), vec![7; 36], target.clone()), "label 7 of 3 classes"),
        (new(source.clone(), labels.clone(), Mat::zeros(5, 8)), "the target have the same features"),
        (new(source.clone(), labels.clone(), Mat::zeros(5, 9)), "8 features a picture and the target 9"),
    ] {
        assert!(error.contains(says), "{error}");
        assert!(!error.contains('\n'));
    }
    for method in [Method::Sa, Method::Sda, Method::Gfk, Method::Tca, Method::Jda, Method::Jgsa] {
        let config = MethodConfig { dimension: 9, ..config(method, KernelName::Primal) };
        let error = config.learn(&good).err().unwrap().to_string();
        assert!(error.contains("model.dimension = 9"), "{method:?}: {error}");
    }
    let tiny = MethodConfig { entropy: 1e-6, ..config(Method::Otgl, KernelName::Primal) };
    assert!(tiny.learn(&good).err().unwrap().to_string().contains("model.entropy"));
}

/// A class that the target lacks pulls nothing where the target may lack some.
#[test]
fn the_discrepancy_of_a_partial_target_leaves_classes_out() {
    let mut domains = Fixture::open().domains();
    domains.known = vec![None; domains.target.nrows()];
    let guesses: Vec<usize> = (0..domains.target.nrows()).map(|i| i % 2).collect();
    let whole = super::mmd::discrepancy(&domains, Some(&guesses), false);
    let partial = super::mmd::discrepancy(&domains, Some(&guesses), true);
    assert_eq!((whole.ncols(), partial.ncols()), (4, 3));
    for e in [whole, partial] {
        let norm = (&e * e.transpose()).norm_l2();
        assert!((norm - 1.0).abs() < 1e-12, "{norm}");
    }
}
