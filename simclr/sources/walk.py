"""Walk a folder of images in a stable order, and read one of them. Decodes nothing.

Takes a folder; gives `Found` files in the order of their paths, and `Skipped` ones with the reason. Training
(listing.py) and embedding list with the same rules:

- a file with an image's suffix counts; any other file counts if its first bytes are an image's;
- hidden files and folders, and the thumbnails that NAS boxes leave about, are skipped;
- links to folders are not followed (no loops) unless asked for, and then not where they lead back; links to files are.
"""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simclr.errors import ImageError
from simclr.images import HEAD_BYTES, SUFFIXES, sniff
from simclr.sources import places
from simclr.sources.patterns import ALL, Patterns
from simclr.sources.places import Place

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


@dataclass(frozen=True)
class LeftOut:
    """By a pattern: the user's own choice."""

    path: str


def scan(
    root: Path, *, patterns: Patterns = ALL, follow_links: bool = False
) -> Iterator[Found | Skipped | LeftOut]:
    """Walk a folder depth first, names in code-point order, so that two walks of one tree agree.

    `follow_links`: also into folders that are links. Raises ImageError if `root` is no folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ImageError(f"{root}: {what}. Give a folder of images.")
    above = (_identity(os.stat(root)),) if follow_links else None
    yield from _walk(os.fspath(root), "", patterns, above)


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


def is_image_member(name: str) -> bool:
    """Whether a member of a tar or zip is an image by its suffix, and neither hidden nor litter."""
    words = [word for word in name.split("/") if word not in ("", ".")]
    return bool(words) and has_image_suffix(words[-1]) and not any(map(unwanted, words))


def begins_as_image(path: str) -> bool:
    """Whether the first bytes of a file are an image's. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return sniff(file.read(HEAD_BYTES)) is not None


def read(root: Path, path: str) -> bytes:
    """The bytes of one listed file. Raises ImageError with the reason if it cannot be read."""
    return places.read(Place(os.path.join(root, path)))


Above = tuple[tuple[int, int], ...]
"""Device and inode of each folder on the way from the root."""


def _walk(
    folder: str, prefix: str, patterns: Patterns, above: Above | None
) -> Iterator[Found | Skipped | LeftOut]:
    """`above` is None where links to folders are not followed."""
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
        elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            if not patterns.enters(path):
                yield LeftOut(path)
            else:
                yield from _enter(entry, path, patterns, above)
        elif not patterns.takes(path):
            yield LeftOut(path)
        else:
            yield _file(entry, path)


def _enter(
    entry: os.DirEntry[str], path: str, patterns: Patterns, above: Above | None
) -> Iterator[Found | Skipped | LeftOut]:
    if above is None and entry.is_symlink():
        yield Skipped(path, "link to a folder")
        return
    if above is not None:
        try:
            here = _identity(entry.stat())
        except OSError as exc:
            yield Skipped(path, f"cannot be read: {exc.strerror or exc}", unreachable=True)
            return
        if here in above:
            yield Skipped(path, "link to a folder that it lies in")
            return
        above = (*above, here)
    yield from _walk(entry.path, path + "/", patterns, above)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


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
