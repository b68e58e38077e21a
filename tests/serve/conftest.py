"""Twelve photos served in this process: `warm/` and `cold/`, a light and a dark one of each colour."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_cli import run

from simclr.embed import Lane, Store, build_index, embed_sources
from simclr.runtime import Encoder
from simclr.serve.api import create_app
from simclr.serve.collection import Collection

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def index(model: Path, photos: Path, tmp_path: Path) -> Path:
    embed_sources([photos], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    build_index(Store.open(tmp_path / "out.store"), tmp_path / "out.faiss")
    return tmp_path / "out.faiss"


@pytest.fixture
def classifier(index: Path) -> Path:
    assert run("classify", "fit", index.with_suffix(".store"))[0] == 0
    return index.with_suffix(".classifier")


@pytest.fixture
def app_of(tmp_path: Path) -> Callable[..., Any]:
    """Index and options -> an application."""

    def app_of(index: Path, *, classifier: Path | None = None, **options: Any) -> Any:
        collection = Collection.open(index, classifier=classifier)
        return create_app(collection, thumbnails=tmp_path / "thumbnails", **options)

    return app_of


@pytest.fixture
def client_of(app_of: Callable[..., Any], index: Path) -> Iterator[Callable[..., TestClient]]:
    """Options -> a client of the twelve photos."""
    clients: list[TestClient] = []

    def client_of(**options: Any) -> TestClient:
        client = TestClient(app_of(index, **options), base_url=ADDRESS, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield client_of
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of: Callable[..., TestClient]) -> TestClient:
    return client_of()


@pytest.fixture
def id_of(index: Path) -> Callable[[str], int]:
    """Name such as `red_dark` -> id."""
    ids = {Path(row.image_path).stem: row.id for row in Store.open(index.with_suffix(".store")).rows()}
    return ids.__getitem__
