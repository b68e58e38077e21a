"""The fake encoder opened once, folders embedded with it, and vectors put into stores by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import SourceInfo
from simclr.embed import Lane, Report, Store, build_index, embed_sources
from simclr.embed import writer as writer_module
from simclr.embed.shards import Row
from simclr.embed.writer import writing
from simclr.runtime import Encoder


@pytest.fixture(scope="session")
def encoder(model: Path) -> Encoder:
    return Encoder.open(model)


@pytest.fixture
def embed(encoder: Encoder, tmp_path: Path) -> Callable[..., Report]:
    """Sources -> `tmp_path / "out.store"`, in this process; the report without what differs from run to run."""

    def embed(*sources: Path, store: Path = tmp_path / "out.store", **keywords: object) -> Report:
        report = embed_sources(sources, store, Lane(encoder), model=encoder.folder, **keywords)
        report.seconds, report.bound = 0.0, ""
        return report

    return embed


@pytest.fixture
def index(embed: Callable[..., Report], photos: Path, tmp_path: Path) -> Path:
    """`out.faiss` beside `out.store`, of the twelve photos."""
    embed(photos)
    build_index(Store.open(tmp_path / "out.store"), tmp_path / "out.faiss")
    return tmp_path / "out.faiss"


@pytest.fixture
def fill(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """One shard for each array of unit vectors, with ids that count from 0 and made-up paths."""

    def fill(folder: Path, shards: Sequence[np.ndarray]) -> Path:
        monkeypatch.setattr(writer_module, "SHARD_ROWS", 1)  # nothing is merged
        width = shards[0].shape[1]
        with writing(folder, model=model, identity="made up", width=width) as store:
            store.add_sources([SourceInfo(kind="folder", root=str(folder.parent))])
            for vectors in shards:
                store.commit([row(id) for id in store.new_ids(len(vectors))], vectors)
        return folder

    return fill


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
