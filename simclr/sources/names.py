"""Strings by number, in one piece of memory: a million names are two objects, also in every loader process."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


class Names:
    """An unchangeable sequence of strings."""

    def __init__(self, blob: bytes, starts: NDArray[np.int64]) -> None:
        """`blob` is the names in UTF-8 with one byte between two; name i lies at starts[i] .. starts[i + 1] - 1."""
        self.blob, self.starts = blob, starts

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        encoded = [name.encode() for name in names]
        starts = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) + 1 for name in encoded], out=starts[1:])
        return cls(b"\n".join(encoded), starts)

    @classmethod
    def of_lines(cls, blob: bytes) -> "Names":
        """From names that hold no line break, joined by line breaks."""
        if not blob:
            return cls(b"", np.zeros(1, np.int64))
        breaks = np.flatnonzero(np.frombuffer(blob, np.uint8) == ord("\n"))
        return cls(blob, np.concatenate([[0], breaks + 1, [len(blob) + 1]]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.blob[self.starts[i] : self.starts[i + 1] - 1].decode()

    def index(self, name: str) -> int:
        """The number of a name that holds no line break. Raises ValueError where it is none of these."""
        wanted = name.encode("utf-8", "surrogateescape")
        start = self.blob.find(wanted)
        while start >= 0:
            i = int(np.searchsorted(self.starts, start, side="right")) - 1
            if self.starts[i] == start and self.starts[i + 1] == start + len(wanted) + 1:
                return i
            start = self.blob.find(wanted, start + 1)
        raise ValueError(f"{name}: not among these names")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
