"""Scores and the right classes -> probabilities that mean what they say, and how far they are from it. Pure numbers.

Shape letters: Q = images that were not learned from, C = classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.errors import MissingExtra

BINS = 15
"""Of the calibration error (Guo et al. 2017, arXiv:1706.04599, table 1)."""
_COLDEST, _HOTTEST = 0.02, 50.0
"""Temperatures: beyond them nothing is learned from the scores, or nothing but the best one counts."""
_LEAST_FLOOR, _MOST_FLOOR = 1e-4, 0.5
"""Of the share that all classes have of a vote: without one, a class that nobody votes for would be impossible."""
_STARTS = 10
"""Temperatures, and floors, that are tried in pairs before the best pair is made better."""


def softmax(logits_QC: NDArray[np.floating]) -> NDArray[np.float64]:
    """(Q, C), each row of sum 1."""
    powers_QC = np.exp(logits_QC.astype(np.float64) - logits_QC.max(1, keepdims=True))
    found: NDArray[np.float64] = powers_QC / powers_QC.sum(1, keepdims=True)
    return found


def vote_probabilities(
    votes_QC: NDArray[np.float64], *, temperature: float, floor: float
) -> NDArray[np.float64]:
    """(Q, C) shares of votes -> probabilities: their powers of 1/temperature, and of all that `floor` spread evenly."""
    sharpened_QC = (votes_QC / votes_QC.max(1, keepdims=True)) ** (1 / temperature)
    shares_QC = sharpened_QC / sharpened_QC.sum(1, keepdims=True)
    found: NDArray[np.float64] = (1 - floor) * shares_QC + floor / votes_QC.shape[1]
    return found


def logit_temperature(logits_QC: NDArray[np.floating], labels_Q: NDArray[np.int64]) -> float:
    """By which logits are divided so that the right classes are most likely (temperature scaling: Guo et al. 2017, section 4.2).

    A factor of e either way is taken for as likely as one standard deviation of a normal, before any image is seen: a few images that
    are all right would otherwise make it 0. 1 where there are none. Raises MissingExtra without scipy, which comes with scikit-learn.
    """
    if not len(labels_Q):
        return 1.0
    found = _optimize().minimize_scalar(
        lambda log: len(labels_Q) * log_loss(softmax(logits_QC / np.exp(log)), labels_Q) + log**2 / 2,
        bounds=(np.log(_COLDEST), np.log(_HOTTEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def vote_calibration(votes_QC: NDArray[np.float64], labels_Q: NDArray[np.int64]) -> tuple[float, float]:
    """Temperature and floor by which `vote_probabilities` makes the right classes most likely.

    The temperature is held back as above, the floor is no less than 1 / (Q + 2) (Laplace's rule of succession). Raises MissingExtra.
    """
    least = max(_LEAST_FLOOR, min(_MOST_FLOOR, 1 / (len(labels_Q) + 2)))
    if not len(labels_Q):
        return 1.0, least

    def loss(at: NDArray[np.float64]) -> float:
        temperature, floor = np.exp(at)
        found_QC = vote_probabilities(votes_QC, temperature=temperature, floor=floor)
        return len(labels_Q) * log_loss(found_QC, labels_Q) + float(at[0]) ** 2 / 2

    bounds = [(np.log(_COLDEST), np.log(_HOTTEST)), (np.log(least), np.log(_MOST_FLOOR))]
    grid = np.stack(np.meshgrid(*(np.linspace(*ends, _STARTS) for ends in bounds)), -1).reshape(-1, 2)
    start = min(grid, key=loss)
    found = _optimize().minimize(loss, x0=start, bounds=bounds, method="Nelder-Mead")
    temperature, floor = np.exp(found.x)
    return float(temperature), float(floor)


def log_loss(probabilities_QC: NDArray[np.float64], labels_Q: NDArray[np.int64]) -> float:
    """Mean negative logarithm of the probability of the right class, in nats."""
    own_Q = np.take_along_axis(probabilities_QC, labels_Q[:, None], 1)
    return -float(np.log(np.maximum(own_Q, 1e-300)).mean())


def calibration_error(probabilities_QC: NDArray[np.float64], labels_Q: NDArray[np.int64]) -> float:
    """How far, on average, the probability of the predicted class is from the share that is right, in 0..1.

    Over 15 bins of equal width, weighted by their images (ECE: Guo et al. 2017, eq. 3).
    """
    sure_Q = probabilities_QC.max(1)
    right_Q = probabilities_QC.argmax(1) == labels_Q
    bin_Q = np.clip(np.ceil(sure_Q * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gap = np.bincount(bin_Q, weights=sure_Q - right_Q, minlength=BINS)
    return float(np.abs(gap).sum() / len(labels_Q))


def _optimize() -> Any:
    try:
        from scipy import optimize
    except ImportError:
        raise MissingExtra("scikit-learn", "classify") from None
    return optimize
