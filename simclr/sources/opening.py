"""What is this source? A folder, a list of files, tar shards, zips or Parquet files, here or behind a URL.

Takes the word that the user gave. `open_collection` makes a Collection of it for training; `inventory.py` asks the same
questions for embedding. Reads no image.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
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
from simclr.sources.zips import open_zips

_FORMS = (
    "Give a folder of images, a list of files (.txt, .lst, .list), tar shards (such as shards/{000..099}.tar), zips or "
    "Parquet files (such as data/*.parquet)"
)
_KINDS = {
    ".txt": "list",
    ".lst": "list",
    ".list": "list",
    ".tar": "tar",
    ".zip": "zip",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_WORDS = {"tar": "tar", "zip": "zip", "parquet": "Parquet"}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Named:
    """What a word stands for."""

    source: str
    """The word, for messages."""
    kind: str
    """folder, list, tar, zip or parquet."""
    origins: tuple[str, ...]
    """Absolute paths or URLs: the folder, the list, or the larger files."""
    files: tuple[str, ...]
    """The same on this machine; nothing for a folder."""
    column: str | None = None
    """Of Parquet files, where it is named."""


def open_collection(source: str, *, note: Note) -> Collection:
    """Find and list the images of a source; copies and unpacks what cannot be read where it lies.

    On one machine, one process at a time does this for the same source. `note` is told what takes long or is left out.
    Raises ImageError (nothing there, or no image), ConfigError (no source of images), MissingExtra.
    """
    with filling(local_word(source), note=note):
        named = resolve(source, note=note)
        if named.kind == "folder":
            (folder,) = named.origins
            if not remote.is_url(folder):
                names = image_names(Path(source.removeprefix("file://")), note=note)
                if len(names):
                    return Files(source, names, folder)
            named = larger_files_in(named, note=note)
        return _collect(named, note)


def _collect(named: Named, note: Note) -> Collection:
    """Names of the images without the folders that all of the larger files lie in."""
    source, files = named.source, named.files
    if named.kind == "list":
        names = read_list(source, files[0], note=note)
        return Files(source, Names.of(names), parent(named.origins[0]))
    labels = patterns.short_names(list(named.origins))
    if named.kind == "tar":
        return open_tars(source, labels, files, note=note)
    if named.kind == "zip":
        return open_zips(source, labels, files, skip=lambda path, reason: note(f"{path}: {reason}"))
    root = parent(named.origins[0])
    if len(files) > 1 and not remote.is_url(root):
        root = os.path.commonpath([parent(file) for file in named.origins])
    return open_parquet(source, labels, files, column=named.column, root=root, note=note)


def resolve(source: str, *, note: Note) -> Named:
    """What a word stands for; larger files behind URLs are copied. Raises ImageError, ConfigError, MissingExtra."""
    word = local_word(source)
    if not remote.is_url(word) and os.path.isdir(word):
        return Named(source, "folder", (os.path.abspath(word),), ())
    word, column = _split_column(word)
    if remote.is_url(word):
        origins = remote.find(word)
        if len(origins) == 1 and not kind_of(origins[0]) and not has_image_suffix(origins[0]):
            return Named(source, "folder", (origins[0].rstrip("/"),), ())
    else:
        origins = patterns.local_files(word)
        _refuse_missing(source, word, origins)
    if not origins:
        raise ImageError(f"{source}: no file matches. {_FORMS}.")
    return _of_one_kind(source, origins, column, note)


def larger_files_in(named: Named, *, note: Note) -> Named:
    """The tar, zip or Parquet files of a folder that holds no image, those for training where their names say so.

    Says which. Raises ImageError or ConfigError where there are none.
    """
    source, (folder,) = named.source, named.origins
    if remote.is_url(folder):
        files = remote.inside(folder)
    else:
        files = []
        for place, folders, inner in os.walk(folder):
            folders[:] = sorted(name for name in folders if not unwanted(name))
            files += [os.path.join(place, name) for name in sorted(inner) if not unwanted(name)]
    found = [file for file in files if kind_of(file) in ("tar", "zip", "parquet")]
    kinds = [kind for kind in _WORDS if any(kind_of(file) == kind for file in found)]
    if len(kinds) > 1:
        raise ConfigError(
            f"{source}: holds {' and '.join(_WORDS[kind] for kind in kinds)} files. Say which: {source.rstrip('/')}/*.{kinds[0]}"
        )
    if not found and remote.is_url(folder):
        raise ConfigError(
            f"{source}: neither tar, zip, Parquet nor a list, nor a folder that holds such files. Copy folders of images here first."
        )
    if not found:
        _refuse_compressed(files)
        raise ImageError(f"{source}: no image found in it or below. Give a folder that holds images.")
    train = [file for file in found if os.path.basename(file).startswith("train")]
    if train and len(train) < len(found):
        note(
            f"{source}: no image in it; reading its {len(train)} {kinds[0]} files named train*, of {len(found)}"
        )
        found = train
    else:
        note(f"{source}: no image in it; reading its {len(found)} {kinds[0]} files")
    return _of_one_kind(source, found, None, note)


def _of_one_kind(source: str, origins: Sequence[str], column: str | None, note: Note) -> Named:
    """Files here or behind URLs, which are copied."""
    _refuse_compressed(origins)
    kinds = {kind_of(file) for file in origins}
    if len(kinds) > 1 or kinds == {""}:
        file = next(file for file in origins if not kind_of(file) or len(kinds) > 1)
        if has_image_suffix(file):
            raise ConfigError(
                f"{source}: one image, or several. Give their folder, or a list of them in a .txt file."
            )
        raise ConfigError(
            f"{source}: {'not a folder' if len(origins) == 1 else 'files of several kinds'}. {_FORMS}."
        )
    (kind,) = kinds
    if kind == "list" and len(origins) > 1:
        raise ConfigError(f"{source}: several lists. Join them to one file.")
    files = remote.copies(origins, note=note) if remote.is_url(origins[0]) else origins
    return Named(source, kind, tuple(origins), tuple(files), column)


def _refuse_missing(source: str, word: str, files: Sequence[str]) -> None:
    missing = [file for file in files if not os.path.exists(file)]
    if missing and len(files) > 1:
        raise ImageError(
            f"{source}: {len(missing)} of its {len(files)} files are missing, such as {missing[0]}. Mend its name."
        )
    if missing:
        what, give = ("file", "Mend its name") if kind_of(word) else ("folder", "Give a folder of images")
        raise ImageError(f"{source}: no such {what}. {give}.")


def local_word(source: str) -> str:
    return source.removeprefix("file://") if source.startswith("file:///") else source


def parent(file: str) -> str:
    return posixpath.dirname(file) if remote.is_url(file) else os.path.dirname(file)


def read_list(source: str, file: str, *, note: Note) -> dict[str, None]:
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
    return names


def _split_column(word: str) -> tuple[str, str | None]:
    """`FILE.parquet#COLUMN` -> file and column."""
    file, _, column = word.rpartition("#")
    return (
        (file, column) if column and kind_of(file) == "parquet" and not os.path.exists(word) else (word, None)
    )


def kind_of(file: str) -> str:
    """`tar`, `zip`, `parquet`, `list`, or nothing."""
    name = file.partition("?")[0] if file.startswith("http") else file
    return _KINDS.get(os.path.splitext(name)[1].lower(), "")


def _refuse_compressed(files: Sequence[str]) -> None:
    for file in files:
        if file.lower().endswith(_COMPRESSED):
            raise ConfigError(
                f"{file}: a compressed tar, in which no single image can be found. Decompress it first: gunzip, unzstd, ..."
            )
