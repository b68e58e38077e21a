"""Queries by id, by several images, under a condition, without themselves: by hand, and by a loop."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.artifacts import IndexWish
from simclr.embed import Store, build_index
from simclr.embed import search as search_module
from simclr.embed.index import library
from simclr.embed.search import Hit, Index
from simclr.errors import ConfigError


@pytest.fixture
def opened(index) -> Index:
    return Index.open(index)


@pytest.fixture
def axes(fill, tmp_path) -> Index:
    """Ids 0 to 3 are the axes of space, 4 is a copy of 0, and 5 the opposite of 3."""
    fill(tmp_path / "axes.store", [np.eye(4), np.eye(4)[:1], -np.eye(4)[3:]])
    build_index(Store.open(tmp_path / "axes.store"), tmp_path / "axes.faiss")
    return Index.open(tmp_path / "axes.faiss")


def colours(hits: list[Hit]) -> list[str]:
    """Light and dark of one colour point the same way, so that which comes first is chance."""
    return [Path(hit.path).name.split("_")[0] for hit in hits]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pairs(hits: list[Hit]) -> list[tuple[int, float]]:
    return [(hit.id, pytest.approx(hit.similarity, abs=1e-6)) for hit in hits]


def by_cosine(opened: Index, vector: np.ndarray, ids) -> list[int]:
    """These ids in the order in which a loop over the store puts them."""
    stored = {
        id: row for block, rows in opened.store.blocks() for id, row in zip(block.tolist(), rows, strict=True)
    }
    return sorted(ids, key=lambda id: (-round(cosine(vector, stored[id]), 6), id))


def id_of(opened: Index, path: Path) -> int:
    return next(row.id for row in opened.store.rows() if opened.store.path(row) == str(path))


def test_the_hits_of_an_id_are_itself_its_copies_and_then_what_is_near(axes):
    assert pairs(axes.search(4)[0]) == [(0, 1), (4, 1), (1, 0), (2, 0), (3, 0), (5, 0)]


def test_the_opposite_of_an_id_comes_last_with_minus_one(axes):
    assert pairs(axes.search(3)[0])[-1] == (5, -1)


def test_ids_and_images_in_one_list_keep_their_order(opened, photos):
    blue, red = photos / "cold" / "blue_dark.png", photos / "warm" / "red_dark.png"
    with Image.open(blue) as picture:
        picture.load()
    found = opened.search([id_of(opened, red), picture, id_of(opened, blue), str(red)], k=1)
    assert [colours(hits) for hits in found] == [["red"], ["blue"], ["blue"], ["red"]]


@pytest.mark.parametrize("ask", [lambda axes: axes.search([0, 77, 99]), lambda axes: axes.search_like([0], unlike=[77])])  # fmt: skip
def test_the_first_id_that_is_not_there_is_named_with_its_store(axes, ask):
    with pytest.raises(ConfigError, match=f"^id 77: {axes.store.folder} has no image with this id"):
        ask(axes)


def test_the_mean_of_two_axes_lies_between_them(axes):
    half = 0.5**0.5
    assert pairs(axes.search_like([1, 2])) == [(1, half), (2, half), (0, 0), (3, 0), (4, 0), (5, 0)]


def test_the_mean_weighs_an_image_as_often_as_it_is_named(axes):
    assert pairs(axes.search_like([1, 1, 2], k=2)) == [(1, 2 / 5**0.5), (2, 1 / 5**0.5)]


def test_unlike_turns_the_query_away(axes):
    """Twice the one axis less the other."""
    found = pairs(axes.search_like([1], unlike=[2]))
    assert found == [(1, 2 / 5**0.5), (0, 0), (3, 0), (4, 0), (5, 0), (2, -1 / 5**0.5)]


def test_unlike_several_is_unlike_their_mean(axes):
    """(0, 2, 0, 0) - (0, 0, 1/2, 1/2)."""
    found = dict(pairs(axes.search_like([1], unlike=[2, 3])))
    assert found == {1: 2 / 4.5**0.5, 2: -0.5 / 4.5**0.5, 3: -0.5 / 4.5**0.5, 5: 0.5 / 4.5**0.5, 0: 0, 4: 0}


def test_images_that_cancel_one_another_have_no_direction(axes):
    with pytest.raises(ConfigError, match="has no direction to compare"):
        axes.search_like([3, 5])


def test_no_image_to_be_like_is_refused(axes):
    with pytest.raises(
        ConfigError, match="no image to look for: what is only unlike others has no direction"
    ):
        axes.search_like([], unlike=[1])


def test_a_query_is_left_out_and_its_copy_is_not(axes):
    assert pairs(axes.search(0, k=2, exclude_self=True)[0]) == [(4, 1), (1, 0)]


def test_each_query_leaves_out_itself_alone(axes):
    found = axes.search([0, 1], k=5, exclude_self=True)
    assert [[hit.id for hit in hits] for hits in found] == [[4, 1, 2, 3, 5], [0, 2, 3, 4, 5]]


def test_several_as_one_leave_out_all_of_them_and_k_come_back(axes):
    found = axes.search_like([0, 1], unlike=[5], k=3, exclude_self=True)
    assert [hit.id for hit in found] == [3, 4, 2]


@pytest.mark.parametrize("as_", [str, Path, os.path.relpath, lambda path: f"{path.parent}/../warm/{path.name}"])  # fmt: skip
def test_a_path_leaves_out_its_image_however_it_is_written(opened, photos, as_):
    path = photos / "warm" / "red_dark.png"
    found = opened.search(as_(path), k=11, exclude_self=True)[0]
    assert sorted(hit.id for hit in found) == sorted(set(range(12)) - {id_of(opened, path)})


def test_a_symbolic_link_leaves_out_the_image_it_leads_to(opened, photos, tmp_path):
    path = photos / "warm" / "red_dark.png"
    (tmp_path / "link.png").symlink_to(path)
    found = opened.search(tmp_path / "link.png", k=11, exclude_self=True)[0]
    assert sorted(hit.id for hit in found) == sorted(set(range(12)) - {id_of(opened, path)})


def test_a_copy_elsewhere_leaves_out_nothing(opened, photos, tmp_path):
    (tmp_path / "copy.png").write_bytes((photos / "warm" / "red_dark.png").read_bytes())
    assert len(opened.search(tmp_path / "copy.png", k=12, exclude_self=True)[0]) == 12


def test_a_vector_and_a_pillow_image_leave_out_nothing(axes, opened, photos):
    assert axes.search(np.eye(4)[:1], k=6, exclude_self=True) == axes.search(np.eye(4)[:1], k=6)
    with Image.open(photos / "warm" / "red_dark.png") as picture:
        assert len(opened.search(picture, k=12, exclude_self=True)[0]) == 12


def test_a_condition_gives_the_nearest_of_those_that_meet_it(opened, encoder, photos):
    query = photos / "warm" / "red_dark.png"
    cold = [id for id in range(12) if "/cold/" in opened.search(id, k=1, where=f"id = {id}")[0][0].path]
    found = opened.search(query, k=4, where="path like '%/cold/%'")[0]
    assert [hit.id for hit in found] == by_cosine(opened, encoder.encode([query])[0], cold)[:4]


def test_a_condition_and_leaving_out_together_still_give_k(opened, encoder, photos):
    query = photos / "warm" / "red_dark.png"
    others = [id_of(opened, path) for path in (photos / "warm").iterdir() if path != query]
    found = opened.search(query, k=5, where="path like '%/warm/%'", exclude_self=True)[0]
    assert [hit.id for hit in found] == by_cosine(opened, encoder.encode([query])[0], others)


def test_fewer_come_where_fewer_meet_the_condition(axes):
    assert [hit.id for hit in axes.search(0, k=5, where="id in (4, 2)")[0]] == [4, 2]


def test_a_condition_that_nothing_meets_gives_an_empty_list_for_each_query(axes):
    assert axes.search([0, 1, 2], where="id = 77") == [[], [], []]
    assert axes.search_like([0], where="id = 77") == []


def test_a_condition_that_all_meet_changes_nothing(opened):
    assert opened.search([3, 8], where="width > 0") == opened.search([3, 8])


def test_an_index_that_is_opened_anew_gives_the_same_hits(index, opened, photos):
    queries = [3, photos / "warm" / "red_dark.png"]
    again = [opened.search(queries), Index.open(index).search(queries), opened.search(queries)]
    assert again == [opened.search(queries)] * 3


def test_threads_that_search_at_once_each_get_their_hits(opened):
    expected = [opened.search(id, k=6, where=f"id != {id}") for id in range(12)]
    fresh = Index(opened._index, opened.info, opened.store, opened.store.model)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda id: fresh.search(id, k=6, where=f"id != {id}"), [*range(12)] * 5))
    assert found == expected * 5


def test_an_id_needs_no_encoder(opened, monkeypatch):
    monkeypatch.setattr(search_module, "Encoder", None)
    assert len(opened.search(4, k=3)[0]) == 3


def test_a_query_by_another_way_to_its_file_is_itself(opened, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    os.symlink(photos / "warm", tmp_path / "link")
    for query in ("warm/red_dark.png", tmp_path / "link" / "red_dark.png"):
        hits = opened.search(query, k=11, exclude_self=True)[0]
        assert "red_dark.png" not in {hit.path.split("/")[-1] for hit in hits}


def test_an_image_that_is_as_unlike_as_like_is_found_all_the_same(opened):
    assert opened.search_like([1], unlike=[1], k=3) == opened.search(1, k=3)[0]


def test_a_condition_holds_for_several_as_one_too(opened):
    assert {hit.id for hit in opened.search_like([1, 2], k=12, where="id in (3, 7)")} == {3, 7}


def test_names_of_queries_are_those_of_hits(opened, photos):
    path = photos / "warm" / "red_dark.png"
    id = id_of(opened, path)
    assert opened.names([id, str(path), Image.new("RGB", (9, 9))]) == (str(path), str(path), "image")


# ---- an index that is mapped instead of loaded


@pytest.fixture
def many(fill, vectors, tmp_path, monkeypatch) -> Callable[[str], Path]:
    """The 500 vectors, in an index of some type."""
    monkeypatch.setattr(library, "_cores", lambda: 1)
    store = Store.open(fill(tmp_path / "many.store", [vectors[:200], vectors[200:]]))

    def many(factory: str) -> Path:
        build_index(store, tmp_path / "many.faiss", IndexWish(index_type=factory, recall=0.01))
        return tmp_path / "many.faiss"

    return many


@pytest.mark.parametrize("factory", ["Flat", "IVF16,SQ8", "HNSW16", "RaBitQfs4", "IVF16,RaBitQfs4"])
def test_a_mapped_index_gives_what_a_loaded_one_gives(many, vectors, factory):
    path = many(factory)
    mapped, loaded = Index.open(path, mapped=True), Index.open(path, mapped=False)
    for where in (None, "id % 2 = 0"):
        expected = loaded.search(vectors[:40] + vectors[1:41], where=where)
        assert mapped.search(vectors[:40] + vectors[1:41], where=where) == expected
        assert [len(hits) for hits in expected] == [10] * 40


def test_a_mapped_index_goes_on_after_its_file_was_replaced(many, vectors):
    path = many("IVF16,SQ8")
    opened = Index.open(path, mapped=True)
    expected = Index.open(path, mapped=False).search(vectors[:40])
    many("Flat")
    assert opened.search(vectors[:40]) == expected


def test_an_index_larger_than_half_of_the_free_memory_is_mapped(index, monkeypatch):
    asked = []
    load = search_module.load_index
    monkeypatch.setattr(
        search_module,
        "load_index",
        lambda path, *, mapped: (asked.append(mapped), load(path, mapped=mapped))[1],
    )
    for free in (index.stat().st_size * 2 - 2, index.stat().st_size * 2):
        monkeypatch.setattr(search_module, "free_memory", lambda free=free: free)
        Index.open(index)
    assert asked == [True, False]
