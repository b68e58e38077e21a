"""A store follows its folders exactly, whatever lies in them and whenever it is interrupted."""

import csv
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.artifacts import StoreInfo
from simclr.embed import Lane, Report, Store, embed_sources
from simclr.embed import carry_out as carry_out_module
from simclr.embed import survey as survey_module
from simclr.embed import writer as writer_module
from simclr.embed.writer import StoreWriter
from simclr.errors import ConfigError, EncoderMismatch, ImageError
from simclr.runtime import Encoder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out.store"


def ids_by_path(out: Path) -> dict[str, int]:
    return {row.image_path: row.id for row in Store.open(out).rows()}


def vectors_by_path(out: Path) -> dict[str, np.ndarray]:
    store = Store.open(out)
    vectors = np.concatenate([block for _, block in store.blocks(verify=True)])
    return {row.image_path: vector for row, vector in zip(store.rows(), vectors, strict=True)}


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.parent.name != "replaced"
    }


def on_disk_are_exactly_the_listed_shards(out: Path) -> bool:
    numbers = sorted(shard.number for shard in StoreInfo.load(out / "manifest.json").shards)
    return sorted(os.listdir(out / "img_emb")) == [f"img_emb_{n:05d}.npy" for n in numbers] and sorted(
        os.listdir(out / "metadata")
    ) == [f"metadata_{n:05d}.parquet" for n in numbers]


def skipped(out: Path) -> list[list[str]]:
    with open(out / "skipped.csv", newline="") as file:
        return list(csv.reader(file))


def repaint(path: Path, colour: tuple[int, int, int]) -> None:
    """Another image under the same name, and a time of change that differs on every file system."""
    before = path.stat()
    Image.new("RGB", (20, 60), colour).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))


def spoil(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[:40])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))


# ---- the first run


def test_the_first_run_embeds_every_image(embed, photos, out):
    assert embed(photos) == Report(added=12)
    assert len(Store.open(out)) == 12


def test_the_vectors_are_those_of_the_encoder(embed, encoder, photos, out):
    embed(photos)
    stored = vectors_by_path(out)
    assert len(stored) == 12
    for path, vector in stored.items():
        np.testing.assert_allclose(vector, encoder.encode([photos / path])[0], atol=5e-4)


def test_rows_come_in_the_order_of_their_paths(embed, photos, out):
    embed(photos)
    paths = [row.image_path for row in Store.open(out).rows()]
    assert paths == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))


def test_ids_count_from_zero_in_that_order(embed, photos, out):
    embed(photos)
    assert [row.id for row in Store.open(out).rows()] == list(range(12))


def test_a_row_describes_its_file(embed, photos, out):
    Image.new("RGB", (31, 17), "red").save(photos / "a.png")
    embed(photos)
    row = Store.open(out).rows()[0]
    stat = (photos / "a.png").stat()
    assert (row.image_path, row.source, row.width, row.height) == ("a.png", 0, 31, 17)
    assert (row.size, row.mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def test_copies_of_an_image_have_a_row_each_and_the_same_hash(embed, photos, out):
    (photos / "copy.png").write_bytes((photos / "warm" / "red_dark.png").read_bytes())
    embed(photos)
    rows = {row.image_path: row for row in Store.open(out).rows()}
    assert len(rows) == 13
    assert rows["copy.png"].content_hash == rows["warm/red_dark.png"].content_hash
    assert len({row.content_hash for row in rows.values()}) == 12


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_batch_size_changes_nothing(embed, encoder, photos, out, tmp_path, monkeypatch, batch):
    (photos / "cold" / "bad.png").write_bytes(b"no image")
    embed(photos)
    monkeypatch.setattr(encoder, "batch", batch)
    embed(photos, store=tmp_path / "other.store")
    one, other = Store.open(out), Store.open(tmp_path / "other.store")
    assert other.rows() == one.rows()
    np.testing.assert_allclose(next(other.blocks())[1], next(one.blocks())[1], atol=5e-4)


def test_the_encoder_gets_full_batches_though_files_drop_out(encoder, photos, out, monkeypatch):
    for name in ("a", "blue_dark_2", "green_2"):
        (photos / "cold" / f"{name}.png").write_bytes(b"no image")
    sizes = []

    def counting(self, batches):
        for batch in batches:
            sizes.append(len(batch))
            yield self(batch)

    monkeypatch.setattr(Encoder, "stream", counting)
    monkeypatch.setattr(encoder, "batch", 4)
    embed_sources([photos], out, Lane(encoder), model=encoder.folder)
    assert sizes == [4, 4, 4]


def test_progress_ends_at_all_files_and_tells_how_many_were_skipped(embed, photos):
    (photos / "zero.png").write_bytes(b"")
    calls = []
    embed(photos, progress=lambda *call: calls.append(call))
    done, total, words = calls[-1]
    assert (done, total, words.split(",")[0]) == (13, 13, "1 skipped")


# ---- runs after that


def test_a_second_run_finds_nothing_to_do(embed, photos):
    embed(photos)
    report = embed(photos)
    assert report == Report(kept=12)


def test_a_second_run_changes_no_file(embed, photos, out):
    embed(photos)
    before = contents(out)
    embed(photos)
    assert contents(out) == before


def test_new_changed_and_deleted_files_are_followed(embed, photos, out, encoder):
    embed(photos)
    Image.new("RGB", (30, 30), "white").save(photos / "warm" / "new.png")
    repaint(photos / "cold" / "blue_dark.png", (1, 2, 250))
    (photos / "warm" / "yellow_light.png").unlink()
    report = embed(photos)
    assert report == Report(added=1, changed=1, kept=10, dropped=1)
    stored = vectors_by_path(out)
    assert set(stored) == {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    for path, vector in stored.items():
        np.testing.assert_allclose(vector, encoder.encode([photos / path])[0], atol=5e-4)


def test_a_change_that_keeps_the_number_of_bytes_is_seen_by_its_time(embed, photos, out, encoder):
    path = photos / "a.bmp"
    Image.new("RGB", (20, 60), (200, 10, 10)).save(path)
    embed(photos)
    size = path.stat().st_size
    repaint(path, (10, 10, 200))
    assert path.stat().st_size == size
    assert embed(photos) == Report(changed=1, kept=12)
    np.testing.assert_allclose(vectors_by_path(out)["a.bmp"], encoder.encode([path])[0], atol=5e-4)


def test_ids_stay_with_their_paths(embed, photos, out):
    embed(photos)
    before = ids_by_path(out)
    Image.new("RGB", (30, 30), "white").save(photos / "a.png")
    repaint(photos / "cold" / "blue_dark.png", (1, 2, 250))
    (photos / "warm" / "yellow_light.png").unlink()
    embed(photos)
    del before["warm/yellow_light.png"]
    assert ids_by_path(out) == before | {"a.png": 12}


def test_a_file_that_comes_back_gets_a_new_id(embed, photos, out):
    embed(photos)
    path = photos / "warm" / "yellow_light.png"
    data = path.read_bytes()
    path.unlink()
    embed(photos)
    path.write_bytes(data)
    embed(photos)
    assert ids_by_path(out)["warm/yellow_light.png"] == 12


def test_a_changed_file_appears_once_with_its_new_size(embed, photos, out):
    embed(photos)
    repaint(photos / "cold" / "blue_dark.png", (1, 2, 250))
    embed(photos)
    (row,) = [row for row in Store.open(out).rows() if row.image_path == "cold/blue_dark.png"]
    assert (row.width, row.height) == (20, 60)


def test_after_every_change_the_files_on_disk_are_those_of_the_manifest(embed, photos, out):
    embed(photos)
    repaint(photos / "cold" / "blue_dark.png", (1, 2, 250))
    (photos / "warm" / "yellow_light.png").unlink()
    embed(photos)
    assert on_disk_are_exactly_the_listed_shards(out)


# ---- bad files


@pytest.fixture
def bad_files(photos) -> dict[str, str]:
    """Name -> how the reason begins."""
    (photos / "warm" / "empty.png").write_bytes(b"")
    (photos / "warm" / "text.jpg").write_text("I am no image")
    whole = (photos / "warm" / "red_dark.png").read_bytes()
    (photos / "warm" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "notes.txt").write_text("not even meant to be one")
    return {
        "notes.txt": "not an image of a known format",
        "warm/cut.png": "damaged PNG",
        "warm/empty.png": "empty file",
        "warm/text.jpg": "not an image of a known format",
    }


def test_bad_files_do_not_stop_a_run(embed, photos, bad_files):
    assert embed(photos).added == 12


def test_bad_files_are_listed_with_their_reason(embed, photos, bad_files, out):
    report = embed(photos)
    head, *lines = skipped(out)
    assert head == ["source", "path", "reason"]
    assert len(lines) == report.skipped == len(bad_files)
    lines.sort()
    assert [(source, path) for source, path, _ in lines] == [
        (str(photos), path) for path in sorted(bad_files)
    ]
    for _, path, reason in lines:
        assert reason.startswith(bad_files[path])


def test_bad_files_are_tried_again_and_embedded_once_they_are_good(embed, photos, bad_files, out):
    embed(photos)
    Image.new("RGB", (30, 30), "white").save(photos / "warm" / "cut.png")
    assert embed(photos).added == 1
    assert "warm/cut.png" not in [line[1] for line in skipped(out)]


def test_a_file_that_becomes_unreadable_loses_its_row(embed, photos, out):
    embed(photos)
    spoil(photos / "warm" / "red_dark.png")
    report = embed(photos)
    assert (report.added, report.kept, report.dropped, report.skipped) == (0, 11, 1, 1)
    assert "warm/red_dark.png" not in ids_by_path(out)
    assert on_disk_are_exactly_the_listed_shards(out)


def test_a_file_deleted_while_the_run_goes_on_is_skipped(embed, photos, out, monkeypatch):
    listing = survey_module.take_inventory

    def list_then_delete(word, **keywords):
        inventory = listing(word, **keywords)
        (photos / "cold" / "blue_dark.png").unlink()
        return inventory

    monkeypatch.setattr(survey_module, "take_inventory", list_then_delete)
    report = embed(photos)
    assert (report.added, report.skipped) == (11, 1)
    assert skipped(out)[1:] == [
        [str(photos), "cold/blue_dark.png", "cannot be read: No such file or directory"]
    ]


def test_a_folder_of_bad_images_embeds_nothing_and_says_why(embed, tmp_path, out):
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (bad / name).write_text("no image")
    report = embed(bad)
    assert (report.added, report.kept, report.there) == (0, 0, 0)
    assert [path for _, path, _ in skipped(out)[1:]] == ["a.jpg", "b.jpg"]
    assert len(Store.open(out)) == 0


# ---- folders


@pytest.mark.parametrize("state", ["missing", "empty", "a file"])
def test_a_folder_without_images_is_refused(embed, photos, tmp_path, state):
    folder = tmp_path / "folder"
    if state == "empty":
        folder.mkdir()
    elif state == "a file":
        folder.write_text("x")
    with pytest.raises((ImageError, ConfigError), match=re.escape(str(folder))):
        embed(folder)


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_a_folder_that_lost_its_images_drops_nothing(embed, photos, tmp_path, out, state):
    """A disk that is not mounted looks like this."""
    embed(photos)
    before = contents(out)
    photos.rename(tmp_path / "elsewhere")
    if state == "empty":
        photos.mkdir()
    with pytest.raises(ImageError):
        embed(photos)
    assert contents(out) == before


def test_one_missing_folder_of_two_changes_nothing(embed, photos, tmp_path, out):
    embed(photos)
    before = contents(out)
    (photos / "warm" / "red_dark.png").unlink()
    with pytest.raises(ImageError):
        embed(photos, tmp_path / "missing")
    assert contents(out) == before


def test_two_folders_share_a_store(embed, photos, out):
    assert embed(photos / "warm", photos / "cold").added == 12
    store = Store.open(out)
    assert [source.root for source in store.info.sources] == [str(photos / "warm"), str(photos / "cold")]
    assert all(Path(store.path(row)).exists() for row in store.rows())


def test_the_same_name_in_two_folders_is_two_images(embed, photos, out):
    for group in ("warm", "cold"):
        Image.new("RGB", (9, 9), "white").save(photos / group / "same.png")
    embed(photos / "warm", photos / "cold")
    (photos / "cold" / "same.png").unlink()
    embed(photos / "warm", photos / "cold")
    store = Store.open(out)
    same = [store.path(row) for row in store.rows() if row.image_path == "same.png"]
    assert same == [str(photos / "warm" / "same.png")]


def test_rows_of_folders_that_are_not_named_are_kept(embed, photos, out):
    embed(photos / "warm", photos / "cold")
    (photos / "cold" / "blue_dark.png").unlink()
    (photos / "warm" / "red_dark.png").unlink()
    assert embed(photos / "warm") == Report(kept=5, dropped=1)
    assert "blue_dark.png" in ids_by_path(out)


def test_a_folder_inside_another_is_refused(embed, photos, out):
    with pytest.raises(ConfigError, match=re.escape(f"{photos / 'warm'}: lies in {photos}")):
        embed(photos / "warm", photos)
    assert not out.exists()


def test_the_same_folder_twice_is_refused(embed, photos):
    with pytest.raises(ConfigError, match="Give each folder once"):
        embed(photos, photos / "warm" / "..")


def test_a_folder_named_by_a_link_is_the_folder(embed, photos, tmp_path):
    embed(photos)
    (tmp_path / "link").symlink_to(photos)
    assert embed(tmp_path / "link") == Report(kept=12)


def test_another_encoder_is_refused_and_changes_nothing(embed, photos, other_model, out):
    embed(photos)
    before = contents(out)
    (photos / "warm" / "red_dark.png").unlink()
    other = Encoder.open(other_model)
    with pytest.raises(EncoderMismatch):
        embed_sources([photos], out, Lane(other), model=other.folder)
    assert contents(out) == before


# ---- shards, stops and kills


def rows_of_shards(out: Path) -> list[int]:
    return [shard.rows for shard in Store.open(out).info.shards]


def test_a_shard_closes_at_its_number_of_rows(embed, encoder, photos, out, monkeypatch):
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4)
    monkeypatch.setattr(encoder, "batch", 2)
    Image.new("RGB", (9, 9)).save(photos / "a.png")
    embed(photos)
    assert rows_of_shards(out) == [4, 4, 4, 1]


def test_a_shard_closes_after_its_seconds(embed, encoder, photos, monkeypatch):
    monkeypatch.setattr(carry_out_module, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(encoder, "batch", 5)
    sizes, commit = [], StoreWriter.commit

    def counting(self, rows, vectors, **keywords):
        sizes.append(len(rows))
        commit(self, rows, vectors, **keywords)

    monkeypatch.setattr(StoreWriter, "commit", counting)
    embed(photos)
    assert sizes == [5, 5, 2]


def test_small_shards_are_merged_as_they_come_where_the_first_is_at_most_twice_the_second(
    embed, encoder, photos, out, monkeypatch
):
    monkeypatch.setattr(carry_out_module, "SHARD_SECONDS", 0.0)
    monkeypatch.setattr(encoder, "batch", 5)
    embed(photos)
    assert rows_of_shards(out) == [10, 2]


def test_shards_change_neither_rows_nor_vectors(embed, encoder, photos, out, tmp_path, monkeypatch):
    embed(photos)
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4)
    monkeypatch.setattr(encoder, "batch", 2)
    embed(photos, store=tmp_path / "other.store")
    assert Store.open(tmp_path / "other.store").rows() == Store.open(out).rows()
    other = vectors_by_path(tmp_path / "other.store")
    for path, vector in vectors_by_path(out).items():
        np.testing.assert_allclose(other[path], vector, atol=5e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_request_commits_what_is_done(embed, encoder, photos, out, monkeypatch, number):
    monkeypatch.setattr(encoder, "batch", 2)

    def stop_after_six(done: int, total: int, words: str) -> None:
        if done == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        embed(photos, progress=stop_after_six)
    assert sorted(ids_by_path(out)) == sorted(
        f"cold/{c}_{s}.png" for c in ("blue", "green", "purple") for s in ("dark", "light")
    )


def test_the_run_after_a_stop_embeds_only_the_rest(embed, encoder, photos, out, monkeypatch):
    monkeypatch.setattr(encoder, "batch", 2)
    with pytest.raises(KeyboardInterrupt):
        embed(photos, progress=lambda done, total, words: os.kill(os.getpid(), signal.SIGTERM))
    assert embed(photos) == Report(added=10, kept=2)
    assert sorted(ids_by_path(out).values()) == list(range(12))


def test_signals_do_what_they_did_before_once_the_run_is_over(embed, photos):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    embed(photos)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_encoder_that_fails_leaves_the_finished_shards(embed, encoder, photos, out, monkeypatch):
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 4)
    monkeypatch.setattr(encoder, "batch", 2)

    def failing(self, batches):
        for number, pixels in enumerate(batches):
            if number == 3:
                raise RuntimeError("out of memory")
            yield self(pixels)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Encoder, "stream", failing)
        embed(photos)
    assert rows_of_shards(out) == [4]
    assert embed(photos) == Report(added=8, kept=4)


KILLED_RUN = """
    import os, signal
    from pathlib import Path
    from simclr.embed import Lane, embed_sources, writer
    from simclr.runtime import Encoder

    class DiesAtTheFifthBatch:
        def __init__(self, encoder):
            self.encoder, self.calls = encoder, 0
            self.recipe, self.identity, self.width, self.batch = encoder.recipe, encoder.identity, encoder.width, 2
            self.backend = encoder.backend

        def stream(self, batches):
            for pixels in batches:
                self.calls += 1
                if self.calls == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield self.encoder(pixels)

    writer.SHARD_ROWS = 4
    lane = Lane(DiesAtTheFifthBatch(Encoder.open({model!r})))
    embed_sources([Path({photos!r})], Path({out!r}), lane, model=Path({model!r}))
"""


@pytest.fixture
def killed(model, photos, out) -> Path:
    """A store whose first run died by SIGKILL with two shards of four finished and a batch under way."""
    script = textwrap.dedent(KILLED_RUN.format(model=str(model), photos=str(photos), out=str(out)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return out


def test_a_killed_run_keeps_its_finished_shards(killed, photos, encoder):
    assert rows_of_shards(killed) == [4, 4]
    for path, vector in vectors_by_path(killed).items():
        np.testing.assert_allclose(vector, encoder.encode([photos / path])[0], atol=5e-4)


def test_the_run_after_a_kill_embeds_only_the_rest(killed, embed, photos, tmp_path):
    assert embed(photos) == Report(added=4, kept=8)
    embed(photos, store=tmp_path / "unharmed.store")
    assert Store.open(killed).rows() == Store.open(tmp_path / "unharmed.store").rows()
    assert on_disk_are_exactly_the_listed_shards(killed)


def test_a_kill_while_a_changed_file_is_embedded_keeps_the_old_row(embed, photos, out, monkeypatch):
    embed(photos)
    before = Store.open(out).rows()
    repaint(photos / "cold" / "blue_dark.png", (1, 2, 250))

    class Killed(BaseException):
        pass

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StoreInfo, "save", die)
        embed(photos)
    assert Store.open(out).rows() == before
    assert embed(photos) == replace(Report(), changed=1, kept=11)


def test_rows_below_a_folder_that_cannot_be_listed_are_kept(photos, embed, tmp_path, monkeypatch):
    """An unmounted or broken disk below the root is no reason to drop what was on it."""
    embed(photos)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/warm"):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    report = embed(photos)
    assert (report.kept, report.dropped, len(Store.open(tmp_path / "out.store"))) == (12, 0, 12)
    assert skipped(tmp_path / "out.store")[1:] == [
        [str(photos), "warm", "folder cannot be listed: Input/output error"]
    ]


def test_a_folder_inside_one_that_the_store_has_is_refused(photos, embed, tmp_path):
    embed(photos)
    with pytest.raises(ConfigError, match="lies in"):
        embed(photos / "warm")
    assert len(Store.open(tmp_path / "out.store")) == 12


def test_dropped_counts_files_that_are_gone_and_files_that_became_unreadable(photos, embed, tmp_path):
    embed(photos)
    (photos / "warm/red_light.png").unlink()
    (photos / "cold/blue_light.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    report = embed(photos)
    assert (report.dropped, report.kept, len(Store.open(tmp_path / "out.store"))) == (2, 10, 10)
