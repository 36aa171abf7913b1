"""The L2-regularised, squared-hinge linear SVM, and principal components.

Made with torch==2.15.0, numpy==2.4.6, scikit-learn (see the fixture's `made_with`).
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from reference import begin, save

versions = begin("numpy", "sklearn")
rng = np.random.default_rng(0)
centres = rng.normal(size=(3, 6))
labels = rng.integers(0, 3, size=90)
train = (centres[labels] + 1.2 * rng.normal(size=(90, 6))).astype(np.float32)
train[:, 5] = 7.0  # a constant feature
test = (centres[rng.integers(0, 3, size=20)] + 1.2 * rng.normal(size=(20, 6))).astype(np.float32)
test[:, 5] = 7.0
out = {"train": torch.tensor(train), "test": torch.tensor(test), "labels": torch.tensor(labels)}
scaler = StandardScaler().fit(train.astype(np.float64))
for c in (0.01, 1.0):
    svm = LinearSVC(C=c, tol=1e-12, max_iter=1_000_000, random_state=0)
    svm.fit(scaler.transform(train.astype(np.float64)), labels)
    out[f"c{c}.decision"] = torch.tensor(svm.decision_function(scaler.transform(test.astype(np.float64))))
    out[f"c{c}.predicted"] = torch.tensor(svm.predict(scaler.transform(test.astype(np.float64))))
# The normal of class 1's plane in the features' own scale (that of C = 1).
normal = svm.coef_[1] / scaler.scale_
out["normal"] = torch.tensor(normal / np.linalg.norm(normal))
pca = PCA().fit(train.astype(np.float64))
out |= {"pca.components": torch.tensor(pca.components_[:3]), "pca.variances": torch.tensor(pca.explained_variance_)}
save("svm", out, versions)
