"""Where the cut lies: chance against a law that is known, copies among the others, images that all look alike, too few images."""

import numpy as np
import pytest

from simclr.classify.cut import PRECISION, USUAL, by_chance, choose


def tailed(shape: tuple[int, ...], *, fall: float, seed: int = 0) -> np.ndarray:
    """Likenesses whose z is exponential."""
    return np.tanh(np.random.default_rng(seed).exponential(fall, shape)).astype(np.float32)


def planted(*likenesses: float, count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """A little less alike each, a kind each; all of them reached."""
    made = np.array(likenesses) - np.linspace(0, 0.01, count)[:, None]
    return made.astype(np.float32), np.ones(made.shape, bool)


@pytest.mark.parametrize("fall", [0.1, 0.2, 0.4])
def test_chance_is_known_where_none_was_seen(fall):
    z = np.array([3 * fall, 6 * fall, 12 * fall])
    told = by_chance(tailed((2000, 16), fall=fall), 0.9999, np.tanh(z))
    np.testing.assert_allclose(told[:2], np.exp(-z[:2] / fall), rtol=0.15)
    assert 0.3 < told[2] / np.exp(-12) < 3  # one in 160,000, of 32,000


def test_copies_among_the_others_change_nothing():
    others = tailed((2000, 16), fall=0.2)
    with_copies = others.copy()
    with_copies[:400, :8] = 0.9999
    cuts = np.tanh([0.8, 1.5, 2.0])
    clean, told = by_chance(others, 0.96, cuts), by_chance(with_copies, 0.96, cuts)
    np.testing.assert_allclose(told, clean, rtol=0.35)


def test_the_cut_is_at_the_planted_copies_where_that_is_precise():
    """98 of 100 of the kind that changes most."""
    made, reached = planted(0.999, 0.97, 0.99)
    cut = choose(made, reached, tailed((500, 16), fall=0.1), tailed((500, 16), fall=0.1, seed=1))
    assert cut.threshold == pytest.approx(np.quantile(made[:, 1], 0.02), abs=2e-3)
    assert cut.precision > 0.99
    np.testing.assert_allclose(cut.found_C, 1, atol=0.021)


def test_the_cut_is_higher_where_others_look_alike():
    made, reached = planted(0.97)
    loose = choose(made, reached, tailed((500, 16), fall=0.1), tailed((500, 16), fall=0.1, seed=1))
    strict = choose(made, reached, tailed((500, 16), fall=0.3), tailed((500, 16), fall=0.3, seed=1))
    assert strict.threshold > loose.threshold + 0.01 and strict.precision >= PRECISION
    assert strict.found_C[0] == 0 and loose.found_C[0] > 0.97


def test_the_more_images_have_copies_the_lower_the_cut_may_be():
    made, reached = planted(0.9)
    further = tailed((1000, 16), fall=0.2, seed=1)
    cuts = []
    for share in (0, 0.5):
        nearest = tailed((1000, 16), fall=0.2)
        nearest[: int(share * 1000), 0] = 0.999
        cuts.append(choose(made, reached, nearest, further))
    assert cuts[1].threshold < cuts[0].threshold
    assert min(cut.precision for cut in cuts) >= PRECISION


def test_the_precision_foretold_is_that_of_pairs():
    """A tenth of the images have a copy; what else is above the cut is wrong."""
    made, reached = planted(0.9)
    nearest = tailed((4000, 16), fall=0.17)
    copied = np.arange(4000) < 400
    nearest[copied, 0] = np.random.default_rng(3).uniform(0.94, 1, 400)
    cut = choose(made, reached, nearest, tailed((4000, 16), fall=0.17, seed=1))
    above = nearest >= cut.threshold
    right = above[copied, 0].sum()
    assert right / above.sum() >= PRECISION - 0.005 and right > 200


def test_images_that_all_look_alike_are_said_to():
    made, reached = planted(0.99)
    crowd = np.random.default_rng(0).uniform(0.98, 1, (200, 32)).astype(np.float32)
    assert choose(made, reached, crowd[:, :16], crowd[:, 16:]).precision < 0.5


def test_what_is_not_among_the_nearest_is_not_found():
    made, reached = planted(0.99, 0.99)
    reached[:70, 1] = False
    cut = choose(made, reached, tailed((500, 16), fall=0.1), tailed((500, 16), fall=0.1, seed=1))
    np.testing.assert_allclose(cut.found_C, [0.98, 0.28], atol=0.025)


def test_a_few_images_are_cut_where_it_is_usual():
    made, reached = planted(0.99, count=5)
    cut = choose(made, reached, np.full((5, 2), 0.5, np.float32), np.full((5, 2), 0.5, np.float32))
    assert (cut.threshold, cut.precision) == (USUAL, None)
