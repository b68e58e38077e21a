"""How unlike all that was learned from: by loops over a few vectors."""

import numpy as np
import pytest

from simclr.classify.novelty import nth_similarity, unlike, usual_similarities


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


LEARNED = unit(np.random.default_rng(0).standard_normal((40, 6)))
OTHERS = unit(np.random.default_rng(1).standard_normal((9, 6)))


def test_it_goes_by_the_nth_nearest():
    expected = [sorted((float(q @ v) for v in LEARNED), reverse=True)[4] for q in OTHERS]
    np.testing.assert_allclose(nth_similarity(LEARNED, OTHERS, nearest=5), expected, atol=1e-6)


def test_where_there_are_fewer_it_goes_by_the_farthest():
    expected = [min(float(q @ v) for v in LEARNED[:3]) for q in OTHERS]
    np.testing.assert_allclose(nth_similarity(LEARNED[:3], OTHERS, nearest=5), expected, atol=1e-6)


def test_what_is_usual_leaves_out_each_image_itself():
    expected = sorted(
        sorted((float(LEARNED[i] @ LEARNED[j]) for j in range(40) if j != i), reverse=True)[4]
        for i in range(40)
    )
    np.testing.assert_allclose(usual_similarities(LEARNED, np.arange(40), nearest=5), expected, atol=1e-6)


def test_it_is_the_share_of_learned_images_that_are_closer_to_their_own():
    usual = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    found = unlike(np.array([0.05, 0.2, 0.35, 0.9], np.float32), usual)
    assert found.tolist() == [1.0, 0.5, 0.25, 0.0]


def test_the_other_side_of_the_sphere_is_unlike_anything():
    close = unit(np.array([[1.0, 0, 0]]) + 0.1 * np.random.default_rng(2).standard_normal((50, 3)))
    usual = usual_similarities(close, np.arange(50), nearest=5)
    found = unlike(nth_similarity(close, unit(np.array([[1.0, 0, 0], [-1.0, 0, 0]])), nearest=5), usual)
    assert found[0] < 0.2 and found[1] == pytest.approx(1.0)
