"""Files are known by their bytes: what is moved, copied or touched is not embedded again."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.embed import Lane, Report, Store, embed_sources
from simclr.embed import carry_out as carry_out_module
from simclr.embed import writer as writer_module
from simclr.embed.known import Contents, prefix, prefixes
from simclr.embed.survey import Selection
from simclr.embed.tasks import Task
from simclr.errors import ConfigError, ImageError


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out.store"


@pytest.fixture
def tasks(monkeypatch) -> list[Task]:
    """Those that reach the model."""
    seen: list[Task] = []
    run = Lane.run

    def counting(self, tasks, known):
        for done in run(self, tasks, known):
            seen.extend(done.images)
            yield done

    monkeypatch.setattr(Lane, "run", counting)
    return seen


def rows(out: Path) -> dict[str, int]:
    return {row.image_path: row.id for row in Store.open(out).rows()}


def stored(out: Path) -> dict[str, bytes]:
    store = Store.open(out)
    vectors = np.concatenate([block for _, block in store.blocks(verify=True)])
    return {row.image_path: vector.tobytes() for row, vector in zip(store.rows(), vectors, strict=True)}


def touch(path: Path) -> None:
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))


def test_a_moved_file_keeps_id_and_vector(embed, photos, out, tasks):
    embed(photos)
    before, vectors, count = rows(out), stored(out), len(tasks)
    (photos / "cold" / "blue_dark.png").rename(photos / "warm" / "was_blue.png")
    assert embed(photos) == Report(moved=1, kept=11)
    assert len(tasks) == count
    before["warm/was_blue.png"] = before.pop("cold/blue_dark.png")
    vectors["warm/was_blue.png"] = vectors.pop("cold/blue_dark.png")
    assert (rows(out), stored(out)) == (before, vectors)


def test_a_whole_folder_is_moved_without_embedding_an_image(embed, photos, out, tasks):
    embed(photos)
    before, count = rows(out), len(tasks)
    (photos / "warm").rename(photos / "hot")
    assert embed(photos) == Report(moved=6, kept=6)
    assert len(tasks) == count
    assert rows(out) == {path.replace("warm/", "hot/"): id for path, id in before.items()}


def test_a_copy_gets_an_id_of_its_own_and_the_vector_it_is_a_copy_of(embed, photos, out, tasks):
    embed(photos)
    count = len(tasks)
    shutil.copyfile(photos / "cold" / "blue_dark.png", photos / "copy.png")
    assert embed(photos) == Report(copied=1, kept=12)
    assert len(tasks) == count
    assert rows(out)["copy.png"] == 12
    vectors = stored(out)
    assert vectors["copy.png"] == vectors["cold/blue_dark.png"]


def test_of_two_new_paths_of_a_lost_file_one_is_it_and_the_other_a_copy(embed, photos, out):
    embed(photos)
    id = rows(out)["cold/blue_dark.png"]
    shutil.copyfile(photos / "cold" / "blue_dark.png", photos / "a.png")
    (photos / "cold" / "blue_dark.png").rename(photos / "b.png")
    assert embed(photos) == Report(moved=1, copied=1, kept=11)
    assert sorted((rows(out)["a.png"], rows(out)["b.png"])) == [id, 12]


def test_copies_within_one_run_are_embedded_once(embed, encoder, photos, out, tasks, monkeypatch):
    monkeypatch.setattr(encoder, "batch", 2)
    monkeypatch.setattr("simclr.embed.lane.AHEAD", 1)
    for number in range(5):
        shutil.copyfile(photos / "cold" / "blue_dark.png", photos / f"z{number}.png")
    assert embed(photos) == Report(added=12, copied=5)
    assert len(tasks) == 12
    vectors = stored(out)
    assert {vectors[f"z{number}.png"] for number in range(5)} == {vectors["cold/blue_dark.png"]}


def test_a_touched_file_is_read_once_and_then_unchanged(embed, photos, out, tasks):
    embed(photos)
    before, count = (rows(out), stored(out)), len(tasks)
    touch(photos / "cold" / "blue_dark.png")
    assert embed(photos) == Report(kept=12)
    assert (rows(out), stored(out)) == before
    generation = Store.open(out).info.generation
    assert embed(photos) == Report(kept=12)
    assert Store.open(out).info.generation == generation
    assert len(tasks) == count


def test_two_files_that_change_places_change_vectors_and_keep_ids(embed, photos, out, tasks):
    embed(photos)
    before, vectors, count = rows(out), stored(out), len(tasks)
    a, b = photos / "cold" / "blue_dark.png", photos / "warm" / "red_dark.png"
    a.rename(photos / "x")
    b.rename(a)
    (photos / "x").rename(b)
    touch(a)
    touch(b)
    assert embed(photos) == Report(changed=2, kept=10)
    assert len(tasks) == count
    assert rows(out) == before
    assert stored(out)["cold/blue_dark.png"] == vectors["warm/red_dark.png"]
    assert stored(out)["warm/red_dark.png"] == vectors["cold/blue_dark.png"]


def test_a_moved_root_is_followed_where_the_old_one_is_forgotten(embed, photos, out, tasks):
    embed(photos)
    before, count = rows(out), len(tasks)
    elsewhere = photos.rename(photos.parent / "elsewhere")
    assert embed(elsewhere, selection=Selection(forget=(str(photos),))) == Report(moved=12)
    assert len(tasks) == count
    assert rows(out) == before
    assert {Store.open(out).path(row) for row in Store.open(out).rows()} == {
        str(elsewhere / path) for path in before
    }


def test_a_forgotten_source_is_dropped(embed, photos, out):
    embed(photos / "warm", photos / "cold")
    assert embed(photos / "warm", selection=Selection(forget=(str(photos / "cold"),))) == Report(
        kept=6, dropped=6
    )
    with pytest.raises(ConfigError, match="not among the store's sources"):
        embed(photos / "warm", selection=Selection(forget=("nowhere",)))


def test_a_folder_gives_way_to_the_one_that_it_lies_in(embed, photos, out, tasks):
    embed(photos / "warm")
    before, count = set(rows(out).values()), len(tasks)
    assert embed(photos, selection=Selection(forget=(str(photos / "warm"),))) == Report(moved=6, added=6)
    assert len(tasks) == count + 6
    assert before <= set(rows(out).values())


def test_a_source_cannot_be_embedded_and_forgotten_at_once(embed, photos, out):
    embed(photos)
    with pytest.raises(ConfigError, match="is to be embedded and forgotten"):
        embed(photos, selection=Selection(forget=(str(photos),)))
    assert len(rows(out)) == 12


def test_another_content_with_the_same_64_bits_is_embedded(embed, photos, out, monkeypatch):
    """All contents seem known, none is: each is looked at again, and found to be its own."""
    monkeypatch.setattr("simclr.embed.lane.prefix", lambda digest: 7)
    monkeypatch.setattr("simclr.embed.known.prefix", lambda digest: 7)
    monkeypatch.setattr(carry_out_module, "prefix", lambda digest: 7)
    embed(photos / "warm")
    monkeypatch.setattr("simclr.embed.plan.prefixes", lambda hashes: np.full(len(hashes), 7, np.uint64))
    assert embed(photos / "warm", photos / "cold") == Report(added=6, kept=6)
    assert len(set(stored(out).values())) == 12


def test_prefixes_are_those_of_the_digests():
    import pyarrow as pa

    digests = [bytes(range(i, i + 32)) for i in range(5)]
    table = pa.table({"h": [digest.hex() for digest in digests]})
    assert prefixes(table["h"]).tolist() == [prefix(digest) for digest in digests]
    assert prefixes(table["h"].slice(0, 0)).tolist() == []


def test_contents_find_every_id_of_a_hash():
    rng = np.random.default_rng(0)
    contents = Contents(np.empty(0, np.uint64), np.empty(0, np.int64))
    slow: dict[int, list[int]] = {}
    for part in range(70):
        hashes = rng.integers(0, 50, 9).astype(np.uint64)
        ids = np.arange(9 * part, 9 * part + 9)
        contents.add(hashes, ids)
        for hash, id in zip(hashes.tolist(), ids.tolist(), strict=True):
            slow.setdefault(hash, []).append(id)
    for hash in range(50):
        digest = hash.to_bytes(8, "big") + bytes(24)
        assert sorted(contents.ids(digest)) == slow.get(hash, [])
    assert sorted(contents.all().tolist()) == sorted(h for h, ids in slow.items() for _ in ids)


def test_a_stop_in_the_middle_of_moves_loses_and_doubles_nothing(embed, encoder, photos, out, monkeypatch):
    embed(photos)
    before = rows(out)
    monkeypatch.setattr(encoder, "batch", 1)
    monkeypatch.setattr("simclr.embed.lane.AHEAD", 1)
    monkeypatch.setattr(carry_out_module, "SHARD_SECONDS", 0.0)
    (photos / "warm").rename(photos / "hot")

    class Killed(BaseException):
        pass

    def die(done, total, words):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        embed(photos, progress=die)
    assert set(rows(out).values()) == set(before.values())
    embed(photos)
    assert rows(out) == {path.replace("warm/", "hot/"): id for path, id in before.items()}


@pytest.mark.parametrize("size", [1, 3, 5])
def test_look_up_gives_the_rows_that_are_there(embed, encoder, photos, out, monkeypatch, size):
    monkeypatch.setattr(writer_module, "SHARD_ROWS", size)
    monkeypatch.setattr(encoder, "batch", size)
    embed(photos)
    vectors = stored(out)
    with writer_module.writing(out) as writer:
        found = list(writer.look_up(np.array([11, 3, 99, 4])))
        assert sorted(row.id for row, _ in found) == [3, 4, 11]
        for row, vector in found:
            unit = vector / np.linalg.norm(vector)
            np.testing.assert_allclose(unit, np.frombuffer(vectors[row.image_path], np.float32), atol=1e-7)


def test_a_tar_whose_time_changed_is_read_but_not_embedded_again(embed, photos, tmp_path, out, tasks):
    import tarfile

    path = tmp_path / "shards" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for group in ("cold", "warm"):
            tar.add(photos / group, arcname=group)
    assert embed(path) == Report(added=12)
    touch(path)
    assert embed(path.parent) == Report(kept=12)
    assert len(tasks) == 12
    store = Store.open(out)
    assert store.path(store.rows()[0]) == f"{path}/cold/blue_dark.png"
    assert store.read(store.rows()[0]) == (photos / "cold" / "blue_dark.png").read_bytes()


def test_a_folder_and_a_tar_of_it_share_vectors(embed, photos, tmp_path, tasks):
    import tarfile

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.add(photos, arcname=".")
    first = embed(photos, tmp_path / "0.tar")
    assert first.added + first.copied == 24  # how many depends on the batches
    count = len(tasks)
    Image.new("RGB", (5, 5)).save(photos / "new.png")
    assert embed(photos, tmp_path / "0.tar") == Report(added=1, kept=24)
    assert len(tasks) == count + 1


def test_patterns_decide_what_belongs_to_the_store(embed, photos, out):
    assert embed(photos, selection=Selection(include=("*_dark.png",))) == Report(added=6)
    assert embed(photos, selection=Selection(exclude=("warm",))) == Report(added=3, kept=3, dropped=3)
    assert set(rows(out)) == {path.relative_to(photos).as_posix() for path in (photos / "cold").iterdir()}


def test_embedding_a_source_that_is_named_in_two_ways_is_refused(embed, photos, tmp_path, model, encoder):
    (tmp_path / "a.txt").write_text("photos/cold/blue_dark.png\n")
    with pytest.raises(ConfigError, match="the same source twice"):
        embed_sources(
            [tmp_path / "a.txt", tmp_path / "." / "a.txt"],
            tmp_path / "o.store",
            Lane(encoder),
            model=encoder.folder,
        )
    assert not (tmp_path / "o.store").exists()


def test_a_file_that_cannot_be_read_for_now_keeps_its_row(embed, photos, out, monkeypatch):
    """A disk or a server that answers no more; its time has changed, so it is looked into."""
    embed(photos)
    before = rows(out)
    touch(photos / "cold" / "blue_dark.png")

    def fails(place):
        raise ImageError("cannot be read: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("simclr.embed.lane.read_place", fails)
        assert embed(photos) == Report(kept=12, skipped=1, reasons={"cannot be read": 1})
    assert rows(out) == before
    assert embed(photos) == Report(kept=12)


def test_a_bug_in_one_file_is_that_files_reason(embed, photos, monkeypatch):
    def fails(place):
        raise MemoryError

    monkeypatch.setattr("simclr.embed.lane.read_place", fails)
    assert embed(photos) == Report(skipped=12, reasons={"cannot be decoded": 12})


def test_a_picture_that_is_there_a_thousand_times_is_looked_up_a_few_times(embed, photos, out, monkeypatch):
    for number in range(300):
        shutil.copyfile(photos / "cold" / "blue_dark.png", photos / f"a{number:03d}.png")
    embed(photos)
    looked: list[int] = []
    look_up = writer_module.StoreWriter.look_up
    monkeypatch.setattr(
        writer_module.StoreWriter, "look_up", lambda self, ids: looked.extend(ids) or look_up(self, ids)
    )
    for number in range(300):
        shutil.copyfile(photos / "cold" / "blue_dark.png", photos / f"b{number:03d}.png")
    assert embed(photos) == Report(copied=300, kept=312)
    assert len(looked) <= 4
    (photos / "b000.png").rename(photos / "c.png")
    assert embed(photos) == Report(moved=1, kept=611)


def test_several_tars_of_one_folder_are_one_word(embed, photos, tmp_path):
    import tarfile

    for name in ("0.tar", "1.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(photos / "cold", arcname="cold")
    with pytest.raises(ConfigError, match="put quotes around braces and globs"):
        embed(tmp_path / "0.tar", tmp_path / "1.tar")


def test_a_picture_beside_the_shards_does_not_make_them_a_folder_of_one_image(embed, photos, tmp_path):
    import tarfile

    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        tar.add(photos / "cold", arcname="cold")
    assert embed(folder).added == 6
    shutil.copyfile(photos / "warm" / "red_dark.png", folder / "preview.png")
    with pytest.raises(
        ConfigError, match=r"now it holds an image beside them. Name which: '.*/shards/\*\.tar'"
    ):
        embed(folder)
    assert embed(folder / "*.tar") == Report(kept=6)


def test_a_source_given_up_for_good_does_not_stand_in_the_way_of_its_parent(embed, photos, out):
    embed(photos / "warm")
    embed(photos / "cold", selection=Selection(forget=(str(photos / "warm"),)))
    assert embed(photos, selection=Selection(forget=(str(photos / "cold"),))) == Report(moved=6, added=6)


def test_a_path_that_is_no_utf_8_is_refused_before_any_work(embed, photos, tmp_path, out):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    photos.rename(odd)
    with pytest.raises(ConfigError, match="its path is not UTF-8"):
        embed(odd)
    assert not out.exists()


def test_a_link_whose_target_is_gone_loses_its_row(embed, photos, tmp_path, out):
    target = tmp_path / "target.png"
    Image.new("RGB", (9, 9), "white").save(target)
    (photos / "link.png").symlink_to(target)
    assert embed(photos).added == 13
    target.unlink()
    assert embed(photos) == Report(kept=12, dropped=1, skipped=1, reasons={"cannot be read": 1})
