"""A filled index and queries whose neighbours are known -> how much effort it takes to find them, and what that costs.

Shape letters: Q = queries, D = width, R = candidates ranked again, T = true neighbours.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexInfo
from simclr.embed.exact import TIE, Neighbours
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.asking import EFFORTS, nearest

K = 10
"""Neighbours by which an index is judged: recall@10."""
TRUE_NEIGHBOURS = 100
"""Kept for each query: the ten nearest, and what is as near as the tenth, such as copies."""
DEPTHS = (10, 15, 20, 30, 40, 50, 70, 100, 140, 200, 280, 400)
"""Numbers of candidates that may be ranked again."""
SURE = 3.0
"""Standard errors: as many other queries then find less than was asked in one case of fifty."""


@dataclass(frozen=True)
class Truth:
    """Queries and their exact neighbours."""

    queries: NDArray[np.float32]
    """(Q, D) unit vectors."""
    neighbours: Neighbours
    """(Q, T) similarities and ids, best first."""

    def part(self, which: slice) -> Self:
        similarities, ids = self.neighbours
        return type(self)(self.queries[which], (similarities[which], ids[which]))

    def right(self, ids: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
        """(Q, R) ids -> which of them are among the k nearest of their query, or as near as the k-th."""
        similarities, true = self.neighbours
        last = similarities[:, min(k, true.shape[1]) - 1, None]
        wanted = np.where((similarities >= last - TIE) & (true >= 0), true, -2)
        most = int((wanted >= 0).sum(1).max(initial=1))
        found = np.zeros(ids.shape, np.bool_)
        for column in range(most):  # the wanted ones come first
            found |= ids == wanted[:, column, None]
        return found

    def shares(self, ids: NDArray[np.int64], k: int) -> NDArray[np.float64]:
        """(Q,) the share of each query's k nearest that are among its ids."""
        there = np.minimum((self.neighbours[1] >= 0).sum(1), k)
        found: NDArray[np.float64] = np.minimum(self.right(ids, k).sum(1), there) / np.maximum(there, 1)
        return np.where(there > 0, found, 1.0)


@dataclass(frozen=True)
class Setting:
    """How to ask an index, and what is to be had for it."""

    effort: int
    """nprobe or efSearch; 0 where the index has neither."""
    depth: int
    """Candidates ranked again to find ten."""
    recall: float
    search_seconds: float
    """Of FAISS, for one of many queries asked together."""
    rerank_seconds: float
    enough: bool = False
    """Whether other queries will find as much as is asked for, too."""

    @property
    def seconds(self) -> float:
        return self.search_seconds + self.rerank_seconds

    @classmethod
    def of(cls, info: IndexInfo) -> Self:
        """What a sidecar says."""
        parameters = info.search_parameters
        effort = next((int(parameters[name]) for name in EFFORTS if name in parameters), 0)
        return cls(effort, int(parameters.get("rerank", K)), 0.0, 0.0, 0.0)

    def parameters(self, index: Any) -> dict[str, float]:
        """As a sidecar says it."""
        name = Anatomy.of(index).effort
        return ({name: float(self.effort)} if name else {}) | {"rerank": float(self.depth)}


def settings(
    index: Any,
    truth: Truth,
    *,
    depths: tuple[int, ...] = DEPTHS,
    k: int = K,
    recall: float,
    errors: float = SURE,
    seconds_of_rerank: float,
    limit: float = np.inf,
) -> Iterator[Setting]:
    """The cheapest ways to reach a recall, for more and more effort, until effort alone costs more than the best so far.

    It also ends where a query among many takes longer than `limit` seconds: alone it takes longer still.

    `seconds_of_rerank` is for one candidate of one query. The recall is reached if it is `errors` standard errors above
    what is asked. Where nothing reaches it, the last setting is the best there is.
    """
    anatomy = Anatomy.of(index)
    best = np.inf
    for effort in _efforts(anatomy):
        deepest = min(depths[-1], int(index.ntotal), effort if anatomy.hnsw else depths[-1])
        ask = partial(nearest, index, truth.queries, effort=effort)
        seconds, ids = timed(partial(ask, deepest))
        depth, reached, found = deepest, False, truth.shares(ids[1], k)
        for tried in (depth for depth in depths if depth <= deepest):
            shares = truth.shares(ids[1][:, :tried], k)
            if _surely(shares, recall, errors):
                depth, reached, found = tried, True, shares
                break
        if depth < deepest:
            seconds, _ = timed(partial(ask, depth))
        each = seconds / len(truth.queries)
        setting = Setting(effort, depth, float(found.mean()), each, depth * seconds_of_rerank, reached)
        yield setting
        if reached:
            best = min(best, setting.seconds)
        if each > min(best, limit):
            return


def cheapest(found: Sequence[Setting]) -> Setting:
    """The fastest that is enough; else the one that comes closest."""
    enough = [setting for setting in found if setting.enough]
    if enough:
        return min(enough, key=lambda setting: setting.seconds)
    return max(found, key=lambda setting: setting.recall)


def _efforts(anatomy: Anatomy) -> Iterator[int]:
    if not anatomy.effort:
        yield 0
        return
    effort = 1 if anatomy.ivf is not None else 16
    while effort < anatomy.most_effort:
        yield effort
        effort *= 2
    yield anatomy.most_effort


def _surely(shares: NDArray[np.float64], recall: float, errors: float) -> bool:
    error = float(shares.std()) / max(1, len(shares)) ** 0.5
    return bool(float(shares.mean()) - errors * error >= recall - 1e-9)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result
