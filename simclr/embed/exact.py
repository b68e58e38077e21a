"""The true neighbours of queries among blocks of vectors: what an index is measured by. No faiss.

Shape letters: Q = queries, N = vectors, K = neighbours.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Blocks = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Ids (N,) and unit vectors (N, D) of one part of a store after another."""

Neighbours = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Similarities and ids, (Q, K), best first."""

TIE = 1e-5
"""Similarities closer than this are equal: float32 sums of the same numbers in another order differ by less."""


class Exact:
    """The k nearest of each query among all vectors that it has been shown, by exact inner products."""

    def __init__(self, queries: NDArray[np.float32], *, k: int) -> None:
        """`queries`: (Q, D) unit vectors."""
        self.queries = queries
        self._best = np.full((len(queries), k), -np.inf, np.float32)
        self._ids = np.full((len(queries), k), -1, np.int64)

    def show(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Ids (N,) and unit vectors (N, D) that it has not seen yet."""
        k = self._best.shape[1]
        products = self.queries @ vectors.T
        better = products > self._best[:, -1:]
        if (
            better.sum() > 4 * better.shape[0] * k and better.shape[1] > k
        ):  # the first block: its own k best are enough
            keep = np.argpartition(-products, k - 1, axis=1)[:, :k]
            better = np.zeros_like(better)
            np.put_along_axis(better, keep, True, axis=1)
        query, place = np.nonzero(better)
        if not len(query):
            return
        # the best so far and the better ones in one long list, best first within each query
        query_ = np.concatenate([np.repeat(np.arange(len(self.queries)), k), query])
        similarity = np.concatenate([self._best.ravel(), products[better]])
        id_ = np.concatenate([self._ids.ravel(), ids[place]])
        order = np.lexsort((-similarity, query_))
        rank = np.arange(len(order)) - np.searchsorted(query_[order], query_[order])
        order = order[rank < k]
        self._best = similarity[order].reshape(-1, k)
        self._ids = id_[order].reshape(-1, k)

    @property
    def neighbours(self) -> Neighbours:
        """(Q, k) each; id -1 where there are fewer."""
        return self._best, self._ids


def exact_neighbours(blocks: Blocks, queries: NDArray[np.float32], *, k: int) -> Neighbours:
    """The k best inner products and their ids, (Q, k), over blocks of (ids, vectors); -1 where there are fewer."""
    exact = Exact(queries, k=k)
    for ids, vectors in blocks:
        exact.show(ids, vectors)
    return exact.neighbours
