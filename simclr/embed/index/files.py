"""An index on disk: written so that a kill leaves the old or the new one, verified before FAISS sees it.

    out.faiss           FAISS's own format
    out.faiss.json      the sidecar, sealed; carries the SHA-256 of the other two
    out.faiss.entries   see `entries.py`

Three files cannot be replaced at once. The new sidecar and entries are written first, under names with `.next`; the
index takes its place; then they take theirs. A reader believes whichever sidecar carries the SHA-256 of the index it
finds. FAISS loads damaged files without complaint, or crashes on them: the checksum alone keeps them out.
"""

import contextlib
import dataclasses
import glob
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from simclr.artifacts import IndexInfo, file_sha256, fsync_folder, write_atomically
from simclr.cache_folder import own_folder
from simclr.embed.index.entries import Entries
from simclr.embed.index.library import faiss_library
from simclr.errors import ArtifactError, ConfigError, reason
from simclr.sources.cache import UNKNOWN, key_of, load_arrays, save_arrays, stamp_of

_READ_TRIES = 5
"""A writer can replace the files between two looks at them, not so often."""


def sidecar(index: Path) -> Path:
    return index.with_name(index.name + ".json")


def entries_file(index: Path) -> Path:
    return index.with_name(index.name + ".entries")


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """One process at a time builds or updates an index. Raises ArtifactError for the second one, or where it cannot be written."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ArtifactError(
            f"{path}: a path that is not UTF-8, which FAISS cannot open. Give another --index."
        ) from None
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ArtifactError(f"{path}: another process is building it. Wait for it, or stop it.") from None
    except OSError as exc:
        raise ArtifactError(
            f"{path}: cannot be written ({exc.strerror or exc}). Give another --index."
        ) from exc
    try:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a writer that was killed
            leftover.unlink(missing_ok=True)
        settle(path)  # before anything is written over the sidecar that alone may fit the index
        yield
    finally:
        lock.release()


def save_index(path: Path, index: Any, info: IndexInfo, entries: Entries) -> IndexInfo:
    """Replace all three files; gives the info with their checksums. Inside `changing`. Raises OSError."""
    return save_written(path, partial(_write, index), info, entries)


def save_written(path: Path, fill: Callable[[Path], object], info: IndexInfo, entries: Entries) -> IndexInfo:
    """The same for an index that is not in memory: `fill` writes its file."""
    new_entries, new_sidecar = _next(entries_file(path)), _next(sidecar(path))
    entries.save(new_entries)

    def write(temporary: Path) -> None:
        nonlocal info
        fill(temporary)
        info = dataclasses.replace(
            info,
            sha256=file_sha256(temporary),
            entries_sha256=file_sha256(new_entries),
            measured=info.measured | {"bytes": temporary.stat().st_size},
        )
        info.save(new_sidecar)  # before the index takes its place

    write_atomically(path, write)
    settle(path)
    return info


def write_index(path: Path, index: Any) -> None:
    """A file of FAISS, whole or not at all. Raises OSError."""
    write_atomically(path, partial(_write, index))


def _write(index: Any, path: Path) -> None:
    try:
        faiss_library().write_index(index, str(path))
    except RuntimeError as exc:  # FAISS's, where the disk is full
        raise OSError(None, f"FAISS could not write the index: {reason(exc)}", str(path)) from exc


def settle(path: Path) -> None:
    """Finish what a writer was killed at: the `.next` files take their places if they belong to the index, and go if not."""
    following = _next(sidecar(path))
    if not following.exists():
        _next(entries_file(path)).unlink(missing_ok=True)
        return
    if _fits(following, file_sha256(path) if path.exists() else "") is None:
        following.unlink()
        _next(entries_file(path)).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.replace(_next(entries_file(path)), entries_file(path))
    os.replace(following, sidecar(path))
    fsync_folder(path.parent)


def load_index(path: Path, *, mapped: bool = False) -> tuple[Any, IndexInfo]:
    """The FAISS index and its sidecar. Raises ArtifactError if either is missing, or the SHA-256 disagrees.

    `mapped`: the file is mapped to memory and read as far as it is used; such an index must not be changed: FAISS
    aborts or crashes the process.
    """
    for _ in range(_READ_TRIES):
        before = _identity(path)
        info = describe(path)
        index = read_index(path, mapped=mapped)
        if index.d != info.width:
            raise ArtifactError(
                f"{path}: its vectors have {index.d} numbers, {info.width} by {sidecar(path).name}. "
                "Build it anew with `simclr index build`."
            )
        if _identity(path) == before:
            return index, info
    raise ArtifactError(f"{path}: is being replaced again and again. Try again later.")


def read_index(path: Path, *, mapped: bool = False) -> Any:
    """What FAISS makes of a file that something vouches for. Raises ArtifactError."""
    faiss = faiss_library()
    size = path.stat().st_size
    # more than a whole file of this size can need; FAISS's own limits are a terabyte, and none
    faiss.set_deserialization_vector_byte_limit(max(1 << 20, 4 * size))
    faiss.set_deserialization_loop_limit(max(1 << 20, size))
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as exc:
        raise ArtifactError(
            f"{path}: FAISS cannot read it ({reason(exc)}). Build it anew with `simclr index build`."
        ) from exc


def describe(path: Path, *, remembered: bool = True) -> IndexInfo:
    """The sidecar of an index, whose file is read in full unless it is `remembered` to have had its SHA-256.

    Raises ArtifactError if either file is missing, or they do not belong together.
    """
    for _ in range(_READ_TRIES):
        if not path.is_file():
            raise ArtifactError(f"{path}: no such index. Make one with `simclr embed FOLDER --index {path}`.")
        before = _identity(path)
        digest = _remembered_sha256(path) if remembered else file_sha256(path)
        found = _fits(_next(sidecar(path)), digest) or _fits(sidecar(path), digest)
        if found is not None:
            return found
        if _identity(path) == before:
            break  # nobody is writing: it is damaged
    IndexInfo.load(sidecar(path))  # says what is wrong, if it is the sidecar
    raise ArtifactError(
        f"{path}: damaged or replaced, its SHA-256 is not the one in {sidecar(path).name}. "
        "Build it anew with `simclr index build`, or run `simclr embed` again."
    )


def load_entries(path: Path, info: IndexInfo) -> Entries | None:
    """None where they are missing or not those of this index."""
    for candidate in (entries_file(path), _next(entries_file(path))):
        if candidate.is_file() and file_sha256(candidate) == info.entries_sha256:
            return Entries.load(candidate)
    return None


def _next(path: Path) -> Path:
    return path.with_name(path.name + ".next")


def _fits(described: Path, sha256: str) -> IndexInfo | None:
    """A sidecar, if it is whole and that of an index with this SHA-256."""
    try:
        info = IndexInfo.load(described)
    except ArtifactError:
        return None
    return info if info.sha256 == sha256 else None


def _identity(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _remembered_sha256(path: Path) -> str:
    """Of a file that is read in full once, and again when its size, times or inode change."""
    stamp = stamp_of(str(path))
    try:
        note = own_folder("verified") / f"{key_of(path.resolve(), *stamp)}.npz"
    except ConfigError:  # no folder of our own: every time, then
        return file_sha256(path)
    known = load_arrays(note) if stamp != UNKNOWN else None
    if known is not None and "sha256" in known:
        return str(known["sha256"])
    digest = file_sha256(path)
    if stamp != UNKNOWN and stamp_of(str(path)) == stamp:
        with contextlib.suppress(OSError):  # it only spares time
            save_arrays(note, {"sha256": np.array(digest)})
    return digest
