"""A store's copy on an S3 server: only what is new goes over, the manifest last, and whatever stops it, the same command goes on."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_cli import run
from test_s3 import Server, credentials, free_port, serving  # noqa: F401

from simclr.artifacts import SourceInfo
from simclr.embed import Store, mirror, shards
from simclr.embed import writer as writer_module
from simclr.embed.check import check_store
from simclr.embed.shards import Row
from simclr.embed.writer import writing
from simclr.errors import ArtifactError, ConfigError
from simclr.sources import remote

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore")  # s3fs' own, of sessions at the end

URL = "s3://photos/copies/out.store"


def change(folder: Path, model: Path, count: int, drop=()) -> None:
    """One commit of so many vectors."""
    vectors = np.random.default_rng(count).standard_normal((count, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with writing(folder, model=model, identity="made up", width=12) as writer:
        writer.add_sources([SourceInfo(kind="folder", root="/photos")])
        rows = [
            Row(id=id, source=0, image_path=f"{id}.png", size=1, mtime_ns=1, content_hash=f"{id:064x}", width=4, height=4)
            for id in writer.new_ids(count)
        ]  # fmt: skip
        writer.commit(rows, vectors, drop=list(drop))


def same(one: Path, other: Path) -> None:
    """The two hold the same, and nothing is damaged that is whole in the first, whose encoder is made up."""
    a, b = Store.open(one), Store.open(other)
    assert a.info == b.info
    assert a.rows() == b.rows()
    for (ids, vectors), (others, values) in zip(a.blocks(verify=True), b.blocks(verify=True), strict=True):
        np.testing.assert_array_equal(ids, others)
        np.testing.assert_array_equal(vectors, values)
    assert [fault.what for fault in check_store(other)] == [fault.what for fault in check_store(one)]


@pytest.fixture
def store(model, tmp_path, monkeypatch) -> Path:
    """300 rows in three shards."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 100)
    folder = tmp_path / "out.store"
    for _ in range(3):
        change(folder, model, 100)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """One for all tests: starting it takes seconds."""
    started = Server(tmp_path_factory.mktemp("empty"), free_port())
    yield started
    started.close()


@pytest.fixture
def bucket(server, monkeypatch) -> Iterator[None]:
    """With nothing in it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    yield
    files, _ = remote._open(URL)
    files.invalidate_cache()
    for path in files.find("photos"):
        files.rm_file(path)


def test_a_store_comes_back_as_it_went(store, bucket, tmp_path):
    assert mirror.push(store, URL).shards == 3
    assert mirror.pull(URL, tmp_path / "back.store").shards == 3
    same(store, tmp_path / "back.store")


def test_only_what_is_new_goes_over_and_what_is_gone_goes_there_too(store, bucket, model, tmp_path):
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    change(store, model, 100, drop=[5])
    kept = {shard for shard in Store.open(tmp_path / "back.store").info.shards}
    new = len([shard for shard in Store.open(store).info.shards if shard not in kept])
    assert 1 <= new < 4
    assert mirror.push(store, f"{URL}/").shards == new
    assert mirror.pull(URL, tmp_path / "back.store").shards == new
    same(store, tmp_path / "back.store")
    now = {shards.vectors_path(store, shard.number).name for shard in Store.open(store).info.shards}
    before = {shards.vectors_path(store, shard.number).name for shard in kept}
    assert {entry.name for entry in remote.entries(f"{URL}/img_emb")} == now | before  # for who reads it now
    assert mirror.push(store, URL).shards == mirror.pull(URL, tmp_path / "back.store").shards == 0
    assert {entry.name for entry in remote.entries(f"{URL}/img_emb")} == now


def test_a_push_that_stops_leaves_the_old_store_and_the_next_goes_on(
    store, bucket, model, tmp_path, monkeypatch
):
    mirror.push(store, URL)
    shutil.copytree(store, tmp_path / "before.store")
    change(store, model, 100)
    change(store, model, 100)
    send, sent = remote.send, []

    def stopping(path, url):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(url)
        send(path, url)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote, "send", stopping)
        mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    same(tmp_path / "before.store", tmp_path / "back.store")
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    same(store, tmp_path / "back.store")


def test_a_pull_that_stops_leaves_the_old_store_and_the_next_goes_on(
    store, bucket, model, tmp_path, monkeypatch
):
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    before = Store.open(tmp_path / "back.store").info
    change(store, model, 100)
    mirror.push(store, URL)
    fetch = remote.fetch

    def stopping(url, path):
        if "metadata" in url:
            raise KeyboardInterrupt
        fetch(url, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote, "fetch", stopping)
        mirror.pull(URL, tmp_path / "back.store")
    assert Store.open(tmp_path / "back.store").info == before
    mirror.pull(URL, tmp_path / "back.store")
    same(store, tmp_path / "back.store")


def test_a_first_pull_that_stops_leaves_no_store(store, bucket, tmp_path, monkeypatch):
    mirror.push(store, URL)
    with monkeypatch.context() as patch, pytest.raises(ArtifactError, match="no answer"):
        fetch = remote.fetch

        def stopping(url, path):
            if "model" in url:
                raise ArtifactError("no answer")
            fetch(url, path)

        patch.setattr(remote, "fetch", stopping)
        mirror.pull(URL, tmp_path / "back.store")
    assert not (tmp_path / "back.store").exists()
    mirror.pull(URL, tmp_path / "back.store")
    same(store, tmp_path / "back.store")


def test_a_busy_server_is_asked_again(store, serving, tmp_path):  # noqa: F811
    (tmp_path / "empty").mkdir()
    serving(tmp_path / "empty", fail_every=4)
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    same(store, tmp_path / "back.store")


def test_a_file_that_was_damaged_there_is_not_taken(store, bucket, tmp_path):
    mirror.push(store, URL)
    name = shards.vectors_path(store, Store.open(store).info.shards[1].number).name
    (tmp_path / "x").write_bytes(b"no vectors")
    remote.send(tmp_path / "x", f"{URL}/img_emb/{name}")
    with pytest.raises(ArtifactError, match=re.escape(f"{name}: damaged, its SHA-256 is not the one")):
        mirror.pull(URL, tmp_path / "back.store")
    assert not (tmp_path / "back.store").exists()


def test_a_damaged_store_is_not_pushed(store, bucket):
    path = shards.vectors_path(store, Store.open(store).info.shards[1].number)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        mirror.push(store, URL)
    assert not remote.exists(f"{URL}/manifest.json")


def test_another_store_is_not_overwritten(store, bucket, model, tmp_path):
    mirror.push(store, URL)
    change(tmp_path / "other.store", model, 100)
    with pytest.raises(ArtifactError, match="holds another store"):
        mirror.push(tmp_path / "other.store", URL)
    with pytest.raises(ArtifactError, match="holds another store"):
        mirror.pull(URL, tmp_path / "other.store")


def test_what_has_changed_on_the_other_side_is_not_lost(store, bucket, model, tmp_path):
    """Ahead; and as far, but by another way."""
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "back.store")
    change(tmp_path / "back.store", model, 50)
    with pytest.raises(ArtifactError, match="its changes would be lost"):
        mirror.pull(URL, tmp_path / "back.store")
    mirror.push(tmp_path / "back.store", URL)
    with pytest.raises(ArtifactError, match="its changes would be lost"):
        mirror.push(store, URL)
    change(store, model, 70)
    for copying in (lambda: mirror.push(store, URL), lambda: mirror.pull(URL, store)):
        with pytest.raises(ArtifactError, match="its changes would be lost"):
            copying()


def test_changes_that_were_merged_away_on_the_other_side_are_not_lost_either(store, bucket, model, tmp_path):
    """The numbers of shards tell nothing any more: only what both had last does."""
    mirror.push(store, URL)
    mirror.pull(URL, tmp_path / "other.store")
    change(tmp_path / "other.store", model, 10)
    mirror.push(tmp_path / "other.store", URL)
    for _ in range(3):
        change(store, model, 10)
    with pytest.raises(ArtifactError, match="its changes would be lost"):
        mirror.push(store, URL)
    with pytest.raises(ArtifactError, match="its changes would be lost"):
        mirror.pull(URL, store)


def test_a_push_killed_once_the_manifest_is_there_does_not_block_the_next(store, bucket, model, monkeypatch):
    mirror.push(store, URL)
    change(store, model, 100)
    send = remote.send

    def stopping(path, url):
        send(path, url)
        if url.endswith("out.store/manifest.json"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote, "send", stopping)
        mirror.push(store, URL)
    change(store, model, 100)
    assert mirror.push(store, URL).shards > 0


def test_what_was_lost_there_is_sent_again(store, bucket, tmp_path):
    mirror.push(store, URL)
    first, second, _ = (
        shards.vectors_path(store, shard.number).name for shard in Store.open(store).info.shards
    )
    remote.remove(f"{URL}/img_emb/{first}")
    (tmp_path / "x").write_bytes(b"cut short")
    remote.send(tmp_path / "x", f"{URL}/img_emb/{second}")
    assert mirror.push(store, URL).shards == 2
    mirror.pull(URL, tmp_path / "back.store")
    same(store, tmp_path / "back.store")


def test_files_of_others_are_neither_overwritten_nor_removed(store, bucket, model, tmp_path):
    """What clip-retrieval writes has the same folders."""
    (tmp_path / "x").write_bytes(b"another's")
    remote.send(tmp_path / "x", "s3://photos/theirs/img_emb/img_emb_0.npy")
    with pytest.raises(ArtifactError, match="has files that are no store of ours"):
        mirror.push(store, "s3://photos/theirs")
    mirror.push(store, URL)
    remote.send(tmp_path / "x", f"{URL}/img_emb/notes.txt")
    for _ in range(2):
        change(store, model, 100)
        mirror.push(store, URL)
    assert "notes.txt" in {entry.name for entry in remote.entries(f"{URL}/img_emb")}


def test_a_folder_of_others_is_not_pulled_into(store, bucket, tmp_path):
    (tmp_path / "project" / "model").mkdir(parents=True)
    (tmp_path / "project" / "model" / "weights.bin").write_bytes(b"mine")
    for url in (URL, "s3://photos/nothing"):
        with pytest.raises(ArtifactError, match="exists and is no store"):
            mirror.pull(url, tmp_path / "project")
    assert (tmp_path / "project" / "model" / "weights.bin").read_bytes() == b"mine"


def test_a_store_without_images_is_copied_too(bucket, model, tmp_path):
    change(tmp_path / "none.store", model, 0)
    mirror.push(tmp_path / "none.store", URL)
    assert mirror.pull(URL, tmp_path / "back.store").rows == 0


def test_a_damaged_manifest_there_is_named(store, bucket, tmp_path):
    mirror.push(store, URL)
    (tmp_path / "x").write_bytes(b"{")
    remote.send(tmp_path / "x", f"{URL}/manifest.json")
    with pytest.raises(
        ArtifactError, match=re.escape(f"{URL}/manifest.json: damaged. Delete it there, and push")
    ):
        mirror.push(store, URL)
    remote.remove(f"{URL}/manifest.json")
    assert mirror.push(store, URL).shards == 3


def test_from_the_command_line(store, bucket, tmp_path):
    code, out, _ = run("store", "push", store, URL)
    assert code == 0 and re.fullmatch(
        re.escape(f"{URL}: 300 images; 3 shards (") + r"[\d.]+ MB\) sent\n", out
    )
    code, out, _ = run("store", "pull", URL, tmp_path / "back.store")
    assert code == 0 and out.startswith(f"{tmp_path / 'back.store'}: 300 images; 3 shards (")


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_bucket_that_is_not_there_and_a_store_that_is_not_there(store, bucket, tmp_path, verb):
    where = ["s3://mistyped/out.store", tmp_path / "new.store"]
    words = [store, where[0]] if verb == "push" else where
    code, _, err = run("store", verb, *words)
    assert code == 1 and "s3://mistyped/out.store" in err and "Traceback" not in err
    assert not (tmp_path / "new.store").exists()


def test_a_path_is_no_url(store, tmp_path):
    with pytest.raises(ConfigError, match=r"not a URL\. Give one such as s3://bucket/out\.store"):
        mirror.push(store, str(tmp_path / "x"))
