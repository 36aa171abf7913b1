//! The measures against the packages they are defined by: `tests/reference/measures.py`, `measures2.py` and
//! `svm.py` made the values with torch-fidelity, SciPy, scikit-image, scikit-learn, prdc and others.
#![allow(clippy::unwrap_used)]

use kiln_measure::classes::{Confusion, wilson};
use kiln_measure::frechet::{self, Gaussian};
use kiln_measure::kmeans::KMeans;
use kiln_measure::mmd::{TwoSamples, median_distance};
use kiln_measure::outliers::auroc;
use kiln_measure::principal;
use kiln_measure::segmentation::Segmentation;
use kiln_measure::svm::LinearSvm;
use kiln_measure::{
    Features, adaptation, bootstrap, diversity, inception_score, kernel, mig, ndb, neighbours, pairs, path_length,
    prdc, selection, separability, tsne,
};
use safetensors::SafeTensors;

struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Self {
        Self::of("measures")
    }

    fn of(topic: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/fixtures");
        Self(std::fs::read(format!("{folder}/{topic}.safetensors")).unwrap())
    }

    fn numbers<const N: usize, T>(&self, name: &str, read: fn([u8; N]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor.data().chunks_exact(N).map(|b| read(b.try_into().unwrap())).collect()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.numbers(name, f32::from_le_bytes)
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.numbers(name, f64::from_le_bytes)
    }

    /// Bytes as the values of a picture.
    fn bytes(&self, name: &str) -> Vec<f32> {
        self.numbers(name, u8::from_le_bytes).into_iter().map(f32::from).collect()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.numbers(name, i64::from_le_bytes).into_iter().map(|i| i as usize).collect()
    }

    fn width(&self, name: &str) -> usize {
        *SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().shape().last().unwrap()
    }
}

#[track_caller]
fn near(got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs().max(1e-12), "{got} is not {want}");
}

#[test]
fn frechet_distance_agrees_with_scipy_and_torch_fidelity() {
    let fixture = Fixture::open();
    for case in ["full", "singular"] {
        let name = |part: &str| format!("frechet.{case}.{part}");
        let (a, b) = (fixture.f32(&name("a")), fixture.f32(&name("b")));
        let d = fixture.width(&name("a"));
        let a = Gaussian::of(Features::new("a", &a, d).unwrap()).unwrap();
        let b = Gaussian::of(Features::new("b", &b, d).unwrap()).unwrap();
        for (got, want) in a.mean().iter().zip(fixture.f64(&name("mean_a"))) {
            assert!((got - want).abs() < 1e-13, "{got} {want}");
        }
        for (got, want) in a.covariance().unwrap().iter().zip(fixture.f64(&name("cov_a"))) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        let got = frechet::distance(&a, &b).unwrap();
        // With singular covariances SciPy and torch-fidelity agree with each other to 1e-8 only.
        let relative = if case == "full" { 1e-9 } else { 2e-8 };
        near(got, fixture.f64(&name("scipy"))[0], relative);
        near(got, fixture.f64(&name("torch_fidelity"))[0], relative);
        near(frechet::distance(&b, &a).unwrap(), got, 1e-12);
        assert!(frechet::distance(&a, &a).unwrap() < 1e-10);
    }
}

#[test]
fn inception_score_agrees_with_torch_fidelity() {
    let fixture = Fixture::open();
    let (values, d) = (fixture.f32("inception_score.logits"), fixture.width("inception_score.logits"));
    let check = |values: &[f32], splits, want: &str| {
        let got = inception_score::from_logits(Features::new("logits", values, d).unwrap(), splits, None).unwrap();
        let want = fixture.f64(want);
        near(got.mean, want[0], 1e-12);
        assert!((got.std - want[1]).abs() < 1e-12);
    };
    check(&values, 1, "inception_score.one");
    check(&values, 10, "inception_score.ten");
    let order = fixture.indices("inception_score.order");
    let shuffled: Vec<f32> = order.iter().flat_map(|&i| values[i * d..][..d].to_vec()).collect();
    check(&shuffled, 10, "inception_score.ten_shuffled");

    let probabilities: Vec<f32> = values
        .chunks(d)
        .flat_map(|row| {
            let sum: f32 = row.iter().map(|l| l.exp()).sum();
            row.iter().map(move |l| l.exp() / sum).collect::<Vec<_>>()
        })
        .collect();
    let table = Features::new("probabilities", &probabilities, d).unwrap();
    let got = inception_score::from_probabilities(table, 10, None).unwrap();
    near(got.mean, fixture.f64("inception_score.ten")[0], 1e-6);
}

#[test]
fn kernel_distance_agrees_with_torch_fidelity() {
    let fixture = Fixture::open();
    let (a, b, d) = (fixture.f32("kid.a"), fixture.f32("kid.b"), fixture.width("kid.a"));
    let (a, b) = (Features::new("a", &a, d).unwrap(), Features::new("b", &b, d).unwrap());
    let size = fixture.width("kid.subsets");
    let subsets: Vec<_> =
        fixture.indices("kid.subsets").chunks(2 * size).map(|s| (s[..size].to_vec(), s[size..].to_vec())).collect();
    let got = kernel::over_subsets(a, b, &subsets).unwrap();
    let want = fixture.f64("kid.value_std");
    near(got.mean, want[0], 1e-10);
    near(got.std, want[1], 1e-10);
    near(kernel::over_subsets(a, b, &subsets[..1]).unwrap().mean, fixture.f64("kid.first_subset")[0], 1e-10);
}

#[test]
fn prdc_agrees_with_its_authors() {
    let fixture = Fixture::open();
    for case in ["plain", "ties"] {
        let name = |part: &str| format!("prdc.{case}.{part}");
        let (real, generated) = (fixture.f32(&name("real")), fixture.f32(&name("generated")));
        let d = fixture.width(&name("real"));
        let (real, generated) = (Features::new("r", &real, d).unwrap(), Features::new("g", &generated, d).unwrap());
        let got = prdc::measure(real, generated, fixture.indices(&name("k"))[0]).unwrap();
        let want = fixture.f64(&name("values"));
        for (got, want) in [got.precision, got.recall, got.density, got.coverage].into_iter().zip(want) {
            near(got, want, 1e-12);
        }
    }
}

#[test]
fn picture_distances_agree_with_scikit_image() {
    let fixture = Fixture::open();
    for (prefix, shape, range) in [("", [3, 15, 18], 1.0), ("bytes_", [1, 15, 18], 255.0)] {
        let (a, b) = (fixture.f32(&format!("pairs.{prefix}a")), fixture.f32(&format!("pairs.{prefix}b")));
        let want = |measure: &str| fixture.f64(&format!("pairs.{prefix}{measure}"))[0];
        near(pairs::mse(&a, &b).unwrap(), want("mse"), 1e-12);
        near(pairs::psnr(&a, &b, range).unwrap(), want("psnr"), 1e-12);
        near(pairs::ssim(&a, &b, shape, range).unwrap(), want("ssim"), 1e-10);
        near(pairs::ssim(&a, &a, shape, range).unwrap(), 1.0, 1e-12);
        assert_eq!(pairs::psnr(&a, &a, range).unwrap(), f64::INFINITY);
    }
}

#[test]
fn classes_agree_with_scikit_learn() {
    let fixture = Fixture::open();
    let (truth, predicted) = (fixture.indices("classes.truth"), fixture.indices("classes.predicted"));
    let confusion = Confusion::new(6, &truth, &predicted).unwrap();
    let counts: Vec<usize> = (0..36).map(|i| confusion.count(i / 6, i % 6)).collect();
    assert_eq!(counts, fixture.indices("classes.confusion"));
    near(confusion.accuracy(), fixture.f64("classes.accuracy")[0], 1e-15);
    let interval = wilson(confusion.right(), confusion.n());
    near(interval[0], fixture.f64("classes.wilson")[0], 1e-12);
    near(interval[1], fixture.f64("classes.wilson")[1], 1e-12);
}

#[test]
fn maximum_mean_discrepancy_agrees_with_scikit_learn_kernels() {
    let fixture = Fixture::open();
    let (a, b, d) = (fixture.f32("mmd.a"), fixture.f32("mmd.b"), fixture.width("mmd.a"));
    let (a, b) = (Features::new("a", &a, d).unwrap(), Features::new("b", &b, d).unwrap());
    let median = median_distance(a, b).unwrap();
    near(median, fixture.f64("mmd.median")[0], 1e-12);
    let widths: Vec<f64> = fixture.f64("mmd.multiples").iter().map(|m| m * median).collect();
    let got = TwoSamples::new(a, b, &widths).unwrap().mmd();
    near(got.biased, fixture.f64("mmd.biased")[0], 1e-12);
    near(got.unbiased, fixture.f64("mmd.unbiased")[0], 1e-12);
}

#[test]
fn linear_svm_agrees_with_scikit_learn() {
    let fixture = Fixture::of("svm");
    let (train, test, labels) = (fixture.f32("train"), fixture.f32("test"), fixture.indices("labels"));
    let train = Features::new("train", &train, 6).unwrap();
    let test = Features::new("test", &test, 6).unwrap();
    for c in ["0.01", "1.0"] {
        let svm = LinearSvm::fit(train, &labels, 3, c.parse().unwrap(), 1e-10).unwrap();
        let got = svm.decision(test).unwrap().concat();
        for (got, want) in got.into_iter().zip(fixture.f64(&format!("c{c}.decision"))) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(svm.predict(test).unwrap(), fixture.indices(&format!("c{c}.predicted")));
    }
    let svm = LinearSvm::fit(train, &labels, 3, 1.0, 1e-10).unwrap();
    for (got, want) in svm.normal(1).unwrap().into_iter().zip(fixture.f64("normal")) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
    assert!(svm.normal(3).is_err());
    assert!(LinearSvm::fit(train, &labels[1..], 3, 1.0, 0.1).is_err());
    assert!(LinearSvm::fit(train, &labels, 2, 1.0, 0.1).is_err());
    assert!(LinearSvm::fit(train, &[0; 90], 2, 1.0, 0.1).is_err());
    assert!(LinearSvm::fit(train, &labels, 3, 0.0, 0.1).is_err());
    assert!(
        LinearSvm::fit(train, &labels, 3, 1.0, 0.1)
            .unwrap()
            .predict(Features::new("x", &[0.0; 4], 4).unwrap())
            .is_err()
    );
}

#[test]
fn principal_components_agree_with_scikit_learn() {
    let fixture = Fixture::of("svm");
    let train = fixture.f32("train");
    let found = principal::components(Features::new("train", &train, 6).unwrap(), 3).unwrap();
    let (directions, variances) = (fixture.f64("pca.components"), fixture.f64("pca.variances"));
    for (i, direction) in found.directions.iter().enumerate() {
        // Up to their sign.
        let alike: f64 = direction.iter().zip(&directions[6 * i..]).map(|(a, b)| a * b).sum();
        near(alike.abs(), 1.0, 1e-9);
        near(found.variances[i], variances[i], 1e-9);
    }
    near(found.total, variances.iter().sum(), 1e-9);
    assert!(principal::components(Features::new("one", &[1.0, 2.0], 2).unwrap(), 1).is_err());
}

#[test]
fn frechet_distance_is_exact_whatever_the_number_of_pictures() {
    let fixture = Fixture::of("measures2");
    for case in ["few", "one_side_few", "dead"] {
        let name = |part: &str| format!("frechet.{case}.{part}");
        let (a, b) = (fixture.f32(&name("a")), fixture.f32(&name("b")));
        let d = fixture.width(&name("a"));
        let (a, b) = (Features::new("a", &a, d).unwrap(), Features::new("b", &b, d).unwrap());
        let (whole_a, whole_b) = (Gaussian::of(a).unwrap(), Gaussian::of(b).unwrap());
        let want = fixture.f64(&name("nuclear"))[0];
        // torch-fidelity takes roots of eigenvalues that are 0 but for rounding.
        near(want, fixture.f64(&name("torch_fidelity"))[0], 1e-6);
        near(frechet::between(a, b).unwrap(), want, 1e-10);
        near(frechet::between(b, a).unwrap(), want, 1e-10);
        near(frechet::to_reference(a, &whole_b).unwrap(), want, 1e-10);
        // A covariance keeps only what is above its own rounding.
        near(frechet::distance(&whole_a, &whole_b).unwrap(), want, 1e-8);
        assert!(frechet::between(a, a).unwrap() < 1e-10);
    }
}

#[test]
fn areas_under_the_curve_are_scikit_learns() {
    let fixture = Fixture::of("outliers");
    for case in ["plain", "ties"] {
        let part = |part: &str| fixture.f64(&format!("{case}.{part}"));
        near(auroc(&part("inliers"), &part("outliers")).unwrap(), part("auroc")[0], 1e-12);
    }
}

#[test]
fn pairs_agree_with_pytorch_msssim_and_numpy() {
    let fixture = Fixture::of("measures2");
    let (a, b) = (fixture.bytes("ms_ssim.a"), fixture.bytes("ms_ssim.b"));
    let got = pairs::ms_ssim(&a, &b, [1, 176, 192], 255.0).unwrap();
    near(got, fixture.f64("ms_ssim.value")[0], 1e-12);

    let (a, b, shape) = (fixture.f32("pairs.a"), fixture.f32("pairs.b"), [2, 5, 7]);
    near(pairs::gradient_l1(&a, &b, shape).unwrap(), fixture.f64("pairs.gradient_l1")[0], 1e-13);
    near(pairs::gradient_difference(&a, &b, shape).unwrap(), fixture.f64("pairs.gradient_difference")[0], 1e-13);
    near(pairs::rmse(&a, &b).unwrap(), fixture.f64("pairs.rmse")[0], 1e-13);
}

#[test]
fn colours_differ_as_scikit_image_has_it() {
    let fixture = Fixture::of("color");
    let [lightness, chroma] = pairs::lab(&fixture.f32("a"), &fixture.f32("b"), [3, 5, 7]).unwrap();
    near(lightness, fixture.f64("lightness")[0], 1e-6);
    near(chroma, fixture.f64("chroma")[0], 1e-6);
    // Grey has lightness alone.
    let [lightness, chroma] = pairs::lab(&[1.0, -1.0], &[-1.0, -1.0], [1, 1, 2]).unwrap();
    near(lightness, 50.0, 1e-4);
    assert!(chroma < 0.02, "{chroma}");
}

#[test]
fn bins_agree_with_scipy_and_scikit_learn() {
    let fixture = Fixture::of("measures2");
    let (training, generated) = (fixture.indices("ndb.training"), fixture.indices("ndb.generated"));
    let got = ndb::compare(&training, &generated, ndb::FIVE_PERCENT).unwrap();
    assert_eq!((got.different, got.bins), (fixture.indices("ndb.different")[0], 12));
    assert!(got.different > 0 && got.different < 12);
    near(got.jsd, fixture.f64("ndb.jsd")[0], 1e-12);

    let x = fixture.f32("kmeans.x");
    let table = Features::new("x", &x, 4).unwrap();
    let kinds = KMeans::from_centres(table, x[..20].iter().map(|&v| f64::from(v)).collect()).unwrap();
    assert_eq!(kinds.assign(table).unwrap(), fixture.indices("kmeans.labels"));
    kinds.centres().iter().zip(fixture.f64("kmeans.centres")).for_each(|(got, want)| near(*got, want, 1e-12));
}

#[test]
fn neighbours_and_diversity_agree_with_scikit_learn_and_scipy() {
    let fixture = Fixture::of("measures2");
    let (training, samples) = (fixture.f32("neighbours.training"), fixture.f32("neighbours.samples"));
    let (training, samples) = (Features::new("t", &training, 6).unwrap(), Features::new("s", &samples, 6).unwrap());
    let found = neighbours::nearest(samples, training).unwrap();
    let others = neighbours::nearest_other(training).unwrap();
    for (got, name) in [(&found, ""), (&others, "other_")] {
        let (distance, index) = (format!("neighbours.{name}distance"), format!("neighbours.{name}index"));
        assert_eq!(got.iter().map(|n| n.index).collect::<Vec<_>>(), fixture.indices(&index));
        got.iter().zip(fixture.f64(&distance)).for_each(|(got, want)| near(got.distance, want, 1e-12));
    }
    let summary = neighbours::memorisation(&found, &others).unwrap();
    near(summary.nearer, fixture.f64("neighbours.nearer")[0], 1e-12);
    near(summary.copies, 2.0 / 30.0, 1e-12);

    let all = diversity::mean_pairwise(training, 50 * 49 / 2, kiln_core::random::Key::new(0)).unwrap();
    let want = fixture.f64("diversity.all_pairs");
    near(all.mean, want[0], 1e-12);
    near(all.std, want[1], 1e-12);
}

#[test]
fn latent_measures_agree_with_scikit_learn_and_numpy() {
    let fixture = Fixture::of("measures2");
    let latents = fixture.f32("mig.latents");
    let values = fixture.indices("mig.factors");
    let factors: Vec<Vec<usize>> = (0..3).map(|k| values.iter().skip(k).step_by(3).copied().collect()).collect();
    let got = mig::measure(Features::new("latents", &latents, 5).unwrap(), &factors, mig::BINS).unwrap();
    let information = got.information.concat();
    for (got, want) in information.iter().zip(fixture.f64("mig.information")) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    got.gaps.iter().zip(fixture.f64("mig.gaps")).for_each(|(got, want)| near(*got, want, 1e-10));
    near(got.score, fixture.f64("mig.score")[0], 1e-10);

    let (latents, logits) = (fixture.f32("separability.latents"), fixture.f32("separability.logits"));
    let (latents, logits) = (Features::new("w", &latents, 5).unwrap(), Features::new("logits", &logits, 3).unwrap());
    let got = separability::measure(latents, logits, 1.0).unwrap();
    got.entropies.iter().zip(fixture.f64("separability.entropies")).for_each(|(got, want)| {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    });
    near(got.score, fixture.f64("separability.score")[0], 1e-12);

    let distances: Vec<f64> = fixture.f32("path_length.distances").into_iter().map(f64::from).collect();
    near(path_length::mean(&distances, 1e-4).unwrap(), fixture.f64("path_length.mean")[0], 1e-12);
}

#[test]
fn segmentation_and_domains_agree_with_scikit_learn() {
    let fixture = Fixture::of("measures2");
    let (truth, predicted) = (fixture.indices("segmentation.truth"), fixture.indices("segmentation.predicted"));
    let mut maps = Segmentation::new(5, Some(255)).unwrap();
    truth.chunks(60).zip(predicted.chunks(60)).for_each(|(t, p)| maps.push(t, p).unwrap());
    let iou = maps.iou();
    assert_eq!(iou[4], None);
    iou.iter().flatten().zip(fixture.f64("segmentation.iou")).for_each(|(got, want)| near(*got, want, 1e-14));
    near(maps.mean_iou().unwrap(), fixture.f64("segmentation.mean_iou")[0], 1e-14);
    near(maps.pixel_accuracy().unwrap(), fixture.f64("segmentation.pixel_accuracy")[0], 1e-14);

    let values = ["train_source", "train_target", "test_source", "test_target"]
        .map(|part| fixture.f32(&format!("adaptation.{part}")));
    let part = |i: usize| Features::new("part", &values[i], 4).unwrap();
    let got = adaptation::between([part(0), part(1)], [part(2), part(3)], 1.0).unwrap();
    near(got.error, fixture.f64("adaptation.error")[0], 1e-14);
    near(got.distance, fixture.f64("adaptation.distance")[0], 1e-12);
}

#[test]
fn bootstrap_quantiles_agree_with_numpy() {
    let fixture = Fixture::of("measures2");
    let mut values = fixture.f64("bootstrap.values").into_iter();
    let key = kiln_core::random::Key::new(0);
    let resampled = bootstrap::resample(&[1], 37, key, |_| Ok(values.next().unwrap())).unwrap();
    let got = resampled.percentile(0.95).unwrap();
    got.iter().zip(fixture.f64("bootstrap.interval")).for_each(|(got, want)| near(*got, want, 1e-14));
}

/// `sklearn.metrics.normalized_mutual_info_score` of scikit-learn 1.9.1.
#[test]
fn groups_agree_with_scikit_learn() {
    let (truth, groups) = ([0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0, 2, 2, 2, 1]);
    let found = kiln_measure::classes::Groups::new(&truth, &groups);
    assert!((found.mutual_information() - 0.6180656462921543).abs() < 1e-12);
    assert_eq!(found.right(), 3 + 2 + 3);
    assert_eq!(kiln_measure::classes::Groups::new(&[0, 0, 1, 1], &[0; 4]).mutual_information(), 0.0);
    assert!((kiln_measure::classes::Groups::new(&[0, 1, 2], &[2, 0, 1]).mutual_information() - 1.0).abs() < 1e-12);
}

#[test]
fn criteria_without_labels_agree_with_skada() {
    let file = Fixture::of("selection");
    let (p, source, target, held_out) = (file.f32("p"), file.f32("source"), file.f32("target"), file.f32("held_out"));
    let all = Features::new("p", &p, 4).unwrap();
    near(selection::entropy(all), file.f64("entropy")[0], 1e-6);
    let density = selection::soft_neighbourhood_density(all, selection::TEMPERATURE).unwrap();
    near(density, file.f64("density")[0], 1e-6);
    let of = |name: &'static str, values| Features::new(name, values, 3).unwrap();
    let ratios =
        selection::density_ratios(of("source", &source), of("target", &target), of("held out", &held_out)).unwrap();
    let known = file.f64("ratios");
    assert_eq!(ratios.len(), known.len());
    ratios.iter().zip(&known).for_each(|(got, want)| near(*got, *want, 1e-5));
    let first = Features::new("first", &p[..80], 4).unwrap();
    let losses = selection::cross_entropies(first, &file.indices("truth")).unwrap();
    losses.iter().zip(file.f64("losses")).for_each(|(got, want)| near(*got, want, 1e-6));
    near(selection::weighted_risk(&ratios, &losses), file.f64("weighted")[0], 1e-5);
    near(selection::deep_embedded_risk(&ratios, &losses), file.f64("dev")[0], 1e-5);
    assert!(selection::cross_entropies(first, &[9; 20]).is_err());
    assert!(selection::soft_neighbourhood_density(Features::new("one", &p[..4], 4).unwrap(), 0.05).is_err());
}

#[test]
fn similarities_and_the_gradient_of_a_map_agree_with_scikit_learn() {
    let file = Fixture::of("tsne");
    let (points, wanted) = (file.f32("points"), file.f64("p"));
    let p = tsne::similarities(Features::new("points", &points, 6).unwrap(), 5.0).unwrap();
    // Its widths are found to 1e-5 of the entropy.
    p.iter().zip(&wanted).for_each(|(got, want)| assert!((got - want).abs() < 1e-4 * want.max(1e-3), "{got} {want}"));
    let places: Vec<[f64; 2]> = file.f64("places").chunks(2).map(|at| [at[0], at[1]]).collect();
    let slopes = tsne::gradient(&wanted, &places, 1.0);
    slopes.iter().flatten().zip(file.f64("grad")).for_each(|(got, want)| assert!((got - want).abs() < 1e-10));
}
