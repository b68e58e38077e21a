"""The fast listing names what the slow walk names, in its order, also when it remembers."""

import os
import random
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from simclr.errors import ImageError
from simclr.sources import cache, list_images, listing
from simclr.sources.listing import image_names
from simclr.sources.names import Names

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own that keeps the smallest listing, and a clock by which all files are old."""
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "_WORTH_KEEPING", 0)
    monkeypatch.setattr(cache, "_CLOCK_NS", -1)
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Every kind of entry that the rules speak of."""
    root = tmp_path / "tree"
    for path in (
        "b.png",
        "a/z.png",
        "a/b/c.PNG",
        "a.png",
        "ä/ö.jpg",
        "a b/1.jpg",
        "a/.hidden.png",
        "@eaDir/x.png",
        ".git/x.png",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    (root / "a" / "no_suffix").write_bytes(PNG)
    (root / "a" / "notes.txt").write_bytes(b"hello")
    (root / "empty").mkdir()
    (root / "to_file.png").symlink_to(root / "b.png")
    (root / "to_nothing.png").symlink_to(root / "gone.png")
    (root / "to_folder").symlink_to(root / "a")
    os.mkfifo(root / "pipe.png")
    return root


def names(root: Path) -> list[str]:
    return list(image_names(root, note=pytest.fail))


def no_scandir(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed from here on."""
    listed: list[str] = []
    scandir = os.scandir

    def noted(folder: str) -> object:
        listed.append(os.path.basename(folder.rstrip("/")))
        return scandir(folder)

    monkeypatch.setattr("simclr.sources.listing.os.scandir", noted)
    return listed


def test_the_listing_is_that_of_the_walk(tree: Path) -> None:
    assert names(tree) == list_images(tree)
    assert len(names(tree)) == 8


def test_a_second_start_lists_no_folder_and_gives_the_same(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = names(tree)
    listed = no_scandir(monkeypatch)
    assert names(tree) == first
    assert listed == []


def test_only_changed_folders_are_listed_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(tree)
    (tree / "a" / "b" / "new.png").write_bytes(b"")
    (tree / "ä" / "ö.jpg").unlink()
    listed = no_scandir(monkeypatch)
    found = names(tree)
    assert listed == ["b", "ä"]
    monkeypatch.undo()
    assert found == list_images(tree)


def test_any_change_shows_at_the_next_start(tree: Path) -> None:
    """Two hundred random changes, against the slow walk after each."""
    rng = random.Random(0)
    for i in range(200):
        folder = tree / rng.choice(["", "a", "a/b", "ä", f"new{i % 7}/deep"])
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
        match rng.randrange(6):
            case 0 | 1:
                (folder / f"{i}{rng.choice(['.jpg', '', '.txt'])}").write_bytes(rng.choice([PNG, b"text"]))
            case 2:
                rng.choice(files).unlink()
            case 3:
                rng.choice(files).write_bytes(rng.choice([PNG + b"more", b"other text"]))
            case 4:
                (folder / f"link{i}").symlink_to(rng.choice(files))
            case 5:
                shutil.rmtree(tree / f"new{i % 7}", ignore_errors=True)
        assert names(tree) == list_images(tree)


@pytest.mark.parametrize("content", [b"hello!!!", PNG])
def test_a_file_of_no_images_suffix_is_looked_at_again_when_it_changes(tree: Path, content: bytes) -> None:
    """Its folder does not change then; here its size and its mtime stay, too."""
    path = tree / "a" / "notes.txt"
    path.write_bytes(b"hello..." if content == PNG else PNG)
    stat = path.stat()
    names(tree)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ("a/notes.txt" in names(tree)) == (content == PNG)


def test_a_folder_whose_mtime_was_set_back_is_listed_again(tree: Path) -> None:
    stat = (tree / "a").stat()
    names(tree)
    (tree / "a" / "new.png").write_bytes(b"")
    os.utime(tree / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "a/new.png" in names(tree)


def test_a_link_whose_target_became_an_image_is_seen(tree: Path) -> None:
    names(tree)
    (tree.parent / "tree" / "gone.png").write_bytes(b"")
    assert "to_nothing.png" in names(tree)


def test_a_folder_that_changed_within_two_seconds_of_the_listing_is_not_trusted(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may not show a further change."""
    monkeypatch.setattr(cache, "_CLOCK_NS", 2_000_000_000)
    changed = (tree / "ä").stat().st_ctime_ns
    for later, trusted in ((1_990_000_000, False), (60_000_000_000, True)):
        monkeypatch.setattr(cache, "time", SimpleNamespace(time_ns=lambda later=later: changed + later))
        names(tree)
        with monkeypatch.context() as patch:
            listed = no_scandir(patch)
            names(tree)
            assert ("ä" not in listed) == trusted


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_cache_is_made_again(tree: Path, kept: Path, damage: bytes | None) -> None:
    names(tree)
    (file,) = (kept / "listings").iterdir()
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert names(tree) == list_images(tree)


def test_a_cache_that_cannot_be_written_is_noted(tree: Path, kept: Path) -> None:
    kept.write_bytes(b"a file, no folder")
    notes: list[str] = []
    assert list(image_names(tree, note=notes.append)) == list_images(tree)
    assert notes == [
        f"{kept}: the listing cannot be kept there (Not a directory), and is made again at the next start. Set SIMCLR_CACHE "
        "to a folder that can be written."
    ]


def test_a_small_folder_leaves_nothing_in_the_cache(
    tree: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_WORTH_KEEPING", 100)
    names(tree)
    assert not kept.exists()


def test_a_flat_folder_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "flat"
    root.mkdir()
    Image.new("RGB", (1, 1)).save(root / "a.png")
    assert names(root) == ["a.png"]
    listed = no_scandir(monkeypatch)
    assert names(root) == ["a.png"]
    assert listed == []
    (root / "b.png").write_bytes(b"")
    assert names(root) == ["a.png", "b.png"]


def test_an_empty_folder_has_no_names(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert names(tmp_path / "none") == []
    (tmp_path / "none" / "a.png").write_bytes(b"")
    assert names(tmp_path / "none") == ["a.png"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such folder. Give a folder of images.$"):
        names(tmp_path / "gone")


def test_listing_asks_nothing_of_files_with_an_images_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "many"
    for i in range(300):
        (root / str(i % 3)).mkdir(parents=True, exist_ok=True)
        (root / str(i % 3) / f"{i}.jpg").write_bytes(b"")
    asked: list[str] = []
    monkeypatch.setattr(listing, "stamp_of", lambda path: asked.append(path) or cache.stamp_of(path))
    monkeypatch.setattr(listing, "_judge", pytest.fail)
    assert len(names(root)) == 300
    assert len(asked) == 4


@pytest.mark.parametrize("some", [[], [""], ["a"], ["a", "", "ä", "a/b", ""], ["two\nlines", "x"]])
def test_names_give_back_what_was_put_in(some: list[str]) -> None:
    packed = Names.of(some)
    assert list(packed) == some
    assert len(packed) == len(some)
    with pytest.raises(IndexError):
        packed[len(some)]


def test_names_of_lines_are_names_of_their_list() -> None:
    assert list(Names.of_lines("ä\nb\nc".encode())) == ["ä", "b", "c"]
    assert list(Names.of_lines(b"")) == []


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() != tmp_path / "simclr"
    monkeypatch.delenv("SIMCLR_CACHE")
    assert cache.cache_folder() == tmp_path / "simclr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "simclr"


@pytest.mark.parametrize(("silent", "said"), [(0.0, 1), (60.0, 0)])
def test_a_second_process_waits_for_the_first_and_says_so_if_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: float, said: int
) -> None:
    monkeypatch.setattr(cache, "_SILENT", silent)
    notes: list[str] = []
    child = os.fork()
    if child == 0:
        with cache.filling("x", note=lambda line: None):
            (tmp_path / "held").touch()
            time.sleep(0.5)
            (tmp_path / "filled").touch()
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with cache.filling("x", note=notes.append):
        assert (tmp_path / "filled").exists()
    os.waitpid(child, 0)
    assert notes == ["x: another process is reading it first; waiting"] * said
