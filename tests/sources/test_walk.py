import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from simclr.errors import ImageError
from simclr.sources import Found, Skipped, list_images, read, scan, walk


def picture(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, kind)
    return path


def reasons(root: Path) -> dict[str, str]:
    return {entry.path: entry.reason for entry in scan(root) if isinstance(entry, Skipped)}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def too_long(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_images_are_listed_depth_first_with_names_in_code_point_order(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/b/c.png", "B.png", "ä.png", "a.png", "10.png", "9.png"):
        picture(tmp_path / name)
    expected = ["10.png", "9.png", "B.png", "a/b/c.png", "a/z.png", "a.png", "b.png", "ä.png"]
    assert list_images(tmp_path) == expected


def test_the_order_is_not_that_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)

    @contextmanager
    def backwards(folder: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    scandir = os.scandir
    monkeypatch.setattr(walk.os, "scandir", backwards)
    assert list_images(tmp_path) == ["a.png", "b.png", "c.png"]


def test_a_found_file_carries_its_size_and_time(tmp_path: Path) -> None:
    stat = picture(tmp_path / "a.png").stat()
    assert list(scan(tmp_path)) == [Found("a.png", stat.st_size, stat.st_mtime_ns)]


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    picture(tmp_path / ".a.png")
    picture(tmp_path / ".cache" / "a.png")
    assert reasons(tmp_path) == {".a.png": "hidden", ".cache": "hidden"}


@pytest.mark.parametrize("name", ["@eaDir/a.png", "__MACOSX/a.png", "Thumbs.db", "desktop.ini"])
def test_litter_is_skipped(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name)
    assert reasons(tmp_path) == {name.split("/")[0]: "not part of the collection"}


def test_a_suffix_counts_in_any_case(tmp_path: Path) -> None:
    picture(tmp_path / "A.JPeG", "JPEG")
    assert list_images(tmp_path) == ["A.JPeG"]


@pytest.mark.parametrize("name", ["noname", "a.dat", "a.txt", "a.jpg.bak"])
def test_an_image_without_an_images_suffix_is_found_by_its_content(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name)
    assert list_images(tmp_path) == [name]


@pytest.mark.parametrize("content", [b"hello", b""])
def test_a_text_file_is_skipped_with_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    assert reasons(tmp_path) == {"notes.txt": "not an image of a known format"}


def test_a_damaged_file_with_an_images_suffix_is_listed_for_decoding_to_judge(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert list_images(tmp_path) == ["a.jpg"]


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    picture(tmp_path / "real" / "a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert list_images(tmp_path) == ["real/a.png"]
    assert reasons(tmp_path) == {"linked": "link to a folder"}


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    target = picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "b.png").symlink_to(target)
    assert list_images(tmp_path / "root") == ["b.png"]
    assert read(tmp_path / "root", "b.png") == target.read_bytes()


def test_loops_of_links_end(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "a.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to("self.png")
    with at_most(5):
        assert list_images(tmp_path) == ["a/a.png"]
        assert reasons(tmp_path)["a/up"] == "link to a folder"
        assert reasons(tmp_path)["self.png"].startswith("cannot be read: ")


def test_a_dangling_link_is_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert reasons(tmp_path) == {"a.png": "cannot be read: No such file or directory"}


def test_a_pipe_is_skipped_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b")
    with at_most(5):
        assert reasons(tmp_path) == {"a.png": "not a regular file", "b": "not a regular file"}


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"two\nlines.png", b"bell\x07.png", "line\u2028break.png".encode()]
)
def test_a_name_that_cannot_be_printed_is_skipped_with_a_reason(tmp_path: Path, name: bytes) -> None:
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(picture(tmp_path / "good.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    assert list_images(tmp_path) == ["good.png"]
    assert reasons(tmp_path) == {
        os.fsdecode(name): "its name holds control characters or is not UTF-8; rename it"
    }


@pytest.mark.parametrize(
    "name",
    ["Screenshot 9.41.00\u202fAM.png", "写真\u3000一.png", "👩\u200d👧.png", "e\u0301.png", "a b'\"&.png"],
)
def test_a_name_in_any_script_is_taken(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name)
    assert list_images(tmp_path) == [name]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_skipped_with_a_reason(tmp_path: Path) -> None:
    picture(tmp_path / "closed" / "a.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert reasons(tmp_path) == {"closed": "folder cannot be listed: Permission denied"}
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_a_folder_that_fails_to_list_does_not_end_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "closed" / "a.png")
    picture(tmp_path / "open" / "b.png")

    def fails(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(walk.os, "scandir", fails)
    assert list_images(tmp_path) == ["open/b.png"]
    assert reasons(tmp_path) == {"closed": "folder cannot be listed: Permission denied"}


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=rf"^{tmp_path}/gone: no such folder. Give a folder of images.$"):
        list_images(tmp_path / "gone")


def test_a_file_instead_of_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(ImageError, match=rf"^{path}: not a folder. Give a folder of images.$"):
        list_images(path)


def test_a_folder_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ImageError, match=rf"^{tmp_path}: no image found in it or below"):
        list_images(tmp_path)


def test_a_file_that_vanished_after_listing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^cannot be read: No such file or directory$"):
        read(tmp_path, "a.png")


def test_a_file_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.setattr(walk, "FILE_LIMIT", 10)
    with pytest.raises(ImageError, match=r"^too large: \d+ bytes is above the limit of 10$"):
        read(tmp_path, "a.png")
