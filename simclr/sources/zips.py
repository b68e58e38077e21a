"""Images in zip files, read where they lie: never unpacked to disk.

Members with an image's suffix are the images. The list at the file's end says where they are; what a member says of
itself is checked when it is read (places.py). Encrypted members, and those packed otherwise than by deflate, are left out.
"""

import stat
import struct
import zipfile

import numpy as np

from simclr.errors import ImageError, reason
from simclr.sources import walk
from simclr.sources.cache import Note
from simclr.sources.members import Members, is_image, remembered
from simclr.sources.names import Names

_FORMAT = 1
_METHODS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA", 9: "Deflate64", 93: "Zstandard", 95: "XZ"}


def members(file: str, *, note: Note) -> Members:
    """A damaged list, or what is no zip file, is a fault, and gives no images. Raises ImageError: it cannot be read."""
    return remembered("zips", _FORMAT, file, _listed, note=note)


def _listed(file: str) -> Members:
    images: dict[str, tuple[int, int, int]] = {}  # a name that comes twice means its last member
    left_out: dict[str, str] = {}
    fault = ""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError) as exc:
        infos, fault = [], f"no zip file, or one cut short or damaged ({reason(exc)})"
    except OSError as exc:
        raise ImageError(f"{file}: cannot be read ({exc.strerror or exc}).") from exc
    for info in infos:
        name = info.filename
        if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16) or not is_image(name):
            continue
        images.pop(name, None)
        left_out.pop(name, None)
        if why := _why_not(info):
            left_out[name] = why
        else:
            images[name] = info.header_offset, info.compress_size, info.file_size
    where = np.array([*images.values()], np.int64).reshape(-1, 3).T.copy()
    return Members(file, Names.of(images), where[0], where[1], where[2], fault, tuple(left_out.items()))


def _why_not(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"is packed with {method}; only deflate is read"
    if max(info.file_size, info.compress_size) > walk.FILE_LIMIT:
        return f"too large: {info.file_size:,} bytes is above the limit of {walk.FILE_LIMIT:,}"
    return ""
