"""The images of a source as they are now, each with its size, a stamp that changes when it does, and its place: for embedding.

Sixteen bytes an image beside its name: a million files fit. Decodes nothing.
"""

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ImageError
from simclr.sources import remote
from simclr.sources.cache import Note, filling
from simclr.sources.collection import Collection, Files, Spans, join
from simclr.sources.names import Names
from simclr.sources.opening import Named, kind_of, larger_files_in, local_word, read_list, resolve
from simclr.sources.parquet import open_parquet
from simclr.sources.patterns import Patterns, fixed_part
from simclr.sources.places import Place
from simclr.sources.tar import open_tars
from simclr.sources.walk import Found, LeftOut, Skipped, has_image_suffix, scan, unwanted
from simclr.sources.zips import open_zips

Skip = Callable[[str, str], None]
"""Is told the name of an image that is left out, and why."""

_LARGER = ("tar", "zip", "parquet")


@dataclass(frozen=True)
class Inventory:
    kind: str
    """folder, list, tar, zip or parquet."""
    root: str
    """What names are relative to: an absolute folder or a URL; of a list (also one in Parquet files), the list itself."""
    names: Names
    """Unique. Of an image in a larger file: that file's name relative to the root, a slash, the name in it."""
    sizes: NDArray[np.int64]
    """Bytes; -1 where nobody has said."""
    stamps: NDArray[np.int64]
    """mtime_ns of the file, or of the larger one that it lies in; of a URL, what its server tells, as a number; 0 if nothing."""
    collection: Collection
    items: NDArray[np.int64] | None = None
    """Numbers of the images in the collection, where some of it is left out."""
    out_of_sight: frozenset[str] = field(default_factory=frozenset)
    """Files and folders that could not be looked at, and larger files that end early: what was there is not gone."""
    larger: frozenset[str] = field(default_factory=frozenset)
    """Names of the larger files that were looked into."""

    def place(self, i: int) -> Place:
        return self.collection.place(i if self.items is None else int(self.items[i]))

    def gone(self, name: str) -> bool:
        """Whether an image of this source that had this name is gone, and not only out of sight."""
        if self.kind in _LARGER:
            file = next(iter(_larger_files(name)), "")
            if file not in self.larger and (
                remote.is_url(self.root) or os.path.exists(f"{self.root}/{file.partition('#')[0]}")
            ):
                return False  # it was not asked for this time
        return not self.out_of_sight.intersection((".", name, *_above(name)))


def take_inventory(
    word: str, *, patterns: Patterns, follow_links: bool = False, skip: Skip, note: Note
) -> Inventory:
    """`word` names a source as for `open_collection`; folders behind URLs may hold images, too.

    Raises ImageError (nothing there, or no image), ConfigError (no source of images), MissingExtra.
    """
    with filling(local_word(word), note=note):
        named = resolve(word, note=note)
        if named.kind == "folder":
            (folder,) = named.origins
            look = _remote_folder if remote.is_url(folder) else _folder
            inventory, left_out = look(folder, patterns, follow_links, skip)
            if left_out:
                note(f"{word}: {left_out:,} files and folders left out by --include and --exclude")
            if len(inventory.names):
                return inventory
            if left_out:
                raise ImageError(
                    f"{word}: --include and --exclude leave no image of it. Give others; folders and names count, from {folder} on."
                )
            named = larger_files_in(named, note=note)
            return _chosen(_larger(named, folder, skip, note), patterns, word, note)
        root = f"{fixed_part(local_word(word))}"
        found = _list(named, skip, note) if named.kind == "list" else _larger(named, root, skip, note)
        return _chosen(found, patterns, word, note)


def openable(kind: str, root: str, name: str) -> str:
    """Path or URL of an image of an inventory; `place_of` finds it again."""
    return join(fixed_part(root) if kind == "list" else root, name)


def place_of(path: str) -> Place:
    """Where the bytes of an image are that `openable` has named. Raises ImageError with the reason, without a path."""
    if remote.is_url(path) or not os.path.isfile(path):
        for file in _larger_files(path):
            plain, _, column = file.partition("#")
            if remote.is_url(path) or os.path.isfile(plain):
                collection, numbers = _opened(file, plain, column or None)
                number = numbers.get(path[len(file) + 1 :])
                if number is None:
                    raise ImageError(f"cannot be read: no longer in {plain}")
                return collection.place(number)
    return Place(path if remote.is_url(path) else os.path.abspath(path))


# ---- folders


class _Rows:
    """Names, sizes and stamps as they come, in little memory."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._sizes, self._stamps = array("q"), array("q")
        self._starts = array("q", [0])

    def add(self, name: str, size: int, stamp: int) -> None:
        self._blob += name.encode()
        self._blob += b"\n"
        self._starts.append(len(self._blob))
        self._sizes.append(size)
        self._stamps.append(stamp)

    def __len__(self) -> int:
        return len(self._sizes)

    def inventory(self, kind: str, root: str, folder: str, out_of_sight: frozenset[str]) -> Inventory:
        names = Names(bytes(self._blob[:-1]), np.array(self._starts, np.int64))
        sizes, stamps = np.array(self._sizes, np.int64), np.array(self._stamps, np.int64)
        return Inventory(
            kind, root, names, sizes, stamps, Files(root, names, folder), out_of_sight=out_of_sight
        )


def _folder(folder: str, patterns: Patterns, follow_links: bool, skip: Skip) -> tuple[Inventory, int]:
    """With the number of files and folders that the patterns leave out."""
    root = os.path.realpath(folder)
    rows, out_of_sight, left_out = _Rows(), [], 0
    before: list[Skipped] = []
    """Found before the first image: if there is none, the folder's larger files are the source, and these are not skipped."""
    for entry in scan(Path(root), patterns=patterns, follow_links=follow_links):
        if isinstance(entry, Found):
            for skipped in before:
                skip(skipped.path, skipped.reason)
            before.clear()
            rows.add(entry.path, entry.size, entry.mtime_ns)
        elif isinstance(entry, LeftOut):
            left_out += 1
        else:
            if len(rows):
                skip(entry.path, entry.reason)
            else:
                before.append(entry)
            if entry.unreachable:
                out_of_sight.append(entry.path)
    return rows.inventory("folder", root, root, frozenset(out_of_sight)), left_out


def _remote_folder(url: str, patterns: Patterns, follow_links: bool, skip: Skip) -> tuple[Inventory, int]:
    """By suffix alone: nothing is opened that may be no image."""
    rows, left_out = _Rows(), 0

    def enters(folder: str) -> bool:
        nonlocal left_out
        if why := unwanted(folder.rpartition("/")[2]):
            skip(folder, why)
            return False
        meant = patterns.enters(folder)
        left_out += not meant
        return meant

    for folder, files in remote.walk(url, enters=enters):
        for name, facts in files:
            if why := unwanted(name) or ("" if has_image_suffix(name) else "not an image by its suffix"):
                skip(folder + name, why)
            elif not patterns.takes(folder + name):
                left_out += 1
            else:
                size = facts.get("size")
                rows.add(folder + name, size if isinstance(size, int) else -1, remote.stamp(facts))
    return rows.inventory("folder", url, url, frozenset()), left_out


# ---- lists


def _list(named: Named, skip: Skip, note: Note) -> Inventory:
    (origin,), (file,) = named.origins, named.files
    return _listed(origin, fixed_part(origin), read_list(named.source, file, note=note), skip)


def _listed(root: str, folder: str, names: Iterator[str] | dict[str, None] | Names, skip: Skip) -> Inventory:
    """Files by name; those behind URLs are taken as they are named, and as unchanged for ever."""
    rows, out_of_sight = _Rows(), []
    for name in names:
        path = join(folder, name)
        if any(ord(letter) < 32 for letter in name):
            skip(name, "its name holds control characters; rename it")
        elif remote.is_url(path):
            rows.add(name, -1, 0)
        else:
            try:
                stat = os.stat(path)
            except OSError as exc:
                skip(name, f"cannot be read: {exc.strerror or exc}")
                if not isinstance(exc, (FileNotFoundError, NotADirectoryError)):
                    out_of_sight.append(name)
            else:
                rows.add(name, stat.st_size, stat.st_mtime_ns)
    inventory = rows.inventory("list", root, folder, frozenset(out_of_sight))
    if not len(inventory.names):
        raise ImageError(f"{root}: none of the files that it names is there. Names are relative to {folder}.")
    return inventory


# ---- images in larger files


def _larger(named: Named, root: str, skip: Skip, note: Note) -> Inventory:
    labels = [origin[len(root.rstrip("/")) + 1 :] for origin in named.origins]
    if named.column:
        labels = [f"{label}#{named.column}" for label in labels]
    collection = _collection(named, labels, root, skip, note)
    if isinstance(collection, Files):  # Parquet files of paths
        word = local_word(named.source)
        listed = word if remote.is_url(word) else os.path.abspath(word)
        return _listed(listed, collection.root, collection.names, skip)
    stamps = np.array([_stamp(*pair) for pair in zip(named.origins, named.files, strict=True)], np.int64)
    return Inventory(
        named.kind,
        root,
        collection.names,
        collection.sizes,
        stamps[collection.file_of],
        collection,
        out_of_sight=collection.cut if isinstance(collection, Spans) else frozenset(),
        larger=frozenset(labels),
    )


def _collection(named: Named, labels: Sequence[str], root: str, skip: Skip, note: Note):  # type: ignore[no-untyped-def]
    if named.kind == "tar":
        return open_tars(named.source, labels, named.files, note=note)
    if named.kind == "zip":
        return open_zips(named.source, labels, named.files, skip=skip)
    return open_parquet(named.source, labels, named.files, column=named.column, root=root, note=note)


def _stamp(origin: str, file: str) -> int:
    """Of a larger file. The folder of a copy is named by what the server told of it."""
    if remote.is_url(origin):
        return int(os.path.basename(os.path.dirname(file))[:15], 16)
    return os.stat(file).st_mtime_ns


def _chosen(inventory: Inventory, patterns: Patterns, word: str, note: Note) -> Inventory:
    """What the patterns take of it."""
    if not patterns:
        return inventory
    items = np.flatnonzero([patterns.takes(name) for name in inventory.names])
    note(f"{word}: {len(inventory.names) - len(items):,} images left out by --include and --exclude")
    if not len(items):
        raise ImageError(f"{word}: --include and --exclude leave no image of it. Give others.")
    return replace(
        inventory,
        names=Names.of(inventory.names[i] for i in items.tolist()),
        sizes=inventory.sizes[items],
        stamps=inventory.stamps[items],
        items=items,
    )


# ---- names


def _above(name: str) -> Iterator[str]:
    """The folders that a relative name lies in, and larger files."""
    end = name.rfind("/")
    while end > 0:
        yield name[:end]
        end = name.rfind("/", 0, end)


def _larger_files(path: str) -> Iterator[str]:
    """The beginnings of a path that name a larger file, shortest first."""
    end = path.find("/")
    while end >= 0:
        if kind_of(path[:end].partition("#")[0]) in _LARGER:
            yield path[:end]
        end = path.find("/", end + 1)


@lru_cache(maxsize=8)
def _opened(file: str, plain: str, column: str | None) -> tuple[Collection, dict[str, int]]:
    """The images of one larger file, and the number of each by its name in it."""

    def quiet(*words: str) -> None:
        """What is wrong with it was said when it was embedded."""

    named = resolve(plain, note=quiet)
    collection = _collection(replace(named, column=column), [""], fixed_part(plain), quiet, quiet)
    return collection, {name[1:]: i for i, name in enumerate(collection.names)}
