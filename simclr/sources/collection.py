"""Images by number, wherever they lie: what training reads from.

Two shapes cover all sources: whole files, and spans of bytes within larger files. Both are compact, and go to the
processes of a loader as they are: they hold arrays and paths, no open file and no connection.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ImageError
from simclr.sources import remote, walk
from simclr.sources.names import Names


class Collection(Protocol):
    @property
    def name(self) -> str:
        """As the user gave it, for messages."""

    @property
    def names(self) -> Names:
        """Of each image; unique, in an order that stays."""

    @property
    def sha256(self) -> str:
        """Of the listing: another set of images, or another order, has another one."""

    def read(self, i: int) -> bytes:
        """The bytes of image i. Raises ImageError with the reason, without a path."""


@dataclass(frozen=True)
class Files:
    """Each image is a file."""

    name: str
    names: Names
    """Relative to the root, absolute, or URLs."""
    root: str
    """Folder or URL."""

    @property
    def sha256(self) -> str:
        """Of the names, a line each."""
        return hashlib.sha256(self.names.blob).hexdigest()

    def read(self, i: int) -> bytes:
        name = self.names[i]
        if remote.is_url(name):
            return remote.read(name)
        if remote.is_url(self.root) and not os.path.isabs(name):
            return remote.read(f"{self.root}/{name}")
        return walk.read(Path(self.root), name)


@dataclass(frozen=True)
class Spans:
    """Each image is a span of bytes of one of a few large files."""

    name: str
    names: Names
    files: tuple[str, ...]
    file_of: NDArray[np.int32]
    """Which of the files image i lies in."""
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Both in bytes."""

    @property
    def sha256(self) -> str:
        """Of the names, a line each, and the sizes; not of where the files lie."""
        return hashlib.sha256(self.names.blob + self.sizes.astype("<i8").tobytes()).hexdigest()

    def read(self, i: int) -> bytes:
        size = int(self.sizes[i])
        if size > walk.FILE_LIMIT:
            raise ImageError(f"too large: {size:,} bytes is above the limit of {walk.FILE_LIMIT:,}")
        try:  # opened each time: 10 us, and nothing that processes could share by mistake
            with open(self.files[self.file_of[i]], "rb", buffering=0) as file:
                file.seek(int(self.offsets[i]))
                data = file.read(size)
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
        except OSError as exc:
            raise ImageError(f"cannot be read: {exc.strerror or exc}") from exc
        if len(data) < size:
            raise ImageError("cannot be read: its file has become shorter")
        return data
