"""Walk a folder of images in a stable order, and read one of them. Decodes nothing.

Takes a folder; gives `Found` files in the order of their paths, and `Skipped` ones with the reason. Training
(listing.py) and embedding list with the same rules:

- a file with an image's suffix counts; any other file counts if its first bytes are an image's;
- hidden files and folders, and the thumbnails that NAS boxes leave about, are skipped;
- links to files are followed; links to folders only where that is asked for, and never in a loop.
"""

import os
import stat as modes
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from simclr.errors import ImageError
from simclr.images import HEAD_BYTES, SUFFIXES, sniff
from simclr.sources.filters import EVERYTHING, Patterns

FILE_LIMIT = 1 << 30
"""Largest file read, in bytes."""

_LITTER = frozenset(("@eaDir", "__MACOSX", "Thumbs.db", "desktop.ini"))
_NOT_IN_NAMES = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories: control characters, surrogates (bytes that are no UTF-8 arrive as such), line breaks.

Not `isprintable`, which also refuses the narrow space in the names of macOS screenshots, and joined emoji.
"""


UNPRINTABLE = "its name holds control characters or is not UTF-8; rename it"
LEFT_OUT = "left out by a pattern"
"""The reason of those; such a folder's path ends with a slash, and nothing below it is named."""


class Found(NamedTuple):
    path: str
    """Relative to the root, with forward slashes."""
    size: int
    """Bytes."""
    mtime_ns: int


class Skipped(NamedTuple):
    path: str
    reason: str
    unreachable: bool = False
    """The operating system refused: what lies there is unknown, not gone."""


def scan(
    root: Path, *, patterns: Patterns = EVERYTHING, follow_links: bool = False
) -> Iterator[Found | Skipped]:
    """Walk a folder depth first, names in code-point order, so that two walks of one tree agree.

    With `follow_links`, links to folders are walked into, unless they lead back to a folder on the way there. Raises ImageError if `root` is no folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ImageError(f"{root}: {what}. Give a folder of images.")
    return _walk(os.fspath(root), patterns, follow_links)


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
    return UNPRINTABLE if unprintable(name) else None


def unprintable(name: str) -> bool:
    """Whether a name holds control characters, or bytes that are no UTF-8."""
    return not (name.isascii() and name.isprintable()) and any(  # letter by letter takes microseconds a name
        unicodedata.category(letter) in _NOT_IN_NAMES for letter in name
    )


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


class _Level(NamedTuple):
    """A folder that is being walked."""

    prefix: str
    names: Iterator[str]
    folders: set[str]
    links: set[str]
    identity: tuple[int, int]
    """Device and inode; zeros where links are not followed."""


def _walk(top: str, patterns: Patterns, follow: bool) -> Iterator[Found | Skipped]:
    levels: list[_Level] = []  # no recursion: folders may lie deeper than Python's stack
    entered: _Level | Skipped | None = _enter(top, "", follow)
    while True:
        if isinstance(entered, Skipped):
            yield entered
        elif entered is not None:
            levels.append(entered)
        entered = None
        if not levels:
            return
        prefix, names, folders, links, _ = levels[-1]
        for name in names:
            path = prefix + name
            whole = f"{top}/{path}"
            linked = name in links
            if why := unwanted(name):
                yield Skipped(path, why)
            elif name in folders or (linked and os.path.isdir(whole)):
                if patterns.closes(path):
                    yield Skipped(path + "/", LEFT_OUT)
                elif linked and not follow:
                    yield Skipped(path, "link to a folder")
                elif follow and (back := _way_back(whole, levels)) is not None:
                    yield Skipped(path, f"link that leads back to {back}")
                else:
                    entered = _enter(whole, path + "/", follow)
                    break
            elif not patterns.takes(path):
                yield Skipped(path, LEFT_OUT)
            else:
                yield _file(whole, path)
        else:
            levels.pop()


def _enter(folder: str, prefix: str, follow: bool) -> _Level | Skipped:
    names: list[str] = []  # a million DirEntry objects would take 0.3 GB
    folders: set[str] = set()
    links: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
        identity = _identity(folder) if follow else (0, 0)
    except OSError as exc:
        path = prefix.rstrip("/") or "."
        return Skipped(path, f"folder cannot be listed: {exc.strerror or exc}", unreachable=True)
    names.sort()
    return _Level(prefix, iter(names), folders, links, identity)


def _way_back(folder: str, levels: list[_Level]) -> str | None:
    """The folder on the way here that this one is."""
    try:
        identity = _identity(folder)
    except OSError:  # entering it says why
        return None
    return next((level.prefix.rstrip("/") or "." for level in levels if level.identity == identity), None)


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _file(whole: str, path: str) -> Found | Skipped:
    try:
        stat = os.stat(whole)
        if not modes.S_ISREG(stat.st_mode):
            return Skipped(path, "not a regular file")
        if not has_image_suffix(path) and not begins_as_image(whole):
            return Skipped(path, "not an image of a known format")
    except OSError as exc:
        gone = isinstance(exc, FileNotFoundError)  # a link whose target is no more
        return Skipped(path, f"cannot be read: {exc.strerror or exc}", unreachable=not gone)
    return Found(path, stat.st_size, stat.st_mtime_ns)
