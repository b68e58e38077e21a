"""A store is whole at every moment, and other tools read it without simclr."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from simclr import artifacts
from simclr.artifacts import SourceInfo, StoreInfo
from simclr.embed import Store, replaced
from simclr.embed import shards as shards_module
from simclr.embed import writer as writer_module
from simclr.embed.shards import Row
from simclr.embed.writer import writing as open_for_writing
from simclr.errors import ArtifactError, EncoderMismatch

WIDTH = 6


def row(id: int, path: str = "") -> Row:
    return Row(
        id=id,
        source=0,
        image_path=path or f"dir/{id}.png",
        size=100 + id,
        mtime_ns=1_700_000_000_000_000_000 + id,
        content_hash=f"{id:064x}",
        width=48,
        height=32,
    )


def unit(count: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of four are full, so that none is merged by the way."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out.store"


@pytest.fixture
def writing(folder, model):
    def writing(identity: str = "encoder one"):
        return open_for_writing(folder, model=model, identity=identity, width=WIDTH)

    return writing


@pytest.fixture
def filled(folder, writing) -> Path:
    """Ids 0-3, 4-6, 7-8 in shards 0, 1, 2."""
    with writing() as store:
        store.add_sources([SourceInfo(kind="folder", root=str(folder.parent))])
        for count in (4, 3, 2):
            ids = store.new_ids(count)
            store.commit([row(id) for id in ids], unit(count, seed=ids[0]))
    return folder


def files(folder: Path) -> dict[str, list[str]]:
    """What foreign readers look at."""
    return {name: sorted(os.listdir(folder / name)) for name in ("img_emb", "metadata")}


def listed(folder: Path) -> dict[str, list[str]]:
    numbers = sorted(shard.number for shard in StoreInfo.load(folder / "manifest.json").shards)
    return {
        "img_emb": [f"img_emb_{number:05d}.npy" for number in numbers],
        "metadata": [f"metadata_{number:05d}.parquet" for number in numbers],
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, and what waits to be removed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.parent.name != "replaced"
    }


def ids(folder: Path) -> list[int]:
    return [row.id for row in Store.open(folder).rows()]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x10
    path.write_bytes(data)


# ---- what goes in comes out


def test_rows_come_back_as_they_were_committed(filled):
    assert Store.open(filled).rows() == [row(id) for id in range(9)]


def test_blocks_are_the_committed_vectors_a_shard_at_a_time(filled):
    blocks = list(Store.open(filled).blocks())
    assert [block_ids.tolist() for block_ids, _ in blocks] == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]
    for (_, vectors), count, seed in zip(blocks, (4, 3, 2), (0, 4, 7), strict=True):
        np.testing.assert_allclose(vectors, unit(count, seed), atol=1e-3)


def test_vectors_lie_on_disk_as_float16(filled):
    vectors = np.load(filled / "img_emb" / "img_emb_00001.npy")
    np.testing.assert_array_equal(vectors, unit(3, seed=4).astype(np.float16))
    assert vectors.dtype == np.float16


def test_blocks_have_unit_length_to_float32_precision(filled):
    for _, vectors in Store.open(filled).blocks():
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-7)


def test_the_length_counts_the_rows_of_all_shards(filled):
    assert len(Store.open(filled)) == 9


def test_a_row_finds_its_image_below_its_source(filled):
    store = Store.open(filled)
    assert store.path(store.rows()[3]) == str(filled.parent / "dir" / "3.png")


def test_a_store_keeps_a_copy_of_the_exported_model(filled, model):
    for name in ("encoder.onnx", "manifest.json", "probe.npz"):
        assert (filled / "model" / name).read_bytes() == (model / name).read_bytes()


def test_each_commit_raises_the_generation_by_one(filled, writing):
    before = Store.open(filled).info.generation
    with writing() as store:
        store.commit([], unit(0), drop=[0])
        store.commit([], unit(0), drop=[1])
    assert Store.open(filled).info.generation == before + 2


def test_a_source_named_again_keeps_its_number(filled, writing, tmp_path):
    old, new = (SourceInfo(kind="folder", root=str(root)) for root in (filled.parent, tmp_path / "new"))
    with writing() as store:
        store.add_sources([new, old, new])
        store.commit([], unit(0))
    assert Store.open(filled).info.sources == (old, new)


# ---- ids


def test_an_id_is_not_given_again_after_its_row_was_dropped(filled, writing):
    with writing() as store:
        store.commit([], unit(0), drop=[7, 8])
    with writing() as store:
        assert list(store.new_ids(2)) == [9, 10]


def test_a_replaced_row_keeps_its_id_and_appears_once(filled, writing):
    changed = dataclasses.replace(row(5), content_hash="changed")
    with writing() as store:
        store.commit([changed], unit(1, seed=99), drop=[5])
    assert sorted(ids(filled)) == list(range(9))
    assert [row for row in Store.open(filled).rows() if row.id == 5] == [changed]


def test_a_replaced_row_has_its_new_vector(filled, writing):
    with writing() as store:
        store.commit([row(5)], unit(1, seed=99), drop=[5])
    vectors = {
        id: v
        for block, rows in Store.open(filled).blocks()
        for id, v in zip(block.tolist(), rows, strict=True)
    }
    np.testing.assert_allclose(vectors[5], unit(1, seed=99)[0], atol=1e-3)


# ---- what lies on disk


def test_a_shard_that_loses_a_row_is_rewritten_without_it(filled, writing):
    with writing() as store:
        store.commit([], unit(0), drop=[1])
    assert files(filled)["img_emb"] == ["img_emb_00001.npy", "img_emb_00002.npy", "img_emb_00003.npy"]
    np.testing.assert_array_equal(
        np.load(filled / "img_emb" / "img_emb_00003.npy"), unit(4, seed=0).astype(np.float16)[[0, 2, 3]]
    )


def test_a_shard_that_loses_every_row_is_gone(filled, writing):
    with writing() as store:
        store.commit([], unit(0), drop=[4, 5, 6])
    assert files(filled)["metadata"] == ["metadata_00000.parquet", "metadata_00002.parquet"]


def test_a_shard_that_loses_nothing_is_not_touched(filled, writing):
    path = filled / "img_emb" / "img_emb_00002.npy"
    before = path.stat().st_ino, path.stat().st_mtime_ns
    with writing() as store:
        store.commit([], unit(0), drop=[0, 5])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_the_files_on_disk_are_exactly_those_of_the_manifest_after_every_kind_of_change(filled, writing):
    with writing() as store:
        store.commit([], unit(0), drop=[0, 4, 5, 6])
        assert files(filled) == listed(filled)
        store.commit([row(2), row(9)], unit(2), drop=[2])
        assert files(filled) == listed(filled)
        store.commit([], unit(0), drop=range(10))
        assert files(filled) == listed(filled) == {"img_emb": [], "metadata": []}


def test_a_plain_reader_sees_the_rows_in_the_order_of_the_store(filled, writing):
    """As clip-retrieval, autofaiss and embedding-reader do: both folders, by number."""
    with writing() as store:
        store.commit([row(9)], unit(1, seed=9), drop=[0, 5])  # rewrites shards 0 and 1, adds one
    vectors = np.concatenate([np.load(path) for path in sorted((filled / "img_emb").glob("*.npy"))])
    tables = [pq.read_table(path) for path in sorted((filled / "metadata").glob("*.parquet"))]
    plain_ids = [id for table in tables for id in table["id"].to_pylist()]
    paths = [path for table in tables for path in table["image_path"].to_pylist()]

    store = Store.open(filled)
    assert plain_ids == [row.id for row in store.rows()]
    assert paths == [row.image_path for row in store.rows()]
    np.testing.assert_allclose(
        vectors.astype(np.float32), np.concatenate([block for _, block in store.blocks()]), atol=1e-3
    )
    assert plain_ids == np.concatenate([block_ids for block_ids, _ in store.blocks()]).tolist()


def test_the_metadata_has_the_promised_columns_and_types(filled):
    schema = pq.read_schema(filled / "metadata" / "metadata_00000.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "id": "int64",
        "source": "int16",
        "image_path": "string",
        "size": "int64",
        "mtime_ns": "int64",
        "content_hash": "string",
        "width": "int32",
        "height": "int32",
    }


# ---- kills


@pytest.mark.parametrize(
    "leftover",
    [
        "img_emb/img_emb_00003.npy",
        "metadata/metadata_00003.parquet",
        "img_emb/.img_emb_00003.npy.4711.tmp",
        "metadata/.metadata_00003.parquet.4711.tmp",
        ".manifest.json.4711.tmp",
        ".skipped.csv.4711.tmp",
    ],
)
def test_what_a_killed_run_left_goes_when_the_store_is_next_opened_for_writing(filled, writing, leftover):
    before = contents(filled)
    (filled / leftover).write_bytes(b"half a file")
    with writing():
        pass
    assert contents(filled) == before


class Killed(BaseException):
    """Stands for the moment at which a process dies."""


def killed(*arguments: object) -> None:
    raise Killed


def test_a_kill_before_the_manifest_is_written_leaves_the_old_rows(filled, writing, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed), writing() as store:
        patch.setattr(StoreInfo, "save", killed)
        store.commit([row(9)], unit(1), drop=[0, 5])
    assert ids(filled) == list(range(9))
    assert sum(len(vectors) for _, vectors in Store.open(filled).blocks(verify=True)) == 9


def test_the_run_after_such_a_kill_commits_the_same_change(filled, writing, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed), writing() as store:
        patch.setattr(StoreInfo, "save", killed)
        store.commit([row(9)], unit(1), drop=[0, 5])
    with writing() as store:
        store.commit([row(9)], unit(1), drop=[0, 5])
    assert sorted(ids(filled)) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert files(filled) == listed(filled)


def test_a_kill_between_the_two_files_of_a_shard_leaves_the_old_store(filled, writing, monkeypatch):
    before = contents(filled)
    with monkeypatch.context() as patch, pytest.raises(Killed), writing() as store:
        patch.setattr(shards_module.pq, "write_table", killed)
        store.commit([row(9)], unit(1))
    assert ids(filled) == list(range(9))
    with writing():
        pass
    assert contents(filled) == before


def test_a_kill_while_the_replaced_shards_are_deleted_leaves_the_new_store(filled, writing, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed), writing() as store:
        patch.setattr(replaced, "put_away", killed)
        store.commit([row(9)], unit(1), drop=[0, 5])
    assert sorted(ids(filled)) == [1, 2, 3, 4, 6, 7, 8, 9]
    with writing():
        pass
    assert files(filled) == listed(filled)


def test_a_store_killed_before_its_first_manifest_can_be_used(folder, writing):
    for name in ("img_emb", "metadata", "spare", "replaced", "model"):
        (folder / name).mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "img_emb" / "img_emb_00000.npy").write_bytes(b"half")
    with writing() as store:
        store.commit([row(id) for id in store.new_ids(2)], unit(2))
    assert ids(folder) == [0, 1]
    assert files(folder) == listed(folder)


def test_a_writer_that_fails_before_its_first_commit_leaves_nothing(folder, writing, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed), writing() as store:
        patch.setattr(StoreInfo, "save", killed)
        store.commit([row(0)], unit(1))
    assert not folder.exists()


def test_a_kill_in_the_middle_of_a_file_leaves_no_file_of_that_name(tmp_path):
    def half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise Killed

    with pytest.raises(Killed):
        artifacts.write_atomically(tmp_path / "file", half)
    assert os.listdir(tmp_path) == []


# ---- refusals


def test_a_second_writer_in_this_process_is_refused(filled, writing):
    with (
        writing(),
        pytest.raises(ArtifactError, match=re.escape(f"{filled}: another `simclr embed` is writing")),
    ):
        with writing():
            pass


def test_a_second_process_that_writes_is_refused(filled, writing, model):
    script = f"""
from pathlib import Path
from simclr.embed.writer import writing
from simclr.errors import ArtifactError
try:
    with writing({str(filled)!r}, model=Path({str(model)!r}), identity="encoder one", width={WIDTH}):
        print("came in")
except ArtifactError as exc:
    print(exc)
"""
    with writing():
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{filled}: another `simclr embed` is writing to it. Wait for it, or stop it.\n"


def test_the_next_writer_is_let_in_after_an_error(filled, writing):
    with pytest.raises(Killed), writing():
        raise Killed
    with writing() as store:
        assert len(store.store) == 9


def test_vectors_of_another_encoder_are_refused(filled, writing):
    with pytest.raises(EncoderMismatch, match="made by encoder encoder , but"):
        with writing(identity="another"):
            pass


def test_a_refused_encoder_changes_nothing(filled, writing):
    before = contents(filled)
    with pytest.raises(EncoderMismatch), writing(identity="another"):
        pass
    assert contents(filled) == before


def test_a_folder_that_is_no_store_is_refused(folder, writing):
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="exists and is no store"), writing():
        pass


def test_a_refused_folder_is_left_as_it_was(folder, writing):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "img_emb" / "mine.npy").write_bytes(b"mine")
    (folder / "notes.txt").write_bytes(b"mine")
    with pytest.raises(ArtifactError), writing():
        pass
    assert contents(folder) == {"img_emb/mine.npy": b"mine", "notes.txt": b"mine"}
    assert not (folder / ".lock").exists()


def test_a_file_in_place_of_a_store_is_refused(folder, writing):
    folder.write_bytes(b"a file")
    with pytest.raises(ArtifactError, match="exists and is no store"), writing():
        pass


def test_an_empty_folder_becomes_a_store_with_the_first_commit(folder, writing):
    folder.mkdir()
    with writing() as store:
        store.commit([], unit(0))
    assert len(Store.open(folder)) == 0


def test_vectors_in_the_same_layout_that_are_not_ours_are_never_touched(folder, writing):
    """As clip-retrieval leaves them: no manifest, no lock."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    (folder / "img_emb" / "img_emb_0.npy").write_bytes(b"theirs")
    with pytest.raises(ArtifactError, match="exists and is no store"), writing():
        pass
    assert contents(folder) == {"img_emb/img_emb_0.npy": b"theirs"}


def test_opening_a_store_that_is_not_there_says_how_to_make_one(folder):
    with pytest.raises(ArtifactError, match=re.escape(f"`simclr embed FOLDER --store {folder}`")):
        Store.open(folder)


# ---- damage


@pytest.mark.parametrize("file", ["img_emb/img_emb_00001.npy", "metadata/metadata_00001.parquet"])
def test_a_flipped_byte_in_a_shard_is_found(filled, file):
    flip_a_byte(filled / file)
    with pytest.raises(ArtifactError, match=re.escape(f"{filled / file}: damaged (its SHA-256")):
        list(Store.open(filled).blocks(verify=True))


@pytest.mark.parametrize("file", ["img_emb/img_emb_00001.npy", "metadata/metadata_00001.parquet"])
def test_a_missing_shard_file_is_named(filled, file):
    (filled / file).unlink()
    with pytest.raises(ArtifactError, match=re.escape(str(filled / file))):
        list(Store.open(filled).blocks())


def test_a_truncated_vector_file_is_named_without_a_checksum_too(filled):
    path = filled / "img_emb" / "img_emb_00001.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        list(Store.open(filled).blocks())


def test_a_truncated_metadata_file_is_named(filled):
    path = filled / "metadata" / "metadata_00000.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ArtifactError, match=re.escape(f"{path}: damaged")):
        Store.open(filled).rows()


def test_rewriting_a_damaged_shard_does_not_make_it_look_whole(filled, writing):
    flip_a_byte(filled / "img_emb" / "img_emb_00001.npy")
    with pytest.raises(ArtifactError, match=r"img_emb_00001\.npy: damaged"), writing() as store:
        store.commit([], unit(0), drop=[4])


@pytest.mark.parametrize("keep", [0, 1, 40, -2])
def test_a_torn_manifest_is_named(filled, keep):
    manifest = filled / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=re.escape(f"{manifest}: damaged")):
        Store.open(filled)


def test_a_torn_manifest_stops_a_writer_before_it_deletes_anything(filled, writing):
    manifest = filled / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    before = contents(filled)
    with pytest.raises(ArtifactError), writing():
        pass
    assert contents(filled) == before
