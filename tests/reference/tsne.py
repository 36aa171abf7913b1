"""t-SNE: similarities and the gradient.

Made with torch==2.15.0, scikit-learn==1.9.1 and

    python tsne.py

p is sklearn.manifold._t_sne._joint_probabilities of points (its tolerance of the entropy is 1e-5), grad its _kl_divergence's gradient at
places, of which KL(P || Q) is kl.
"""

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import _t_sne

from reference import begin, save

versions = begin("sklearn", "numpy", seed=47)
rng = np.random.default_rng(0)
points = rng.normal(size=(20, 6)).astype(np.float32)
places = rng.normal(size=(20, 2))
distances = squareform(pdist(points.astype(np.float64), "sqeuclidean"))
p = _t_sne._joint_probabilities(distances, 5.0, verbose=0)
kl, gradient = _t_sne._kl_divergence(places.ravel(), p, 1, 20, 2)
out = {
    "points": torch.tensor(points),
    "places": torch.tensor(places),
    "p": torch.tensor(squareform(p)),
    "kl": torch.tensor([kl]),
    "grad": torch.tensor(gradient.reshape(20, 2)),
}
save("tsne", out, versions)
