"""Where copies, unpacked files and listings are kept between runs, and when they still hold.

Everything here can be made again: the folder may be deleted whenever no run reads from it. Files in it are written
whole or not at all, so that two processes may fill it at the same time; `filling` only spares them the double work.
"""

import hashlib
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import write_atomically
from simclr.cache_folder import cache_folder
from simclr.errors import ImageError

Note = Callable[[str], None]
Stamp = tuple[int, int, int, int]
"""Inode, size in bytes, mtime_ns and ctime_ns. Copying tools set mtime back; nobody sets ctime."""

UNKNOWN: Stamp = (0, 0, 0, 0)
_CLOCK_NS = 2_000_000_000
"""What has changed within this time may change again without its stamp showing it (FAT counts in 2 s; git calls such
entries racy)."""

_SILENT = 1.0
"""Seconds of waiting for another process that are not worth a word."""


def key_of(*parts: object) -> str:
    """A file name for what these parts decide."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def stamp_of(path: str) -> Stamp:
    """What changes when a file or the list of a folder's files does.

    UNKNOWN, which equals no earlier stamp worth keeping, where nothing is there, or it has changed too lately.
    """
    now = time.time_ns()
    try:
        stat = os.stat(path)
    except OSError:
        return UNKNOWN
    if max(stat.st_mtime_ns, stat.st_ctime_ns) > now - _CLOCK_NS:
        return UNKNOWN
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def load_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """What `save_arrays` wrote; None where there is no such file, or a damaged one: it is then made again."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return None


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raises OSError."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def remember(path: Path, arrays: dict[str, NDArray[Any]], *, note: Note) -> None:
    """`save_arrays` for what only spares time: where it cannot be written, that is said."""
    try:
        save_arrays(path, arrays)
    except OSError as exc:
        note(
            f"{cache_folder()}: the listing cannot be kept there ({exc.strerror or exc}), and is made again at the next "
            "start. Set SIMCLR_CACHE to a folder that can be written."
        )


@contextmanager
def needed() -> Iterator[None]:
    """Where the cache must be written: an OSError inside becomes an ImageError."""
    try:
        yield
    except OSError as exc:
        raise ImageError(
            f"{cache_folder()}: cannot be written ({exc.strerror or exc}). Set SIMCLR_CACHE to a folder with room."
        ) from exc


@contextmanager
def filling(source: str, *, note: Note) -> Iterator[None]:
    """One process of this machine at a time, for each source: the others wait, and find what the first has left.

    Without a lock where the system or the cache folder has none.
    """
    try:
        import fcntl

        path = cache_folder() / "locks" / key_of(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "ab")
    except (ImportError, OSError):
        yield
        return
    with lock:
        deadline = time.monotonic() + _SILENT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                note(f"{source}: another process is reading it first; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:  # some network file systems have no locks
                pass
            break
        yield
