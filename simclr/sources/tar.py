"""Images in tar shards, read where they lie: never unpacked, never through the whole tar.

Members with an image's suffix are the images, as WebDataset lays them out; captions, classes and other members beside
them are left out. What a shard holds is remembered, since finding out means reading the header of each member.
"""

import os
import tarfile

import numpy as np

from simclr.errors import ConfigError, ImageError, reason
from simclr.sources.cache import Note
from simclr.sources.members import Members, is_image, remembered
from simclr.sources.names import Names

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and zstd."""
_FORMAT = 1


def members(file: str, *, note: Note) -> Members:
    """A tar that ends early gives what it holds whole. Raises ImageError (it cannot be read), ConfigError (it is
    compressed, or no tar)."""
    return remembered("tars", _FORMAT, file, _headers, note=note)


def _headers(file: str) -> Members:
    images: dict[str, tuple[int, int]] = {}  # a name that comes twice means its last member, as for tar
    fault = ""
    try:
        with open(file, "rb") as stream:
            end = os.fstat(stream.fileno()).st_size
            head = stream.read(512)
            if head.startswith(_COMPRESSED):
                raise ConfigError(
                    f"{file}: a compressed tar, in which no single image can be found. Decompress it first: gunzip, unzstd, ..."
                )
            stream.seek(0)
            try:
                fault = _read_headers(stream, end, images) if head else "is empty"
            except tarfile.ReadError as exc:
                if not images and end >= 512 and head[257:262] != b"ustar":
                    raise ConfigError(f"{file}: is no tar ({reason(exc)}). Give tar shards.") from exc
                fault = f"ends early ({reason(exc)})"
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror or exc}).") from exc
    where = np.array([*images.values()], np.int64).reshape(-1, 2)
    sizes = where[:, 1].copy()
    return Members(file, Names.of(images), where[:, 0].copy(), sizes, sizes, fault)


def _read_headers(stream: object, end: int, images: dict[str, tuple[int, int]]) -> str:
    """Fill `images` with offset and size of each; returns what is wrong with the tar's end."""
    with tarfile.open(
        fileobj=stream,  # type: ignore[call-overload]
        mode="r:",
        encoding="utf-8",
        errors="backslashreplace",
    ) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # they are kept for extracting
            if member.offset_data + member.size > end:
                return f"ends early, within {member.name}"
            if member.isreg() and not member.issparse() and is_image(member.name):
                images.pop(member.name, None)
                images[member.name] = member.offset_data, member.size
        stream.seek(tar.offset)  # type: ignore[attr-defined]
        # tarfile takes a damaged header for the end; the true end is a block of zeros
        if stream.read(512) == bytes(512):  # type: ignore[attr-defined]
            return ""
        return "ends early" if tar.offset + 512 > end else f"has a damaged header at byte {tar.offset:,}"
