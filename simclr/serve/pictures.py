"""An image of the collection -> bytes that a browser can show: its file, or a small JPEG. Reads only what the store lists."""

import hashlib
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from simclr.embed.shards import Row
from simclr.errors import ImageError
from simclr.images import decode, sniff
from simclr.serve.collection import Served
from simclr.serve.limits import Refused
from simclr.serve.thumbnails import Thumbnails

SIZES = (128, 256, 512)
"""Longest sides of thumbnails, in pixels."""
_SHOWN = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "BMP": "image/bmp",
}
"""What browsers show, by the kinds of `images`. Others are turned to JPEG."""


class Shown(NamedTuple):
    data: bytes
    media_type: str


def original(served: Served, row: Row) -> Shown:
    """The file as it is, or as JPEG. Raises Refused where it is gone or damaged."""
    data = _read(served, row)
    media_type = _SHOWN.get(sniff(data[:32]) or "")
    if media_type is not None:
        return Shown(data, media_type)
    try:
        return Shown(_jpeg(decode(data).image, quality=92), "image/jpeg")
    except ImageError as exc:
        raise _damaged(row, exc) from exc


def thumbnail(served: Served, row: Row, size: int, kept: Thumbnails) -> Shown:
    """A JPEG whose longest side is at most `size` pixels. Raises Refused."""
    key = hashlib.sha256(f"{row.content_hash} {size} 1".encode()).hexdigest()
    data = kept.get(key)
    if data is None:
        data = _small(_read(served, row), row, size)
        kept.put(key, data)
    return Shown(data, "image/jpeg")


def _small(data: bytes, row: Row, size: int) -> bytes:
    try:
        # its shorter side need have no more pixels than this, for the longer one to have `size`
        image = decode(data, enough=lambda w, h: min(min(w, h), -(-size * min(w, h) // max(w, h)))).image
    except ImageError as exc:
        raise _damaged(row, exc) from exc
    image.thumbnail((size, size), Image.Resampling.BICUBIC)
    return _jpeg(image, quality=82)


def _read(served: Served, row: Row) -> bytes:
    try:
        return served.store.read(row)
    except ImageError as exc:
        raise Refused(
            404, f"image {row.id} cannot be read any more. Run `simclr embed` again on its folder."
        ) from exc


def _damaged(row: Row, exc: ImageError) -> Refused:
    return Refused(404, f"image {row.id}: {exc}. Run `simclr embed` again on its folder.")


def _jpeg(image: Image.Image, *, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
