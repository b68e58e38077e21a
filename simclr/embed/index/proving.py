"""How good a filled index is, in figures, and whether that is what was asked for. How it is to be asked. Changes nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexInfo, IndexWish
from simclr.cpus import available_cpus
from simclr.embed.exact import Exact
from simclr.embed.index.neighbours import Finder
from simclr.embed.index.training import sample
from simclr.embed.index.tuning import DEPTHS, TRUE_NEIGHBOURS, K, Setting, Truth, cheapest, settings, timed
from simclr.embed.lookup import Lookup
from simclr.embed.rerank import rerank
from simclr.embed.store import Store

_CLOSE = 3
"""Settings whose whole searches are timed, of those that are enough."""
_SINGLE = 50
"""Queries that are asked alone, for the latency."""
_DEEPER = 3
"""Numbers of candidates that are timed for each setting, its own the first."""
_ROUNDS, _SECONDS = 10, 2.0
"""So often all of them are timed, in turn; no more once that has taken so long."""
_QUERIES = 500
"""Vectors of the store that an index is measured by when it has been changed."""

Answer = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.int64]]
"""Queries (Q, D) and their places among all (Q,) -> ids (Q, R), ranked again by the store's vectors."""


def tuned(index: Any, lookup: Lookup, truth: Truth, wish: IndexWish, *, seconds_of_rerank: float) -> Setting:
    """How to ask an index so that it finds what is wished, the fastest way; else the way that finds the most."""
    limit = 2 * wish.latency / 1000 if wish.index_type == "auto" else np.inf
    found = list(settings(index, truth, recall=wish.recall, seconds_of_rerank=seconds_of_rerank, limit=limit))
    enough = sorted((setting for setting in found if setting.enough), key=lambda setting: setting.seconds)
    return quickest(index, lookup, truth.queries, enough[:_CLOSE]) if enough else cheapest(found)


def seconds_of_rerank(lookup: Lookup, queries: NDArray[np.float32]) -> float:
    """Of one candidate of one query."""
    queries = queries[:50]
    ids = np.random.Generator(np.random.PCG64(0)).choice(lookup.ids, (len(queries), 50))
    timed(lambda: rerank(lookup, queries, ids))  # reads what is not in memory yet
    return timed(lambda: rerank(lookup, queries, ids))[0] / ids.size


def quickest(index: Any, lookup: Lookup, queries: NDArray[np.float32], among: Sequence[Setting]) -> Setting:
    """The setting of these, or one that ranks more candidates, with which whole searches are fastest.

    A search asks again where its last candidate counts, which the pieces that a setting was chosen by do not: more candidates at once are
    then fewer in the end.
    """
    ways = {
        (setting.effort, depth): replace(setting, depth=depth)
        for setting in among
        for depth in [*(each for each in DEPTHS if each >= setting.depth)][:_DEEPER]
    }
    seconds = dict.fromkeys(ways, np.inf)
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        for key, way in ways.items():
            finder = Finder(index, lookup, way, buried=False)
            seconds[key] = min(seconds[key], timed(partial(finder.find, queries, K))[0])
        if time.perf_counter() - started > _SECONDS:
            break
    return ways[min(seconds, key=lambda key: seconds[key])]


def measure(index: Any, lookup: Lookup, truth: Truth, setting: Setting, *, how: str) -> dict[str, Any]:
    """Recall@10, speed, and how they were measured, with queries that are not in the index."""
    finder = Finder(index, lookup, setting, buried=False)

    def answer(queries: NDArray[np.float32], _: NDArray[np.int64]) -> NDArray[np.int64]:
        return finder.find(queries, K)[1]

    return _figures(answer, truth) | _words(len(truth.queries), how, len(lookup))


def measure_again(index: Any, store: Store, lookup: Lookup, info: IndexInfo) -> dict[str, Any]:
    """The same for an index that has all its vectors: those of the store as queries, each without itself."""
    rows = np.unique(np.linspace(0, len(store) - 1, min(_QUERIES, len(store))).astype(np.int64))
    queries = sample(store, rows)
    exact, seen = Exact(queries, k=min(TRUE_NEIGHBOURS, len(store))), 0
    own = np.empty(len(rows), np.int64)
    for ids, vectors in store.blocks():
        here = (rows >= seen) & (rows < seen + len(ids))
        own[here] = ids[rows[here] - seen]
        exact.show(ids, vectors)
        seen += len(ids)
    similarities, ids = exact.neighbours
    others = _without(ids, own)
    truth = Truth(queries, (np.take_along_axis(similarities, others, 1), np.take_along_axis(ids, others, 1)))
    finder = Finder.of(index, info, lookup)

    def answer(queries: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.int64]:
        found = finder.find(queries, K + 1)[1]
        return np.take_along_axis(found, _without(found, own[places]), 1)

    return _figures(answer, truth) | _words(len(queries), "each without itself", len(lookup))


def below_recall(measured: dict[str, Any], wish: IndexWish) -> str:
    """That an index finds less than it was asked to, in words; empty if it finds enough."""
    found = measured["recall@10"]
    return f"recall@10 is {found:.3f}, below the {wish.recall:g} asked for" if found < wish.recall else ""


def above_latency(measured: dict[str, Any], wish: IndexWish) -> str:
    """That a query takes longer than asked, in words; empty if not, or if the index type was asked for by name."""
    taken = measured["latency_ms"]
    if wish.index_type != "auto" or taken <= wish.latency:
        return ""
    return f"a query takes {taken:.2g} ms, more than the {wish.latency:g} asked for"


def _figures(answer: Answer, truth: Truth) -> dict[str, float]:
    """What queries find and cost, all together and one by one, ranking again included."""
    places = np.arange(len(truth.queries))
    answer(truth.queries[:8], places[:8])  # what is opened at the first query is not its time
    seconds, ids = timed(partial(answer, truth.queries, places))
    alone = [
        timed(partial(answer, truth.queries[place, None], places[place, None]))[0]
        for place in places[:_SINGLE]
    ]
    return {
        "recall@10": round(float(truth.shares(ids[:, :K], K).mean()), 4),
        "queries_per_second": round(len(places) / seconds, 1),
        "latency_ms": round(float(np.median(alone)) * 1e3, 3),
        "latency_p99_ms": round(float(np.quantile(alone, 0.99)) * 1e3, 3),
        "queries": len(places),
    }


def _words(queries: int, how: str, vectors: int) -> dict[str, Any]:
    return {
        "how": f"{queries} vectors of the store as queries, {how}, against exact search; ranked again by the store's vectors; "
        "queries a second of all together, latency of one alone",
        "threads": available_cpus(),
        "vectors": vectors,
        "changed_since": 0,
        "bytes": 0,  # the file's, once there is one
    }


def _without(ids: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places of all but each row's own id, in order, one fewer than there are; of all but the last where it is not among them."""
    return np.argsort(ids == own[:, None], axis=1, kind="stable")[:, : max(1, ids.shape[1] - 1)]
