"""Every kind of damage to a store is found and named, and mended by doing again no more than it must."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.artifacts import StoreInfo
from simclr.embed import Lane, Report, Store, replaced
from simclr.embed import writer as writer_module
from simclr.embed.check import check_store, repair_store
from simclr.embed.tasks import Task
from simclr.errors import ArtifactError
from simclr.runtime import Encoder


@pytest.fixture
def out(embed, encoder, photos, tmp_path, monkeypatch) -> Path:
    """Three shards of four images."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4)
    monkeypatch.setattr(encoder, "batch", 4)
    embed(photos)
    return tmp_path / "out.store"


@pytest.fixture
def tasks(monkeypatch) -> list[Task]:
    """Those given to a lane."""
    seen: list[Task] = []
    run = Lane.run
    monkeypatch.setattr(
        Lane, "run", lambda self, tasks, known: run(self, (seen.append(t) or t for t in tasks), known)
    )
    return seen


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def contents(out: Path) -> tuple[list, np.ndarray]:
    store = Store.open(out)
    rows = store.rows()
    order = np.argsort([row.id for row in rows])
    vectors = np.concatenate([block for _, block in store.blocks(verify=True)])
    return [rows[i] for i in order], vectors[order]


def faults(out: Path) -> list[str]:
    return [fault.words.removeprefix(f"{out}/") for fault in check_store(out)]


def repair(out: Path, **options: object) -> list[str]:
    return [
        mended.words.removeprefix(f"{out}/")
        for mended in repair_store(out, open_lane=lambda folder: Lane(Encoder.open(folder)), **options)
    ]


def test_a_whole_store_has_no_fault(out):
    assert faults(out) == []
    assert repair(out) == []


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "missing"])
def test_damaged_vectors_are_made_again_from_just_that_shard(out, tasks, number, damage):
    before = contents(out)
    path = out / "img_emb" / f"img_emb_{number:05d}.npy"
    damage(path)
    what = "missing" if damage is Path.unlink else "damaged, its SHA-256 is not the one in the manifest"
    assert faults(out) == [f"img_emb/{path.name}: {what}"]
    assert repair(out) == [f"img_emb/{path.name}: embedded its 4 images again"]
    assert len(tasks) == 4
    assert faults(out) == []
    rows, vectors = contents(out)
    assert rows == before[0]
    np.testing.assert_allclose(vectors, before[1], atol=1e-3)


def test_mending_a_shard_leaves_its_neighbours_alone_though_all_would_fit_in_one(out, tasks, monkeypatch):
    """Merged with a neighbour that is damaged, too, or that the rest of the repair still looks for, it would do harm."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4096)
    before = contents(out)
    for number in (0, 1):
        flip_a_byte(out / "img_emb" / f"img_emb_{number:05d}.npy")
    assert repair(out) == [f"img_emb/img_emb_{n:05d}.npy: embedded its 4 images again" for n in (0, 1)]
    assert (faults(out), len(tasks)) == ([], 8)
    rows, vectors = contents(out)
    assert rows == before[0]
    np.testing.assert_allclose(vectors, before[1], atol=1e-3)


@pytest.mark.parametrize("folder", ["metadata", "spare"])
@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "missing"])
def test_damaged_metadata_come_from_their_copy(out, tasks, folder, damage):
    before = contents(out)
    path = out / folder / "metadata_00001.parquet"
    damage(path)
    assert [fault.split(":")[0] for fault in faults(out)] == [f"{folder}/{path.name}"]
    assert repair(out) == [f"{folder}/{path.name}: restored from its copy"]
    assert (faults(out), tasks) == ([], [])
    rows, vectors = contents(out)
    assert rows == before[0]
    np.testing.assert_array_equal(vectors, before[1])


def test_where_both_copies_are_damaged_the_shard_goes_and_embed_brings_its_images_back(out, embed, photos):
    before = contents(out)
    for folder in ("metadata", "spare"):
        flip_a_byte(out / folder / "metadata_00001.parquet")
    assert len(faults(out)) == 2
    (line,) = repair(out)
    assert line.startswith("shard 1: both copies of its metadata are damaged")
    assert faults(out) == []
    assert [row.id for row in contents(out)[0]] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert embed(photos) == Report(added=4, kept=8)
    rows, _ = contents(out)
    assert sorted(row.image_path for row in rows) == sorted(row.image_path for row in before[0])
    assert [row.id for row in rows][-4:] == [12, 13, 14, 15]  # ids are never given twice


@pytest.mark.parametrize("damage", ["torn", "a digit", "missing", "empty"])
def test_a_damaged_manifest_comes_from_its_copy(out, embed, photos, damage):
    before = contents(out)
    path = out / "manifest.json"
    text = path.read_text()
    if damage == "missing":
        path.unlink()
    else:
        path.write_text({"torn": text[:200], "a digit": text.replace("4", "5", 1), "empty": ""}[damage])
    with pytest.raises(ArtifactError, match=f"simclr store check {out} --repair"):
        Store.open(out)
    with pytest.raises(ArtifactError, match=f"simclr store check {out} --repair"):
        embed(photos)
    assert [fault.split(":")[0] for fault in faults(out)] == ["manifest.json"]
    assert repair(out) == ["manifest.json: restored from its copy"]
    assert path.read_text() == text
    assert faults(out) == []
    assert contents(out)[0] == before[0]


def test_a_damaged_copy_of_the_manifest_is_made_again(out):
    (out / "spare" / "manifest.json").write_text("{")
    assert [fault.split(":")[0] for fault in faults(out)] == ["spare/manifest.json"]
    assert repair(out) == ["spare/manifest.json: restored from its copy"]
    assert faults(out) == []


def test_without_a_manifest_and_its_copy_nothing_can_be_made_out(out):
    for path in (out / "manifest.json", out / "spare" / "manifest.json"):
        path.write_text("{")
    with pytest.raises(ArtifactError, match="Its copy in spare/ is damaged, too: delete the store"):
        faults(out)


def test_a_file_that_no_manifest_lists_is_a_fault_since_others_read_it(out):
    shutil.copy(out / "img_emb" / "img_emb_00000.npy", out / "img_emb" / "img_emb_00009.npy")
    assert faults(out) == [
        "img_emb/img_emb_00009.npy: not in the manifest; a killed run left it, and other tools would read it"
    ]
    repair(out)
    assert faults(out) == []


def test_everything_at_once_is_mended_at_once(out, tasks):
    before = contents(out)
    flip_a_byte(out / "img_emb" / "img_emb_00000.npy")
    (out / "img_emb" / "img_emb_00002.npy").unlink()
    flip_a_byte(out / "metadata" / "metadata_00002.parquet")
    (out / "manifest.json").unlink()
    assert len(faults(out)) == 4
    assert len(repair(out)) == 4
    assert (faults(out), len(tasks)) == ([], 8)
    rows, vectors = contents(out)
    assert rows == before[0]
    np.testing.assert_allclose(vectors, before[1], atol=1e-3)


def test_an_image_that_changed_meanwhile_is_embedded_as_it_is_now(out, photos, embed, encoder):
    path = photos / "cold" / "blue_dark.png"
    Image.new("RGB", (33, 44), "white").save(path)
    flip_a_byte(out / "img_emb" / "img_emb_00000.npy")
    repair(out)
    rows, vectors = contents(out)
    assert (rows[0].image_path, rows[0].width, rows[0].height) == ("cold/blue_dark.png", 33, 44)
    np.testing.assert_allclose(vectors[0], encoder.encode(path)[0], atol=1e-3)
    assert embed(photos) == Report(kept=12)  # read once more, for its time


def test_an_image_that_is_gone_loses_its_row_and_is_named(out, photos):
    (photos / "cold" / "blue_dark.png").unlink()
    flip_a_byte(out / "img_emb" / "img_emb_00000.npy")
    lines = repair(out)
    assert lines[0] == "img_emb/img_emb_00000.npy: embedded its 3 images again"
    assert lines[1] == (
        f"{photos}/cold/blue_dark.png: cannot be read: No such file or directory; its row is dropped"
    )
    assert [row.id for row in contents(out)[0]] == list(range(1, 12))


def test_a_damaged_model_comes_from_the_export_it_is_a_copy_of(out, model, other_model):
    flip_a_byte(out / "model" / "encoder.onnx")
    assert [fault.split(":")[0] for fault in faults(out)] == ["model/encoder.onnx"]
    for options in ({}, {"model": other_model}):
        with pytest.raises(ArtifactError, match="Give the export folder that it is a copy of with --model"):
            repair(out, **options)
    assert repair(out, model=model) == [f"model/encoder.onnx: copied from {model}"]
    assert faults(out) == []


def test_a_store_that_is_being_written_is_not_mended_meanwhile(out):
    flip_a_byte(out / "img_emb" / "img_emb_00000.npy")
    with writer_module.writing(out), pytest.raises(ArtifactError, match="another `simclr embed`"):
        repair(out)


def test_what_is_no_store_is_not_checked(tmp_path):
    with pytest.raises(ArtifactError, match="no store there"):
        faults(tmp_path)


def test_a_reader_finishes_what_it_began_whatever_a_writer_replaces(out, embed, photos):
    store = Store.open(out)
    before = store.rows()
    blocks = store.blocks(verify=True)
    next(blocks)
    for path in photos.rglob("*.png"):
        Image.new("RGB", (9, 9), "white").save(path)
    report = embed(photos)
    assert report.changed == 12
    assert StoreInfo.load(out / "manifest.json").generation > store.info.generation
    assert sum(len(vectors) for _, vectors in blocks) == 8
    assert store.rows() == before


def test_what_was_replaced_goes_after_a_while(out, embed, photos, monkeypatch):
    (photos / "cold" / "blue_dark.png").unlink()
    embed(photos)
    assert [path.name for path in sorted((out / "replaced").iterdir())] == [
        "img_emb_00000.npy",
        "metadata_00000.parquet",
    ]
    monkeypatch.setattr(replaced, "REPLACED_SECONDS", -1.0)
    embed(photos)
    assert list((out / "replaced").iterdir()) == []


@pytest.mark.parametrize("at", range(1, 14))
def test_a_disk_that_is_full_at_any_moment_leaves_a_whole_store(out, embed, photos, monkeypatch, at):
    """The n-th file that a commit puts in its place cannot be written."""
    before = contents(out)
    Image.new("RGB", (30, 30), "white").save(photos / "a.png")
    (photos / "cold" / "blue_dark.png").unlink()
    import os

    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) == at:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr("simclr.artifacts.atomic.os.replace", full)
    try:
        report = embed(photos)
        failed = False
    except OSError:
        failed = True
    monkeypatch.undo()
    assert failed == (len(calls) >= at)
    assert faults(out) == []
    now = contents(out)[0]
    if failed:
        paths = {row.image_path for row in now}
        assert {row.image_path for row in before[0]} - {"cold/blue_dark.png"} <= paths
        embed(photos)
    else:
        assert report.added == 1
    assert [row.id for row in contents(out)[0]] == list(range(1, 13))
    assert faults(out) == []


def test_plain_readers_see_the_repaired_store(out):
    """Without simclr: numpy and pyarrow, as clip-retrieval and embedding-reader do."""
    flip_a_byte(out / "img_emb" / "img_emb_00001.npy")
    repair(out)
    script = f"""
import glob
import numpy as np
import pyarrow.parquet as pq
vectors = [np.load(path) for path in sorted(glob.glob({str(out / "img_emb")!r} + "/*.npy"))]
tables = [pq.read_table(path) for path in sorted(glob.glob({str(out / "metadata")!r} + "/*.parquet"))]
assert [len(a) for a in vectors] == [len(a) for a in tables] == [4, 4, 4]
print(*sorted(path for table in tables for path in table["image_path"].to_pylist()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(row.image_path for row in Store.open(out).rows())


def test_a_kill_between_manifest_and_copy_costs_neither_rows_nor_ids(out, embed, photos, monkeypatch):
    """The copy may be one commit ahead or, found by the next writer, is made what the manifest is."""
    save, saved = StoreInfo.save, []

    class Killed(BaseException):
        pass

    def dies_at_the_second(self, path):
        saved.append(path)
        if len(saved) == 2:
            raise Killed
        save(self, path)

    Image.new("RGB", (30, 30), "white").save(photos / "a.png")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StoreInfo, "save", dies_at_the_second)
        patch.setattr(writer_module.StoreWriter, "clean", lambda self: None)  # a real kill cleans nothing
        embed(photos)
    (out / "manifest.json").write_text("{")
    assert repair(out)[0] == "manifest.json: restored from its copy"
    assert faults(out) == []
    assert embed(photos) == Report(kept=13)
    assert sorted(row.id for row in contents(out)[0]) == list(range(13))


def test_the_next_writer_makes_the_copy_what_the_manifest_is(out, embed, photos):
    old = (out / "spare" / "manifest.json").read_text()
    (photos / "cold" / "blue_dark.png").unlink()
    embed(photos)
    (out / "spare" / "manifest.json").write_text(old)
    embed(photos)
    assert (out / "spare" / "manifest.json").read_text() == (out / "manifest.json").read_text()


def test_a_shard_whose_images_are_out_of_reach_stays_as_it_is(out, embed, photos, tmp_path):
    before = contents(out)[0]
    photos.rename(tmp_path / "away")
    flip_a_byte(out / "img_emb" / "img_emb_00000.npy")
    for _ in range(2):
        (line,) = repair(out)
        assert line.startswith("shard 0: 4 of its 4 images are out of reach, such as ")
        assert len(faults(out)) == 1
        photos.mkdir(exist_ok=True)  # as a mount point is, without its disk
        (photos / "cold").mkdir(exist_ok=True)
    (photos / "cold").rmdir()
    photos.rmdir()
    (tmp_path / "away").rename(photos)
    assert repair(out) == ["img_emb/img_emb_00000.npy: embedded its 4 images again"]
    assert contents(out)[0] == before


def test_a_file_that_the_system_cannot_read_is_a_fault_like_any_other(out):
    path = out / "img_emb" / "img_emb_00001.npy"
    path.unlink()
    path.mkdir()
    assert [fault.split(":")[0] for fault in faults(out)] == ["img_emb/img_emb_00001.npy"]
    assert repair(out) == ["img_emb/img_emb_00001.npy: embedded its 4 images again"]


@pytest.mark.parametrize("change", ["cut", "another recipe"])
def test_a_damaged_manifest_of_the_model_comes_from_the_export(out, model, other_model, change):
    path = out / "model" / "manifest.json"
    text = path.read_text()
    path.write_text(text[:100] if change == "cut" else text.replace('"crop": 1.0', '"crop": 0.5'))
    assert path.read_text() != text
    assert [fault.split(":")[0] for fault in faults(out)] == ["model/manifest.json"]
    for options in ({}, {"model": other_model}):
        with pytest.raises(ArtifactError, match="with --model"):
            repair(out, **options)
    assert repair(out, model=model) == [f"model/manifest.json: copied from {model}"]
    assert faults(out) == []


def test_a_store_that_lost_its_empty_folders_and_got_strange_ones_works(out, embed, photos):
    """As tools that copy and NAS boxes leave it."""
    shutil.rmtree(out / "replaced")
    (out / "img_emb" / "@eaDir").mkdir()
    (photos / "cold" / "blue_dark.png").unlink()
    Image.new("RGB", (30, 30), "white").save(photos / "a.png")
    assert embed(photos) == Report(added=1, kept=11, dropped=1)
    assert [row.id for row in contents(out)[0]] == list(range(1, 13))


def test_a_store_is_not_called_damaged_while_it_is_written(out):
    with writer_module.writing(out), pytest.raises(ArtifactError, match=r"is writing to it\. Check it when"):
        faults(out)


def test_what_was_replaced_never_takes_more_room_than_the_store(out, embed, photos, monkeypatch):
    monkeypatch.setattr(replaced, "_REPLACED_BYTES", 600)
    for number in range(5):
        (photos / "cold").rename(photos / f"cold{number}")
        embed(photos)
        (photos / f"cold{number}").rename(photos / "cold")
        embed(photos)
        assert sum(path.stat().st_size for path in (out / "replaced").iterdir()) <= 600
