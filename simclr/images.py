"""Bytes -> one upright RGB image, or the reason why not.

Takes the bytes of a file and gives a Pillow image in mode RGB: EXIF orientation applied, 16 bit scaled to 8,
transparency on white, CMYK converted, first frame of an animation. No tensors, no resizing.

Memory is known before a pixel is allocated: every size that a header declares is held against a limit, large
images are decoded one at a time, and modes are converted in strips of rows.

The content decides, never the file's name. Only the formats below are opened: Pillow's rarer decoders
(EPS, PSD, FITS, ...) have a long history of security holes and are no photographs.
"""

import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from simclr.errors import ImageError, reason

PIXEL_LIMIT = 89_478_485
"""Largest image decoded, in pixels: 256 MiB as RGB, the size at which Pillow starts to warn."""

LARGE = 16_000_000
"""Images of more pixels than this are decoded one at a time in a process; smaller ones never wait."""

HEAVY_LIMIT = 48_000_000
"""Limit, in pixels, of a JPEG 2000 tile: OpenJPEG takes 18 bytes for each RGB pixel of a tile (measured), not 4."""

STRIP = 1 << 22
"""Pixels converted to RGB at once."""

SCANS = 200
"""Most scans of a progressive JPEG. Encoders write about 10, and each passes over every pixel again."""

HEAD_BYTES = 32
"""As many bytes of a file as `sniff` wants to see."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .avif .heic .heif .tif .tiff .bmp .dib "
    ".ppm .pgm .pbm .pnm .jp2 .j2k .jpx .jpf .j2c .qoi .mpo".split()
)

_PLUGINS = r"PIL\.\w+Plugin$"
_one_large = threading.Lock()
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # one that ends a scan

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
    transform). Without it every pixel is decoded. An image of more than `pixel_limit` pixels is refused.

    Safe in threads. One that decodes an image above LARGE holds back others that do, until it returns.

    Raises ImageError with the reason, without a path: the caller knows where the bytes came from.
    """
    kind = sniff(data[:HEAD_BYTES])
    if kind is None:
        raise ImageError("empty file" if not data else "not an image of a known format")
    if kind == "HEIF":
        _register_heif()
    # Pillow's own check warns at a size of its own; sizes are checked here, by the limit that was asked for.
    # Always the same value, so threads cannot disagree about it.
    Image.MAX_IMAGE_PIXELS = None
    _quiet()
    try:
        if kind == "WEBP":  # its decoder allocates the canvas when it is opened
            _check_size(_webp_size(data), pixel_limit)
            with _turn(*_webp_size(data)), Image.open(BytesIO(data), formats=(kind,)) as image:
                return _picture(data, kind, image, enough, pixel_limit)
        with Image.open(BytesIO(data), formats=(kind,)) as image, _turn(*image.size):
            return _picture(data, kind, image, enough, pixel_limit)
    except ImageError:
        raise
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


def _picture(
    data: bytes,
    kind: str,
    image: ImageFile,
    enough: Callable[[int, int], int] | None,
    pixel_limit: int,
) -> Picture:
    """Check what an opened file declares, then decode it."""
    width, height = image.size
    _check_declared(data, kind, image, pixel_limit)
    if kind != "JPEG":  # a PNG's getexif() loads the pixels, and would hide that they are damaged
        image.load()
    if kind == "PNG":
        _check_png(data)
    orientation = _orientation(image)
    if orientation >= 5:  # lying on its side
        width, height = height, width
    least = enough(width, height) if enough else None
    rgb = _jpeg(data, image, least) if kind == "JPEG" else _rgb(image)
    image.close()  # gives its pixels back before they are turned
    turn = _UPRIGHT.get(orientation)  # FLIP_LEFT_RIGHT is 0
    return Picture(rgb if turn is None else rgb.transpose(turn), width, height)


def _quiet() -> None:
    """Pillow's plugins warn of odd metadata that changes no pixel; a line for every file would bury the rest."""
    if not any(getattr(rule[3], "pattern", None) == _PLUGINS for rule in warnings.filters):
        warnings.filterwarnings("ignore", module=_PLUGINS)


def _turn(width: int, height: int) -> AbstractContextManager[object]:
    """Held while an image is decoded; only large ones wait for it."""
    return _one_large if width * height > LARGE else nullcontext()


def _check_size(size: tuple[int, int], pixel_limit: int) -> None:
    if size[0] * size[1] > pixel_limit:
        raise ImageError(
            f"too large: {size[0]}x{size[1]} is above the limit of {pixel_limit:,} pixels; raise it with --max-pixels"
        )


def _check_declared(data: bytes, kind: str, image: ImageFile, pixel_limit: int) -> None:
    """Refuse sizes above the limit, of the image and of the parts it is decoded in, and scans without end."""
    _check_size(image.size, pixel_limit)
    for tile in image.tile:
        if tile.extents is not None:
            _check_size((tile.extents[2] - tile.extents[0], tile.extents[3] - tile.extents[1]), pixel_limit)
    if (
        kind == "TIFF"
        and (tags := getattr(image, "tag_v2", None)) is not None
        and 322 in tags
        and 323 in tags
    ):
        _check_size((int(tags[322]), int(tags[323])), pixel_limit)
    if kind == "JPEG2000":
        width, height = _jp2_tile(data, image.size)
        if width * height > HEAVY_LIMIT:
            raise ImageError(
                f"too large: a JPEG 2000 tile of {width}x{height} is above the limit of {HEAVY_LIMIT:,} pixels; "
                "save the image in smaller tiles"
            )
    if kind == "JPEG" and image.info.get("progressive") and _scans(data) > SCANS:
        raise ImageError(f"damaged JPEG: more than {SCANS} scans")


def _webp_size(data: bytes) -> tuple[int, int]:
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
    """Any mode to RGB: deep greys scaled to 8 bit, transparency composited on white.

    In strips of rows, so that what lies between the image and its RGB form stays small. Each pixel is
    converted by itself (the extremes of a deep grey are found first), so strips change no value.
    """
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


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC needs pillow-heif. Run: pip install 'simclr-toolkit[heif]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
