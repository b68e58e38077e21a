"""What a source is taken for, lists, and the digest that old runs know."""

import hashlib
import pickle
from pathlib import Path

import pytest

from simclr.errors import ConfigError, ImageError
from simclr.sources import list_images, open_collection


def test_a_folder_has_the_digest_that_runs_have_always_had(photos: Path) -> None:
    collection = open_collection(str(photos), note=pytest.fail)
    paths = list_images(photos)
    assert list(collection.names) == paths
    assert collection.sha256 == hashlib.sha256("\n".join(paths).encode()).hexdigest()
    assert collection.read(3) == (photos / paths[3]).read_bytes()
    assert pickle.loads(pickle.dumps(collection)).read(3) == collection.read(3)


def listed(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".lst", ".list"])
def test_a_list_names_files_relative_to_its_folder_or_absolute(
    photos: Path, tmp_path: Path, suffix: str
) -> None:
    absolute = photos / "cold" / "blue_dark.png"
    lines = f"# a remark\n\nphotos/warm/red_light.png\r\n  {absolute}  \n./#1.png\n"
    source = listed(tmp_path / f"some{suffix}", b"\xef\xbb\xbf" + lines.encode())
    collection = open_collection(str(source), note=pytest.fail)
    assert list(collection.names) == ["photos/warm/red_light.png", str(absolute), "./#1.png"]
    assert collection.read(0) == (photos / "warm" / "red_light.png").read_bytes()
    assert collection.read(1) == absolute.read_bytes()
    with pytest.raises(ImageError, match=r"^cannot be read: No such file or directory$"):
        collection.read(2)


def test_a_line_that_comes_twice_is_taken_once_and_said(tmp_path: Path) -> None:
    source = listed(tmp_path / "a.txt", b"b.png\na.png\nb.png\n")
    notes: list[str] = []
    assert list(open_collection(str(source), note=notes.append).names) == ["b.png", "a.png"]
    assert notes == [f"{source}: 1 lines repeat an earlier one; each file is taken once"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.txt", b"# nothing\n", ImageError, "names no file. Write one path a line."),
        ("a.txt", b"caf\xe9.png\n", ConfigError, "is no text in UTF-8 (byte 3). Write one path a line."),
        ("a.png", b"", ConfigError, "one image, or several. Give their folder, or a list of them in a .txt file."),
        ("a.rar", b"", ConfigError, "not a folder. Give a folder of images, a list of files (.txt, .lst, .list), tar shards (such as shards/{000..099}.tar), zip files or Parquet files (such as data/*.parquet)."),
    ],
)  # fmt: skip
def test_a_file_that_is_no_source_says_why(
    tmp_path: Path, name: str, content: bytes, kind: type[Exception], words: str
) -> None:
    source = listed(tmp_path / name, content)
    with pytest.raises(kind) as error:
        open_collection(str(source), note=pytest.fail)
    assert str(error.value) == f"{source}: {words}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "no such folder. Give a folder of images."),
        ("gone.txt", "no such file. Mend its name."),
        ("gone.tar", "no such file. Mend its name."),
        ("*.tar", "no file matches. Give a folder of images, "),
    ],
)
def test_a_source_that_is_not_there_says_so(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ImageError) as error:
        open_collection(str(tmp_path / name), note=pytest.fail)
    assert str(error.value).startswith(f"{tmp_path / name}: {words}")


def test_tars_and_parquet_files_in_one_folder_are_not_guessed_at(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    folder.mkdir()
    for name in ("a.tar", "a.parquet"):
        (folder / name).touch()
    with pytest.raises(ConfigError, match=r"both: holds tar and Parquet files. Say which: .*/both/\*.tar$"):
        open_collection(str(folder), note=pytest.fail)


def test_a_folder_of_compressed_tars_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "a.tar.gz").touch()
    with pytest.raises(ConfigError, match=r"a.tar.gz: a compressed tar, .* Decompress it first"):
        open_collection(str(folder), note=pytest.fail)
