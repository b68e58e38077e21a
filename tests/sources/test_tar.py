"""Tar shards: spans against the tarfile module, and what is left out."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from simclr.errors import ConfigError, ImageError
from simclr.sources import Collection, cache, open_collection


def write_tar(path: Path, members: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def opened(source: object) -> Collection:
    return open_collection(str(source), note=pytest.fail)


def read_all(collection: Collection) -> dict[str, bytes]:
    return {name: collection.read(i) for i, name in enumerate(collection.names)}


@pytest.fixture
def shards(tmp_path: Path, blobs: dict[str, bytes]) -> Path:
    """40 images in four shards, each beside its class and caption."""
    for shard in range(4):
        members: dict[str, bytes] = {}
        for name, data in list(blobs.items())[shard * 10 : shard * 10 + 10]:
            members |= {name: data, name.replace(".jpg", ".cls"): b"7", name.replace(".jpg", ".json"): b"{}"}
        write_tar(tmp_path / "shards" / f"{shard:03d}.tar", members)
    return tmp_path / "shards"


@pytest.mark.parametrize(
    "form", ["{000..003}.tar", "*.tar", "{000,001,002,003}.tar", "00{0..1}.tar", "00[23].tar"]
)
def test_images_read_in_any_order_are_those_of_tarfile(shards: Path, form: str) -> None:
    collection = opened(shards / form)
    for i in np.random.default_rng(1).permutation(len(collection.names)).tolist():
        shard, _, member = collection.names[i].partition("/")
        with tarfile.open(shards / shard) as tar:
            stream = tar.extractfile(member)
            assert stream is not None
            assert collection.read(i) == stream.read()
    assert len(collection.names) == (20 if ("1}" in form and ".." in form) or "[" in form else 40)


def test_names_are_shard_and_member_in_the_order_of_the_tar(shards: Path) -> None:
    assert list(opened(shards / "{002..001}.tar").names) == [
        *(f"002.tar/{i:04d}.jpg" for i in range(20, 30)),
        *(f"001.tar/{i:04d}.jpg" for i in range(10, 20)),
    ]


def test_one_tar_is_a_collection(shards: Path) -> None:
    assert opened(shards / "003.tar").names[0] == "003.tar/0030.jpg"


def test_shards_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in "ab":
        write_tar(tmp_path / folder / "0.tar", {"x.png": folder.encode()})
    assert read_all(opened(tmp_path / "{a,b}" / "0.tar")) == {"a/0.tar/x.png": b"a", "b/0.tar/x.png": b"b"}


def test_a_folder_of_tars_is_read_as_shards_and_said(shards: Path) -> None:
    notes: list[str] = []
    collection = open_collection(str(shards), note=notes.append)
    assert notes == [f"{shards}: no image in it; reading its 4 tar files"]
    assert collection.sha256 == opened(shards / "*.tar").sha256


def test_the_digest_is_of_names_and_sizes_and_not_of_the_place(shards: Path, tmp_path: Path) -> None:
    before = opened(shards / "*.tar").sha256
    shards.rename(tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere" / "*.tar").sha256 == before
    write_tar(tmp_path / "elsewhere" / "000.tar", {f"{i:04d}.jpg": b"1" for i in range(10)})
    assert opened(tmp_path / "elsewhere" / "*.tar").sha256 != before


def test_a_collection_travels_to_other_processes(shards: Path) -> None:
    collection = opened(shards / "*.tar")
    data = pickle.dumps(collection)
    assert read_all(pickle.loads(data)) == read_all(collection)
    assert len(data) < 40 * 80


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_format(tmp_path: Path, format: int) -> None:
    names = [f"{'d' * 90}/{'n' * 90}.png", "./写真.webp", "a.b.c.JPEG"]
    write_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, format=format)
    assert read_all(opened(tmp_path / "a.tar")) == {f"a.tar/{name}": name.encode() for name in names}


def test_other_members_are_left_out(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        {name: b"x" for name in ("a.png", "._a.png", "__MACOSX/a.png", "a.txt", ".d/a.png", "b")},
    )
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        for name, kind in (("folder.png", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    assert list(opened(tmp_path / "a.tar").names) == ["a.tar/a.png"]


def test_of_a_member_that_comes_twice_the_last_counts(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": b"old", "b.png": b"b"})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"new"))
    assert read_all(opened(tmp_path / "a.tar")) == {"a.tar/b.png": b"b", "a.tar/a.png": b"new"}


@pytest.mark.parametrize(
    ("length", "words", "left"),
    [
        (1024 + 512 + 700, "ends early, within b.png", 1),  # in the second image
        (1024 + 512 + 100, "ends early", 1),  # in its header
        (1024 + 512, "ends early", 1),  # before it
        (2 * (1024 + 512), "ends early", 2),  # before the end marker
    ],
)
def test_a_tar_that_ends_early_gives_what_it_holds_whole(
    tmp_path: Path, length: int, words: str, left: int
) -> None:
    data = bytes(range(250)) * 4
    path = write_tar(tmp_path / "a.tar", {"a.png": data, "b.png": data}, format=tarfile.USTAR_FORMAT)
    path.write_bytes(path.read_bytes()[:length])
    notes: list[str] = []
    collection = open_collection(str(path), note=notes.append)
    assert [collection.read(i) for i in range(len(collection.names))] == [data] * left
    assert notes == [f"a.tar: {words}; its first {left} images are used"]


def test_a_damaged_header_ends_a_shard_with_a_note(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": b"a", "b.png": b"b"})
    content = bytearray(path.read_bytes())
    content[1024:1100] = b"?" * 76
    path.write_bytes(content)
    notes: list[str] = []
    assert list(open_collection(str(path), note=notes.append).names) == ["a.tar/a.png"]
    assert notes == ["a.tar: has a damaged header at byte 1,024; its first 1 images are used"]


def test_an_empty_shard_among_others_is_noted(shards: Path) -> None:
    (shards / "001.tar").write_bytes(b"")
    notes: list[str] = []
    assert len(open_collection(str(shards / "*.tar"), note=notes.append).names) == 30
    assert notes == ["001.tar: is empty; its first 0 images are used"]


def test_what_a_shard_holds_is_remembered_until_it_changes(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CLOCK_NS", -1)
    before = read_all(opened(shards / "*.tar"))
    with monkeypatch.context() as patch:
        patch.setattr("simclr.sources.tar._headers", pytest.fail)
        assert read_all(opened(shards / "*.tar")) == before
    write_tar(shards / "000.tar", {"new.png": b"new"})
    assert opened(shards / "*.tar").names[0] == "000.tar/new.png"


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])
def test_a_compressed_tar_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(write_tar(tmp_path / "b.tar", {"a.png": b"a"}).read_bytes()))
    with pytest.raises(ConfigError) as error:
        opened(tmp_path / name)
    assert str(error.value) == (
        f"{tmp_path / name}: a compressed tar, in which no single image can be found. Decompress it first: gunzip, unzstd, ..."
    )


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/a.tar: is no tar "):
        opened(tmp_path / "a.tar")


def test_a_tar_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"a.tar: no member with an image's suffix in it. Give tars that hold images.$"
    ):
        opened(write_tar(tmp_path / "a.tar", {"a.txt": b""}))


def test_missing_shards_are_counted_and_one_is_named(shards: Path) -> None:
    source = shards / "{000..009}.tar"
    with pytest.raises(ImageError) as error:
        opened(source)
    assert (
        str(error.value)
        == f"{source}: 6 of its 10 files are missing, such as {shards}/004.tar. Mend its name."
    )


def test_a_shard_that_became_shorter_says_so_when_read(shards: Path) -> None:
    collection = opened(shards / "000.tar")
    (shards / "000.tar").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^cannot be read: its file has become shorter$"):
        collection.read(9)
    (shards / "000.tar").unlink()
    with pytest.raises(ImageError, match=r"^cannot be read: No such file or directory$"):
        collection.read(0)
