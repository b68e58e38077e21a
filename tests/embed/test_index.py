"""An index returns true cosines and the store's ids, is verified before use, and is rebuilt only when needed."""

import json
import re
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from simclr.artifacts import IndexInfo, file_sha256
from simclr.embed.index import build_index, load_index, nearest, sidecar, update_index
from simclr.embed.store import Store
from simclr.embed.writer import writing
from simclr.errors import ArtifactError, ImageError


@pytest.fixture
def store(fill, tmp_path, vectors) -> Store:
    """500 vectors in shards of 200, 1 and 299; ids 0-4 were dropped again, so that ids are no row numbers."""
    folder = fill(tmp_path / "v.store", [vectors[:200], vectors[200:201], vectors[201:]])
    with writing(folder, model=folder / "model", identity="made up", width=32) as opened:
        opened.commit([], vectors[:0], drop=range(5))
    return Store.open(folder)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "v.faiss"


@pytest.fixture
def queries() -> np.ndarray:
    values = np.random.default_rng(5).standard_normal((9, 32)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def made(path: Path) -> tuple[int, int]:
    """Changes when the file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


# ---- what it answers


def test_products_are_the_cosines_and_ids_those_of_the_store(store, path, vectors, queries):
    build_index(store, path)
    products, ids = nearest(load_index(path)[0], queries, 10)
    for query, product_row, id_row in zip(queries, products, ids, strict=True):
        cosines = {i: float(query @ vectors[i]) for i in range(5, 500)}  # ids 0-4 are dropped
        expected = sorted(cosines, key=lambda id: -cosines[id])[:10]
        assert product_row.tolist() == pytest.approx([cosines[id] for id in expected], abs=5e-4)  # float16
        assert set(id_row.tolist()) == set(expected)


def test_asking_for_more_than_there_is_fills_up_with_minus_one(store, path, queries):
    build_index(store, path)
    _, ids = nearest(load_index(path)[0], queries[:1], 600)
    assert sorted(ids[0, :495].tolist()) == list(range(5, 500))
    assert ids[0, 495:].tolist() == [-1] * 105


def test_plain_faiss_reads_the_file(store, path):
    build_index(store, path)
    plain = faiss.read_index(str(path))
    stored = dict(row for ids, block in store.blocks() for row in zip(ids.tolist(), block, strict=True))
    np.testing.assert_array_equal(plain.search(stored[321][None], 1)[1], [[321]])


def test_the_sidecar_says_what_the_index_was_built_from(store, path):
    info = build_index(store, path)
    assert IndexInfo.load(sidecar(path)) == info
    assert info.sha256 == file_sha256(path)
    assert (info.size, info.width, info.identity) == (495, 32, "made up")
    assert (info.generation, info.store, info.factory) == (store.info.generation, "v.store", "IDMap2,Flat")


def test_an_index_in_another_folder_finds_its_store(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    info = build_index(store, tmp_path / "elsewhere" / "v.faiss")
    assert info.store == "../v.store"


# ---- what it measures


def test_the_exact_index_measures_full_recall(store, path):
    assert build_index(store, path).measured["recall@10"] == 1.0


def test_copies_of_an_image_do_not_lower_the_measured_recall(fill, tmp_path, path, vectors):
    """Which of 40 equal vectors come first is chance, and none of them is a wrong answer."""
    folder = fill(
        tmp_path / "copies.store", [np.concatenate([vectors[:300], np.repeat(vectors[:1], 40, axis=0)])]
    )
    assert build_index(Store.open(folder), path).measured["recall@10"] == 1.0


def test_an_index_that_returns_wrong_ids_measures_low_recall(store, path, monkeypatch):
    from simclr.embed.index import neighbours

    def wrong(index, queries, k, **keywords):
        products, ids = nearest(index, queries, k, **keywords)
        return products, (ids - 5 + 250) % 495 + 5

    monkeypatch.setattr(neighbours, "nearest", wrong)
    assert build_index(store, path).measured["recall@10"] < 0.1


def test_an_index_is_measured_with_half_of_the_tenth_that_was_left_out(store, path):
    """The other half tunes it."""
    measured = build_index(store, path).measured
    assert (measured["queries"], measured["bytes"]) == (24, path.stat().st_size)


def test_vectors_are_not_in_the_index_while_they_measure_it(store, path, monkeypatch):
    from simclr.embed.index import build as build_module

    sizes = []
    measure = build_module.measure
    monkeypatch.setattr(
        build_module,
        "measure",
        lambda index, *a, **k: (sizes.append(index.ntotal), measure(index, *a, **k))[1],
    )
    info = build_index(store, path)
    assert (sizes, info.size) == ([495 - 49], 495)


def test_one_vector_can_be_indexed(fill, tmp_path, path, vectors):
    info = build_index(Store.open(fill(tmp_path / "one.store", [vectors[:1]])), path)
    assert (info.size, info.measured["recall@10"]) == (1, 1.0)


# ---- refusals


def test_an_index_with_a_flipped_byte_is_refused(store, path):
    build_index(store, path)
    flip_a_byte(path)
    with pytest.raises(ArtifactError, match=re.escape(f"{path}: damaged or replaced")):
        load_index(path)


def test_an_index_without_its_sidecar_is_refused(store, path):
    build_index(store, path)
    sidecar(path).unlink()
    with pytest.raises(ArtifactError, match=re.escape(f"{path}.json: no such file")):
        load_index(path)


def test_an_index_that_is_not_there_says_how_to_make_one(path):
    with pytest.raises(ArtifactError, match=re.escape(f"`simclr embed FOLDER --index {path}`")):
        load_index(path)


def test_a_store_without_vectors_cannot_be_indexed(store, path):
    with writing(store.folder, model=store.model, identity="made up", width=32) as opened:
        opened.commit([], np.empty((0, 32), np.float32), drop=range(500))
        with pytest.raises(ImageError, match="holds no vectors"):
            build_index(opened.store, path)
    assert not path.exists()


def test_a_damaged_shard_is_found_while_building(store, path):
    flip_a_byte(store.folder / "img_emb" / "img_emb_00002.npy")
    with pytest.raises(ArtifactError, match=r"img_emb_00002\.npy: damaged"):
        build_index(store, path)


def test_a_failed_build_leaves_the_old_index(store, path):
    build_index(store, path)
    before = made(path), made(sidecar(path))
    flip_a_byte(store.folder / "img_emb" / "img_emb_00002.npy")
    with pytest.raises(ArtifactError):
        build_index(store, path)
    assert (made(path), made(sidecar(path))) == before


# ---- keeping it in step


def test_an_index_in_step_is_not_built_again(store, path):
    info = build_index(store, path)
    before = made(path), made(sidecar(path))
    assert update_index(store, path) == info
    assert (made(path), made(sidecar(path))) == before


def test_a_missing_index_is_built(store, path):
    assert update_index(store, path).size == 495


def test_an_index_behind_its_store_is_built_again(store, path):
    build_index(store, path)
    with writing(store.folder, model=store.model, identity="made up", width=32) as opened:
        opened.commit([], np.empty((0, 32), np.float32), drop=[7])
        info = update_index(opened.store, path)
    assert (info.size, info.generation) == (494, opened.info.generation)


@pytest.mark.parametrize("damage", ["index", "sidecar", "no sidecar", "no index"])
def test_a_damaged_index_is_built_again(store, path, damage):
    before = build_index(store, path)
    if damage == "index":
        flip_a_byte(path)
    elif damage == "sidecar":
        sidecar(path).write_text(json.dumps({"simclr": "index"}))
    else:
        (sidecar(path) if damage == "no sidecar" else path).unlink()
    update_index(store, path)
    assert load_index(path)[1].sha256 == before.sha256


def test_the_index_of_another_store_is_built_again(store, path, fill, tmp_path, vectors):
    build_index(store, path)
    other = Store.open(fill(tmp_path / "other.store", [vectors[:9]]))
    assert update_index(other, path).store == "other.store"


def test_the_index_of_a_store_made_anew_at_the_same_path_is_built_again(fill, tmp_path, path, vectors):
    """Same path, same encoder, same number of changes: yet other images under the same ids."""
    build_index(Store.open(fill(tmp_path / "s.store", [vectors[:9]])), path)
    shutil.rmtree(tmp_path / "s.store")
    update_index(Store.open(fill(tmp_path / "s.store", [vectors[20:29]])), path)
    _, ids = nearest(load_index(path)[0], vectors[20:29], 1)
    assert ids[:, 0].tolist() == list(range(9))
