"""Bytes -> one upright RGB image, or the reason why not.

Takes the bytes of a file and gives a Pillow image in mode RGB: EXIF orientation applied, 16 bit scaled to 8,
transparency on white, CMYK converted, first frame of an animation. No tensors, no resizing.

The content decides, never the file's name. Only the formats below are opened: Pillow's rarer decoders
(EPS, PSD, FITS, ...) have a long history of security holes and are no photographs.
"""

import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from simclr.errors import ImageError, reason

PIXEL_LIMIT = 89_478_485
"""Largest image decoded, in pixels: 256 MiB as RGB, the size at which Pillow starts to warn."""

HEAD_BYTES = 32
"""As many bytes of a file as `sniff` wants to see."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .avif .heic .heif .tif .tiff .bmp .dib "
    ".ppm .pgm .pbm .pnm .jp2 .j2k .jpx .jpf .j2c .qoi .mpo".split()
)

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # EXIF orientation -> what makes the image upright (EXIF 2.32, table 5)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """A decoded image and the upright size of the file it came from."""

    image: Image.Image
    """Mode RGB, upright; smaller than the file where a scaled decode was allowed."""
    width: int
    height: int


def sniff(head: bytes) -> str | None:
    """Pillow's name of the format that these first bytes belong to; None if it is none we open."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"GIF8"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG2000"
    if head.startswith(b"qoif"):
        return "QOI"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return "HEIF"
    return None


def decode(
    data: bytes, *, enough: Callable[[int, int], int] | None = None, pixel_limit: int = PIXEL_LIMIT
) -> Picture:
    """Decode one image file.

    `enough` is asked, with the upright width and height, for the shortest side the caller can use; a JPEG may
    then be decoded at 1/2, 1/4 or 1/8 as long as its shorter side stays at least that (far fewer pixels to
    transform). Without it every pixel is decoded.

    Raises ImageError with the reason, without a path: the caller knows where the bytes came from.
    """
    kind = sniff(data[:HEAD_BYTES])
    if kind is None:
        raise ImageError("empty file" if not data else "not an image of a known format")
    if kind == "HEIF":
        _register_heif()
    try:
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise ImageError(f"too large: {width}x{height} is above the limit of {PIXEL_LIMIT:,} pixels")
            if kind != "JPEG":  # a PNG's getexif() loads the pixels, and would hide that they are damaged
                image.load()
            if kind == "PNG":
                _check_png(data)
            orientation = _orientation(image)
            if orientation >= 5:  # lying on its side
                width, height = height, width
            least = enough(width, height) if enough else None
            rgb = _jpeg(data, image, least) if kind == "JPEG" else _rgb(image)
            turn = _UPRIGHT.get(orientation)  # FLIP_LEFT_RIGHT is 0
            return Picture(rgb if turn is None else rgb.transpose(turn), width, height)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(f"too large: above the limit of {PIXEL_LIMIT:,} pixels") from exc
    except UnidentifiedImageError as exc:
        raise ImageError(f"damaged {kind}: its header cannot be read") from exc
    except Exception as exc:  # decoders of damaged data raise anything: struct.error, KeyError, ...
        raise ImageError(f"damaged {kind}: {reason(exc)}") from exc


def upright(image: Image.Image) -> Image.Image:
    """An image that Pillow opened or made -> mode RGB and upright, by the rules for files.

    Raises ImageError with the reason if its pixels cannot be loaded.
    """
    try:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        return _rgb(image) if turn is None else _rgb(image).transpose(turn)
    except Exception as exc:  # a lazily opened file is decoded here, and raises anything where it is damaged
        raise ImageError(f"damaged image: {reason(exc)}") from exc


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where the EXIF block is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _jpeg(data: bytes, image: Image.Image, least: int | None) -> Image.Image:
    """Decode with simplejpeg, bit-identical to Pillow and faster; what it refuses, Pillow judges."""
    # never 7/8, 5/8 or 3/8, which simplejpeg offers and Pillow does not: they take longer than every pixel
    scale = next((n for n in (8, 4, 2) if least and min(image.size) >= n * least), 1)
    if image.mode in ("RGB", "L"):
        try:
            import simplejpeg
        except ImportError:  # a training node may lack it
            pass
        else:
            width, height = (-(-side // scale) for side in image.size)
            try:
                pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=1)
            except ValueError:
                pass
            else:
                return Image.fromarray(pixels)
    if scale > 1:
        image.draft("RGB", (image.width // scale, image.height // scale))
    return _rgb(image)


def _check_png(data: bytes) -> None:
    """Compare the checksums of the pixels' chunks, which Pillow does not: 7 % of flipped bits get past it."""
    view, start = memoryview(data), 8
    while (end := start + 8 + int.from_bytes(view[start : start + 4])) + 4 <= len(data):
        body = view[start + 4 : end]
        if bytes(body[:4]) == b"IDAT" and zlib.crc32(body) != int.from_bytes(view[end : end + 4]):
            raise ImageError("damaged PNG: a checksum is wrong")
        start = end + 4


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: deep greys scaled to 8 bit, transparency composited on white."""
    image.load()
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float32) / 257)
    if image.mode in ("I", "F"):
        return _grey(_stretched(np.nan_to_num(np.asarray(image, dtype=np.float32)), whole=image.mode == "I"))
    if image.mode == "LAB":
        srgb = ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
        assert turned is not None
        return turned
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _stretched(values: NDArray[np.float32], *, whole: bool) -> NDArray[np.floating[Any]]:
    """Numbers without a fixed range -> 0..255: 8 and 16 bit as they are meant, others from their extremes."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255:
        return values
    if low >= 0 and high <= 65535 and whole:
        return values / 257
    return (values - low) * (255 / max(high - low, 1e-12))


def _grey(values: NDArray[np.floating[Any]]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC needs pillow-heif. Run: pip install 'simclr-toolkit[heif]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
