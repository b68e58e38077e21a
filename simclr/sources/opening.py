"""What is this source? A folder, a list of files, tar shards or Parquet files, here or behind a URL.

Takes the word that the user gave, and gives a Collection. Reads no image.
"""

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from simclr.errors import ConfigError, ImageError
from simclr.sources import patterns, remote
from simclr.sources.cache import Note, filling
from simclr.sources.collection import Collection, Files
from simclr.sources.listing import image_names
from simclr.sources.names import Names
from simclr.sources.parquet import open_parquet
from simclr.sources.tar import open_tars
from simclr.sources.walk import has_image_suffix, unwanted

_FORMS = (
    "Give a folder of images, a list of files (.txt, .lst, .list), tar shards (such as shards/{000..099}.tar) or "
    "Parquet files (such as data/*.parquet)"
)
_SHARDS = {".tar": "tar", ".parquet": "parquet", ".pq": "parquet"}
_LISTS = (".txt", ".lst", ".list")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_collection(source: str, *, note: Note) -> Collection:
    """Find and list the images of a source; copies and unpacks what cannot be read where it lies.

    On one machine, one process at a time does this for the same source. `note` is told what takes long or is left out.
    Raises ImageError (nothing there, or no image), ConfigError (no source of images), MissingExtra.
    """
    word = source.removeprefix("file://") if source.startswith("file:///") else source
    with filling(word, note=note):
        if remote.is_url(word):
            return _open_remote(source, word, note)
        if os.path.isdir(word):
            return _open_folder(source, Path(word), note)
        return _open_files(source, word, note)


def _open_folder(source: str, folder: Path, note: Note) -> Collection:
    names = image_names(folder, note=note)
    if len(names):
        return Files(source, names, str(folder))
    files = []
    for place, folders, inner in os.walk(folder):
        folders[:] = sorted(name for name in folders if not unwanted(name))
        files += [os.path.join(os.path.abspath(place), name) for name in sorted(inner) if not unwanted(name)]
    shards = _shards_among(source, files, note)
    if not shards:
        _refuse_compressed(files)
        raise ImageError(f"{source}: no image found in it or below. Give a folder that holds images.")
    return _open_shards(source, shards, shards, None, os.path.abspath(folder), note)


def _open_files(source: str, word: str, note: Note) -> Collection:
    word, column = _split_column(word)
    files = patterns.local_files(word)
    if not files:
        raise ImageError(f"{source}: no file matches. {_FORMS}.")
    missing = [file for file in files if not os.path.exists(file)]
    if missing and len(files) > 1:
        raise ImageError(
            f"{source}: {len(missing)} of its {len(files)} files are missing, such as {missing[0]}. Mend its name."
        )
    if missing:
        what, give = ("file", "Mend its name") if _kind(word) else ("folder", "Give a folder of images")
        raise ImageError(f"{source}: no such {what}. {give}.")
    root = os.path.dirname(files[0]) if len(files) == 1 else os.path.commonpath(map(os.path.dirname, files))
    return _open_named(source, files, column, root, note)


def _open_remote(source: str, word: str, note: Note) -> Collection:
    word, column = _split_column(word)
    urls = remote.find(word)
    if not urls:
        raise ImageError(f"{source}: no file matches. {_FORMS}.")
    if len(urls) == 1 and not _kind(urls[0]):
        urls = _shards_among(source, remote.inside(urls[0]), note)
        if not urls:
            raise ConfigError(
                f"{source}: neither tar, Parquet nor a list, nor a folder that holds such files. Copy folders of images here first."
            )
    return _open_named(source, urls, column, posixpath.dirname(urls[0]), note)


def _open_named(source: str, origins: list[str], column: str | None, root: str, note: Note) -> Collection:
    """Files of one kind, here or behind URLs."""
    _refuse_compressed(origins)
    kinds = {_kind(file) for file in origins}
    if len(kinds) > 1 or kinds == {""}:
        file = next(file for file in origins if not _kind(file) or len(kinds) > 1)
        if has_image_suffix(file):
            raise ConfigError(
                f"{source}: one image, or several. Give their folder, or a list of them in a .txt file."
            )
        raise ConfigError(
            f"{source}: {'not a folder' if len(origins) == 1 else 'files of several kinds'}. {_FORMS}."
        )
    files = remote.copies(origins, note=note) if remote.is_url(origins[0]) else origins
    if kinds == {"list"}:
        if len(files) > 1:
            raise ConfigError(f"{source}: several lists. Join them to one file.")
        return _open_list(source, files[0], root, note)
    return _open_shards(source, origins, files, column, root, note)


def _open_shards(
    source: str, origins: Sequence[str], files: Sequence[str], column: str | None, root: str, note: Note
) -> Collection:
    if _kind(origins[0]) == "tar":
        return open_tars(source, origins, files, note=note)
    return open_parquet(source, origins, files, column=column, root=root, note=note)


def _open_list(source: str, file: str, root: str, note: Note) -> Files:
    """One path or URL a line, relative to the list's folder or absolute. A line that begins with # is a remark (a file of
    such a name is written ./#...). Files that are missing show when they are read."""
    names: dict[str, None] = {}
    repeated = 0
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for line in lines:
                name = line.strip()
                if name and not name.startswith("#"):
                    repeated += name in names
                    names[name] = None
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{source}: is no text in UTF-8 (byte {exc.start:,}). Write one path a line."
        ) from exc
    except OSError as exc:
        raise ImageError(f"{source}: cannot be read ({exc.strerror or exc}).") from exc
    if not names:
        raise ImageError(f"{source}: names no file. Write one path a line.")
    if repeated:
        note(f"{source}: {repeated} lines repeat an earlier one; each file is taken once")
    return Files(source, Names.of(names), root)


def _shards_among(source: str, files: Sequence[str], note: Note) -> list[str]:
    """The tar or Parquet files among these; those for training where their names say so. Says which."""
    shards = [file for file in files if _kind(file) in ("tar", "parquet")]
    kinds = {_kind(file) for file in shards}
    if len(kinds) > 1:
        raise ConfigError(f"{source}: holds tar and Parquet files. Say which: {source.rstrip('/')}/*.tar")
    train = [file for file in shards if os.path.basename(file).startswith("train")]
    if train and len(train) < len(shards):
        note(
            f"{source}: no image in it; reading its {len(train)} {kinds.pop()} files named train*, of {len(shards)}"
        )
        return train
    if shards:
        note(f"{source}: no image in it; reading its {len(shards)} {kinds.pop()} files")
    return shards


def _split_column(word: str) -> tuple[str, str | None]:
    """`FILE.parquet#COLUMN` -> file and column."""
    file, _, column = word.rpartition("#")
    return (
        (file, column) if column and _kind(file) == "parquet" and not os.path.exists(word) else (word, None)
    )


def _kind(file: str) -> str:
    """`tar`, `parquet`, `list`, or nothing."""
    name = file.partition("?")[0] if file.startswith("http") else file
    suffix = os.path.splitext(name)[1].lower()
    return "list" if suffix in _LISTS else _SHARDS.get(suffix, "")


def _refuse_compressed(files: Sequence[str]) -> None:
    for file in files:
        if file.lower().endswith(_COMPRESSED):
            raise ConfigError(
                f"{file}: a compressed tar, in which no single image can be found. Decompress it first: gunzip, unzstd, ..."
            )
