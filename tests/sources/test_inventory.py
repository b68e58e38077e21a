"""What embedding learns of a source: names, sizes, stamps, and places from which the very bytes come."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tar import write_tar

from simclr.errors import ConfigError, ImageError
from simclr.sources import ALL, Inventory, Patterns, openable, place_of, read_place, take_inventory


@pytest.fixture
def take() -> Callable[..., Inventory]:
    """An inventory; what is skipped goes into `take.skipped`, notes into `take.notes`."""

    def take(word: object, **options: object) -> Inventory:
        options = {"patterns": ALL} | options
        return take_inventory(
            str(word),
            skip=lambda path, reason: take.skipped.append((path, reason)),
            note=take.notes.append,
            **options,
        )

    take.skipped, take.notes = [], []
    return take


def read_all(inventory: Inventory) -> dict[str, bytes]:
    return {name: read_place(inventory.place(i)) for i, name in enumerate(inventory.names)}


def fill(folder: Path, blobs: dict[str, bytes]) -> Path:
    for name, data in blobs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, blobs: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in blobs.items():
            opened.writestr(name, data)
    return path


TREE = {"b/2.jpg": b"two", "b/1.jpg": b"one", "a.jpg": b"", "b/c/3.png": b"three"}


# ---- folders


def test_a_folder_gives_names_in_order_with_size_and_time(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    inventory = take(root)
    assert list(inventory.names) == ["a.jpg", "b/1.jpg", "b/2.jpg", "b/c/3.png"]
    assert inventory.sizes.tolist() == [0, 3, 3, 5]
    assert inventory.stamps.tolist() == [(root / name).stat().st_mtime_ns for name in inventory.names]
    assert (inventory.kind, inventory.root) == ("folder", str(root))
    assert read_all(inventory) == {name: TREE[name] for name in inventory.names}


def test_a_folder_named_by_a_link_has_the_root_of_the_folder(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    (tmp_path / "link").symlink_to(root)
    assert take(tmp_path / "link").root == str(root)


def test_what_is_skipped_is_told_with_its_reason(take, tmp_path):
    root = fill(tmp_path / "photos", TREE | {".hidden.jpg": b"x", "note.txt": b"no image"})
    os.symlink(root / "b", root / "loop")
    take(root)
    assert take.skipped == [
        (".hidden.jpg", "hidden"),
        ("loop", "link to a folder"),
        ("note.txt", "not an image of a known format"),
    ]


def test_links_to_folders_are_followed_where_asked_but_not_in_circles(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    other = fill(tmp_path / "other", {"x.jpg": b"x"})
    (root / "b" / "up").symlink_to(root)
    (root / "elsewhere").symlink_to(other)
    (other / "back").symlink_to(root / "b")
    inventory = take(root, follow_links=True)
    assert list(inventory.names) == [
        "a.jpg",
        "b/1.jpg",
        "b/2.jpg",
        "b/c/3.png",
        "elsewhere/back/1.jpg",
        "elsewhere/back/2.jpg",
        "elsewhere/back/c/3.png",
        "elsewhere/x.jpg",
    ]
    reason = "link to a folder that it lies in"
    assert take.skipped == [("b/up", reason), ("elsewhere/back/up", reason)]


def test_patterns_choose_and_say_how_much_they_leave_out(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    inventory = take(root, patterns=Patterns(("*.jpg",), ("b/1.*",)))
    assert list(inventory.names) == ["a.jpg", "b/2.jpg"]
    assert read_all(inventory) == {"a.jpg": b"", "b/2.jpg": b"two"}
    assert take.notes == [f"{root}: 2 files and folders left out by --include and --exclude"]
    assert take.skipped == []


def test_an_excluded_folder_is_not_even_listed(take, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", TREE)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    take(root, patterns=Patterns(exclude=("b",)))
    assert listed == [str(root)]


def test_patterns_that_leave_nothing_are_an_error(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    with pytest.raises(ImageError, match="leave no image of it"):
        take(root, patterns=Patterns(("*.gif",)))


def test_a_file_below_a_folder_that_cannot_be_listed_is_not_gone(take, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", TREE)
    scandir = os.scandir

    def fails(path):
        if str(path).endswith("/b"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    inventory = take(root)
    assert [inventory.gone(name) for name in ("b/1.jpg", "b/c/3.png", "bb/1.jpg", "z.jpg")] == [
        False,
        False,
        True,
        True,
    ]


# ---- lists


def test_a_list_gives_the_files_that_are_there(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    list_ = tmp_path / "some.txt"
    list_.write_text(f"# remark\nphotos/b/1.jpg\n{root}/a.jpg\nphotos/none.jpg\n")
    inventory = take(list_)
    assert (inventory.kind, inventory.root) == ("list", str(list_))
    assert read_all(inventory) == {"photos/b/1.jpg": b"one", f"{root}/a.jpg": b""}
    assert inventory.sizes.tolist() == [3, 0]
    assert take.skipped == [("photos/none.jpg", "cannot be read: No such file or directory")]
    assert inventory.gone("photos/none.jpg") and inventory.gone("photos/b/2.jpg")


def test_a_list_of_urls_asks_no_server(take, tmp_path):
    list_ = tmp_path / "some.txt"
    list_.write_text("http://127.0.0.1:9/a.jpg\n")
    inventory = take(list_)
    assert (inventory.sizes.tolist(), inventory.stamps.tolist()) == ([-1], [0])
    assert inventory.place(0).file == "http://127.0.0.1:9/a.jpg"


def test_a_list_whose_files_are_all_missing_says_where_it_looked(take, tmp_path):
    (tmp_path / "some.txt").write_text("a.jpg\n")
    with pytest.raises(ImageError, match=rf"Names are relative to {tmp_path}\.$"):
        take(tmp_path / "some.txt")


# ---- larger files


def test_tars_zips_and_parquet_files_give_the_bytes_of_the_folder(take, tmp_path, blobs):
    halves = dict(list(blobs.items())[:20]), dict(list(blobs.items())[20:])
    for i, half in enumerate(halves):
        write_tar(tmp_path / "t" / f"{i}.tar", half)
        write_zip(tmp_path / "z" / f"{i}.zip", half)
        table = pa.table({"image": [{"bytes": data, "path": name} for name, data in half.items()]})
        (tmp_path / "p").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "p" / f"{i}.parquet")
    for kind, folder in (("tar", "t"), ("zip", "z"), ("parquet", "p")):
        inventory = take(tmp_path / folder)
        assert (inventory.kind, inventory.root) == (kind, str(tmp_path / folder))
        assert list(read_all(inventory).values()) == list(blobs.values())
        assert inventory.sizes.tolist() == [len(data) for data in blobs.values()]
        file = tmp_path / folder / f"1.{kind}"
        assert set(inventory.stamps[20:].tolist()) == {file.stat().st_mtime_ns}
    assert list(take(tmp_path / "t").names)[20] == f"1.tar/{list(blobs)[20]}"


def test_names_in_shards_do_not_depend_on_how_the_shards_were_named(take, tmp_path, blobs):
    for i in range(3):
        write_tar(tmp_path / "t" / f"{i}.tar", dict(list(blobs.items())[i : i + 1]))
    words = ["t", "t/*.tar", "t/{0..2}.tar", "t/1.tar"]
    found = [take(tmp_path / word) for word in words]
    assert {inventory.root for inventory in found} == {str(tmp_path / "t")}
    assert [list(inventory.names) for inventory in found[:3]] == [
        [f"{i}.tar/000{i}.jpg" for i in range(3)]
    ] * 3
    assert list(found[3].names) == ["1.tar/0001.jpg"]


def test_images_of_a_shard_that_was_not_named_are_not_gone_unless_the_shard_is(take, tmp_path, blobs):
    for i in range(3):
        write_tar(tmp_path / "t" / f"{i}.tar", dict(list(blobs.items())[i : i + 1]))
    inventory = take(tmp_path / "t" / "{0,1}.tar")
    names = ("0.tar/other.jpg", "2.tar/0002.jpg", "3.tar/0003.jpg")
    assert [inventory.gone(name) for name in names] == [True, False, True]


def test_images_of_a_shard_that_ends_early_are_not_gone(take, tmp_path, blobs):
    path = tmp_path / "t" / "0.tar"
    write_tar(path, blobs)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not take(path).gone("0.tar/0039.jpg")


def test_patterns_choose_in_larger_files_too(take, tmp_path, blobs):
    write_tar(tmp_path / "0.tar", blobs)
    inventory = take(tmp_path / "0.tar", patterns=Patterns(("000[13].jpg",)))
    assert read_all(inventory) == {f"0.tar/{name}": blobs[name] for name in ("0001.jpg", "0003.jpg")}
    assert inventory.sizes.tolist() == [len(blobs["0001.jpg"]), len(blobs["0003.jpg"])]


def test_parquet_files_of_paths_are_a_list(take, tmp_path):
    root = fill(tmp_path / "photos", TREE)
    pq.write_table(pa.table({"path": ["b/1.jpg", "b/2.jpg"]}), root / "some.parquet")
    inventory = take(root / "some.parquet")
    assert (inventory.kind, inventory.root) == ("list", str(root / "some.parquet"))
    assert read_all(inventory) == {"b/1.jpg": b"one", "b/2.jpg": b"two"}


# ---- URLs


@pytest.fixture
def bucket():
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    for name, data in (TREE | {".hidden/x.jpg": b"x", "b/notes.txt": b"no"}).items():
        memory.pipe_file(f"/bucket/{name}", data)
    yield memory
    memory.rm("/bucket", recursive=True)


def test_a_remote_folder_of_images_is_an_inventory(take, bucket):
    inventory = take("memory://bucket")
    assert (inventory.kind, inventory.root) == ("folder", "memory://bucket")
    assert list(inventory.names) == ["a.jpg", "b/1.jpg", "b/2.jpg", "b/c/3.png"]
    assert read_all(inventory) == {name: TREE[name] for name in inventory.names}
    assert inventory.sizes.tolist() == [0, 3, 3, 5]
    assert take.skipped == [(".hidden", "hidden"), ("b/notes.txt", "not an image by its suffix")]


def test_the_stamp_of_a_remote_file_changes_with_it(take, bucket):
    before = take("memory://bucket").stamps.tolist()
    assert take("memory://bucket").stamps.tolist() == before
    bucket.pipe_file("/bucket/b/1.jpg", b"new")
    after = take("memory://bucket").stamps.tolist()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True]


# ---- finding an image again


def test_an_openable_path_leads_back_to_the_bytes(take, tmp_path, blobs, bucket):
    fill(tmp_path / "photos", TREE)
    (tmp_path / "some.txt").write_text("photos/b/1.jpg\n")
    write_tar(tmp_path / "t" / "x.tar", blobs)
    write_zip(tmp_path / "z" / "in" / "x.zip", blobs)
    pq.write_table(pa.table({"other": ["no"] * 2, "image": [b"first", b"second"]}), tmp_path / "p.parquet")
    words = [tmp_path / word for word in ("photos", "some.txt", "t", "z", "p.parquet", "p.parquet#image")]
    for word in [*words, "memory://bucket"]:
        inventory = take(word)
        for name, data in read_all(inventory).items():
            path = openable(inventory.kind, inventory.root, name)
            assert read_place(place_of(path)) == data, path
    assert openable("tar", "/data", "a/x.tar/b/1.jpg") == "/data/a/x.tar/b/1.jpg"


def test_an_image_that_is_no_longer_in_its_tar_says_so(tmp_path, blobs):
    write_tar(tmp_path / "x.tar", blobs)
    with pytest.raises(ImageError, match=rf"^cannot be read: no longer in {tmp_path}/x.tar$"):
        place_of(f"{tmp_path}/x.tar/none.jpg")


@pytest.mark.parametrize(
    ("word", "kind"), [("none", ImageError), ("a.jpg", ConfigError), ("a.tar.gz", ConfigError)]
)
def test_what_is_no_source_is_refused(take, tmp_path, word, kind):
    fill(tmp_path, {"a.jpg": b"x", "a.tar.gz": b"x"})
    with pytest.raises(kind, match=str(tmp_path / word)):
        take(tmp_path / word)
