"""Exact search in blocks against brute force."""

import numpy as np
import pytest

from simclr.embed.exact import exact_neighbours


def blocks_of(vectors: np.ndarray, sizes: list[int], first_id: int = 0):
    start = 0
    for size in sizes:
        yield np.arange(start, start + size) + first_id, vectors[start : start + size]
        start += size


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int, first_id: int) -> list[tuple[float, int]]:
    """One query, one vector at a time."""
    scored = [(float(np.dot(query, vector)), i + first_id) for i, vector in enumerate(vectors)]
    return sorted(scored, reverse=True)[:k]


@pytest.mark.parametrize("sizes", [[500], [1, 499], [3, 200, 97, 200], [4] * 125])
def test_exact_neighbours_are_those_of_brute_force_however_the_blocks_lie(vectors, sizes):
    queries = vectors[::100] + np.float32(0.1)
    products, ids = exact_neighbours(blocks_of(vectors, sizes, first_id=70), queries, k=7)
    for query, product_row, id_row in zip(queries, products, ids, strict=True):
        expected = brute_force(vectors, query, 7, first_id=70)
        assert id_row.tolist() == [id for _, id in expected]
        assert product_row.tolist() == pytest.approx([product for product, _ in expected], abs=1e-5)


def test_exact_neighbours_fills_up_with_minus_one_where_there_are_fewer_than_k(vectors):
    products, ids = exact_neighbours(blocks_of(vectors[:3], [2, 1]), vectors[:1], k=5)
    assert sorted(ids[0, :3].tolist()) == [0, 1, 2]
    assert ids[0, 3:].tolist() == [-1, -1]
    assert products[0, 3:].tolist() == [-np.inf, -np.inf]


def test_exact_neighbours_of_no_blocks_are_none(vectors):
    _, ids = exact_neighbours([], vectors[:2], k=3)
    assert ids.tolist() == [[-1, -1, -1], [-1, -1, -1]]
