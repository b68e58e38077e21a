"""Twelve photos served in this process: `warm/` and `cold/`, a light and a dark one of each colour."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import draw
from starlette.testclient import TestClient
from test_cli import run

from simclr.embed import Lane, Store, build_index, embed_sources
from simclr.runtime import Encoder
from simclr.serve.api import create_app
from simclr.serve.collection import Collection

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tests: those that change them have their own, see `own`."""
    return draw(tmp_path_factory.mktemp("served") / "photos")


@pytest.fixture(scope="session")
def index(model: Path, photos: Path) -> Path:
    return indexed(photos, model)


@pytest.fixture(scope="session")
def classifier(index: Path) -> Path:
    assert run("classify", "fit", index.with_suffix(".store"))[0] == 0
    return index.with_suffix(".classifier")


@pytest.fixture
def own(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Photos and an index of a test that changes them."""
    photos = draw(tmp_path / "photos")
    return photos, indexed(photos, model)


def indexed(photos: Path, model: Path) -> Path:
    index = photos.with_name("out.faiss")
    embed_sources([photos], index.with_suffix(".store"), Lane(Encoder.open(model)), model=model)
    build_index(Store.open(index.with_suffix(".store")), index)
    return index


@pytest.fixture
def app_of(tmp_path: Path) -> Callable[..., Any]:
    """Index and options -> an application."""

    def app_of(index: Path, *, classifier: Path | None = None, **options: Any) -> Any:
        collection = Collection.open(index, classifier=classifier)
        return create_app(collection, thumbnails=tmp_path / "thumbnails", **options)

    return app_of


@pytest.fixture
def client_of(app_of: Callable[..., Any], index: Path) -> Iterator[Callable[..., TestClient]]:
    """Options -> a client of the twelve photos, or of another index."""
    clients: list[TestClient] = []

    def client_of(of: Path = index, **options: Any) -> TestClient:
        client = TestClient(app_of(of, **options), base_url=ADDRESS, raise_server_exceptions=False)
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
