//! What the measures must do where they are exactly known, and with input that cannot be measured.
#![allow(clippy::unwrap_used)]

use kiln_core::random::Key;
use kiln_measure::classes::{Confusion, Histogram, wilson};
use kiln_measure::frechet::{self, Gaussian};
use kiln_measure::kernel::{self, Subsets};
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::{Features, inception_score, pairs, prdc};

fn normal(purpose: &str, n: u64, d: usize) -> Vec<f32> {
    Key::new(1).purpose(purpose).normal(0..n, d)
}

fn table<'a>(name: &'a str, values: &'a [f32], d: usize) -> Features<'a> {
    Features::new(name, values, d).unwrap()
}

fn gaussian(values: &[f32], d: usize) -> Gaussian {
    Gaussian::of(table("set", values, d)).unwrap()
}

#[track_caller]
fn fails<T>(result: kiln_core::Result<T>, with: &str) {
    let message = result.err().map(|e| e.to_string()).unwrap_or_else(|| "no error".into());
    assert!(message.contains(with) && !message.contains('\n'), "{message}");
}

#[test]
fn frechet_distance_of_equal_sets_is_zero_whatever_their_rank() {
    for (n, d) in [(200, 8), (20, 64), (2, 16), (500, 1)] {
        let a = normal("a", n, d);
        let distance = frechet::distance(&gaussian(&a, d), &gaussian(&a, d)).unwrap();
        assert!((0.0..1e-9).contains(&distance), "{n}×{d}: {distance}");
    }
    let constant = vec![3.0; 40];
    assert_eq!(frechet::distance(&gaussian(&constant, 4), &gaussian(&constant, 4)).unwrap(), 0.0);
}

#[test]
fn frechet_distance_has_its_closed_form_on_scaled_copies() {
    // b = 2a + 3 in every feature: ‖μ‖ part (m + 3)², and (σ_b − σ_a)² = tr Σ_a, for Σ_b = 4 Σ_a.
    let d = 5;
    let a = normal("a", 300, d);
    let b: Vec<f32> = a.iter().map(|x| 2.0 * x + 3.0).collect();
    let (a, b) = (gaussian(&a, d), gaussian(&b, d));
    let cov = a.covariance().unwrap();
    let want: f64 = (0..d).map(|i| (a.mean()[i] + 3.0).powi(2) + cov[i * d + i]).sum();
    let got = frechet::distance(&a, &b).unwrap();
    assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
}

#[test]
fn gaussians_do_not_depend_on_the_batches_nor_lose_small_spread_to_a_large_mean() {
    let (n, d) = (103, 4);
    let a: Vec<f32> = normal("a", n, d).iter().map(|x| 4096.0 + x).collect();
    let whole = gaussian(&a, d);
    let (mut left, mut right) = (Gaussian::new("l", d), Gaussian::new("r", d));
    for batch in a[..40 * d].chunks(7 * d) {
        left.push(table("l", batch, d)).unwrap();
    }
    for batch in a[40 * d..].chunks(50 * d) {
        right.push(table("r", batch, d)).unwrap();
    }
    left.merge(&right).unwrap();
    left.merge(&Gaussian::new("none", d)).unwrap();
    assert_eq!(left.n(), n as usize);
    for (x, y) in left.covariance().unwrap().iter().zip(whole.covariance().unwrap()) {
        assert!((x - y).abs() < 1e-10, "{x} {y}");
    }
    assert!(frechet::distance(&left, &whole).unwrap() < 1e-9);
}

#[test]
fn frechet_distance_says_what_it_cannot_measure() {
    let one = gaussian(&[1.0, 2.0], 2);
    let two = gaussian(&[1.0, 2.0, 3.0, 5.0], 2);
    fails(frechet::distance(&one, &two), "set: 1 pictures have no covariance");
    fails(frechet::distance(&two, &Gaussian::new("empty", 2)), "empty: 0 pictures have no covariance");
    fails(frechet::distance(&two, &gaussian(&[1.0, 2.0, 3.0], 1)), "take both from one network");
    fails(two.clone().push(table("other", &[1.0], 1)), "take both from one network");
}

#[test]
fn inception_score_has_its_bounds() {
    // Ten classes, each as sure and as frequent as can be: the number of classes. One class: 1.
    let sure: Vec<f32> = (0..100).map(|i| if i / 10 == i % 10 { 1.0 } else { 0.0 }).collect();
    let score = |values: &[f32], splits, key| inception_score::from_probabilities(table("p", values, 10), splits, key);
    assert!((score(&sure, 1, None).unwrap().mean - 10.0).abs() < 1e-9);
    let logits: Vec<f32> = sure.iter().map(|p| 3e4 * p).collect();
    assert!((inception_score::from_logits(table("l", &logits, 10), 1, None).unwrap().mean - 10.0).abs() < 1e-9);
    assert!((score(&[0.1; 100], 2, None).unwrap().mean - 1.0).abs() < 1e-7);
    // In class order every part holds one class; shuffled it does not.
    let ordered: Vec<f32> = sure.chunks(10).flat_map(|row| row.repeat(10)).collect();
    assert!((score(&ordered, 10, None).unwrap().mean - 1.0).abs() < 1e-9);
    assert!(score(&ordered, 10, Some(Key::new(2))).unwrap().mean > 4.0);

    fails(score(&sure, 11, None), "10 pictures cannot be parted into 11 splits");
    fails(score(&sure, 0, None), "0 splits");
    fails(score(&[0.2; 100], 1, None), "picture 0 sum to 2.0000");
}

#[test]
fn kernel_distance_is_near_zero_for_one_source_and_not_for_two() {
    let (n, d) = (400, 8);
    let (a, b) = (normal("a", n, d), normal("b", n, d));
    let shifted: Vec<f32> = b.iter().map(|x| x + 0.7).collect();
    let subsets = Subsets { count: 20, size: 100 };
    let key = Key::new(4);
    let same = kernel::distance(table("a", &a, d), table("b", &b, d), subsets, key).unwrap();
    let apart = kernel::distance(table("a", &a, d), table("b", &shifted, d), subsets, key).unwrap();
    assert!(same.mean.abs() < 0.02 && same.std > 0.0, "{same:?}");
    assert!(apart.mean > 10.0 * same.mean.abs() + 5.0 * apart.std, "{apart:?}");
    assert_eq!(kernel::distance(table("a", &a, d), table("b", &b, d), subsets, key).unwrap(), same);
    assert_eq!(Subsets::standard(5000, 700), Subsets { count: 100, size: 700 });

    let a = table("a", &a, d);
    fails(kernel::distance(a, table("few", &b[..3 * d], d), subsets, key), "few: 3 pictures are fewer");
    fails(kernel::distance(a, table("b", &b, d / 2), subsets, key), "take both from one network");
    fails(kernel::distance(a, a, Subsets { count: 2, size: 1 }, key), "at least 2 pictures");
    fails(kernel::distance(a, a, Subsets { count: 0, size: 9 }, key), "no subset");
    fails(kernel::over_subsets(a, a, &[(vec![0, 1], vec![0, 400])]), "no picture 400");
}

#[test]
fn the_two_sample_test_finds_a_shift_and_only_a_shift() {
    let (n, d) = (60, 2);
    let (a, b) = (normal("a", n, d), normal("b", n, d));
    let shifted: Vec<f32> = b.iter().map(|x| x + 0.8).collect();
    let p = |b: &[f32]| {
        let (a, b) = (table("a", &a, d), table("b", b, d));
        TwoSamples::new(a, b, &[median_distance(a, b).unwrap()]).unwrap().p_value(99, Key::new(6))
    };
    assert!(p(&b) > 0.05, "{}", p(&b));
    assert_eq!(p(&shifted), 0.01);
    // A set and its copy: no distance, of which the unbiased form also counts the equal pairs.
    let itself = TwoSamples::new(table("a", &a, d), table("a", &a, d), &[1.0]).unwrap().mmd();
    assert!(itself.biased.abs() < 1e-12 && itself.unbiased < 0.0);

    let (a, one) = (table("a", &a, d), table("one", &b[..d], d));
    fails(TwoSamples::new(a, one, &[1.0]).map(|_| ()), "one: one point has no pair");
    fails(TwoSamples::new(a, a, &[0.0]).map(|_| ()), "widths above 0");
    fails(TwoSamples::new(a, a, &[]).map(|_| ()), "widths above 0");
    fails(median_distance(a, table("b", &b, 1)), "take both from one network");
}

#[test]
fn prdc_tells_a_copy_from_a_collapse() {
    let (n, d) = (200, 3);
    let real = normal("real", n, d);
    let all = |values: &[f32]| prdc::measure(table("r", &real, d), table("g", values, d), 5).unwrap();
    let copy = all(&real);
    assert_eq!((copy.precision, copy.recall, copy.coverage), (1.0, 1.0, 1.0));
    // Every picture the same one: precise, without recall or coverage.
    let middle: Vec<f32> = real[..d].repeat(n as usize);
    let collapsed = all(&middle);
    assert_eq!(collapsed.precision, 1.0);
    assert!(collapsed.recall == 0.0 && collapsed.coverage < 0.1, "{collapsed:?}");
    let far: Vec<f32> = real.iter().map(|x| x + 100.0).collect();
    assert_eq!(all(&far), prdc::Prdc { precision: 0.0, recall: 0.0, density: 0.0, coverage: 0.0 });

    fails(
        prdc::measure(table("r", &real, d), table("g", &real[..5 * d], d), 5),
        "g: 5 pictures have no neighbour number 5",
    );
    fails(prdc::measure(table("r", &real, d), table("g", &real, d), 0), "set k between");
    fails(prdc::measure(table("r", &real, d), table("g", &real, 1), 5), "take both from one network");
}

#[test]
fn pictures_that_cannot_be_compared_are_refused() {
    fails(pairs::mse(&[], &[]), "0 values");
    fails(pairs::l1(&[1.0], &[1.0, 2.0]), "one of 2");
    fails(pairs::psnr(&[1.0], &[f32::NAN], 1.0), "not finite");
    fails(pairs::psnr(&[1.0], &[2.0], 0.0), "range of pixel values is 0");
    fails(pairs::ssim(&[0.0; 100], &[0.0; 100], [1, 10, 10], 1.0), "11×11");
    fails(pairs::ssim(&[0.0; 100], &[0.0; 100], [1, 11, 10], 1.0), "no picture of 1×11×10");
    assert_eq!(pairs::l1(&[1.0, -1.0], &[0.0, 1.0]).unwrap(), 1.5);
    // An inverted picture is anti-similar.
    let a: Vec<f32> = normal("a", 1, 400).iter().map(|x| 3.0 + x).collect();
    let b: Vec<f32> = a.iter().map(|x| 6.0 - x).collect();
    assert!(pairs::ssim(&a, &b, [1, 20, 20], 6.0).unwrap() < -0.5);
}

#[test]
fn class_counts_show_collapse_and_bad_labels() {
    let even = Histogram::new(4, &[0, 1, 2, 3, 3, 2, 1, 0]).unwrap();
    assert_eq!((even.coverage(), even.unevenness()), (1.0, 0.0));
    let one = Histogram::new(4, &[2; 9]).unwrap();
    assert_eq!((one.coverage(), one.unevenness(), one.counts()), (0.25, 0.75, &[0, 0, 9, 0][..]));
    assert_eq!(Confusion::new(3, &[0, 0, 1], &[0, 2, 1]).unwrap().by_class(), [Some(0.5), Some(1.0), None]);
    assert_eq!(wilson(0, 0), [0.0, 1.0]);
    assert!(wilson(0, 10)[0] == 0.0 && wilson(10, 10)[0] > 0.7);

    fails(Histogram::new(4, &[0, 4]), "picture 1 is of class 4");
    fails(Histogram::new(4, &[]), "no classes to count");
    fails(Confusion::new(2, &[0], &[0, 1]), "1 pictures have a true class and 2");
    fails(Confusion::new(2, &[0], &[5]), "class 5");
}
