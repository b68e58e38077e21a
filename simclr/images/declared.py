"""What a file declares, held against the limits before a pixel is allocated; and damage that decoders pass over.

Takes bytes and the file that Pillow has opened; raises ImageError or gives nothing. Decodes nothing.
"""

import re
import zlib

from PIL.ImageFile import ImageFile

from simclr.errors import ImageError, TooLarge

HEAVY_LIMIT = 48_000_000
"""Limit, in pixels, of a JPEG 2000 tile: OpenJPEG takes 18 bytes for each RGB pixel of a tile (measured), not 4."""

SCANS = 200
"""Most scans of a progressive JPEG. Encoders write about 10, and each passes over every pixel again."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # one that ends a scan


def check_size(size: tuple[int, int], pixel_limit: int) -> None:
    if size[0] * size[1] > pixel_limit:
        raise TooLarge(f"too large: {size[0]}x{size[1]} is above the limit of {pixel_limit:,} pixels")


def check_declared(data: bytes, kind: str, image: ImageFile, pixel_limit: int) -> None:
    """Refuse sizes above the limit, of the image and of the parts it is decoded in, and scans without end."""
    check_size(image.size, pixel_limit)
    for tile in image.tile:
        if tile.extents is not None:
            check_size((tile.extents[2] - tile.extents[0], tile.extents[3] - tile.extents[1]), pixel_limit)
    if (
        kind == "TIFF"
        and (tags := getattr(image, "tag_v2", None)) is not None
        and 322 in tags
        and 323 in tags
    ):
        check_size((int(tags[322]), int(tags[323])), pixel_limit)
    if kind == "JPEG2000":
        width, height = _jp2_tile(data, image.size)
        if width * height > HEAVY_LIMIT:
            raise ImageError(
                f"too large: a JPEG 2000 tile of {width}x{height} is above the limit of {HEAVY_LIMIT:,} pixels; "
                "save the image in smaller tiles"
            )
    if kind == "JPEG" and image.info.get("progressive") and _scans(data) > SCANS:
        raise ImageError(f"damaged JPEG: more than {SCANS} scans")


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, from the header (RFC 9649, section 2); (0, 0) where there is none."""
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jp2_tile(data: bytes, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a tile, from the SIZ segment (ISO 15444-1, A.5.1), no larger than the image."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return size
    width, height = (int.from_bytes(data[start + 24 + i : start + 28 + i], "big") for i in (0, 4))
    return min(width, size[0]), min(height, size[1])


def _scans(data: bytes) -> int:
    """Scans of the first picture in a JPEG file; counting ends above SCANS."""
    place, found = 2, 0
    while found <= SCANS and place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xD9:
        if data[place + 1] in (0xFF, 0x01) or 0xD0 <= data[place + 1] <= 0xD8:  # no segment follows these
            place += 1 if data[place + 1] == 0xFF else 2
            continue
        found += data[place + 1] == 0xDA
        scan = data[place + 1] == 0xDA
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if scan:
            end = _MARKER.search(data, place)
            place = end.start() if end else len(data)
    return found


def check_png(data: bytes) -> None:
    """Compare the checksums of the pixels' chunks, which Pillow does not: 7 % of flipped bits get past it."""
    view, start = memoryview(data), 8
    while (end := start + 8 + int.from_bytes(view[start : start + 4])) + 4 <= len(data):
        body = view[start + 4 : end]
        if bytes(body[:4]) == b"IDAT" and zlib.crc32(body) != int.from_bytes(view[end : end + 4]):
            raise ImageError("damaged PNG: a checksum is wrong")
        start = end + 4
