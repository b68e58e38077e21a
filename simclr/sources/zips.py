"""Images in zip files, read where they lie: never unpacked to disk.

The directory at the end of a zip says where each member is. Members are taken by the rules for tar: by suffix, hidden ones
and litter left out.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ConfigError, ImageError, reason
from simclr.sources import places
from simclr.sources.names import Names
from simclr.sources.places import Place
from simclr.sources.walk import is_image_member

_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class Zipped:
    """Each image is a member of one of a few zip files."""

    name: str
    names: Names
    files: tuple[str, ...]
    members: NDArray[np.int64]
    """(N, 6): file, offset of the local header, packed size, method, unpacked size, CRC-32."""

    @property
    def sha256(self) -> str:
        """Of the names, a line each, and the sizes; not of where the files lie."""
        return hashlib.sha256(self.names.blob + self.sizes.astype("<i8").tobytes()).hexdigest()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Of the images, unpacked, in bytes."""
        return self.members[:, 4]

    @property
    def file_of(self) -> NDArray[np.int64]:
        return self.members[:, 0]

    def place(self, i: int) -> Place:
        file, offset, size, method, unpacked, crc = self.members[i].tolist()
        return Place(self.files[file], offset, size, f"zip {method} {unpacked} {crc}")

    def read(self, i: int) -> bytes:
        return places.read(self.place(i))


def open_zips(
    source: str,
    labels: Sequence[str],
    files: Sequence[str],
    *,
    skip: Callable[[str, str], None] = lambda path, reason: None,
) -> Zipped:
    """`labels` name the files in the names of their images. `skip` is told each image that cannot be unpacked, and why.

    Raises ImageError (a file is missing or damaged, or none holds an image).
    """
    names: list[str] = []
    rows: list[tuple[int, ...]] = []
    for number, (label, file) in enumerate(zip(labels, files, strict=True)):
        images: dict[str, tuple[int, ...]] = {}  # a name that comes twice means its last member
        for member in _directory(file):
            if member.is_dir() or not is_image_member(member.filename):
                continue
            if member.flag_bits & 1:
                skip(f"{label}/{member.filename}", "encrypted")
            elif member.compress_type not in (_STORED, _DEFLATED):
                skip(
                    f"{label}/{member.filename}",
                    f"packed by method {member.compress_type}, of which only deflate is read",
                )
            else:
                images.pop(member.filename, None)
                images[member.filename] = (
                    number,
                    member.header_offset,
                    member.compress_size,
                    member.compress_type,
                    member.file_size,
                    member.CRC,
                )
        names += (f"{label}/{name}" for name in images)
        rows += images.values()
    if not names:
        raise ImageError(f"{source}: no member with an image's suffix in it. Give zips that hold images.")
    return Zipped(source, Names.of(names), tuple(files), np.array(rows, np.int64))


def _directory(file: str) -> list[Any]:
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.infolist()
    except FileNotFoundError:
        raise ImageError(f"{file}: no such file. Mend its name.") from None
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror or exc}).") from exc
    except Exception as exc:  # BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error: damaged data raises anything
        if os.path.getsize(file) and not zipfile.is_zipfile(file):
            raise ConfigError(f"{file}: is no zip ({reason(exc)}). Give zip files.") from exc
        raise ImageError(f"{file}: damaged ({reason(exc).rstrip('.')}). Restore or remove it.") from exc
