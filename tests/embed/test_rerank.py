"""Ranking again is sorting by cosines in float64, equal ones by id; it knows nothing of any index."""

import threading
from pathlib import Path

import numpy as np
import pytest

from simclr.embed import rerank as rerank_module
from simclr.embed.lookup import Lookup
from simclr.embed.rerank import rerank
from simclr.embed.store import Store
from simclr.embed.writer import writing

WIDTH = 37


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


VECTORS = unit(np.random.default_rng(0).standard_normal((100, WIDTH)))
QUERIES = unit(np.random.default_rng(1).standard_normal((23, WIDTH)))
COPIES = [20, 60, 61, 99]
VECTORS[COPIES] = VECTORS[20]


@pytest.fixture
def folder(fill, tmp_path) -> Path:
    return fill(tmp_path / "v.store", [VECTORS[:30], VECTORS[30:31], VECTORS[31:]])


@pytest.fixture
def lookup(folder) -> Lookup:
    return Lookup(Store.open(folder))


def cosine(query: np.ndarray, id: int) -> float:
    """With the vector as float16 has it, whose length is not 1."""
    a, b = query.astype(np.float64), VECTORS[id].astype(np.float16).astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def ranked(query: np.ndarray, ids: list[int]) -> tuple[list[float], list[int]]:
    """One at a time; ids that are not there come last."""
    there = sorted((-cosine(query, id), id) for id in ids if 0 <= id < 100)
    nobody = len(ids) - len(there)
    return [-negative for negative, _ in there] + [-np.inf] * nobody, [id for _, id in there] + [-1] * nobody


def any_ids(rows: int, width: int) -> np.ndarray:
    """Some of them -1, some beyond those that there are, none twice in a row."""
    rng = np.random.default_rng([rows, width])
    return np.array([rng.choice(np.arange(-1, 120), width, replace=False) for _ in range(rows)])


def test_similarities_are_cosines_in_float64_of_the_stored_vectors(lookup):
    ids = np.array([np.random.default_rng(i).permutation(100) for i in range(23)])
    similarities, ranked_ids = rerank(lookup, QUERIES, ids)
    for query, similarity_row, id_row in zip(
        QUERIES, similarities.tolist(), ranked_ids.tolist(), strict=True
    ):
        assert similarity_row == pytest.approx([cosine(query, id) for id in id_row], abs=1e-6)


def test_every_row_is_sorted_by_itself(lookup):
    ids = any_ids(23, 40)
    similarities, ranked_ids = rerank(lookup, QUERIES, ids)
    for query, given, similarity_row, id_row in zip(QUERIES, ids, similarities, ranked_ids, strict=True):
        expected, expected_ids = ranked(query, given.tolist())
        assert id_row.tolist() == expected_ids
        assert similarity_row.tolist() == pytest.approx(expected, abs=1e-6)


def test_copies_come_by_id_in_whatever_order_they_were_given(lookup):
    for given in ([99, 20, 61, 60], [60, 61, 20, 99], [61, 99, 60, 20]):
        similarities, ids = rerank(lookup, QUERIES[:1], np.array([given]))
        assert ids.tolist() == [COPIES]
        assert len(set(similarities[0].tolist())) == 1


def test_ids_that_are_not_there_come_behind_the_least_similar_one(lookup):
    """The cosine of the first is -1."""
    similarities, ids = rerank(lookup, -VECTORS[:1], np.array([[-1, 100, 0, 1 << 40]]))
    assert ids.tolist() == [[0, -1, -1, -1]]
    assert similarities.tolist() == [[pytest.approx(-1, abs=1e-6), -np.inf, -np.inf, -np.inf]]


def test_ids_that_were_dropped_are_not_there(folder):
    with writing(folder) as writer:
        writer.commit([], np.empty((0, WIDTH), np.float32), drop=[0, 7])
    ids = rerank(Lookup(Store.open(folder)), QUERIES[:1], np.array([[0, 7, 30, 3]]))[1]
    assert ids.tolist() == [[*ranked(QUERIES[0], [3, 30])[1], -1, -1]]


def test_where_none_is_there_all_are_minus_one(lookup):
    similarities, ids = rerank(lookup, QUERIES[:2], np.array([[-1, 100], [101, -1]]))
    assert ids.tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(similarities).all()


def test_an_empty_store_has_none_of_them(folder):
    with writing(folder) as writer:
        writer.commit([], np.empty((0, WIDTH), np.float32), drop=range(100))
    similarities, ids = rerank(Lookup(Store.open(folder)), QUERIES[:2], np.array([[3, -1], [0, 1]]))
    assert ids.tolist() == [[-1, -1], [-1, -1]]
    assert np.isneginf(similarities).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_to_rank_gives_nothing(lookup, shape):
    found = rerank(lookup, QUERIES[: shape[0]], np.empty(shape, np.int64))
    assert [part.shape for part in found] == [shape, shape]


@pytest.mark.parametrize("queries_at_once", [1, 2, 7, 22, 23, 24])
def test_how_many_are_compared_at_once_changes_nothing(lookup, monkeypatch, queries_at_once):
    ids = any_ids(23, 40)
    whole = rerank(lookup, QUERIES, ids)
    monkeypatch.setattr(rerank_module, "_BLOCK_NUMBERS", queries_at_once * 40 * WIDTH)
    for part, expected in zip(rerank(lookup, QUERIES, ids), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_query_whose_candidates_are_more_than_a_block_is_ranked_all_the_same(lookup, monkeypatch):
    ids = any_ids(23, 40)
    whole = rerank(lookup, QUERIES, ids)
    monkeypatch.setattr(rerank_module, "_BLOCK_NUMBERS", 1)
    for part, expected in zip(rerank(lookup, QUERIES, ids), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_block_holds_as_many_numbers_as_it_may(lookup, monkeypatch):
    sizes = []
    to_float32 = rerank_module.to_float32
    monkeypatch.setattr(
        rerank_module, "to_float32", lambda stored: (sizes.append(stored.size), to_float32(stored))[1]
    )
    monkeypatch.setattr(rerank_module, "_BLOCK_NUMBERS", 10 * 40 * WIDTH + 1)
    rerank(lookup, QUERIES, any_ids(23, 40))
    assert sorted(sizes) == [3 * 40 * WIDTH, 10 * 40 * WIDTH, 10 * 40 * WIDTH]


def test_few_queries_are_ranked_without_starting_threads(lookup, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    assert rerank(lookup, QUERIES, any_ids(23, 40))[1].shape == (23, 40)


def test_queries_and_ids_are_left_as_they_were(lookup):
    queries, ids = QUERIES.copy(), any_ids(23, 40)
    rerank(lookup, queries, ids)
    np.testing.assert_array_equal(queries, QUERIES)
    np.testing.assert_array_equal(ids, any_ids(23, 40))
