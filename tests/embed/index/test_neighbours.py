"""Whatever the type of an index, what is found is what a loop over all vectors finds, in the same order, with its cosines."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import IndexInfo, IndexWish, SourceInfo
from simclr.embed import writer as writer_module
from simclr.embed.index import build_index, library, load_index, update_index
from simclr.embed.index import neighbours as neighbours_module
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.embed.writer import writing

WIDTH = 32
BURYING = ["IVF16,RaBitQfs4", "IVF16,PQ8x4fs", "OPQ8_32,IVF16,PQ8x4fs", "HNSW16", "RaBitQfs", "PQ8x4fs"]
TYPES = ["Flat", "SQ8", "IVF16,Flat", "IVF16,SQ8", "PCA16,Flat", *BURYING]
UNFILTERED = ["PCA16,Flat", "RaBitQfs", "PQ8x4fs"]
COPIES = 300
TEARS = "HNSW16"
"""Its graph falls to pieces where there are many copies: it gets a store without."""


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


CENTRES = np.random.default_rng(0).standard_normal((20, WIDTH))


def clustered(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(CENTRES[rng.integers(20, size=count)] + 0.6 * rng.standard_normal((count, WIDTH)))


QUERIES = clustered(12, 9)
COPIED = unit(np.random.default_rng(8).standard_normal(WIDTH))
BESIDE = unit(COPIED + 0.1 * np.random.default_rng(7).standard_normal(WIDTH))
"""Near the copies; three other vectors are nearer to it than these."""


class Crowd:
    """A store, and what it holds by our own book: id -> the vector as float16 has it, of unit length again, in float64."""

    def __init__(self, folder: Path, model: Path, vectors: np.ndarray) -> None:
        """In shards of 250, the ids in no order."""
        self.folder, self.model = folder, model
        self.book: dict[int, np.ndarray] = {}
        self.add(vectors, np.random.default_rng(2).permutation(len(vectors)).tolist())

    def add(self, vectors: np.ndarray, ids: list[int]) -> None:
        with (
            pytest.MonkeyPatch.context() as patch,
            writing(self.folder, model=self.model, identity="x", width=WIDTH) as writer,
        ):
            patch.setattr(writer_module, "SHARD_ROWS", 250)
            writer.add_sources([SourceInfo(kind="folder", root="/photos")])
            writer.new_ids(len(ids))
            for start in range(0, len(ids), 250):
                some = ids[start : start + 250]
                writer.commit([row(id) for id in some], vectors[start : start + 250])
        stored = vectors.astype(np.float16).astype(np.float64)
        self.book |= {id: vector / np.sqrt(vector @ vector) for id, vector in zip(ids, stored, strict=True)}

    def drop(self, ids: list[int]) -> None:
        with writing(self.folder) as writer:
            writer.commit([], np.empty((0, WIDTH), np.float32), drop=ids)
        for id in ids:
            del self.book[id]

    @property
    def store(self) -> Store:
        return Store.open(self.folder)

    @property
    def copies(self) -> list[int]:
        (copied,) = unit(COPIED.astype(np.float16).astype(np.float64)[None])
        return sorted(id for id, vector in self.book.items() if vector @ copied > 1 - 1e-6)

    def nearest(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[int]:
        """One vector at a time, equal ones by id."""
        ids = self.book if allowed is None else allowed.tolist()
        query = query.astype(np.float64)
        return [id for _, id in sorted((-float(query @ self.book[id]), id) for id in ids)[:k]]


def row(id: int) -> Row:
    return Row(
        id=id, source=0, image_path=f"{id}.png", size=1, mtime_ns=1, content_hash=f"{id:064x}", width=4, height=4
    )  # fmt: skip


def cosine(query: np.ndarray, vector: np.ndarray) -> float:
    return float(query.astype(np.float64) @ vector)


@pytest.fixture(scope="module")
def crowds(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Crowd]:
    """Without and with copies: 1,700 vectors, then 300 times the same one and three that lie beside it."""
    folder = tmp_path_factory.mktemp("crowds")
    beside = unit(BESIDE + 0.01 * np.random.default_rng(6).standard_normal((3, WIDTH)))
    with_copies = np.concatenate([clustered(1700, 1), np.repeat(COPIED[None], COPIES, 0), beside])
    mixed = with_copies[np.random.default_rng(5).permutation(len(with_copies))]
    return {
        False: Crowd(folder / "plain.store", model, clustered(1700, 1)),
        True: Crowd(folder / "copies.store", model, mixed),
    }


class Built:
    """The index of a crowd."""

    def __init__(self, path: Path, crowd: Crowd) -> None:
        self.path, self.crowd = path, crowd

    @property
    def info(self) -> IndexInfo:
        return load_index(self.path)[1]

    def finder(self, *, effort: int | None = None, rerank: int = 10) -> Finder:
        """As it was tuned, for a recall of 0.01; or with this nprobe or efSearch, ranking so many again to find ten."""
        index, info = load_index(self.path)
        if effort is not None:
            info = dataclasses.replace(
                info, search_parameters={"nprobe": effort, "efSearch": effort, "rerank": rerank}
            )
        return Finder.of(index, info, Lookup(self.crowd.store))


@pytest.fixture(scope="module")
def builds(crowds) -> Iterator[Callable[[str], Built]]:
    """Each type is built once."""
    made: dict[str, Built] = {}

    def built(factory: str) -> Built:
        if factory not in made:
            crowd = crowds[factory != TEARS]
            path = crowd.folder.parent / f"{factory}.faiss"
            build_index(crowd.store, path, IndexWish(index_type=factory, recall=0.01))
            made[factory] = Built(path, crowd)
        return made[factory]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_cores", lambda: 1)  # threads wait for one another longer than this takes
        yield built


@pytest.fixture
def own(builds, tmp_path) -> Callable[[str], Built]:
    """A copy of index and store that a test may change."""

    def own(factory: str) -> Built:
        built = builds(factory)
        crowd = object.__new__(Crowd)
        crowd.folder, crowd.model = tmp_path / built.crowd.folder.name, built.crowd.model
        crowd.book = dict(built.crowd.book)
        shutil.copytree(built.crowd.folder, crowd.folder)
        for file in built.path.parent.glob(f"{built.path.name}*"):
            shutil.copy(file, tmp_path)
        return Built(tmp_path / built.path.name, crowd)

    return own


@pytest.fixture
def by_index(monkeypatch) -> list[dict]:
    """However few are allowed, the index is asked for them, if it can be; the list says how."""
    monkeypatch.setattr(neighbours_module, "_FEW", 0)
    monkeypatch.setattr(neighbours_module, "_FEW_SHARE", 0.0)
    asked: list[dict] = []
    nearest = neighbours_module.nearest

    def listening(*arguments, **keywords):
        asked.append(keywords)
        return nearest(*arguments, **keywords)

    monkeypatch.setattr(neighbours_module, "nearest", listening)
    return asked


def some_ids(crowd: Crowd, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(count).choice(sorted(crowd.book), count, replace=False))


# ---- all vectors


@pytest.mark.parametrize("factory", TYPES)
def test_reported_similarities_are_the_true_cosines_best_first(builds, factory):
    built = builds(factory)
    similarities, ids = built.finder().find(QUERIES, 20)
    for query, similarity_row, id_row in zip(QUERIES, similarities.tolist(), ids.tolist(), strict=True):
        assert similarity_row == pytest.approx(
            [cosine(query, built.crowd.book[id]) for id in id_row], abs=1e-6
        )
        assert similarity_row == sorted(similarity_row, reverse=True)


@pytest.mark.parametrize("factory", TYPES)
@pytest.mark.parametrize("k", [10, 600])
def test_as_many_come_back_as_are_asked_for_and_none_twice(builds, factory, k):
    built = builds(factory)
    for id_row in built.finder().find(QUERIES, k)[1].tolist():
        assert len(set(id_row) & set(built.crowd.book)) == k


@pytest.mark.parametrize("factory", TYPES)
def test_looking_at_everything_is_exact_search(builds, factory):
    built = builds(factory)
    ids = built.finder(effort=5000, rerank=10_000).find(QUERIES, 15)[1]
    assert ids.tolist() == [built.crowd.nearest(query, 15) for query in QUERIES]


@pytest.mark.parametrize("factory", TYPES)
def test_more_than_there_are_gives_all_of_them_in_order(builds, factory):
    built = builds(factory)
    ids = built.finder().find(QUERIES[:2], 5000)[1]
    assert ids.tolist() == [built.crowd.nearest(query, 5000) for query in QUERIES[:2]]


@pytest.mark.parametrize("factory", TYPES)
def test_a_search_gives_the_same_answer_twice_alone_and_among_others(builds, factory):
    finder = builds(factory).finder()
    together = finder.find(QUERIES, 10)
    np.testing.assert_array_equal(finder.find(QUERIES, 10), together)
    for place, query in enumerate(QUERIES):
        assert finder.find(query[None], 10)[1][0].tolist() == together[1][place].tolist()


def test_queries_are_left_as_they_were(builds):
    queries = QUERIES.copy()
    builds("Flat").finder().find(queries, 10)
    np.testing.assert_array_equal(queries, QUERIES)


def test_no_queries_give_no_rows(builds):
    found = builds("Flat").finder().find(np.empty((0, WIDTH), np.float32), 10)
    assert [part.shape for part in found] == [(0, 10), (0, 10)]


# ---- copies


@pytest.mark.parametrize("factory", [factory for factory in TYPES if factory != TEARS])
@pytest.mark.parametrize("k", [10, 299])
def test_of_300_copies_those_with_the_lowest_ids_come(builds, factory, k):
    built = builds(factory)
    ids = built.finder().find(COPIED[None], k)[1]
    assert ids[0].tolist() == built.crowd.copies[:k]


@pytest.mark.parametrize("factory", [factory for factory in TYPES if factory != TEARS])
def test_copies_with_the_lowest_ids_take_the_places_that_nearer_ones_leave(builds, factory):
    built = builds(factory)
    ids = built.finder(effort=5000, rerank=10_000).find(BESIDE[None], 10)[1][0].tolist()
    assert not set(ids[:3]) & set(built.crowd.copies)
    assert ids[3:] == built.crowd.copies[:7]


@pytest.mark.parametrize("factory", [factory for factory in TYPES if factory != TEARS])
def test_of_the_copies_that_are_allowed_those_with_the_lowest_ids_come(builds, by_index, factory):
    built = builds(factory)
    allowed = np.array(built.crowd.copies[20:])
    assert built.finder().find(COPIED[None], 10, allowed=allowed)[1][0].tolist() == allowed[:10].tolist()


# ---- filters


@pytest.mark.parametrize("factory", TYPES)
@pytest.mark.parametrize("count", [7, 500, 1500])
def test_a_filter_gives_as_many_as_are_asked_for_or_allowed_and_no_others(builds, by_index, factory, count):
    built = builds(factory)
    allowed = some_ids(built.crowd, count)
    for id_row in built.finder().find(QUERIES, 10, allowed=allowed)[1].tolist():
        assert len(set(id_row) & set(allowed.tolist())) == len(id_row) == min(10, count)


@pytest.mark.parametrize("factory", TYPES)
@pytest.mark.parametrize("count", [500, 900])
def test_an_index_that_is_asked_thoroughly_finds_what_exact_search_finds_among_those_allowed(
    builds, by_index, factory, count
):
    """Half of them are ranked again: of 100, which half that is differs between processors."""
    built = builds(factory)
    by_index.clear()  # building asks, too
    allowed = some_ids(built.crowd, count)
    ids = built.finder(effort=5000, rerank=count // 2).find(QUERIES, 10, allowed=allowed)[1]
    assert bool(by_index) == (factory not in UNFILTERED)
    assert ids.tolist() == [built.crowd.nearest(query, 10, allowed) for query in QUERIES]


def test_an_index_is_asked_for_the_allowed_alone_and_harder_the_rarer_they_are(builds, by_index):
    built = builds("IVF16,SQ8")
    allowed = some_ids(built.crowd, -(-len(built.crowd.book) // 4))
    built.finder(effort=1).find(QUERIES, 3, allowed=allowed)
    assert by_index[0]["effort"] == 4
    assert by_index[0]["allowed"].tolist() == allowed.tolist()


@pytest.mark.parametrize("factory", TYPES)
@pytest.mark.parametrize("count", [7, 900])
def test_those_allowed_are_all_compared_where_they_are_few(builds, monkeypatch, factory, count):
    monkeypatch.setattr(neighbours_module, "nearest", None)
    monkeypatch.setattr(neighbours_module, "_BLOCK", 37)
    built = builds(factory)
    allowed = some_ids(built.crowd, count)
    similarities, ids = built.finder().find(QUERIES, 10, allowed=allowed)
    assert ids.tolist() == [built.crowd.nearest(query, 10, allowed) for query in QUERIES]
    for query, similarity_row, id_row in zip(QUERIES, similarities.tolist(), ids.tolist(), strict=True):
        assert similarity_row == pytest.approx(
            [cosine(query, built.crowd.book[id]) for id in id_row], abs=1e-6
        )


@pytest.mark.parametrize(("few", "share", "compared"), [(99, 0.0, False), (100, 0.0, True), (0, 0.049, False), (0, 0.05, True)])  # fmt: skip
def test_few_is_a_number_or_a_share_of_the_store(builds, by_index, monkeypatch, few, share, compared):
    built = builds("IVF16,SQ8")
    monkeypatch.setattr(neighbours_module, "_FEW", few)
    monkeypatch.setattr(neighbours_module, "_FEW_SHARE", share)
    built.finder().find(QUERIES, 1, allowed=some_ids(built.crowd, len(built.crowd.book) // 20))
    assert (not by_index) == compared


@pytest.mark.parametrize("factory", TYPES)
def test_nothing_allowed_finds_nothing(builds, by_index, factory):
    found = builds(factory).finder().find(QUERIES, 5, allowed=np.empty(0, np.int64))
    assert [part.shape for part in found] == [(12, 0), (12, 0)]


# ---- entries without a vector, vectors without an entry


def near_queries(crowd: Crowd, count: int) -> list[int]:
    """So many ids, those that are nearest to one query after another."""
    each = [crowd.nearest(query, count // len(QUERIES)) for query in QUERIES]
    return sorted({id for ids in each for id in ids})


@pytest.mark.parametrize("factory", TYPES)
def test_buried_entries_neither_come_nor_take_places(own, factory):
    built = own(factory)
    gone = near_queries(built.crowd, 240)
    built.crowd.drop(gone)
    update_index(built.crowd.store, built.path)
    assert built.info.buried == (len(gone) if factory in BURYING else 0)
    for id_row in built.finder().find(QUERIES, 10)[1].tolist():
        assert len(set(id_row) & set(built.crowd.book)) == 10
    ids = built.finder(effort=5000, rerank=10_000).find(QUERIES, 10)[1]
    assert ids.tolist() == [built.crowd.nearest(query, 10) for query in QUERIES]


@pytest.mark.parametrize("factory", TYPES)
def test_a_filter_passes_over_buried_entries(own, by_index, factory):
    built = own(factory)
    built.crowd.drop(near_queries(built.crowd, 240))
    update_index(built.crowd.store, built.path)
    allowed = some_ids(built.crowd, 900)
    ids = built.finder(effort=5000, rerank=450).find(QUERIES, 10, allowed=allowed)[1]
    assert ids.tolist() == [built.crowd.nearest(query, 10, allowed) for query in QUERIES]


@pytest.mark.parametrize("factory", TYPES)
def test_an_index_behind_its_store_fills_up_with_what_is_there(own, factory):
    built = own(factory)
    built.crowd.drop(near_queries(built.crowd, 600))
    for id_row in built.finder().find(QUERIES, 10)[1].tolist():
        assert len(set(id_row) & set(built.crowd.book)) == 10


@pytest.mark.parametrize("factory", TYPES)
def test_rows_end_with_none_where_an_index_behind_its_store_has_fewer(own, factory):
    built = own(factory)
    new = list(range(5000, 5020))
    built.crowd.add(clustered(20, 4), new)
    left = [3, 14, 159]
    built.crowd.drop(sorted(set(built.crowd.book) - set(left) - set(new)))
    similarities, ids = built.finder().find(QUERIES, 5)
    assert ids.tolist() == [[*built.crowd.nearest(query, 3, np.array(left)), -1, -1] for query in QUERIES]
    assert np.isneginf(similarities[:, 3:]).all()


def test_nothing_is_found_in_a_store_that_has_become_empty(own):
    built = own("Flat")
    built.crowd.drop(sorted(built.crowd.book))
    assert [part.shape for part in built.finder().find(QUERIES, 5)] == [(12, 0), (12, 0)]
