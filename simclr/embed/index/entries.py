"""Which version of which vector an index holds, so that it can be brought in step without reading what has not changed.

`out.faiss.entries` lies beside the index: the id of every entry with a fingerprint of its vector, and the shards they were
read from. A shard never changes, so the entries of one that is still in the store are in step; only other shards
are read. The sidecar vouches for the file by its SHA-256. Needed to update an index, not to search it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from simclr.artifacts import ShardInfo
from simclr.embed import shards
from simclr.embed.store import Store
from simclr.sources.cache import load_arrays, save_arrays

NO_ENTRIES = np.empty(0, np.int64)


@dataclass(frozen=True)
class Entries:
    """Arrays with a place for each entry, by rising id."""

    ids: NDArray[np.int64]
    prints: NDArray[np.uint64]
    """Of the vectors, see `fingerprints`."""
    shard: NDArray[np.int32]
    """Place in `shards` of the one it was read from."""
    shards: tuple[str, ...]
    """Keys of shards, see `key_of`."""

    @classmethod
    def none(cls) -> Self:
        return cls(NO_ENTRIES, np.empty(0, np.uint64), np.empty(0, np.int32), ())

    @classmethod
    def of(cls, store: Store, known: "Entries") -> Self:
        """What an index in step with the store holds. Reads the vectors of shards that are not among the known, verified."""
        places = {key: place for place, key in enumerate(known.shards)}
        parts: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
        keys = tuple(key_of(shard) for shard in store.info.shards)
        for shard, key in zip(store.info.shards, keys, strict=True):
            if key in places:
                here = known.shard == places[key]
                parts.append((known.ids[here], known.prints[here]))
            else:
                shards.verify_shard(store.folder, shard)
                ids = shards.numbers(shards.read_metadata(store.folder, shard, ["id"]), "id")
                parts.append((ids, fingerprints(shards.read_vectors(store.folder, shard))))
        shard_of = np.repeat(np.arange(len(parts), dtype=np.int32), [len(ids) for ids, _ in parts])
        return cls._sorted([ids for ids, _ in parts], [prints for _, prints in parts], [shard_of], keys)

    @classmethod
    def of_shard(cls, shard: ShardInfo, ids: NDArray[np.int64], vectors: NDArray[np.float16]) -> Self:
        """Of one shard that was read already, and verified."""
        where = np.zeros(len(ids), np.int32)
        return cls._sorted([ids], [fingerprints(vectors)], [where], (key_of(shard),))

    @classmethod
    def joined(cls, parts: Sequence["Entries"]) -> Self:
        """Those of several, which have no id in common."""
        starts = np.cumsum([0, *(len(part.shards) for part in parts)]).tolist()
        shard_of = [part.shard + np.int32(start) for part, start in zip(parts, starts, strict=False)]
        keys = tuple(key for part in parts for key in part.shards)
        return cls._sorted([part.ids for part in parts], [part.prints for part in parts], shard_of, keys)

    @classmethod
    def _sorted(
        cls,
        ids: list[NDArray[np.int64]],
        prints: list[NDArray[np.uint64]],
        shard_of: list[NDArray[np.int32]],
        keys: tuple[str, ...],
    ) -> Self:
        all_ids = np.concatenate([NO_ENTRIES, *ids])
        order = np.argsort(all_ids, kind="stable")
        all_prints = np.concatenate([np.empty(0, np.uint64), *prints])
        all_shards = np.concatenate([np.empty(0, np.int32), *shard_of])
        return cls(all_ids[order], all_prints[order], all_shards[order], keys)

    def lacking(self, other: "Entries") -> NDArray[np.int64]:
        """Rising ids of these that the other does not have, or has with another vector."""
        if not len(other.ids):
            return self.ids
        place = np.minimum(np.searchsorted(other.ids, self.ids), len(other.ids) - 1)
        same = (other.ids[place] == self.ids) & (other.prints[place] == self.prints)
        lacking: NDArray[np.int64] = self.ids[~same]
        return lacking

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As they are kept in a file."""
        keys = np.array(self.shards, np.str_)
        return {"ids": self.ids, "prints": self.prints, "shard": self.shard, "shards": keys}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls(arrays["ids"], arrays["prints"], arrays["shard"], tuple(arrays["shards"].tolist()))

    def save(self, path: Path) -> None:
        """Raises OSError."""
        save_arrays(path, self.arrays())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """None where the file is missing or damaged: the index is then built anew."""
        arrays = load_arrays(path)
        if arrays is None or set(arrays) != {"ids", "prints", "shard", "shards"}:
            return None
        return cls.of_arrays(arrays)


def key_of(shard: ShardInfo) -> str:
    """Same key, same rows: ids and vectors."""
    return f"{shard.vectors_sha256}:{shard.metadata_sha256}"


def fingerprints(vectors: NDArray[np.float16]) -> NDArray[np.uint64]:
    """(N, D) -> (N,), 64 bits of the BLAKE3 of each row's bytes."""
    return np.fromiter(_digests(np.ascontiguousarray(vectors).view(np.uint8)), np.uint64, len(vectors))


def _digests(rows: NDArray[np.uint8]) -> Iterator[int]:
    for row in rows:
        yield int.from_bytes(blake3(row).digest(8), "little")
