"""How unlike all images that were learned from an image is.

It is told by the similarity to the k-th nearest of these (Sun et al. 2022, arXiv:2204.06507), and said as a share: how many of the learned
images have their own k-th nearest closer. So 0.5 is usual, and 0.99 is farther off than 99 % of them are from each other.

Shape letters: N = images learned from, Q = others, D = width.
"""

import numpy as np
from numpy.typing import NDArray

from simclr.classify.knn import neighbours

NEAREST = 5
"""The how many-th: one odd image among those learned from makes nothing usual."""


def nth_similarity(
    learned_ND: NDArray[np.float32], queries_QD: NDArray[np.float32], *, nearest: int
) -> NDArray[np.float32]:
    """(Q,) cosine to the n-th nearest; to the farthest where there are fewer. All rows have unit length."""
    parts = [similarities_QK[:, -1] for similarities_QK, _ in neighbours(learned_ND, queries_QD, k=nearest)]
    return np.concatenate([np.empty(0, np.float32), *parts])


def usual_similarities(
    learned_ND: NDArray[np.float32], rows: NDArray[np.int64], *, nearest: int
) -> NDArray[np.float32]:
    """Of some rows, rising: the same to the others, each without itself; so one place further, since itself comes first."""
    return np.sort(nth_similarity(learned_ND, learned_ND[rows], nearest=nearest + 1))


def unlike(similarities_Q: NDArray[np.float32], usual_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """(Q,) share of the usual similarities, rising, that are above; in 0..1."""
    found: NDArray[np.float64] = 1 - np.searchsorted(usual_N, similarities_Q, side="right") / len(usual_N)
    return found
