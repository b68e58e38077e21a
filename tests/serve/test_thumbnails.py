"""Small pictures are kept within a number of bytes; those that were asked for longest ago go."""

import os
import time

from simclr.serve.thumbnails import Thumbnails


def files(folder):
    return sorted(path.stem for path in folder.rglob("*") if path.is_file())


def test_what_was_put_is_got(tmp_path):
    kept = Thumbnails(tmp_path, most=1000)
    assert kept.get("abc") is None
    kept.put("abc", b"picture")
    assert kept.get("abc") == b"picture" and files(tmp_path) == ["abc"]


def test_the_oldest_go_when_there_are_too_many_bytes(tmp_path):
    kept = Thumbnails(tmp_path, most=1000)
    for number in range(10):
        kept.put(f"key{number}", bytes(100))
        os.utime(tmp_path / "ke" / f"key{number}.jpg", (number, number))
    kept.put("key10", bytes(100))
    assert files(tmp_path) == sorted(f"key{number}" for number in range(2, 11))


def test_what_is_asked_for_stays(tmp_path):
    kept = Thumbnails(tmp_path, most=1000)
    for number in range(10):
        kept.put(f"key{number}", bytes(100))
        os.utime(tmp_path / "ke" / f"key{number}.jpg", (number, number))
    kept.get("key0")
    kept.put("key10", bytes(100))
    assert "key0" in files(tmp_path) and "key1" not in files(tmp_path)


def test_what_other_servers_and_earlier_runs_left_counts(tmp_path):
    Thumbnails(tmp_path, most=10_000).put("old", bytes(900))
    os.utime(tmp_path / "ol" / "old.jpg", (1, 1))
    kept = Thumbnails(tmp_path, most=1000)
    kept.put("new", bytes(200))
    assert files(tmp_path) == ["new"]


def test_an_empty_file_that_a_power_cut_left_is_made_again(tmp_path):
    kept = Thumbnails(tmp_path, most=1000)
    kept.put("abc", b"picture")
    (tmp_path / "ab" / "abc.jpg").write_bytes(b"")
    assert kept.get("abc") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    Thumbnails(tmp_path / "file", most=1000).put("abc", b"picture")


def test_asking_again_soon_writes_nothing(tmp_path):
    kept = Thumbnails(tmp_path, most=1000)
    kept.put("abc", b"picture")
    path = tmp_path / "ab" / "abc.jpg"
    lately = time.time() - 100
    os.utime(path, (lately, lately))
    kept.get("abc")
    assert abs(path.stat().st_mtime - lately) < 1
