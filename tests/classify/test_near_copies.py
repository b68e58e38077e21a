"""Pairs and leaks found through an index against all pairs in numpy; which index is used, and what becomes of one for the moment."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import IndexWish
from simclr.classify import copy_search
from simclr.classify import near as near_module
from simclr.classify.copy_search import find_duplicates, find_leaks, threshold_of
from simclr.classify.duplicates import ROUNDING, Facts
from simclr.classify.near import facts_of, finder_in_step, finder_of, near_pairs
from simclr.embed import Store, build_index
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch, ImageError


def quietly(what: str) -> nullcontext:
    return nullcontext(lambda done, total, words: None)


def ignore(line: str) -> None:
    pass


def clustered(count: int, clusters: int, *, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, 16))
    return centres[rng.integers(clusters, size=count)] + noise * rng.standard_normal((count, 16))


def names(count: int) -> list[str]:
    return [f"{i}.jpg" for i in range(count)]


def stored(store: Store) -> np.ndarray:
    return np.concatenate([vectors for _, vectors in store.blocks()])


def pairs(
    store: Store, threshold: float, index: Path | None = None
) -> tuple[set[tuple[int, int]], np.ndarray]:
    """Pairs of ids, the lower first; and how near the nearest other content comes to each image that was asked for."""
    (facts,), lookup = facts_of(store), Lookup(store)
    found, nearest = set(), []
    step = finder_in_step(store, lookup, index)
    with finder_of(store, lookup, step, note=ignore, show=quietly) as finder:
        for block in near_pairs(store, facts, finder, lookup, threshold):
            both = np.sort(np.stack([block.one_P, block.other_P]), axis=0).T
            found |= {(int(one), int(other)) for one, other in both}
            nearest.append(block.nearest_Q)
    return found, np.concatenate(nearest)


def duplicates(store: Store, threshold: float, **keywords) -> dict[int, list[int]]:
    found = find_duplicates(store, threshold=threshold, note=ignore, show=quietly, **keywords)
    ids = found.facts.ids
    return {int(ids[group.keeper]): ids[group.copies_C].tolist() for group in found.groups}


@pytest.mark.parametrize("threshold", [0.9, 0.99])
def test_pairs_are_all_pairs(put, threshold):
    store = put(
        names(400), vectors=clustered(400, 25, noise=0.15)
    )  # groups of 16: more than is asked for at first
    alike = stored(store) @ stored(store).T
    np.fill_diagonal(alike, -1)
    expected = set(zip(*np.nonzero(np.triu(alike >= threshold - ROUNDING)), strict=True))
    found, nearest = pairs(store, threshold)
    assert found == {(int(i), int(j)) for i, j in expected} and len(found) > 100
    np.testing.assert_allclose(nearest, alike.max(1), atol=1e-5)


def test_an_approximate_index_serves_as_well(put, tmp_path):
    store = put(names(600), vectors=clustered(600, 300, noise=0.02))
    build_index(store, tmp_path / "v.faiss", IndexWish(index_type="IVF16,SQ8", recall=0.99))
    alike = np.triu(stored(store) @ stored(store).T >= 0.98, 1)
    found, _ = pairs(store, 0.98)
    assert found <= {
        (int(i), int(j)) for i, j in zip(*np.nonzero(alike), strict=True)
    }  # true cosines, no estimates
    assert len(found) >= 0.98 * alike.sum() > 300


def test_more_copies_than_are_ever_asked_for_hang_together(put, monkeypatch):
    monkeypatch.setattr(near_module, "MOST", 16)
    vectors = np.repeat(np.random.default_rng(0).standard_normal((3, 16)), [300, 1, 40], axis=0)
    assert duplicates(put(names(341), vectors=vectors), 0.99) == {
        0: [*range(1, 300)],
        301: [*range(302, 341)],
    }


def test_exact_copies_are_asked_for_once(put, monkeypatch):
    vectors = np.repeat(np.random.default_rng(0).standard_normal((2, 16)), [300, 20], axis=0)
    store = put(names(320), vectors=vectors, contents=["a" * 64] * 300 + ["b" * 64] * 20)
    build_index(store, store.folder.with_suffix(".faiss"))
    asked, find = [], Finder.find

    def counted(self, queries, k, **keywords):
        asked.append(len(queries))
        return find(self, queries, k, **keywords)

    monkeypatch.setattr(Finder, "find", counted)
    assert duplicates(store, 0.99) == {0: [*range(1, 300)], 300: [*range(301, 320)]}
    assert sum(asked) < 25


def test_exact_copies_with_vectors_of_their_own_are_asked_for_each(put):
    vectors = np.eye(8)[[0, 1, 2, 1]]  # 0 and 1 have one content, 2 and 3 another; 1 and 3 one vector
    store = put(names(4), vectors=vectors, contents=["a" * 64, "a" * 64, "b" * 64, "b" * 64])
    assert (1, 3) in pairs(store, 0.99)[0]
    assert duplicates(store, 0.99) == {0: [1], 2: [3]}


def test_the_nearest_of_another_content_is_not_a_copy(put):
    vectors = np.array([[1, 0], [1, 0], [1, 1], [1, 1.2]])
    store = put(names(4), vectors=vectors, contents=["a" * 64, "a" * 64, "b" * 64, "c" * 64])
    cosines = stored(store) @ stored(store).T
    np.testing.assert_allclose(pairs(store, 0.5)[1], [cosines[0, 2], cosines[2, 3], cosines[3, 2]], atol=1e-6)


def test_twice_gives_the_same(put):
    store = put(names(300), vectors=clustered(300, 40, noise=0.1))
    assert duplicates(store, 0.97) == duplicates(store, 0.97)


def test_facts_are_in_the_order_of_ids_and_number_contents_alike_in_both_stores(put, tmp_path):
    one = put(["a", "b"], contents=["a" * 64, "b" * 64])
    two = put(["c", "d", "e"], contents=["d" * 64, "b" * 64, "d" * 64], store=tmp_path / "w.store")
    first, second = facts_of(one, two)
    assert first.ids.tolist() == [0, 1] and second.ids.tolist() == [0, 1, 2]
    assert (first.contents[1] == second.contents[1]) and len({*first.contents, *second.contents}) == 3
    assert second.firsts.tolist() == [0, 1, 0]
    assert (first.widths[0], first.heights[0], first.bytes[0], first.pixels[0]) == (4, 4, 1, 16)


# ---- which index


@pytest.fixture
def store(put) -> Store:
    return put(names(60), vectors=clustered(60, 20, noise=0.02))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where folders for the moment are made; nothing else is."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def finding(store: Store, index: Path | None = None) -> list[str]:
    """What is said when copies are looked for."""
    said: list[str] = []
    find_duplicates(store, threshold=0.98, index=index, note=said.append, show=quietly)
    return said


def test_an_index_for_the_moment_is_said_and_is_gone_afterwards(store, temporary):
    (line,) = finding(store)
    assert line.startswith(f"{store.folder.with_suffix('.faiss')}: no such index; one is built for this")
    assert list(temporary.iterdir()) == []


def test_it_is_gone_after_an_error_too(store, temporary, monkeypatch):
    seen = []

    def fail(*_, **__):
        seen.extend(temporary.rglob("*.faiss"))
        raise ArtifactError("a shard is damaged")

    monkeypatch.setattr(copy_search, "near_pairs", fail)
    with pytest.raises(ArtifactError, match="a shard is damaged"):
        finding(store)
    assert seen and list(temporary.iterdir()) == []


def test_the_index_beside_the_store_is_used(store, temporary, tmp_path):
    build_index(store, tmp_path / "v.faiss")
    assert finding(store) == []


def test_a_named_index_is_used(store, tmp_path):
    build_index(store, tmp_path / "elsewhere.faiss")
    assert finding(store, tmp_path / "elsewhere.faiss") == []


@pytest.mark.parametrize("named", [False, True])
def test_an_index_behind_its_store_is_not_used(put, named, tmp_path):
    store = put(names(60))
    build_index(store, tmp_path / "v.faiss")
    store = put(names(30), contents=[f"{i:064x}" for i in range(100, 130)])  # more, in the same store
    assert len(store) == 90
    (line,) = finding(store, tmp_path / "v.faiss" if named else None)
    assert "v.faiss is behind its store; one is built" in line


def test_an_index_of_another_store_is_refused_where_it_is_named(put, store, tmp_path):
    other = put(names(60), store=tmp_path / "other.store")
    build_index(other, tmp_path / "v.faiss")
    assert "was not built from" in finding(store)[0]
    with pytest.raises(ArtifactError, match="was not built from"):
        finding(store, tmp_path / "v.faiss")
    foreign = put(names(60), store=tmp_path / "foreign.store", identity="y")
    build_index(foreign, tmp_path / "f.faiss")
    with pytest.raises(EncoderMismatch, match="Give the index of this store"):
        finding(store, tmp_path / "f.faiss")


def test_a_damaged_index_is_refused_where_it_is_named(store, tmp_path):
    build_index(store, tmp_path / "v.faiss")
    (tmp_path / "v.faiss").write_bytes((tmp_path / "v.faiss").read_bytes()[:-1] + b"x")
    assert "damaged" in finding(store)[0]
    with pytest.raises(ArtifactError, match="damaged"):
        finding(store, tmp_path / "v.faiss")
    with pytest.raises(ArtifactError, match="no such index"):
        finding(store, tmp_path / "none.faiss")


# ---- leakage


def leaks(store: Store, other: Store, threshold: float) -> list[tuple[int, int, bool]]:
    found = find_leaks(store, other, threshold=threshold, note=ignore, show=quietly)
    assert found.images == len(other)
    return list(zip(found.others.tolist(), found.ids.tolist(), found.exact.tolist(), strict=True))


def test_leaks_are_those_of_all_pairs(put, tmp_path):
    train = put(names(300), vectors=clustered(300, 150, noise=0.05))
    test = put(
        names(200),
        vectors=np.concatenate([clustered(100, 150, noise=0.05), clustered(100, 150, noise=0.05, seed=1)]),
        contents=[f"{i:064x}" for i in range(290, 490)],
        store=tmp_path / "t.store",
    )
    alike = stored(test) @ stored(train).T
    expected = []
    for row in range(200):
        if row < 10:  # contents 290 to 299 are in both
            expected.append((row, 290 + row, True))
        elif alike[row].max() >= 0.98:
            expected.append((row, int(alike[row].argmax()), False))
    found = leaks(train, test, 0.98)
    assert found == expected and 20 < len(found) < 200
    result = find_leaks(train, test, threshold=0.98, note=ignore, show=quietly)
    np.testing.assert_allclose(
        result.similarities, [1 if exact else alike[other, id] for other, id, exact in expected], atol=2e-6
    )
    assert result.share == len(expected) / 200


def test_of_equal_copies_the_one_with_the_lowest_id_is_named(put, tmp_path):
    train = put(names(40), vectors=np.ones((40, 4)), contents=["a" * 64] * 20 + ["b" * 64] * 20)
    test = put(names(2), vectors=np.ones((2, 4)), contents=["b" * 64, "c" * 64], store=tmp_path / "t.store")
    assert leaks(train, test, 0.99) == [(0, 20, True), (1, 0, False)]


def test_stores_of_two_encoders_are_refused(put, tmp_path):
    one, two = put(names(3)), put(names(3), store=tmp_path / "t.store", identity="y")
    with pytest.raises(EncoderMismatch, match=r"simclr embed FOLDER --store NEW --model .*v\.store/model"):
        leaks(one, two, 0.9)


def test_a_store_is_not_compared_with_itself(put, tmp_path):
    store = put(names(3))
    (tmp_path / "link.store").symlink_to(store.folder)
    for path in (store.folder, tmp_path / "link.store"):
        with pytest.raises(ConfigError, match="the same store twice"):
            leaks(store, Store.open(path), 0.9)


def test_an_empty_store_has_nothing_to_compare(put, tmp_path):
    empty, full = put([]), put(names(3), store=tmp_path / "t.store")
    for call in (lambda: finding(empty), lambda: leaks(empty, full, 0.9), lambda: leaks(full, empty, 0.9)):
        with pytest.raises(ImageError, match=r"v\.store: holds no vectors"):
            call()


@pytest.mark.parametrize("words", ["0", "-0.5", "1.01", "nan", "inf", "high", ""])
def test_a_threshold_is_a_cosine_above_0(words):
    with pytest.raises(ConfigError, match="Use auto, or a cosine such as"):
        threshold_of(words)
    assert (threshold_of("auto"), threshold_of("1"), threshold_of("0.5")) == (None, 1.0, 0.5)


def test_a_facts_object_counts_its_contents_once():
    one = np.ones(4, np.int64)
    assert Facts(np.arange(4), one, one, one, np.array([5, 2, 5, 2])).firsts.tolist() == [0, 1, 0, 1]
