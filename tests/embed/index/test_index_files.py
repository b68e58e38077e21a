"""Whatever moment a writer dies at, the index on disk is the old or the new one, and the next update finishes its work."""

import contextlib
import dataclasses
import os
import re
import time

import numpy as np
import pytest
from changing_stores import clustered

from simclr.artifacts import IndexInfo, IndexWish
from simclr.embed.index import build_index, load_index, sidecar, update_index
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.files import changing as changing_index
from simclr.embed.index.files import describe, entries_file, load_entries
from simclr.embed.lookup import Lookup
from simclr.embed.search import Index
from simclr.embed.store import Store
from simclr.errors import ArtifactError

WISH = IndexWish(index_type="IVF8,SQ8", recall=0.01)


class Killed(BaseException):
    """What nothing catches."""


def ids_of(path) -> list[int]:
    return sorted(Anatomy.of(load_index(path)[0]).stored_ids().tolist())


@contextlib.contextmanager
def dying_at_rename(number: int, *, after: bool):
    """The process ends before or after this rename."""
    replace, count = os.replace, 0

    def dying(source, target):
        nonlocal count
        count += 1
        if count == number and not after:
            raise Killed
        replace(source, target)
        if count == number:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", dying)
        yield


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_writer_killed_at_any_rename_leaves_the_old_or_the_new_index(changing, tmp_path, number, after):
    """Renames: the new entries, the new sidecar, the index itself, then entries and sidecar take their names."""
    made, path = changing(300), tmp_path / "v.faiss"
    old = build_index(made.store, path, WISH)
    old_ids = sorted(made.rows)
    made.change(add=clustered(20, 5), drop=[7, 8])
    new_ids = sorted(made.rows)
    with dying_at_rename(number, after=after):
        update_index(made.store, path)
    is_new = number > 3 or (number == 3 and after)
    assert ids_of(path) == (new_ids if is_new else old_ids)
    assert describe(path).generation == (made.store.info.generation if is_new else old.generation)
    info = update_index(made.store, path)
    assert ids_of(path) == new_ids
    assert IndexInfo.load(sidecar(path)) == info
    assert load_entries(path, info).ids.tolist() == new_ids
    left = {file.name for file in tmp_path.iterdir()} - {"v.store"}
    assert left == {"v.faiss", "v.faiss.json", "v.faiss.entries", ".v.faiss.lock"}


def test_a_first_index_that_was_killed_is_no_index(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    with dying_at_rename(3, after=False):
        build_index(made.store, path, WISH)
    with pytest.raises(ArtifactError, match="no such index"):
        load_index(path)
    assert update_index(made.store, path, WISH).size == 300


def test_a_writer_killed_between_two_renames_and_a_builder_killed_after_it_leave_an_index(changing, tmp_path):
    """The first left its sidecar under `.next`; the second must not write over the only one that fits."""
    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, WISH)
    made.change(add=clustered(20, 5))
    with dying_at_rename(3, after=True):
        update_index(made.store, path)
    made.change(add=clustered(20, 6))
    with dying_at_rename(
        5, after=False
    ):  # two renames settle what the first left; then entries, sidecar, index
        build_index(made.store, path, WISH)
    assert len(ids_of(path)) == 320


def test_two_processes_do_not_build_one_index(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    with changing_index(path), pytest.raises(ArtifactError, match="another process is building it"):
        build_index(made.store, path, WISH)


def test_a_place_where_nothing_can_be_written_is_named(changing, tmp_path):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "v.faiss"
    with pytest.raises(ArtifactError, match=re.escape(f"{path}: cannot be written")):
        build_index(changing(300).store, path, WISH)


def test_a_place_whose_name_is_not_utf_8_is_refused(changing, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.faiss")
    with pytest.raises(ArtifactError, match="not UTF-8"):
        build_index(changing(300).store, path, WISH)


def test_a_store_in_a_folder_that_is_not_utf_8_has_an_index_elsewhere(changing, tmp_path):
    made = changing(300)
    folder = made.folder.rename(tmp_path / os.fsdecode(b"\xff.store"))
    build_index(Store.open(folder), tmp_path / "v.faiss", WISH)
    assert Index.open(tmp_path / "v.faiss").store.folder == folder


def test_what_a_killed_writer_left_goes_and_that_of_other_indexes_stays(changing, tmp_path):
    path = tmp_path / "v[1].faiss"
    left = [f".{name}.77.tmp" for name in (path.name, f"{path.name}.json.next", f"{path.name}.entries.next")]
    others = [".v1.faiss.77.tmp", ".v[1].faiss2.77.tmp"]
    for name in left + others:
        (tmp_path / name).write_text("half")
    build_index(changing(300).store, path, WISH)
    assert [name for name in left + others if (tmp_path / name).exists()] == others


# ---- verified once, and remembered


@pytest.fixture
def built(changing, tmp_path, monkeypatch):
    """An index whose files are old enough to be remembered, and the number of times that it is read in full."""
    from simclr.embed.index import files

    path = tmp_path / "v.faiss"
    build_index(changing(300).store, path, WISH)
    monkeypatch.setattr("simclr.sources.cache._CLOCK_NS", 0)
    time.sleep(0.05)
    reads = []
    whole = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: (reads.append(path.name), whole(path))[1])
    return path, reads


def test_an_index_is_read_in_full_once(built):
    path, reads = built
    for _ in range(3):
        load_index(path)
    assert reads == ["v.faiss"]


def test_checking_reads_it_in_full_always(built):
    path, reads = built
    for _ in range(3):
        describe(path, remembered=False)
    assert reads == ["v.faiss"] * 3


def test_a_byte_changed_after_it_was_verified_is_noticed_though_size_and_time_are_set_back(built):
    path, _ = built
    load_index(path)
    before = path.stat()
    time.sleep(0.05)
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="damaged or replaced"):
        load_index(path)


def test_a_file_changed_a_moment_ago_is_not_remembered(built, monkeypatch):
    path, reads = built
    monkeypatch.setattr("simclr.sources.cache._CLOCK_NS", 2_000_000_000)
    os.utime(path)
    for _ in range(2):
        load_index(path)
    assert reads == ["v.faiss"] * 2


def test_without_a_folder_for_remembering_it_is_read_each_time(built, monkeypatch, tmp_path):
    path, reads = built
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        load_index(path)
    assert reads == ["v.faiss"] * 2


# ---- mapped


@pytest.mark.parametrize("factory", ["IDMap2,Flat", "IVF8,SQ8", "IVF8,RaBitQfs4", "HNSW8,SQ8"])
def test_a_mapped_index_answers_as_one_in_memory_and_goes_on_while_it_is_replaced(
    changing, tmp_path, factory
):
    from simclr.embed.index import nearest

    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, dataclasses.replace(WISH, index_type=factory))
    queries = clustered(9, 3)
    expected = nearest(load_index(path)[0], queries, 10, effort=8)
    mapped, _ = load_index(path, mapped=True)
    made.change(drop=list(range(40)))
    update_index(made.store, path)
    for found, wanted in zip(nearest(mapped, queries, 10, effort=8), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_update_never_changes_a_mapped_index(changing, tmp_path, monkeypatch):
    """FAISS would abort or crash the process."""
    from simclr.embed.index import update

    made, path = changing(300), tmp_path / "v.faiss"
    build_index(made.store, path, WISH)
    asked = []
    load = update.load_index
    monkeypatch.setattr(update, "load_index", lambda *a, **k: (asked.append(k), load(*a, **k))[1])
    made.change(drop=[3])
    update_index(made.store, path)
    assert asked == [{}]


# ---- sidecars


def test_a_sidecar_of_another_index_is_refused(changing, tmp_path):
    made = changing(300)
    for name in ("a", "b"):
        build_index(made.store, tmp_path / f"{name}.faiss", WISH)
        made.change(drop=[3 if name == "a" else 4])
    sidecar(tmp_path / "a.faiss").write_bytes(sidecar(tmp_path / "b.faiss").read_bytes())
    with pytest.raises(ArtifactError, match=r"its SHA-256 is not the one in a\.faiss\.json"):
        load_index(tmp_path / "a.faiss")


def test_a_sidecar_that_tells_another_width_is_refused(changing, tmp_path):
    path = tmp_path / "v.faiss"
    dataclasses.replace(build_index(changing(300).store, path, WISH), width=31).save(sidecar(path))
    with pytest.raises(ArtifactError, match=r"its vectors have 32 numbers, 31 by v\.faiss\.json"):
        load_index(path)


def test_an_update_builds_an_index_of_another_encoder_anew(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    info = build_index(made.store, path, WISH)
    dataclasses.replace(info, identity="foreign").save(sidecar(path))
    assert update_index(made.store, path).identity == info.identity


def test_entries_of_another_index_are_not_believed(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    info = build_index(made.store, path, WISH)
    entries_file(path).write_bytes(entries_file(path).read_bytes()[:-1] + b"x")
    assert load_entries(path, info) is None


def test_what_an_index_holds_is_what_its_entries_say(changing, tmp_path):
    made, path = changing(300), tmp_path / "v.faiss"
    made.change(drop=[3, 150], replace={9: clustered(1, 4)[0]})
    info = build_index(made.store, path, WISH)
    assert load_entries(path, info).ids.tolist() == Lookup(made.store).ids.tolist() == ids_of(path)
