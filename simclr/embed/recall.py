"""How much of the truth an index finds. No faiss, no printing.

Shape letters: Q = queries, N = vectors, K = neighbours.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def exact_neighbours(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], queries: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best inner products and their ids, (Q, k), over blocks of (ids, vectors); -1 where there are fewer."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    best_ids = np.full((len(queries), k), -1, np.int64)
    for ids, vectors in blocks:
        products = np.concatenate([best, queries @ vectors.T], axis=1)
        candidates = np.concatenate([best_ids, np.broadcast_to(ids, (len(queries), len(ids)))], axis=1)
        order = np.argsort(-products, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(products, order, axis=1)
        best_ids = np.take_along_axis(candidates, order, axis=1)
    return best, best_ids


def recall_at_k(
    found: NDArray[np.int64], truth: NDArray[np.int64], self_ids: NDArray[np.int64], *, k: int
) -> float:
    """Mean share of the k true neighbours among the k found, a query's own id left out of both.

    `found` and `truth` are (Q, K) with K > k, best first; -1 means none. In 0..1; 1 where there are no neighbours.
    """
    shares = []
    for found_row, truth_row, own in zip(found, truth, self_ids, strict=True):
        right = [id for id in truth_row if id not in (own, -1)][:k]
        given = [id for id in found_row if id not in (own, -1)][:k]
        if right:
            shares.append(len(set(right) & set(given)) / len(right))
    return float(np.mean(shares)) if shares else 1.0
