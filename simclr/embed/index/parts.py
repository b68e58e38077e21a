"""An index that many processes build together: trained once, filled apart, each part from some shards of the store. Joins nothing.

    out.faiss.parts/  trained.faiss, .npz, .json                  an index without entries, and the vectors left out to judge by
                      part-1-of-8-0123abcd.faiss, .npz, .json     its part of the entries, and which of them are near those

A `.json` is written last and carries the SHA-256 of its two files. The names of parts end with the SHA-256 of the index that they fill, so
that builders of two trainings never meet in a file.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexWish, PartInfo, ShardInfo, TrainedInfo, file_sha256
from simclr.embed import shards
from simclr.embed.exact import Exact
from simclr.embed.index.anatomy import empty_index
from simclr.embed.index.build import Note, Progress, ignore
from simclr.embed.index.choosing import Choice, Sample, choose
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import changing, read_index, write_index
from simclr.embed.index.joined_lists import joinable
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.menu import joinable_candidates
from simclr.embed.index.proving import seconds_of_rerank
from simclr.embed.index.set_apart import TUNING, SetApart
from simclr.embed.index.training import trained_index
from simclr.embed.index.tuning import TRUE_NEIGHBOURS
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ConfigError
from simclr.sources.cache import load_arrays, save_arrays

_TRAINED = "trained"

Info = TypeVar("Info", TrainedInfo, PartInfo)


@dataclass(frozen=True)
class Shard:
    """One of so many parts, counted from 1."""

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/8`. Raises ConfigError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard {text!r}: not a part of a whole. Give one such as 1/8, 2/8, ... 8/8.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    def name(self, trained: TrainedInfo) -> str:
        """Of its files."""
        return f"part-{self.number}-of-{self.parts}-{trained.sha256[:8]}"


@dataclass(frozen=True)
class Kept(Generic[Info]):
    """What lies in the folder under one name."""

    info: Info
    index_file: Path
    arrays_file: Path

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = load_arrays(self.arrays_file)
        assert found is not None, "its SHA-256 was right"
        return found


def folder_of(path: Path) -> Path:
    """Where the parts of an index lie."""
    return path.with_name(path.name + ".parts")


def train_parts(
    store: Store, path: str | Path, wish: IndexWish | None = None, *, note: Note = ignore
) -> TrainedInfo:
    """Choose the type of an index and train it, for `build_part` to fill.

    What was trained for the store as it is and the same wish is left as it is; parts of another training are deleted. A type is
    chosen as `build_index` does, among those whose parts can be joined. One that is named needs a sample of the store; to choose one, the whole
    store is read. Raises ConfigError if nothing can meet the wish, if parts of the named type cannot be joined, or if there are too few
    vectors; ArtifactError if a shard is damaged.
    """
    path, wish = Path(path), wish or IndexWish()
    folder = folder_of(path)
    if not len(store):
        raise _too_few(store)
    with changing(path):
        there = find(folder, _TRAINED, TrainedInfo)
        if there is not None and _for(there.info, store) and there.info.wish == wish:
            note(f"index: trained already; delete {folder} to train again")
            return there.info
        lookup = Lookup(store)
        apart = SetApart.of(store, lookup, wish.index_type)
        choice = _choice(store, lookup, apart, wish, note=note)
        note(f"index: training {choice.ranked[0]} with {len(apart.training):,} vectors")
        index = trained_index(choice.ranked[0], apart.training, choice.centroids)
        folder.mkdir(exist_ok=True)
        # what a kill leaves is then nothing trained, and not something damaged
        (folder / f"{_TRAINED}.json").unlink(missing_ok=True)
        info = TrainedInfo(
            sha256="",
            arrays_sha256="",
            store_uid=store.info.uid,
            generation=store.info.generation,
            factory=choice.ranked[0],
            wish=wish,
            reason=choice.reason,
            trials=choice.trials,
        )
        info = _save(folder, _TRAINED, index, {"ids": apart.held_ids, "vectors": apart.queries}, info)
        for part in folder.glob("part-*"):
            if f"-{info.sha256[:8]}." not in part.name:
                part.unlink(missing_ok=True)
        return info


def build_part(
    store: Store, path: str | Path, shard: Shard, *, progress: Progress = ignore, note: Note = ignore
) -> PartInfo:
    """Fill one part of an index that `train_parts` has trained; one that is there is left as it is.

    Each shard of the store in it is read once, and checked against its SHA-256. Raises ArtifactError if nothing is trained, the store has
    changed since, or a shard is damaged; ConfigError if the store has fewer shards than there are to be parts.
    """
    trained = load_trained(store, Path(path))
    folder = folder_of(Path(path))
    name = shard.name(trained.info)
    with changing(folder / f"{name}.faiss"):
        if (there := find(folder, name, PartInfo)) is not None:
            note(f"index: part {shard} is there already")
            return there.info
        index, held = read_index(trained.index_file), trained.arrays()
        exact = Exact(held["vectors"], k=min(TRUE_NEIGHBOURS, len(store)))
        own, entries = _shards_of(store, shard), list[Entries]()
        done, total = 0, sum(each.rows for each in own)
        progress(0, total, "")
        for each in own:
            shards.verify_shard(store.folder, each)
            ids = shards.numbers(shards.read_metadata(store.folder, each, ["id"]), "id")
            stored = shards.read_vectors(store.folder, each)
            entries.append(Entries.of_shard(each, ids, stored))
            added = ~np.isin(ids, held["ids"])
            if added.any():
                vectors, ids = unit_vectors(stored[added]), ids[added]
                exact.show(ids, vectors)
                index.add_with_ids(vectors, ids)
            done += each.rows
            progress(done, total, "")
        similarities, near = exact.neighbours
        arrays = Entries.joined(entries).arrays() | {"similarities": similarities, "near": near}
        info = PartInfo(sha256="", arrays_sha256="", size=int(index.ntotal))
        return _save(folder, name, index, arrays, info)


def load_trained(store: Store, path: Path) -> Kept[TrainedInfo]:
    """Raises ArtifactError if nothing is trained for this store as it is, or it is damaged."""
    found = find(folder_of(path), _TRAINED, TrainedInfo)
    again = f"Run: simclr index train {store.folder} --out {path}"
    if found is None:
        raise ArtifactError(f"{folder_of(path)}: no trained index there. {again}")
    if found.info.store_uid != store.info.uid:
        raise ArtifactError(f"{folder_of(path)}: trained for another store. {again}")
    if found.info.generation != store.info.generation:
        raise ArtifactError(
            f"{store.folder}: has changed since {folder_of(path)} was trained, so parts filled before and after would not fit. {again}"
        )
    return found


def load_parts(store: Store, path: Path) -> tuple[Kept[TrainedInfo], list[Kept[PartInfo]]]:
    """The trained index with all its parts. Raises ArtifactError if one is missing or damaged."""
    trained, folder = load_trained(store, path), folder_of(path)
    pattern = rf"part-\d+-of-(\d+)-{trained.info.sha256[:8]}\.json"
    counts = {int(match[1]) for file in folder.iterdir() if (match := re.fullmatch(pattern, file.name))}
    missing = [Shard(1, 1)]
    for count in sorted(counts):
        wanted = [Shard(number, count) for number in range(1, count + 1)]
        found = {shard: find(folder, shard.name(trained.info), PartInfo) for shard in wanted}
        parts = [part for part in found.values() if part is not None]
        if len(parts) == count:
            return trained, parts
        missing = [shard for shard, part in found.items() if part is None]
    named = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    raise ArtifactError(
        f"{folder}: missing {named}. Run: simclr index build {store.folder} --out {path} --shard {missing[0]}"
    )


def find(folder: Path, name: str, kind: type[Info]) -> Kept[Info] | None:
    """What was saved under a name; None if nothing was. Raises ArtifactError where it is damaged."""
    described = folder / f"{name}.json"
    if not described.exists():
        return None
    kept = Kept(kind.load(described), folder / f"{name}.faiss", folder / f"{name}.npz")
    for file, sha256 in ((kept.index_file, kept.info.sha256), (kept.arrays_file, kept.info.arrays_sha256)):
        if not file.exists() or file_sha256(file) != sha256:
            raise ArtifactError(f"{file}: missing or damaged. Delete {described}, and build it again.")
    return kept


def _save(folder: Path, name: str, index: Any, arrays: dict[str, NDArray[Any]], info: Info) -> Info:
    write_index(folder / f"{name}.faiss", index)
    save_arrays(folder / f"{name}.npz", arrays)
    info = dataclasses.replace(
        info,
        sha256=file_sha256(folder / f"{name}.faiss"),
        arrays_sha256=file_sha256(folder / f"{name}.npz"),
    )
    info.save(folder / f"{name}.json")
    return info


def _for(trained: TrainedInfo, store: Store) -> bool:
    return (trained.store_uid, trained.generation) == (store.info.uid, store.info.generation)


def _too_few(store: Store) -> ConfigError:
    return ConfigError(
        f"{store.folder}: {len(store):,} vectors are too few to index in parts. Run: simclr index build {store.folder}"
    )


def _choice(store: Store, lookup: Lookup, apart: SetApart, wish: IndexWish, *, note: Note) -> Choice:
    if apart.few:
        raise _too_few(store)
    if wish.index_type != "auto":
        if not joinable(empty_index(store.info.width, wish.index_type)):
            raise ConfigError(
                f"index type {wish.index_type}: its parts cannot be joined. Use auto, or inverted lists without fast-scan, "
                "such as IVF4096,SQ8 or IVF4096,RaBitQ4."
            )
        return Choice((wish.index_type,), (), "as asked for", None)
    offered = joinable_candidates(len(store), store.info.width)
    if not offered:
        raise _too_few(store)
    note(f"index: exact search of {len(apart.queries):,} queries")
    tuning = apart.truth(store).part(TUNING)
    return choose(
        wish, offered, apart.training, Sample.of(apart, lookup, tuning), tuning,
        size=len(store), seconds_of_rerank=seconds_of_rerank(lookup, apart.queries), note=note,
    )  # fmt: skip


def _shards_of(store: Store, shard: Shard) -> Sequence[ShardInfo]:
    """Neighbouring shards of the store, about as many rows for each part."""
    every = store.info.shards
    if shard.parts > len(every):
        raise ConfigError(
            f"shard {shard}: {store.folder} consists of {len(every):,} shards. Ask for {len(every):,} parts at most."
        )
    middles = np.cumsum([each.rows for each in every]) - np.array([each.rows for each in every]) / 2
    part_of = np.minimum((middles * shard.parts / max(1, len(store))).astype(int), shard.parts - 1)
    return [each for each, part in zip(every, part_of, strict=True) if part == shard.number - 1]
