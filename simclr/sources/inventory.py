"""A source -> its images as they are now, with size and stamp, for embedding.

Takes the word that the user gave; gives an `Inventory`: about 24 bytes and the name for each image, and the place of each,
from which a worker reads its bytes. Reads no image.
"""

import errno
import os
import stat as modes
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ConfigError, ImageError, SimclrError, reason
from simclr.sources import remote
from simclr.sources.cache import Note, filling
from simclr.sources.collection import Spans
from simclr.sources.contents import PACKING, contents_of
from simclr.sources.filters import EVERYTHING, Patterns
from simclr.sources.located import above, exists, joined, mtime_of, openable, real, remote_exists
from simclr.sources.members import Members, spans_of
from simclr.sources.names import Names
from simclr.sources.places import Place
from simclr.sources.recognise import PACKED, Recognised, kind_of, packed_in, recognise, relative
from simclr.sources.walk import (
    LEFT_OUT,
    UNPRINTABLE,
    Found,
    Skipped,
    has_image_suffix,
    scan,
    unprintable,
    unwanted,
)

Skip = Callable[[str, str], None]
"""Told the path of a file that is left out, and the reason."""


@dataclass(frozen=True)
class Inventory:
    """The images of one source as they are now."""

    kind: str
    """`folder`, `list`, `tar`, `zip` or `parquet`."""
    root: str
    """What names are relative to: the folder given (links in its path resolved), or the part of the word before its first
    brace or glob; absolute, or a URL. Of a list: the list itself; of Parquet files of paths, whose kind is `list`, too: the
    word, made absolute."""
    names: Names
    """Unique. Of a folder: paths. Of tar and zip files: file and member, of Parquet files: file (with #COLUMN where one was
    named) and row. Of a list: as it says."""
    sizes: NDArray[np.int64]
    """Bytes, unpacked; -1 unknown."""
    stamps: NDArray[np.int64]
    """mtime_ns of the file, or of the tar, zip or Parquet file it lies in; for remote ones a number that changes with what
    the server tells; 0 unknown."""
    spans: Spans | None = None
    """Of images in tar, zip and Parquet files: where they lie."""
    containers: tuple[str, ...] = ()
    """Files, relative to the root, that were named this time."""
    out_of_sight: tuple[str, ...] = field(default=())
    """Files and folders of which it is not known what they hold: the system refused, or they are damaged."""

    def place(self, i: int) -> Place:
        if self.spans is not None:
            return self.spans.place(i)
        return Place(openable(self.kind, self.root, self.names[i]))

    def gone(self, name: str) -> bool:
        """Whether a name that was here once and is not in `names` is gone, and not only out of sight.

        Out of sight is what the system refused to list or look at, and what lies in a tar, zip or Parquet file that still
        exists but was not named this time.
        """
        outer = above(name)
        if any(path in self._hidden for path in outer):
            return False
        if self.kind not in PACKED or any(path in self._named for path in outer):
            return True
        return not any(kind_of(path.partition("#")[0]) == self.kind and self._exists(path) for path in outer)

    @cached_property
    def _hidden(self) -> frozenset[str]:
        return frozenset(self.out_of_sight)

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self.containers)

    def _exists(self, container: str) -> bool:
        return exists(f"{self.root}/{container.partition('#')[0]}")


def take_inventory(word: str, *, patterns: Patterns, follow_links: bool, skip: Skip, note: Note) -> Inventory:
    """What a source holds; copies and unpacks what cannot be read where it lies.

    `skip` is told each file left out, but for what a pattern leaves out; `note` how many those are, and what takes long.
    Raises ImageError (nothing there, or no image), ConfigError (no source of images), MissingExtra.
    """
    remote_exists.cache_clear()
    found = recognise(word)
    _refuse_unspeakable(found)
    if found.kind == "folder":
        rows = _Rows(found, patterns, skip)
        entries = (
            _remote_scan(found.root, patterns)
            if found.is_remote
            else scan(Path(found.root), patterns=patterns, follow_links=follow_links)
        )
        for entry in entries:
            rows.take(entry)
        if len(rows.sizes) or rows.left_out_images:
            return rows.inventory("folder", real(found.root), note)
        found = _instead(found, rows, note)
        out_of_sight = tuple(rows.out_of_sight)
    else:
        out_of_sight = ()
    with filling(word, note=note):
        inventory = _of_files(found, patterns, skip, note)
    return replace(inventory, out_of_sight=(*inventory.out_of_sight, *out_of_sight))


def _refuse_unspeakable(found: Recognised) -> None:
    """A store keeps where its images lie as text."""
    try:
        real(found.root).encode()
        found.word.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"{found.source!a}: its path is not UTF-8, and no store can keep it. Rename it."
        ) from exc


def _instead(folder: Recognised, rows: "_Rows", note: Note) -> Recognised:
    """What a folder without images is taken for."""
    try:
        found = packed_in(folder, note=note)
    except SimclrError:
        rows.tell_skipped()
        if rows.left_out:
            raise ImageError(f"{folder.source}: {_nothing('folder', rows.left_out)}") from None
        raise
    rows.tell_skipped(but=found.kind)
    return found


class _Rows:
    """Names, sizes and stamps, gathered in little memory."""

    def __init__(self, found: Recognised, patterns: Patterns, skip: Skip) -> None:
        self.found, self.patterns, self.skip = found, patterns, skip
        self.blob = bytearray()
        self.sizes, self.stamps = array("q"), array("q")
        self.left_out = self.left_out_images = self.closed = 0
        self.out_of_sight: list[str] = []
        self._waiting: list[tuple[str, str]] = []
        """Skipped before the first image: they may turn out to be what the source is made of."""

    def take(self, entry: Found | Skipped) -> None:
        if isinstance(entry, Found):
            if self._waiting:
                self.tell_skipped()
            self.blob += entry.path.encode() + b"\n"
            self.sizes.append(entry.size)
            self.stamps.append(entry.mtime_ns)
        elif entry.reason is LEFT_OUT:
            self.left_out += 1
            self.left_out_images += has_image_suffix(entry.path)
            self.closed += entry.path.endswith("/")
        else:
            if self.sizes:
                self.skip(entry.path, entry.reason)
            else:
                self._waiting.append((entry.path, entry.reason))
            if entry.unreachable:
                self.out_of_sight.append(entry.path)

    def tell_skipped(self, *, but: str = "") -> None:
        """Of those skipped so far; not of files of the kind `but`."""
        for path, why in self._waiting:
            if not but or kind_of(path) != but:
                self.skip(path, why)
        self._waiting.clear()

    def inventory(self, kind: str, root: str, note: Note) -> Inventory:
        self.tell_skipped()
        if self.left_out:
            note(f"{self.found.source}: {_counted(self.left_out, self.closed)} left out by the patterns")
        if not self.sizes:
            raise ImageError(f"{self.found.source}: {_nothing(kind, self.left_out)}")
        names = Names.of_lines(bytes(memoryview(self.blob)[:-1]))
        return Inventory(
            kind,
            root,
            names,
            np.frombuffer(self.sizes, np.int64),
            np.frombuffer(self.stamps, np.int64),
            out_of_sight=tuple(self.out_of_sight),
        )


def _nothing(kind: str, left_out: int) -> str:
    if left_out:
        return "the patterns leave no image in it. Mend --include or --exclude."
    if kind == "list":
        return "none of the files it names can be found. Mend its paths: they are relative to its folder."
    return "no image found in it or below. Give a folder that holds images."


def _counted(all_: int, folders: int) -> str:
    files = all_ - folders
    return " and ".join(
        [f"{files:,} files"] * (files > 0 or not folders) + [f"{folders:,} folders"] * (folders > 0)
    )


# ---- a remote folder


def _remote_scan(root: str, patterns: Patterns) -> Iterator[Found | Skipped]:
    """As `walk.scan`, by suffix only: looking at first bytes would be a request a file."""
    levels = [("", iter(remote.entries(root)))]
    while levels:
        prefix, entries = levels[-1]
        for entry in entries:
            path = prefix + entry.name
            if why := unwanted(entry.name):
                yield Skipped(path, why)
            elif entry.is_folder and patterns.closes(path):
                yield Skipped(path + "/", LEFT_OUT)
            elif entry.is_folder:
                try:
                    levels.append((path + "/", iter(remote.entries(f"{root}/{path}"))))
                    break
                except ImageError as exc:
                    yield Skipped(path, f"folder cannot be listed: {reason(exc)}", unreachable=True)
            elif not patterns.takes(path):
                yield Skipped(path, LEFT_OUT)
            elif not has_image_suffix(entry.name):
                yield Skipped(path, "not an image by its suffix")
            else:
                yield Found(path, entry.size, entry.stamp)
        else:
            levels.pop()


# ---- lists, tar, zip and Parquet files


def _of_files(found: Recognised, patterns: Patterns, skip: Skip, note: Note) -> Inventory:
    shorts = [relative(file, found.root) for file in found.files]
    wanted_shorts = [short for short in shorts if found.kind == "list" or not patterns.closes(short)]
    if not wanted_shorts:
        raise ImageError(f"{found.source}: {_nothing(found.kind, 1)}")
    files = [joined(found.root, short) for short in wanted_shorts]  # as `locate` calls them
    copies = remote.copies(files, note=note) if found.is_remote else None
    here = [copy.path for copy in copies] if copies else files
    contents = contents_of(found, here, wanted_shorts, root=found.root, note=note)
    if isinstance(contents, Names):
        rows = _Rows(found, patterns, skip)
        for name in contents:
            rows.take(_named_file(name, found.root, patterns))
        return rows.inventory("list", found.word, note)
    stamps = [copy.stamp for copy in copies] if copies else [mtime_of(file) for file in files]
    if found.column is not None:
        wanted_shorts = [f"{short}#{found.column}" for short in wanted_shorts]
    return _packed(found, shorts, wanted_shorts, contents, stamps, patterns, skip, note)


def _named_file(name: str, base: str, patterns: Patterns) -> Found | Skipped:
    """A file that a list names."""
    if unprintable(name):
        return Skipped(name, UNPRINTABLE)
    if not patterns.takes(name):
        return Skipped(name, LEFT_OUT)
    file = joined(base, name)
    if remote.is_url(file):
        return Found(name, -1, 0)
    try:
        stat = os.stat(file)
    except (OSError, ValueError) as exc:
        missing = isinstance(exc, OSError) and exc.errno in (errno.ENOENT, errno.ENOTDIR)
        why = exc.strerror if isinstance(exc, OSError) else None
        return Skipped(name, f"cannot be read: {why or exc}", unreachable=not missing)
    if not modes.S_ISREG(stat.st_mode):
        return Skipped(name, "not a regular file")
    return Found(name, stat.st_size, stat.st_mtime_ns)


def _packed(
    found: Recognised,
    containers: Sequence[str],
    shorts: Sequence[str],
    members: Sequence[Members],
    stamps: Sequence[int],
    patterns: Patterns,
    skip: Skip,
    note: Note,
) -> Inventory:
    for short, one in zip(shorts, members, strict=True):
        for name, why in one.left_out:
            if patterns.takes(f"{short}/{name}"):
                skip(f"{short}/{name}", why)
    spans = spans_of(found.source, shorts, members, packing=PACKING[found.kind])
    sizes = np.concatenate([one.sizes for one in members])
    stamp_of = np.array(stamps, np.int64)[spans.file_of]
    if patterns != EVERYTHING:
        keep = np.array([patterns.takes(name) for name in spans.names], np.bool_)
        if not keep.all():
            note(f"{found.source}: {_counted(int((~keep).sum()), 0)} left out by the patterns")
        if not keep.any():
            raise ImageError(f"{found.source}: {_nothing(found.kind, 1)}")
        spans, sizes, stamp_of = spans.only(keep), sizes[keep], stamp_of[keep]
    column = "" if found.column is None else f"#{found.column}"
    return Inventory(
        found.kind,
        real(found.root),
        spans.names,
        sizes,
        stamp_of,
        spans,
        containers=tuple(f"{container}{column}" for container in containers),
        out_of_sight=tuple(short for short, one in zip(shorts, members, strict=True) if one.fault),
    )
