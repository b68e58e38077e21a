"""Images in the rows of Parquet files, as Hugging Face lays them out.

A row of a Parquet file cannot be read without its row group, which may be the whole file. So the images' bytes are
unpacked once, one after another, into a file of the cache, and read from there. A column of paths is read as a list.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simclr.artifacts import write_atomically
from simclr.cache_folder import cache_folder
from simclr.errors import ConfigError, ImageError, MissingExtra, reason
from simclr.sources.cache import Note, key_of, load_arrays, needed, save_arrays
from simclr.sources.members import Members
from simclr.sources.names import Names

_NAMES = (
    "image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes", "content",
    "image_path", "path", "file_name", "filename", "filepath", "file",
)  # fmt: skip
"""Columns looked for, in this order."""
_ROWS = 64
"""Rows in memory at a time."""
_FORMAT = 1


def columns(files: Sequence[str], shorts: Sequence[str], column: str | None) -> tuple[list[str], bool]:
    """The column of each file to read, and whether they hold paths instead of images.

    `column` may name it; `shorts` are the files' names for messages. Raises ImageError (a file is missing or damaged),
    ConfigError (which column?), MissingExtra.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("pyarrow", "train") from exc
    leaves = [_leaf(file, column) for file in files]
    all_paths = all(is_path for _, is_path in leaves)
    for short, (leaf, is_path) in zip(shorts, leaves, strict=True):
        if is_path and not all_paths:
            raise ConfigError(
                f"{short}: its column {leaf} holds paths, those of other files hold images. Give them apart."
            )
    return [leaf for leaf, _ in leaves], all_paths


def members(source: str, files: Sequence[str], leaves: Sequence[str], *, note: Note) -> list[Members]:
    """The images of each file, by row, unpacked to the cache where they are not yet. Raises ImageError (a file is
    damaged, the cache has no room)."""
    packs = [_pack(file, leaf) for file, leaf in zip(files, leaves, strict=True)]
    missing = [i for i, pack in enumerate(packs) if not _is_whole(pack)]
    if missing:
        size = sum(os.path.getsize(files[i]) for i in missing)
        note(
            f"unpacking the images of {len(missing)} of {len(files)} Parquet files ({size / 1e9:.2f} GB) to "
            f"{cache_folder()}, once"
        )
    for i in missing:
        _unpack(files[i], leaves[i], packs[i])
    found, empty = [], 0
    for pack in packs:
        ends, rows = _index(pack)
        empty += int(rows[-1]) - len(rows) + 1
        sizes = np.diff(ends)
        found.append(
            Members(f"{pack}.bin", Names.of(map(str, rows[:-1].tolist())), ends[:-1].copy(), sizes, sizes)
        )
    if empty:
        note(f"{source}: {empty} rows hold no image")
    return found


def paths(source: str, files: Sequence[str], leaves: Sequence[str], root: str) -> Names:
    """The paths in the rows, relative to `root`; they are relative to their file's folder, or to `root`."""
    names: dict[str, None] = {}
    for file, leaf in zip(files, leaves, strict=True):
        base: str | None = None
        with _parquet(file) as table:
            for values in _values(file, table, leaf, rows=65536):
                for value in filter(None, values):
                    if base is None:
                        beside = os.path.dirname(file)
                        base = beside if os.path.exists(os.path.join(beside, value)) else root
                    names[os.path.relpath(os.path.join(base, value), root) if base != root else value] = None
    if not names:
        raise ImageError(f"{source}: none of its rows names an image. Give files that do.")
    return Names.of(names)


# ---- which column


def _leaf(file: str, column: str | None) -> tuple[str, bool]:
    """The column to read, `image.bytes` within a struct, and whether it holds paths instead of images."""
    import pyarrow as pa

    with _parquet(file) as table:
        schema = table.schema_arrow
        known = {name: kind for name in schema.names if (kind := _kind(schema.field(name).type))}
        columns = ", ".join(f"{name} ({schema.field(name).type})" for name in schema.names)
        if column is not None and column not in known:
            raise ConfigError(
                f"{file}: no column {column} that holds images or paths. Its columns: {columns}."
            )
        chosen = column or next((name for name in _NAMES if name in known), None)
        if chosen is None:
            images = [name for name, kind in known.items() if kind != "path"]
            if len(images) != 1:
                raise ConfigError(
                    f"{file}: cannot tell which column holds the images. Its columns: {columns}. Name it: FILE.parquet#COLUMN"
                )
            (chosen,) = images
        if known[chosen] != "struct":
            return chosen, known[chosen] == "path"
        leaf = f"{chosen}.bytes"
        if pa.types.is_struct(schema.field(chosen).type) and _has(schema.field(chosen).type, "path"):
            first = next(_values(file, table, leaf, rows=_ROWS), [])
            if first and all(value is None for value in first):
                return f"{chosen}.path", True
        return leaf, False


def _kind(kind: Any) -> str:
    """What a column of this type may hold: `struct` with the image's bytes, `image` bytes, `path`, or nothing."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return "struct" if _has(kind, "bytes") and _kind(kind.field("bytes").type) == "image" else ""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    return "path" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""


def _has(struct: Any, name: str) -> bool:
    return bool(struct.get_field_index(name) >= 0)


# ---- reading and unpacking


def _parquet(file: str) -> Any:
    """An open ParquetFile that reads page by page: row groups may be larger than memory (pages seldom are)."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except FileNotFoundError:
        raise ImageError(f"{file}: no such file. Mend its name.") from None
    except (OSError, pa.ArrowException) as exc:
        raise ImageError(
            f"{file}: no Parquet file, or a damaged one ({reason(exc).rstrip('.')}). Restore or remove it."
        ) from exc


def _values(file: str, table: Any, leaf: str, *, rows: int) -> Iterator[list[Any]]:
    """The values of one column, some rows at a time. Raises ImageError where the file is damaged."""
    import pyarrow as pa

    batches = table.iter_batches(batch_size=rows, columns=[leaf], use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as exc:
            raise ImageError(f"{file}: damaged ({reason(exc).rstrip('.')}). Restore or remove it.") from exc
        if batch is None:
            return
        values = batch.column(0)
        for name in leaf.split(".")[1:] if batch.schema.names[0] != leaf else []:
            values = _inner(values, name)
        yield values.to_pylist()


def _inner(struct: Any, name: str) -> Any:
    """A field of a struct column; null where the struct is, which `field` would not say."""
    import pyarrow.compute as pc

    return pc.struct_field(struct, name)


def _pack(file: str, leaf: str) -> Path:
    """Where a file's images are unpacked to: PACK.bin, and PACK.npz, which is written last."""
    try:
        stat = os.stat(file)
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror or exc}).") from exc
    key = key_of(_FORMAT, file, leaf, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return cache_folder() / "packs" / key


def _is_whole(pack: Path) -> bool:
    arrays = load_arrays(pack.with_suffix(".npz"))
    try:
        return arrays is not None and os.path.getsize(pack.with_suffix(".bin")) == arrays["ends"][-1]
    except (OSError, KeyError):
        return False


def _index(pack: Path) -> tuple[Any, Any]:
    """Ends of the images in the pack, from 0; rows that they lie in, and at last how many rows there are."""
    arrays = load_arrays(pack.with_suffix(".npz"))
    if arrays is None:
        raise ImageError(f"{pack}.npz: has gone while it was in use. Start again.")
    return arrays["ends"], arrays["rows"]


def _unpack(file: str, leaf: str, pack: Path) -> None:
    ends, rows = [0], []
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with _parquet(file) as table, open(temporary, "wb") as out:
            for values in _values(file, table, leaf, rows=_ROWS):
                for value in values:
                    if value is not None:
                        out.write(value)
                        ends.append(ends[-1] + len(value))
                        rows.append(count)
                    count += 1

    with needed():
        pack.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(pack.with_suffix(".bin"), write)
        index = {"ends": np.array(ends, np.int64), "rows": np.array([*rows, count], np.int64)}
        save_arrays(pack.with_suffix(".npz"), index)
