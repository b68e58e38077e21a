"""Stores of made-up vectors, of any size, written by our own writer; and queries with what is nearest to them. Not part of the package.

Shape letters: N = vectors, Q = queries, D = width, K = neighbours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import programs

from simclr.artifacts import SourceInfo
from simclr.embed.exact import TIE
from simclr.embed.lookup import Lookup
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.embed.writer import SHARD_ROWS, writing

K = 10
"""Neighbours by which an index is judged."""


def clustered(
    count: int, width: int, *, clusters: int = 1000, spread: float = 1.0, seed: int = 0
) -> Iterable[np.ndarray]:
    """Unit vectors (4096, width) around `clusters` random directions, `count` in all; the noise is `spread` times as long as the centre."""
    rng = np.random.Generator(np.random.PCG64(seed))
    centres = rng.standard_normal((clusters, width), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for start in range(0, count, SHARD_ROWS):
        many = min(SHARD_ROWS, count - start)
        noise = rng.standard_normal((many, width), np.float32) * np.float32(spread / width**0.5)
        vectors = centres[rng.integers(clusters, size=many)] + noise
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def model(folder: Path) -> Path:
    """The export folder that a store keeps a copy of; nothing is embedded with it."""
    return folder if folder.exists() else programs.export("test_resnet", folder)


def fill(
    folder: Path,
    blocks: Iterable[np.ndarray],
    *,
    model: Path,
    width: int,
    identity: str = "made up",
    photos: str = "/photos",
) -> Path:
    """One commit for each block; ids count from 0. `photos`: where its images are said to lie."""
    with writing(folder, model=model, identity=identity, width=width) as store:
        store.add_sources([SourceInfo(kind="folder", root=photos)])
        for vectors in blocks:
            ids = store.new_ids(len(vectors))
            store.commit([row(id) for id in ids], vectors)
    return folder


def row(id: int) -> Row:
    return Row(
        id=id,
        source=0,
        image_path=f"{id // 1000:04d}/{id:08d}.jpg",
        size=1000 + id,
        mtime_ns=1_700_000_000_000_000_000 + id,
        content_hash=f"{id:064x}",
        width=640,
        height=480,
    )


@dataclass
class Data:
    """A folder with a store and queries that are in no index: vectors.npy as the store holds them, of unit length, queries.npy, tenth.npy."""

    title: str
    folder: Path
    tenth_Q: np.ndarray = field(init=False)
    """Similarity of each query's tenth neighbour, by inner products with all vectors in numpy."""

    def __post_init__(self) -> None:
        self.vectors_ND = np.load(self.folder / "vectors.npy", mmap_mode="r")
        self.queries_QD = np.load(self.folder / "queries.npy")
        self.tenth_Q = np.load(self.folder / "tenth.npy")
        self.store = Store.open(self.folder / "v.store")
        self.lookup = Lookup(self.store)

    def shares(self, ids_QK: np.ndarray) -> np.ndarray:
        """Of each query, how much of its ten nearest, or of what is as near, is among these ids."""
        found_Q = np.zeros(len(ids_QK))
        for place, ids in enumerate(ids_QK):
            ids = np.unique(ids[ids >= 0])
            found_Q[place] = (
                self.vectors_ND[ids] @ self.queries_QD[place] >= self.tenth_Q[place] - TIE
            ).sum()
        return np.minimum(found_Q, K) / K


def with_queries(folder: Path, title: str, vectors_ND: np.ndarray, queries_QD: np.ndarray) -> Data:
    """A store with ids 0, 1, ..., unless the folder is there from an earlier run."""
    if not (folder / "tenth.npy").exists():
        folder.mkdir(parents=True)
        count, width = vectors_ND.shape
        blocks = (vectors_ND[start : start + SHARD_ROWS] for start in range(0, count, SHARD_ROWS))
        fill(folder / "v.store", blocks, model=model(folder / "export"), width=width)
        held_ND = np.concatenate([vectors for _, vectors in Store.open(folder / "v.store").blocks()])
        best_QK = np.full((len(queries_QD), K), -np.inf, np.float32)
        for start in range(0, count, 20_000):
            both = np.hstack([best_QK, queries_QD @ held_ND[start : start + 20_000].T])
            best_QK = -np.partition(-both, K - 1, axis=1)[:, :K]
        np.save(folder / "vectors.npy", held_ND)
        np.save(folder / "queries.npy", queries_QD)
        np.save(folder / "tenth.npy", best_QK.min(1))
    return Data(title, folder)
