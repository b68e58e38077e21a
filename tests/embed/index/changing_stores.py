"""Stores of clustered vectors that can be changed, with a book of what they must hold."""

from pathlib import Path

import numpy as np

from simclr.artifacts import SourceInfo
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.embed.writer import writing

WIDTH = 32


def clustered(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    """(count, width) unit vectors around 40 directions, the same ones for every seed."""
    centres = np.random.default_rng(0).standard_normal((40, width)).astype(np.float32)
    rng = np.random.default_rng(seed)
    values = centres[rng.integers(40, size=count)] + 0.6 * rng.standard_normal((count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def row(id: int) -> Row:
    return Row(
        id=id,
        source=0,
        image_path=f"{id}.png",
        size=100 + id,
        mtime_ns=1_700_000_000_000_000_000 + id,
        content_hash=f"{id:064x}",
        width=48,
        height=32,
    )


class Changing:
    """A store, and what it holds by our own book."""

    def __init__(self, folder: Path, model: Path, width: int = WIDTH) -> None:
        self.folder, self.model, self.width = folder, model, width
        self.rows: dict[int, np.ndarray] = {}

    def change(self, *, add: np.ndarray | None = None, drop=(), replace=()) -> None:
        """One commit. `add`: vectors; `drop`: ids; `replace`: id -> its new vector."""
        replace = dict(replace)
        with writing(self.folder, model=self.model, identity="made up", width=self.width) as writer:
            writer.add_sources([SourceInfo(kind="folder", root=str(self.folder.with_suffix("")))])
            ids = [*replace, *(writer.new_ids(len(add)) if add is not None else ())]
            parts = [np.empty((0, self.width), np.float32), *(vector[None] for vector in replace.values())]
            vectors = np.concatenate(parts if add is None else [*parts, add])
            writer.commit([row(id) for id in ids], vectors, drop=[*drop, *replace])
        for id in drop:
            del self.rows[id]
        self.rows |= dict(zip(ids, vectors, strict=True))

    @property
    def store(self) -> Store:
        return Store.open(self.folder)
