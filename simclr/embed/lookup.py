"""Ids -> the vectors, paths and sizes of the images of a store that they stand for, without reading the store. Searches nothing.

Vectors are gathered from the memory-mapped shards; metadata are read a shard at a time, when one of their images is asked for. What
is held in memory for a store of N rows is 12 bytes each.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simclr.embed import shards
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.sources import openable

_TABLES = 1024
"""Shards whose paths are kept, of 0.1 to 0.3 MB each: those of four million rows."""
_WHOLE = 64
"""Shards whose metadata are kept whole, of 0.7 MB each."""


class Lookup:
    """Where each id of a store is. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        tables = [shards.numbers(table, "id") for table in store.tables(["id"])]
        ids = np.concatenate([np.empty(0, np.int64), *tables])
        order = np.argsort(ids, kind="stable")
        self.ids: NDArray[np.int64] = ids[order]
        """(N,) all of them, rising."""
        self._rows = order.astype(np.int32 if len(ids) < 1 << 31 else np.int64)
        self._starts = np.cumsum([0, *map(len, tables)])
        self._vectors: dict[int, NDArray[np.float16]] = {}
        self._table = lru_cache(maxsize=_TABLES)(partial(_paths, store))
        self._whole = lru_cache(maxsize=_WHOLE)(partial(_all, store))

    def __len__(self) -> int:
        return len(self.ids)

    def ids_of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers, counted through the shards of the store, -> ids."""
        by_row = np.empty(len(self.ids), np.int64)
        by_row[self._rows] = self.ids
        found: NDArray[np.int64] = by_row[rows]
        return found

    def __contains__(self, id: int) -> bool:
        return bool(self.holds(np.array([id], np.int64))[0])

    def holds(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these, of any shape, are ids of the store."""
        if not len(self.ids):
            return np.zeros(ids.shape, np.bool_)
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        held: NDArray[np.bool_] = self.ids[place] == ids
        return held

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """(M,) ids of the store -> (M, width) as stored. Raises ArtifactError where a shard is missing or cut short."""
        found = np.empty((len(ids), self._store.info.width), np.float16)
        for shard, places, within in self._by_shard(ids):
            found[places] = self._mapped(shard)[within]
        return found

    def paths(self, ids: NDArray[np.int64]) -> list[str]:
        """Of the images of these ids, as `Store.path` gives them. Raises ArtifactError where the metadata of a shard is damaged."""
        found = [""] * len(ids)
        sources = self._store.info.sources
        for shard, places, within in self._by_shard(ids):
            numbers, names = self._table(shard)
            for place, row in zip(places.tolist(), within.tolist(), strict=True):
                source = sources[numbers[row].as_py()]
                found[place] = openable(source.kind, source.root, names[row].as_py())
        return found

    def sizes(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """(M,) ids -> (M, 2) width and height in pixels of the upright images. Raises as `paths`."""
        found: NDArray[np.int32] = self._sizes[self._rows[np.searchsorted(self.ids, ids)]]
        return found

    def row(self, id: int) -> Row:
        """All metadata of one image. Raises as `paths`."""
        ((shard, _, within),) = self._by_shard(np.array([id], np.int64))
        table = self._whole(shard)
        return Row(**{name: table[name][int(within[0])].as_py() for name in table.column_names})

    @cached_property
    def _sizes(self) -> NDArray[np.int32]:
        """(N, 2) by rows; 8 bytes each, once it is asked for."""
        tables = self._store.tables(["width", "height"])
        found = [np.stack([shards.numbers(each, name) for name in ("width", "height")], 1) for each in tables]
        return np.concatenate([np.empty((0, 2), np.int32), *found])

    def _by_shard(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """For each shard that holds some of them: its place in the manifest, their places in `ids`, and in the shard."""
        rows = self._rows[np.searchsorted(self.ids, ids)]
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(shard, kind="stable")
        ends = [*np.flatnonzero(np.diff(shard[order])) + 1, len(ids)] if len(ids) else []
        start = 0
        for end in ends:
            places = order[start:end]
            number = int(shard[places[0]])
            yield number, places, rows[places] - self._starts[number]
            start = end

    def _mapped(self, shard: int) -> NDArray[np.float16]:
        if shard not in self._vectors:
            info = self._store.info.shards[shard]
            mapped = shards.read_vectors(self._store.folder, info, mapped=True)
            self._vectors[shard] = mapped.view(np.ndarray)  # taking rows of a np.memmap is slow
        return self._vectors[shard]


def _paths(store: Store, shard: int) -> tuple[pa.Array, pa.Array]:
    """Of each row, the number of its source, and its path."""
    table = shards.read_metadata(store.folder, store.info.shards[shard], ["source", "image_path"])
    return table["source"].combine_chunks(), table["image_path"].combine_chunks()


def _all(store: Store, shard: int) -> pa.Table:
    return shards.read_metadata(store.folder, store.info.shards[shard])
