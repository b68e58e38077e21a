"""What a search gives is what exact search gives, in the same order, whatever the index, the filter and the copies."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from changing_stores import Changing, clustered

from simclr.artifacts import IndexWish
from simclr.embed import neighbours as neighbours_module
from simclr.embed import rerank as rerank_module
from simclr.embed.index import build_index, load_index, update_index
from simclr.embed.lookup import Lookup
from simclr.embed.neighbours import Finder
from simclr.embed.rerank import rerank

TYPES = ["Flat", "SQ8", "IVF8,SQ8", "IVF8,RaBitQfs4", "HNSW8,SQ8", "PQ16x4fs", "PCA16,Flat"]
QUERIES = clustered(8, 77)


def stored(rows: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """As a store keeps vectors, of unit length again, in float64."""
    halves = {id: vector.astype(np.float16).astype(np.float64) for id, vector in rows.items()}
    return {id: vector / np.linalg.norm(vector) for id, vector in halves.items()}


def exact(rows: dict[int, np.ndarray], query: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """One vector at a time; equal ones by id."""
    scored = sorted((-float(query.astype(np.float64) @ vector), id) for id, vector in stored(rows).items())[
        :k
    ]
    return [id for _, id in scored], [-product for product, _ in scored]


def finder(path: Path, made: Changing, *, thorough: bool = True) -> Finder:
    index, info = load_index(path)
    if thorough:
        all_ = {"nprobe": 8.0, "efSearch": 5000.0, "rerank": 10.0 * index.ntotal}
        info = dataclasses.replace(info, search_parameters=all_)
    return Finder(index, info, Lookup(made.store))


def built(made: Changing, path: Path, factory: str) -> Path:
    build_index(made.store, path, IndexWish(index_type=factory, recall=0.01))
    return path


@pytest.mark.parametrize("factory", TYPES)
def test_ids_and_cosines_are_those_of_exact_search(changing, tmp_path, factory):
    made = changing(400)
    found, ids = finder(built(made, tmp_path / "v.faiss", factory), made).find(QUERIES, 15)
    for query, similarities, id_row in zip(QUERIES, found, ids, strict=True):
        expected_ids, expected = exact(made.rows, query, 15)
        assert id_row.tolist() == expected_ids
        assert similarities.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("factory", TYPES)
def test_similarities_are_true_cosines_also_where_little_is_looked_at(changing, tmp_path, factory):
    made = changing(400)
    similarities, ids = finder(built(made, tmp_path / "v.faiss", factory), made, thorough=False).find(
        QUERIES, 10
    )
    vectors = stored(made.rows)
    for query, similarity_row, id_row in zip(QUERIES, similarities, ids, strict=True):
        assert similarity_row.tolist() == pytest.approx(
            [float(query @ vectors[id]) for id in id_row], abs=1e-6
        )


@pytest.mark.parametrize("factory", TYPES)
@pytest.mark.parametrize("path_taken", ["compared", "index"])
def test_a_filter_gives_the_nearest_of_those_allowed(changing, tmp_path, monkeypatch, factory, path_taken):
    if path_taken == "index":
        monkeypatch.setattr(neighbours_module, "_FEW", 0)
        monkeypatch.setattr(neighbours_module, "_FEW_SHARE", 0.0)
    made = changing(400)
    allowed = np.arange(1, 400, 3)
    path = built(made, tmp_path / "v.faiss", factory)
    index, info = load_index(path)
    info = dataclasses.replace(info, search_parameters={"nprobe": 8.0, "efSearch": 500.0, "rerank": 40.0})
    ids = Finder(index, info, Lookup(made.store)).find(QUERIES, 10, allowed=allowed)[1]
    rows = {id: made.rows[id] for id in allowed.tolist()}
    right = [set(exact(rows, query, 10)[0]) for query in QUERIES]
    assert np.isin(ids, allowed).all()
    if factory == "Flat" or path_taken == "compared":
        assert [set(row) for row in ids.tolist()] == right
    else:
        shares = [len(set(row) & wanted) / 10 for row, wanted in zip(ids.tolist(), right, strict=True)]
        assert np.mean(shares) >= 0.9


def test_an_index_is_asked_for_the_allowed_alone_and_harder_the_rarer_they_are(
    changing, tmp_path, monkeypatch
):
    monkeypatch.setattr(neighbours_module, "_FEW", 0)
    monkeypatch.setattr(neighbours_module, "_FEW_SHARE", 0.0)
    made = changing(400)
    path = built(made, tmp_path / "v.faiss", "IVF8,SQ8")
    index, info = load_index(path)
    info = dataclasses.replace(info, search_parameters={"nprobe": 1.0, "rerank": 10.0})
    asked = []
    nearest = neighbours_module.nearest
    monkeypatch.setattr(neighbours_module, "nearest", lambda *a, **k: (asked.append(k), nearest(*a, **k))[1])
    Finder(index, info, Lookup(made.store)).find(QUERIES, 3, allowed=np.arange(0, 400, 4))
    assert asked[0]["effort"] == 4
    assert asked[0]["allowed"].tolist() == list(range(0, 400, 4))


@pytest.mark.parametrize("factory", [*TYPES, "IVF8,RaBitQfs"])
def test_of_copies_those_with_the_lowest_ids_come_first(changing, tmp_path, factory):
    made = changing(200)
    copy = clustered(1, 5)
    made.change(add=np.repeat(copy, 150, axis=0))
    made.change(add=clustered(50, 6))
    ids = finder(built(made, tmp_path / "v.faiss", factory), made, thorough=False).find(copy, 10)[1]
    assert ids.tolist() == [list(range(200, 210))]


@pytest.mark.parametrize("factory", TYPES)
def test_dead_entries_neither_come_nor_take_places(changing, tmp_path, factory):
    made, path = changing(400), tmp_path / "v.faiss"
    built(made, path, factory)
    near = exact(made.rows, QUERIES[0], 60)[0]
    made.change(drop=near)
    update_index(made.store, path)
    ids = finder(path, made, thorough=False).find(QUERIES[:1], 10)[1][0].tolist()
    assert len(set(ids) & set(made.rows)) == 10


def test_an_index_behind_its_store_fills_up_with_what_is_there(changing, tmp_path):
    made = changing(400)
    path = built(made, tmp_path / "v.faiss", "IVF8,SQ8")
    made.change(drop=exact(made.rows, QUERIES[0], 60)[0])
    ids = finder(path, made, thorough=False).find(QUERIES[:1], 10)[1][0].tolist()
    assert len(set(ids) & set(made.rows)) == 10


@pytest.mark.parametrize("factory", ["Flat", "IVF8,SQ8", "IVF8,RaBitQfs4"])
def test_more_neighbours_than_vectors_are_all_of_them(changing, tmp_path, factory):
    made = changing(400)
    similarities, ids = finder(built(made, tmp_path / "v.faiss", factory), made, thorough=False).find(
        QUERIES[:2], 1000
    )
    assert [sorted(row) for row in ids.tolist()] == [list(range(400))] * 2
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_nothing_allowed_finds_nothing(changing, tmp_path):
    made = changing(400)
    found = finder(built(made, tmp_path / "v.faiss", "Flat"), made).find(
        QUERIES, 5, allowed=np.empty(0, np.int64)
    )
    assert [part.shape for part in found] == [(8, 0), (8, 0)]


def test_the_same_search_gives_the_same_answer_alone_and_among_others(changing, tmp_path):
    made = changing(400)
    both = finder(built(made, tmp_path / "v.faiss", "IVF8,RaBitQfs4"), made, thorough=False)
    together = both.find(QUERIES, 10)[1].tolist()
    assert [both.find(query[None], 10)[1][0].tolist() for query in QUERIES] == together


# ---- ranking again


def test_ranking_orders_by_cosine_and_equal_ones_by_id(changing):
    made = changing(50)
    made.change(add=np.stack([made.rows[7], made.rows[7]]))
    similarities, ids = rerank(Lookup(made.store), QUERIES[:1], np.array([[51, 3, 7, 50, 12]]))
    rows = {id: made.rows[id] for id in (51, 3, 7, 50, 12)}
    assert (ids[0].tolist(), similarities[0].tolist()) == (exact(rows, QUERIES[0], 5)[0], pytest.approx(exact(rows, QUERIES[0], 5)[1], abs=1e-6))  # fmt: skip
    place = ids[0].tolist().index(7)
    assert ids[0, place : place + 3].tolist() == [7, 50, 51]


def test_ids_that_the_store_does_not_have_come_last_as_minus_one(changing):
    similarities, ids = rerank(Lookup(changing(50).store), QUERIES[:1], np.array([[-1, 3, 999, 4]]))
    assert ids[0, 2:].tolist() == [-1, -1]
    assert similarities[0, 2:].tolist() == [-np.inf, -np.inf]
    assert set(ids[0, :2].tolist()) == {3, 4}


def test_ranking_in_blocks_changes_nothing(changing, monkeypatch):
    lookup = Lookup(changing(200).store)
    ids = np.random.default_rng(0).integers(0, 220, (8, 30))
    whole = rerank(lookup, QUERIES, ids)
    monkeypatch.setattr(rerank_module, "_BLOCK_NUMBERS", 3 * 30 * 32)
    for part, expected in zip(rerank(lookup, QUERIES, ids), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


# ---- looking up


def test_vectors_and_paths_come_in_the_order_of_their_ids_wherever_they_lie(changing):
    made = changing(140)
    made.change(add=clustered(140, 3))
    made.change(drop=[0, 5, 200], replace={9: clustered(1, 4)[0]})
    lookup = Lookup(made.store)
    wanted = np.random.default_rng(1).permutation(sorted(made.rows))[:60]
    expected = np.stack([made.rows[id].astype(np.float16) for id in wanted.tolist()])
    np.testing.assert_array_equal(lookup.vectors(wanted), expected)
    paths = {row.id: str(made.store.path(row)) for row in made.store.rows()}
    assert lookup.paths(wanted) == [paths[id] for id in wanted.tolist()]


def test_a_lookup_knows_which_ids_there_are(changing):
    made = changing(140)
    made.change(drop=[3])
    lookup = Lookup(made.store)
    assert lookup.holds(np.array([[2, 3, 4], [139, 140, -1]])).tolist() == [
        [True, False, True],
        [True, False, False],
    ]
    assert (3 in lookup, 4 in lookup, len(lookup)) == (False, True, 139)


def test_a_lookup_of_nothing_is_nothing(changing):
    made = changing(30)
    lookup = Lookup(made.store)
    assert lookup.vectors(np.empty(0, np.int64)).shape == (0, 32)
    assert lookup.paths(np.empty(0, np.int64)) == []
    made.change(drop=list(made.rows))
    assert not Lookup(made.store).holds(np.arange(5)).any()
