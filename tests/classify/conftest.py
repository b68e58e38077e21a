"""Stores with paths, contents and vectors put in by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import SourceInfo
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.embed.writer import writing


@pytest.fixture
def put(model: Path, tmp_path: Path) -> Callable[..., Store]:
    """Names of images, one list a source, -> a store; their vectors are random unless they are given."""

    def put(
        *sources: Sequence[str],
        vectors: np.ndarray | None = None,
        contents: Sequence[str] | None = None,
        roots: Sequence[Path] | None = None,
        store: Path = tmp_path / "v.store",
        identity: str = "x",
    ) -> Store:
        count = sum(map(len, sources))
        if vectors is None:
            vectors = np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        roots = roots or [tmp_path / f"photos{i or ''}" for i in range(len(sources))]
        contents = contents or [f"{i:064x}" for i in range(count)]
        with writing(store, model=model, identity=identity, width=vectors.shape[1]) as writer:
            writer.add_sources([SourceInfo(kind="folder", root=str(root)) for root in roots])
            places = [(source, name) for source, names in enumerate(sources) for name in names]
            ids = writer.new_ids(count)
            rows = [
                Row(id=id, source=source, image_path=name, size=1, mtime_ns=1, content_hash=content, width=4, height=4)
                for id, (source, name), content in zip(ids, places, contents, strict=True)
            ]  # fmt: skip
            writer.commit(rows, vectors)
        return Store.open(store)

    return put
