"""Shallow domain adaptation: points of both domains, transport plans and accuracies, on features of two domains.

Made with torch==2.15.0, scipy==1.17.1, numpy==2.4.6, sklearn==1.9.1, skimage==0.26.0, ot==0.9.7.post1, skada==0.6.0.
SA is SKADA's, OTGL POT's (`sinkhorn_l1l2_gl`). The others are the papers' formulas here: no library has them, and the
TCA of SKADA and ADAPT takes `eigh` of a matrix that is not symmetric. GFK's integral is taken numerically.
"""

import os
import warnings

os.environ["POT_BACKEND_DISABLE_TENSORFLOW"] = "1"

import numpy as np
import ot
import scipy.linalg
import torch
from skada import SubspaceAlignmentAdapter, TransferJointMatchingAdapter
from skimage.feature import hog
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier

from reference import begin, save

versions = begin("scipy", "numpy", "sklearn", "skimage", "ot", "skada")
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
out = {}
D, K, CLASSES, GAMMA = 8, 3, 3, 1.0


def give(name, value):
    out[name] = torch.as_tensor(np.ascontiguousarray(value))


def domain(n, turn, shift):
    y = np.arange(n) % CLASSES
    means = np.random.default_rng(1).standard_normal((CLASSES, D)) * 1.5
    x = means[y] + rng.standard_normal((n, D)) * np.linspace(1.5, 0.3, D)
    return x @ turn + shift, y


turn = scipy.linalg.expm(0.35 * (lambda a: a - a.T)(rng.standard_normal((D, D))))
xs, ys = domain(36, np.eye(D), 0.0)
xt, yt = domain(27, turn, 0.5)
ns, nt = len(xs), len(xt)
n = ns + nt
for name, value in {"source": xs, "labels": ys, "target": xt, "target_labels": yt}.items():
    give(name, value)


def guess(zs, zt):
    return KNeighborsClassifier(1).fit(zs, ys).predict(zt)


def give_points(name, zs, zt):
    give(f"{name}.source", zs), give(f"{name}.target", zt)
    give(f"{name}.accuracy", np.float64((guess(zs, zt) == yt).mean()))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pca(x):
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    return x.mean(0), vectors[:, ::-1][:, :K], values[::-1][:K]


give_points("none", xs, xt)

# Subspace alignment, and with the variances.
both, where = np.concatenate([xs, xt]), np.concatenate([np.ones(ns), -2 * np.ones(nt)])
skada = SubspaceAlignmentAdapter(n_components=K).fit(both, sample_domain=where)
z = skada.transform(both, sample_domain=where, allow_source=True)
give_points("sa", z[:ns], z[ns:])
(ms, ps, es), (mt, pt, et) = pca(xs), pca(xt)
give_points("sda", (xs - ms) @ ps @ (ps.T @ pt) @ np.diag(es**-0.5) @ np.diag(et**0.5), (xt - mt) @ pt)

# The kernel of all subspaces between two, by Gauss and Legendre's rule: G, of which points are a root.
rs = scipy.linalg.null_space(ps.T)
u1, cosines, vt = np.linalg.svd(ps.T @ pt)
theta = np.arccos(cosines)
u2 = -(rs.T @ pt) @ vt.T / np.sin(theta)
g = np.zeros((D, D))
for t, weight in zip(*np.polynomial.legendre.leggauss(40)):
    phi = ps @ u1 * np.cos(theta * (t + 1) / 2) - rs @ u2 * np.sin(theta * (t + 1) / 2)
    g += weight / 2 * phi @ phi.T
give("gfk.kernel", g)
root = scipy.linalg.sqrtm(g).real
give("gfk.accuracy", np.float64((guess(xs @ root, xt @ root) == yt).mean()))

# The discrepancy's matrix and components of the features or of a kernel.
x = unit(both)
H = np.eye(n) - 1 / n


def mmd(guesses):
    e = np.r_[np.ones(ns) / ns, -np.ones(nt) / nt]
    m = np.outer(e, e) * CLASSES
    if guesses is not None:
        for c in range(CLASSES):
            e = np.r_[(ys == c) / max(1, (ys == c).sum()), -1.0 * (guesses == c) / max(1, (guesses == c).sum())]
            m += np.outer(e, e)
    return m / np.linalg.norm(m)


def components(phi, m, penalty, unit_length=False):
    """Of phi, a row a picture: of unit variance, or of unit length."""
    large, small = phi.T @ H @ phi, phi.T @ m @ phi + np.diag(penalty)
    values, vectors = scipy.linalg.eigh(large, small)
    vectors = vectors[:, ::-1][:, :K]
    return vectors / (np.linalg.norm(vectors, axis=0) if unit_length else np.sqrt(values[::-1][:K]))


grams = {"primal": x, "linear": x @ x.T, "rbf": rbf_kernel(x, gamma=GAMMA)}
for kernel, phi in grams.items():
    guesses = None
    for iteration in range(10):
        a = components(phi, mmd(guesses), np.ones(phi.shape[1]))
        z = unit(phi @ a)
        if iteration == 0:
            give_points(f"tca.{kernel}", z[:ns], z[ns:])
        guesses = guess(z[:ns], z[ns:])
    give_points(f"jda.{kernel}", z[:ns], z[ns:])

guesses = None
for _ in range(10):
    z = unit(x @ components(x, mmd(guesses), np.ones(D), unit_length=True))
    guesses = guess(z[:ns], z[ns:])
give_points("jda.unit", z[:ns], z[ns:])

# Transfer joint matching, and SKADA's beside it: there the kernel has the width 1 over the features, a ridge of 1e-10
# moves the points a little, and with a tolerance of 0 or more it ends after one iteration.
phi, penalty = rbf_kernel(x), np.ones(n)
for _ in range(4):
    a = components(phi, mmd(None), 0.1 * penalty)
    penalty[:ns] = 1 / (2 * np.linalg.norm(a[:ns], axis=1))
z = unit(phi @ a)
give_points("tjm", z[:ns], z[ns:])
skada = TransferJointMatchingAdapter(n_components=K, tradeoff=0.1, max_iter=4, tol=-1.0).fit(x, sample_domain=where)
assert np.allclose(np.abs(unit(phi @ skada.A_)), np.abs(z), atol=1e-3)

# Scatter components.
k = grams["rbf"]
beta, delta = 0.1, 1.0
kc = H @ k @ H
total = kc @ kc / n
middle = k[:, :ns].mean(1)
p, q = np.zeros((n, n)), np.zeros((n, n))
for c in range(CLASSES):
    columns = k[:, :ns][:, ys == c]
    mean = columns.mean(1)
    p += columns.shape[1] * np.outer(mean - middle, mean - middle)
    q += (columns - mean[:, None]) @ (columns - mean[:, None]).T
means = np.stack([k[:, :ns].mean(1), k[:, ns:].mean(1)], 1)
apart = means - means.mean(1, keepdims=True)
d = apart @ apart.T / 2
values, b = scipy.linalg.eig(np.linalg.solve(delta * d + q + kc + 1e-5 * np.eye(n), beta * p + (1 - beta) * total))
order = np.argsort(-values.real)[:K]
values, b = values.real[order], b.real[:, order]
b /= np.linalg.norm(b, axis=0)
zs, zt = [(H @ part @ (np.eye(m) - 1 / m)).T @ b / np.sqrt(values) for part, m in ((k[:, :ns], ns), (k[:, ns:], nt))]
give_points("sca", zs, zt)

# Optimal transport with the group lasso.
cost = ot.dist(xs, xt)
cost /= cost.max()
for name, reg, eta in (("otgl", 0.05, 0.1), ("otgl.strong", 0.05, 1.0)):
    plan = ot.da.sinkhorn_l1l2_gl(ot.unif(ns), ys, ot.unif(nt), cost, reg, eta)
    give(f"{name}.plan", plan)
    moved = plan @ xt / plan.sum(1, keepdims=True)
    give_points(name, moved, xt)

# JGSA.
for kernel, gram in grams.items():
    alpha, mu, beta = 1.0, 1.0, 0.1
    if kernel == "primal":
        fs, ft, eye = x[:ns], x[ns:], np.eye(D)
        centred = ft - ft.mean(0)
    else:
        gram = H @ gram @ H
        fs, ft, eye = gram[:ns], gram[ns:], gram
        centred = ft
    m = fs.shape[1]
    sb, sw = np.zeros((m, m)), np.zeros((m, m))
    for c in range(CLASSES):
        rows = fs[ys == c]
        away = rows.mean(0) - fs.mean(0)
        sb += len(rows) * np.outer(away, away)
        sw += (rows - rows.mean(0)).T @ (rows - rows.mean(0))
    large = scipy.linalg.block_diag(beta * sb, mu * centred.T @ centred)
    guesses = guess(x[:ns], x[ns:])
    for _ in range(10):
        w = mmd(guesses)
        small = np.block([
            [fs.T @ w[:ns, :ns] @ fs + alpha * eye + beta * sw, fs.T @ w[:ns, ns:] @ ft - alpha * eye],
            [ft.T @ w[ns:, :ns] @ fs - alpha * eye, ft.T @ w[ns:, ns:] @ ft + (alpha + mu) * eye],
        ])
        values, vectors = scipy.linalg.eigh(large, small + 1e-9 * np.eye(2 * m))
        vectors = vectors[:, ::-1][:, :K]
        zs, zt = fs @ vectors[:m], ft @ vectors[m:]
        guesses = guess(zs, zt)
    give_points(f"jgsa.{kernel}", zs, zt)

# Local descriptors.
picture = rng.uniform(-1, 1, (18, 14))
blocks = hog(picture, 9, (4, 4), (2, 2), "L2-Hys", feature_vector=False)
give("hog.picture", picture), give("hog.descriptors", blocks.reshape(-1, 36))

save("shallow", out, versions)
