"""Zip files: members against the zipfile module, and those that lie."""

import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from simclr.errors import ConfigError, ImageError
from simclr.sources import Inventory, Patterns, cache, open_collection, read_place, take_inventory, walk


def write_zip(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def inventory(word: object, skipped: dict[str, str] | None = None) -> Inventory:
    told: dict[str, str] = {} if skipped is None else skipped
    return take_inventory(
        str(word),
        patterns=Patterns(),
        follow_links=False,
        skip=told.__setitem__,
        note=lambda line: None,
    )


def read_all(taken: Inventory) -> dict[str, bytes]:
    return {name: read_place(taken.place(i)) for i, name in enumerate(taken.names)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_those_of_zipfile_for_training_and_embedding(
    tmp_path: Path, blobs: dict[str, bytes], method: int
) -> None:
    content = blobs | {"flat.png": bytes(100_000), "写真/b.webp": b"b"}
    path = write_zip(tmp_path / "a.zip", content, method=method)
    taken = inventory(path)
    expected = {f"a.zip/{name}": data for name, data in content.items()}
    assert read_all(taken) == expected
    assert taken.sizes.tolist() == [len(data) for data in content.values()]
    assert taken.stamps.tolist() == [path.stat().st_mtime_ns] * len(content)
    collection = open_collection(str(path), note=pytest.fail)
    assert {name: collection.read(i) for i, name in enumerate(collection.names)} == expected


class _Pipe:
    """A file that cannot be sought, so that zipfile writes sizes behind each member."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wide", [False, True])
def test_members_written_as_a_stream_are_read(tmp_path: Path, method: int, wide: bool) -> None:
    pipe = _Pipe(tmp_path / "a.zip")
    with zipfile.ZipFile(pipe, "w", method) as archive:  # type: ignore[call-overload]
        for name in ("a.png", "b.png"):
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=wide) as member:
                member.write(name.encode() * 50)
    pipe.file.close()
    assert read_all(inventory(tmp_path / "a.zip")) == {
        f"a.zip/{name}": name.encode() * 50 for name in ("a.png", "b.png")
    }


def test_members_with_sizes_of_64_bits_are_read(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w") as archive,
        archive.open("a.png", "w", force_zip64=True) as member,
    ):
        member.write(b"wide")
    assert read_all(inventory(tmp_path / "a.zip")) == {"a.zip/a.png": b"wide"}


def test_a_zip_behind_other_bytes_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a"})
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    assert read_all(inventory(path)) == {"a.zip/a.png": b"a"}


def test_other_members_and_names_that_lead_out_are_left_out(tmp_path: Path) -> None:
    names = ["a.png", "._a.png", "__MACOSX/b.png", "c.txt", ".d/c.png", "../up.png", "x/../../up.png"]
    path = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("folder.png")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    skipped: dict[str, str] = {}
    assert list(inventory(path, skipped).names) == ["a.zip/a.png"]
    assert skipped == {}


def test_of_a_member_that_comes_twice_the_last_counts(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"old", "b.png": b"b"})
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.png", b"new")
    assert read_all(inventory(path)) == {"a.zip/b.png": b"b", "a.zip/a.png": b"new"}


def test_exotic_and_encrypted_members_are_skipped_with_the_reason(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a", "c.png": b"c"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.png", b"b", zipfile.ZIP_BZIP2)
    patch(path, b"c.png", local={6: b"\1\0"}, listed={8: b"\1\0"})
    skipped: dict[str, str] = {}
    assert list(inventory(path, skipped).names) == ["a.zip/a.png"]
    assert skipped == {
        "a.zip/b.png": "is packed with bzip2; only deflate is read",
        "a.zip/c.png": "is encrypted",
    }
    notes: list[str] = []
    open_collection(str(path), note=notes.append)
    assert notes == [f"{path}: 2 images cannot be read, such as a.zip/c.png: is encrypted"]


def patch(path: Path, name: bytes, *, local: dict[int, bytes], listed: dict[int, bytes]) -> None:
    """Write over bytes of a member's local header, and of its entry in the list at the end."""
    content = bytearray(path.read_bytes())
    for fields, start in ((local, content.index(name) - 30), (listed, content.rindex(name) - 46)):
        for at, data in fields.items():
            content[start + at : start + at + len(data)] = data
    path.write_bytes(content)


def refusal(path: Path) -> str:
    taken = inventory(path)
    with pytest.raises(ImageError) as error:
        read_place(taken.place(0))
    return str(error.value)


def test_a_member_that_unpacks_to_more_than_it_claims_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(100_000_000)})
    patch(path, b"a.png", local={22: struct.pack("<I", 1000)}, listed={24: struct.pack("<I", 1000)})
    tracemalloc.start()
    try:
        assert refusal(path) == "damaged: unpacks to more than the 1,000 bytes it claims"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claims", [0, 99, 101])
def test_a_wrong_size_is_refused(tmp_path: Path, claims: int) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": os.urandom(50) * 2})
    patch(path, b"a.png", local={22: struct.pack("<I", claims)}, listed={})
    more = "unpacks to 100 bytes instead of 101"
    less = f"unpacks to more than the {claims} bytes it claims"
    assert refusal(path) == f"damaged: {more if claims > 100 else less}"


def test_a_member_above_the_limit_is_skipped_and_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(2000), "b.png": b"b"})
    taken = inventory(path)
    monkeypatch.setattr(walk, "FILE_LIMIT", 1000)
    with pytest.raises(ImageError, match=r"^too large: 2,000 bytes is above the limit of 1,000$"):
        read_place(taken.place(0))
    monkeypatch.setattr("simclr.sources.zips._FORMAT", 99)
    skipped: dict[str, str] = {}
    assert list(inventory(path, skipped).names) == ["a.zip/b.png"]
    assert skipped == {"a.zip/a.png": "too large: 2,000 bytes is above the limit of 1,000"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_is_refused(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a" * 9}, method=method)
    wrong = struct.pack("<I", zlib.crc32(b"b" * 9))
    patch(path, b"a.png", local={14: wrong}, listed={})
    assert refusal(path) == "damaged: its CRC-32 is not that of its bytes"


@pytest.mark.parametrize(
    ("local", "words"),
    [
        ({0: b"XX"}, "damaged: no member of the zip file begins where its list says"),
        ({6: b"\1\0"}, "is encrypted"),
        ({8: b"\x0c\0"}, "is packed by a method that is not read (number 12)"),
        ({18: b"\3\0\0\0"}, "damaged: its header and the zip file's list tell different sizes"),
        ({26: b"\xff\xff"}, "cannot be read: its file has become shorter"),
    ],
)
def test_a_local_header_that_disagrees_is_refused(
    tmp_path: Path, local: dict[int, bytes], words: str
) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a" * 9})
    patch(path, b"a.png", local=local, listed={})
    assert refusal(path) == words


def test_damage_in_packed_bytes_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": os.urandom(1000)})
    content = bytearray(path.read_bytes())
    content[35:45] = b"\xff" * 10
    path.write_bytes(content)
    assert refusal(path).startswith("damaged: ")


def test_every_flipped_bit_of_a_small_zip_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"abcd" * 30})
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            images = [*read_all(inventory(path)).values()]
        except (ImageError, ConfigError):
            continue
        assert images in ([b"abcd" * 30], []), bit


def test_a_zip_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a" * 99})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError) as error:
        inventory(path)
    assert str(error.value).startswith(f"{path}: no zip file, or one cut short or damaged (")


def test_a_damaged_zip_among_others_is_out_of_sight(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"a.png": b"a"})
    (tmp_path / "b.zip").write_bytes(b"damaged")
    notes: list[str] = []
    taken = take_inventory(
        f"{tmp_path}/*.zip", patterns=Patterns(), follow_links=False, skip=pytest.fail, note=notes.append
    )
    assert list(taken.names) == ["a.zip/a.png"]
    assert notes == [
        "b.zip: no zip file, or one cut short or damaged (File is not a zip file); its first 0 images are used"
    ]
    assert taken.gone("a.zip/b.png") and not taken.gone("b.zip/b.png")


def test_a_zip_that_became_shorter_says_so_when_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": b"a" * 99})
    taken = inventory(path)
    path.write_bytes(path.read_bytes()[:32])
    with pytest.raises(ImageError, match=r"^cannot be read: its file has become shorter$"):
        read_place(taken.place(0))


def test_a_zip_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=r"no member with an image's suffix in it. Give zip files that hold images.$"
    ):
        inventory(write_zip(tmp_path / "a.zip", {"a.txt": b""}))


def test_what_a_zip_holds_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CLOCK_NS", -1)
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(500), "b.png": b"b"})
    patch(path, b"b.png", local={6: b"\1\0"}, listed={8: b"\1\0"})
    first: dict[str, str] = {}
    before = read_all(inventory(path, first))
    with monkeypatch.context() as within:
        within.setattr("simclr.sources.zips._listed", pytest.fail)
        second: dict[str, str] = {}
        assert read_all(inventory(path, second)) == before
        assert second == first == {"a.zip/b.png": "is encrypted"}
    write_zip(path, {"new.png": b"new"})
    assert read_all(inventory(path)) == {"a.zip/new.png": b"new"}
