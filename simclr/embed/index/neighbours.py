"""Unit queries -> the k most similar vectors of a store by true cosine, found with its index. Knows no image and no path.

The index proposes candidates, `rerank.py` orders them by the store's vectors. More are asked for, with more effort, while fewer
than k came back, or while the last candidate is as near as one that counts: which of several copies comes first is then
decided by their ids, and not by chance. Where few vectors are allowed, all of them are compared.

Shape letters: Q = queries, K = neighbours, R = candidates.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexInfo
from simclr.embed.exact import Exact, Neighbours
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.asking import nearest
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.tuning import K, Setting
from simclr.embed.lookup import Lookup
from simclr.embed.rerank import rerank

_FEW = 5_000
"""Allowed vectors that are compared one by one in any case: a few milliseconds."""
_FEW_SHARE = 0.02
"""The same as a share of the store: an index would have to look into fifty times as much as it does without a filter."""
_BLOCK = 4096
"""Vectors compared at once."""
_EDGE = 1e-6
"""Estimates closer than this may be those of the same vector."""

Propose = Callable[[NDArray[np.float32], int, int], Neighbours]
"""Queries, how many candidates, effort -> estimated similarities and ids (Q, R), best first; id -1 where there are fewer."""


class Finder:
    """A FAISS index with the store it stands for. Safe to use from several threads.

    `setting`: how it is asked. `buried`: whether it has dead entries.
    """

    def __init__(self, index: Any, lookup: Lookup, setting: Setting, *, buried: bool) -> None:
        self._index = index
        self._anatomy = Anatomy.of(index)
        self._lookup = lookup
        self._setting = setting
        self._buried = buried

    @classmethod
    def of(cls, index: Any, info: IndexInfo, lookup: Lookup) -> Self:
        """As its sidecar says."""
        return cls(index, lookup, Setting.of(info), buried=info.buried > 0)

    def find(
        self, queries: NDArray[np.float32], k: int, *, allowed: NDArray[np.int64] | None = None
    ) -> Neighbours:
        """(Q, D) unit vectors -> cosines and ids (Q, K), best first, equal ones by id; K is k, or as many as there are.

        `allowed`: ids of the store, rising, among which to search. Rows end with -inf and -1 where an index that is
        behind its store has fewer.
        """
        size = len(self._lookup)
        total = size if allowed is None else len(allowed)
        k = min(k, total)
        if not k or not len(queries):
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        wider = math.ceil(max(1.0, k / K) ** 0.5)
        depth = max(k + 1, math.ceil(k * self._setting.depth / K))
        effort = self._setting.effort * wider
        if allowed is not None:
            effort = math.ceil(
                effort * size / total
            )  # as many of the allowed are looked at as otherwise of all
            if total <= max(_FEW, _FEW_SHARE * size) or not self._anatomy.filters or 2 * depth > total:
                return self._settle(queries, k, depth, 0, most=(total, 0), propose=self._among(allowed))

        def propose(queries: NDArray[np.float32], depth: int, effort: int) -> Neighbours:
            return nearest(self._index, queries, depth, effort=effort, allowed=allowed, buried=self._buried)

        most = (int(self._index.ntotal), self._anatomy.most_effort if self._anatomy.effort else 0)
        return self._settle(queries, k, depth, effort, most=most, propose=propose)

    def _settle(
        self,
        queries: NDArray[np.float32],
        k: int,
        depth: int,
        effort: int,
        *,
        most: tuple[int, int],
        propose: Propose,
    ) -> Neighbours:
        """Ask for candidates until the k best of each query are certain, or there are no more."""
        best = np.full((len(queries), k), -np.inf, np.float32)
        best_ids = np.full((len(queries), k), -1, np.int64)
        open_ = np.arange(len(queries))
        while len(open_):
            depth, effort = min(depth, most[0]), min(effort, most[1])
            estimates, found = propose(queries[open_], depth, effort)
            similarities, ids = rerank(self._lookup, queries[open_], found)
            width = min(k, ids.shape[1])
            best[open_, :width], best_ids[open_, :width] = similarities[:, :width], ids[:, :width]
            if (depth, effort) == most:
                break
            at_edge = np.where(estimates <= estimates[:, -1:] + _EDGE, found, -1)
            uncertain = best_ids[open_, -1] == -1
            uncertain |= _any_in(best_ids[open_], at_edge) & (depth < most[0])
            open_ = open_[uncertain]
            depth, effort = 2 * depth, 2 * effort
        return best, best_ids

    def _among(self, allowed: NDArray[np.int64]) -> Propose:
        """Compare with every one of them."""

        def propose(queries: NDArray[np.float32], depth: int, _: int) -> Neighbours:
            exact = Exact(queries, k=min(depth, len(allowed)))
            for start in range(0, len(allowed), _BLOCK):
                ids = allowed[start : start + _BLOCK]
                exact.show(ids, unit_vectors(self._lookup.vectors(ids)))
            return exact.neighbours

        return propose


def _any_in(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(Q, K) and (Q, R) ids -> (Q,) whether any id of a row, -1 not counted, is in the other's row."""
    found = np.zeros(len(rows), np.bool_)
    for column in np.flatnonzero((others >= 0).any(0)):  # few: those that are last by the index's reckoning
        other = others[:, column, None]
        found |= ((rows == other) & (other >= 0)).any(1)
    return found
