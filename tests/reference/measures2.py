"""More measures: Frechet distance of few pictures, MS-SSIM, gradients, NDB, k-means, neighbours, diversity, MIG,
separability, path length, segmentation, A-distance, bootstrap quantiles.

Made with torch==2.15.0, torch_fidelity==0.4.0, scipy==1.17.1, numpy==2.4.6, sklearn==1.9.1,
pytorch_msssim==1.0.0. Every result is f64; the inputs are f32 and enter in f64.
"""

from importlib.metadata import version

import numpy as np
import scipy.stats
import torch
from pytorch_msssim import ms_ssim
from scipy.spatial.distance import jensenshannon, pdist
from sklearn.cluster import KMeans
from sklearn.metrics import accuracy_score, jaccard_score, mutual_info_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from reference import begin, save

versions = begin("torch_fidelity", "scipy", "numpy", "sklearn")
versions += f" pytorch_msssim=={version('pytorch-msssim')}"
rng = np.random.default_rng(1)
out = {}


def give(name, value):
    out[name] = torch.as_tensor(np.asarray(value))


def give32(name, value):
    """Rounds the values to f32, stores them, and gives them back in f64."""
    give(name, np.asarray(value, dtype=np.float32))
    return np.asarray(value, dtype=np.float32).astype(np.float64)


def features(n, d, shift=0.0):
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * np.logspace(-2, 0.5, d) + shift
    return np.maximum(x, -0.1)


# Frechet distance with fewer pictures than features on one side or both, and of full-rank sets with features
# that never change and one that repeats. `nuclear` is exact: tr (S1 S2)^1/2 is the nuclear norm of X1 X2^T.
for case, n1, n2, d in (("few", 9, 7, 24), ("one_side_few", 15, 60, 24), ("dead", 80, 60, 12)):
    a, b = features(n1, d), features(n2, d, 0.3)
    if case == "dead":
        for x in (a, b):
            x[:, 3], x[:, 8], x[:, 9] = 0.0, 2.5, x[:, 10]
    a, b = give32(f"frechet.{case}.a", a), give32(f"frechet.{case}.b", b)
    stats = [fid_features_to_statistics(torch.tensor(x)) for x in (a, b)]
    give(f"frechet.{case}.torch_fidelity", list(fid_statistics_to_metric(*stats, False).values())[0])
    x, y = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    give(
        f"frechet.{case}.nuclear",
        ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * np.linalg.norm(x @ y.T, "nuc"),
    )

# MS-SSIM of whole values 0..255 (kept as bytes). The package's own window is rounded to f32, which moves the value
# by 6e-6 (its sum is not 1, and the squared mean is far above the variance here), so it is given one in f64.
window = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
window = torch.tensor(window / window.sum())[None, None, None]
clean = np.cumsum(np.cumsum(rng.standard_normal((176, 192)), 0), 1)
clean = np.round(255 * (clean - clean.min()) / np.ptp(clean))
noisy = np.clip(np.round(clean + 25 * rng.standard_normal(clean.shape)), 0, 255)
give("ms_ssim.a", clean.astype(np.uint8)), give("ms_ssim.b", noisy.astype(np.uint8))
x, y = (torch.tensor(v, dtype=torch.float64)[None, None] for v in (clean, noisy))
give("ms_ssim.value", ms_ssim(x, y, data_range=255, win=window).item())

# Errors of the gradients [c, h, w].
a, b = give32("pairs.a", rng.random((2, 5, 7))), give32("pairs.b", rng.random((2, 5, 7)))
steps = [[np.diff(v, axis=axis).ravel() for axis in (1, 2)] for v in (a, b)]
da, db = (np.concatenate(s) for s in steps)
give("pairs.gradient_l1", np.abs(da - db).mean())
give("pairs.gradient_difference", np.abs(np.abs(da) - np.abs(db)).mean())
give("pairs.rmse", np.sqrt(((a - b) ** 2).mean()))

# Statistically different bins: a chi-square test without correction is the two-proportion z-test squared.
p, q = rng.integers(20, 60, 12), rng.integers(10, 40, 12)
p[4] = q[4] = 0
p[7] = 0
tests = [[[c, n.sum() - c] for c, n in ((i, p), (j, q))] for i, j in zip(p, q) if i + j]
p_values = [scipy.stats.chi2_contingency(t, correction=False).pvalue for t in tests]
give("ndb.training", p), give("ndb.generated", q)
give("ndb.different", sum(v < 0.05 for v in p_values))
give("ndb.jsd", jensenshannon(p / p.sum(), q / q.sum()) ** 2)

# k-means from given centres.
x = give32("kmeans.x", rng.normal(size=(60, 4)) + 2 * rng.integers(0, 3, (60, 1)))
kinds = KMeans(5, init=x[:5], n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(x)
give("kmeans.centres", kinds.cluster_centers_), give("kmeans.labels", kinds.labels_.astype(np.int64))

# Nearest training picture, with copies among the samples and twins among the training pictures.
training, samples = features(50, 6), features(30, 6)
training[31], samples[3], samples[17] = training[12], training[12], training[40]
training, samples = give32("neighbours.training", training), give32("neighbours.samples", samples)
apart = np.sqrt(((samples[:, None] - training[None]) ** 2).sum(2))
within = np.sqrt(((training[:, None] - training[None]) ** 2).sum(2)) + np.diag([np.inf] * len(training))
tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(training)
give("neighbours.distance", tree.kneighbors(samples)[0][:, 0]), give("neighbours.index", apart.argmin(1))
give("neighbours.other_distance", within.min(1)), give("neighbours.other_index", within.argmin(1))
u = scipy.stats.mannwhitneyu(within.min(1), apart.min(1)).statistic
give("neighbours.nearer", u / (len(training) * len(samples)))
give("diversity.all_pairs", [pdist(training).mean(), pdist(training).std()])

# Mutual information gap as disentanglement_lib computes it.
factors = rng.integers(0, [3, 5, 2], (400, 3))
codes = rng.standard_normal((400, 4)) * [0.3, 1.0, 0.2, 1.0]
codes[:, 0] += factors[:, 0]
codes[:, 2] += 0.5 * factors[:, 1] + 0.2 * factors[:, 0]
codes = give32("mig.latents", np.concatenate([codes, np.full((400, 1), 0.7)], 1))
bins = [np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in codes.T]
information = np.array([[mutual_info_score(f, c) for c in bins] for f in factors.T])
entropy = np.array([mutual_info_score(f, f) for f in factors.T])
top = -np.sort(-information, 1)
give("mig.factors", factors), give("mig.information", information)
give("mig.gaps", (top[:, 0] - top[:, 1]) / entropy), give("mig.score", ((top[:, 0] - top[:, 1]) / entropy).mean())

# Linear separability: the surest half by |logit|, a linear SVM on standardised latents, H(Y|X) in nats.
latents = give32("separability.latents", rng.standard_normal((240, 5)))
logits = latents @ rng.standard_normal((5, 3)) + rng.standard_normal((240, 3)) * [0.1, 2.0, 5.0]
logits[:, 2] += 1.5 * latents[:, 0] ** 2
logits = give32("separability.logits", logits)


def svm(x, labels):
    scaler = StandardScaler().fit(x)
    machine = LinearSVC(C=1.0, tol=1e-10, max_iter=1_000_000, random_state=0).fit(scaler.transform(x), labels)
    return lambda x: machine.predict(scaler.transform(x))


entropies = []
for logit in logits.T:
    kept = np.argsort(-np.abs(logit), kind="stable")[: len(logit) // 2]
    x, labels = latents[kept], (logit[kept] > 0).astype(int)
    said = svm(x, labels)(x)
    entropies.append(mutual_info_score(labels, labels) - mutual_info_score(said, labels))
give("separability.entropies", entropies), give("separability.score", np.exp(sum(entropies)))

# Perceptual path length: StyleGAN's trimming.
distances = give32("path_length.distances", rng.lognormal(-16, 1.5, 333))
lengths = distances / 1e-4**2
low, high = np.percentile(lengths, 1, method="lower"), np.percentile(lengths, 99, method="higher")
give("path_length.mean", lengths[(low <= lengths) & (lengths <= high)].mean())

# Segmentation of two pictures: class 4 never occurs, 255 is ignored.
truth, predicted = rng.integers(0, 4, (2, 60)), rng.integers(0, 4, (2, 60))
predicted = np.where(rng.random((2, 60)) < 0.5, truth, predicted)
truth[rng.random((2, 60)) < 0.15] = 255
give("segmentation.truth", truth), give("segmentation.predicted", predicted)
kept = truth.ravel() != 255
iou = jaccard_score(truth.ravel()[kept], predicted.ravel()[kept], average=None)
give("segmentation.iou", iou), give("segmentation.mean_iou", iou.mean())
give("segmentation.pixel_accuracy", accuracy_score(truth.ravel()[kept], predicted.ravel()[kept]))

# Proxy A-distance with given halves: source and target, train and test.
parts = {
    f"{half}_{domain}": give32(f"adaptation.{half}_{domain}", rng.standard_normal((n, 4)) + shift)
    for half, n in (("train", 60), ("test", 50))
    for domain, shift in (("source", 0.0), ("target", [0.6, 0, 0.3, 0]))
}
train = np.concatenate([parts["train_source"], parts["train_target"]])
test = np.concatenate([parts["test_source"], parts["test_target"]])
error = (svm(train, np.repeat([0, 1], 60))(test) != np.repeat([0, 1], 50)).mean()
give("adaptation.error", error), give("adaptation.distance", 2 * (1 - 2 * error))

# Quantiles of a bootstrap.
values = rng.standard_normal(37)
give("bootstrap.values", values), give("bootstrap.interval", np.quantile(values, [0.025, 0.975]))

save("measures2", out, versions)
