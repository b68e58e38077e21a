"""Budgets decide: what is chosen keeps them, what cannot be kept is refused with what could be had."""

import dataclasses
import re
from functools import partial

import numpy as np
import pytest
from changing_stores import clustered

from simclr.artifacts import IndexTrial, IndexWish
from simclr.embed.exact import exact_neighbours
from simclr.embed.index import build_index, tuning
from simclr.embed.index import choosing as choosing_module
from simclr.embed.index import proving as proving_module
from simclr.embed.index.budgets import in_bytes, wish_of
from simclr.embed.index.choosing import Sample, choose
from simclr.embed.index.menu import EXACT, candidates, list_count
from simclr.embed.index.proving import above_latency, below_recall
from simclr.embed.index.training import find_centroids, trained_index
from simclr.embed.index.tuning import Truth
from simclr.errors import ConfigError

SIZE = 6000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(SIZE, 1)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(200, 2)


@pytest.fixture
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(choosing_module, "_AT_ONCE", 0)


def chosen(vectors, queries, *, memory=10**9, **wish):
    wish = {"latency": 1e6} | wish
    ids = np.arange(len(vectors))
    truth = Truth(queries, exact_neighbours([(ids, vectors)], queries, k=100))
    near = np.unique(truth.neighbours[1][:, :10])
    others = np.setdiff1d(ids, near)
    sample = Sample(np.concatenate([near, others]), vectors[np.concatenate([near, others])], len(near))
    return choose(
        IndexWish(memory=memory, **wish), candidates(*vectors.shape), vectors, sample, truth,
        size=len(vectors), seconds_of_rerank=1e-6, note=lambda line: None,
    )  # fmt: skip


# ---- what is offered


@pytest.mark.parametrize("candidate", candidates(SIZE, 32), ids=lambda candidate: candidate.factory)
def test_the_memory_of_a_candidate_is_foretold_within_a_twentieth(vectors, candidate, tmp_path):
    import faiss

    index = trained_index(candidate.factory, vectors)
    index.add_with_ids(vectors, np.arange(SIZE))
    faiss.write_index(index, str(tmp_path / "x"))
    real = (tmp_path / "x").stat().st_size + 12 * SIZE
    assert candidate.memory == pytest.approx(real, rel=0.05)


def test_every_kind_of_index_is_offered_for_many_vectors():
    offered = [candidate.factory for candidate in candidates(100_000, 512)]
    assert offered == [
        "IDMap2,Flat",
        "IDMap2,SQfp16",
        "IDMap2,SQ8",
        "IVF1024,SQfp16",
        "IVF1024,SQ8",
        "IVF1024,RaBitQfs4",
        "IVF1024,RaBitQfs2",
        "IVF1024,RaBitQfs",
        "IVF1024,PQ128x4fs",
        "IDMap,HNSW32,SQ8",
    ]


def test_lists_and_graphs_are_not_offered_where_they_save_nothing():
    assert [candidate.factory for candidate in candidates(4999, 512)] == [
        "IDMap2,Flat",
        "IDMap2,SQfp16",
        "IDMap2,SQ8",
    ]
    assert all("HNSW" not in candidate.factory for candidate in candidates(1_000_000, 512))


@pytest.mark.parametrize(
    ("size", "width", "lists"),
    [(100_000, 512, 1024), (1_000_000, 512, 4096), (1_000_000, 2048, 2048), (30, 512, 16)],
)
def test_there_are_about_four_square_roots_of_lists_and_fewer_where_vectors_are_long(size, width, lists):
    assert list_count(size, width) == lists


# ---- what is chosen


def test_few_vectors_get_the_exact_index_and_nothing_else_is_tried(vectors, queries, nothing_is_small):
    choice = chosen(vectors, queries)
    assert (choice.ranked, [trial.factory for trial in choice.trials]) == ((EXACT,), [EXACT])


def test_very_few_numbers_get_the_exact_index_without_a_trial(vectors, queries):
    choice = chosen(vectors, queries, latency=1e-9)
    assert (choice.ranked, choice.trials) == ((EXACT,), ())


def test_the_chosen_type_fits_in_the_memory(vectors, queries):
    allowed = candidates(SIZE, 32)[2].memory - 1  # not even one byte a number
    choice = chosen(vectors, queries, memory=allowed, recall=0.8)
    memory = {candidate.factory: candidate.memory for candidate in candidates(SIZE, 32)}
    assert all(memory[factory] <= allowed for factory in choice.ranked)
    assert {trial.verdict for trial in choice.trials if trial.memory > allowed} == {
        f"more than {in_bytes(allowed)}"
    }


def test_what_was_not_tried_has_no_figures(vectors, queries):
    choice = chosen(vectors, queries, memory=candidates(SIZE, 32)[2].memory - 1, recall=0.8)
    for trial in choice.trials:
        assert (trial.recall is None) == trial.verdict.startswith("more than")


def test_too_little_memory_for_anything_says_how_much_is_needed(vectors, queries):
    least = min(candidates(SIZE, 32), key=lambda candidate: candidate.memory)
    with pytest.raises(
        ConfigError, match=re.escape(f"the smallest, {least.factory}, takes {in_bytes(least.memory)}")
    ):
        chosen(vectors, queries, memory=1000)


def test_a_latency_that_nothing_comes_near_is_refused_with_the_closest(vectors, queries, nothing_is_small):
    with pytest.raises(ConfigError, match=r"no index type comes near it\. The closest, "):
        chosen(vectors, queries, latency=1e-6)


def trial(factory: str, *, memory: int, recall: float, speed: float, latency: float = 1.0) -> IndexTrial:
    return IndexTrial(
        factory=factory,
        memory=memory,
        recall=recall,
        queries_per_second=speed,
        latency=latency,
        build_seconds=1.0,
        verdict="",
    )


def decide(*trials: IndexTrial, **wish):
    return choosing_module._decide(trials, IndexWish(**wish), None)


def test_the_fastest_that_keeps_the_budgets_is_chosen():
    choice = decide(
        trial("fast", memory=9, recall=0.97, speed=1000),
        trial("slow", memory=1, recall=0.99, speed=500),
        trial("poor", memory=1, recall=0.90, speed=9000),
        trial("late", memory=1, recall=0.99, speed=9000, latency=11),
    )
    assert choice.ranked == ("fast", "slow")
    assert [t.verdict for t in choice.trials] == [
        "chosen",
        "meets the budgets",
        "recall below 0.95",
        "slower than 10 ms",
    ]


def test_of_two_of_about_the_same_speed_the_smaller_is_chosen():
    choice = decide(
        trial("large", memory=9, recall=1, speed=1000), trial("small", memory=3, recall=1, speed=950)
    )
    assert choice.ranked == ("small", "large")


def test_a_foretold_latency_close_to_the_limit_is_not_relied_on():
    choice = decide(
        trial("close", memory=1, recall=0.99, speed=9000, latency=9),
        trial("safe", memory=9, recall=0.99, speed=100, latency=7),
    )
    assert choice.ranked == ("safe",)
    assert [each.verdict for each in choice.trials] == ["too close to 10 ms", "chosen"]


def test_a_near_miss_is_tried_rather_than_refused():
    """What is foretold may be wrong by that much; the index built is measured itself."""
    choice = decide(
        trial("near", memory=9, recall=0.96, speed=10, latency=15),
        trial("poor", memory=1, recall=0.5, speed=99),
    )
    assert choice.ranked == ("near",)


# ---- the whole


def test_an_index_chosen_by_budgets_keeps_them(changing, tmp_path, monkeypatch):
    monkeypatch.setattr("simclr.embed.writer.SHARD_ROWS", 4096)
    made = changing(SIZE)
    allowed = candidates(SIZE, 32)[2].memory - 1
    info = build_index(made.store, tmp_path / "v.faiss", IndexWish(memory=allowed, recall=0.9, latency=1000))
    assert info.factory.startswith("IVF")
    assert info.measured["recall@10"] >= 0.9
    assert info.measured["bytes"] + 12 * SIZE <= allowed
    assert [t.factory for t in info.trials if t.verdict == "chosen"] == [info.factory]


def test_a_type_that_misses_with_all_vectors_gives_way_to_the_next(changing, tmp_path, monkeypatch):
    from simclr.embed.index import build as build_module

    choice = choosing_module.Choice(("IVF16,PQ4x4fs", "IVF16,SQ8"), (), "foretold", None)
    monkeypatch.setattr(build_module, "choose", lambda *a, **k: choice)
    monkeypatch.setattr(proving_module, "settings", partial(tuning.settings, depths=(10,)))
    notes = []
    info = build_index(
        changing(900).store, tmp_path / "v.faiss", IndexWish(recall=0.995, latency=1e4), note=notes.append
    )
    assert info.factory == "IVF16,SQ8"
    assert any("IVF16,PQ4x4fs with all vectors: recall@10 is" in note for note in notes)
    assert info.reason == "the best of those tried with all vectors"


def test_the_lists_that_were_tried_are_those_of_the_index(vectors):
    import faiss

    centroids = find_centroids(vectors, 16)
    index = trained_index("IVF16,SQ8", vectors, centroids)
    quantizer = faiss.downcast_index(index.quantizer)
    np.testing.assert_array_equal(quantizer.reconstruct_n(0, 16), centroids)


def test_centroids_have_unit_length(vectors):
    np.testing.assert_allclose(np.linalg.norm(find_centroids(vectors, 16), axis=1), 1, rtol=1e-5)


def test_progress_counts_up_to_all_vectors(changing, tmp_path):
    made, seen = changing(150), []
    made.change(add=clustered(150, 2))
    made.change(add=clustered(100, 3))
    build_index(
        made.store, tmp_path / "v.faiss", progress=lambda done, total, words: seen.append((done, total))
    )
    assert [seen[0], seen[-1]] == [(0, 400), (400, 400)]
    assert len(seen) == 4


def test_a_type_by_name_that_finds_too_little_is_kept_and_says_so(changing, tmp_path, monkeypatch):
    monkeypatch.setattr(proving_module, "settings", partial(tuning.settings, depths=(10,)))
    info = build_index(
        changing(900).store, tmp_path / "v.faiss", IndexWish(index_type="IVF16,PQ4x4fs", recall=0.9999)
    )
    assert re.fullmatch(
        r"recall@10 is 0\.\d{3}, below the 0\.9999 asked for", below_recall(info.measured, info.wish)
    )


def test_latency_is_judged_only_where_the_type_was_not_named():
    measured = {"recall@10": 0.99, "latency_ms": 12.0}
    words = "a query takes 12 ms, more than the 10 asked for"
    assert above_latency(measured, IndexWish()) == words
    assert above_latency(measured, IndexWish(latency=13)) == ""
    assert above_latency(measured, IndexWish(index_type="IDMap2,Flat")) == ""


# ---- budgets in words


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("2GB", 2 * 10**9),
        ("500MB", 500 * 10**6),
        ("1.5 gb", 15 * 10**8),
        ("2GiB", 2 << 30),
        ("1000", 1000),
        ("7kB", 7000),
    ],
)
def test_memory_is_read_in_any_unit(memory, expected):
    assert wish_of(None, memory, None, None) == IndexWish(memory=expected)


@pytest.mark.parametrize(("latency", "expected"), [("10ms", 10), ("5", 5), ("250us", 0.25), ("1.5s", 1500)])
def test_latency_is_read_in_any_unit(latency, expected):
    assert wish_of(None, None, None, latency) == IndexWish(latency=expected)


def test_nothing_said_is_no_wish():
    assert wish_of(None, None, None, None) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ((None, "much", None, None), "memory 'much': not an amount"),
        ((None, "0GB", None, None), "memory (0) must be more than 0"),
        ((None, None, 1.2, None), "recall (1.2) must be"),
        ((None, None, 0.0, None), "recall (0) must be"),
        ((None, None, None, "10 parsecs"), "latency '10 parsecs': not an amount"),
        ((None, None, None, "0ms"), "latency (0) must be more than 0"),
        (("", None, None, None), "index type: empty"),
    ],
)
def test_a_budget_that_is_none_is_refused(said, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        wish_of(*said)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (12, "12 B"),
        (1234, "1.23 kB"),
        (56_789_000, "56.8 MB"),
        (2e9, "2 GB"),
        (999_600, "1 MB"),
        (3.5e13, "35 TB"),
    ],
)
def test_bytes_are_said_with_three_digits(count, words):
    assert in_bytes(count) == words


def test_a_wish_travels_in_the_sidecar(changing, tmp_path):
    wish = IndexWish(index_type="IVF8,SQ8", memory=10**9, recall=0.5, latency=3.5)
    assert build_index(changing(300).store, tmp_path / "v.faiss", wish).wish == dataclasses.replace(wish)


@pytest.mark.parametrize("factory", ["HNSW8,SQ8", "IVF16,SQ8", "IVF16,RaBitQfs"])
def test_the_effort_that_was_tuned_finds_what_was_asked_also_where_there_are_no_clusters(
    changing, tmp_path, factory
):
    """HNSW looks as far as it is asked for candidates: tuned by 400 of them, it found a third when asked for 10."""
    made = changing(1)
    values = np.random.default_rng(0).standard_normal((1500, 32)).astype(np.float32)
    made.change(add=values / np.linalg.norm(values, axis=1, keepdims=True))
    info = build_index(made.store, tmp_path / "v.faiss", IndexWish(index_type=factory, recall=0.9))
    assert info.measured["recall@10"] >= 0.88
