"""Weighted vote among neighbours.

Shape letters: Q = queries, N = vectors with a known class, D = width, C = classes.
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024
"""Queries at a time: 1024 x N similarities."""


def knn_predict(
    vectors_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    queries_QD: NDArray[np.float32],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.int64]:
    """The class of each query (Q,), by a vote of its k nearest in cosine, weighted exp(similarity / temperature).

    Labels count from 0; all rows have unit length. The weights are those of Wu et al. 2018 (arXiv:1805.01978).
    """
    k = min(k, len(vectors_ND))
    classes = int(labels_N.max()) + 1
    predicted = []
    for start in range(0, len(queries_QD), _BLOCK):
        similarity = queries_QD[start : start + _BLOCK] @ vectors_ND.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        top = np.take_along_axis(similarity, nearest, axis=1)
        weight = np.exp((top - top.max(axis=1, keepdims=True)) / temperature)
        votes = np.zeros((len(top), classes))
        np.add.at(votes, (np.arange(len(top))[:, None], labels_N[nearest]), weight)
        predicted.append(votes.argmax(axis=1))
    return np.concatenate(predicted) if predicted else np.empty(0, np.int64)
