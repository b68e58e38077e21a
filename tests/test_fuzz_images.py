"""Damaged image files: a picture of the right size, or an ImageError of one line."""

import time
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from simclr.errors import ImageError
from simclr.images import decode

SAVED = {
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg progressive": ("RGB", "JPEG", {"progressive": True}),
    "jpeg cmyk": ("CMYK", "JPEG", {}),
    "png rgb": ("RGB", "PNG", {}),
    "png rgba": ("RGBA", "PNG", {}),
    "png grey alpha": ("LA", "PNG", {}),
    "png palette": ("P", "PNG", {"transparency": 1}),
    "png 16 bit": ("I;16", "PNG", {}),
    "png 1 bit": ("1", "PNG", {}),
    "gif": ("P", "GIF", {}),
    "webp": ("RGB", "WEBP", {}),
    "webp lossless": ("RGBA", "WEBP", {"lossless": True}),
    "avif": ("RGB", "AVIF", {"speed": 10}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff float": ("F", "TIFF", {}),
    "bmp": ("RGB", "BMP", {}),
    "ppm": ("RGB", "PPM", {}),
    "jpeg 2000": ("RGB", "JPEG2000", {}),
    "qoi": ("RGB", "QOI", {}),
}


def small_file(name: str) -> bytes:
    mode, kind, options = SAVED[name]
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((40, 30)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {name: small_file(name) for name in SAVED}


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes flipped, cut, inserted, or spliced with another file, up to five times; headers more often."""
    harmed = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        reach = draw(st.sampled_from([64, 400, len(harmed)]))
        place = draw(st.integers(0, max(0, min(reach, len(harmed)) - 1)))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "end", "insert", "splice"])):
            case "flip" if harmed:
                harmed[place] ^= draw(st.integers(1, 255))
            case "set":
                harmed[place : place + 4] = draw(
                    st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\x40\0"])
                )
            case "cut":
                del harmed[place : place + draw(st.integers(1, 40))]
            case "end":
                del harmed[place:]
            case "insert":
                harmed[place:place] = draw(st.binary(max_size=16))
            case "splice":
                other = FILES[draw(st.sampled_from(sorted(FILES)))]
                harmed[place:] = other[draw(st.integers(0, len(other) - 1)) :]
    return bytes(harmed)


def check_decode(data: bytes) -> None:
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = decode(data, pixel_limit=4_000_000)
        except ImageError as exc:
            line = str(exc)
            assert line and len(line.splitlines()) == 1
            assert "Warning" not in repr(exc.__cause__)
        else:
            assert picture.image.mode == "RGB" and picture.image.size == (picture.width, picture.height)
    assert time.perf_counter() - began < 5


RULES = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@pytest.mark.parametrize("name", SAVED)
@settings(max_examples=40, derandomize=True, **RULES)  # type: ignore[arg-type]
@given(data=st.data())
def test_a_damaged_file_decodes_or_says_why_not(name: str, data: st.DataObject) -> None:
    check_decode(data.draw(damaged(FILES[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
@settings(max_examples=3000, **RULES)  # type: ignore[arg-type]
@given(data=st.data())
def test_a_damaged_file_decodes_or_says_why_not_at_length(name: str, data: st.DataObject) -> None:
    check_decode(data.draw(damaged(FILES[name])))
