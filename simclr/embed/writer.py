"""Change a store: every change is one atomic commit, by one writer at a time. No model, no faiss.

A commit writes new shards under new numbers, then the manifest, then takes away what they replace: a kill in between
leaves the old store or the new one, and files that the manifest does not list go when the next writer opens the store.
Small shards are merged as they come, so that a store of many small additions does not fall to pieces.
"""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simclr.artifacts import ShardInfo, SourceInfo, StoreInfo, fsync_folder, write_atomically
from simclr.embed import replaced, shards
from simclr.embed.lock import check_usable, locked, remove_traces
from simclr.embed.shards import METADATA, REPLACED, SPARE, VECTORS, Row
from simclr.embed.store import MANIFEST_FILE, MODEL_FOLDER, Store, is_store
from simclr.errors import ArtifactError, EncoderMismatch
from simclr.runtime.model_files import MANIFEST_FILE as MODEL_MANIFEST
from simclr.runtime.model_files import PROBE_FILE, open_folder

SHARD_ROWS = 4096
"""Rows of a full shard."""


@contextlib.contextmanager
def writing(
    path: str | Path, *, model: Path | None = None, identity: str | None = None, width: int | None = None
) -> Iterator["StoreWriter"]:
    """Open a store for writing, with the lock that keeps other writers out; a new one exists from its first commit on.

    `model` is the export folder of which a new store keeps a copy; `identity` and `width` are its encoder's. Without
    them the store must be there. Raises EncoderMismatch if it holds another encoder's vectors, ArtifactError if another
    process is writing to it.
    """
    folder = Path(path)
    check_usable(folder)
    if model is None and not is_store(folder):
        Store.open(folder)
    with locked(folder):
        if is_store(folder):
            info = Store.open(folder).info
            if identity not in (None, info.identity):
                raise EncoderMismatch(
                    f"{folder}: its vectors were made by encoder {info.identity[:8]}, but {model} is {str(identity)[:8]}. "
                    "Use that encoder, or another --index."
                )
            writer = StoreWriter(folder, info)
            writer.clean()
        else:
            assert model is not None and identity is not None and width is not None
            remove_traces(folder)  # of one that was killed before its first commit
            writer = StoreWriter(folder, first_manifest(identity, width), model=model)
        try:
            yield writer
        except BaseException:
            if is_store(folder):  # other tools would read what a commit that failed half-way has left
                with contextlib.suppress(OSError, ArtifactError):
                    StoreWriter(folder, Store.open(folder).info).clean()
            raise


def copy(source: Path, target: Path) -> None:
    """Whole or not at all."""
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


def files_to_copy(model: Path) -> list[Path]:
    """The files of an export folder that a store keeps."""
    folder, exported = open_folder(model)
    return [folder / name for name in (*exported.files, PROBE_FILE, MODEL_MANIFEST)]


def first_manifest(identity: str, width: int) -> StoreInfo:
    return StoreInfo(
        uid=uuid.uuid4().hex,
        generation=0,
        identity=identity,
        width=width,
        sources=(),
        next_id=0,
        next_shard=0,
        shards=(),
    )


@dataclass(frozen=True)
class _Piece:
    """What is to be a shard: one that is there already, or a table with its vectors."""

    rows: int
    there: ShardInfo | None = None
    fresh: tuple[pa.Table, NDArray[np.float16]] | None = None


class StoreWriter:
    """The one process that changes a store. Made by `writing`."""

    def __init__(self, folder: Path, info: StoreInfo, *, model: Path | None = None) -> None:
        self.folder = folder
        self.info = info
        self._model = model
        self._ids: dict[int, NDArray[np.int64]] = {}
        """Ids of each shard, by its number, once they have been asked for."""
        self._verified: set[int] = set()

    @property
    def store(self) -> Store:
        """As of the last commit."""
        return Store(self.folder, self.info)

    def add_sources(self, sources: Iterable[SourceInfo]) -> None:
        """Those that `info.sources` does not have come behind the others, with the next `commit`."""
        every = tuple(dict.fromkeys([*self.info.sources, *sources]))
        self.info = dataclasses.replace(self.info, sources=every)

    def new_ids(self, count: int) -> range:
        """Ids that were never used; taken for good with the next `commit`."""
        first = self.info.next_id
        self.info = dataclasses.replace(self.info, next_id=first + count)
        return range(first, first + count)

    def look_up(self, ids: NDArray[np.int64]) -> Iterator[tuple[Row, NDArray[np.float32]]]:
        """Row and stored vector of each of these ids that the store holds. Raises ArtifactError where a shard is damaged."""
        for shard in self.info.shards:
            places = np.flatnonzero(np.isin(self._ids_of(shard), ids))
            if len(places):
                self._verify(shard)
                rows = shards.read_metadata(self.folder, shard).take(pa.array(places)).to_pylist()
                vectors = shards.read_vectors(self.folder, shard, mapped=True)[places].astype(np.float32)
                yield from zip((Row(**values) for values in rows), vectors, strict=True)

    def commit(self, rows: Sequence[Row], vectors: NDArray[np.float32], *, drop: Iterable[int] = ()) -> None:
        """One atomic change: `rows` with their unit vectors (N, width) come in, the ids in `drop` go out.

        A row that replaces an older one of its id names that id in `drop`. Shards that lose rows, and small ones beside
        new ones, are written anew under new numbers, behind the others. Raises ArtifactError if one of them is damaged.
        """
        dropped = np.fromiter(drop, np.int64)
        whole, cut = [], []
        for shard in self.info.shards:
            kept = ~np.isin(self._ids_of(shard), dropped) if len(dropped) else np.ones(shard.rows, np.bool_)
            if kept.all():
                whole.append(_Piece(shard.rows, there=shard))
            elif kept.any():
                table, old = self._load(shard)
                cut.append(_Piece(int(kept.sum()), fresh=(table.filter(pa.array(kept)), old[kept])))
        pieces = whole + cut
        if rows:
            pieces.append(_fresh(rows, vectors))
        self._replace_all(_merged(pieces))

    def replace_shard(self, old: ShardInfo, rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
        """Take a shard away, damaged as it may be, and commit these rows in its place. No other shard is touched."""
        pieces = [_Piece(shard.rows, there=shard) for shard in self.info.shards if shard != old]
        if rows:
            pieces.append(_fresh(rows, vectors))
        self._replace_all([[piece] for piece in pieces])

    def clean(self) -> None:
        """Remove what killed writers left, and what was replaced a while ago."""
        self.make_folders()
        spare = self.folder / SPARE / MANIFEST_FILE
        if not spare.exists() or spare.read_bytes() != (self.folder / MANIFEST_FILE).read_bytes():
            self.info.save(spare)  # before the shards go that only it lists
        for path in replaced.unlisted(self.folder, self.info, VECTORS, METADATA, SPARE):
            path.unlink()
        for path in self.folder.glob(".*.tmp"):  # of the manifest or skipped.csv
            path.unlink()
        replaced.forget(self.folder, self.info)

    # ---- a commit

    def _replace_all(self, groups: Sequence[list[_Piece]]) -> None:
        """Make each group a shard, and these the shards of the store."""
        if self._model is not None:
            self._begin(self._model)
        made: list[ShardInfo] = []
        number = self.info.next_shard
        for group in groups:
            if len(group) == 1 and (there := group[0].there):
                made.append(there)
                continue
            parts = [piece.fresh or self._load(piece.there) for piece in group]
            table = pa.concat_tables([table for table, _ in parts])
            shard = shards.write_shard(
                self.folder, number, table, np.concatenate([vectors for _, vectors in parts])
            )
            self._ids[number] = shards.numbers(table, "id")
            made.append(shard)
            number += 1
        made.sort(key=lambda shard: shard.number)  # the order in which foreign readers find them
        info = dataclasses.replace(
            self.info, generation=self.info.generation + 1, next_shard=number, shards=tuple(made)
        )
        self.publish(info)

    def publish(self, info: StoreInfo) -> None:
        """Make a manifest that of the store: the files of all its shards lie there. What it does not list is put away."""
        # the copy first: restored after a kill between the two, it lists shards that are all there, and ids not yet given
        info.save(self.folder / SPARE / MANIFEST_FILE)
        info.save(self.folder / MANIFEST_FILE)
        self.info = info
        replaced.put_away(self.folder, info)
        numbers = {shard.number for shard in info.shards}
        self._ids = {number: ids for number, ids in self._ids.items() if number in numbers}

    def _begin(self, model: Path) -> None:
        """Make the folders of a new store, and the copy of the model."""
        self.make_folders()
        for path in files_to_copy(model):
            copy(path, self.folder / MODEL_FOLDER / path.name)
        self._model = None

    def make_folders(self) -> None:
        """Tools that copy stores lose empty folders."""
        for name in (VECTORS, METADATA, SPARE, REPLACED, MODEL_FOLDER):
            (self.folder / name).mkdir(exist_ok=True)
        fsync_folder(self.folder)
        fsync_folder(self.folder.parent)

    # ---- shards

    def _ids_of(self, shard: ShardInfo) -> NDArray[np.int64]:
        if shard.number not in self._ids:
            self._ids[shard.number] = shards.numbers(shards.read_metadata(self.folder, shard, ["id"]), "id")
        return self._ids[shard.number]

    def _load(self, shard: ShardInfo | None) -> tuple[pa.Table, NDArray[np.float16]]:
        assert shard is not None
        self._verify(shard)
        return shards.read_metadata(self.folder, shard), shards.read_vectors(self.folder, shard)

    def _verify(self, shard: ShardInfo) -> None:
        """Before anything of it is written anew: damage would get a checksum of its own."""
        if shard.number not in self._verified:
            shards.verify_shard(self.folder, shard)
            self._verified.add(shard.number)


def _fresh(rows: Sequence[Row], vectors: NDArray[np.float32]) -> _Piece:
    return _Piece(len(rows), fresh=(shards.table_of(rows), vectors.astype(np.float16)))


def _merged(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Neighbours that are to be one shard.

    Two become one where they fit in a shard and the first is at most twice the second: so a store has few shards that
    are not full, and a row is written anew about as often as its shard can double.
    """
    groups: list[list[_Piece]] = []
    sizes: list[int] = []
    for piece in pieces:
        groups.append([piece])
        sizes.append(piece.rows)
        while len(sizes) > 1 and sizes[-2] + sizes[-1] <= SHARD_ROWS and sizes[-2] <= 2 * sizes[-1]:
            last, rows = groups.pop(), sizes.pop()
            groups[-1] += last
            sizes[-1] += rows
    return groups
