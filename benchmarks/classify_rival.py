"""What one writes with scikit-learn to classify vectors: the peer of `classify.py`, in a module so that its models can be pickled.

Shape letters: N = images learned from, D = width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from simclr.classify.fitting import VOTERS
from simclr.classify.knn import TEMPERATURE
from simclr.classify.probe import STRENGTHS


def ready() -> None:
    """Imports that both need."""
    import sklearn.calibration
    import sklearn.linear_model
    import sklearn.neighbors  # noqa: F401


def logistic(vectors_ND: np.ndarray, labels_N: np.ndarray) -> Any:
    """The C that makes a fifth most likely, among those that ours tries; then all of them."""
    from sklearn.metrics import log_loss as loss
    from sklearn.model_selection import train_test_split

    parts = train_test_split(vectors_ND, labels_N, test_size=0.2, stratify=labels_N, random_state=0)
    learned_ND, chosen_ND, learned_N, chosen_N = parts
    losses = {}
    for strength in STRENGTHS:
        chances = linear(strength).fit(learned_ND, learned_N).predict_proba(chosen_ND)
        losses[strength] = loss(chosen_N, chances)
    return linear(min(losses, key=losses.__getitem__)).fit(vectors_ND, labels_N)


def linear(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def vote(vectors_ND: np.ndarray, labels_N: np.ndarray, metric: str = "cosine") -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    weights = weights_of_cosine if metric == "cosine" else weights_of_euclidean
    return KNeighborsClassifier(VOTERS, metric=metric, weights=weights).fit(vectors_ND, labels_N)


def weights_of_cosine(distances: np.ndarray) -> np.ndarray:
    return np.exp((1 - distances) / TEMPERATURE)


def weights_of_euclidean(distances: np.ndarray) -> np.ndarray:
    """Between unit vectors; scikit-learn has a faster search for these."""
    return np.exp((1 - distances**2 / 2) / TEMPERATURE)


def calibrated(model: Any, vectors_ND: np.ndarray, labels_N: np.ndarray) -> Any:
    """By what five folds say; the model itself learns from all. A temperature, as ours, did a vote more harm than good: its shares can be 0."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.neighbors import KNeighborsClassifier

    method = "isotonic" if isinstance(model, KNeighborsClassifier) else "temperature"
    return CalibratedClassifierCV(model, method=method, cv=5, ensemble=False).fit(vectors_ND, labels_N)


def nearest(vectors_ND: np.ndarray) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=5).fit(vectors_ND)


PEERS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {"logistic": logistic, "vote": vote}
