"""The collection is opened again when `simclr embed` replaces it; what has begun is answered by the state it began with."""

import os
import threading
import time

import pytest
from PIL import Image
from served import names
from starlette.testclient import TestClient
from test_cli import run

from simclr.artifacts import StoreInfo
from simclr.embed import Lane, Store, embed_sources, update_index
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch
from simclr.runtime import Encoder
from simclr.serve import collection as collection_module
from simclr.serve.collection import Collection


@pytest.fixture
def photos(own):
    return own[0]


@pytest.fixture
def index(own):
    return own[1]


@pytest.fixture
def classifier(index):
    assert run("classify", "fit", index.with_suffix(".store"))[0] == 0
    return index.with_suffix(".classifier")


@pytest.fixture
def embed_again(model, photos, index):
    """What `simclr embed` does: store, then index."""

    def embed_again(*, update: bool = True) -> None:
        store = index.with_suffix(".store")
        embed_sources([photos], store, Lane(Encoder.open(model)), model=model)
        if update:
            update_index(Store.open(store), index)

    return embed_again


def test_nothing_is_opened_again_while_nothing_changes(index):
    opened = Collection.open(index)
    before = opened.now
    assert not opened.reload() and opened.now is before


def test_a_new_image_is_found_once_the_index_is_replaced(index, photos, embed_again):
    opened = Collection.open(index)
    before = opened.now
    Image.new("RGB", (48, 32), (41, 61, 221)).save(photos / "cold/new.png")
    embed_again()
    assert opened.reload() and opened.reloads == 1
    assert (len(before.store), len(opened.now.store)) == (12, 13)
    assert opened.now.generation > before.generation


def test_a_state_that_was_taken_before_is_searched_on(index, photos, embed_again, id_of):
    opened = Collection.open(index)
    before, gone = opened.now, id_of("blue_dark")
    (photos / "cold/blue_dark.png").unlink()
    embed_again()
    opened.reload()
    assert before.index.search([gone], k=1)[0][0].id == gone
    with pytest.raises(ConfigError, match="has no image with this id"):
        opened.now.index.search([gone], k=1)


def test_a_store_that_is_ahead_of_its_index_is_served_as_stale(index, photos, embed_again):
    opened = Collection.open(index)
    Image.new("RGB", (48, 32), (41, 61, 221)).save(photos / "cold/new.png")
    embed_again(update=False)
    assert opened.reload()
    assert opened.now.index.stale and len(opened.now.store) == 13


def test_the_encoder_is_loaded_once(index, photos, embed_again):
    opened = Collection.open(index)
    encoder = opened.now.index.encoder
    (photos / "cold/blue_dark.png").unlink()
    embed_again()
    opened.reload()
    assert opened.now.index.encoder is encoder


def test_where_the_new_state_is_damaged_the_old_one_is_served_on(index):
    opened = Collection.open(index)
    before = opened.now
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data)
    with pytest.raises(ArtifactError, match="SHA-256"):
        opened.reload()
    assert opened.now is before and before.index.search([before.index.lookup.ids[0].item()], k=1)


def test_the_watcher_says_once_what_went_wrong_and_goes_on_when_it_is_mended(index, monkeypatch):
    monkeypatch.setattr(collection_module, "LOOK", 0.02)
    monkeypatch.setattr(collection_module, "_REST", 0.0)
    kept = index.read_bytes()
    opened, said = Collection.open(index), []
    opened.watch(said.append)
    data = bytearray(kept)
    data[-1] ^= 1
    index.write_bytes(data)
    wait_until(lambda: said)
    time.sleep(0.2)
    assert len(said) == 1 and said[0].endswith("The images of before are served on.")
    index.write_bytes(kept)
    wait_until(lambda: opened.reloads == 1)
    opened.close()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_classifier_of_another_encoder_is_refused_at_the_start(
    index, classifier, other_model, photos, tmp_path
):
    store = tmp_path / "other.store"
    embed_sources([photos], store, Lane(Encoder.open(other_model)), model=other_model)
    from simclr.embed import build_index

    build_index(Store.open(store), tmp_path / "other.faiss")
    with pytest.raises(ArtifactError, match="classifier learned vectors of"):
        Collection.open(tmp_path / "other.faiss", classifier=classifier)


def test_a_classifier_that_is_fitted_anew_is_taken_up(index, classifier):
    opened = Collection.open(index, classifier=classifier)
    before = opened.now.classifier
    os.utime(classifier / "classifier.json", (1, 1))
    assert opened.reload() and opened.now.classifier is not before


def test_a_model_of_another_encoder_is_refused(index, other_model):
    with pytest.raises(EncoderMismatch, match="is encoder"):
        Collection.open(index, model=other_model)


def test_an_empty_store_is_refused(index):
    store = index.with_suffix(".store")
    info = StoreInfo.load(store / "manifest.json")
    from dataclasses import replace

    replace(info, shards=()).save(store / "manifest.json")
    with pytest.raises(ConfigError, match="holds no vectors, so there is nothing to serve"):
        Collection.open(index)


def test_no_search_is_lost_while_the_collection_is_replaced(app_of, index, photos, embed_again, id_of):
    """Eight clients ask on while images come and go."""
    app = app_of(index)
    collection = None
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    collection = app.state.services.collection
    stays, stop = id_of("red_dark"), threading.Event()
    answers = []

    def ask():
        while not stop.is_set():
            answers.append(client.post("/search", json={"id": stays, "k": 3}))

    with client:
        clients = [threading.Thread(target=ask) for _ in range(8)]
        for thread in clients:
            thread.start()
        for number in range(4):
            Image.new("RGB", (48, 32), (40, 60, 215 + number)).save(photos / f"cold/new{number}.png")
            embed_again()
            assert collection.reload()
        stop.set()
        for thread in clients:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert {names(answer)[0] for answer in answers} == {"red_dark"}
    assert len({answer.json()["generation"] for answer in answers}) >= 2
