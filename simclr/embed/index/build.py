"""A store -> its index, from nothing: chosen, filled, tuned, measured, saved. Reads top to bottom.

Vectors are read a shard at a time, three times: some of them to train, all of them for the exact neighbours, all of them to add. Memory is needed for the index and the
training sample, not for the vectors. Up to 1,000 of them are left out at first: the index is tuned by one half of these, measured by the
other, and then gets them, too.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexInfo, IndexWish
from simclr.embed.index.anatomy import empty_index
from simclr.embed.index.choosing import SAMPLE, Choice, Sample, choose
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import changing, save_index
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.menu import EXACT, list_count
from simclr.embed.index.proving import above_latency, below_recall, measure, quickest
from simclr.embed.index.training import FOR_CODES, PER_LIST, sample, trained_index
from simclr.embed.index.tuning import TRUE_NEIGHBOURS, K, Setting, Truth, cheapest, settings, timed
from simclr.embed.lookup import Lookup
from simclr.embed.recall import Exact
from simclr.embed.rerank import rerank
from simclr.embed.store import Store
from simclr.errors import ImageError
from simclr.free_memory import free_memory

HELD_OUT = 1000
"""Vectors that are left out to measure the index by; a tenth of them, where there are few."""
_TRIES = 3
"""Types that are filled with all vectors, if the best one misses a budget then."""
_CLOSE = 3
"""Settings whose whole searches are timed, of those that are enough."""
_FEWEST = 20
"""Vectors left out that tell anything; with fewer the index is exact, and measured by its own vectors."""

_TUNING, _MEASURING = slice(0, None, 2), slice(1, None, 2)
"""Queries of the two halves. Rows that lie side by side, such as those of one folder, are in both."""

Progress = Callable[[int, int, str], None]
Note = Callable[[str], None]


def ignore(*_: object) -> None:
    """For those who want neither progress nor notes."""


def build_index(
    store: Store,
    path: str | Path,
    wish: IndexWish | None = None,
    *,
    progress: Progress = ignore,
    note: Note = ignore,
) -> IndexInfo:
    """Build, measure and save the index of a store; whatever was at `path` stays until the new one is whole.

    Every shard is checked against its SHA-256 on the way. Raises ImageError if the store is empty, ArtifactError
    if a shard is damaged, ConfigError if nothing can meet the wish.
    """
    path = Path(path)
    with changing(path):
        return build(store, path, wish or IndexWish(), progress=progress, note=note)


def build(store: Store, path: Path, wish: IndexWish, *, progress: Progress, note: Note) -> IndexInfo:
    """The same inside `changing`."""
    if not len(store):
        raise ImageError(
            f"{store.folder}: holds no vectors, so there is nothing to index. See {store.folder}/skipped.csv."
        )
    memory = wish.memory or free_memory() // 2
    held, training_rows = _divide(len(store), store.info.width, wish.index_type)
    lookup, training, queries = Lookup(store), sample(store, training_rows), sample(store, held)
    few = not len(held)
    how = "left out of the index meanwhile"
    if few:
        queries, how = training, "which are in the index themselves"
    cost = _seconds_of_rerank(lookup, queries)
    held_ids = lookup.ids_of_rows(held)
    if wish.index_type == "auto" and not few:
        truth = _exact(store, queries, held_ids, note=note)
        tuning = truth.part(_TUNING)
        tried = _sample(lookup, tuning, lookup.ids_of_rows(training_rows), training)
        choice = choose(wish, memory, len(store), training, tried, tuning, seconds_of_rerank=cost, note=note)
    else:
        if wish.index_type == "auto":
            choice = Choice((EXACT,), (), "exact: there are too few vectors to choose by", None)
        else:
            empty_index(
                store.info.width, wish.index_type
            )  # says what is wrong with it before anything is read
            choice = Choice((wish.index_type,), (), "as asked for", None)
        truth = _exact(store, queries, held_ids, note=note)
    best: _Built | None = None
    for factory in choice.ranked[:_TRIES]:
        index = trained_index(factory, training, choice.centroids)
        _fill(index, store, held_ids, progress=progress)
        setting = _tune(index, lookup, truth.part(_TUNING), wish, cost)
        measured = measure(index, lookup, truth if few else truth.part(_MEASURING), setting, how=how)
        built = _Built(factory, index, setting, measured)
        best = built if best is None else max(best, built, key=lambda each: each.worth(wish))
        if not (missed := built.misses(wish)):
            break
        note(f"index: {factory} with all vectors: {missed}")
    assert best is not None
    if not few:
        best.index.add_with_ids(queries, held_ids)
    info = IndexInfo(
        sha256="",
        entries_sha256="",
        generation=store.info.generation,
        store=relative(store, path),
        store_uid=store.info.uid,
        identity=store.info.identity,
        width=store.info.width,
        size=len(store),
        buried=0,
        built_with=len(store),
        factory=best.factory,
        search_parameters=best.setting.parameters(best.index),
        wish=wish,
        reason=choice.reason
        if best.factory == choice.ranked[0]
        else "the best of those tried with all vectors",
        trials=choice.trials,
        measured=best.measured,
    )
    return save_index(path, best.index, info, Entries.of(store, Entries.none()))


@dataclass(frozen=True)
class _Built:
    """An index that is filled but for what was left out."""

    factory: str
    index: Any
    setting: Setting
    measured: dict[str, Any]

    def misses(self, wish: IndexWish) -> str:
        return below_recall(self.measured, wish) or above_latency(self.measured, wish)

    def worth(self, wish: IndexWish) -> tuple[bool, float]:
        """Enough recall comes first; then the quicker one, or the one that finds more."""
        enough = not below_recall(self.measured, wish)
        return enough, -self.measured["latency_ms"] if enough else self.measured["recall@10"]


def relative(store: Store, path: Path) -> str:
    """Where the store lies, as the sidecar of an index says it."""
    return os.path.relpath(store.folder.resolve(), path.resolve().parent)


def _divide(size: int, width: int, index_type: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers that are held out, and those to train with, both rising; the same for the same store."""
    order = np.random.Generator(np.random.PCG64(size)).permutation(size)
    held = min(HELD_OUT, size // 10)
    held = 0 if held < _FEWEST else held
    named = re.search(r"IVF(\d+)", index_type)
    lists = list_count(size, width) if index_type == "auto" else int(named.group(1)) if named else 0
    room = free_memory() // 4 // (4 * width)
    wanted = min(max(FOR_CODES, PER_LIST * lists), max(FOR_CODES, room))
    return np.sort(order[:held]), np.sort(order[held : held + wanted])


def _exact(store: Store, queries: NDArray[np.float32], held_ids: NDArray[np.int64], *, note: Note) -> Truth:
    """The queries with their exact neighbours among all vectors that are not held out. Checks every shard."""
    note(f"index: exact search of {len(queries):,} queries")
    exact = Exact(queries, k=min(TRUE_NEIGHBOURS, len(store)))
    for ids, vectors in _added(store, held_ids, verify=True):
        exact.show(ids, vectors)
    return Truth(queries, exact.neighbours)


def _fill(index: Any, store: Store, held_ids: NDArray[np.int64], *, progress: Progress) -> None:
    """Add all vectors but those held out."""
    done = len(held_ids)
    progress(0, len(store), "")
    for ids, vectors in _added(store, held_ids, verify=False):
        index.add_with_ids(vectors, ids)
        done += len(ids)
        progress(done, len(store), "")


def _added(
    store: Store, held_ids: NDArray[np.int64], *, verify: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for ids, vectors in store.blocks(verify=verify):
        added = ~np.isin(ids, held_ids)
        if added.all():
            yield ids, vectors
        elif added.any():  # FAISS refuses to add nothing to some types
            yield ids[added], vectors[added]


def _sample(lookup: Lookup, truth: Truth, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> Sample:
    """What types are tried with: the ten nearest of each query, and some of the training vectors (N, width) with these ids."""
    near = truth.neighbours[1][:, :K]
    near = np.unique(near[near >= 0])
    others = np.arange(0, len(ids), max(1, len(ids) // SAMPLE))[:SAMPLE]
    others = others[~np.isin(ids[others], near)]
    return Sample(
        np.concatenate([near, ids[others]]),
        np.concatenate([unit_vectors(lookup.vectors(near)), vectors[others]]),
        len(near),
    )


def _tune(index: Any, lookup: Lookup, truth: Truth, wish: IndexWish, seconds_of_rerank: float) -> Setting:
    limit = 2 * wish.latency / 1000 if wish.index_type == "auto" else np.inf
    found = list(settings(index, truth, recall=wish.recall, seconds_of_rerank=seconds_of_rerank, limit=limit))
    enough = sorted((setting for setting in found if setting.enough), key=lambda setting: setting.seconds)
    return quickest(index, lookup, truth.queries, enough[:_CLOSE]) if enough else cheapest(found)


def _seconds_of_rerank(lookup: Lookup, queries: NDArray[np.float32]) -> float:
    """Of one candidate of one query."""
    queries = queries[:50]
    ids = np.random.Generator(np.random.PCG64(0)).choice(lookup.ids, (len(queries), 50))
    timed(lambda: rerank(lookup, queries, ids))  # reads what is not in memory yet
    return timed(lambda: rerank(lookup, queries, ids))[0] / ids.size
