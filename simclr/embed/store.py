"""Shards of vectors and metadata, written whole or not at all; read back as blocks. No model, no faiss.

    out.store/  manifest.json            which shards exist; the store changes when this file does
                img_emb/img_emb_00000.npy           (rows, width) float16, unit length
                metadata/metadata_00000.parquet     the columns of `Row`, same order
                model/                   the exported encoder that made the vectors
                skipped.csv              files not embedded, with the reason

The layout is the one that clip-retrieval, autofaiss and embedding-reader read. A change writes new shards under
new numbers, then the manifest, then deletes what it replaced: a kill in between leaves the old store or the
new one, and files that the manifest does not list go when the next writer opens the store.
"""

import contextlib
import csv
import dataclasses
import io
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simclr.artifacts import ShardInfo, StoreInfo, file_sha256, write_atomically
from simclr.errors import ArtifactError, EncoderMismatch, reason
from simclr.runtime.model_files import MANIFEST_FILE as MODEL_MANIFEST
from simclr.runtime.model_files import PROBE_FILE, open_folder

MANIFEST_FILE = "manifest.json"
SKIPPED_FILE = "skipped.csv"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Row:
    """One embedded file. Copies of a file have a row each."""

    id: int
    """Stable while the path exists, and never given to another."""
    source: int
    """Which of the store's `sources` the path is relative to."""
    image_path: str
    size: int
    """Bytes."""
    mtime_ns: int
    content_hash: str
    """BLAKE3 of the bytes."""
    width: int
    """Of the upright image, in pixels."""
    height: int


_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("source", pa.int16(), nullable=False),
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)


class Store:
    """A view of a store as its manifest was when it was opened, or last changed through this object."""

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder = folder
        self.info = info

    # ---- reading

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ArtifactError if there is no store, or its manifest is damaged."""
        folder = Path(path)
        if not (folder / MANIFEST_FILE).exists():
            raise ArtifactError(
                f"{folder}: no store there. Make one with `simclr embed FOLDER --store {folder}`."
            )
        return cls(folder, StoreInfo.load(folder / MANIFEST_FILE))

    @classmethod
    def model_of(cls, path: Path) -> Path | None:
        """The export folder kept in a store, None where there is no store."""
        return cls.open(path).model if (path / MANIFEST_FILE).exists() else None

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.info.shards)

    def rows(self) -> list[Row]:
        """The metadata of every vector, in the order of `blocks`."""
        return [Row(**values) for shard in self.info.shards for values in self._table(shard).to_pylist()]

    def blocks(self, *, verify: bool = False) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids and unit-length float32 vectors, a shard at a time.

        `verify` compares each file's SHA-256 with the manifest first; raises ArtifactError where it disagrees.
        """
        for shard in self.info.shards:
            if verify:
                self._verify(shard)
            vectors = self._vectors(shard).astype(np.float32)
            vectors /= np.maximum(
                np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
            )  # float16 rounds lengths
            yield self._table(shard, ["id"])["id"].to_numpy(), vectors

    def path(self, row: Row) -> Path:
        """Where the image of a row lies."""
        return Path(self.info.sources[row.source]) / row.image_path

    @property
    def model(self) -> Path:
        """The export folder of the encoder that made the vectors."""
        return self.folder / MODEL_FOLDER

    # ---- writing

    @classmethod
    @contextlib.contextmanager
    def writing(cls, path: str | Path, *, model: Path, identity: str, width: int) -> Iterator[Self]:
        """Open for writing, or create, with the lock that keeps other writers out.

        `model` is the export folder, copied into a new store. Raises EncoderMismatch if the store holds another
        encoder's vectors, ArtifactError if another process is writing to it.
        """
        folder = Path(path)
        if folder.exists() and not (folder / MANIFEST_FILE).exists() and not _usable(folder):
            raise ArtifactError(f"{folder}: exists and is no store. Use another --store or --index.")
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ArtifactError(
                f"{folder}: another `simclr embed` is writing to it. Wait for it, or stop it."
            ) from None
        try:
            if (folder / MANIFEST_FILE).exists():
                store = cls.open(folder)
                if store.info.identity != identity:
                    raise EncoderMismatch(
                        f"{folder}: its vectors were made by encoder {store.info.identity[:8]}, but {model} is {identity[:8]}. "
                        "Use that encoder, or another --index."
                    )
            else:
                store = cls._create(folder, model=model, identity=identity, width=width)
            store._remove_leftovers()
            yield store
        finally:
            lock.release()

    @classmethod
    def _create(cls, folder: Path, *, model: Path, identity: str, width: int) -> Self:
        (folder / "img_emb").mkdir(exist_ok=True)
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / MODEL_FOLDER).mkdir(exist_ok=True)
        _, exported = open_folder(model)
        for name in (*exported.files, PROBE_FILE, MODEL_MANIFEST):
            shutil.copyfile(model / name, folder / MODEL_FOLDER / name)
        info = StoreInfo(
            uid=uuid.uuid4().hex,
            generation=0,
            identity=identity,
            width=width,
            sources=(),
            next_id=0,
            shards=(),
        )
        info.save(folder / MANIFEST_FILE)
        return cls(folder, info)

    def add_sources(self, roots: Sequence[Path]) -> list[int]:
        """Number of each root in `info.sources`, which grows by the new ones with the next `commit`."""
        sources = list(self.info.sources)
        for root in map(str, roots):
            if root not in sources:
                sources.append(root)
        self.info = dataclasses.replace(self.info, sources=tuple(sources))
        return [sources.index(str(root)) for root in roots]

    def new_ids(self, count: int) -> range:
        """Ids that were never used; taken for good with the next `commit`."""
        first = self.info.next_id
        self.info = dataclasses.replace(self.info, next_id=first + count)
        return range(first, first + count)

    def commit(self, rows: Sequence[Row], vectors: NDArray[np.float32], *, drop: Iterable[int] = ()) -> None:
        """One atomic change: `rows` with their unit vectors (N, width) come in, the ids in `drop` go out.

        A row that replaces an older one of its id names that id in `drop`. Shards that lose rows are rewritten
        under new numbers, behind the others. Raises ArtifactError if one of them is damaged.
        """
        dropped = set(drop)
        number = max((shard.number for shard in self.info.shards), default=-1) + 1
        shards: list[ShardInfo] = []
        for shard in self.info.shards:
            if not dropped:
                shards.append(shard)
                continue
            table = self._table(shard)
            kept = ~np.isin(table["id"].to_numpy(), np.fromiter(dropped, np.int64, len(dropped)))
            if kept.all():
                shards.append(shard)
            elif kept.any():
                self._verify(shard)  # or the damage would get a checksum of its own
                old = self._vectors(shard)
                shards.append(self._write_shard(number, table.filter(pa.array(kept)), old[kept]))
                number += 1
        if rows:
            table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=_SCHEMA)
            shards.append(self._write_shard(number, table, vectors.astype(np.float16)))
        shards.sort(key=lambda shard: shard.number)  # the order in which foreign readers find them
        info = dataclasses.replace(self.info, generation=self.info.generation + 1, shards=tuple(shards))
        info.save(self.folder / MANIFEST_FILE)
        self.info = info
        self._remove_leftovers()

    def write_skipped(self, skipped: Iterable[tuple[str, str, str]]) -> None:
        """`skipped.csv`: source, path, reason of every file that the last run did not embed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["source", "path", "reason"])
        writer.writerows(skipped)
        content = text.getvalue().encode("utf-8", "backslashreplace")  # names that are no UTF-8
        write_atomically(self.folder / SKIPPED_FILE, lambda temporary: temporary.write_bytes(content))

    # ---- files

    def _paths(self, number: int) -> tuple[Path, Path]:
        return (
            self.folder / "img_emb" / f"img_emb_{number:05d}.npy",
            self.folder / "metadata" / f"metadata_{number:05d}.parquet",
        )

    def _table(self, shard: ShardInfo, columns: list[str] | None = None) -> pa.Table:
        path = self._paths(shard.number)[1]
        try:
            return pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as exc:
            raise ArtifactError(
                f"{path}: missing or damaged ({reason(exc)}). If `simclr embed` is at work on it, try again; else delete the store and embed again."
            ) from exc

    def _vectors(self, shard: ShardInfo) -> NDArray[np.float16]:
        path = self._paths(shard.number)[0]
        try:
            vectors: NDArray[np.float16] = np.load(path)
        except (OSError, ValueError, EOFError) as exc:
            raise ArtifactError(
                f"{path}: missing or damaged ({reason(exc)}). If `simclr embed` is at work on it, try again; else delete the store and embed again."
            ) from exc
        return vectors

    def _write_shard(self, number: int, table: pa.Table, vectors: NDArray[np.float16]) -> ShardInfo:
        vectors_path, metadata_path = self._paths(number)
        write_atomically(vectors_path, lambda temporary: _save_npy(temporary, vectors))
        write_atomically(metadata_path, lambda temporary: pq.write_table(table, temporary))
        return ShardInfo(
            number=number,
            rows=len(vectors),
            vectors_sha256=file_sha256(vectors_path),
            metadata_sha256=file_sha256(metadata_path),
        )

    def _remove_leftovers(self) -> None:
        listed = {path for shard in self.info.shards for path in self._paths(shard.number)}
        for folder in ("img_emb", "metadata"):
            for path in (self.folder / folder).iterdir():
                if path not in listed:
                    path.unlink()
        for path in self.folder.glob(".*.tmp"):  # of the manifest or skipped.csv
            path.unlink()

    def _verify(self, shard: ShardInfo) -> None:
        hashes = (shard.vectors_sha256, shard.metadata_sha256)
        for path, sha256 in zip(self._paths(shard.number), hashes, strict=True):
            if file_sha256(path) != sha256:
                raise ArtifactError(
                    f"{path}: damaged, its SHA-256 is not the one in {MANIFEST_FILE}. Delete the store and run `simclr embed` again."
                )


def _save_npy(path: Path, array: NDArray[np.float16]) -> None:
    with open(path, "wb") as file:  # np.save adds .npy to a name
        np.save(file, array)


def _usable(folder: Path) -> bool:
    """Whether a folder without manifest is what a kill while creating a store leaves, or empty."""
    return folder.is_dir() and all(
        entry.name in (".lock", "img_emb", "metadata", MODEL_FOLDER) or entry.name.endswith(".tmp")
        for entry in folder.iterdir()
    )
