"""One shard on disk: vectors in an .npy file, a row of metadata for each in a Parquet file, and the checksums of both.

A shard is never changed: it is written once, under a number that no other shard of its store ever has. Writing one and
making it part of a store are two steps; the second one is the manifest's.
"""

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simclr.artifacts import ShardInfo, file_sha256, write_atomically
from simclr.errors import ArtifactError, reason

VECTORS, METADATA, SPARE, REPLACED = "img_emb", "metadata", "spare", "replaced"
"""Folders of a store."""


@dataclass(frozen=True)
class Row:
    """One embedded image. Copies of a file have a row each."""

    id: int
    """Stable while the image exists, also where its file is moved; never given to another."""
    source: int
    """Which of the store's `sources` the path is relative to."""
    image_path: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Or another number that changes when the image does; see `sources.inventory`."""
    content_hash: str
    """BLAKE3 of the bytes."""
    width: int
    """Of the upright image, in pixels."""
    height: int


SCHEMA = pa.schema(
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


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)


def vectors_path(store: Path, number: int) -> Path:
    return store / VECTORS / f"img_emb_{number:05d}.npy"


def metadata_path(store: Path, number: int) -> Path:
    return store / METADATA / f"metadata_{number:05d}.parquet"


def spare_path(store: Path, number: int) -> Path:
    """A second copy of the metadata, from which `simclr store check --repair` restores the first."""
    return store / SPARE / f"metadata_{number:05d}.parquet"


def write_shard(store: Path, number: int, table: pa.Table, vectors: NDArray[np.float16]) -> ShardInfo:
    """`table` has the columns of SCHEMA, `vectors` (N, width) a row for each of its. Raises OSError."""
    where = vectors_path(store, number)
    write_atomically(where, lambda temporary: _save_npy(temporary, vectors))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    for path in (spare_path(store, number), metadata_path(store, number)):
        write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))
    return ShardInfo(
        number=number,
        rows=len(vectors),
        vectors_sha256=file_sha256(where),
        metadata_sha256=file_sha256(metadata_path(store, number)),
    )


def read_metadata(store: Path, shard: ShardInfo, columns: list[str] | None = None) -> pa.Table:
    """Raises ArtifactError where the file is missing or not the one that was written."""
    path = find(metadata_path(store, shard.number))
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.metadata_sha256:
            raise damaged(store, path, "its SHA-256 is not the one in the manifest")
        # threads that wait for one another take thirty times as long as the few columns of a shard
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
    except (OSError, pa.ArrowException) as exc:
        raise damaged(store, path, reason(exc)) from exc
    return table


def numbers(table: pa.Table, column: str) -> NDArray[Any]:
    """(N,) a column of whole numbers, not to be written to. Arrow's own way imports pandas, if it is there: a second or two."""
    found: NDArray[Any] = np.from_dlpack(table[column].combine_chunks())
    return found


def read_vectors(store: Path, shard: ShardInfo, *, mapped: bool = False) -> NDArray[np.float16]:
    """(rows, width), in memory or mapped to it; unverified. Raises ArtifactError where the file is missing or cut short."""
    path = find(vectors_path(store, shard.number))
    try:
        vectors: NDArray[np.float16] = np.load(path, mmap_mode="r" if mapped else None)
    except (OSError, ValueError, EOFError) as exc:
        raise damaged(store, path, reason(exc)) from exc
    if len(vectors) != shard.rows:
        raise damaged(store, path, f"{len(vectors):,} rows in place of {shard.rows:,}")
    return vectors


def verify_shard(store: Path, shard: ShardInfo) -> None:
    """Raises ArtifactError where a file is not the one that was written."""
    for path, sha256 in files_of(store, shard):
        found = find(path)
        if not found.exists() or file_sha256(found) != sha256:
            raise damaged(store, found, "its SHA-256 is not the one in the manifest")


def files_of(store: Path, shard: ShardInfo) -> list[tuple[Path, str]]:
    """The two files that readers need, with their SHA-256."""
    return [
        (vectors_path(store, shard.number), shard.vectors_sha256),
        (metadata_path(store, shard.number), shard.metadata_sha256),
    ]


def find(path: Path) -> Path:
    """Where a shard's file lies: in its place, or with those that were replaced a while ago.

    A writer moves what it replaces there and leaves it for some time, so that readers finish what they began.
    """
    earlier = replaced_path(path)
    return earlier if not path.exists() and earlier.exists() else path


def replaced_path(path: Path) -> Path:
    return path.parent.parent / REPLACED / path.name


def damaged(store: Path, path: Path, why: str) -> ArtifactError:
    if not path.exists():
        return ArtifactError(
            f"{path}: missing. If `simclr embed` is at work on the store, try again; else run: simclr store check {store} --repair"
        )
    return ArtifactError(f"{path}: damaged ({why.rstrip('.')}). Run: simclr store check {store} --repair")


def _save_npy(path: Path, array: NDArray[Any]) -> None:
    with open(path, "wb") as file:  # np.save adds .npy to a name
        np.save(file, array)
