"""Images in zips are read where they lie, and a damaged or hostile zip cannot do harm."""

import struct
import zipfile
from pathlib import Path

import pytest
from test_inventory import write_zip

from simclr.errors import ConfigError, ImageError
from simclr.sources import open_collection, places, read_place
from simclr.sources.zips import open_zips


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_out_as_python_unzips_them(tmp_path: Path, blobs: dict[str, bytes], method: int) -> None:
    path = write_zip(tmp_path / "a.zip", {f"in/{name}": data for name, data in blobs.items()}, method)
    collection = open_collection(str(path), note=pytest.fail)
    with zipfile.ZipFile(path) as opened:
        for i, name in enumerate(collection.names):
            assert collection.read(i) == opened.read(name.removeprefix("a.zip/"))
    assert len(collection.names) == 40


def test_other_members_hidden_ones_and_litter_are_left_out(tmp_path: Path) -> None:
    members = dict.fromkeys(("a.jpg", "a.txt", ".b.jpg", "__MACOSX/a.jpg", "d/", "../c.jpg"), b"x")
    collection = open_collection(str(write_zip(tmp_path / "a.zip", members)), note=pytest.fail)
    assert list(collection.names) == ["a.zip/a.jpg"]


def test_members_that_cannot_be_unpacked_are_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x", "locked.jpg": b"y"}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as opened:
        opened.writestr("bz.jpg", b"z")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)  # in the directory, the second member
    data[entry + 8] |= 1
    path.write_bytes(data)
    skipped: list[tuple[str, str]] = []
    found = open_zips("a.zip", ["a.zip"], [str(path)], skip=lambda *words: skipped.append(words))
    assert list(found.names) == ["a.zip/a.jpg"]
    assert skipped == [
        ("a.zip/locked.jpg", "encrypted"),
        ("a.zip/bz.jpg", "packed by method 12, of which only deflate is read"),
    ]


def damaged(tmp_path: Path, change: str) -> str:
    """The reason that reading the one member of a damaged zip gives."""
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(1000) + b"end"})
    zipped = open_zips("a.zip", ["a.zip"], [str(path)])
    data = bytearray(path.read_bytes())
    if change == "a byte":
        data[30 + len("a.jpg") + 4] ^= 0xFF
    elif change == "cut":
        del data[20:]
    elif change == "moved":
        data[:0] = b"0123456789"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        zipped.read(0)
    return str(caught.value)


def test_damage_is_found_when_a_member_is_read(tmp_path: Path) -> None:
    assert damaged(tmp_path, "a byte").startswith("damaged zip: ")
    assert damaged(tmp_path, "cut") == "cannot be read: its file has become shorter"
    assert damaged(tmp_path, "moved") == "damaged zip: no member where its directory says"


def test_a_member_is_never_inflated_beyond_what_it_announces(tmp_path: Path) -> None:
    """100 MB of zeros that claim to be 10 bytes."""
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(100_000_000)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    zipped = open_zips("a.zip", ["a.zip"], [str(path)])
    assert zipped.sizes.tolist() == [10]
    with pytest.raises(ImageError, match=r"^damaged zip: a checksum or a size is wrong$"):
        zipped.read(0)


def test_a_member_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped = open_zips("a.zip", ["a.zip"], [str(write_zip(tmp_path / "a.zip", {"a.jpg": bytes(11)}))])
    monkeypatch.setattr(places, "FILE_LIMIT", 10)
    with pytest.raises(ImageError, match=r"^too large: 11 bytes is above the limit of 10$"):
        read_place(zipped.place(0))


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip at all")
    with pytest.raises(ConfigError, match=r"a\.zip: is no zip \(.*\)\. Give zip files\.$"):
        open_collection(str(tmp_path / "a.zip"), note=pytest.fail)


def test_a_zip_without_images_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.txt": b"x"})
    with pytest.raises(ImageError, match="no member with an image's suffix"):
        open_collection(str(path), note=pytest.fail)
