"""Where the bytes of one image lie, as something small that goes from process to process; and reading them.

A whole file, a span of a larger one (tar, unpacked Parquet), a packed span of a zip, or what a URL gives.
"""

import os
import zlib
from typing import NamedTuple

from simclr.errors import ImageError
from simclr.sources import remote

FILE_LIMIT = 1 << 30
"""Largest image file read, in bytes."""

_LOCAL_HEADER = 30
"""Bytes of a zip member's header before its name (APPNOTE 4.3.7)."""


class Place(NamedTuple):
    file: str
    """Absolute path, or URL."""
    offset: int = 0
    """Of a zip member, that of its local header."""
    size: int = -1
    """Bytes to read; -1: the whole file."""
    packing: str = ""
    """Nothing, or `zip METHOD UNPACKED CRC`: 0 is stored, 8 deflate; bytes once unpacked; CRC-32 as a number."""


def read(place: Place) -> bytes:
    """The bytes of an image. Raises ImageError with the reason, without a path."""
    if remote.is_url(place.file):
        return remote.fetch(place.file, limit=FILE_LIMIT)
    try:
        with open(place.file, "rb", buffering=0) as file:
            if place.packing:
                return _unzipped(file, place)
            size = place.size if place.size >= 0 else os.fstat(file.fileno()).st_size
            return _span(file, place.offset, size)
    except OSError as exc:
        raise ImageError(f"cannot be read: {exc.strerror or exc}") from exc


def _span(file: object, offset: int, size: int) -> bytes:
    if size > FILE_LIMIT:
        raise ImageError(f"too large: {size:,} bytes is above the limit of {FILE_LIMIT:,}")
    if offset:
        file.seek(offset)  # type: ignore[attr-defined]
    data: bytes = file.read(size)  # type: ignore[attr-defined]
    while len(data) < size and (more := file.read(size - len(data))):  # type: ignore[attr-defined]
        data += more
    if len(data) < size:
        raise ImageError("cannot be read: its file has become shorter")
    return data


def _unzipped(file: object, place: Place) -> bytes:
    method, unpacked, crc = map(int, place.packing.split()[1:])
    if unpacked > FILE_LIMIT:
        raise ImageError(f"too large: {unpacked:,} bytes is above the limit of {FILE_LIMIT:,}")
    head = _span(file, place.offset, _LOCAL_HEADER)
    if head[:4] != b"PK\3\4":
        raise ImageError("damaged zip: no member where its directory says")
    skip = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    data = _span(file, place.offset + _LOCAL_HEADER + skip, place.size)
    if method == 8:
        inflate = zlib.decompressobj(-15)
        try:
            data = inflate.decompress(data, unpacked + 1)  # never more than was announced
        except zlib.error as exc:
            raise ImageError(f"damaged zip: {exc}") from exc
    if len(data) != unpacked or zlib.crc32(data) != crc:
        raise ImageError("damaged zip: a checksum or a size is wrong")
    return data
