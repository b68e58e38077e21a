"""A store becomes one file that other tools read, with vectors and rows in step."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from simclr.embed import Store
from simclr.embed import writer as writer_module
from simclr.embed.hand_over import hand_over
from simclr.errors import ArtifactError, ConfigError, ImageError


@pytest.fixture
def store(embed, encoder, photos, tmp_path, monkeypatch) -> Store:
    """Shards of 5, 5 and 2."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 5)
    monkeypatch.setattr(encoder, "batch", 5)
    embed(photos)
    return Store.open(tmp_path / "out.store")


def expected(store: Store) -> tuple[list[int], list[str], np.ndarray]:
    rows = store.rows()
    vectors = np.concatenate([vectors for _, vectors in store.blocks()])
    return [row.id for row in rows], [store.path(row) for row in rows], vectors


def test_parquet_has_a_list_of_fixed_size_beside_id_and_path(store, tmp_path):
    (path,) = hand_over(store, tmp_path / "v.parquet", form="parquet")
    table = pq.read_table(path)
    ids, paths, vectors = expected(store)
    assert table.schema.names == ["id", "path", "width", "height", "content_hash", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[12]"
    assert (table["id"].to_pylist(), table["path"].to_pylist()) == (ids, paths)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), vectors)


def test_csv_has_a_column_for_each_number_and_loses_nothing(store, tmp_path):
    (path,) = hand_over(store, tmp_path / "v.csv", form="csv")
    with open(path, newline="") as file:
        head, *lines = csv.reader(file)
    ids, paths, vectors = expected(store)
    assert head == ["id", "path", "width", "height", "content_hash", *(f"embedding_{i}" for i in range(12))]
    assert [int(line[0]) for line in lines] == ids
    assert [line[1] for line in lines] == paths
    np.testing.assert_array_equal(np.array([line[5:] for line in lines], np.float32), vectors)


def test_numpy_has_the_vectors_and_a_csv_in_the_same_order(store, tmp_path):
    vectors_path, rows_path = hand_over(store, tmp_path / "v.npy", form="npy")
    ids, paths, vectors = expected(store)
    np.testing.assert_array_equal(np.load(vectors_path), vectors)
    with open(rows_path, newline="") as file:
        assert [(int(line["id"]), line["path"]) for line in csv.DictReader(file)] == list(
            zip(ids, paths, strict=True)
        )


def test_names_with_quotes_commas_and_foreign_letters_come_out_whole(embed, photos, tmp_path):
    name = "quote\"'comma, ünï 画像.png"
    (photos / "warm" / "red_dark.png").rename(photos / name)
    embed(photos)
    (path,) = hand_over(Store.open(tmp_path / "out.store"), tmp_path / "v.csv", form="csv")
    with open(path, newline="", encoding="utf-8") as file:
        assert str(photos / name) in [line["path"] for line in csv.DictReader(file)]


@pytest.mark.parametrize("form", ["parquet", "csv", "npy"])
def test_a_damaged_shard_leaves_the_file_as_it_was(store, tmp_path, form):
    out = tmp_path / f"v.{form}"
    out.write_bytes(b"old")
    path = store.folder / "img_emb" / "img_emb_00001.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        hand_over(store, out, form=form)
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == before


def test_an_unknown_form_and_an_empty_store_are_refused(store, fill, tmp_path):
    with pytest.raises(ConfigError, match="Use one of: parquet, csv, npy"):
        hand_over(store, tmp_path / "v", form="xlsx")
    empty = Store.open(fill(tmp_path / "e.store", [np.empty((0, 3), np.float32)]))
    with pytest.raises(ImageError, match="holds no vectors"):
        hand_over(empty, tmp_path / "v", form="csv")


def test_embedding_reader_reads_the_store_as_it_is(store):
    """The reader of clip-retrieval and autofaiss, in its `parquet_npy` form."""
    reader_module = pytest.importorskip("embedding_reader", reason="embedding-reader is not installed")
    reader = reader_module.EmbeddingReader(
        embeddings_folder=str(store.folder / "img_emb"),
        metadata_folder=str(store.folder / "metadata"),
        file_format="parquet_npy",
        meta_columns=["id", "image_path"],
    )
    found = [(vectors, table) for vectors, table in reader(batch_size=100)]
    ids, _, vectors = expected(store)
    assert [id for _, table in found for id in table["id"]] == ids
    np.testing.assert_allclose(np.concatenate([block for block, _ in found]), vectors, atol=1e-3)


def plain(store: Path) -> tuple[list[int], np.ndarray]:
    """What clip-retrieval's readers do, with numpy and pyarrow alone."""
    tables = [pq.read_table(path) for path in sorted((store / "metadata").glob("*.parquet"))]
    vectors = [np.load(path) for path in sorted((store / "img_emb").glob("*.npy"))]
    return [id for table in tables for id in table["id"].to_pylist()], np.concatenate(vectors)


def test_plain_numpy_and_pyarrow_read_the_store_as_it_is(store):
    ids, _, vectors = expected(store)
    plain_ids, plain_vectors = plain(store.folder)
    assert plain_ids == ids
    np.testing.assert_allclose(plain_vectors.astype(np.float32), vectors, atol=1e-3)


def test_the_csv_of_a_numpy_file_never_takes_its_place(store, tmp_path):
    with pytest.raises(ConfigError, match=r"Give the vectors a name that ends with \.npy"):
        hand_over(store, tmp_path / "v.csv", form="npy")
    assert not (tmp_path / "v.csv").exists()
