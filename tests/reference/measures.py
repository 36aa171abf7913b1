"""Measures: Frechet distance, inception score, KID, PRDC, SSIM and PSNR, classes.

Made with torch==2.15.0, torch_fidelity==0.4.0, scipy==1.17.1, numpy==2.4.6, skimage==0.26.0,
sklearn==1.9.1, prdc 0.2. Every result is f64; the inputs are f32 and enter in f64.
"""

import numpy as np
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from prdc import compute_prdc
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.metrics.pairwise import rbf_kernel
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric

from reference import begin, save

versions = begin("torch_fidelity", "scipy", "numpy", "skimage", "sklearn")
rng = np.random.default_rng(0)
out = {}


def give(name, value):
    out[name] = torch.as_tensor(np.asarray(value))


def features(n, d, shift=0.0):
    """Correlated, skewed and of unequal scale, as a network's features are; f64 that f32 holds."""
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * np.logspace(-2, 0.5, d) + shift
    return np.maximum(x, -0.1).astype(np.float32).astype(np.float64)


def frechet(a, b):
    m1, m2, s1, s2 = a.mean(0), b.mean(0), np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real


# Frechet distance: full rank, and with fewer pictures than features (singular covariances).
for case, (n1, n2, d) in {"full": (80, 60, 12), "singular": (9, 7, 12)}.items():
    a, b = features(n1, d), features(n2, d, 0.3)
    stats = [fid_features_to_statistics(torch.tensor(x)) for x in (a, b)]
    give(f"frechet.{case}.a", a.astype(np.float32)), give(f"frechet.{case}.b", b.astype(np.float32))
    give(f"frechet.{case}.mean_a", stats[0]["mu"]), give(f"frechet.{case}.cov_a", stats[0]["sigma"])
    give(f"frechet.{case}.torch_fidelity", list(fid_statistics_to_metric(*stats, False).values())[0])
    give(f"frechet.{case}.scipy", frechet(a, b))

# Inception score of 57 pictures over 7 classes: in order, and in the order torch-fidelity shuffles to.
logits = (3 * rng.standard_normal((57, 7))).astype(np.float32)
order = np.random.RandomState(2020).permutation(57)
give("inception_score.logits", logits), give("inception_score.order", order)
for name, splits, shuffle in (("one", 1, False), ("ten", 10, False), ("ten_shuffled", 10, True)):
    give(f"inception_score.{name}", list(isc_features_to_metric(torch.tensor(logits), splits, shuffle).values()))

# KID: polynomial kernel (x.y/d + 1)^3, unbiased; torch-fidelity's subsets, drawn again here to be told.
a, b = features(40, 8), features(30, 8, 0.2)
config = dict(kid_subsets=6, kid_subset_size=20, rng_seed=2020, kid_kernel="poly", verbose=False)
config |= dict(kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
give("kid.a", a.astype(np.float32)), give("kid.b", b.astype(np.float32))
draws = np.random.RandomState(2020)
subsets = [[draws.choice(len(x), 20, replace=False) for x in (a, b)] for _ in range(6)]
give("kid.subsets", np.array(subsets))
give("kid.value_std", list(kid_features_to_metric(torch.tensor(a), torch.tensor(b), **config).values()))
give("kid.first_subset", kernel_mmd(a[subsets[0][0]], b[subsets[0][1]], **config))

# MMD under a sum of Gaussian kernels exp(-|x - y|^2 / (2 s^2)), s each multiple of the median distance
# between any two of the pooled points (Gretton et al. 2012); biased (V) and unbiased (U) estimates.
a, b = features(25, 4), features(20, 4, 0.5)
pooled = np.concatenate([a, b]).astype(np.float32).astype(np.float64)
median = np.median(scipy.spatial.distance.pdist(pooled))
multiples = [0.5, 1.0, 2.0]
k = sum(rbf_kernel(pooled, gamma=1 / (2 * (m * median) ** 2)) for m in multiples)
xx, yy, xy = k[:25, :25], k[25:, 25:], k[:25, 25:]
off = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
give("mmd.a", a.astype(np.float32)), give("mmd.b", b.astype(np.float32))
give("mmd.multiples", multiples), give("mmd.median", median)
give("mmd.biased", xx.mean() + yy.mean() - 2 * xy.mean()), give("mmd.unbiased", off(xx) + off(yy) - 2 * xy.mean())

# Precision, recall, density, coverage; `ties` has small integers, many of them equally far.
for case, k, a, b in (
    ("plain", 5, features(50, 6), features(40, 6, 0.1)),
    ("ties", 3, rng.integers(0, 4, (40, 3)).astype(float), rng.integers(0, 5, (30, 3)).astype(float)),
):
    give(f"prdc.{case}.real", a.astype(np.float32)), give(f"prdc.{case}.generated", b.astype(np.float32))
    r = compute_prdc(a, b, k)
    give(f"prdc.{case}.values", [r[m] for m in ("precision", "recall", "density", "coverage")])
    give(f"prdc.{case}.k", k)

# Pictures [c, h, w] in 0..1, and one of whole numbers 0..255.
clean = np.cumsum(rng.standard_normal((3, 15, 18)), 2)
clean = ((clean - clean.min()) / np.ptp(clean)).astype(np.float32)
noisy = np.clip(clean + 0.1 * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
give("pairs.a", clean), give("pairs.b", noisy)
bytes_a = np.round(clean[:1] * 255).astype(np.float32)
bytes_b = np.round(noisy[:1] * 255).astype(np.float32)
give("pairs.bytes_a", bytes_a), give("pairs.bytes_b", bytes_b)
for name, x, y, top in (("", clean, noisy, 1.0), ("bytes_", bytes_a, bytes_b, 255.0)):
    x, y = x.astype(np.float64), y.astype(np.float64)
    ssim = structural_similarity(
        x, y, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=top
    )
    give(f"pairs.{name}ssim", ssim), give(f"pairs.{name}mse", mean_squared_error(x, y))
    give(f"pairs.{name}psnr", peak_signal_noise_ratio(x, y, data_range=top))

# Classes: 50 pictures, 6 classes of which the last is never predicted; rows are the truth.
truth, predicted = rng.integers(0, 6, 50), rng.integers(0, 5, 50)
predicted = np.where(rng.random(50) < 0.6, np.minimum(truth, 4), predicted)
give("classes.truth", truth), give("classes.predicted", predicted)
give("classes.accuracy", accuracy_score(truth, predicted))
give("classes.confusion", confusion_matrix(truth, predicted, labels=range(6)))
wilson = scipy.stats.binomtest(int((truth == predicted).sum()), 50).proportion_ci(0.95, "wilson")
give("classes.wilson", [wilson.low, wilson.high])

save("measures", out, versions)
