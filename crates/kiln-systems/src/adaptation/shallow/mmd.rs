//! The maximum mean discrepancy as a matrix (Pan 2011; Long 2013): tr(Aᵀ K M Kᵀ A) is the squared distance of the
//! domains' means, and of those of each class.

use faer::{Mat, Scale};

use super::domains::Domains;

/// E with E Eᵀ = M/‖M‖, where M = C·e₀e₀ᵀ + Σ_c e_c e_cᵀ: a row a picture, the source's first. With n_s pictures of
/// the source and n_t of the target, e₀ has 1/n_s and −1/n_t, and e_c the same over the pictures of class c, by the
/// labels of the source and the guesses for the target; without guesses M = C·e₀e₀ᵀ.
///
/// A class that no picture of the target is guessed to be of pulls the source's mean of it to zero, as in the authors'
/// code; where `partial` it is left out.
pub fn discrepancy(domains: &Domains, guesses: Option<&[usize]>, partial: bool) -> Mat<f64> {
    let (labels, n_t) = (&domains.labels, domains.target.nrows());
    let n_s = labels.len();
    let classes = domains.present();
    let column = |in_source: &dyn Fn(usize) -> bool, in_target: &dyn Fn(usize) -> bool, scale: f64| -> Vec<f64> {
        let share = |count: usize| if count == 0 { 0.0 } else { scale / count as f64 };
        let of_source = share((0..n_s).filter(|&i| in_source(i)).count());
        let of_target = share((0..n_t).filter(|&i| in_target(i)).count());
        let source = (0..n_s).map(|i| if in_source(i) { of_source } else { 0.0 });
        source.chain((0..n_t).map(|i| if in_target(i) { -of_target } else { 0.0 })).collect()
    };
    let mut columns = vec![column(&|_| true, &|_| true, (classes.len() as f64).sqrt())];
    if let Some(guesses) = guesses {
        let seen = |class: &&usize| !partial || guesses.contains(*class);
        for class in classes.iter().filter(seen) {
            columns.push(column(&|i| labels[i] == *class, &|i| guesses[i] == *class, 1.0));
        }
    }
    let e = Mat::from_fn(n_s + n_t, columns.len(), |i, j| columns[j][i]);
    // ‖E Eᵀ‖ = ‖Eᵀ E‖
    let norm = (e.transpose() * &e).norm_l2();
    e * Scale(1.0 / norm.sqrt())
}
