"""Criteria that judge a classifier on a target without labels.

Made with torch==2.15.0, skada==0.6.0, scikit-learn, numpy and

    POT_BACKEND_DISABLE_TENSORFLOW=1 python selection.py

density is skada.metrics.SoftNeighborhoodDensity of the probabilities p; entropy its PredictionEntropyScorer, times the classes, for
SKADA's mean is over them too. ratios: scikit-learn's LogisticRegression (C = 1) between source and target, at held-out features.
losses are cross-entropies; weighted and dev follow skada.metrics.DeepEmbeddedValidation, line by line.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from skada.metrics import PredictionEntropyScorer, SoftNeighborhoodDensity

from reference import begin, save

versions = begin("skada", "sklearn", "numpy", seed=43)
rng = np.random.default_rng(0)


class Known:
    """An estimator whose probabilities are these."""

    def __init__(self, p):
        self.p = p

    def predict_proba(self, X, **_):
        return self.p


p = rng.dirichlet([0.5] * 4, 30).astype(np.float32)
p = (p / p.sum(1, keepdims=True)).astype(np.float32)
X, domain = np.zeros((30, 1)), -np.ones(30)
exact = p.astype(np.float64)
density = SoftNeighborhoodDensity()._score(None, Known(exact), X, np.zeros(30), sample_domain=domain)
entropy = -PredictionEntropyScorer()._score(None, Known(exact), X, np.zeros(30), sample_domain=domain) * 4

source = rng.normal(size=(40, 3)).astype(np.float32)
target = (rng.normal(size=(25, 3)) + [0.8, -0.5, 0.0]).astype(np.float32)
held_out = rng.normal(size=(20, 3)).astype(np.float32)
labels = np.concatenate((np.ones(len(source)), np.zeros(len(target))))
fitted = LogisticRegression(tol=1e-10, max_iter=1000).fit(np.concatenate((source, target)).astype(np.float64), labels)
domains = fitted.predict_proba(held_out.astype(np.float64))
weights = len(source) / len(target) * domains[:, :1] / domains[:, 1:]

truth = rng.integers(0, 4, 20)
predicted = p[:20].astype(np.float64)
losses = -np.log(np.clip(predicted[np.arange(20), truth], 1e-15, None))[:, None]
weighted = weights * losses
covariance = np.cov(np.concatenate((weighted, weights), axis=1), rowvar=False)[0, 1]
eta = -covariance / np.var(weights, ddof=1)

out = {
    "p": torch.tensor(p),
    "source": torch.tensor(source),
    "target": torch.tensor(target),
    "held_out": torch.tensor(held_out),
    "truth": torch.tensor(truth),
    "density": torch.tensor([density]),
    "entropy": torch.tensor([entropy]),
    "ratios": torch.tensor(weights[:, 0]),
    "losses": torch.tensor(losses[:, 0]),
    "weighted": torch.tensor([weighted.mean()]),
    "dev": torch.tensor([weighted.mean() + eta * weights.mean() - eta]),
}
save("selection", out, versions)
