"""Images in tar shards, read where they lie: never unpacked, never through the whole tar.

Members with an image's suffix are the images, as WebDataset lays them out; captions, classes and other members beside
them are left out. What a shard holds is remembered, since finding out means reading the header of each member.
"""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr.cache_folder import cache_folder
from simclr.errors import ConfigError, ImageError, reason
from simclr.sources.cache import UNKNOWN, Note, key_of, load_arrays, remember, stamp_of
from simclr.sources.collection import Spans
from simclr.sources.names import Names
from simclr.sources.walk import is_image_member

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip, bzip2, xz and zstd."""
_FORMAT = 1


def open_tars(source: str, labels: Sequence[str], files: Sequence[str], *, note: Note) -> Spans:
    """`labels` name the shards in the names of their images.

    A shard that ends early gives what it holds whole, and is noted. Raises ImageError (a shard is missing, or none
    holds an image), ConfigError (one is compressed, or no tar).
    """
    names: list[str] = []
    members: list[_Members] = []
    for shard, file in zip(labels, files, strict=True):
        members.append(_members(shard, file, note))
        names += (f"{shard}/{name}" for name in members[-1].names)
    if not names:
        raise ImageError(f"{source}: no member with an image's suffix in it. Give tars that hold images.")
    counts = [len(one.names) for one in members]
    return Spans(
        source,
        Names.of(names),
        tuple(files),
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([one.offsets for one in members]),
        np.concatenate([one.sizes for one in members]),
        frozenset(label for label, one in zip(labels, members, strict=True) if one.fault),
    )


@dataclass(frozen=True)
class _Members:
    """The images of one shard."""

    names: Names
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    fault: str
    """Where and why the rest cannot be read; empty for a whole shard."""


def _members(shard: str, file: str, note: Note) -> _Members:
    stamp = stamp_of(file)
    kept = cache_folder() / "tars" / f"{key_of(_FORMAT, file, stamp)}.npz"
    arrays = load_arrays(kept) if stamp != UNKNOWN else None
    if arrays:
        names = Names.of_lines(arrays["names"].tobytes())
        found = _Members(names, arrays["offsets"], arrays["sizes"], str(arrays["fault"]))
    else:
        found = _headers(file)
        if stamp != UNKNOWN:
            remember(
                kept,
                {
                    "names": np.frombuffer(found.names.blob, np.uint8),
                    "offsets": found.offsets,
                    "sizes": found.sizes,
                    "fault": np.array(found.fault),
                },
                note=note,
            )
    if found.fault:
        note(f"{shard}: {found.fault}; its first {len(found.names)} images are used")
    return found


def _headers(file: str) -> _Members:
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
    return _Members(Names.of(images), where[:, 0].copy(), where[:, 1].copy(), fault)


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
            if member.isreg() and not member.issparse() and is_image_member(member.name):
                images.pop(member.name, None)
                images[member.name] = member.offset_data, member.size
        stream.seek(tar.offset)  # type: ignore[attr-defined]
        # tarfile takes a damaged header for the end; the true end is a block of zeros
        if stream.read(512) == bytes(512):  # type: ignore[attr-defined]
            return ""
        return "ends early" if tar.offset + 512 > end else f"has a damaged header at byte {tar.offset:,}"
