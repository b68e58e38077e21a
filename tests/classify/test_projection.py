"""Points in the plane: the directions are those of an SVD, clusters stay together, and one scale holds for both axes."""

import sys

import numpy as np
import pytest

from simclr.classify.projection import main_directions, projected, scaled


def clusters(count: int, *, groups: int = 3, width: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % groups
    vectors = rng.standard_normal((groups, width))[labels] + 0.2 * rng.standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_main_directions_are_those_of_an_svd():
    vectors, _ = clusters(50)
    found = main_directions(vectors, 5)
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = (left * sizes)[:, :5]
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


@pytest.mark.parametrize(("count", "width"), [(1, 1), (1, 8), (2, 1), (5, 1), (3, 2)])
def test_few_images_and_narrow_vectors_have_two_numbers_each(count, width):
    places, method = projected(np.ones((count, width), np.float32))
    assert places.shape == (count, 2) and np.isfinite(places).all() and method == "PCA"


def test_images_of_a_group_lie_together_on_the_map():
    vectors, labels = clusters(300)
    places, method = projected(vectors)
    assert method == "t-SNE"
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(1)] == labels).mean() == 1.0


def test_the_map_is_the_same_each_time():
    vectors, _ = clusters(60)
    np.testing.assert_array_equal(projected(vectors)[0], projected(vectors)[0])


def test_without_scikit_learn_the_two_main_directions_are_the_map(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    vectors, _ = clusters(60)
    places, method = projected(vectors)
    assert method == "PCA"
    np.testing.assert_allclose(places, scaled(main_directions(vectors, 2)), atol=1e-6)


def test_the_longer_axis_is_filled_and_the_other_one_lies_in_the_middle():
    found = scaled(np.array([[0.0, 3.0], [10.0, 5.0], [4.0, 4.0]]))
    np.testing.assert_allclose(found, [[0, 0.4], [1, 0.6], [0.4, 0.5]])


def test_points_that_are_all_one_lie_in_the_middle():
    np.testing.assert_allclose(scaled(np.full((3, 2), 7.0)), 0.5)
