"""Exact search in blocks against brute force; recall worked out by hand."""

import numpy as np
import pytest

from simclr.embed.recall import exact_neighbours, recall_at_k, true_similarities


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


def recall(found: list[list[int]], truth: list[list[int]], own: list[int], *, k: int) -> float:
    """With similarities that fall by 0.1 from place to place of the truth, and 0 for ids that are not in it."""

    def similarities(rows: list[list[int]]) -> np.ndarray:
        places = [
            [right.index(id) if id in right else 10 for id in row]
            for row, right in zip(rows, truth, strict=True)
        ]
        return 1 - 0.1 * np.array(places, np.float32)

    return recall_at_k(
        (similarities(found), np.array(found)), (similarities(truth), np.array(truth)), np.array(own), k=k
    )


def test_recall_is_the_share_of_true_neighbours_found():
    assert recall([[9, 1, 7, 8]], [[9, 1, 2, 3]], [9], k=3) == pytest.approx(1 / 3)


def test_recall_does_not_care_for_the_order():
    assert recall([[9, 3, 1, 2]], [[9, 1, 2, 3]], [9], k=3) == 1.0


def test_recall_leaves_the_query_itself_out_of_both_lists():
    assert recall([[9, 7, 8]], [[9, 1, 2]], [9], k=2) == 0.0


def test_recall_counts_k_others_where_the_query_itself_was_not_returned():
    """A copy of the query may push it out: the first two others count, not the third."""
    assert recall([[1, 5, 2]], [[1, 2, 3]], [9], k=2) == 0.5


def test_a_copy_of_the_last_true_neighbour_is_as_good_as_it():
    truth = (np.array([[0.9, 0.8]], np.float32), np.array([[1, 2]]))
    found = (np.array([[0.9, 0.8]], np.float32), np.array([[1, 7]]))
    assert recall_at_k(found, truth, np.array([0]), k=2) == 1.0


def test_true_similarities_are_products_looked_up_by_id(vectors):
    ids = np.array([[75, 570, 9999], [70, 71, -1]])
    found = true_similarities(blocks_of(vectors, [3, 490, 7], first_id=70), vectors[:2], ids)
    expected = [
        [vectors[0] @ vectors[5], -np.inf, -np.inf],
        [vectors[1] @ vectors[0], vectors[1] @ vectors[1], -np.inf],
    ]
    assert found.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_recall_is_the_mean_over_queries():
    assert recall([[0, 1], [1, 5]], [[0, 1], [1, 0]], [0, 1], k=1) == 0.5


def test_recall_divides_by_the_neighbours_there_are():
    assert recall([[9, 1, -1, -1]], [[9, 1, 2, -1]], [9], k=3) == 0.5


def test_recall_is_one_where_the_query_is_all_there_is():
    assert recall([[9, -1]], [[9, -1]], [9], k=1) == 1.0
