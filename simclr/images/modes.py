"""Any mode of Pillow's -> RGB: deep greys scaled to 8 bit, transparency composited on white, CMYK and LAB converted.

In strips of rows, so that what lies between an image and its RGB form stays small.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

STRIP = 1 << 22
"""Pixels converted to RGB at once."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Each pixel is converted by itself (the extremes of a deep grey are found first), so strips change no value."""
    image.load()
    if image.mode.startswith("I;16"):
        convert: Callable[[Image.Image], Image.Image] = _rgb_of_16_bit
    elif image.mode in ("I", "F"):
        convert = _stretch(image)
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        convert = partial(_rgb_of_lab, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    elif "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        convert = _on_white
    else:  # one pass, without anything in between
        return image.convert("RGB")
    if image.width * image.height <= STRIP:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        whole.paste(convert(strip), (0, top))
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in pieces of at most STRIP pixels, or one row; with the first row of each."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb_of_16_bit(image: Image.Image) -> Image.Image:
    return _grey(np.asarray(image).astype(np.float32) / 257)


def _rgb_of_lab(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    turned = ImageCms.applyTransform(image, transform)
    assert turned is not None
    return turned


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _numbers(image: Image.Image) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32))


def _stretch(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Numbers without a fixed range -> 0..255: 8 and 16 bit as they are meant, others from their extremes."""
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = _numbers(strip)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low >= 0 and 1 < high <= 255:
        return lambda strip: _grey(_numbers(strip))
    if low >= 0 and high <= 65535 and image.mode == "I":
        return lambda strip: _grey(_numbers(strip) / 257)
    factor = 255 / max(high - low, 1e-12)

    def stretched(strip: Image.Image) -> Image.Image:
        with np.errstate(over="ignore"):  # extremes near float32's own: what overflows is white
            return _grey((_numbers(strip) - low) * factor)

    return stretched


def _grey(values: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
