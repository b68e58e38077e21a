"""Parquet: images by row against pyarrow's own reading, which column, and what is unpacked when."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr.errors import ConfigError, ImageError, MissingExtra
from simclr.sources import Collection, open_collection, parquet

HUGGING_FACE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def images(values: list[bytes | None]) -> pa.Array:
    rows = [None if value is None else {"bytes": value, "path": f"{i}.jpg"} for i, value in enumerate(values)]
    return pa.array(rows, HUGGING_FACE)


def opened(source: object) -> Collection:
    return open_collection(str(source), note=lambda line: None)


def read_all(collection: Collection) -> dict[str, bytes]:
    return {name: collection.read(i) for i, name in enumerate(collection.names)}


@pytest.fixture
def data(tmp_path: Path, blobs: dict[str, bytes]) -> Path:
    """40 images in four files as Hugging Face writes them, in row groups of three."""
    values = list(blobs.values())
    for i in range(4):
        part = values[i * 10 : i * 10 + 10]
        columns = {"image": images(part), "label": list(range(10))}
        write(tmp_path / "set" / "data" / f"train-{i:05d}-of-00004.parquet", columns, row_group_size=3)
    return tmp_path / "set" / "data"


@pytest.mark.parametrize("form", ["train-{00000..00003}-of-00004.parquet", "*.parquet", "*.parquet#image"])
def test_images_read_in_any_order_are_those_of_pyarrow(data: Path, form: str) -> None:
    collection = opened(data / form)
    assert len(collection.names) == 40
    for i in np.random.default_rng(1).permutation(40).tolist():
        file, _, row = collection.names[i].partition("/")
        assert collection.read(i) == pq.read_table(data / file)["image"][int(row)].as_py()["bytes"]


def test_names_are_file_and_row(data: Path) -> None:
    assert opened(data / "*.parquet").names[13] == "train-00001-of-00004.parquet/3"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_plain_binary_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    file = write(tmp_path / "a.parquet", {"label": [1, 2], "photo": pa.array([b"x", b"yy"], kind)})
    assert read_all(opened(file)) == {"a.parquet/0": b"x", "a.parquet/1": b"yy"}


@pytest.mark.parametrize("column", [images([b"x", None, b"z"]), pa.array([b"x", None, b"z"])])
def test_rows_without_an_image_are_left_out_and_counted(tmp_path: Path, column: pa.Array) -> None:
    file = write(tmp_path / "a.parquet", {"image": column})
    notes: list[str] = []
    collection = open_collection(str(file), note=notes.append)
    assert read_all(collection) == {"a.parquet/0": b"x", "a.parquet/2": b"z"}
    assert notes[-1] == f"{file}: 1 rows hold no image"


def test_files_are_unpacked_once_and_again_where_they_changed(
    data: Path, own_cache: Path, blobs: dict[str, bytes]
) -> None:
    notes: list[str] = []
    before = read_all(open_collection(str(data / "*.parquet"), note=notes.append))
    size = sum(file.stat().st_size for file in data.iterdir())
    assert notes == [
        f"unpacking the images of 4 of 4 Parquet files ({size / 1e9:.2f} GB) to {own_cache}, once"
    ]
    assert read_all(open_collection(str(data / "*.parquet"), note=pytest.fail)) == before
    write(data / "train-00002-of-00004.parquet", {"image": images([b"new"])})
    notes.clear()
    after = read_all(open_collection(str(data / "*.parquet"), note=notes.append))
    assert len(after) == 31 and after["train-00002-of-00004.parquet/0"] == b"new"
    assert len(notes) == 1 and notes[0].startswith("unpacking the images of 1 of 4 Parquet files")


def test_a_stopped_unpacking_goes_on_with_what_is_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = parquet._unpack, []

    def stops(file: str, leaf: str, pack: Path) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(file)
        real(file, leaf, pack)

    monkeypatch.setattr(parquet, "_unpack", stops)
    with pytest.raises(KeyboardInterrupt):
        opened(data / "*.parquet")
    monkeypatch.setattr(parquet, "_unpack", real)
    notes: list[str] = []
    assert len(open_collection(str(data / "*.parquet"), note=notes.append).names) == 40
    assert notes[0].startswith("unpacking the images of 2 of 4 Parquet files")


def test_a_pack_cut_short_is_made_again(data: Path, own_cache: Path) -> None:
    before = read_all(opened(data / "*.parquet"))
    pack = next((own_cache / "packs").glob("*.bin"))
    pack.write_bytes(pack.read_bytes()[:-1])
    assert read_all(opened(data / "*.parquet")) == before


def test_a_cache_that_cannot_be_written_is_an_error(data: Path, own_cache: Path) -> None:
    own_cache.write_bytes(b"a file, no folder")
    with pytest.raises(ImageError) as error:
        opened(data / "*.parquet")
    assert str(error.value).startswith(
        f"{own_cache}: cannot be written (Not a directory). Set SIMCLR_CACHE to"
    )


def test_a_folder_of_parquet_files_is_read_and_said(data: Path) -> None:
    notes: list[str] = []
    collection = open_collection(str(data.parent), note=notes.append)
    assert notes[0] == f"{data.parent}: no image in it; reading its 4 parquet files"
    assert len(collection.names) == 40


def test_of_a_data_set_with_splits_the_training_files_are_read(data: Path) -> None:
    write(data / "test-00000-of-00001.parquet", {"image": images([b"x"])})
    (data.parent / "README.md").write_text("hello")
    notes: list[str] = []
    assert len(open_collection(str(data.parent), note=notes.append).names) == 40
    assert notes[0] == f"{data.parent}: no image in it; reading its 4 parquet files named train*, of 5"


@pytest.mark.parametrize("kind", ["string", "struct"])
def test_paths_are_read_relative_to_their_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "set" / "img").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "set" / "img" / f"{name}.jpg").write_bytes(name.encode())
    paths = ["img/b.jpg", "img/a.jpg"]
    rows = [{"bytes": None, "path": path} for path in paths]
    column = pa.array(rows, HUGGING_FACE) if kind == "struct" else pa.array(paths)
    file = write(tmp_path / "set" / "a.parquet", {"image": column, "label": [0, 1]})
    collection = open_collection(str(file), note=pytest.fail)
    assert read_all(collection) == {"img/b.jpg": b"b", "img/a.jpg": b"a"}


def test_paths_are_read_relative_to_the_given_folder(tmp_path: Path) -> None:
    write(tmp_path / "set" / "meta" / "a.parquet", {"file_name": ["img/a.JPG"]})
    (tmp_path / "set" / "img").mkdir()
    collection = opened(tmp_path / "set")
    assert list(collection.names) == ["img/a.JPG"]
    (tmp_path / "set" / "img" / "a.JPG").write_bytes(b"a")
    with pytest.raises(AssertionError):  # now the folder holds an image, and is one of images
        assert opened(tmp_path / "set").read(0) != b"a"


def test_a_column_is_chosen_by_name_or_named_by_the_user(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"mask": pa.array([b"m"]), "depth": pa.array([b"d"]), "n": [1]})
    with pytest.raises(ConfigError) as error:
        opened(file)
    assert str(error.value) == (
        f"{file}: cannot tell which column holds the images. Its columns: mask (binary), depth (binary), n (int64). Name "
        "it: FILE.parquet#COLUMN"
    )
    assert opened(f"{file}#depth").read(0) == b"d"
    with pytest.raises(ConfigError, match=r"no column n that holds images or paths. Its columns: mask"):
        opened(f"{file}#n")


@pytest.mark.parametrize("content", [b"", b"PAR1 hello PAR1" * 9])
def test_a_damaged_file_is_an_error_of_one_line(data: Path, content: bytes) -> None:
    file = data / "train-00001-of-00004.parquet"
    file.write_bytes(content)
    with pytest.raises(ImageError) as error:
        opened(data / "*.parquet")
    assert str(error.value).startswith(f"{file}: no Parquet file, or a damaged one (")
    assert "\n" not in str(error.value)


def test_damage_in_the_middle_leaves_no_pack(
    data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 2)  # else the damage shows at the look at the first rows
    file = data / "train-00001-of-00004.parquet"
    content = bytearray(file.read_bytes())
    middle, footer = len(content) // 2, len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[middle:footer] = bytes(footer - middle)
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged") as error:
        opened(file)
    assert "\n" not in str(error.value)
    assert not [name for name in os.listdir(own_cache / "packs") if name.endswith(".bin")]


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none of its rows holds an image. Give files that hold images.$"):
        opened(write(tmp_path / "a.parquet", {"image": images([])}))


def test_without_pyarrow_the_extra_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"^pyarrow is not installed. Run: pip install"):
        opened(data / "*.parquet")


def test_a_large_row_group_is_unpacked_in_little_memory(tmp_path: Path) -> None:
    """100 MB of images in one row group."""
    rng = np.random.default_rng(0)
    values = [rng.bytes(200_000) for _ in range(500)]
    file = write(tmp_path / "a.parquet", {"image": images(values)}, compression="none", write_batch_size=16)
    assert pq.ParquetFile(file).num_row_groups == 1
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        collection = opened(file)
    finally:
        pa.set_memory_pool(before)
    assert collection.read(250) == values[250]
    assert pool.max_memory() < 40e6
