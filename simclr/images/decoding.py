"""Bytes -> one upright RGB image, or the reason why not.

Takes the bytes of a file and gives a Pillow image in mode RGB: EXIF orientation applied, 16 bit scaled to 8,
transparency on white, CMYK converted, first frame of an animation. No tensors, no resizing.

Memory is known before a pixel is allocated: every size that a header declares is held against a limit, and large
images are decoded one at a time.
"""

import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from simclr.errors import ImageError, reason
from simclr.images.declared import check_declared, check_png, check_size, webp_size
from simclr.images.kinds import HEAD_BYTES, sniff
from simclr.images.modes import to_rgb

PIXEL_LIMIT = 89_478_485
"""Largest image decoded, in pixels: 256 MiB as RGB, the size at which Pillow starts to warn."""

LARGE = 16_000_000
"""Images that hold more pixels than this in memory are decoded one at a time; smaller ones never wait."""

ONE_LARGE = threading.Lock()
"""Held by the one."""

_PLUGINS = r"PIL\.\w+Plugin$"

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


def decode(
    data: bytes,
    *,
    enough: Callable[[int, int], int] | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    one_large: AbstractContextManager[object] = ONE_LARGE,
) -> Picture:
    """Decode one image file.

    `enough` is asked, with the upright width and height, for the shortest side the caller can use; a JPEG may
    then be decoded at 1/2, 1/4 or 1/8 as long as its shorter side stays at least that (far fewer pixels to
    transform). Without it every pixel is decoded. An image of more than `pixel_limit` pixels is refused.

    Safe in threads. One that decodes an image above LARGE does so in `one_large`, and so holds back others that do.

    Raises ImageError with the reason, without a path: the caller knows where the bytes came from; TooLarge above the limit.
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
            width, height = webp_size(data)
            check_size((width, height), pixel_limit)
            with _turn(width * height, one_large), Image.open(BytesIO(data), formats=(kind,)) as image:
                check_declared(data, kind, image, pixel_limit)
                return _picture(data, kind, image, 1)
        with Image.open(BytesIO(data), formats=(kind,)) as image:
            check_declared(data, kind, image, pixel_limit)
            width, height = image.size
            scale = _scale(image, enough) if kind == "JPEG" else 1
            # a progressive JPEG is held whole before it is scaled
            held = width * height // (1 if image.info.get("progressive") else scale**2)
            with _turn(held, one_large):
                return _picture(data, kind, image, scale)
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
        return to_rgb(image) if turn is None else to_rgb(image).transpose(turn)
    except Exception as exc:  # a lazily opened file is decoded here, and raises anything where it is damaged
        raise ImageError(f"damaged image: {reason(exc)}") from exc


def _picture(data: bytes, kind: str, image: ImageFile, scale: int) -> Picture:
    """Decode an opened file, a JPEG at 1/scale."""
    width, height = image.size
    if kind != "JPEG":  # a PNG's getexif() loads the pixels, and would hide that they are damaged
        image.load()
    if kind == "PNG":
        check_png(data)
    orientation = _orientation(image)
    if orientation >= 5:  # lying on its side
        width, height = height, width
    rgb = _jpeg(data, image, scale) if kind == "JPEG" else to_rgb(image)
    image.close()  # gives its pixels back before they are turned
    turn = _UPRIGHT.get(orientation)  # FLIP_LEFT_RIGHT is 0
    return Picture(rgb if turn is None else rgb.transpose(turn), width, height)


def _scale(image: Image.Image, enough: Callable[[int, int], int] | None) -> int:
    """By which a JPEG may be made smaller while it is decoded."""
    if enough is None:
        return 1
    width, height = image.size
    least = enough(height, width) if _orientation(image) >= 5 else enough(width, height)
    # never 7/8, 5/8 or 3/8, which simplejpeg offers and Pillow does not: they take longer than every pixel
    return next((n for n in (8, 4, 2) if min(image.size) >= n * least), 1)


def _quiet() -> None:
    """Pillow's plugins warn of odd metadata that changes no pixel; a line for every file would bury the rest."""
    if not any(getattr(rule[3], "pattern", None) == _PLUGINS for rule in warnings.filters):
        warnings.filterwarnings("ignore", module=_PLUGINS)


def _turn(pixels: int, one_large: AbstractContextManager[object]) -> AbstractContextManager[object]:
    return one_large if pixels > LARGE else nullcontext()


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where the EXIF block is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _jpeg(data: bytes, image: Image.Image, scale: int) -> Image.Image:
    """Decode with simplejpeg, bit-identical to Pillow and faster; what it refuses, Pillow judges."""
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
    return to_rgb(image)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC needs pillow-heif. Run: pip install 'simclr-toolkit[heif]'") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
