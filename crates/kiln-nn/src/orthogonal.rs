//! Orthogonal regularisation of weights.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Σ ‖W Wᵀ ⊙ (1 − I)‖²_F over the weights of a network (Brock 2019, equation 3, whose W is the transpose of ours): the squared
/// inner products of different filters. Unlike Brock 2017 it leaves their lengths alone. `None` if there are no weights.
///
/// A weight is a parameter of at least two dimensions, as the matrix of its outputs' filters; of those whose path `applies`.
pub fn orthogonality<M: Module>(network: &M, applies: impl Fn(&str) -> bool) -> Option<Tensor<1>> {
    struct Sum<F> {
        path: Vec<String>,
        applies: F,
        total: Option<Tensor<1>>,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Sum<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D < 2 || !(self.applies)(&self.path.join(".")) {
                return;
            }
            let term = inner_products(param.val().flatten::<2>(1, D - 1));
            self.total = Some(match self.total.take() {
                Some(total) => total + term,
                None => term,
            });
        }
    }
    let mut sum = Sum { path: Vec::new(), applies, total: None };
    network.visit(&mut sum);
    sum.total
}

/// Σᵢ≠ⱼ ⟨wᵢ, wⱼ⟩² over the rows of W = ‖W Wᵀ‖² − Σᵢ ‖wᵢ‖⁴, where ‖W Wᵀ‖ = ‖Wᵀ W‖: the smaller of the two is computed.
fn inner_products(w: Tensor<2>) -> Tensor<1> {
    let [rows, columns] = w.dims();
    let transposed = w.clone().transpose();
    let lengths = w.clone().square().sum_dim(1);
    let gram = if rows <= columns { w.matmul(transposed) } else { transposed.matmul(w) };
    gram.square().sum() - lengths.square().sum()
}
