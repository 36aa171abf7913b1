//! What the measures must do where they are exactly known, and with input that cannot be measured.
#![allow(clippy::unwrap_used)]

use kiln_core::random::Key;
use kiln_measure::classes::{Confusion, Histogram, wilson};
use kiln_measure::frechet::{self, Gaussian};
use kiln_measure::kernel::{self, Subsets};
use kiln_measure::kmeans::KMeans;
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::segmentation::Segmentation;
use kiln_measure::svm::LinearSvm;
use kiln_measure::{
    Features, MetricValue, adaptation, bootstrap, diversity, inception_score, mig, modes, ndb, neighbours, pairs,
    path_length, prdc, separability,
};

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
    // b = 2a in every feature: ‖μ_a‖², and (σ_b − σ_a)² = tr Σ_a, for Σ_b = 4 Σ_a. Doubling is exact in f32.
    // By singular values, by their squares (d of 128 and more), and in the span of few pictures.
    for (n, d, within) in [(300, 5, 1e-12), (700, 140, 1e-9), (90, 200, 1e-12)] {
        let a = normal("a", n, d);
        let b: Vec<f32> = a.iter().map(|x| 2.0 * x).collect();
        let (gaussian_a, gaussian_b) = (gaussian(&a, d), gaussian(&b, d));
        let cov = gaussian_a.covariance().unwrap();
        let want: f64 = (0..d).map(|i| gaussian_a.mean()[i].powi(2) + cov[i * d + i]).sum();
        for got in [
            frechet::between(table("a", &a, d), table("b", &b, d)).unwrap(),
            frechet::to_reference(table("b", &b, d), &gaussian_a).unwrap(),
        ] {
            assert!((got - want).abs() < within * want, "{n}×{d}: {got} {want}");
        }
        // A singular covariance keeps only the directions above its own rounding.
        let got = frechet::distance(&gaussian_a, &gaussian_b).unwrap();
        assert!((got - want).abs() < 1e-8 * want, "{n}×{d}: {got} {want}");
    }
}

#[test]
fn frechet_distance_stands_degenerate_sets() {
    let d = 6;
    let two = normal("two", 2, d);
    let many = normal("many", 50, d);
    let constant = vec![2.5; 40 * d];
    let mut twins = normal("twins", 60, d); // twice the same pictures, one feature constant, two equal
    for row in twins.chunks_mut(d) {
        (row[1], row[4]) = (0.0, row[2]);
    }
    twins.extend_from_slice(&twins.clone());
    let sets: [&[f32]; 4] = [&two, &many, &constant, &twins];
    for (i, a) in sets.iter().enumerate() {
        for b in &sets[i..] {
            let (x, y) = (table("a", a, d), table("b", b, d));
            let there = frechet::between(x, y).unwrap();
            let back = frechet::between(y, x).unwrap();
            let scale = gaussian(a, d).covariance().unwrap().iter().sum::<f64>().abs() + 10.0;
            assert!(there >= 0.0 && (there - back).abs() < 1e-10 * scale, "{there} {back}");
            assert!((frechet::distance(&gaussian(a, d), &gaussian(b, d)).unwrap() - there).abs() < 1e-7 * scale);
            if std::ptr::eq(*a, *b) {
                assert!(there < 1e-9, "{there}");
            }
        }
    }
    // Against a single point the distance is the shift and the other side's spread.
    let (whole, cov) = (gaussian(&many, d), gaussian(&many, d).covariance().unwrap());
    let want: f64 = (0..d).map(|i| (whole.mean()[i] - 2.5).powi(2) + cov[i * d + i]).sum();
    let got = frechet::between(table("m", &many, d), table("c", &constant, d)).unwrap();
    assert!((got - want).abs() < 1e-12 * want, "{got} {want}");

    let one = table("one", &many[..d], d);
    fails(frechet::between(one, table("m", &many, d)), "one: 1 pictures have no covariance");
    fails(frechet::to_reference(one, &whole), "one: 1 pictures have no covariance");
    fails(frechet::between(table("m", &many, d), table("n", &many, 3)), "take both from one network");
    fails(frechet::to_reference(table("n", &many, 3), &whole), "take both from one network");
    fails(Features::new("bad", &[1.0, f32::NAN], 2).map(|_| ()), "bad: feature 1 of picture 0 is NaN");
    fails(Features::new("none", &[], 2).map(|_| ()), "none: no features");
}

#[test]
fn the_same_frechet_distance_comes_out_each_time() {
    let (a, b) = (normal("a", 400, 150), normal("b", 380, 150));
    let (a, b) = (table("a", &a, 150), table("b", &b, 150));
    let first = frechet::between(a, b).unwrap();
    for _ in 0..3 {
        assert_eq!(frechet::between(a, b).unwrap().to_bits(), first.to_bits());
    }
}

#[test]
fn stored_statistics_come_back_whole_or_not_at_all() {
    let d = 3;
    let (a, b) = (gaussian(&normal("a", 40, d), d), gaussian(&normal("b", 40, d), d));
    let again = Gaussian::from_parts("set", a.n(), a.mean().to_vec(), &a.scatter()).unwrap();
    assert_eq!(frechet::distance(&again, &b).unwrap(), frechet::distance(&a, &b).unwrap());
    assert_eq!(again.covariance().unwrap(), a.covariance().unwrap());

    let broken = |n, mean: &[f64], scatter: &[f64]| Gaussian::from_parts("stored", n, mean.to_vec(), scatter);
    fails(broken(9, &[0.0; 2], &[0.0; 3]), "3 values are no 2×2 scatter");
    fails(broken(9, &[], &[]), "no 0×0 scatter");
    fails(broken(9, &[0.0, f64::NAN], &[0.0; 4]), "not finite");
    fails(broken(1, &[0.0; 2], &[1.0, 0.0, 0.0, 1.0]), "1 pictures have no spread");
    fails(broken(9, &[0.0; 2], &[1.0, 0.0, 0.0, -1.0]), "spread of feature 1 is negative");
    fails(broken(9, &[0.0; 2], &[1.0, 0.5, 0.4, 1.0]), "features 1 and 0 is not symmetric");
}

#[test]
fn an_interval_holds_the_mean_as_often_as_it_says() {
    let n = 200;
    let x = normal("x", n, 1);
    let mean = |rows: &[usize]| rows.iter().map(|&i| f64::from(x[i])).sum::<f64>() / rows.len() as f64;
    let all: Vec<usize> = (0..n as usize).collect();
    let resampled = bootstrap::resample(&[n as usize], 2000, Key::new(1), |rows| Ok(mean(&rows[0]))).unwrap();
    // The standard error of a mean, and a normal interval of it.
    let deviation = (x.iter().map(|v| (f64::from(*v) - mean(&all)).powi(2)).sum::<f64>() / n as f64).sqrt();
    let error = deviation / (n as f64).sqrt();
    assert!((resampled.std() / error - 1.0).abs() < 0.06, "{} {error}", resampled.std());
    let [low, high] = resampled.percentile(0.95).unwrap();
    assert!((low - (mean(&all) - 1.96 * error)).abs() < 0.2 * error && (high - low - 3.92 * error).abs() < 0.3 * error);
    let [from, to] = resampled.basic(mean(&all), 0.95).unwrap();
    assert!((from + high - 2.0 * mean(&all)).abs() < 1e-12 && (to + low - 2.0 * mean(&all)).abs() < 1e-12);
    let again = bootstrap::resample(&[n as usize], 2000, Key::new(1), |rows| Ok(mean(&rows[0]))).unwrap();
    assert_eq!(again, resampled);
    // Rows of every set, each as many as it has.
    bootstrap::resample(&[3, 5], 4, Key::new(1), |rows| {
        assert!(rows[0].len() == 3 && rows[1].len() == 5 && rows[0].iter().all(|&i| i < 3));
        Ok(0.0)
    })
    .unwrap();

    let draw = |sizes: &[usize], count, value: f64| bootstrap::resample(sizes, count, Key::new(1), |_| Ok(value));
    fails(draw(&[], 5, 0.0), "nothing to draw");
    fails(draw(&[3, 0], 5, 0.0), "nothing to draw");
    fails(draw(&[3], 0, 0.0), "no resamples");
    fails(draw(&[3], 5, f64::NAN), "resample 0 has no figure");
    fails(resampled.percentile(1.0), "level of an interval is 1");
    assert_eq!(draw(&[3], 5, f64::INFINITY).unwrap().percentile(0.9).unwrap(), [f64::INFINITY; 2]);
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
    assert_eq!(Subsets::standard(700, 700), Subsets { count: 1, size: 700 });
    assert_eq!(Subsets::standard(1001, 1001), Subsets { count: 100, size: 1000 });
    // All of both sides is one subset, and has no spread.
    let all = Subsets::standard(400, 400);
    let spread = |subsets| kernel::distance(table("a", &a, d), table("b", &b, d), subsets, key).unwrap();
    assert_eq!(MetricValue::spread("kid", spread(all), 400).std, None);
    let several = spread(Subsets { count: 2, size: 399 });
    assert!(MetricValue::spread("kid", several, 400).std.is_some_and(|std| std > 0.0));

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
fn structure_at_many_scales_and_gradients_have_their_limits() {
    let shape = [1, 161, 170];
    let a = normal("a", 1, 161 * 170);
    let b: Vec<f32> = a.iter().map(|x| x + 0.5).collect();
    let inverse: Vec<f32> = a.iter().map(|x| -x).collect();
    assert!((pairs::ms_ssim(&a, &a, shape, 6.0).unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(pairs::ms_ssim(&a, &inverse, shape, 6.0).unwrap(), 0.0); // negative means have no power
    // The mean over channels of each alone.
    let (stacked_a, stacked_b) = ([a.clone(), a.clone()].concat(), [b.clone(), a.clone()].concat());
    let both = pairs::ms_ssim(&stacked_a, &stacked_b, [2, 161, 170], 6.0).unwrap();
    assert!((both - (pairs::ms_ssim(&a, &b, shape, 6.0).unwrap() + 1.0) / 2.0).abs() < 1e-12);
    let constant = [0.5; 161 * 170];
    assert!((pairs::ms_ssim(&constant, &constant, shape, 1.0).unwrap() - 1.0).abs() < 1e-12);
    fails(pairs::ms_ssim(&[0.0; 160 * 170], &[0.0; 160 * 170], [1, 160, 170], 1.0), "more than 160 pixels a side");
    fails(pairs::ms_ssim(&a, &b, [1, 170, 170], 1.0), "no picture of 1×170×170");

    // A constant shift has no gradient; an inverse has twice it, and no difference of sizes.
    assert!(pairs::gradient_l1(&a, &b, shape).unwrap() < 1e-6);
    let steep = pairs::gradient_l1(&a, &inverse, shape).unwrap();
    assert!(steep > 1.0 && pairs::gradient_difference(&a, &inverse, shape).unwrap() == 0.0);
    assert_eq!(pairs::gradient_l1(&[0.0, 3.0], &[0.0, 1.0], [1, 1, 2]).unwrap(), 2.0);
    assert_eq!(pairs::gradient_l1(&[0.0, 3.0], &[0.0, 1.0], [1, 2, 1]).unwrap(), 2.0);
    fails(pairs::gradient_l1(&[0.0, 1.0], &[0.0, 1.0], [2, 1, 1]), "no gradient");
    fails(pairs::gradient_difference(&[0.0], &[f32::NAN], [1, 1, 1]), "not finite");
    fails(pairs::gradient_l1(&[], &[], [1, 0, 1]), "0 values");
    assert_eq!(pairs::rmse(&[1.0, -1.0], &[0.0, 0.0]).unwrap(), 1.0);
}

#[test]
fn bins_differ_for_other_sources_only() {
    let d = 2;
    let (a, b) = (normal("a", 2000, d), normal("b", 2000, d));
    let shifted: Vec<f32> = b.iter().map(|x| x + 1.0).collect();
    let of = |b: &[f32]| ndb::measure(table("a", &a, d), table("b", b, d), 20, Key::new(3)).unwrap();
    assert_eq!(of(&a), ndb::Ndb { different: 0, bins: 20, jsd: 0.0 });
    assert!(of(&b).share() <= 0.2 && of(&b).jsd < 0.01, "{:?}", of(&b));
    assert!(of(&shifted).share() > 0.7 && of(&shifted).jsd > 0.1, "{:?}", of(&shifted));
    assert_eq!(of(&shifted), of(&shifted));
    // Nothing in common is the most there can be.
    let apart = ndb::compare(&[9, 0], &[0, 9], ndb::FIVE_PERCENT).unwrap();
    assert!(apart.different == 2 && (apart.jsd - 2f64.ln()).abs() < 1e-12);

    fails(ndb::compare(&[1, 2], &[1], 1.96), "in 2 bins cannot be compared");
    fails(ndb::compare(&[1, 2], &[0, 0], 1.96), "with 0 in 2");
    fails(ndb::measure(table("a", &[1.0; 12], 2), table("b", &b, d), 3, Key::new(3)), "only 1 of 6 pictures differ");
    fails(ndb::measure(table("a", &a, d), table("b", &b, 1), 3, Key::new(3)), "take both from one network");
    fails(KMeans::fit(table("a", &a, d), 0, Key::new(3)), "0 kinds");
    fails(KMeans::from_centres(table("a", &a, d), vec![0.0; 3]), "no finite centres of 2");
    fails(KMeans::fit(table("a", &a, d), 2, Key::new(3)).unwrap().count(table("b", &b, 1)), "where the kinds have 2");
    // As many kinds as pictures: each its own. A centre nobody is near to moves to where it is needed.
    let few = KMeans::fit(table("few", &a[..10], d), 5, Key::new(3)).unwrap();
    assert_eq!(few.count(table("few", &a[..10], d)).unwrap(), [1; 5]);
    let lost = KMeans::from_centres(table("line", &[0.0, 1.0, 10.0], 1), vec![0.0, 1e6]).unwrap();
    assert_eq!(lost.assign(table("line", &[0.0, 1.0, 10.0], 1)).unwrap(), [0, 0, 1]);
}

#[test]
fn modes_are_counted_where_samples_hit() {
    let (ring, sigma) = (modes::ring(8, 2.0), 0.01);
    let centres = table("ring", &ring, 2);
    // One sample at each of three modes, one 3σ off (it counts), one 4σ off, one between modes.
    let (x, y) = (ring[0], ring[1]);
    let samples = [&ring[..6], &[x + 0.0299, y], &[x + 0.04, y], &[0.0, 0.0]].concat();
    let found = modes::measure(table("s", &samples, 2), centres, sigma).unwrap();
    assert_eq!((found.counts.as_slice(), found.n, found.reached()), (&[2, 1, 1, 0, 0, 0, 0, 0][..], 6, 3));
    assert!((found.high_quality() - 4.0 / 6.0).abs() < 1e-12);
    // The density itself: 1 − e^(−9/2) lies within 3σ.
    let n = 20_000;
    let draws: Vec<f32> = normal("m", n, 2)
        .chunks(2)
        .enumerate()
        .flat_map(|(i, z)| {
            let grid = modes::grid(5, 2.0);
            [grid[2 * (i % 25)] + 0.05 * z[0], grid[2 * (i % 25) + 1] + 0.05 * z[1]]
        })
        .collect();
    let found = modes::measure(table("s", &draws, 2), table("grid", &modes::grid(5, 2.0), 2), 0.05).unwrap();
    let want = 1.0 - (-4.5f64).exp();
    assert!(found.reached() == 25 && (found.high_quality() - want).abs() < 0.003, "{}", found.high_quality());

    fails(modes::measure(table("s", &samples, 2), centres, 0.0), "standard deviation is 0");
    fails(modes::measure(table("s", &samples, 3), centres, 0.1), "take both from one network");
}

#[test]
fn copies_are_found_and_their_distance_is_zero() {
    let d = 5;
    // A large mean would drown the distances in the rounding of products.
    let far = |purpose: &str, n| normal(purpose, n, d).iter().map(|x| 3000.0 + x).collect::<Vec<f32>>();
    let (training, fresh) = (far("training", 5000), far("fresh", 200));
    let training_table = table("t", &training, d);
    let copied = neighbours::nearest(table("c", &training[..200 * d], d), training_table).unwrap();
    assert!(copied.iter().enumerate().all(|(i, n)| n.index == i && n.distance == 0.0));
    let others = neighbours::nearest_other(training_table).unwrap();
    let summary = neighbours::memorisation(&copied, &others).unwrap();
    assert_eq!((summary.median, summary.nearer, summary.copies), (0.0, 1.0, 1.0));
    let fresh = neighbours::nearest(table("f", &fresh, d), training_table).unwrap();
    let summary = neighbours::memorisation(&fresh, &others).unwrap();
    assert!((summary.nearer - 0.5).abs() < 0.1 && summary.copies == 0.0, "{summary:?}");
    // Every distance by hand, also beyond the first chunk.
    for (i, found) in
        neighbours::nearest(table("f", &training[4990 * d..], d), training_table).unwrap().iter().enumerate()
    {
        assert_eq!((found.index, found.distance), (4990 + i, 0.0));
    }
    // Twins: the first other one.
    let twins = neighbours::nearest_other(table("twins", &[1.0, 1.0, 1.0, 5.0], 1)).unwrap();
    assert_eq!(twins.iter().map(|n| n.index).collect::<Vec<_>>(), [1, 0, 0, 0]);

    fails(neighbours::nearest_other(table("one", &[1.0], 1)), "one: one picture has no neighbour");
    fails(neighbours::nearest(table("a", &[1.0], 1), training_table), "take both from one network");
    fails(neighbours::memorisation(&[], &others), "no neighbours to compare");
}

#[test]
fn diversity_is_zero_for_one_picture_many_times() {
    let d = 4;
    let a = normal("a", 400, d);
    let of = |values: &[f32], pairs| diversity::mean_pairwise(table("a", values, d), pairs, Key::new(2)).unwrap();
    assert_eq!(of(&a[..d].repeat(50), 100).mean, 0.0);
    // Random pairs estimate all pairs; two pictures have one pair.
    let (some, all) = (of(&a, 4000), of(&a, 400 * 399 / 2));
    assert!((some.mean - all.mean).abs() < 4.0 * all.std / 4000f64.sqrt() && some != all, "{some:?} {all:?}");
    assert_eq!(of(&[0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0], 1).mean, 2.0);
    fails(diversity::mean_pairwise(table("one", &a[..d], d), 5, Key::new(2)), "one: one picture makes no pair");
    fails(diversity::mean_pairwise(table("a", &a, d), 0, Key::new(2)), "over no pair");
}

#[test]
fn a_latent_of_its_own_has_the_whole_gap() {
    // Latent 0 is factor 0, latent 1 factor 1, latent 2 nothing.
    let factors: Vec<Vec<usize>> = vec![(0..240).map(|i| i % 4).collect(), (0..240).map(|i| i / 4 % 3).collect()];
    let latents: Vec<f32> = (0..240).flat_map(|i| [factors[0][i] as f32, -(factors[1][i] as f32), 1.0]).collect();
    let gap = |latents: &[f32], d, factors: &[Vec<usize>]| mig::measure(table("z", latents, d), factors, mig::BINS);
    let whole = gap(&latents, 3, &factors).unwrap();
    assert!((whole.score - 1.0).abs() < 1e-12 && whole.information[0][2] == 0.0, "{whole:?}");
    // Two latents that tell the same have no gap, and constant ones tell nothing.
    let twins: Vec<f32> = factors[0].iter().flat_map(|&v| [v as f32, v as f32]).collect();
    assert_eq!(gap(&twins, 2, &factors[..1]).unwrap().score, 0.0);
    assert_eq!(gap(&[3.0; 480], 2, &factors).unwrap().score, 0.0);

    fails(gap(&latents[..240], 1, &factors), "no gap between 1 latents");
    fails(gap(&latents, 3, &[]), "over 0 factors");
    fails(gap(&latents, 3, &[vec![0, 1]]), "240 pictures and 2 values of factor 0");
    fails(gap(&latents, 3, &[vec![7; 240]]), "factor 0 never changes");
    fails(mig::measure(table("z", &latents, 3), &factors, 0), "in 0 bins");
}

#[test]
fn separability_is_one_for_planes_and_two_for_a_fair_coin() {
    let n = 4000;
    let w = normal("w", n, 3);
    let coin = normal("coin", n, 1);
    let of = |logit: &dyn Fn(usize) -> f32| {
        let logits: Vec<f32> = (0..n as usize).map(logit).collect();
        separability::measure(table("w", &w, 3), table("logits", &logits, 1), 1.0).unwrap().score
    };
    assert!((of(&|i| w[3 * i] - 0.5 * w[3 * i + 1]) - 1.0).abs() < 1e-6);
    assert!((of(&|i| coin[i]) - 2.0).abs() < 0.02);
    assert_eq!(of(&|_| -1.0), 1.0); // an attribute nobody has
    let (w, logits) = (table("w", &w, 3), table("logits", &coin[..9], 3));
    fails(separability::measure(w, logits, 1.0), "logits has 3");
    fails(separability::measure(w, table("logits", &coin, 1), 0.0), "C must be above 0");
}

#[test]
fn path_length_leaves_out_the_ends() {
    let mut distances = vec![2e-8; 1000];
    distances[7] = 1e9;
    assert!((path_length::mean(&distances, 1e-4).unwrap() - 2.0).abs() < 1e-12);
    assert_eq!(path_length::mean(&[0.0], 1e-4).unwrap(), 0.0);
    assert!((path_length::mean(&[1e-8, 3e-8], 1e-4).unwrap() - 2.0).abs() < 1e-12);
    fails(path_length::mean(&[], 1e-4), "no distances");
    fails(path_length::mean(&[1.0, f64::NAN], 1e-4), "pair 1 is NaN");
    fails(path_length::mean(&[-1.0], 1e-4), "pair 0 is -1");
    fails(path_length::mean(&[1.0], 0.0), "step of a path is 0");
}

#[test]
fn segmentation_ignores_what_it_is_told_to() {
    let mut maps = Segmentation::new(3, Some(255)).unwrap();
    fails(maps.mean_iou(), "no pixel to judge");
    maps.push(&[255, 255], &[0, 77]).unwrap();
    fails(maps.pixel_accuracy(), "no pixel to judge");
    maps.push(&[0, 0, 1, 255], &[0, 1, 1, 2]).unwrap();
    assert_eq!(maps.iou(), [Some(0.5), Some(0.5), None]);
    assert_eq!((maps.mean_iou().unwrap(), maps.pixel_accuracy().unwrap()), (0.5, 2.0 / 3.0));
    assert_eq!(maps.confusion().count(0, 1), 1);
    fails(maps.push(&[0], &[]), "maps of one size");
    fails(maps.push(&[0], &[255]), "class 255");
    fails(maps.push(&[3], &[0]), "class 3");
    fails(Segmentation::new(0, None), "no classes");
    let mut right = Segmentation::new(2, None).unwrap();
    right.push(&[0, 1, 1], &[0, 1, 1]).unwrap();
    assert_eq!((right.mean_iou().unwrap(), right.pixel_accuracy().unwrap()), (1.0, 1.0));
}

#[test]
fn domains_are_two_apart_at_most_and_never_less_than_none() {
    let d = 3;
    let (a, b) = (normal("a", 600, d), normal("b", 900, d));
    let far: Vec<f32> = b.iter().map(|x| x + 50.0).collect();
    let of = |b: &[f32]| adaptation::proxy_a_distance(table("a", &a, d), table("b", b, d), 1.0, Key::new(8)).unwrap();
    assert_eq!((of(&far).distance, of(&far).error, of(&far).n), (2.0, 0.0, 600));
    assert!(of(&b).distance < 0.25 && (of(&b).error - 0.5).abs() < 0.07, "{:?}", of(&b));
    assert_eq!(of(&b), of(&b));
    assert_eq!(of(&vec![0.25; 900]).n, 300); // the smaller side, one picture many times, sets the number
    let same = adaptation::proxy_a_distance(table("c", &[1.0; 40], 2), table("c", &[1.0; 40], 2), 1.0, Key::new(8));
    assert_eq!(same.unwrap().distance, 0.0);
    let one = table("one", &a[..d], d);
    fails(adaptation::proxy_a_distance(one, table("b", &b, d), 1.0, Key::new(8)), "one: one picture cannot be halved");
    let narrow = table("narrow", &b, 1);
    fails(adaptation::proxy_a_distance(table("a", &a, d), narrow, 1.0, Key::new(8)), "take both from one network");
    fails(adaptation::proxy_a_distance(table("a", &a, d), table("b", &b, d), -1.0, Key::new(8)), "C must be above 0");
}

#[test]
fn older_measures_stand_equal_constant_and_few_pictures() {
    let d = 4;
    let (a, two, constant) = (normal("a", 50, d), normal("two", 2, d), vec![1.0; 12 * d]);
    // Kernel distance of one source with itself over the same pictures: near 0, and of constants 0.
    let key = Key::new(4);
    let kid = |x: &[f32], y: &[f32], size| {
        kernel::distance(table("x", x, d), table("y", y, d), Subsets { count: 5, size }, key).unwrap().mean
    };
    assert!(kid(&constant, &constant, 12).abs() < 1e-12);
    assert!(kid(&two, &two, 2).is_finite());
    // All neighbours of constant pictures are at 0, and a point on the surface of a ball is outside it.
    let all = prdc::measure(table("x", &constant, d), table("y", &constant, d), 3).unwrap();
    assert_eq!((all.precision, all.recall, all.density, all.coverage), (0.0, 0.0, 0.0, 0.0));
    let both = prdc::measure(table("x", &two, d), table("y", &two, d), 1).unwrap();
    assert_eq!((both.precision, both.recall), (1.0, 1.0));
    // Constant pictures have no median distance, so no kernel; the message says why.
    let constant = table("c", &constant, d);
    assert_eq!(median_distance(constant, constant).unwrap(), 0.0);
    // A machine fitted to constant features knows only which class is common.
    let labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1];
    let svm = LinearSvm::fit(constant, &labels, 2, 1.0, 1e-6).unwrap();
    assert_eq!(svm.predict(constant).unwrap(), [0; 12]);
    assert_eq!(inception_score::from_logits(constant, 1, None).unwrap().mean, 1.0);
    assert!(pairs::psnr(&a, &a, 1.0).unwrap().is_infinite());
    assert!((pairs::ssim(&[0.5; 121], &[0.5; 121], [1, 11, 11], 1.0).unwrap() - 1.0).abs() < 1e-12);
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
