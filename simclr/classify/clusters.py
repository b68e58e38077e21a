"""Groups of like images: spherical k-means on some vectors of a store, then every image to its nearest centre.

Vectors are read a shard at a time; what stays in memory is the sample, and 16 bytes an image. Draws and prints nothing.

Shape letters: N = vectors, D = width, K = clusters.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import unwritable, write_atomically
from simclr.classify.centres import find_centres, nearest_two
from simclr.classify.cluster_count import Choice, choose_count, wanted
from simclr.embed.index.training import sample
from simclr.embed.lookup import Lookup
from simclr.embed.shards import numbers
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ConfigError, ImageError
from simclr.sources import openable

PER_CLUSTER = 256
"""Vectors a cluster from which its centre is found; FAISS's own number, above which it throws some away."""
SAMPLE_BYTES = 1 << 29
"""Of the sample at most, however many clusters: 262,144 vectors of 512 numbers."""
TYPICAL, UNTYPICAL = 8, 4
"""Images of each cluster that are named: nearest to its centre, and farthest from it."""

FEWEST = 30
"""Images with which a number can be chosen; with fewer it must be given."""


Note = Callable[[str], None]


def ignore(*_: object) -> None:
    """For those who want no notes."""


@dataclass(frozen=True)
class Member:
    """An image of a cluster."""

    id: int
    path: str
    similarity: float
    """Cosine to the centre of the cluster."""


@dataclass(frozen=True)
class Cluster:
    number: int
    """From 1, the largest cluster first."""
    size: int
    tightness: float
    """Mean cosine of its images to its centre."""
    typical: tuple[Member, ...]
    """The nearest to the centre first; no two of the same bytes."""
    untypical: tuple[Member, ...]
    """The farthest first; no two of the same bytes. In a small cluster some are among the typical ones, too."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """`clusters`, none of them empty, and to which each image belongs, in the order of the store."""

    clusters: tuple[Cluster, ...]
    asked: int
    """Clusters that were looked for; fewer are found where fewer vectors differ."""
    choice: Choice | None
    """How that number was chosen; None where it was given."""
    ids_N: NDArray[np.int64]
    numbers_N: NDArray[np.int32]
    """From 1."""
    similarities_N: NDArray[np.float32]
    """To the centre of the own cluster."""

    @property
    def tightness(self) -> float:
        """Mean cosine of all images to the centre of their cluster."""
        return float(self.similarities_N.mean(dtype=np.float64))


def find_clusters(
    store: Store,
    count: int | None = None,
    *,
    seed: int = 0,
    note: Note = ignore,
) -> Clusters:
    """`count` None chooses the number. The same for the same store, seed and machine.

    Checks every shard against its SHA-256. Raises ConfigError for a count below 2 or above that of the images, and where
    images are too few to choose one; ImageError where the store is empty or all its vectors are the same; ArtifactError
    where a shard is damaged.
    """
    _check(store, count)
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(store))
    choice = None
    if count is None:
        tried_with = _sample(store, drawn, wanted())
        choice = choose_count(tried_with, seed=seed, note=note)
        count = choice.count
    vectors_ND = _sample(store, drawn, count * PER_CLUSTER)
    note(f"{count:,} centres from {len(vectors_ND):,} vectors")
    centres_KD = find_centres(vectors_ND, count, seed=seed)
    note(f"{len(store):,} images, each to the nearest of them")
    found = _assigned(store, centres_KD)
    if len(found) < count:
        note(f"{len(found):,} clusters in place of {count:,}: there are no more vectors that differ")
    lookup = Lookup(store)
    clusters = tuple(each.cluster(lookup, number) for number, each in enumerate(found.parts, start=1))
    return Clusters(clusters, count, choice, found.ids_N, found.numbers_N, found.similarities_N)


def _check(store: Store, count: int | None) -> None:
    if not len(store):
        raise ImageError(
            f"{store.folder}: holds no vectors, so there is nothing to group. See {store.folder}/skipped.csv."
        )
    if count is None and len(store) < FEWEST:
        raise ConfigError(
            f"{store.folder}: holds {len(store):,} images, too few to choose a number of clusters by. Give one: -n 2"
        )
    if count is not None and not 2 <= count <= len(store):
        raise ConfigError(
            f"-n {count}: must be at least 2 and at most the number of images, {len(store):,} in {store.folder}."
        )


def _sample(store: Store, drawn_N: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """The first of the rows that were drawn, in that order. Raises ImageError if their vectors are all the same."""
    rows = drawn_N[: min(count, SAMPLE_BYTES // (4 * store.info.width))]
    order = np.argsort(rows)
    vectors_ND = sample(store, rows[order])[np.argsort(order)]
    if not np.isfinite(vectors_ND).all():
        raise ArtifactError(
            f"{store.folder}: a vector holds no numbers. Run: simclr store check {store.folder} --repair"
        )
    if (vectors_ND == vectors_ND[0]).all():
        raise ImageError(
            f"{store.folder}: its vectors are all the same ({len(rows):,} looked at), so there are no groups. "
            "Are its images, and is its encoder the right one?"
        )
    return vectors_ND


# ---- every image


class _Extremes:
    """Of each cluster the images of the largest values, no two of the same bytes. Shown a block at a time."""

    def __init__(self, clusters: int, keep: int) -> None:
        self._found: list[dict[str, tuple[float, int]]] = [{} for _ in range(clusters)]
        self._least_K = np.full(clusters, -np.inf, np.float32)
        self._keep = keep

    def show(
        self,
        own_N: NDArray[np.int32],
        values_N: NDArray[np.float32],
        ids_N: NDArray[np.int64],
        contents: Any,
    ) -> None:
        """`contents`: an Arrow column with the hash of each image's bytes."""
        rows = np.flatnonzero(values_N > self._least_K[own_N])
        for row in rows[np.argsort(-values_N[rows], kind="stable")].tolist():
            cluster, value, content = int(own_N[row]), float(values_N[row]), contents[row].as_py()
            found = self._found[cluster]
            if value <= self._least_K[cluster] or content in found:
                continue
            if len(found) == self._keep:
                del found[min(found, key=lambda each: (found[each][0], -found[each][1]))]
            found[content] = (value, int(ids_N[row]))
            if len(found) == self._keep:
                self._least_K[cluster] = min(each[0] for each in found.values())

    def of(self, cluster: int) -> list[tuple[float, int]]:
        """Values and ids, the largest first."""
        return sorted(self._found[cluster].values(), key=lambda each: (-each[0], each[1]))


@dataclass(frozen=True)
class _Part:
    """A cluster whose images have no names yet."""

    size: int
    tightness: float
    typical: list[tuple[float, int]]
    untypical: list[tuple[float, int]]

    def cluster(self, lookup: Lookup, number: int) -> Cluster:
        found = [*self.typical, *((-value, id) for value, id in self.untypical)]
        paths = lookup.paths(np.array([id for _, id in found], np.int64))
        members = [Member(id, path, similarity) for (similarity, id), path in zip(found, paths, strict=True)]
        typical, untypical = members[: len(self.typical)], members[len(self.typical) :]
        return Cluster(number, self.size, self.tightness, tuple(typical), tuple(untypical))


@dataclass(frozen=True, eq=False)
class _Assigned:
    parts: list[_Part]
    """The largest first."""
    ids_N: NDArray[np.int64]
    numbers_N: NDArray[np.int32]
    similarities_N: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.parts)


def _assigned(store: Store, centres_KD: NDArray[np.float32]) -> _Assigned:
    """Every image to its nearest centre, a shard at a time. Raises ArtifactError where one is damaged."""
    ids_N, similarities_N = np.empty(len(store), np.int64), np.empty(len(store), np.float32)
    own_N = np.empty(len(store), np.int32)
    typical, untypical = _Extremes(len(centres_KD), TYPICAL), _Extremes(len(centres_KD), UNTYPICAL)
    done = 0
    for table, vectors_ND in store.parts(["id", "content_hash"], verify=True):
        own, first, _ = nearest_two(vectors_ND, centres_KD)
        ids, contents = numbers(table, "id"), table["content_hash"]
        here = slice(done, done + len(own))
        own_N[here], similarities_N[here], ids_N[here] = own, first, ids
        typical.show(own, first, ids, contents)
        untypical.show(own, -first, ids, contents)
        done += len(own)
    sizes_K = np.bincount(own_N, minlength=len(centres_KD))
    tightness_K = np.bincount(own_N, similarities_N, len(centres_KD)) / np.maximum(1, sizes_K)
    order = np.lexsort([-tightness_K, -sizes_K])[: np.count_nonzero(sizes_K)]
    number_K = np.zeros(len(centres_KD), np.int32)
    number_K[order] = np.arange(1, len(order) + 1)
    parts = [
        _Part(int(sizes_K[k]), float(tightness_K[k]), typical.of(k), untypical.of(k)) for k in order.tolist()
    ]
    return _Assigned(parts, ids_N, number_K[own_N], similarities_N)


# ---- a file for other tools


def write_csv(path: Path, store: Store, found: Clusters) -> None:
    """A row for each image: id, path, cluster, similarity to its centre. Whole, or not at all. Raises ArtifactError."""
    try:
        write_atomically(path, partial(_fill_csv, store=store, found=found))
    except OSError as exc:
        raise unwritable(path, "--csv", exc) from exc


def _fill_csv(path: Path, *, store: Store, found: Clusters) -> None:
    done = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        # text is always quoted: a bare carriage return in a name would end its row for some readers
        out = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        out.writerow(["id", "path", "cluster", "similarity"])
        for table in store.tables(["source", "image_path"]):
            here = slice(done, done + len(table))
            sources = [store.info.sources[number] for number in table["source"].to_pylist()]
            names = zip(sources, table["image_path"].to_pylist(), strict=True)
            paths = [openable(source.kind, source.root, name) for source, name in names]
            similarities = [round(value, 6) for value in found.similarities_N[here].astype(float).tolist()]
            columns = found.ids_N[here].tolist(), paths, found.numbers_N[here].tolist(), similarities
            out.writerows(zip(*columns, strict=True))
            done += len(table)
