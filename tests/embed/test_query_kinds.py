"""Queries by id, by several images, under a condition, without themselves."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from simclr.embed import Store, build_index
from simclr.embed.gallery import Blend, gallery
from simclr.embed.search import Index
from simclr.errors import ConfigError


@pytest.fixture
def opened(index) -> Index:
    return Index.open(index)


def id_of(opened: Index, name: str) -> int:
    return next(row.id for row in opened.store.rows() if row.image_path.endswith(name))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_an_id_gives_the_hits_of_its_stored_vector(opened):
    id = id_of(opened, "red_dark.png")
    vectors = {i: v for ids, block in opened.store.blocks() for i, v in zip(ids.tolist(), block, strict=True)}
    (found,), (expected,) = opened.search(id, k=5), opened.search(vectors[id], k=5)
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.similarity for hit in found] == pytest.approx([hit.similarity for hit in expected], abs=1e-6)


def test_ids_and_images_may_stand_in_one_list(opened, photos):
    path, id = photos / "cold" / "green_light.png", id_of(opened, "red_dark.png")
    assert opened.search([path, id, path], k=3) == opened.search(path, 3) + opened.search(
        id, 3
    ) + opened.search(path, 3)


def test_an_id_that_is_not_there_is_named(opened):
    with pytest.raises(ConfigError, match=re.escape("id 4711: ")):
        opened.search([0, 4711])


def test_an_id_needs_no_encoder(opened, monkeypatch):
    from simclr.embed import search as search_module

    monkeypatch.setattr(search_module, "Encoder", None)
    assert len(opened.search(id_of(opened, "red_dark.png"), k=3)[0]) == 3


@pytest.mark.parametrize("as_path", [False, True])
def test_a_query_is_left_out_of_its_hits_on_request(opened, photos, as_path):
    query = photos / "warm" / "red_dark.png" if as_path else id_of(opened, "red_dark.png")
    whole = opened.search(query, k=12)[0]
    hits = opened.search(query, k=11, exclude_self=True)[0]
    assert hits == [hit for hit in whole if not hit.path.endswith("red_dark.png")]


def test_k_hits_come_back_without_the_query_itself(opened):
    assert len(opened.search([3, 4], k=5, exclude_self=True)[1]) == 5


def test_a_query_by_another_way_to_its_file_is_itself(opened, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    os.symlink(photos / "warm", tmp_path / "link")
    for query in ("warm/red_dark.png", tmp_path / "link" / "red_dark.png"):
        hits = opened.search(query, k=11, exclude_self=True)[0]
        assert "red_dark.png" not in {hit.path.split("/")[-1] for hit in hits}


def test_copies_of_a_query_are_not_the_query(embed, photos, tmp_path):
    (photos / "copy.png").write_bytes((photos / "warm" / "red_dark.png").read_bytes())
    embed(photos)
    build_index(Store.open(tmp_path / "out.store"), tmp_path / "out.faiss")
    hits = Index.open(tmp_path / "out.faiss").search(
        photos / "warm" / "red_dark.png", k=1, exclude_self=True
    )[0]
    assert hits[0].path == str(photos / "copy.png")


# ---- several images as one


def test_several_images_are_looked_for_by_their_mean(opened):
    vectors = opened.vectors([1, 5, 9])
    expected = opened.search(unit(vectors.mean(0)), k=6)[0]
    assert opened.search_like([1, 5, 9], k=6) == expected


def test_unlike_takes_the_mean_of_those_off_twice_the_mean_of_these(opened):
    like, unlike = opened.vectors([1, 5]), opened.vectors([2, 3])
    expected = opened.search(2 * like.mean(0) - unlike.mean(0), k=6)[0]
    assert opened.search_like([1, 5], unlike=[2, 3], k=6) == expected


def test_what_hits_shall_be_unlike_sinks(opened):
    red, orange = id_of(opened, "red_dark.png"), id_of(opened, "orange_dark.png")

    def similarity(hits) -> float:
        return next(hit.similarity for hit in hits if hit.id == orange)

    assert similarity(opened.search_like([red], unlike=[orange], k=12)) < similarity(
        opened.search(red, k=12)[0]
    )


def test_all_that_is_looked_for_can_be_left_out(opened):
    hits = opened.search_like([1, 5], unlike=[2], k=9, exclude_self=True)
    assert sorted(hit.id for hit in hits) == sorted(set(range(12)) - {1, 2, 5})


def test_only_unlike_has_no_direction(opened):
    with pytest.raises(ConfigError, match="Give one that it shall be like"):
        opened.search_like([], unlike=[1])


def test_an_image_that_is_as_unlike_as_like_is_found_all_the_same(opened):
    assert opened.search_like([1], unlike=[1], k=3) == opened.search(1, k=3)[0]


# ---- conditions


def test_a_condition_keeps_to_those_that_meet_it_and_k_come_back(opened, photos):
    hits = opened.search(photos / "warm" / "red_dark.png", k=6, where="path like '%/cold/%'")[0]
    assert sorted({hit.path.split("/")[-2] for hit in hits}) == ["cold"]
    assert len(hits) == 6


def test_the_order_under_a_condition_is_that_without_it(opened):
    whole = [hit for hit in opened.search(3, k=12)[0] if hit.id % 2]
    assert opened.search(3, k=12, where="id % 2 = 1")[0] == whole


def test_a_condition_that_nothing_meets_gives_no_hits(opened):
    assert opened.search([1, 2], where="width > 1000000") == [[], []]


def test_a_condition_holds_for_several_as_one_too(opened):
    assert {hit.id for hit in opened.search_like([1, 2], k=12, where="id in (3, 7)")} == {3, 7}


# ---- mapped, and galleries


@pytest.mark.parametrize("mapped", [True, False])
def test_a_mapped_index_gives_the_same_hits(index, mapped):
    assert Index.open(index, mapped=mapped).search([1, 2], k=5) == Index.open(index).search([1, 2], k=5)


def test_an_index_larger_than_half_of_the_free_memory_is_mapped(index, monkeypatch):
    from simclr.embed import search as search_module

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


def test_a_gallery_shows_what_hits_are_to_be_like_and_unlike(opened, photos):
    like, unlike = str(photos / "warm" / "red_dark.png"), str(photos / "cold" / "blue_dark.png")
    page = gallery([(Blend((like,), (unlike,)), opened.search(1, k=2)[0])], title="t")
    figures = re.findall(r'<figure class="(\w+)" title="([^"]+)">', page)
    assert figures[:2] == [("query", like), ("unlike", unlike)]
    assert [kind for kind, _ in figures[2:]] == ["hit", "hit"]
    assert page.count("data:image/jpeg") == 4


def test_names_of_queries_are_those_of_hits(opened, photos):
    path = photos / "warm" / "red_dark.png"
    id = id_of(opened, "red_dark.png")
    assert opened.names([id, str(path), Image.new("RGB", (9, 9))]) == (str(path), str(path), "image")
