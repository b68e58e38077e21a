"""Files that are written whole or not at all, and what tells one from another."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from simclr.errors import ArtifactError


def file_sha256(path: Path) -> str:
    """Raises ArtifactError if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror or exc}).") from exc


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file beside `path`, which then takes its name: whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def check_writable(path: Path, option: str) -> None:
    """Before long work: raises ArtifactError where a file cannot be made, naming the option to give another by."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise unwritable(path, option, exc) from exc


def unwritable(path: Path, option: str, exc: OSError) -> ArtifactError:
    """What to say of a file that could not be written."""
    return ArtifactError(f"{path}: cannot be written ({exc.strerror or exc}). Give another {option}.")


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; a no-op where folders cannot be opened (Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
