"""Where the bytes of one image lie, and reading them. Lists nothing, decodes nothing.

A `Place` goes from process to process: it holds no open file and no connection. A place may come from a hostile
archive, so nothing that a member claims of itself is believed further than it can be checked.
"""

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple

from simclr.errors import ImageError, SimclrError, reason
from simclr.sources import remote, walk

_HEADER = struct.Struct("<4s5H3I2H")
"""Of a zip member (APPNOTE 4.3.7): signature, version, flags, method, time, date, CRC-32, size, unpacked size, length of
the name, length of the extra field."""
_STORED, _DEFLATED = 0, 8
_TAIL = 24
"""Most bytes behind a member that say what its header left open (APPNOTE 4.3.9)."""


class Place(NamedTuple):
    """Where the bytes of one image lie."""

    file: str
    """Absolute path, or URL."""
    offset: int = 0
    """Bytes."""
    size: int = -1
    """Bytes; -1: the whole file."""
    packing: str = ""
    """Nothing: the bytes as they are. `zip`: `offset` is that of a member's local header, `size` what it takes packed."""


def read(place: Place) -> bytes:
    """The bytes of an image; those behind a URL come from the server each time.

    Raises ImageError with the reason, without a path: it cannot be read, is larger than `walk.FILE_LIMIT`, packed or
    not, or is a damaged member of a zip file.
    """
    if place.size > walk.FILE_LIMIT:
        raise too_large(place.size)
    try:
        with _open(place.file) as file:
            if place.size < 0:
                return _whole(file, place.file)
            file.seek(place.offset)
            return _member(file, place.size) if place.packing == "zip" else _exactly(file, place.size)
    except SimclrError:
        raise
    except struct.error as exc:
        raise ImageError(f"damaged: a header of the zip file is none ({reason(exc)})") from exc
    except OSError as exc:
        raise ImageError(f"cannot be read: {exc.strerror or reason(exc)}") from exc
    except Exception as exc:  # each protocol has its own
        if not remote.is_url(place.file):
            raise
        raise ImageError(f"cannot be read: {reason(exc)}") from exc


def too_large(size: int) -> ImageError:
    return ImageError(f"too large: {size:,} bytes is above the limit of {walk.FILE_LIMIT:,}")


def _whole(file: BinaryIO, name: str) -> bytes:
    size = walk.FILE_LIMIT
    if not remote.is_url(name) and (size := os.fstat(file.fileno()).st_size) > walk.FILE_LIMIT:
        raise too_large(size)
    data = _at_most(file, size + 1)  # a server need not say the size, and a file may grow
    if len(data) > walk.FILE_LIMIT:
        raise ImageError(f"too large: it is above the limit of {walk.FILE_LIMIT:,} bytes")
    return data


def _open(file: str) -> BinaryIO:
    """Opened each time: 10 us, and nothing that processes could share by mistake."""
    if remote.is_url(file):
        try:
            return remote.stream(file)
        except SimclrError as exc:
            why = reason(exc).removeprefix(f"{file}: ").removesuffix(" Mend its name.").rstrip(".")
            raise ImageError(f"cannot be read: {why}") from exc
    return open(file, "rb", buffering=0)


def _at_most(file: BinaryIO, size: int) -> bytes:
    """Fewer bytes only where the file ends."""
    data = file.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    left = size - len(data)
    while left and (more := file.read(left)):
        parts.append(more)
        left -= len(more)
    return b"".join(parts)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = _at_most(file, size)
    if len(data) < size:
        raise ImageError("cannot be read: its file has become shorter")
    return data


# ---- members of zip files


def _member(file: BinaryIO, size: int) -> bytes:
    header = _exactly(file, _HEADER.size)
    signature, _, flags, method, _, _, crc, packed, unpacked, name, extra = _HEADER.unpack(header)
    if signature != b"PK\x03\x04":
        raise ImageError("damaged: no member of the zip file begins where its list says")
    if flags & 1:
        raise ImageError("is encrypted")
    if method not in (_STORED, _DEFLATED):
        raise ImageError(f"is packed by a method that is not read (number {method})")
    rest = _exactly(file, name + extra)
    if 0xFFFFFFFF in (packed, unpacked):
        packed, unpacked = _wide(rest[name:], packed, unpacked)
    data = _exactly(file, size)
    if flags & 8 and packed != size:
        crc, packed, unpacked = _tail(_at_most(file, _TAIL), size)
    if packed != size:
        raise ImageError("damaged: its header and the zip file's list tell different sizes")
    if unpacked > walk.FILE_LIMIT:
        raise too_large(unpacked)
    if method == _DEFLATED:
        data = _inflate(data, unpacked)
    if len(data) != unpacked:
        raise ImageError(f"damaged: unpacks to {len(data):,} bytes instead of {unpacked:,}")
    if zlib.crc32(data) != crc:
        raise ImageError("damaged: its CRC-32 is not that of its bytes")
    return data


def _inflate(data: bytes, size: int) -> bytes:
    """Never one byte more than it claims to hold."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = stream.decompress(data, size) if size else b""
        if not stream.eof and stream.decompress(stream.unconsumed_tail if size else data, 1):
            raise ImageError(f"damaged: unpacks to more than the {size:,} bytes it claims")
    except zlib.error as exc:
        raise ImageError(f"damaged: {reason(exc)}") from exc
    if not stream.eof:
        raise ImageError("damaged: its packed bytes end early")
    return out


def _wide(extra: bytes, packed: int, unpacked: int) -> tuple[int, int]:
    """Sizes of 64 bits, where the header had no room for them (APPNOTE 4.5.3)."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            numbers = [int(number) for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + length // 8 * 8])]
            if unpacked == 0xFFFFFFFF and numbers:
                unpacked = numbers.pop(0)
            if packed == 0xFFFFFFFF and numbers:
                packed = numbers.pop(0)
            break
        extra = extra[4 + length :]
    return packed, unpacked


def _tail(tail: bytes, size: int) -> tuple[int, int, int]:
    """CRC-32, size and unpacked size from behind a member that was written as a stream."""
    tail = tail.removeprefix(b"PK\x07\x08")
    for form in (
        "<I2Q",
        "<3I",
    ):  # in this order, or the upper half of a wide size is taken for the unpacked size
        if len(tail) >= struct.calcsize(form):
            crc, packed, unpacked = struct.unpack_from(form, tail)
            if packed == size:
                return crc, packed, unpacked
    raise ImageError("damaged: nothing behind it tells its size")
