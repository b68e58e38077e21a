"""A store -> its index, from nothing: chosen, filled, tuned, measured, saved. Reads top to bottom.

Vectors are read a shard at a time, three times: some of them to train, all of them for the exact neighbours, all of them to add. Memory is needed for the index and the
training sample, not for the vectors. Up to 1,000 of them are left out at first: the index is tuned by one half of these, measured by the
other, and then gets them, too.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr.artifacts import IndexInfo, IndexTrial, IndexWish
from simclr.embed.index.anatomy import empty_index
from simclr.embed.index.choosing import Choice, Sample, choose
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import changing, save_index
from simclr.embed.index.menu import EXACT, candidates
from simclr.embed.index.proving import above_latency, below_recall, measure, seconds_of_rerank, tuned
from simclr.embed.index.set_apart import MEASURING, TUNING, SetApart
from simclr.embed.index.training import trained_index
from simclr.embed.index.tuning import Setting
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ImageError

_TRIES = 3
"""Types that are filled with all vectors, if the best one misses a budget then."""

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
    lookup = Lookup(store)
    apart = SetApart.of(store, lookup, wish.index_type)
    cost = seconds_of_rerank(lookup, apart.queries)
    if wish.index_type != "auto":
        empty_index(store.info.width, wish.index_type)  # says what is wrong with it before anything is read
    note(f"index: exact search of {len(apart.queries):,} queries")
    truth = apart.truth(store)
    if wish.index_type != "auto":
        choice = Choice((wish.index_type,), (), "as asked for", None)
    elif apart.few:
        choice = Choice((EXACT,), (), "exact: there are too few vectors to choose by", None)
    else:
        offered = candidates(len(store), store.info.width)
        tuning = truth.part(TUNING)
        choice = choose(
            wish, offered, apart.training, Sample.of(apart, lookup, tuning), tuning,
            size=len(store), seconds_of_rerank=cost, note=note,
        )  # fmt: skip
    best: _Built | None = None
    for factory in choice.ranked[:_TRIES]:
        index = trained_index(factory, apart.training, choice.centroids)
        _fill(index, store, apart, progress=progress)
        setting = tuned(index, lookup, truth.part(TUNING), wish, seconds_of_rerank=cost)
        measured = measure(
            index, lookup, truth if apart.few else truth.part(MEASURING), setting, how=apart.how
        )
        built = _Built(factory, index, setting, measured)
        best = built if best is None else max(best, built, key=lambda each: each.worth(wish))
        if not (missed := built.misses(wish)):
            break
        note(f"index: {factory} with all vectors: {missed}")
    assert best is not None
    if not apart.few:
        best.index.add_with_ids(apart.queries, apart.held_ids)
    first = best.factory == choice.ranked[0]
    info = described(
        store,
        path,
        wish=wish,
        factory=best.factory,
        search_parameters=best.setting.parameters(best.index),
        measured=best.measured,
        reason=choice.reason if first else "the best of those tried with all vectors",
        trials=choice.trials,
    )
    return save_index(path, best.index, info, Entries.of(store, Entries.none()))


def described(
    store: Store,
    path: Path,
    *,
    wish: IndexWish,
    factory: str,
    search_parameters: dict[str, float],
    measured: dict[str, Any],
    reason: str,
    trials: tuple[IndexTrial, ...],
) -> IndexInfo:
    """What the sidecar says of an index that has been built of a whole store."""
    return IndexInfo(
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
        factory=factory,
        search_parameters=search_parameters,
        wish=wish,
        reason=reason,
        trials=trials,
        measured=measured,
    )


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


def _fill(index: Any, store: Store, apart: SetApart, *, progress: Progress) -> None:
    """Add all vectors but those left out."""
    done = len(apart.held_ids)
    progress(0, len(store), "")
    for ids, vectors in apart.others(store, verify=False):
        index.add_with_ids(vectors, ids)
        done += len(ids)
        progress(done, len(store), "")
