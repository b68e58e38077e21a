"""Images known from before: where one lies now that an inventory has named, and what a person may open.

Takes the kind and root of a source and the name of an image in it, as stores keep them. Lists nothing but the one tar, zip or
Parquet file that holds it.
"""

import errno
import os
from functools import lru_cache

from simclr.errors import ImageError, SimclrError
from simclr.sources import remote
from simclr.sources.contents import PACKING, contents_of
from simclr.sources.members import Members
from simclr.sources.names import Names
from simclr.sources.places import Place
from simclr.sources.recognise import PACKED, Recognised, base_of, kind_of


def locate(kind: str, root: str, name: str) -> Place:
    """Where an image lies that an earlier inventory named. Raises ImageError without a path."""
    if kind not in PACKED:
        return Place(openable(kind, root, name))
    for path in above(name)[:-1][::-1]:
        file, _, column = path.partition("#") if kind == "parquet" else (path, "", "")
        if kind_of(file) == kind and exists(f"{root}/{file}"):
            try:
                one = _opened(kind, f"{root}/{file}", column or None, _mtime_or_0(f"{root}/{file}"))
                i = one.names.index(name[len(path) + 1 :])
                return Place(one.file, int(one.offsets[i]), int(one.spans[i]), PACKING[kind])
            except ValueError:
                raise ImageError(f"no longer in its {kind} file") from None
            except SimclrError as exc:
                raise ImageError(f"its {kind} file cannot be read") from exc
    raise ImageError(f"its {kind} file is no longer there")


def openable(kind: str, root: str, name: str) -> str:
    """A path or URL that a person may open, where there is one; else container and member."""
    return joined(base_of(root), name) if kind == "list" else joined(root, name)


def place_of(path: str) -> Place:
    """Where the bytes of an image lie that `openable` has named. Raises ImageError without a path."""
    if not remote.is_url(path) and not os.path.isfile(path):
        for outer in above(path)[1:-1]:
            file = outer.partition("#")[0]
            if kind_of(file) in PACKED and os.path.isfile(file):
                root, _, name = outer.rpartition("/")
                return locate(kind_of(file), root, f"{name}{path[len(outer) :]}")
    return Place(path)


@lru_cache(4)
def _opened(kind: str, file: str, column: str | None, mtime: int) -> Members:
    found = Recognised(file, kind, file, (file,), base_of(file), False, column)
    here = [remote.copies([file], note=_silent)[0].path] if found.is_remote else [file]
    contents = contents_of(found, here, ["."], root=found.root, note=_silent)
    if isinstance(contents, Names):
        raise ImageError(f"{file}: holds paths now, no images.")
    return contents[0]


def _silent(line: str) -> None:
    """For what was said when the inventory was taken."""


def joined(base: str, name: str) -> str:
    if remote.is_url(name) or os.path.isabs(name):
        return name
    return f"{base.rstrip('/')}/{name}"


def above(name: str) -> list[str]:
    """A path, the folders that it lies in, and the root: `a/b`, `a`, `.`."""
    paths = [name]
    while "/" in name:
        name = name.rpartition("/")[0]
        paths.append(name)
    return [*paths, "."]


def real(root: str) -> str:
    return root if remote.is_url(root) else os.path.realpath(root)


@lru_cache(1024)
def remote_exists(url: str) -> bool:
    return remote.exists(url)


def exists(file: str) -> bool:
    """Also where the system does not say."""
    if remote.is_url(file):
        return remote_exists(file)
    try:
        os.stat(file)
    except OSError as exc:
        return exc.errno not in (errno.ENOENT, errno.ENOTDIR)
    return True


def mtime_of(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror or exc}).") from exc


def _mtime_or_0(file: str) -> int:
    return 0 if remote.is_url(file) else mtime_of(file)
