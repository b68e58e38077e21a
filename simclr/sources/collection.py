"""Images by number, wherever they lie: what training reads from.

Two shapes cover all sources: whole files, and spans of bytes within larger files. Both are compact, and go to the
processes of a loader as they are: they hold arrays and paths, no open file and no connection.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simclr.sources import places, remote
from simclr.sources.names import Names
from simclr.sources.places import Place


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

    def place(self, i: int) -> Place:
        name = self.names[i]
        if remote.is_url(name) or os.path.isabs(name):
            return Place(name)
        return Place(os.path.join(self.root, name))

    def read(self, i: int) -> bytes:
        """From a copy, which is made at the first read, of what lies behind a URL: an epoch comes back to it."""
        place = self.place(i)
        return remote.read(place.file) if remote.is_url(place.file) else places.read(place)


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
    packing: str = ""
    """As `Place` has it."""

    @property
    def sha256(self) -> str:
        """Of the names, a line each, and the sizes; not of where the files lie."""
        return hashlib.sha256(self.names.blob + self.sizes.astype("<i8").tobytes()).hexdigest()

    def place(self, i: int) -> Place:
        file = self.files[self.file_of[i]]
        return Place(file, int(self.offsets[i]), int(self.sizes[i]), self.packing)

    def read(self, i: int) -> bytes:
        return places.read(self.place(i))

    def only(self, keep: NDArray[np.bool_]) -> "Spans":
        """These of the images, in the same order."""
        kept = np.flatnonzero(keep).tolist()
        names = Names.of(self.names[i] for i in kept)
        return replace(
            self, names=names, file_of=self.file_of[keep], offsets=self.offsets[keep], sizes=self.sizes[keep]
        )
