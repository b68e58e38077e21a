"""Small pictures on disk, so that each is made once. Bounded: the ones that were asked for longest ago go. Makes none itself.

Everything here can be made again. Several servers may share the folder.
"""

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

_FRESH = 3600.0
"""Seconds within which it is not noted again that a picture was asked for."""
_KEPT = 0.9
"""Share of the bound that is kept when it is overstepped."""


class Thumbnails:
    """`folder`: of ours alone. `most`: bytes that its files may take. Safe in threads."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder, self._most = folder, most
        self._lock = threading.Lock()
        self._bytes: int | None = None
        """As far as known; counted at the first writing, and at every clearing."""

    def get(self, key: str) -> bytes | None:
        """`key`: letters and digits, as of a hash."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if time.time() - path.stat().st_mtime > _FRESH:
                os.utime(path)
        except OSError:
            return None
        return data or None

    def put(self, key: str, data: bytes) -> None:
        """A full disk is no reason not to answer: then it is not kept."""
        path = self._path(key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _replace(path, data)
            with self._lock:
                if self._bytes is None:
                    self._bytes = sum(size for _, size, _ in self._files())
                else:
                    self._bytes += len(data)
                if self._bytes > self._most:
                    self._clear()

    def _clear(self) -> None:
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= _KEPT * self._most:
                break
            with suppress(OSError):
                os.unlink(path)
            left -= size
        self._bytes = left

    def _files(self) -> list[tuple[float, int, str]]:
        """When last asked for, size and path of each."""
        found = []
        with suppress(OSError):
            for folder in os.scandir(self._folder):
                with suppress(OSError):
                    for file in os.scandir(folder):
                        with suppress(OSError):
                            stat = file.stat()
                            found.append((stat.st_mtime, stat.st_size, file.path))
        return found

    def _path(self, key: str) -> Path:
        assert key.isalnum(), key
        return self._folder / key[:2] / f"{key}.jpg"


def _replace(path: Path, data: bytes) -> None:
    """Whole, but not made to survive a power cut: after one it is made again."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
