"""A store -> one file for other tools: Parquet, CSV or NumPy. A shard at a time, so memory stays flat."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simclr.artifacts import write_atomically
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.errors import ConfigError, ImageError

FORMS = ("parquet", "csv", "npy")


def hand_over(store: Store, out: Path, *, form: str) -> list[Path]:
    """Write all vectors (float32, unit length) with id, path, size in pixels and content hash; returns the files.

    `parquet`: a column `embedding`, a list of fixed size, which DuckDB, polars, LanceDB, autofaiss and embedding-reader take.
    `csv`: columns embedding_0, embedding_1, ... behind the others. `npy`: the vectors, and the rest as CSV beside them.
    Each file is written whole or not at all. Raises ConfigError, ImageError (an empty store), ArtifactError (a damaged shard).
    """
    if form not in FORMS:
        raise ConfigError(f"--to {form!r} is unknown. Use one of: {', '.join(FORMS)}.")
    if not len(store):
        raise ImageError(f"{store.folder}: holds no vectors, so there is nothing to hand over.")
    if form == "parquet":
        write_atomically(out, lambda temporary: _parquet(store, temporary))
        return [out]
    if form == "csv":
        write_atomically(out, lambda temporary: _csv(store, temporary, vectors=True))
        return [out]
    rows = out.with_suffix(".csv")
    if rows == out:
        raise ConfigError(f"{out}: is where the rows go. Give the vectors a name that ends with .npy.")
    write_atomically(out, lambda temporary: _npy(store, temporary))
    write_atomically(rows, lambda temporary: _csv(store, temporary, vectors=False))
    return [out, rows]


def _blocks(store: Store) -> Iterator[tuple[pa.Table, NDArray[np.float32]]]:
    """For each shard what describes its rows, and their vectors."""
    for table, vectors in store.parts(verify=True):
        paths = [store.path(Row(**values)) for values in table.to_pylist()]
        described = table.select(["id", "width", "height", "content_hash"])
        yield described.add_column(1, "path", pa.array(paths)), vectors


def _parquet(store: Store, path: Path) -> None:
    width = store.info.width
    writer: pq.ParquetWriter | None = None
    try:
        for table, vectors in _blocks(store):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
            table = table.append_column("embedding", column)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _csv(store: Store, path: Path, *, vectors: bool) -> None:
    writer: pyarrow.csv.CSVWriter | None = None
    try:
        for table, block in _blocks(store):
            for i in range(store.info.width if vectors else 0):
                table = table.append_column(f"embedding_{i}", pa.array(block[:, i]))
            writer = writer or pyarrow.csv.CSVWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _npy(store: Store, path: Path) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(store), store.info.width))
    start = 0
    for _, vectors in store.blocks(verify=True):
        out[start : start + len(vectors)] = vectors
        start += len(vectors)
    out.flush()
