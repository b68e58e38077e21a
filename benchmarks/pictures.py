"""Folders of images to measure with, of which no two files are equal: what is recognised is not embedded twice. Not part of the package."""

import os
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILES_A_FOLDER = 1000
_DRAWN = 128
"""Pictures drawn; further files repeat their pixels under another comment."""


def photos(target: Path, source: Path | None, count: int, *, size: tuple[int, int] = (500, 375)) -> str:
    """`count` JPEG files, the photos of `source` or drawn ones of `size` (width, height); says what they are."""
    if source is None:
        found = drawn_jpegs(min(count, _DRAWN), size)
        words = f"{count:,} drawn JPEGs of {size[0]}x{size[1]}, {len(found)} different pictures"
    else:
        found = jpegs_of(source)
        words = f"{count:,} photos: {len(found)} of {source.name}/, repeated with a comment that makes each file another"
    _fill(target, found, count)
    return words


def small(target: Path, cifar: Path | None, count: int) -> str:
    """`count` JPEG files of 32x32, CIFAR-10's from packed JPEGs or drawn ones; says what they are."""
    if cifar is None:
        found = drawn_jpegs(_DRAWN, (32, 32))
        words = f"{count:,} drawn JPEGs of 32x32, {len(found)} different pictures, every file another"
    else:
        packed = np.load(cifar)
        found = [
            data[a:b].tobytes()
            for data, ends in ((packed[f"jpeg_{x}"], packed[f"offsets_{x}"]) for x in ("train", "test"))
            for a, b in pairwise(ends)
        ]
        words = f"{count:,} JPEGs of 32x32: the {len(found):,} of CIFAR-10, repeated with a comment that makes each file another"
    _fill(target, found, count)
    return words


def linked(target: Path, source: Path, count: int) -> Path:
    """A folder with the first `count` files of `source`, as hard links."""
    paths = sorted(path for path in source.rglob("*") if path.is_file())[:count]
    for path in paths:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, link)
    return target


def jpegs_of(folder: Path) -> list[bytes]:
    """The JPEG files of a folder and below, in the order of their names."""
    contents = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    found = [data for data in contents if data.startswith(b"\xff\xd8\xff")]
    if not found:
        raise SystemExit(f"{folder}: no JPEG file in it. Give a folder of photos.")
    return found


def drawn_jpegs(count: int, size: tuple[int, int]) -> list[bytes]:
    """Pictures with as much of each scale as a photo has (amplitude 1/f), quality 90."""
    rng = np.random.default_rng(0)
    return [encoded(_field(rng, size)) for _ in range(count)]


def encoded(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def marked(jpeg: bytes, text: str) -> bytes:
    """The same picture in another file: a comment segment (ITU T.81, B.2.4.5) behind the start marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]


def _field(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    noise = rng.standard_normal((3, height, width))
    field = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    return np.clip(field / field.std() * 50 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _fill(target: Path, contents: list[bytes], count: int) -> None:
    contents = list(dict.fromkeys(contents))
    for i, data in zip(range(count), _cycle(contents), strict=False):
        folder = target / f"{i // FILES_A_FOLDER:04d}"
        if i % FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{i:06d}.jpg").write_bytes(data)


def _cycle(contents: list[bytes]) -> Iterator[bytes]:
    """As they are, then again and again with the number of the round in a comment."""
    yield from contents
    i = 1
    while True:
        yield from (marked(data, f"{i}") for data in contents)
        i += 1
