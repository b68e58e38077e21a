"""Which contents a store holds, and under which ids: 16 bytes a row. Finds moved and copied files by their bytes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_HEX = 16
"""Digits of a hash that are compared first: 64 bits, of which a million rows share some with a chance of 3e-8."""


def prefixes(content_hashes: pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first 64 bits of each hexadecimal hash."""
    if not len(content_hashes):
        return np.empty(0, np.uint64)
    text = "".join(pc.utf8_slice_codeunits(content_hashes, 0, _HEX).to_pylist())
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


def prefix(digest: bytes) -> int:
    """The same of one hash in bytes."""
    return int.from_bytes(digest[:8], "big")


class Contents:
    """Prefix of each row's content hash, with the row's id. Grows with what is committed."""

    def __init__(self, hashes: NDArray[np.uint64], ids: NDArray[np.int64]) -> None:
        self._parts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self.add(hashes, ids)

    def add(self, hashes: NDArray[np.uint64], ids: NDArray[np.int64]) -> None:
        order = np.argsort(hashes, kind="stable")
        self._parts.append((hashes[order], ids[order]))
        if len(self._parts) > 64:  # each lookup goes through all of them
            hashes, ids = (np.concatenate(column) for column in zip(*self._parts, strict=True))
            self._parts = []
            self.add(hashes, ids)

    def ids(self, digest: bytes) -> list[int]:
        """Ids under which this content was ever added, rows that have gone since among them."""
        wanted = np.uint64(prefix(digest))
        found: list[int] = []
        for hashes, ids in self._parts:
            first, last = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
            found += ids[first:last].tolist()
        return found

    def all(self) -> NDArray[np.uint64]:
        return np.concatenate([hashes for hashes, _ in self._parts])
