"""An index whose parts were filled apart is the one that is built in one piece, whatever was done in which order."""

import contextlib
import os
import re
import shutil

import faiss
import numpy as np
import pytest
from changing_stores import Changing, clustered

from simclr.artifacts import IndexWish
from simclr.embed.index import (
    Shard,
    build_index,
    build_part,
    check_index,
    join_parts,
    load_index,
    nearest,
    train_parts,
    update_index,
)
from simclr.embed.index import join as join_module
from simclr.embed.index import menu as menu_module
from simclr.embed.index.joined_lists import joinable, write_joined
from simclr.embed.index.parts import folder_of
from simclr.embed.index.training import trained_index
from simclr.errors import ArtifactError, ConfigError

WISH = IndexWish(index_type="IVF8,SQ8", recall=0.9)


@pytest.fixture
def made(changing) -> Changing:
    """900 vectors in 6 shards."""
    made = changing(150)
    for seed in range(2, 7):
        made.change(add=clustered(150, seed))
    return made


def build(made, path, parts=3, wish=WISH, order=None):
    train_parts(made.store, path, wish)
    for number in order or range(1, parts + 1):
        build_part(made.store, path, Shard(number, parts))
    return join_parts(made.store, path)


# ---- lists


@pytest.mark.parametrize(
    ("factory", "entries"),
    [("IVF8,SQ8", 900), ("IVF8,Flat", 900), ("IVF8,RaBitQ4", 900), ("IVF8_HNSW4,SQfp16", 900), ("OPQ8,IVF8,PQ8x4", 900), ("IVF64,SQ8", 12)],
)  # fmt: skip
def test_joined_lists_are_byte_for_byte_what_faiss_writes_of_one_index(factory, entries, tmp_path):
    """Also where few of the lists hold anything, which FAISS writes in another way."""
    vectors, ids = clustered(900, 1), np.arange(900) * 7
    empty = faiss.serialize_index(trained_index(factory, vectors))
    parts = []
    for own in np.array_split(np.arange(entries), 3):
        part = faiss.deserialize_index(empty)
        part.add_with_ids(vectors[own], ids[own])
        faiss.write_index(part, str(tmp_path / f"{own[0]}"))
        parts.append(faiss.read_index(str(tmp_path / f"{own[0]}"), faiss.IO_FLAG_MMAP_IFC))
    whole = faiss.deserialize_index(empty)
    for part in np.array_split(np.arange(entries), 3):
        whole.add_with_ids(vectors[part], ids[part])
    write_joined(tmp_path / "joined", faiss.deserialize_index(empty), parts)
    assert (tmp_path / "joined").read_bytes() == faiss.serialize_index(whole).tobytes()


@pytest.mark.parametrize("factory", ["IVF8,PQ8x4fs", "IVF8,RaBitQfs", "IDMap2,Flat", "IDMap,HNSW8"])
def test_an_index_without_lists_of_single_codes_is_not_joinable(factory):
    assert not joinable(trained_index(factory, clustered(900, 1)))


# ---- the whole


def test_a_joined_index_is_whole_and_in_step_with_its_store(made, tmp_path):
    info = build(made, tmp_path / "v.faiss")
    assert (info.size, info.built_with, info.factory, info.wish) == (900, 900, "IVF8,SQ8", WISH)
    checked = check_index(tmp_path / "v.faiss")
    assert (checked.faults, checked.missing, checked.superfluous) == ((), 0, 0)


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_it_finds_what_the_index_of_one_piece_finds(made, tmp_path, parts):
    build_index(made.store, tmp_path / "one.faiss", WISH)
    build(made, tmp_path / "joined.faiss", parts)
    queries = clustered(40, 99)
    one, joined = (load_index(tmp_path / f"{name}.faiss", mapped=True)[0] for name in ("one", "joined"))
    for lists in (1, 3, 8):
        products, ids = nearest(one, queries, 10, effort=lists)
        again, same = nearest(joined, queries, 10, effort=lists)
        np.testing.assert_allclose(products, again, atol=1e-5)
        assert (ids == same).mean() > 0.99  # but for two that are equally near


def test_parts_may_be_built_in_any_order(made, tmp_path):
    forwards = build(made, tmp_path / "a.faiss")
    backwards = build(made, tmp_path / "b.faiss", order=[3, 1, 2])
    assert forwards.sha256 == backwards.sha256


def test_the_recall_is_that_of_queries_in_no_part(made, tmp_path, monkeypatch):
    """Of what the joined index holds while it is measured, none is a query; afterwards all are in it."""
    held = []
    measure = join_module.measure
    monkeypatch.setattr(
        join_module, "measure", lambda index, *a, **k: held.append(index.ntotal) or measure(index, *a, **k)
    )
    build(made, tmp_path / "v.faiss")
    assert (held, load_index(tmp_path / "v.faiss")[0].ntotal) == ([810], 900)


def test_what_is_near_the_queries_is_gathered_from_all_parts(made, tmp_path, monkeypatch):
    """The slow twin: all inner products at once."""
    seen = []
    measure = join_module.measure
    monkeypatch.setattr(
        join_module, "measure", lambda index, lookup, truth, *a, **k: seen.append(truth) or measure(index, lookup, truth, *a, **k)
    )  # fmt: skip
    build(made, tmp_path / "v.faiss", 6)
    (truth,) = seen
    ids, vectors = (np.concatenate(each) for each in zip(*made.store.blocks(), strict=True))
    products = truth.queries @ vectors.T
    products[:, (products > 0.999).any(0)] = -1  # those that are queries themselves, and so left out
    assert len(truth.queries) == 45
    tenth = np.sort(products, axis=1)[:, -10]
    assert (truth.neighbours[0][:, 9] <= tenth + 1e-3).all()
    found = np.take_along_axis(products, np.searchsorted(ids, truth.neighbours[1][:, :10]), 1)
    np.testing.assert_allclose(found, truth.neighbours[0][:, :10], atol=1e-4)


def test_a_joined_index_is_brought_in_step_as_any_other(made, tmp_path):
    build(made, tmp_path / "v.faiss")
    made.change(add=clustered(20, 9), drop=[3, 4])
    info = update_index(made.store, tmp_path / "v.faiss")
    checked = check_index(tmp_path / "v.faiss")
    assert (info.size, checked.faults, checked.missing, checked.superfluous) == (918, (), 0, 0)


def test_a_type_is_chosen_among_those_whose_parts_can_be_joined(changing, tmp_path, monkeypatch):
    monkeypatch.setattr(menu_module, "_LEAST_FOR_LISTS", 100)
    made = changing(150)
    for seed in range(2, 7):
        made.change(add=clustered(150, seed))
    trained = train_parts(made.store, tmp_path / "v.faiss", IndexWish(latency=1e6, recall=0.5))
    assert [trial.factory.split(",")[1] for trial in trained.trials] == [
        "SQfp16",
        "SQ8",
        "RaBitQ4",
        "RaBitQ2",
        "RaBitQ",
    ]
    assert [trial.factory for trial in trained.trials if trial.verdict == "chosen"] == [trained.factory]


# ---- killed, done twice, in the wrong order


def test_a_part_that_is_there_is_not_filled_again(made, tmp_path):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    first = build_part(made.store, tmp_path / "v.faiss", Shard(1, 2))
    notes = []
    assert build_part(made.store, tmp_path / "v.faiss", Shard(1, 2), note=notes.append) == first
    assert notes == ["index: part 1/2 is there already"]


@contextlib.contextmanager
def dying_at_rename(number: int):
    """The process ends before this rename: of the index, its arrays, and what vouches for both."""
    replace, count = os.replace, 0

    def dying(source, target):
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dying)
        yield


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_builder_killed_at_any_file_leaves_no_part_and_the_next_fills_it(made, tmp_path, number):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    with dying_at_rename(number):
        build_part(made.store, tmp_path / "v.faiss", Shard(1, 1))
    with pytest.raises(ArtifactError, match="missing 1/1"):
        join_parts(made.store, tmp_path / "v.faiss")
    build_part(made.store, tmp_path / "v.faiss", Shard(1, 1))
    assert join_parts(made.store, tmp_path / "v.faiss").size == 900


def test_parts_that_are_missing_are_named(made, tmp_path):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    build_part(made.store, tmp_path / "v.faiss", Shard(2, 3))
    with pytest.raises(ArtifactError, match=re.escape("missing 1/3, 3/3. Run: simclr index build")):
        join_parts(made.store, tmp_path / "v.faiss")
    assert not (tmp_path / "v.faiss").exists()


def test_parts_of_an_earlier_training_do_not_count(made, tmp_path):
    build(made, tmp_path / "v.faiss")
    kept = tmp_path / "kept"
    shutil.copytree(folder_of(tmp_path / "v.faiss"), kept)
    train_parts(made.store, tmp_path / "v.faiss", IndexWish(index_type="IVF16,SQ8"))
    for file in kept.glob("part-*"):
        shutil.copy(file, folder_of(tmp_path / "v.faiss"))
    with pytest.raises(ArtifactError, match=re.escape("missing 1/1.")):
        join_parts(made.store, tmp_path / "v.faiss")
    build_part(made.store, tmp_path / "v.faiss", Shard(1, 3))
    with pytest.raises(ArtifactError, match=re.escape("missing 2/3, 3/3.")):
        join_parts(made.store, tmp_path / "v.faiss")


@pytest.mark.parametrize("when", ["before the parts", "before they are joined"])
def test_a_store_that_changed_since_has_to_be_trained_for_again(made, tmp_path, when):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    if when == "before they are joined":
        build_part(made.store, tmp_path / "v.faiss", Shard(1, 1))
    made.change(drop=[3])
    with pytest.raises(ArtifactError, match=r"has changed since .*Run: simclr index train"):
        if when == "before the parts":
            build_part(made.store, tmp_path / "v.faiss", Shard(1, 1))
        else:
            join_parts(made.store, tmp_path / "v.faiss")


def test_a_damaged_part_is_named_and_the_index_stays(made, tmp_path):
    before = build(made, tmp_path / "v.faiss")
    (part,) = folder_of(tmp_path / "v.faiss").glob("part-2-of-3-*.faiss")
    data = bytearray(part.read_bytes())
    data[-9] ^= 1
    part.write_bytes(data)
    with pytest.raises(
        ArtifactError,
        match=r"part-2-of-3-\w{8}\.faiss: missing or damaged\. Delete .*part-2-of-3-\w{8}\.json",
    ):
        join_parts(made.store, tmp_path / "v.faiss")
    assert load_index(tmp_path / "v.faiss")[1] == before


def test_a_damaged_shard_of_the_store_fills_nothing(made, tmp_path):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    shard = sorted((made.folder / "img_emb").iterdir())[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        build_part(made.store, tmp_path / "v.faiss", Shard(3, 3))
    assert not list(folder_of(tmp_path / "v.faiss").glob("part-*"))
    build_part(made.store, tmp_path / "v.faiss", Shard(1, 3))


def test_nothing_is_left_of_joining(made, tmp_path):
    build(made, tmp_path / "v.faiss")
    left = [path.name for path in folder_of(tmp_path / "v.faiss").iterdir() if not path.name.startswith(".")]
    assert sorted({name[: name.rindex(".")].rpartition("-")[0] for name in left}) == [
        "", "part-1-of-3", "part-2-of-3", "part-3-of-3",
    ]  # fmt: skip
    assert len(left) == 12


def test_training_again_keeps_what_was_trained_and_filled(made, tmp_path):
    trained = train_parts(made.store, tmp_path / "v.faiss", WISH)
    build_part(made.store, tmp_path / "v.faiss", Shard(1, 1))
    assert train_parts(made.store, tmp_path / "v.faiss", WISH) == trained
    assert join_parts(made.store, tmp_path / "v.faiss").size == 900


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_training_killed_at_any_file_is_made_again_by_the_same_command(made, tmp_path, number):
    """Also where it was to replace an earlier one."""
    train_parts(made.store, tmp_path / "v.faiss", IndexWish(index_type="IVF16,SQ8"))
    with dying_at_rename(number):
        train_parts(made.store, tmp_path / "v.faiss", WISH)
    assert build(made, tmp_path / "v.faiss").factory == "IVF8,SQ8"


def test_parts_of_two_copies_of_a_store_are_not_joined(made, tmp_path):
    """As far by generation, but by another way."""
    shutil.copytree(made.folder, tmp_path / "copy.store")
    copy = Changing(tmp_path / "copy.store", made.model)
    made.change(add=clustered(150, 8))
    copy.change(add=clustered(150, 9))
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    build_part(made.store, tmp_path / "v.faiss", Shard(1, 2))
    build_part(copy.store, tmp_path / "v.faiss", Shard(2, 2))
    with pytest.raises(ArtifactError, match="filled from another copy"):
        join_parts(made.store, tmp_path / "v.faiss")


# ---- what cannot be


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/5", ""])
def test_a_shard_that_is_none(text):
    with pytest.raises(ConfigError, match="not a part of a whole"):
        Shard.parse(text)


def test_more_parts_than_shards_are_refused(made, tmp_path):
    train_parts(made.store, tmp_path / "v.faiss", WISH)
    with pytest.raises(ConfigError, match=r"consists of 6 shards\. Ask for 6 parts at most"):
        build_part(made.store, tmp_path / "v.faiss", Shard(1, 7))


@pytest.mark.parametrize("factory", ["IVF8,PQ8x4fs", "Flat", "HNSW8"])
def test_a_type_whose_parts_cannot_be_joined_is_refused(made, tmp_path, factory):
    with pytest.raises(ConfigError, match="its parts cannot be joined"):
        train_parts(made.store, tmp_path / "v.faiss", IndexWish(index_type=factory))


def test_too_few_vectors_are_refused(changing, made, tmp_path):
    with pytest.raises(ConfigError, match="150 vectors are too few to index in parts"):
        train_parts(changing(150, name="few").store, tmp_path / "v.faiss", WISH)
    with pytest.raises(ConfigError, match="0 vectors are too few to index in parts"):
        train_parts(changing(0, name="none").store, tmp_path / "v.faiss")
    with pytest.raises(ConfigError, match="900 vectors are too few to index in parts"):
        train_parts(made.store, tmp_path / "v.faiss", IndexWish())


def test_without_training_there_are_no_parts(made, tmp_path):
    with pytest.raises(ArtifactError, match=r"no trained index there\. Run: simclr index train"):
        build_part(made.store, tmp_path / "v.faiss", Shard(1, 2))
