"""A linear classifier on frozen vectors: multinomial logistic regression, by L-BFGS to its optimum.

The published figure of a linear evaluation comes from 90 epochs of SGD on crops (`simclr probe`); this is the form for frozen vectors
(DINOv2, arXiv:2304.07193, appendix B.3): standardised, with the regularisation chosen on a part of the training images.

Shape letters: N = images, D = width, C = classes.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.classify.calibration import logit_temperature, softmax
from simclr.errors import MissingExtra

STRENGTHS = tuple(float(c) for c in np.logspace(-6, 2, 17))
"""Inverse regularisations to choose from, rising: scikit-learn's C."""
_PATIENCE = 2
"""Strengths in a row that are worse than the best so far, after which no larger one is tried."""
_CHOOSING = 0.2
"""Share of each class of the training images by which the strength is chosen."""
_STEPS = 1000
"""Of L-BFGS."""
_SMALL = 1 << 28
"""Products of a step up to which one thread takes it: the threads of numpy's and of scipy's BLAS wait for each other with a busy core, and beside another
program the same fit took 181 s with two of them and 23 s with one (1,122 x 3,072, 40 classes)."""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Vectors -> probabilities of classes."""

    mean_D: NDArray[np.float32]
    scale_D: NDArray[np.float32]
    """By which a vector less the mean is divided: the standard deviations of the training vectors."""
    weight_CD: NDArray[np.float32]
    bias_C: NDArray[np.float32]
    strength: float
    """The chosen C."""
    temperature: float = 1.0
    """By which logits are divided before they become probabilities."""

    def logits(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C)."""
        standard_ND = (vectors_ND - self.mean_D) / self.scale_D
        found: NDArray[np.float32] = (standard_ND @ self.weight_CD.T + self.bias_C).astype(
            np.float32, copy=False
        )
        return found

    def probabilities(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C), each row of sum 1."""
        return softmax(self.logits(vectors_ND) / self.temperature)

    def predict(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.int64]:
        """(N,) the most likely class."""
        found: NDArray[np.int64] = self.logits(vectors_ND).argmax(1)
        return found


def fit_probe(
    vectors_ND: NDArray[np.float32], labels_N: NDArray[np.int64], classes: int, *, seed: int = 0
) -> LinearProbe:
    """The probe whose strength is best on a fifth of each class, fitted to all of them again.

    Its temperature is that by which the fifth is most likely. Labels count from 0; every class must have an image. Never shown a test
    image, neither can be chosen by one. Raises MissingExtra without scikit-learn.
    """
    strength, temperature = _chosen(vectors_ND, labels_N, seed=seed)
    return _fitted(vectors_ND, labels_N, classes, strength, temperature)


def refit(probe: LinearProbe, vectors_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> LinearProbe:
    """The same strength and temperature on other images of the same classes, such as more of them."""
    return _fitted(vectors_ND, labels_N, len(probe.bias_C), probe.strength, probe.temperature)


def _fitted(
    vectors_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    classes: int,
    strength: float,
    temperature: float,
) -> LinearProbe:
    mean_D, scale_D = _moments(vectors_ND)
    model = _logistic_regression(C=strength)
    _fit(model, (vectors_ND - mean_D) / scale_D, labels_N)
    weight_CD, bias_C = model.coef_, model.intercept_
    if classes == 2:  # scikit-learn keeps the logit of the second class alone
        weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
    return LinearProbe(
        mean_D,
        scale_D,
        weight_CD.astype(np.float32),
        bias_C.astype(np.float32),
        strength,
        temperature,
    )


def _chosen(
    vectors_ND: NDArray[np.float32], labels_N: NDArray[np.int64], *, seed: int
) -> tuple[float, float]:
    """Strength and temperature with which the chosen images are most likely, after the others were learned.

    By likelihood and not by how many are right: that hardly differs for many strengths, and a weak one leaves all classes about equally
    likely.
    """
    chosen_N = _chosen_by(labels_N, seed=seed)
    learned_ND, learned_N = vectors_ND[~chosen_N], labels_N[~chosen_N]
    if not chosen_N.any():
        return 1.0, 1.0
    mean_D, scale_D = _moments(learned_ND)
    learned_ND, asked_ND = (learned_ND - mean_D) / scale_D, (vectors_ND[chosen_N] - mean_D) / scale_D
    model = _logistic_regression(warm_start=True)
    best, best_loss, worse = STRENGTHS[0], np.inf, 0
    for strength in STRENGTHS:
        _fit(model.set_params(C=strength), learned_ND, learned_N)
        log_NC = _log_probabilities(model, asked_ND)
        if (loss := -float(np.take_along_axis(log_NC, labels_N[chosen_N, None], 1).mean())) < best_loss:
            best, best_loss, worse, best_NC = strength, loss, 0, log_NC
        elif (worse := worse + 1) == _PATIENCE:
            break
    return best, logit_temperature(best_NC, labels_N[chosen_N])


def _log_probabilities(model: Any, vectors_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, C). scikit-learn's own is the logarithm of a float32 probability, which may be 0: minus infinity and a warning."""
    from scipy.special import log_softmax

    logits = model.decision_function(vectors_ND).astype(np.float64)
    logits_NC = np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits
    found: NDArray[np.float64] = log_softmax(logits_NC, axis=1)
    return found


def _chosen_by(labels_N: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """(N,) a share of each class of more than one image, at least one of it."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0xC0FE])))
    chosen_N = np.zeros(len(labels_N), np.bool_)
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        if len(rows) > 1:
            chosen_N[rows[: max(1, round(_CHOOSING * len(rows)))]] = True
    return chosen_N


def _moments(vectors_ND: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each number; 1 for one that never changes, which tells nothing."""
    mean_D, scale_D = vectors_ND.mean(0, dtype=np.float64), vectors_ND.std(0, dtype=np.float64)
    return mean_D.astype(np.float32), np.where(scale_D > 1e-8, scale_D, 1).astype(np.float32)


def _fit(model: Any, vectors_ND: NDArray[np.float32], labels_N: NDArray[np.int64]) -> None:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    small = vectors_ND.size * (int(labels_N.max()) + 1) < _SMALL
    with warnings.catch_warnings(), threadpool_limits(1 if small else None):
        warnings.simplefilter("ignore")  # of steps that were not enough: the next strength goes on from there
        model.fit(vectors_ND, labels_N)


def _logistic_regression(**settings: Any) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtra("scikit-learn", "classify") from None
    return LogisticRegression(max_iter=_STEPS, tol=1e-5, **settings)
