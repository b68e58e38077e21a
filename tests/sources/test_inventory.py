"""What an inventory of each kind of source says, against os.stat and the bytes themselves."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tar import write_tar
from test_zips import write_zip

from simclr.errors import ConfigError, ImageError
from simclr.sources import Inventory, Patterns, locate, openable, read_place, remote, take_inventory, walk


class Told:
    """What an inventory said on its way."""

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []

    def take(self, word: object, *, patterns: Patterns = Patterns(), follow_links: bool = False) -> Inventory:  # noqa: B008
        return take_inventory(
            str(word),
            patterns=patterns,
            follow_links=follow_links,
            skip=self.skipped.__setitem__,
            note=self.notes.append,
        )


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b.png", "a/z.jpg", "a/b/c.png", "a.png", "ä.webp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 3)
    return root


ORDER = ["a/b/c.png", "a/z.jpg", "a.png", "b.png", "ä.webp"]


def read_all(taken: Inventory) -> dict[str, bytes]:
    """By place, which must be the one found again by name."""
    for i, name in enumerate(taken.names):
        assert locate(taken.kind, taken.root, name) == taken.place(i)
    return {name: read_place(taken.place(i)) for i, name in enumerate(taken.names)}


# ---- folders


def test_a_folder_gives_names_in_order_with_size_and_time(tree: Path, told: Told) -> None:
    taken = told.take(tree)
    assert (taken.kind, taken.root, list(taken.names)) == ("folder", str(tree), ORDER)
    assert taken.sizes.tolist() == [(tree / name).stat().st_size for name in ORDER]
    assert taken.stamps.tolist() == [(tree / name).stat().st_mtime_ns for name in ORDER]
    assert read_all(taken) == {name: name.encode() * 3 for name in ORDER}
    assert (told.skipped, told.notes) == ({}, [])
    assert openable("folder", taken.root, "a/z.jpg") == str(tree / "a" / "z.jpg")


def test_a_folder_has_the_same_root_by_whatever_way(
    tree: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.parent / "way").symlink_to(tree)
    monkeypatch.chdir(tree.parent)
    words = ("tree", "./tree/", "way", f"file://{tree}", "tree/../way")
    assert {told.take(word).root for word in words} == {str(tree)}


def test_a_change_shows_in_size_or_stamp_and_only_there(tree: Path, told: Told) -> None:
    before = told.take(tree)
    (tree / "b.png").write_bytes(b"longer than before")
    os.utime(tree / "a.png", ns=(1, 1))
    after = told.take(tree)
    assert [
        before.names[i]
        for i in range(5)
        if (before.sizes[i], before.stamps[i]) != (after.sizes[i], after.stamps[i])
    ] == ["a.png", "b.png"]


def test_an_inventory_travels_to_other_processes(tree: Path, told: Told) -> None:
    taken = pickle.loads(pickle.dumps(told.take(tree)))
    assert read_all(taken)["a.png"] == b"a.png" * 3
    assert taken.gone("x.png")


def test_left_out_files_are_told_with_the_reason(tree: Path, told: Told) -> None:
    (tree / ".h.png").write_bytes(b"")
    (tree / "zz.txt").write_bytes(b"hello")
    assert list(told.take(tree).names) == ORDER
    assert told.skipped == {".h.png": "hidden", "zz.txt": "not an image of a known format"}


def test_a_folder_without_images_is_an_error_that_tells_what_was_skipped(tmp_path: Path, told: Told) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"d: no image found in it or below"):
        told.take(tmp_path / "d")
    assert told.skipped == {"a.txt": "not an image of a known format"}


def test_links_to_folders_are_followed_only_where_asked(tree: Path, tmp_path: Path, told: Told) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.png").write_bytes(b"o")
    (tree / "link").symlink_to(outside)
    (tree / "twice").symlink_to(outside)
    assert list(told.take(tree).names) == ORDER
    assert told.skipped == {"link": "link to a folder", "twice": "link to a folder"}
    told.skipped.clear()
    taken = told.take(tree, follow_links=True)
    assert list(taken.names) == [*ORDER[:4], "link/o.png", "twice/o.png", "ä.webp"]
    assert told.skipped == {}


def test_links_that_lead_back_are_skipped(tree: Path, told: Told) -> None:
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "b" / "self").symlink_to(".")
    (tree / "a" / "b" / "a").symlink_to("..")
    (tree / "side").symlink_to("a/b")
    taken = told.take(tree, follow_links=True)
    assert list(taken.names) == [*ORDER[:4], "side/a/z.jpg", "side/c.png", "ä.webp"]
    assert told.skipped == {
        "a/up": "link that leads back to .",
        "a/b/self": "link that leads back to a/b",
        "a/b/a": "link that leads back to a",
        "side/self": "link that leads back to side",
        "side/a/b": "link that leads back to side",
        "side/a/up": "link that leads back to .",
    }


def test_folders_deeper_than_the_stack_of_python_are_walked(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth = 1200
    monkeypatch.chdir(tmp_path)  # the test goes elsewhere, and is brought back
    (tmp_path / "d").mkdir()
    here = os.open(tmp_path / "d", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=here)
        here, before = os.open("a", os.O_RDONLY, dir_fd=here), here
        os.close(before)
    os.close(os.open("x.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        assert list(told.take(tmp_path / "d").names) == ["a/" * depth + "x.png"]
    finally:  # pytest would remove it with a function that calls itself
        os.chdir(tmp_path / "d")
        for _ in range(depth - 1):
            os.rename("a/a", "b")
            os.rmdir("a")
            os.rename("b", "a")


def test_excluded_folders_are_not_walked_into(
    tree: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = walk._enter

    def enter(folder: str, prefix: str, follow: bool) -> object:
        looked.append(prefix)
        return real(folder, prefix, follow)

    monkeypatch.setattr(walk, "_enter", enter)
    taken = told.take(tree, patterns=Patterns(exclude=("a/b", "*.webp")))
    assert list(taken.names) == ["a/z.jpg", "a.png", "b.png"]
    assert looked == ["", "a/"]
    assert told.skipped == {}
    assert told.notes == [f"{tree}: 1 files and 1 folders left out by the patterns"]
    assert taken.gone("a/b/c.png") and taken.gone("ä.webp")


def test_patterns_that_leave_nothing_are_an_error(tree: Path, told: Told) -> None:
    with pytest.raises(ImageError, match=r"the patterns leave no image in it. Mend --include or --exclude.$"):
        told.take(tree, patterns=Patterns(include=("*.gif",)))


def test_what_the_system_refuses_is_out_of_sight_and_not_gone(
    tree: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, stat = os.scandir, os.stat

    def refuses(path: str) -> object:
        if path.endswith("a/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def refuses_one(path: str, **how: bool) -> os.stat_result:
        if str(path).endswith("/b.png"):
            raise OSError(5, "Input/output error")
        return stat(path, **how)

    with monkeypatch.context() as within:
        within.setattr(walk.os, "scandir", refuses)
        within.setattr(walk.os, "stat", refuses_one)
        taken = told.take(tree)
    assert list(taken.names) == ["a/z.jpg", "a.png", "ä.webp"]
    assert told.skipped == {
        "a/b": "folder cannot be listed: Permission denied",
        "b.png": "cannot be read: Input/output error",
    }
    assert [name for name in ("a/b/c.png", "a/b/d/e.png", "b.png") if taken.gone(name)] == []
    assert [name for name in ("a/bc.png", "a/b2/c.png", "xb.png") if not taken.gone(name)] == []


# ---- lists


def test_a_list_gives_what_it_names_as_it_names_it(tree: Path, tmp_path: Path, told: Told) -> None:
    url = "memory://inventory/u.png"
    fsspec.filesystem("memory").pipe_file("/inventory/u.png", b"u")
    (tmp_path / "some.txt").write_text(
        f"tree/b.png\n{tree}/a.png\ngone.png\ntree\n{url}\ntree/b.png/x.png\nbell\x07.png\n"
    )
    taken = told.take(tmp_path / "some.txt")
    assert (taken.kind, taken.root) == ("list", str(tmp_path / "some.txt"))
    assert list(taken.names) == ["tree/b.png", f"{tree}/a.png", url]
    assert taken.sizes.tolist() == [15, 15, -1]
    stat = (tree / "b.png").stat()
    assert (taken.stamps[0], taken.stamps[2]) == (stat.st_mtime_ns, 0)
    assert told.skipped == {
        "gone.png": "cannot be read: No such file or directory",
        "tree": "not a regular file",
        "tree/b.png/x.png": "cannot be read: Not a directory",
        "bell\x07.png": "its name holds control characters or is not UTF-8; rename it",
    }
    assert read_all(taken) == {"tree/b.png": b"b.png" * 3, f"{tree}/a.png": b"a.png" * 3, url: b"u"}
    assert taken.gone("gone.png") and taken.gone("never.png")
    assert openable("list", taken.root, "tree/b.png") == str(tree / "b.png")
    assert openable("list", taken.root, url) == url


def test_a_list_of_nothing_that_is_there_is_an_error(tmp_path: Path, told: Told) -> None:
    (tmp_path / "some.txt").write_text("gone.png\n")
    with pytest.raises(ImageError, match=r"some.txt: none of the files it names can be found. Mend its"):
        told.take(tmp_path / "some.txt")


@pytest.mark.parametrize("word", ["q.parquet", "q*.parquet", "{q,r}.parquet", "q.parquet#path"])
def test_parquet_files_of_paths_are_a_list(tree: Path, told: Told, word: str) -> None:
    for name in ("q", "r"):
        pq.write_table(pa.table({"path": ["b.png", "a/z.jpg"]}), tree / f"{name}.parquet")
    taken = told.take(tree / word)
    assert (taken.kind, taken.root) == ("list", str(tree / word.partition("#")[0]))
    assert read_all(taken) == {"b.png": b"b.png" * 3, "a/z.jpg": b"a/z.jpg" * 3}


def test_a_folder_of_parquet_files_of_paths_is_what_they_are_relative_to(
    tree: Path, tmp_path: Path, told: Told
) -> None:
    (tmp_path / "meta" / "x").mkdir(parents=True)
    pq.write_table(pa.table({"path": ["../tree/b.png"]}), tmp_path / "meta" / "x" / "q.parquet")
    taken = told.take(tmp_path / "meta")
    assert (taken.kind, taken.root) == ("list", str(tmp_path / "meta"))
    assert read_all(taken) == {"../tree/b.png": b"b.png" * 3}


# ---- tar, zip and Parquet files

MEMBERS = {"x/1.png": b"one" * 40, "2.jpg": b"two"}


def write_parquet(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [*members.values()]}), path)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "tar": write_tar,
    "zip": write_zip,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("form", ["", "{p,q}/0.", "*/0.", "far", "far folder"])
def test_packed_images_are_named_by_file_and_member_from_the_root(
    tmp_path: Path, told: Told, kind: str, form: str
) -> None:
    root = tmp_path / "set"
    files = [WRITERS[kind](root / folder / f"0.{kind}", MEMBERS) for folder in ("p", "q")]
    word, where = f"{root}/{form}{kind if form else ''}", str(root)
    if "far" in form:
        for file in files:
            fsspec.filesystem("memory").pipe_file(
                f"/far-{kind}/{file.parent.name}/{file.name}", file.read_bytes()
            )
        where = f"memory://far-{kind}"
        word = where if form == "far folder" else f"{where}/{{p,q}}/0.{kind}"
    taken = told.take(word)
    assert (taken.kind, taken.root) == (kind, where)
    inner = ["0", "1"] if kind == "parquet" else [*MEMBERS]
    names = [f"{folder}/0.{kind}/{name}" for folder in "pq" for name in inner]
    assert list(taken.names) == names
    assert taken.sizes.tolist() == [120, 3] * 2
    if "far" not in form:
        assert taken.stamps.tolist() == [file.stat().st_mtime_ns for file in files for _ in MEMBERS]
    else:
        assert len(set(taken.stamps.tolist())) == 2 and min(taken.stamps) > 0
    assert read_all(taken) == dict(zip(names, [*MEMBERS.values()] * 2, strict=True))
    assert openable(kind, taken.root, names[0]) == f"{where}/{names[0]}"
    assert [line for line in told.skipped if "parquet" not in line] == []


@pytest.mark.parametrize("kind", WRITERS)
def test_images_of_a_file_that_was_not_named_are_not_gone(tmp_path: Path, told: Told, kind: str) -> None:
    for name in "ab":
        WRITERS[kind](tmp_path / f"{name}.{kind}", MEMBERS)
    taken = told.take(tmp_path / f"a.{kind}")
    assert taken.gone(f"a.{kind}/old.png")
    assert not taken.gone(f"b.{kind}/x/1.png")
    assert taken.gone(f"c.{kind}/x/1.png")


def test_images_behind_damage_in_a_tar_are_out_of_sight(tmp_path: Path, told: Told) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": b"a", "b.png": b"b"})
    path.write_bytes(path.read_bytes()[: 512 * 2 + 100])
    taken = told.take(path)
    assert list(taken.names) == ["a.tar/a.png"]
    assert not taken.gone("a.tar/b.png")
    assert told.notes == ["a.tar: ends early; its first 1 images are used"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_patterns_choose_members_and_close_whole_files(tmp_path: Path, told: Told, kind: str) -> None:
    for name in "ab":
        WRITERS[kind](tmp_path / "d" / f"{name}.{kind}", MEMBERS)
    (tmp_path / "d" / f"b.{kind}").write_bytes(b"not opened")
    taken = told.take(tmp_path / "d", patterns=Patterns(("*.png",), ("b.*",)))
    assert read_all(taken) == {f"a.{kind}/x/1.png": MEMBERS["x/1.png"]}
    assert taken.sizes.tolist() == [120]
    assert taken.gone(f"b.{kind}/2.jpg")
    with pytest.raises(ImageError, match=r"the patterns leave no image in it"):
        told.take(tmp_path / "d" / f"a.{kind}", patterns=Patterns(("*.gif",)))


def test_a_named_column_is_part_of_the_names(tmp_path: Path, told: Told) -> None:
    pq.write_table(pa.table({"image": [b"i"], "depth": [b"d"]}), tmp_path / "a.parquet")
    taken = told.take(f"{tmp_path}/a.parquet#depth")
    assert read_all(taken) == {"a.parquet#depth/0": b"d"}
    assert taken.gone("a.parquet#depth/9") and not taken.gone("a.parquet/0")
    assert read_all(told.take(tmp_path / "a.parquet")) == {"a.parquet/0": b"i"}


def test_an_image_that_is_no_longer_there_says_so_without_a_path(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "b.zip").write_bytes(b"damaged")
    for name, words in (
        ("a.zip/3.png", "no longer in its zip file"),
        ("b.zip/3.png", "its zip file cannot be read"),
        ("c.zip/3.png", "its zip file is no longer there"),
    ):
        with pytest.raises(ImageError) as error:
            locate("zip", str(tmp_path), name)
        assert str(error.value) == words


def test_a_zip_in_the_name_of_a_member_does_not_mislead(tmp_path: Path, told: Told) -> None:
    write_zip(tmp_path / "a.zip", {"b.zip/c.png": b"c"})
    assert read_all(told.take(tmp_path / "a.zip")) == {"a.zip/b.zip/c.png": b"c"}


# ---- remote folders


@pytest.fixture
def far(tree: Path) -> str:
    memory = fsspec.filesystem("memory")
    if memory.exists("/far"):
        memory.rm("/far", recursive=True)
    for name in [*ORDER, ".h.png", "a/@eaDir/t.jpg", "zz.txt"]:
        memory.pipe_file(f"/far/photos/{name}", name.encode() * 3)
    return "memory://far/photos"


def test_a_remote_folder_is_listed_as_a_local_one_by_suffix(far: str, told: Told) -> None:
    taken = told.take(far)
    assert (taken.kind, taken.root, list(taken.names)) == ("folder", far, ORDER)
    assert taken.sizes.tolist() == [len(name.encode()) * 3 for name in ORDER]
    assert read_all(taken) == {name: name.encode() * 3 for name in ORDER}
    assert told.skipped == {
        ".h.png": "hidden",
        "a/@eaDir": "not part of the collection",
        "zz.txt": "not an image by its suffix",
    }
    assert openable("folder", far, "a.png") == f"{far}/a.png"


def test_the_stamp_of_a_remote_file_changes_with_it(far: str, told: Told) -> None:
    before = told.take(far + "/").stamps
    assert (before > 0).all() and len(set(before.tolist())) == 5
    fsspec.filesystem("memory").pipe_file("/far/photos/b.png", b"b.png" * 3)
    assert (told.take(far).stamps != before).tolist() == [False, False, False, True, False]


def test_a_stamp_is_zero_only_where_a_server_tells_nothing() -> None:
    assert remote.stamp({"name": "a", "type": "file", "size": None}) == 0
    one = remote.stamp({"ETag": '"x"', "size": 3})
    assert 0 < one < 2**63
    assert one == remote.stamp({"size": 3, "ETag": '"x"', "name": "elsewhere"})
    assert one != remote.stamp({"ETag": '"y"', "size": 3})


def test_excluded_remote_folders_are_not_listed(
    far: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    real = remote.entries
    monkeypatch.setattr(remote, "entries", lambda url: listed.append(url) or real(url))
    taken = told.take(far, patterns=Patterns(("*.png",), ("b",)))
    assert list(taken.names) == ["a.png", "b.png"]
    assert listed == [far, f"{far}/a"]


def test_a_remote_folder_that_cannot_be_listed_is_out_of_sight(
    far: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote.entries

    def entries(url: str) -> list[remote.Entry]:
        if url.endswith("/a/b"):
            raise ImageError("refused")
        return real(url)

    monkeypatch.setattr(remote, "entries", entries)
    taken = told.take(far)
    assert list(taken.names) == ORDER[1:]
    assert told.skipped["a/b"] == "folder cannot be listed: refused"
    assert not taken.gone("a/b/c.png") and taken.gone("a/c.png")


def test_a_remote_folder_of_nothing_is_an_error(told: Told) -> None:
    fsspec.filesystem("memory").pipe_file("/empty/readme.txt", b"hello")
    with pytest.raises(ConfigError, match=r"^memory://empty: neither tar, zip, Parquet nor a list"):
        told.take("memory://empty")
    with pytest.raises(ImageError, match=r"^memory://nowhere/at/all: no such file. Mend its name.$"):
        told.take("memory://nowhere/at/all")


# ---- what is no source


def test_one_image_is_no_source(tree: Path, told: Told) -> None:
    with pytest.raises(ConfigError, match=r"a.png: one image, or several. Give their folder, or a list"):
        told.take(tree / "a.png")


def test_nothing_there_is_an_error(tmp_path: Path, told: Told) -> None:
    with pytest.raises(ImageError, match=r"gone: no such folder. Give a folder of images.$"):
        told.take(tmp_path / "gone")
