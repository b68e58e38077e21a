"""What an index is measured by: whole searches, as users make them."""

from types import SimpleNamespace

import numpy as np
import pytest
from changing_stores import clustered

from simclr.artifacts import IndexWish
from simclr.embed.index import build_index, load_index, proving
from simclr.embed.index.neighbours import Finder
from simclr.embed.index.tuning import Setting
from simclr.embed.lookup import Lookup


def setting(effort: int, depth: int) -> Setting:
    return Setting(effort, depth, 0.99, 1e-4, 1e-5, True)


@pytest.fixture
def costs(monkeypatch) -> dict[tuple[int, int], list[float]]:
    """Effort and depth -> the seconds of one search after another; 9 where nothing else is said."""
    costs: dict[tuple[int, int], list[float]] = {}
    monkeypatch.setattr(
        proving, "Finder", lambda index, lookup, way, *, buried: SimpleNamespace(find=lambda q, k: way)
    )

    def timed(call):
        way = call()
        left = costs.setdefault((way.effort, way.depth), [9.0])
        return (left.pop(0) if len(left) > 1 else left[0]), None

    monkeypatch.setattr(proving, "timed", timed)
    return costs


def test_the_setting_with_the_fastest_searches_is_taken_though_it_ranks_more(costs):
    costs |= {(1, 10): [3.0], (1, 15): [1.0], (2, 10): [2.0]}
    found = proving.quickest(None, None, np.empty((0, 4)), [setting(1, 10), setting(2, 10)])
    assert (found.effort, found.depth) == (1, 15)


def test_each_setting_is_timed_as_it_is_and_with_a_few_candidates_more(costs):
    proving.quickest(None, None, np.empty((0, 4)), [setting(1, 10), setting(4, 280)])
    assert set(costs) == {(1, 10), (1, 15), (1, 20), (4, 280), (4, 400)}


def test_a_search_that_was_held_up_once_is_not_slow(costs):
    costs |= {(1, 10): [8.0, 1.0], (1, 15): [2.0]}
    assert proving.quickest(None, None, np.empty((0, 4)), [setting(1, 10)]).depth == 10


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "HNSW8,SQ8", "IVF8,RaBitQfs"])
def test_a_measured_recall_is_that_of_searches(changing, tmp_path, factory):
    """The half of the held-out vectors that measures, found among the others by the setting of the sidecar."""
    made = changing(1000)
    info = build_index(made.store, tmp_path / "v.faiss", IndexWish(index_type=factory, recall=0.5))
    index, _ = load_index(tmp_path / "v.faiss")
    queries = clustered(300, 9)
    ids = Finder.of(index, info, Lookup(made.store)).find(queries, 10)[1]
    rows = np.stack([made.rows[id] for id in sorted(made.rows)]).astype(np.float16).astype(np.float32)
    true = np.argsort(-(queries @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T), axis=1)[:, :10]
    recall = np.mean(
        [len(set(found) & set(right)) / 10 for found, right in zip(ids.tolist(), true.tolist(), strict=True)]
    )
    assert info.measured["recall@10"] == pytest.approx(recall, abs=0.06)
