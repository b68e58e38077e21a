"""Budgets and a sample -> the index type, with what each candidate would be. Builds nothing that is kept.

Every candidate that fits in the memory is filled with a sample of the store, and with the true neighbours of the queries. The inverted
lists are found once, for all vectors, and shared by the candidates. So what the sample says of recall and of the lists to look into
holds for all vectors: the neighbours are the real ones, in their real lists. What a sample of S of N has too little of is others that come
before them by their codes: of D candidates ranked again all but ten become N/S times as many. The time in the lists, or in a flat scan, grows by
N/S, the time of finding lists does not. Foretold numbers choose; the index that is built is measured itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexTrial, IndexWish
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.asking import nearest
from simclr.embed.index.budgets import in_bytes
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.menu import EXACT, Candidate, list_count
from simclr.embed.index.set_apart import SetApart
from simclr.embed.index.training import find_centroids, trained_index
from simclr.embed.index.tuning import DEPTHS, K, Truth, cheapest, settings, timed
from simclr.embed.lookup import Lookup
from simclr.errors import ConfigError
from simclr.free_memory import free_memory

SAMPLE = 20_000
"""Vectors that candidates are tried with, beside those that are to be found."""
EXACT_UP_TO = 50_000
"""Vectors up to which an exact index is taken if it keeps within the budgets, be another one faster."""
_AT_ONCE = 2_000_000
"""Numbers that are compared within a millisecond or two: an exact index of so many needs no trial."""
_ALIKE = 1.1
"""Of candidates whose speed differs by less than this the smaller one is taken: so much differs from run to run."""
_AGAIN = 5
"""So often the chosen way of asking a candidate is timed; the shortest time counts, since whatever else runs only adds to it."""
_ERRORS = 1.0
"""Standard errors above the recall asked for; the chosen one is tuned more carefully. A sample has fewer neighbours, and larger errors."""
_FIRST = 256
"""Vectors by which the time of adding is told."""
_PATIENCE = 30.0
"""Seconds that a trial may spend on adding: RaBitQ of 4 bits takes 8 ms for a vector of 2048 numbers, two hours for a million."""
_ALONE = 20
"""Queries that are asked one by one."""
_SAFE = 0.8
"""Share of the latency asked for that a foretold one may take: it is that far from what is measured in the end."""
_HOPELESS = 2.0
"""Times the latency asked for: beyond, a foretold latency is no matter of luck."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    ranked: tuple[str, ...]
    """Factory strings that meet the budgets by what is foretold, the best first."""
    trials: tuple[IndexTrial, ...]
    reason: str
    centroids: NDArray[np.float32] | None
    """Of the inverted lists that were tried."""


@dataclass(frozen=True)
class Sample:
    """What candidates are filled with."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    """(S, width) unit vectors: some of the store, and with them all that are to be found."""
    near: int
    """How many of them are to be found."""

    @classmethod
    def of(cls, apart: SetApart, lookup: Lookup, truth: Truth) -> Self:
        """The ten nearest of each query, and some of the training vectors."""
        near = truth.neighbours[1][:, :K]
        near = np.unique(near[near >= 0])
        ids = apart.training_ids
        others = np.arange(0, len(ids), max(1, len(ids) // SAMPLE))[:SAMPLE]
        others = others[~np.isin(ids[others], near)]
        vectors = np.concatenate([unit_vectors(lookup.vectors(near)), apart.training[others]])
        return cls(np.concatenate([near, ids[others]]), vectors, len(near))


def choose(
    wish: IndexWish,
    offered: Sequence[Candidate],
    training: NDArray[np.float32],
    sample: Sample,
    truth: Truth,
    *,
    size: int,
    seconds_of_rerank: float,
    note: Note,
) -> Choice:
    """Those of the offered types that meet the wish for `size` vectors, within half of the free memory if it says none.

    `training` (N, width) are unit vectors of the store; `truth` has queries with their exact neighbours in it. Raises
    ConfigError where nothing can meet the wish; it says what could be had.
    """
    memory = wish.memory or free_memory() // 2
    fitting = [candidate for candidate in offered if candidate.memory <= memory]
    if not fitting:
        least = min(offered, key=lambda candidate: candidate.memory)
        raise ConfigError(
            f"memory ({in_bytes(memory)}): no index of {size:,} vectors of {training.shape[1]} numbers is that small; "
            f"the smallest, {least.factory}, takes {in_bytes(least.memory)}. Allow that much with --memory."
        )
    if size * training.shape[1] <= _AT_ONCE and fitting[0].factory == EXACT:
        return Choice((EXACT,), (), "exact, and compared with all vectors in a moment", None)
    attempt = partial(
        _try, wish=wish, size=size, sample=sample, truth=truth, seconds_of_rerank=seconds_of_rerank
    )
    if size <= EXACT_UP_TO and fitting[0].factory == EXACT:
        exact = attempt(fitting[0])
        if not _misses(exact, wish):
            reason = f"exact, and within the budgets; others are tried above {EXACT_UP_TO:,} vectors"
            return Choice((EXACT,), (replace(exact, verdict="chosen"),), reason, None)
    centroids, seconds = None, 0.0
    if any(candidate.lists for candidate in fitting):
        lists = list_count(size, training.shape[1])
        note(f"index: finding {lists:,} lists among {len(training):,} vectors")
        seconds, centroids = timed(lambda: find_centroids(training, lists))
    trials = []
    for candidate in offered:
        if candidate in fitting:
            note(f"index: trying {candidate.factory} on {len(sample.ids):,} vectors")
            trials.append(attempt(candidate, centroids=centroids, lists_seconds=seconds))
        else:
            trials.append(_untried(candidate, f"more than {in_bytes(memory)}"))
    return _decide(tuple(trials), wish, centroids)


def _untried(candidate: Candidate, verdict: str) -> IndexTrial:
    return IndexTrial(
        factory=candidate.factory,
        memory=candidate.memory,
        recall=None,
        queries_per_second=None,
        latency=None,
        build_seconds=None,
        verdict=verdict,
    )


def _try(
    candidate: Candidate,
    *,
    wish: IndexWish,
    size: int,
    sample: Sample,
    truth: Truth,
    seconds_of_rerank: float,
    centroids: NDArray[np.float32] | None = None,
    lists_seconds: float = 0.0,
) -> IndexTrial:
    """What it would be with `size` vectors; its verdict is still to be given."""
    ids, vectors, queries = sample.ids, sample.vectors, truth.queries
    larger = size / len(ids)
    rarer = max(1.0, (size - sample.near) / max(1, len(ids) - sample.near))
    train_seconds, index = timed(
        lambda: trained_index(candidate.factory, vectors, centroids if candidate.lists else None)
    )
    few_seconds, _ = timed(lambda: index.add_with_ids(vectors[:_FIRST], ids[:_FIRST]))
    if (least := few_seconds / _FIRST * len(vectors)) > _PATIENCE:
        return _untried(candidate, f"slow to build, {least * larger / 60:,.0f} minutes")
    rest_seconds, _ = timed(lambda: index.add_with_ids(vectors[_FIRST:], ids[_FIRST:]))
    build_seconds = train_seconds + few_seconds + rest_seconds
    anatomy = Anatomy.of(index)
    depths = tuple(sorted({K + math.ceil((depth - K) / rarer) for depth in DEPTHS}))
    found = list(
        settings(
            index,
            truth,
            depths=depths,
            recall=wish.recall,
            errors=_ERRORS,
            seconds_of_rerank=0.0,
            limit=wish.latency / 1000,
        )
    )

    def whole(seconds: float, effort: int, queries: NDArray[np.float32]) -> float:
        """Seconds with the sample -> with all vectors, for one query."""
        if anatomy.hnsw:
            return seconds * max(1.0, math.log(size) / math.log(len(ids)))
        if anatomy.ivf is None:
            return seconds * larger
        quantizer = anatomy.ivf.quantizer
        fixed, _ = timed(lambda: quantizer.search(queries, max(1, effort)))
        fixed = min(seconds, fixed / len(queries))
        return fixed + (seconds - fixed) * larger

    full = [
        replace(
            setting,
            depth=min(DEPTHS[-1], round(K + (setting.depth - K) * rarer)),
            search_seconds=whole(setting.search_seconds, setting.effort, queries),
        )
        for setting in found
    ]
    full = [replace(setting, rerank_seconds=setting.depth * seconds_of_rerank) for setting in full]
    best = cheapest(full)
    ask = partial(nearest, index, k=best.depth, effort=best.effort)
    each = min(timed(partial(ask, queries))[0] for _ in range(_AGAIN)) / len(queries)
    best = replace(best, search_seconds=min(best.search_seconds, whole(each, best.effort, queries)))
    alone = [timed(partial(ask, query[None]))[0] for query in queries[:_ALONE]]
    latency = (
        whole(float(np.quantile(alone, 0.25)), best.effort, queries[:1]) + best.depth * seconds_of_rerank
    )
    return IndexTrial(
        factory=candidate.factory,
        memory=candidate.memory,
        recall=round(best.recall, 4),
        queries_per_second=round(1 / best.seconds, 1),
        latency=round(latency * 1e3, 3),
        build_seconds=round(build_seconds * larger + lists_seconds * (candidate.lists > 0), 1),
        verdict="",
    )


def _decide(trials: tuple[IndexTrial, ...], wish: IndexWish, centroids: NDArray[np.float32] | None) -> Choice:
    tried = [trial for trial in trials if trial.recall is not None]
    enough = [trial for trial in tried if _misses(trial, wish) == ""]
    if not enough:
        close = [trial for trial in tried if (trial.recall or 0) >= wish.recall]
        closest = min(close or tried, key=lambda trial: trial.latency or 0)
        if (closest.latency or 0) > _HOPELESS * wish.latency:
            raise ConfigError(
                f"recall {wish.recall:g} within {wish.latency:g} ms and the memory allowed: no index type comes near it. The closest, "
                f"{closest.factory}, would take {closest.latency:.2g} ms at recall@10 {closest.recall:.3f}. Allow more --latency or --memory, or less --recall."
            )
        enough = [closest]
    fastest = max(trial.queries_per_second or 0 for trial in enough)
    alike = [trial for trial in enough if (trial.queries_per_second or 0) * _ALIKE >= fastest]
    chosen = min(alike, key=lambda trial: trial.memory)
    reason = f"the smallest of those within {_ALIKE - 1:.0%} of the fastest that meet the budgets"
    if len(alike) == 1:
        reason = (
            "the fastest that meets the budgets" if len(enough) > 1 else "the only one that meets the budgets"
        )
    rest = sorted(enough, key=lambda trial: -(trial.queries_per_second or 0))
    ranked = [chosen, *(trial for trial in rest if trial is not chosen)]
    verdicts = tuple(
        replace(trial, verdict="chosen" if trial is chosen else trial.verdict or _misses(trial, wish) or "meets the budgets")
        for trial in trials
    )  # fmt: skip
    return Choice(tuple(trial.factory for trial in ranked), verdicts, reason, centroids)


def _misses(trial: IndexTrial, wish: IndexWish) -> str:
    """Which budget a candidate does not meet, in words; empty if it meets all."""
    if trial.recall is None or trial.latency is None:
        return trial.verdict
    if trial.recall < wish.recall:
        return f"recall below {wish.recall:g}"
    if trial.latency > wish.latency:
        return f"slower than {wish.latency:g} ms"
    return f"too close to {wish.latency:g} ms" if trial.latency > _SAFE * wish.latency else ""
