"""Stores and classes -> vectors to learn from and to test on, the same images of every store.

Shape letters: N = training images, Q = test images, S = rows of a shard, D = width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.classify.labels import Labels, read_labels
from simclr.classify.splits import at_most, hold_out
from simclr.embed.store import Store
from simclr.errors import ConfigError
from simclr.sources import openable

MOST_TO_LEARN = 50_000
"""Training images; of larger sets each class gives its share. All of CIFAR-10's."""
MOST_TO_TEST = 10_000

Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Examples:
    """Vectors of unit length with their classes, to learn from and to test on."""

    classes: tuple[str, ...]
    train_ND: NDArray[np.float32]
    train_N: NDArray[np.int64]
    test_QD: NDArray[np.float32]
    test_Q: NDArray[np.int64]

    def fewer(self, rows: NDArray[np.int64]) -> "Examples":
        """With some of the images to learn from."""
        return replace(self, train_ND=self.train_ND[rows], train_N=self.train_N[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows of a store are learned from, and which tested on; the n-th of two stores are the same image."""

    classes: tuple[str, ...]
    train_N: NDArray[np.int64]
    """Rows."""
    train_labels_N: NDArray[np.int64]
    test_Q: NDArray[np.int64]
    test_labels_Q: NDArray[np.int64]
    held_out: bool
    """Nothing said which images test."""


def split_stores(
    stores: Sequence[Store], where: str | Path, *, seed: int = 0, note: Note = lambda line: None
) -> list[Split]:
    """One split for each store, of the images that all of them have; `where` as in `read_labels`.

    Raises ConfigError where the labels make no sense, or the stores have no image in common.
    """
    labels = [read_labels(store, where, note=note) for store in stores]
    if len(stores) > 1:
        labels = _in_common(stores, labels, note=note)
    first = labels[0]
    tests = hold_out(first, seed=seed) if first.tests_N is None else first.tests_N
    train, test = np.flatnonzero(~tests), np.flatnonzero(tests)
    train = train[at_most(first.labels_N[train], MOST_TO_LEARN)]
    test = test[at_most(first.labels_N[test], MOST_TO_TEST)]
    if left := len(first) - len(train) - len(test):
        note(
            f"{left:,} labelled images are left out: about {MOST_TO_LEARN:,} are learned from and {MOST_TO_TEST:,} tested on"
        )
    train_labels, test_labels, held_out = first.labels_N[train], first.labels_N[test], first.tests_N is None
    return [
        Split(first.classes, each.rows_N[train], train_labels, each.rows_N[test], test_labels, held_out)
        for each in labels
    ]


def examples(store: Store, split: Split) -> Examples:
    """Their vectors, read a shard at a time. Raises ArtifactError where one is missing or cut short."""
    train_ND = np.empty((len(split.train_N), store.info.width), np.float32)
    test_QD = np.empty((len(split.test_Q), store.info.width), np.float32)
    seen = 0
    for _, vectors_SD in store.blocks():
        for rows, taken in ((split.train_N, train_ND), (split.test_Q, test_QD)):
            here = (rows >= seen) & (rows < seen + len(vectors_SD))
            taken[here] = vectors_SD[rows[here] - seen]
        seen += len(vectors_SD)
    return Examples(split.classes, train_ND, split.train_labels_N, test_QD, split.test_labels_Q)


def _in_common(stores: Sequence[Store], labels: list[Labels], *, note: Note) -> list[Labels]:
    """The images that every store has a class for, in the order of the first."""
    places = [_places(store, each) for store, each in zip(stores, labels, strict=True)]
    common = [path for path in places[0] if all(path in other for other in places[1:])]
    folders = " and ".join(str(store.folder) for store in stores)
    if not common:
        raise ConfigError(
            f"{folders}: no labelled image in common. Embed the same folders with both encoders."
        )
    if len(common) < max(map(len, places)):
        note(f"{len(common):,} labelled images are in all of the stores, and are compared")
    picked = [
        _at(each, np.array([at[path] for path in common])) for each, at in zip(labels, places, strict=True)
    ]
    first = picked[0]
    if any(other.classes != first.classes or (other.labels_N != first.labels_N).any() for other in picked):
        raise ConfigError(f"{folders}: their classes differ. Give the same table for all with --labels.")
    return picked


def _places(store: Store, labels: Labels) -> dict[str, int]:
    """Path or URL of each labelled image -> its place."""
    table = store.table(["source", "image_path"])
    numbers, names = table["source"].to_pylist(), table["image_path"].to_pylist()
    sources = store.info.sources
    return {
        openable(sources[numbers[row]].kind, sources[numbers[row]].root, names[row]): place
        for place, row in enumerate(labels.rows_N.tolist())
    }


def _at(labels: Labels, places: NDArray[np.int64]) -> Labels:
    return replace(
        labels,
        rows_N=labels.rows_N[places],
        labels_N=labels.labels_N[places],
        contents_N=labels.contents_N[places],
        tests_N=None if labels.tests_N is None else labels.tests_N[places],
    )
