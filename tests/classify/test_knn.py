"""The vote among neighbours, against a loop and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from simclr.classify import knn
from simclr.classify.knn import knn_predict, largest


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 5, 500)


@pytest.fixture
def queries() -> np.ndarray:
    values = np.random.default_rng(3).standard_normal((80, 32)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def at_angles(*degrees: float) -> np.ndarray:
    return np.array([(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees], np.float32)


def vote_by_loop(vectors, labels, query, *, k: int, temperature: float) -> int:
    similarities = [sum(float(a) * float(b) for a, b in zip(query, v, strict=True)) for v in vectors]
    nearest = sorted(range(len(vectors)), key=lambda i: -similarities[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(similarities[i] / temperature)
    return max(votes, key=lambda label: votes[label])


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0)])
def test_the_vote_is_that_of_a_loop(vectors, labels, queries, k, temperature):
    expected = [vote_by_loop(vectors, labels, q, k=k, temperature=temperature) for q in queries]
    assert knn_predict(vectors, labels, queries, k=k, temperature=temperature).tolist() == expected


def test_one_neighbour_gives_what_scikit_learn_gives(vectors, labels, queries):
    oracle = KNeighborsClassifier(1, metric="cosine").fit(vectors, labels)
    np.testing.assert_array_equal(knn_predict(vectors, labels, queries, k=1), oracle.predict(queries))


def test_the_weights_are_exponentials_of_cosines_as_scikit_learn_computes_them(vectors, labels, queries):
    oracle = KNeighborsClassifier(30, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.2))
    oracle.fit(vectors, labels)
    predicted = knn_predict(vectors, labels, queries, k=30, temperature=0.2)
    np.testing.assert_array_equal(predicted, oracle.predict(queries))


def test_one_near_neighbour_outvotes_two_far_ones():
    assert knn_predict(at_angles(0, 60, 60), np.array([1, 0, 0]), at_angles(0), k=3).tolist() == [1]


def test_a_high_temperature_lets_the_majority_win():
    predicted = knn_predict(at_angles(0, 60, 60), np.array([1, 0, 0]), at_angles(0), k=3, temperature=100)
    assert predicted.tolist() == [0]


def test_only_the_k_nearest_vote():
    vectors = at_angles(0, 5, *[10] * 20)
    labels = np.array([2, 2, *[1] * 20])
    assert knn_predict(vectors, labels, at_angles(0), k=2, temperature=100).tolist() == [2]


def test_more_neighbours_than_vectors_lets_all_of_them_vote():
    predicted = knn_predict(at_angles(0, 90, 90), np.array([0, 1, 1]), at_angles(45), k=50)
    assert predicted.tolist() == [1]


def test_a_small_temperature_does_not_overflow():
    assert knn_predict(at_angles(0, 90), np.array([1, 0]), at_angles(10), k=2, temperature=1e-4).tolist() == [
        1
    ]


def test_the_block_size_changes_nothing(vectors, labels, queries, monkeypatch):
    whole = knn_predict(vectors, labels, queries)
    monkeypatch.setattr(knn, "_BLOCK", 1400)
    np.testing.assert_array_equal(knn_predict(vectors, labels, queries), whole)


def test_no_queries_give_no_classes(vectors, labels):
    assert knn_predict(vectors, labels, vectors[:0]).shape == (0,)


@pytest.mark.parametrize("values", [1, 7, 63, 64, 1000, 5003])
@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_largest_are_those_of_a_stable_sort_equal_ones_by_place(values, k, levels):
    k = min(k, values)
    rows = np.random.default_rng(values).integers(0, levels, (40, values)).astype(np.float32)
    found, places = largest(rows, k)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(rows, expected, axis=1))


def test_the_largest_in_one_group_or_at_the_end_of_a_row_are_all_found():
    rows = np.zeros((2, 1003), np.float32)
    rows[0, 3::25][:8] = np.arange(1, 9)  # with k = 10 groups are of 25, 40 apart
    rows[0, 0:400:40] += np.arange(10, 20)
    rows[1, -3:] = 1, 2, 3
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(largest(rows, 10)[1], expected)


def test_values_that_are_no_numbers_do_not_make_rows_shorter():
    rows = np.full((2, 300), np.nan, np.float32)
    rows[1, :200] = np.arange(200)
    found, places = largest(rows, 7)
    assert found.shape == places.shape == (2, 7)
    assert ((places >= 0) & (places < 300)).all()


def test_no_rows_have_no_largest():
    assert [part.shape for part in largest(np.empty((0, 9), np.float32), 4)] == [(0, 4), (0, 4)]
