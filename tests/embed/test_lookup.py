"""A lookup says of each id what the rows and the shards of its store say, in whatever order it is asked."""

import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import SourceInfo
from simclr.embed import lookup as lookup_module
from simclr.embed import writer as writer_module
from simclr.embed.lookup import Lookup
from simclr.embed.shards import Row, metadata_path, vectors_path
from simclr.embed.store import Store
from simclr.embed.writer import StoreWriter, writing
from simclr.errors import ArtifactError

WIDTH = 12


@pytest.fixture
def written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Ids -> the store `tmp_path / "v.store"` with a shard for every `rows` of them, in this order."""

    def written(ids, *, rows: int = 10) -> Path:
        monkeypatch.setattr(writer_module, "SHARD_ROWS", rows)
        with writing(tmp_path / "v.store", model=model, identity="x", width=WIDTH) as writer:
            roots = [("folder", "/photos"), ("tar", "/old/x.tar")]
            writer.add_sources([SourceInfo(kind=kind, root=root) for kind, root in roots])
            writer.new_ids(max(ids) + 1)
            for start in range(0, len(ids), rows):
                put(writer, ids[start : start + rows])
        return tmp_path / "v.store"

    return written


def put(writer: StoreWriter, ids, *, drop=(), seed: int = 0) -> None:
    vectors = np.array([vector_of(id, seed) for id in ids], np.float32).reshape(-1, WIDTH)
    writer.commit([row(id) for id in ids], vectors, drop=drop)


def vector_of(id: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng([seed, id]).standard_normal(WIDTH)
    return (values / np.linalg.norm(values)).astype(np.float32)


def row(id: int) -> Row:
    return Row(
        id=id, source=id % 2, image_path=f"a/{id}.png", size=1, mtime_ns=1, content_hash="0", width=id + 4, height=2 * id + 4
    )  # fmt: skip


def path_of(id: int) -> str:
    return f"/old/x.tar/a/{id}.png" if id % 2 else f"/photos/a/{id}.png"


def vectors_of(ids, seed: int = 0) -> np.ndarray:
    return np.array([vector_of(id, seed).astype(np.float16) for id in ids])


MIXED = np.random.default_rng(1).permutation(60).tolist()


# ---- vectors and paths


def test_vectors_are_those_of_their_ids_wherever_they_lie(written):
    lookup = Lookup(Store.open(written(MIXED)))
    asked = [*range(59, -1, -2), *range(0, 60, 2)]
    np.testing.assert_array_equal(lookup.vectors(np.array(asked)), vectors_of(asked))


def test_vectors_are_given_as_they_are_stored(written):
    assert Lookup(Store.open(written(MIXED))).vectors(np.array([3])).dtype == np.float16


def test_paths_are_those_of_their_ids_wherever_they_lie(written):
    lookup = Lookup(Store.open(written(MIXED)))
    asked = [*range(59, -1, -2), *range(0, 60, 2)]
    assert lookup.paths(np.array(asked)) == [path_of(id) for id in asked]


def test_paths_are_those_that_the_store_says_of_its_rows(written):
    store = Store.open(written(MIXED))
    lookup = Lookup(store)
    for stored in store.rows():
        assert lookup.paths(np.array([stored.id])) == [store.path(stored)]


def test_the_path_of_an_image_in_a_tar_is_the_one_by_which_it_is_embedded(embed, photos, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos / "warm", arcname="warm")
    embed(tmp_path / "x.tar", photos / "cold")
    store = Store.open(tmp_path / "out.store")
    rows = {stored.id: store.path(stored) for stored in store.rows()}
    assert Lookup(store).paths(np.array(list(rows))) == list(rows.values())


def test_an_id_that_is_asked_for_twice_is_given_twice(written):
    lookup = Lookup(Store.open(written(MIXED)))
    asked = [7, 44, 7]
    np.testing.assert_array_equal(lookup.vectors(np.array(asked)), vectors_of(asked))
    assert lookup.paths(np.array(asked)) == [path_of(id) for id in asked]


def test_ids_with_gaps_between_them_keep_their_vectors(written):
    asked = [2_000_000, 5, 70_000, 6]
    lookup = Lookup(Store.open(written([70_000, 5, 2_000_000, 6], rows=3)))
    np.testing.assert_array_equal(lookup.vectors(np.array(asked)), vectors_of(asked))
    assert lookup.paths(np.array(asked)) == [path_of(id) for id in asked]


def test_what_is_left_after_a_removal_keeps_its_vectors(written):
    folder = written(MIXED)
    gone = MIXED[::4]
    with writing(folder) as writer:
        put(writer, [], drop=gone)
    lookup = Lookup(Store.open(folder))
    left = sorted(set(MIXED) - set(gone))
    np.testing.assert_array_equal(lookup.vectors(np.array(left)), vectors_of(left))
    assert lookup.paths(np.array(left)) == [path_of(id) for id in left]


def test_a_vector_that_was_replaced_is_the_new_one(written):
    folder = written(MIXED)
    with writing(folder) as writer:
        put(writer, [17], drop=[17], seed=5)
    found = Lookup(Store.open(folder)).vectors(np.array([16, 17, 18]))
    np.testing.assert_array_equal(found, [*vectors_of([16]), *vectors_of([17], seed=5), *vectors_of([18])])


def test_a_lookup_goes_on_while_a_writer_changes_the_store(written):
    """What is replaced stays readable for a while."""
    folder = written(MIXED)
    lookup = Lookup(Store.open(folder))
    with writing(folder) as writer:
        put(writer, [], drop=MIXED[:30])
    np.testing.assert_array_equal(lookup.vectors(np.array(MIXED)), vectors_of(MIXED))
    assert lookup.paths(np.array(MIXED)) == [path_of(id) for id in MIXED]


def test_rows_are_counted_through_the_shards(written):
    lookup = Lookup(Store.open(written(MIXED)))
    rows = np.array([59, 0, 31, 31])
    assert lookup.ids_of_rows(rows).tolist() == [MIXED[row] for row in rows]


def test_what_is_looked_up_is_left_as_it_was(written):
    lookup = Lookup(Store.open(written(MIXED)))
    lookup.vectors(np.array([5]))[:] = 0
    np.testing.assert_array_equal(lookup.vectors(np.array([5])), vectors_of([5]))


# ---- what there is


def test_ids_rise(written):
    assert Lookup(Store.open(written([70, 5, 200, 6], rows=3))).ids.tolist() == [5, 6, 70, 200]


def test_ids_that_were_dropped_never_given_or_none_are_not_held(written):
    folder = written(MIXED)
    with writing(folder) as writer:
        put(writer, [], drop=[0, 30, 59])
    held = Lookup(Store.open(folder)).holds(np.array([[0, 1, 30, 31], [58, 59, 60, -1], [-5, 1 << 40, 2, 3]]))
    assert held.tolist() == [
        [False, True, False, True],
        [True, False, False, False],
        [False, False, True, True],
    ]


def test_in_and_len_speak_of_ids(written):
    lookup = Lookup(Store.open(written([70, 5, 200, 6], rows=3)))
    assert (len(lookup), 70 in lookup, 7 in lookup, -1 in lookup, 201 in lookup) == (
        4,
        True,
        False,
        False,
        False,
    )


def test_an_empty_store_holds_nothing(written):
    folder = written(MIXED)
    with writing(folder) as writer:
        put(writer, [], drop=MIXED)
    lookup = Lookup(Store.open(folder))
    assert (len(lookup), lookup.ids.tolist(), 3 in lookup) == (0, [], False)
    assert lookup.holds(np.array([[0, -1, 7]])).tolist() == [[False, False, False]]
    assert lookup.vectors(np.empty(0, np.int64)).shape == (0, WIDTH)
    assert lookup.paths(np.empty(0, np.int64)) == []


# ---- what is read


def test_opening_reads_no_vector(written, monkeypatch):
    store = Store.open(written(MIXED))
    monkeypatch.setattr(lookup_module.shards, "read_vectors", None)
    assert len(Lookup(store)) == 60


def test_paths_are_read_a_shard_at_a_time_and_once(written, monkeypatch):
    lookup = Lookup(Store.open(written(MIXED)))
    read = []
    read_metadata = lookup_module.shards.read_metadata
    monkeypatch.setattr(
        lookup_module.shards,
        "read_metadata",
        lambda folder, info, columns: (read.append(info.number), read_metadata(folder, info, columns))[1],
    )
    for _ in range(2):
        lookup.paths(np.array([MIXED[25], MIXED[3], MIXED[21], MIXED[4]]))
    assert sorted(read) == [0, 2]


def test_only_the_paths_of_the_shards_asked_for_last_are_kept(written, monkeypatch):
    monkeypatch.setattr(lookup_module, "_TABLES", 2)
    lookup = Lookup(Store.open(written(MIXED)))
    read = []
    read_metadata = lookup_module.shards.read_metadata
    monkeypatch.setattr(
        lookup_module.shards,
        "read_metadata",
        lambda folder, info, columns: (read.append(info.number), read_metadata(folder, info, columns))[1],
    )
    for shard in (0, 1, 0, 2, 0, 1):
        assert lookup.paths(np.array([MIXED[10 * shard]])) == [path_of(MIXED[10 * shard])]
    assert read == [0, 1, 2, 1]


# ---- damage


def test_a_lookup_of_damaged_metadata_is_refused(written):
    folder = written(MIXED)
    file = metadata_path(folder, 2)
    content = bytearray(file.read_bytes())
    content[40] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=rf"{file}: damaged \(its SHA-256 is not the one in the manifest\)"
    ):
        Lookup(Store.open(folder))


def test_a_lookup_without_metadata_is_refused(written):
    folder = written(MIXED)
    metadata_path(folder, 2).unlink()
    with pytest.raises(ArtifactError, match=rf"{metadata_path(folder, 2)}: missing"):
        Lookup(Store.open(folder))


def test_metadata_that_are_damaged_later_are_named_when_a_path_of_them_is_asked_for(written):
    folder = written(MIXED)
    lookup = Lookup(Store.open(folder))
    metadata_path(folder, 2).write_bytes(b"no Parquet")
    assert lookup.paths(np.array([MIXED[0]])) == [path_of(MIXED[0])]
    with pytest.raises(ArtifactError, match=rf"{metadata_path(folder, 2)}: damaged"):
        lookup.paths(np.array([MIXED[0], MIXED[25]]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-50]), "damaged"),
        (lambda file: np.save(file, np.zeros((9, WIDTH), np.float16)), r"damaged \(9 rows in place of 10\)"),
    ],
)
def test_a_shard_that_is_missing_or_cut_short_is_named_when_a_vector_of_it_is_asked_for(
    written, damage, words
):
    folder = written(MIXED)
    lookup = Lookup(Store.open(folder))
    damage(vectors_path(folder, 2))
    np.testing.assert_array_equal(lookup.vectors(np.array(MIXED[:10])), vectors_of(MIXED[:10]))
    with pytest.raises(ArtifactError, match=rf"{vectors_path(folder, 2)}: {words}"):
        lookup.vectors(np.array([MIXED[0], MIXED[25]]))


# ---- threads


@contextmanager
def impatient_threads() -> Iterator[None]:
    """Python changes from one to another as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_threads_that_ask_at_once_each_get_what_they_asked_for(written):
    lookup = Lookup(Store.open(written(MIXED)))

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            asked = rng.integers(0, 60, 9)
            assert lookup.paths(asked) == [path_of(id) for id in asked.tolist()]
            np.testing.assert_array_equal(lookup.vectors(asked), vectors_of(asked.tolist()))

    with impatient_threads(), ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_threads_that_push_out_one_anothers_paths_get_what_they_asked_for(written, monkeypatch):
    monkeypatch.setattr(lookup_module, "_TABLES", 1)
    store = Store.open(written(MIXED, rows=2))
    lookup = Lookup(store)
    tables = {
        info.number: lookup_module.shards.read_metadata(store.folder, info) for info in store.info.shards
    }
    monkeypatch.setattr(
        lookup_module.shards, "read_metadata", lambda folder, info, columns: tables[info.number]
    )

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for asked in rng.integers(0, 60, (300, 9)):
            assert lookup.paths(asked) == [path_of(id) for id in asked.tolist()]

    with impatient_threads(), ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_sizes_and_rows_are_those_of_the_store(written):
    store = Store.open(written([3, 1, 4, 15, 9, 2, 6], rows=3))
    with_sizes = {row.id: row for row in store.rows()}
    lookup = Lookup(store)
    ids = np.array([9, 1, 6, 9])
    assert lookup.sizes(ids).tolist() == [
        [with_sizes[id].width, with_sizes[id].height] for id in ids.tolist()
    ]
    assert [lookup.row(id) for id in ids.tolist()] == [with_sizes[id] for id in ids.tolist()]
