"""Whatever happened to a store, its index answers as exact search over the same rows does."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from changing_stores import Changing, clustered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simclr.artifacts import IndexWish
from simclr.embed.index import build_index, load_index, merge_indexes, sidecar, update_index
from simclr.embed.index import update as update_module
from simclr.embed.index.anatomy import NOBODY, Anatomy
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import load_entries
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store

QUERIES = clustered(12, 99)
TYPES = ["IDMap2,Flat", "IDMap2,SQ8", "IVF8,SQ8", "IVF8,RaBitQ4", "IVF8,RaBitQfs4", "HNSW8,SQ8", "PQ16x4fs"]


def wish(factory: str) -> IndexWish:
    return IndexWish(index_type=factory, recall=0.01)


def answers(path: Path, store: Store, k: int = 10) -> list[list[int]]:
    """Ids that a search finds which looks at everything there is in the index."""
    index, info = load_index(path)
    all_ = {"nprobe": 8.0, "efSearch": 5000.0, "rerank": 10.0 * index.ntotal}
    finder = Finder.of(index, dataclasses.replace(info, search_parameters=all_), Lookup(store))
    return finder.find(QUERIES, k)[1].tolist()


def exact(rows: dict[int, np.ndarray], k: int = 10) -> list[list[int]]:
    """One query, one vector at a time, as stored."""
    found = []
    for query in QUERIES:
        scored = []
        for id, vector in rows.items():
            stored = vector.astype(np.float16).astype(np.float64)
            scored.append((-float(query @ stored / np.linalg.norm(stored)), id))
        found.append([id for _, id in sorted(scored)[:k]])
    return found


def holds_exactly(path: Path, store: Store) -> bool:
    index, info = load_index(path)
    ids = Anatomy.of(index).stored_ids()
    alive = np.sort(ids[ids != NOBODY])
    return np.array_equal(alive, Lookup(store).ids) and info.generation == store.info.generation


@pytest.fixture
def rebuilt(monkeypatch) -> list[str]:
    """Gets a word for each index that an update builds from nothing."""
    calls: list[str] = []
    build = update_module.build
    monkeypatch.setattr(update_module, "build", lambda *a, **k: (calls.append("built"), build(*a, **k))[1])
    return calls


@pytest.mark.parametrize("factory", TYPES)
def test_additions_changes_and_drops_reach_the_index_without_building_it_anew(
    changing, tmp_path, factory, rebuilt
):
    made, path = changing(600), tmp_path / "v.faiss"
    build_index(made.store, path, wish(factory))
    made.change(
        add=clustered(30, 7), drop=[3, 4, 250], replace={17: clustered(1, 8)[0], 400: clustered(1, 9)[0]}
    )
    update_index(made.store, path)
    assert holds_exactly(path, made.store)
    assert answers(path, made.store) == exact(made.rows)
    assert rebuilt == []


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 25), st.integers(0, 1000)),
        st.tuples(st.just("change"), st.integers(1, 10), st.integers(0, 1000)),
        st.tuples(st.just("drop"), st.integers(1, 40), st.integers(0, 1000)),
        st.tuples(st.just("compact"), st.just(0), st.just(0)),
        st.tuples(st.just("merge"), st.integers(1, 40), st.integers(0, 1000)),
        st.tuples(st.just("no update"), st.integers(1, 10), st.integers(0, 1000)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("factory", ["IDMap2,Flat", "IVF8,SQ8", "IVF8,RaBitQfs4", "HNSW8,SQ8"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_any_sequence_of_changes_gives_the_answers_of_exact_search(model, monkeypatch, factory, operations):
    from simclr.embed import writer as writer_module

    monkeypatch.setattr(writer_module, "SHARD_ROWS", 60)
    folder = Path(tempfile.mkdtemp())
    try:
        made, path = Changing(folder / "v.store", model), folder / "v.faiss"
        made.change(add=clustered(240, 1))
        build_index(made.store, path, wish(factory))
        for step, (what, count, seed) in enumerate(operations):
            rng = np.random.default_rng(seed)
            some = rng.permutation(sorted(made.rows))[:count].tolist()
            if what in ("add", "no update"):
                made.change(add=clustered(count, seed + 10))
            elif what == "change":
                made.change(replace=dict(zip(some, clustered(len(some), seed + 20), strict=True)))
            elif what == "drop" and len(made.rows) > 60:
                made.change(drop=some)
            elif what == "compact":
                build_index(made.store, path, wish(factory))
            elif what == "merge":
                other = Changing(folder / f"o{step}.store", model)
                other.change(add=clustered(count, seed + 30))
                build_index(other.store, folder / f"o{step}.faiss", wish("Flat"))
                update_index(made.store, path)
                merge_indexes([path, folder / f"o{step}.faiss"], folder / f"m{step}.faiss")
                made, path = merged(made, other, folder / f"m{step}.store"), folder / f"m{step}.faiss"
            if what != "no update":
                update_index(made.store, path)
                assert holds_exactly(path, made.store)
                assert answers(path, made.store) == exact(made.rows)
    finally:
        shutil.rmtree(folder)


def merged(first: Changing, second: Changing, folder: Path) -> Changing:
    """The book of both: images of the first keep their ids, those of the second get the next ones."""
    both = Changing(folder, first.model)
    order = [id for ids, _ in second.store.blocks() for id in ids.tolist()]
    new = range(first.store.info.next_id, first.store.info.next_id + len(order))
    both.rows = first.rows | {id: second.rows[old] for id, old in zip(new, order, strict=True)}
    return both


# ---- when it is built anew


@pytest.mark.parametrize("factory", ["HNSW8,SQ8", "IVF8,RaBitQfs4"])
def test_an_index_with_a_fifth_of_dead_entries_is_built_anew(changing, tmp_path, factory, rebuilt):
    made, path = changing(600), tmp_path / "v.faiss"
    build_index(made.store, path, wish(factory))
    made.change(drop=range(120))
    assert update_index(made.store, path).buried == 120
    made.change(drop=[120])
    assert update_index(made.store, path).buried == 0
    assert rebuilt == ["built"]
    assert answers(path, made.store) == exact(made.rows)


def test_an_index_that_has_doubled_is_built_anew(changing, tmp_path, rebuilt):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    made.change(add=clustered(300, 5))
    assert update_index(made.store, path).built_with == 300
    made.change(add=clustered(1, 6))
    assert update_index(made.store, path).built_with == 601
    assert rebuilt == ["built"]


def test_an_index_that_finds_too_little_after_changes_is_built_anew(changing, tmp_path, rebuilt):
    """One list of 32 is enough for vectors around few directions, and not for those that came later."""
    made, path = changing(400), tmp_path / "v.faiss"
    info = build_index(made.store, path, IndexWish(index_type="IVF32,SQ8", recall=0.85))
    dataclasses.replace(info, search_parameters={"nprobe": 1.0, "rerank": 10.0}).save(sidecar(path))
    others = np.random.default_rng(1).standard_normal((350, 32)).astype(np.float32)
    made.change(add=others / np.linalg.norm(others, axis=1, keepdims=True))
    assert update_index(made.store, path).search_parameters["nprobe"] > 1
    assert rebuilt == ["built"]


def test_after_a_tenth_has_changed_the_index_is_measured_again(changing, tmp_path):
    made, path = changing(600), tmp_path / "v.faiss"
    before = build_index(made.store, path, wish("IVF8,SQ8")).measured
    made.change(add=clustered(40, 5))
    assert update_index(made.store, path).measured == before | {
        "changed_since": 40,
        "bytes": path.stat().st_size,
    }
    made.change(add=clustered(30, 6))
    after = update_index(made.store, path).measured
    assert (after["changed_since"], after["vectors"]) == (0, 670)
    assert "each without itself" in after["how"]


def test_another_wish_builds_it_anew(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    assert update_index(made.store, path, wish("IDMap2,SQ8")).factory == "IDMap2,SQ8"


def test_without_a_wish_an_index_stays_what_it_was_asked_to_be(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    made.change(add=clustered(400, 5))
    assert update_index(made.store, path).factory == "IVF8,SQ8"


def test_a_store_that_has_lost_all_its_images_is_an_error(changing, tmp_path):
    from simclr.errors import ImageError

    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    made.change(drop=list(made.rows))
    with pytest.raises(ImageError, match="holds no vectors"):
        update_index(made.store, path)


# ---- what it reads


def test_only_shards_that_are_new_are_read(changing, tmp_path, monkeypatch):
    from simclr.embed import shards

    made, path = changing(600), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    before = {shard.number for shard in made.store.info.shards}
    made.change(add=clustered(20, 5))
    read: set[int] = set()
    verify = shards.verify_shard
    monkeypatch.setattr(
        shards, "verify_shard", lambda store, shard: (read.add(shard.number), verify(store, shard))
    )
    update_index(made.store, path)
    assert read == {shard.number for shard in made.store.info.shards} - before


def test_a_row_that_only_moved_to_another_shard_is_left_alone(changing, tmp_path):
    """A dropped row means its shard is written anew, with all the others in it."""
    made, path = changing(600), tmp_path / "v.faiss"
    info = build_index(made.store, path, wish("HNSW8,SQ8"))
    made.change(drop=[5])
    held = load_entries(path, info)
    wanted = Entries.of(made.store, held)
    assert (held.lacking(wanted).tolist(), wanted.lacking(held).tolist()) == ([5], [])


def test_an_index_without_its_entries_is_built_anew(changing, tmp_path, rebuilt):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    (tmp_path / "v.faiss.entries").unlink()
    made.change(add=clustered(20, 5))
    update_index(made.store, path)
    assert rebuilt == ["built"]
    assert answers(path, made.store) == exact(made.rows)


def test_an_index_in_step_whose_store_was_moved_gets_only_a_new_sidecar(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, wish("IVF8,SQ8"))
    before = path.stat().st_mtime_ns
    made.folder.rename(tmp_path / "w.store")
    assert update_index(Store.open(tmp_path / "w.store"), path).store == "w.store"
    assert path.stat().st_mtime_ns == before
