"""What is to be done so that a store agrees with its sources: which images to look into, which rows are gone.

Compares names, sizes and stamps; reads no image. A million of each take some hundred megabytes and a second or two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simclr.artifacts import SourceInfo
from simclr.embed.known import Contents, prefixes
from simclr.embed.shards import SCHEMA, numbers
from simclr.embed.store import Store
from simclr.embed.tasks import Task
from simclr.sources import Inventory, Names

_COLUMNS = ["id", "source", "image_path", "size", "mtime_ns", "content_hash"]


@dataclass(frozen=True)
class Rows:
    """What a comparison needs of each row of a store: 34 bytes and its path."""

    ids: NDArray[np.int64]
    sources: NDArray[np.int16]
    paths: pa.ChunkedArray
    sizes: NDArray[np.int64]
    stamps: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    """First 64 bits of the content hash."""

    @classmethod
    def of(cls, store: Store) -> "Rows":
        """Raises ArtifactError where the metadata of a shard are damaged."""
        tables = [
            (table.drop(["content_hash"]), prefixes(table["content_hash"]))
            for table in store.tables(_COLUMNS)
        ]
        rows = pa.concat_tables([SCHEMA.empty_table().select(_COLUMNS[:-1]), *(table for table, _ in tables)])
        return cls(
            numbers(rows, "id"),
            numbers(rows, "source"),
            rows["image_path"],
            numbers(rows, "size"),
            numbers(rows, "mtime_ns"),
            np.concatenate([np.empty(0, np.uint64), *(hashes for _, hashes in tables)]),
        )


@dataclass(frozen=True)
class Candidate:
    """An image that the store does not have as it is now."""

    source: int
    """Number in the store."""
    name: str
    size: int
    """Bytes, -1 where the source does not say."""
    stamp: int
    replaces: int | None
    """Id of the row that an earlier version of it has."""


@dataclass(frozen=True)
class Plan:
    inventories: Sequence[Inventory]
    sources: tuple[SourceInfo, ...]
    """Of the store, and then those that are new."""
    numbers: Sequence[int]
    """Of each inventory's source among them."""
    which: NDArray[np.int32]
    """Inventory of each candidate."""
    item: NDArray[np.int64]
    """Its number there."""
    replaces: NDArray[np.int64]
    """Id of its row, -1 where it has none."""
    gone: NDArray[np.int64]
    """Ids of rows whose image is no more."""
    kept: int
    contents: Contents
    """Of all rows of the store."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def new(self) -> int:
        return int(np.count_nonzero(self.replaces < 0))

    def tasks(self, numbers: Sequence[int] | NDArray[np.int64] | None = None) -> Iterator[Task]:
        """All candidates in order, or those of these numbers."""
        for number in range(len(self)) if numbers is None else numbers:
            yield self.task(int(number))

    def task(self, number: int, *, fresh: bool = False) -> Task:
        return Task(number, self.inventories[self.which[number]].place(int(self.item[number])), fresh)

    def candidate(self, number: int) -> Candidate:
        which, item = int(self.which[number]), int(self.item[number])
        inventory, replaced = self.inventories[which], int(self.replaces[number])
        return Candidate(
            self.numbers[which],
            inventory.names[item],
            int(inventory.sizes[item]),
            int(inventory.stamps[item]),
            None if replaced < 0 else replaced,
        )


def make_plan(
    rows: Rows,
    known: Sequence[SourceInfo],
    inventories: Sequence[Inventory],
    *,
    forgotten: Sequence[int] = (),
) -> Plan:
    """`rows` of the whole store; `known`: its sources. Rows of `forgotten` ones are gone, those of others that have
    no inventory are kept."""
    found = [SourceInfo(kind=inventory.kind, root=inventory.root) for inventory in inventories]
    sources = tuple(dict.fromkeys([*known, *found]))
    numbers = [sources.index(source) for source in found]
    which, item, replaces, gone = [], [], [], []
    ids, source_of = rows.ids, rows.sources
    kept = 0
    for place, (inventory, number) in enumerate(zip(inventories, numbers, strict=True)):
        own = np.flatnonzero(source_of == number)
        paths = rows.paths.take(pa.array(own)).cast(pa.large_string()).combine_chunks()
        row_of = pc.index_in(_arrow(inventory.names), value_set=paths).fill_null(-1).to_numpy()
        there = np.flatnonzero(row_of >= 0)
        row = own[row_of[there]]
        size, stamp = rows.sizes[row], rows.stamps[row]
        now = inventory.sizes[there]
        same = ((now == size) | (now < 0)) & (inventory.stamps[there] == stamp)
        replaced = np.full(len(inventory.names), -1, np.int64)
        replaced[there] = ids[row]
        open_ = np.ones(len(inventory.names), np.bool_)
        open_[there[same]] = False
        candidates = np.flatnonzero(open_)
        kept += int(same.sum())
        which.append(np.full(len(candidates), place, np.int32))
        item.append(candidates)
        replaces.append(replaced[candidates])
        unseen = np.delete(own, row_of[there])
        lost = [bool(inventory.gone(path)) for path in rows.paths.take(pa.array(unseen)).to_pylist()]
        gone.append(ids[unseen[np.array(lost, np.bool_)]])
        kept += len(lost) - sum(lost)
    gone.append(ids[np.isin(source_of, np.array(forgotten, np.int64))])
    return Plan(
        inventories,
        sources,
        numbers,
        np.concatenate([np.empty(0, np.int32), *which]),
        np.concatenate([np.empty(0, np.int64), *item]),
        np.concatenate([np.empty(0, np.int64), *replaces]),
        np.concatenate(gone),
        kept,
        Contents(rows.hashes, ids),
    )


def _arrow(names: Names) -> pa.Array:
    """The names as Arrow has them: without anything between two."""
    count = len(names)
    ends = names.starts[1:] - 1
    text = np.delete(np.frombuffer(names.blob, np.uint8), ends[:-1]) if count else np.empty(0, np.uint8)
    offsets = names.starts - np.arange(count + 1)
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(text))
