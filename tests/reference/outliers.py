"""The area under the ROC curve, with ties and without.

Made with torch==2.15.0, numpy==2.4.6, scikit-learn (see the fixture's `made_with`).
"""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from reference import begin, save

versions = begin("numpy", "sklearn")
rng = np.random.default_rng(0)
out = {}
for name, digits in (("plain", 6), ("ties", 0)):
    inliers = np.round(rng.normal(size=50) * 2, digits)
    outliers = np.round(rng.normal(size=30) * 2 + 1, digits)
    labels = np.r_[np.zeros(50), np.ones(30)]
    out |= {f"{name}.inliers": torch.tensor(inliers), f"{name}.outliers": torch.tensor(outliers)}
    out[f"{name}.auroc"] = torch.tensor(roc_auc_score(labels, np.r_[inliers, outliers]), dtype=torch.float64)
save("outliers", out, versions)
