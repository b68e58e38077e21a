"""Reading from places; what hostile zip members do is in test_zips.py."""

import pickle
from pathlib import Path

import fsspec
import pytest

from simclr.errors import ImageError
from simclr.sources import Place, read_place, walk


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    return str(tmp_path / "a.bin")


@pytest.fixture
def url(file: str) -> str:
    fsspec.filesystem("memory").pipe_file("/places/a.bin", b"0123456789")
    return "memory://places/a.bin"


@pytest.mark.parametrize("far", [False, True])
def test_a_place_is_a_file_or_a_span_of_one(file: str, url: str, far: bool) -> None:
    where = url if far else file
    assert read_place(Place(where)) == b"0123456789"
    assert read_place(Place(where, 3, 4)) == b"3456"
    assert read_place(Place(where, 3, 0)) == b""
    with pytest.raises(ImageError, match=r"^cannot be read: its file has become shorter$"):
        read_place(Place(where, 8, 3))


@pytest.mark.parametrize("far", [False, True])
def test_what_is_above_the_limit_is_not_read(
    file: str, url: str, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = url if far else file
    monkeypatch.setattr(walk, "FILE_LIMIT", 10)
    assert read_place(Place(where)) == b"0123456789"
    monkeypatch.setattr(walk, "FILE_LIMIT", 9)
    with pytest.raises(ImageError, match=r"^too large: .*above the limit of 9( bytes)?$"):
        read_place(Place(where))
    with pytest.raises(ImageError, match=r"^too large: 10 bytes is above the limit of 9$"):
        read_place(Place(where, 0, 10))


def test_what_is_gone_says_so_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^cannot be read: No such file or directory$"):
        read_place(Place(str(tmp_path / "gone.png")))
    with pytest.raises(ImageError, match=r"^cannot be read: Is a directory$"):
        read_place(Place(str(tmp_path)))
    with pytest.raises(ImageError) as error:
        read_place(Place("memory://places/gone.png"))
    assert str(error.value) == "cannot be read: no such file"


def test_what_is_behind_a_url_is_read_as_it_is_now_and_not_copied(url: str, own_cache: Path) -> None:
    assert read_place(Place(url)) == b"0123456789"
    fsspec.filesystem("memory").pipe_file("/places/a.bin", b"new")
    assert read_place(Place(url)) == b"new"
    assert not own_cache.exists()


def test_a_place_is_small_in_a_pickle(file: str) -> None:
    place = Place(file, 3, 4, "zip")
    assert pickle.loads(pickle.dumps(place)) == place
    assert len(pickle.dumps(place)) < len(file) + 80
