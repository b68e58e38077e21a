"""Measures of whole stores: right by loops, the same images of several stores, differences told from chance."""

import numpy as np
import pytest

from simclr.classify import examples as examples_module
from simclr.classify import knn
from simclr.classify.evaluation import differences, evaluate, interval
from simclr.classify.examples import examples, split_stores
from simclr.classify.labels import FOLDERS
from simclr.embed.store import Store
from simclr.errors import ConfigError

CLASSES, WIDTH = 6, 16


def clustered(count: int, *, noise: float, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH))
    noise_NW = noise * np.random.default_rng(seed).standard_normal((count, WIDTH))
    return (centres[np.arange(count) % CLASSES] + noise_NW).astype(np.float32)


NAMES = [f"class {i % CLASSES}/{i}.png" for i in range(240)]


@pytest.fixture
def store(put) -> Store:
    return put(NAMES, vectors=clustered(240, noise=1.2, seed=1))


@pytest.fixture
def better(put, tmp_path) -> Store:
    """The same images by an encoder that sees more, in another order."""
    vectors = clustered(240, noise=0.8, seed=2)
    return put(NAMES[::-1], vectors=vectors[::-1], store=tmp_path / "better.store", identity="y")


def of(*stores: Store, **options):
    return [
        examples(store, split)
        for store, split in zip(stores, split_stores(stores, FOLDERS, **options), strict=True)
    ]


# ---- examples


def test_every_vector_comes_with_its_class(store):
    (found,) = of(store)
    by_vector = {
        vectors.tobytes(): NAMES[id]
        for ids, block in store.blocks()
        for id, vectors in zip(ids, block, strict=True)
    }
    for vectors, labels in ((found.train_ND, found.train_N), (found.test_QD, found.test_Q)):
        for vector, label in zip(vectors, labels, strict=True):
            assert by_vector.pop(vector.tobytes()).startswith(found.classes[label])
    assert not by_vector


def test_two_stores_give_the_same_images_in_the_same_order(store, better):
    one, other = split_stores([store, better], FOLDERS)
    names = [[row.image_path for row in each.rows()] for each in (store, better)]
    assert [names[0][row] for row in one.test_Q] == [names[1][row] for row in other.test_Q]
    assert [names[0][row] for row in one.train_N] == [names[1][row] for row in other.train_N]


def test_images_that_one_store_lacks_are_left_out_of_both(put, store, tmp_path):
    notes = []
    fewer = put(NAMES[:200], vectors=clustered(200, noise=1, seed=3), store=tmp_path / "fewer.store")
    one, other = split_stores([store, fewer], FOLDERS, note=notes.append)
    assert len(one.train_N) + len(one.test_Q) == len(other.train_N) + len(other.test_Q) == 200
    assert notes == ["200 labelled images are in all of the stores, and are compared"]


def test_stores_of_other_images_cannot_be_compared(put, store, tmp_path):
    other = put(NAMES, store=tmp_path / "other.store", roots=[tmp_path / "elsewhere"])
    with pytest.raises(ConfigError, match="no labelled image in common"):
        split_stores([store, other], FOLDERS)


def test_of_many_images_each_class_gives_its_share(store, monkeypatch):
    monkeypatch.setattr(examples_module, "MOST_TO_LEARN", 60)
    monkeypatch.setattr(examples_module, "MOST_TO_TEST", 12)
    notes = []
    (split,) = split_stores([store], FOLDERS, note=notes.append)
    assert np.bincount(split.train_labels_N).tolist() == [10] * CLASSES
    assert np.bincount(split.test_labels_Q).tolist() == [2] * CLASSES
    assert notes[0].startswith("168 labelled images are left out")


# ---- measures


def right_by_loop(found, query: np.ndarray, label: int) -> list[bool]:
    """Of the training images, best first, whether they have the class."""
    order = sorted(range(len(found.train_ND)), key=lambda i: (-float(found.train_ND[i] @ query), i))
    return [bool(found.train_N[i] == label) for i in order]


def test_retrieval_is_that_of_a_loop(store):
    (found,) = of(store)
    measured = evaluate(found).values
    for place, (query, label) in enumerate(zip(found.test_QD, found.test_Q, strict=True)):
        right = right_by_loop(found, query, label)
        relevant = sum(right)
        precisions = [sum(right[: i + 1]) / (i + 1) for i in range(relevant) if right[i]]
        assert measured["mAP@R"][place] == pytest.approx(sum(precisions) / relevant)
        assert measured["precision@10"][place] == pytest.approx(sum(right[:10]) / 10)
        for k in (1, 5, 10):
            assert measured[f"recall@{k}"][place] == any(right[:k])


def test_votes_are_those_of_knn_predict(store):
    (found,) = of(store)
    measured = evaluate(found).values
    for k in (1, 10, 20):
        predicted = knn.knn_predict(found.train_ND, found.train_N, found.test_QD, k=k)
        np.testing.assert_array_equal(measured[f"kNN, k = {k}"], predicted == found.test_Q)
    assert "kNN, k = 200" not in measured  # there are not so many


def test_blocks_change_nothing(store, monkeypatch):
    (found,) = of(store)
    whole = evaluate(found)
    monkeypatch.setattr(knn, "_BLOCK", 1400)
    for name, values in evaluate(found).rows.items():
        np.testing.assert_array_equal(values, whole.rows[name])


def test_the_confusion_is_that_of_the_probe(store):
    (found,) = of(store)
    measured = evaluate(found)
    assert measured.confusion_CC.sum(1).tolist() == np.bincount(found.test_Q).tolist()
    assert np.trace(measured.confusion_CC) == measured.values["linear probe"].sum()


def test_few_labels_are_fewer_and_worse(store):
    (found,) = of(store)
    measured = evaluate(found)
    assert set(measured.few) == {1.0, 10.0}
    assert measured.few[1.0]["linear probe"].mean() < measured.values["linear probe"].mean()


def test_labels_at_random_are_found_by_chance(put):
    found = of(put(NAMES, vectors=np.random.default_rng(5).standard_normal((240, WIDTH))))[0]
    assert evaluate(found).values["kNN, k = 20"].mean() < 0.4


# ---- two encoders


def test_a_better_encoder_is_better_beyond_chance(store, better):
    one, other = (evaluate(each) for each in of(store, better))
    gained = differences(one, other)
    assert gained["mAP@R"].low > 0
    assert gained["mAP@R"].value == pytest.approx(
        interval(other.values["mAP@R"]).value - interval(one.values["mAP@R"]).value
    )


def test_the_same_encoder_is_no_better(store):
    one, other = (evaluate(each) for each in of(store, store))
    assert all(
        (found.low, found.value, found.high) == (0, 0, 0) for found in differences(one, other).values()
    )


def test_the_difference_is_paired(store, better):
    """Of the same images: narrower than two intervals by themselves would make it."""
    one, other = (evaluate(each) for each in of(store, better))
    gained = differences(one, other)["mAP@R"]
    alone = [interval(each.values["mAP@R"]) for each in (one, other)]
    assert gained.high - gained.low < sum(each.high - each.low for each in alone)
