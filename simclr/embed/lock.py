"""One writer at a time, and only where a store is or may come to be. Reads and writes no store.

A writer that ends before its first commit leaves a folder as it was found.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from simclr.embed.shards import METADATA, REPLACED, SPARE, VECTORS
from simclr.embed.store import MODEL_FOLDER, is_store
from simclr.errors import ArtifactError

_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder, which is made if need be, and goes if no store has come to be in it.

    Raises ArtifactError if another process is writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ArtifactError(
            f"{folder}: another `simclr embed` is writing to it. Wait for it, or stop it."
        ) from None
    try:
        yield
    finally:
        if not is_store(folder):
            remove_traces(folder)
        lock.release()
        if not is_store(folder):
            (folder / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what else lies there is not ours
                folder.rmdir()


def is_being_written(folder: Path) -> bool:
    """Whether a writer has the store's lock."""
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:  # a store that cannot be written to
        return False
    lock.release()
    return False


def check_usable(folder: Path) -> None:
    """Raises ArtifactError where something lies that is no store, nor what is left of making one."""
    if folder.exists() and not is_store(folder) and not _usable(folder):
        raise ArtifactError(f"{folder}: exists and is no store. Use another --store or --index.")


def _usable(folder: Path) -> bool:
    """Whether a folder without manifest is what a kill while creating a store leaves, or empty.

    Without our lock it is somebody else's, such as what clip-retrieval writes, be the names the same.
    """
    ours = {_LOCK, VECTORS, METADATA, SPARE, REPLACED, MODEL_FOLDER}
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".tmp")}
    return not names or (_LOCK in names and names <= ours)


def remove_traces(folder: Path) -> None:
    """What a writer that committed nothing has made, as far as it is certainly ours."""
    for name in (VECTORS, METADATA, SPARE, REPLACED, MODEL_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
