"""A store as readers see it: vectors, and which image each belongs to. No model, no faiss, no writing.

    out.store/  manifest.json            which shards exist; the store changes when this file does
                img_emb/img_emb_00000.npy           (rows, width) float16, unit length
                metadata/metadata_00000.parquet     the columns of `Row`, same order
                model/                   the exported encoder that made the vectors
                skipped.csv              files not embedded, with the reason
                spare/                   second copies of manifest and metadata, for `simclr store check --repair`
                replaced/                what a writer has replaced lately, for readers that began before

The layout is the one that clip-retrieval, autofaiss and embedding-reader read: files in `img_emb` and `metadata` are
exactly those of the manifest.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simclr.artifacts import StoreInfo
from simclr.embed.shards import SCHEMA, SPARE, Row, numbers, read_metadata, read_vectors, verify_shard
from simclr.errors import ArtifactError
from simclr.sources import locate, openable, read_place

MANIFEST_FILE = "manifest.json"
SKIPPED_FILE = "skipped.csv"
MODEL_FOLDER = "model"


class Store:
    """A view of a store as its manifest was when it was opened, whatever a writer does meanwhile."""

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self.folder = folder
        self.info = info

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises ArtifactError if there is no store, or its manifest is damaged."""
        folder = Path(path)
        if not is_store(folder):
            raise ArtifactError(
                f"{folder}: no store there. Make one with `simclr embed FOLDER --store {folder}`."
            )
        try:
            return cls(folder, StoreInfo.load(folder / MANIFEST_FILE))
        except ArtifactError as exc:
            raise ArtifactError(f"{exc} Run: simclr store check {folder} --repair") from exc

    @classmethod
    def model_of(cls, path: Path) -> Path | None:
        """The export folder kept in a store, None where there is no store."""
        return cls.open(path).model if is_store(path) else None

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.info.shards)

    def rows(self) -> list[Row]:
        """The metadata of every vector, in the order of `blocks`."""
        return [Row(**values) for values in self.table().to_pylist()]

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """The same as an Arrow table, or some columns of it: about 180 bytes a row, with a path of 50."""
        empty = SCHEMA.empty_table().select(columns or SCHEMA.names)
        return pa.concat_tables([empty, *self.tables(columns)])

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The same a shard at a time."""
        return (read_metadata(self.folder, shard, columns) for shard in self.info.shards)

    def blocks(self, *, verify: bool = False) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids and unit-length float32 vectors, a shard at a time.

        `verify` compares each file's SHA-256 with the manifest first; raises ArtifactError where it disagrees.
        """
        for table, vectors in self.parts(["id"], verify=verify):
            yield numbers(table, "id"), vectors

    def parts(
        self, columns: list[str] | None = None, *, verify: bool = False
    ) -> Iterator[tuple[pa.Table, NDArray[np.float32]]]:
        """The same with the metadata, or some columns of it."""
        for shard in self.info.shards:
            if verify:
                verify_shard(self.folder, shard)
            vectors = read_vectors(self.folder, shard).astype(np.float32)
            vectors /= np.maximum(
                np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
            )  # float16 rounds lengths
            yield read_metadata(self.folder, shard, columns), vectors

    def path(self, row: Row) -> str:
        """Path or URL of a row's image. Of one that lies in a tar, zip or Parquet file: of that file, and the name in it."""
        source = self.info.sources[row.source]
        return openable(source.kind, source.root, row.image_path)

    def read(self, row: Row) -> bytes:
        """The bytes of a row's image, wherever they lie. Raises ImageError."""
        source = self.info.sources[row.source]
        return read_place(locate(source.kind, source.root, row.image_path))

    @property
    def model(self) -> Path:
        """The export folder of the encoder that made the vectors."""
        return self.folder / MODEL_FOLDER


def is_store(folder: Path) -> bool:
    """Whether there is a store, be its manifest gone."""
    return any(os.path.exists(folder / where / MANIFEST_FILE) for where in ("", SPARE))
