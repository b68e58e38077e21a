"""Merged stores hold each image once, under ids that stay or are new; a check finds what is wrong, and says how good it is."""

import dataclasses
import re

import numpy as np
import pytest
from changing_stores import Changing, clustered

from simclr.artifacts import IndexWish
from simclr.embed.index import build_index, check_index, load_index, merge_indexes, sidecar, update_index
from simclr.embed.index.files import changing as changing_index
from simclr.embed.index.files import entries_file, load_entries, save_index
from simclr.embed.merge import merge_stores
from simclr.embed.store import Store
from simclr.embed.writer import writing
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch

WISH = IndexWish(index_type="IVF8,SQ8", recall=0.01)


@pytest.fixture
def two(changing, tmp_path) -> tuple[Changing, Changing]:
    """Two stores with their indexes, a.faiss of 300 and b.faiss of 200 vectors; ids of both begin at 0."""
    a, b = changing(300, name="a", seed=1), changing(200, name="b", seed=2)
    b.change(drop=[5, 6])
    build_index(a.store, tmp_path / "a.faiss", WISH)
    build_index(b.store, tmp_path / "b.faiss", WISH)
    return a, b


def vector_of(store: Store) -> dict[str, np.ndarray]:
    """Openable path -> stored vector."""
    blocks = np.concatenate([block for _, block in store.blocks()])
    return {str(store.path(row)): vector for row, vector in zip(store.rows(), blocks, strict=True)}


def test_a_merged_store_has_every_image_with_its_vector(two, tmp_path):
    a, b = two
    assert merge_stores([a.store, b.store], tmp_path / "c.store") == 0
    merged, expected = vector_of(Store.open(tmp_path / "c.store")), vector_of(a.store) | vector_of(b.store)
    assert merged.keys() == expected.keys()
    for path, vector in merged.items():
        np.testing.assert_array_equal(vector, expected[path])


def test_images_of_the_first_keep_their_ids_and_the_others_get_new_ones(two, tmp_path):
    a, b = two
    merge_stores([a.store, b.store], tmp_path / "c.store")
    merged = Store.open(tmp_path / "c.store")
    ids = {str(merged.path(row)): row.id for row in merged.rows()}
    assert [ids[str(a.store.path(row))] for row in a.store.rows()] == [row.id for row in a.store.rows()]
    assert sorted(ids[str(b.store.path(row))] for row in b.store.rows()) == list(range(300, 498))


def test_ids_that_the_first_had_given_and_taken_back_are_not_given_again(two, tmp_path):
    a, b = two
    a.change(drop=[299])
    merge_stores([a.store, b.store], tmp_path / "c.store")
    assert 299 not in {row.id for row in Store.open(tmp_path / "c.store").rows()}


def test_an_image_that_is_in_both_is_there_once_and_counted(two, tmp_path):
    a, b = two
    merge_stores([a.store, b.store], tmp_path / "c.store")
    c = Store.open(tmp_path / "c.store")
    assert merge_stores([a.store, c], tmp_path / "d.store") == 300
    assert len(Store.open(tmp_path / "d.store")) == 498


def test_the_stores_that_are_merged_stay_as_they_are(two, tmp_path):
    a, b = two
    before = {path: path.stat().st_mtime_ns for folder in (a.folder, b.folder) for path in folder.rglob("*")}
    merge_stores([a.store, b.store], tmp_path / "c.store")
    after = {path: path.stat().st_mtime_ns for folder in (a.folder, b.folder) for path in folder.rglob("*")}
    assert before == after


def test_stores_of_two_encoders_are_not_merged(two, model, tmp_path):
    a, _ = two
    with writing(tmp_path / "x.store", model=model, identity="another", width=32) as writer:
        writer.commit([], np.empty((0, 32), np.float32))
    with pytest.raises(EncoderMismatch, match="Only stores of one encoder can be merged"):
        merge_stores([a.store, Store.open(tmp_path / "x.store")], tmp_path / "c.store")


def test_a_merge_that_fails_half_way_leaves_nothing(two, tmp_path):
    a, b = two
    shard = sorted((b.folder / "img_emb").iterdir())[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        merge_stores([a.store, b.store], tmp_path / "c.store")
    assert not (tmp_path / "c.store").exists()
    shard.write_bytes(b"mended below")
    assert merge_stores([a.store], tmp_path / "c.store") == 0


def test_a_merged_index_knows_all_images_and_goes_on_from_the_largest(two, tmp_path):
    info = merge_indexes([tmp_path / "b.faiss", tmp_path / "a.faiss"], tmp_path / "c.faiss")
    assert (info.size, info.store, info.built_with, info.wish) == (498, "c.store", 300, WISH)
    checked = check_index(tmp_path / "c.faiss")
    assert (checked.faults, checked.missing, checked.superfluous) == ((), 0, 0)


@pytest.mark.parametrize(
    ("names", "out", "words"),
    [
        (["a"], "c", "two indexes or more are needed"),
        (["a", "a"], "c", "two indexes or more are needed"),
        (["a", "b"], "a", "a.faiss: exists"),
        (["a", "b"], "b.store/../b", "b.faiss: exists"),
    ],
)
def test_a_merge_that_cannot_be_is_refused(two, tmp_path, names, out, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        merge_indexes([tmp_path / f"{name}.faiss" for name in names], tmp_path / f"{out}.faiss")


def test_a_store_in_the_way_is_not_overwritten(two, tmp_path):
    (tmp_path / "c.store").mkdir()
    with pytest.raises(ConfigError, match=re.escape("c.store: exists")):
        merge_indexes([tmp_path / "a.faiss", tmp_path / "b.faiss"], tmp_path / "c.faiss")


# ---- check


def test_a_whole_index_has_no_faults_and_its_recall_is_measured(two, tmp_path):
    checked = check_index(tmp_path / "a.faiss")
    assert (checked.faults, checked.missing, checked.superfluous) == ((), 0, 0)
    assert checked.measured["queries"] == 300


def test_an_index_behind_its_store_says_by_how_much(two, tmp_path):
    a, _ = two
    a.change(add=clustered(7, 9), drop=[1, 2], replace={50: clustered(1, 8)[0]})
    checked = check_index(tmp_path / "a.faiss")
    assert (checked.faults, checked.missing, checked.superfluous) == ((), 8, 3)


def test_entries_that_are_gone_are_a_fault(two, tmp_path):
    entries_file(tmp_path / "a.faiss").unlink()
    assert check_index(tmp_path / "a.faiss").faults[0].endswith("so the next update builds the index anew")


def test_an_index_that_holds_other_ids_than_it_says_is_found(two, tmp_path):
    """Its checksums are right: it was written so."""
    path = tmp_path / "a.faiss"
    index, info = load_index(path)
    held = load_entries(path, info)
    index.remove_ids(np.array([3, 4]))
    with changing_index(path):
        save_index(path, index, info, held)
    faults = check_index(path).faults
    assert faults == (
        "has 298 ids that are not the 300 of its entries",
        "has 298 vectors, 300 by its sidecar",
    )


def test_an_index_that_claims_to_be_in_step_and_is_not_is_found(two, tmp_path):
    a, _ = two
    path = tmp_path / "a.faiss"
    a.change(add=clustered(7, 9))
    _, info = load_index(path)
    dataclasses.replace(info, generation=a.store.info.generation).save(sidecar(path))
    assert check_index(path).faults == (
        "7 vectors of the store are not in the index as they are, though it should be in step",
    )


def test_buried_entries_are_counted(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, dataclasses.replace(WISH, index_type="HNSW8,SQ8"))
    made.change(drop=[1, 2, 3])
    assert update_index(made.store, path).buried == 3
    assert check_index(path).faults == ()
    _, info = load_index(path)
    dataclasses.replace(info, buried=2).save(sidecar(path))
    assert check_index(path).faults == ("has 3 dead entries, 2 by its sidecar",)


def test_a_store_that_was_not_its_own_is_refused(two, tmp_path):
    with pytest.raises(ArtifactError, match="Give the store it was built from"):
        check_index(tmp_path / "a.faiss", store=tmp_path / "b.store")
