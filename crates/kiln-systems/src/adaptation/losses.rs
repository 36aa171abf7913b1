//! Losses that systems for two domains share: of labels, of domains, and of how far apart features are.

use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result, refuse_if};
use kiln_nn::loss::{binary_cross_entropy_to, cross_entropy};
use kiln_train::{Batch, Domain, Loss};

/// L_y, cross-entropy, with the accuracy beside it.
///
/// # Shapes
/// `[n, classes]`, `[n]`
pub fn label_loss(logits: Tensor<2>, labels: Tensor<1, Int>) -> Loss {
    let right = accuracy(logits.clone(), labels.clone());
    Loss::new("label_loss", cross_entropy(logits, labels)).report("label_accuracy", right)
}

/// The share of logits whose largest is the label's.
fn accuracy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let n = labels.dims()[0];
    logits.detach().argmax(1).reshape([n]).equal(labels).float().mean()
}

/// L_d, the binary cross-entropies of both halves: −E_source log(1 − σ(G_d)) − E_target log σ(G_d), each half a mean of its own
/// (Ganin 2016, equation 9).
///
/// # Shapes
/// logits `[n, 1]`, `[m, 1]` → `[1]`
pub fn domain_loss(source: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    binary_cross_entropy_to(source, 0.0) + binary_cross_entropy_to(target, 1.0)
}

/// The share of both halves whose domain is recognised; ½ when the features do not show it.
///
/// # Shapes
/// logits of "target", `[n, …]`, `[m, …]` → `[1]`
pub fn domain_accuracy<const D: usize>(source: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    (source.detach().lower_equal_elem(0.0).float().mean() + target.detach().greater_elem(0.0).float().mean()) * 0.5
}

/// Squared maximum mean discrepancy of two batches (Gretton 2012, the biased form), differentiable: by the means themselves where
/// `bandwidths` is empty (Tzeng 2014, equation 1, squared), else by a mean of Gaussian kernels exp(−‖x − y‖² / (b·s)), s the mean
/// squared distance of two different points of both batches together, which no gradient passes (Long 2015, §3, as in their code).
///
/// # Shapes
/// `[n, d]`, `[m, d]` → `[1]`
pub fn mmd(x: Tensor<2>, y: Tensor<2>, bandwidths: &[f64]) -> Tensor<1> {
    if bandwidths.is_empty() {
        return (x.mean_dim(0) - y.mean_dim(0)).square().sum();
    }
    let [n, m] = [x.dims()[0], y.dims()[0]];
    let all = Tensor::cat(vec![x, y], 0);
    let distances = squared_distances(all.clone(), all);
    let pairs = ((n + m) * (n + m - 1)) as f64;
    // Where all points are one the kernels have no slope.
    let scale = (distances.clone().detach().sum() / pairs + 1e-6).reshape([1, 1]);
    let scaled = distances / scale;
    let kernels = bandwidths.iter().map(|&b| (-scaled.clone() / b).exp());
    let kernel = kernels.reduce(|sum, k| sum + k).unwrap_or(scaled) / bandwidths.len() as f64;
    let block =
        |i: usize, rows: usize, j: usize, columns: usize| kernel.clone().narrow(0, i, rows).narrow(1, j, columns);
    block(0, n, 0, n).mean() + block(n, m, n, m).mean() - block(0, n, n, m).mean() * 2.0
}

/// Checks the widths of [`mmd`]'s kernels.
///
/// # Errors
/// A usage error if one is not above 0.
pub fn check_bandwidths(bandwidths: &[f64]) -> Result<()> {
    let positive = bandwidths.iter().all(|v| v.is_finite() && *v > 0.0);
    refuse_if!(!positive, "model.bandwidths must be above 0");
    Ok(())
}

/// ‖xᵢ − yⱼ‖².
fn squared_distances(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    let (a, b) = (x.clone().square().sum_dim(1), y.clone().square().sum_dim(1).transpose());
    (a + b - x.matmul(y.transpose()) * 2.0).clamp_min(0.0)
}

/// The scale-invariant squared error (Bousmalis 2016, equation 6; 2017, equation 5): of each picture's d = (x − y)·m the mean of d² less
/// the square of its mean, so that a shift of all values costs nothing. m is 1 where a mask counts, or everywhere.
///
/// # Shapes
/// `[n, c, h, w]` twice, `[n, 1, h, w]` → `[1]`
pub fn pairwise_error(x: Tensor<4>, y: Tensor<4>, mask: Option<Tensor<4>>) -> Tensor<1> {
    let [n, c, h, w] = x.dims();
    let difference = x - y;
    let difference = match mask {
        Some(mask) => difference * mask,
        None => difference,
    };
    let rows: Tensor<2> = difference.reshape([n, c * h * w]);
    (rows.clone().square().mean_dim(1) - rows.mean_dim(1).square()).mean()
}

/// The difference loss (Bousmalis 2016, equation 5, as in the authors' code): the mean square of the products of private and shared
/// features, each feature centred over the batch, each picture's features then of length 1.
///
/// # Shapes
/// `[n, d]` twice → `[1]`
pub fn difference_loss(private: Tensor<2>, shared: Tensor<2>) -> Tensor<1> {
    let unit = |x: Tensor<2>| {
        let x = x.clone() - x.mean_dim(0);
        let length = x.clone().square().sum_dim(1).clamp_min(1e-12).sqrt();
        x / length
    };
    unit(private).transpose().matmul(unit(shared)).square().mean()
}

/// A loss with that of the few target pictures whose labels are known, if `data.labels` says that there are such. `classify` is for
/// pictures of the target.
///
/// # Errors
/// If they have no labels.
pub fn with_known(loss: Loss, batch: &Batch, classify: impl FnOnce(Tensor<4>) -> Tensor<2>) -> Result<Loss> {
    let Some(few) = batch.domains.get(2) else { return Ok(loss) };
    let labels = few.labels.clone().ok_or_else(|| Error::usage("data.labels needs a labelled target"))?;
    Ok(loss.plus("target_label_loss", 1.0, cross_entropy(classify(few.images.clone()), labels)))
}

/// Source and target of a batch.
///
/// # Errors
/// A usage error if it is not of two sets.
pub fn domains<'a>(batch: &'a Batch, system: &str) -> Result<[&'a Domain; 2]> {
    match batch.domains.as_slice() {
        [source, target, ..] => Ok([source, target]),
        _ => Err(Error::usage(format!("{system} wants two sets, such as --data mnist,mnistm"))),
    }
}

/// The target's labels, for a bound or a few that are known.
///
/// # Errors
/// A usage error if there are none, or more classes than the source has.
pub fn target_labels(target: &Domain, classes: usize, why: &str) -> Result<Tensor<1, Int>> {
    let labels = target.labels.clone();
    let labels = labels.ok_or_else(|| Error::usage(format!("{why} needs a labelled target")))?;
    let beyond = target.host_labels.iter().flatten().any(|&label| label as usize >= classes);
    refuse_if!(beyond, "{why}: the target has more classes than the source's {classes}");
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kiln_nn::tensor::{from_values, to_values};

    use super::*;
    use crate::testing::{Fixtures, close, values};

    /// tests/reference/adaptation.py.
    fn compare<const D: usize>(name: &str, loss: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<1>) {
        let (fixtures, device) = (Fixtures::open("adaptation"), Device::flex().autodiff());
        let get = |part: &str| values(&fixtures, &format!("{name}.{part}"));
        let [x, y] = ["x", "y"].map(|part| {
            let (shape, _) = fixtures.values(&format!("{name}.{part}"));
            from_values::<D>(get(part), shape.try_into().unwrap(), &device).require_grad()
        });
        let found = loss(x.clone(), y.clone());
        close(&to_values(found.clone()), &get("output"), 1e-6);
        let gradients = (found * get("grad_output")[0]).backward();
        for (input, part) in [(x, "grad_x"), (y, "grad_y")] {
            close(&to_values(input.grad(&gradients).unwrap()), &get(part), 1e-5);
        }
    }

    #[test]
    fn losses_equal_the_authors() {
        compare::<2>("mmd_linear", |x, y| mmd(x, y, &[]));
        compare::<2>("mmd", |x, y| mmd(x, y, &[0.25, 0.5, 1.0, 2.0, 4.0]));
        compare::<2>("difference", difference_loss);
        let fixtures = Fixtures::open("adaptation");
        let mask = from_values(values(&fixtures, "pairwise.mask"), [3, 1, 4, 5], &Device::flex().autodiff());
        compare::<4>("pairwise", |x, y| pairwise_error(x, y, Some(mask)));
    }

    #[test]
    fn a_shift_of_all_values_costs_nothing_and_equal_sets_are_not_apart() {
        let device = Device::flex();
        let x: Tensor<4> = from_values((0..24).map(|v| v as f32 * 0.1).collect(), [2, 1, 3, 4], &device);
        assert!(to_values(pairwise_error(x.clone() + 0.7, x, None))[0].abs() < 1e-6);
        let x: Tensor<2> = from_values((0..12).map(|v| (v as f32).sin()).collect(), [4, 3], &device);
        assert!(to_values(mmd(x.clone(), x, &[1.0]))[0].abs() < 1e-6);
        // All points alike have no distance to measure by.
        let still = || Tensor::<2>::zeros([3, 2], &device);
        assert_eq!(to_values(mmd(still(), still(), &[1.0])), [0.0]);
    }
}
