"""Groups of copies against plain loops that say what a group is."""

import numpy as np
import pytest

from simclr.classify import duplicates
from simclr.classify.duplicates import ROUNDING, Components, Facts, Group, grouped


def facts(contents, *, widths=None, heights=None, bytes=None) -> Facts:
    count = len(contents)
    same = np.ones(count, np.int64)
    return Facts(
        ids=10 * np.arange(count),
        widths=np.array(widths) if widths is not None else same,
        heights=np.array(heights) if heights is not None else same,
        bytes=np.array(bytes) if bytes is not None else same,
        contents=np.array(contents, np.int64),
    )


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in a plane."""
    return unit(np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1))


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def joined(of: Facts, vectors: np.ndarray, threshold: float) -> Components:
    """By every pair."""
    components = Components(len(vectors))
    alike = (vectors @ vectors.T >= threshold - ROUNDING) | (of.contents[:, None] == of.contents)
    components.join(*np.nonzero(alike))
    return components


def groups(of: Facts, vectors: np.ndarray, threshold: float) -> list[Group]:
    return grouped(of, joined(of, vectors, threshold), threshold, vectors.__getitem__)


def by_loops(of: Facts, vectors: np.ndarray, threshold: float) -> dict[int, dict[int, bool]]:
    """The definition: keeper -> its copies, and whether they are exact."""

    def alike(i: int, j: int) -> bool:
        return of.contents[i] == of.contents[j] or vectors[i] @ vectors[j] >= threshold - ROUNDING

    left, found = set(range(len(vectors))), {}
    while left:
        component, border = set(), [min(left)]
        while border:
            i = border.pop()
            component.add(i)
            border += [j for j in left - component - set(border) if alike(i, j)]
        left -= component
        while component:
            keeper = min(component, key=lambda i: (-of.pixels[i], -of.bytes[i], i))
            mine = {i for i in component if i == keeper or alike(keeper, i)}
            component -= mine
            if len(mine) > 1:
                found[keeper] = {i: bool(of.contents[i] == of.contents[keeper]) for i in mine - {keeper}}
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [5, 1024])
def test_groups_are_those_of_plain_loops(seed, block, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    monkeypatch.setattr(duplicates, "_GATHERED", 3 * block)
    rng = np.random.default_rng(seed)
    count = 240
    centres = rng.standard_normal((60, 6))
    vectors = unit(
        centres[rng.integers(60, size=count)] + rng.choice([0.02, 0.3]) * rng.standard_normal((count, 6))
    )
    of = facts(
        rng.integers(200, size=count),
        widths=rng.integers(1, 4, count),
        heights=rng.integers(1, 4, count),
        bytes=rng.integers(1, 3, count),
    )
    found = groups(of, vectors, 0.97)
    copies = {
        each.keeper: dict(zip(each.copies_C.tolist(), each.exact_C.tolist(), strict=True)) for each in found
    }
    assert copies == by_loops(of, vectors, 0.97) and len(copies) > 10
    for each in found:
        cosines = np.where(each.exact_C, 1, vectors[each.copies_C] @ vectors[each.keeper])
        np.testing.assert_allclose(each.similarities_C, cosines, atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_one_join_after_another(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(100, size=(5, 14, 2))
    components, labels = Components(100), list(range(100))
    for block in pairs:
        components.join(block[:, 0], block[:, 1])
        for one, other in block:
            low, high = sorted((labels[one], labels[other]))
            labels = [low if label == high else label for label in labels]
    assert components.labels().tolist() == labels


def test_a_long_chain_of_pairs_in_any_order_is_one_component():
    order = np.random.default_rng(0).permutation(5000)
    components = Components(5001)
    components.join(order, order + 1)
    assert (components.labels() == 0).all()


def test_the_end_of_a_chain_is_no_copy_of_its_beginning():
    of, vectors = facts([0, 1, 2]), at_angles(0, 10, 20)
    (only,) = groups(of, vectors, cosine(11))  # a ~ b ~ c, and the best is a
    assert (only.keeper, only.copies_C.tolist()) == (0, [1])
    (only,) = groups(facts([0, 1, 2], widths=[1, 5, 1]), vectors, cosine(11))  # the best is b
    assert (only.keeper, only.copies_C.tolist()) == (1, [0, 2])


def test_what_a_keeper_does_not_take_makes_groups_of_its_own():
    found = groups(facts([0, 1, 2, 3]), at_angles(0, 10, 20, 30), cosine(11))
    assert [(each.keeper, each.copies_C.tolist()) for each in found] == [(0, [1]), (2, [3])]


def test_the_keeper_has_most_pixels_then_most_bytes_then_the_lowest_id():
    vectors = at_angles(0, 0.1, 0.2, 0.3)
    keepers = [
        groups(of, vectors, 0.99)[0].keeper
        for of in (
            facts([0, 1, 2, 3], widths=[2, 2, 3, 2], heights=[4, 4, 3, 5], bytes=[9, 9, 9, 1]),
            facts([0, 1, 2, 3], widths=[2, 2, 2, 1], heights=[4, 4, 4, 4], bytes=[5, 7, 6, 9]),
            facts([0, 1, 2, 3], bytes=[5, 7, 7, 7]),
            facts([0, 1, 2, 3]),
        )
    ]
    assert keepers == [3, 1, 1, 0]


def test_the_same_content_is_a_copy_whatever_its_vector():
    (only,) = groups(facts([7, 7]), at_angles(0, 90), 0.95)
    assert (only.copies_C.tolist(), only.exact_C.tolist(), only.similarities_C.tolist()) == (
        [1],
        [True],
        [1.0],
    )


def test_the_same_vector_with_another_content_is_a_near_copy():
    (only,) = groups(facts([7, 8]), at_angles(30, 30), 1.0)
    assert (only.exact_C.tolist(), only.similarities_C.tolist()) == ([False], [1.0])


def test_exact_copies_come_first_then_the_nearest_then_the_lowest_id():
    (only,) = groups(facts([0, 1, 2, 0, 3]), at_angles(0, 2, 1, 5, 1), 0.9)
    assert only.copies_C.tolist() == [3, 2, 4, 1]


def test_an_image_without_copies_makes_no_group():
    assert groups(facts([0, 1, 2]), at_angles(0, 40, 80), 0.95) == []
    assert groups(facts([]), np.empty((0, 2), np.float32), 0.95) == []


def test_three_hundred_copies_are_one_group():
    vectors = np.repeat(at_angles(0, 50), [300, 1], axis=0)
    (only,) = groups(facts(range(301)), vectors, 0.99)
    assert (only.keeper, only.copies_C.tolist()) == (0, list(range(1, 300)))


def test_the_vectors_of_a_large_component_are_fetched_in_parts(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 50)
    vectors, asked = np.repeat(at_angles(0, 50), [300, 300], axis=0), []

    def counted(places: np.ndarray) -> np.ndarray:
        asked.append(len(places))
        return vectors[places]

    of = facts(range(600))
    found = grouped(of, joined(of, vectors, 0.99), 0.99, counted)
    assert [len(each.copies_C) for each in found] == [299, 299]
    assert max(asked) <= 50
