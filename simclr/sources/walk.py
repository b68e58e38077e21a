"""Walk a folder of images in a stable order, and read one of them. Decodes nothing.

Takes a folder; gives `Found` files in the order of their paths, and `Skipped` ones with the reason. Training
(listing.py) and embedding list with the same rules:

- a file with an image's suffix counts; any other file counts if its first bytes are an image's;
- hidden files and folders, and the thumbnails that NAS boxes leave about, are skipped;
- links to folders are not followed (no loops); links to files are.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simclr.errors import ImageError
from simclr.images import HEAD_BYTES, SUFFIXES, sniff

FILE_LIMIT = 1 << 30
"""Largest file read, in bytes."""

_LITTER = frozenset(("@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini"))
_NOT_IN_NAMES = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories: control characters, surrogates (bytes that are no UTF-8 arrive as such), line breaks.

Not `isprintable`, which also refuses the narrow space in the names of macOS screenshots, and joined emoji.
"""


@dataclass(frozen=True)
class Found:
    path: str
    """Relative to the root, with forward slashes."""
    size: int
    """Bytes."""
    mtime_ns: int


@dataclass(frozen=True)
class Skipped:
    path: str
    reason: str
    unreachable: bool = False
    """The operating system refused: what lies there is unknown, not gone."""


def scan(root: Path) -> Iterator[Found | Skipped]:
    """Walk a folder depth first, names in code-point order, so that two walks of one tree agree.

    Raises ImageError if `root` is no folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ImageError(f"{root}: {what}. Give a folder of images.")
    yield from _walk(os.fspath(root), "")


def list_images(root: Path) -> list[str]:
    """Relative paths of the images below a folder. Raises ImageError if there is none."""
    paths = [entry.path for entry in scan(root) if isinstance(entry, Found)]
    if not paths:
        raise ImageError(f"{root}: no image found in it or below. Give a folder that holds images.")
    return paths


def unwanted(name: str) -> str | None:
    """Why a file or folder of this name is left out, whatever it holds; None if it is not."""
    if name.startswith("."):
        return "hidden"
    if name in _LITTER:
        return "not part of the collection"
    if not (name.isascii() and name.isprintable()) and any(  # letter by letter takes microseconds a name
        unicodedata.category(letter) in _NOT_IN_NAMES for letter in name
    ):
        return "its name holds control characters or is not UTF-8; rename it"
    return None


def has_image_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES


def begins_as_image(path: str) -> bool:
    """Whether the first bytes of a file are an image's. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return sniff(file.read(HEAD_BYTES)) is not None


def read(root: Path, path: str) -> bytes:
    """The bytes of one listed file. Raises ImageError with the reason if it cannot be read."""
    try:
        with open(root / path, "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > FILE_LIMIT:
                raise ImageError(f"too large: {size:,} bytes is above the limit of {FILE_LIMIT:,}")
            return file.read()
    except OSError as exc:
        raise ImageError(f"cannot be read: {exc.strerror or exc}") from exc


def _walk(folder: str, prefix: str) -> Iterator[Found | Skipped]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as exc:
        yield Skipped(
            prefix.rstrip("/") or ".", f"folder cannot be listed: {exc.strerror or exc}", unreachable=True
        )
        return
    for entry in ordered:
        path = prefix + entry.name
        if why := unwanted(entry.name):
            yield Skipped(path, why)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, path + "/")
        elif entry.is_symlink() and os.path.isdir(entry.path):
            yield Skipped(path, "link to a folder")
        else:
            yield _file(entry, path)


def _file(entry: os.DirEntry[str], path: str) -> Found | Skipped:
    try:
        stat = entry.stat()
        if not os.path.isfile(entry.path):
            return Skipped(path, "not a regular file")
        if not has_image_suffix(entry.name) and not begins_as_image(entry.path):
            return Skipped(path, "not an image of a known format")
    except OSError as exc:
        return Skipped(path, f"cannot be read: {exc.strerror or exc}", unreachable=True)
    return Found(path, stat.st_size, stat.st_mtime_ns)
