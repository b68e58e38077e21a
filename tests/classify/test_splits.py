"""What is held out, and what fewer labels leave."""

import numpy as np
import pytest

from simclr.classify.labels import Labels
from simclr.classify.splits import at_most, hold_out, share_of_labels
from simclr.errors import ConfigError


def labelled(labels, contents=None) -> Labels:
    labels = np.array(labels)
    names = tuple("abcdefgh"[: labels.max() + 1])
    contents = np.array([f"{i}" for i in range(len(labels))] if contents is None else contents)
    return Labels(names, np.arange(len(labels)), labels, contents, None)


@pytest.fixture
def many() -> Labels:
    return labelled(np.random.default_rng(0).integers(0, 4, 1000))


def test_a_fifth_of_each_class_tests(many):
    tests = hold_out(many, seed=0)
    for label in range(4):
        assert tests[many.labels_N == label].mean() == pytest.approx(0.2, abs=0.005)


def test_the_same_seed_holds_out_the_same(many):
    np.testing.assert_array_equal(hold_out(many, seed=3), hold_out(many, seed=3))
    assert (hold_out(many, seed=3) != hold_out(many, seed=4)).any()


def test_copies_stay_together():
    labels = np.random.default_rng(1).integers(0, 3, 600)
    contents = [f"{i // 3}" for i in range(600)]
    tests = hold_out(labelled(np.repeat(labels[::3], 3), contents), seed=0)
    assert len({tuple(three) for three in tests.reshape(-1, 3).tolist()}) == 2
    assert all(len(set(three)) == 1 for three in tests.reshape(-1, 3).tolist())
    assert tests.mean() == pytest.approx(0.2, abs=0.02)


def test_copies_in_two_classes_stay_together():
    tests = hold_out(labelled([0] * 5 + [1] * 5, list("abcde") * 2), seed=0)
    assert tests[:5].tolist() == tests[5:].tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_small_classes_have_one_to_test_and_some_to_train(size):
    tests = hold_out(labelled([0] * size + [1] * size), seed=0)
    assert [int(tests[:size].sum()), int(tests[size:].sum())] == [max(1, round(size / 5))] * 2


def test_a_class_of_one_image_trains():
    assert hold_out(labelled([0, 0, 1]), seed=0).tolist()[2] is False


def test_nothing_to_hold_out_is_refused():
    with pytest.raises(ConfigError, match="no class has a second image"):
        hold_out(labelled([0, 1, 1], ["a", "b", "b"]), seed=0)


def test_fewer_labels_are_some_of_more(many):
    few, some = (share_of_labels(many.labels_N, percent, seed=0) for percent in (1, 10))
    assert set(few) < set(some)
    counts = np.bincount(many.labels_N)
    assert np.bincount(many.labels_N[some]).tolist() == [round(n / 10) for n in counts]


def test_every_class_keeps_one_label():
    assert share_of_labels(np.array([0, 0, 1, 2]), 1, seed=0).shape == (3,)


def test_all_labels_are_all(many):
    assert share_of_labels(many.labels_N, 100, seed=0).tolist() == list(range(1000))


def test_a_limit_keeps_shares(many):
    rows = at_most(many.labels_N, 200)
    assert np.bincount(many.labels_N[rows]).tolist() == pytest.approx(
        (np.bincount(many.labels_N) / 5).tolist(), abs=1
    )
    assert at_most(many.labels_N, 1000).tolist() == list(range(1000))
