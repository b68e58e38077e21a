"""Weighted vote among neighbours.

Shape letters: Q = queries, N = vectors with a known class, D = width, K = neighbours, C = classes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TEMPERATURE = 0.07
"""Of Wu et al. 2018 (arXiv:1805.01978), and of DINO's evaluation."""
_BLOCK = 1 << 24
"""Similarities at a time: some hundred megabytes with what sorting them takes."""


def knn_predict(
    vectors_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    queries_QD: NDArray[np.float32],
    *,
    k: int = 20,
    temperature: float = TEMPERATURE,
) -> NDArray[np.int64]:
    """The class of each query (Q,), by a vote of its k nearest in cosine, weighted exp(similarity / temperature).

    Labels count from 0; all rows have unit length. The weights are those of Wu et al. 2018 (arXiv:1805.01978).
    """
    classes = int(labels_N.max()) + 1
    predicted = [
        votes(similarities_QK, labels_N[places_QK], classes, temperature=temperature).argmax(1)
        for similarities_QK, places_QK in neighbours(vectors_ND, queries_QD, k=k)
    ]
    return np.concatenate(predicted) if predicted else np.empty(0, np.int64)


def neighbours(
    vectors_ND: NDArray[np.float32], queries_QD: NDArray[np.float32], *, k: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Similarities and places of the k nearest of each query, best first, equal ones by place; a block of queries at a time.

    All rows have unit length. Of all N where there are no more than k.
    """
    k = min(k, len(vectors_ND))
    step = max(1, _BLOCK // len(vectors_ND))
    for start in range(0, len(queries_QD), step):
        similarity_QN = queries_QD[start : start + step] @ vectors_ND.T
        places_QK = np.argpartition(-similarity_QN, k - 1, axis=1)[:, :k]
        top_QK = np.take_along_axis(similarity_QN, places_QK, axis=1)
        order_QK = np.lexsort((places_QK, -top_QK), axis=1)
        yield np.take_along_axis(top_QK, order_QK, axis=1), np.take_along_axis(places_QK, order_QK, axis=1)


def votes(
    similarities_QK: NDArray[np.float32],
    labels_QK: NDArray[np.int64],
    classes: int,
    *,
    temperature: float = TEMPERATURE,
) -> NDArray[np.float64]:
    """(Q, C) the share of the votes that each class gets, of neighbours with these similarities and classes."""
    best_Q1 = similarities_QK.max(axis=1, keepdims=True)
    weight_QK = np.exp((similarities_QK - best_Q1).astype(np.float64) / temperature)
    votes_QC = np.zeros((len(labels_QK), classes))
    np.add.at(votes_QC, (np.arange(len(labels_QK))[:, None], labels_QK), weight_QK)
    shares_QC: NDArray[np.float64] = votes_QC / votes_QC.sum(axis=1, keepdims=True)
    return shares_QC
