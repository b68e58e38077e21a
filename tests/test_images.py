import csv
import os
import random
import struct
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from simclr.errors import ImageError, TooLarge
from simclr.images import PIXEL_LIMIT, decode, decoding, sniff, upright

QUADRANTS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))
"""Colours of the top left, top right, bottom left and bottom right quarter of `upright_picture`."""

# What a camera stores: EXIF orientation -> the stored rows, given the upright ones (EXIF 2.32, table 5).
STORED = {
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: np.rot90(rows, 1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: np.rot90(rows, -1),
}


def upright_picture() -> np.ndarray:
    """48 wide and 32 high, no two corners alike."""
    rows = np.zeros((32, 48, 3), np.uint8)
    for i, colour in enumerate(QUADRANTS):
        rows[i // 2 * 16 : i // 2 * 16 + 16, i % 2 * 24 : i % 2 * 24 + 24] = colour
    return rows


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth noise, as JPEG likes it."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data).image)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises this many grey pixels and holds none."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.fixture
def no_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)


# --- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_upright_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright_picture())))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind not in ("PNG", "TIFF") else {}
    picture = decode(saved(stored, kind, exif=exif, **options))
    assert (picture.width, picture.height) == (48, 32)
    assert picture.image.size == (48, 32)
    corners = [picture.image.getpixel(place) for place in ((12, 8), (36, 8), (12, 24), (36, 24))]
    assert np.abs(np.array(corners) - np.array(QUADRANTS)).max() <= 6


def test_a_lying_jpeg_is_upright_without_simplejpeg(no_simplejpeg: None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](upright_picture())))
    picture = decode(saved(stored, "JPEG", exif=exif, quality=95))
    assert picture.image.size == (picture.width, picture.height) == (48, 32)


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_an_orientation_out_of_range_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(
        pixels(saved(Image.fromarray(upright_picture()), "PNG", exif=exif)), upright_picture()
    )


def test_a_damaged_exif_block_does_not_hide_the_pixels() -> None:
    data = saved(Image.fromarray(upright_picture()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(pixels(data), upright_picture())


# --- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_grey_ramp_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))
    found = pixels(saved(Image.fromarray(ramp), kind))
    assert np.array_equal(found[0], np.repeat(np.arange(256)[:, None], 3, axis=1))


def test_a_dark_16_bit_image_stays_dark() -> None:
    found = pixels(saved(Image.fromarray(np.full((4, 4), 2570, np.uint16)), "PNG"))
    assert np.unique(found).tolist() == [10]


def test_a_float_tiff_of_0_to_1_is_stretched() -> None:
    values = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))
    assert np.array_equal(pixels(saved(Image.fromarray(values), "TIFF"))[0, :, 0], np.arange(256))


def test_a_float_tiff_of_0_to_255_is_kept() -> None:
    values = np.tile(np.arange(20, 200, dtype=np.float32), (4, 1))
    assert np.array_equal(pixels(saved(Image.fromarray(values), "TIFF"))[0, :, 0], np.arange(20, 200))


def test_a_float_tiff_of_one_negative_value_is_black() -> None:
    found = pixels(saved(Image.fromarray(np.full((3, 3), -5, np.float32)), "TIFF"))
    assert np.unique(found).tolist() == [0]


def test_a_float_tiff_with_nan_is_read() -> None:
    values = np.array([[np.nan, 100], [200, 0]], np.float32)
    assert pixels(saved(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[0, 100], [200, 0]]


def test_a_float_tiff_of_the_largest_numbers_is_read_without_a_warning() -> None:
    most = np.finfo(np.float32).max
    found = pixels(saved(Image.fromarray(np.array([[-most, most]], np.float32)), "TIFF"))
    assert found[0, :, 0].tolist() == [0, 255]


def test_half_transparent_rgba_is_mixed_with_white() -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 100, 128))
    assert pixels(saved(image, "PNG"))[0, 0].tolist() == [227, 127, 177]  # c * 128/255 + 255 * 127/255


def test_transparent_grey_lands_on_white() -> None:
    assert np.unique(pixels(saved(Image.new("LA", (4, 4), (0, 0)), "PNG"))).tolist() == [255]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_lands_on_white(kind: str) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (2, 0, 4, 2))
    found = pixels(saved(image, kind, transparency=0))
    assert found[0].tolist() == [[255] * 3, [255] * 3, [200, 100, 50], [200, 100, 50]]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (9, 9, 9)), ("L", 9)])
def test_a_colour_declared_transparent_lands_on_white(mode: str, colour: object) -> None:
    image = Image.new(mode, (4, 4), colour)
    assert np.unique(pixels(saved(image, "PNG", transparency=colour))).tolist() == [255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_all_transparent_image_is_white(kind: str) -> None:
    assert np.unique(pixels(saved(Image.new("RGBA", (4, 4)), kind))).tolist() == [255]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() <= 3


def test_lab_becomes_rgb() -> None:
    red = Image.new(
        "LAB", (4, 4), (136, 80 + 128, 67 + 128)
    )  # sRGB (255, 0, 0) is L* 53.2, a* 80.1, b* 67.2 (D65)
    found = pixels(saved(red, "TIFF")).reshape(-1, 3)[0]
    assert found[0] >= 240 and found[1:].max() <= 40  # the profile's white is D50


def test_one_bit_black_and_white_is_0_and_255() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(saved(image, "PNG"))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_of_several_is_taken(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(first, kind, save_all=True, append_images=[second], **options)
    assert np.unique(pixels(data).reshape(-1, 3), axis=0).tolist() == [[200, 0, 0]]


@pytest.mark.parametrize("kind", ["BMP", "PPM", "QOI", "JPEG2000"])
def test_lossless_rarer_formats_come_back_unchanged(kind: str) -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(upright_picture()), kind)), upright_picture())


# --- what is an image ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "QOI", "PPM", "AVIF"]
)
def test_the_first_bytes_tell_the_format(kind: str) -> None:
    assert sniff(saved(smooth(16, 16), kind)[:32]) == kind


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(ImageError, match=r"^empty file$"):
        decode(b"")


@pytest.mark.parametrize(
    "data", [b"hello, world", b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS\0\1", b"P", b"\0" * 100]
)
def test_what_is_no_known_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^not an image of a known format$"):
        decode(data)


def test_heic_without_its_decoder_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ImageError, match=r"^HEIC needs pillow-heif\. Run: pip install 'simclr-toolkit\[heif\]'$"
    ):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", range(10, 100, 10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_damaged_in_one_line(kind: str, share: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(smooth(120, 90), kind, **options)
    with pytest.raises(ImageError, match=rf"^damaged {kind}: [^\n]+$"):
        decode(data[: len(data) * share // 100])


@pytest.mark.parametrize("share", range(10, 100, 10))
def test_a_truncated_jpeg_is_damaged_without_simplejpeg_too(no_simplejpeg: None, share: int) -> None:
    data = saved(smooth(120, 90), "JPEG")
    with pytest.raises(ImageError, match=r"^damaged JPEG: [^\n]+$"):
        decode(data[: len(data) * share // 100])


def test_a_truncated_jpeg_is_damaged_in_a_scaled_decode_too() -> None:
    data = saved(smooth(400, 300), "JPEG")
    with pytest.raises(ImageError, match=r"^damaged JPEG: "):
        decode(data[: len(data) // 2], enough=lambda width, height: 40)


def test_every_flipped_bit_in_the_pixels_of_a_png_is_damage() -> None:
    data, rng = saved(smooth(120, 90), "PNG"), random.Random(0)
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    for _ in range(200):
        harmed = bytearray(data)
        harmed[start + rng.randrange(length)] ^= 1 << rng.randrange(8)
        with pytest.raises(ImageError, match=r"^damaged PNG: "):
            decode(bytes(harmed))


def test_a_png_without_its_end_chunk_is_whole() -> None:
    data = saved(smooth(40, 30), "PNG")
    assert np.array_equal(pixels(data[:-12]), pixels(data))


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "QOI", "PPM", "AVIF"]
)
def test_random_damage_gives_an_image_or_an_image_error(kind: str) -> None:
    data, rng = saved(smooth(40, 30), kind), random.Random(kind)
    for _ in range(40):
        harmed = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            harmed[rng.randrange(len(harmed))] = rng.randrange(256)
        try:
            assert decode(bytes(harmed)).image.mode == "RGB"
        except ImageError as exc:
            assert "\n" not in str(exc)


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(9460, 9460), (65_000, 65_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_without_room_for_its_pixels(width: int, height: int) -> None:
    assert width * height > PIXEL_LIMIT
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"^too large: "):
            decode(png_header(width, height))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_image_at_the_limit_is_not_too_large() -> None:
    width, height = 9459, PIXEL_LIMIT // 9459
    with pytest.raises(ImageError, match=r"^damaged PNG: "):  # it holds no pixels, but was let in
        decode(png_header(width, height))


def test_too_large_names_size_and_limit() -> None:
    data = saved(smooth(10, 10), "PNG")
    with pytest.raises(TooLarge, match=r"^too large: 10x10 is above the limit of 99 pixels$"):
        decode(data, pixel_limit=99)
    assert decode(data, pixel_limit=100).image.size == (10, 10)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "QOI", "PPM", "AVIF"]
)
def test_the_pixel_limit_holds_for_every_format(kind: str) -> None:
    with pytest.raises(ImageError, match=r"^too large: 16x12 is above the limit of 191 pixels$"):
        decode(saved(smooth(16, 12), kind), pixel_limit=191)


def test_a_webp_canvas_is_refused_before_its_decoder_is_made() -> None:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16383).to_bytes(3, "little") * 2
    data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    with pytest.raises(ImageError, match=r"^too large: 16384x16384 "):
        decode(data)


@pytest.mark.parametrize(("side", "refused"), [(16, False), (1 << 16, True)])
def test_a_large_tiff_tile_around_a_small_image_is_refused(side: int, refused: bool) -> None:
    fields = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: 256}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    data = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + entries + bytes(4) + bytes(256)
    if not refused:
        assert decode(data).image.size == (16, 16)
        return
    with pytest.raises(ImageError, match=r"^too large: 65536x65536 "):
        decode(data)


def test_a_jpeg_2000_of_one_heavy_tile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr.images.declared.HEAVY_LIMIT", 64 * 64)
    with pytest.raises(ImageError, match=r"^too large: a JPEG 2000 tile of 100x90 "):
        decode(saved(smooth(100, 90), "JPEG2000"))
    tiled = saved(smooth(100, 90), "JPEG2000", tile_size=(64, 64))
    assert decode(tiled).image.size == (100, 90)


def test_a_progressive_jpeg_of_scans_without_end_is_refused() -> None:
    data = saved(smooth(64, 48), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match=r"^damaged JPEG: more than 200 scans$"):
        decode(data[:last] + data[last:-2] * 250 + data[-2:])


# --- strips: the slow twin is what the whole image gives in one expression ------------------------


def slow(image: Image.Image) -> Image.Image:
    """Any mode to RGB, the whole image at once."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32) / 257
    elif image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and 1 < high <= 255):
            whole = low >= 0 and high <= 65535 and image.mode == "I"
            values = values / 257 if whole else (values - low) * (255 / max(high - low, 1e-12))
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    elif "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        return image.convert("RGB")
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("strip", [1, 700, 1 << 22])
@pytest.mark.parametrize(
    "mode",
    "1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I;16 I;16B I I-16 F F-8 P-transparent RGB-transparent L-transparent".split(),
)
def test_strips_change_no_pixel(mode: str, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, variant = mode.partition("-")
    noise = np.random.default_rng(1).integers(0, 256, (37, 53, 4), dtype=np.uint8)
    grey = noise[..., 0]
    if name.startswith("I;16"):
        image = Image.frombytes(name, (53, 37), noise[..., :2].tobytes())
    elif name in ("I", "F"):
        scale = {"": 70_000.5, "16": 257, "8": 1}[variant]
        numbers = grey.astype(np.float64) * scale - (9 if not variant else 0)
        image = Image.fromarray(numbers.astype(np.int32 if name == "I" else np.float32))
    elif name == "RGBa":
        image = Image.fromarray(noise).convert(name)
    elif name in ("P", "PA"):
        image = Image.fromarray(grey).convert("P")
        image.putpalette(np.random.default_rng(2).integers(0, 256, 768).astype(np.uint8).tobytes())
        image = image.convert(name)
    else:
        bands = Image.new(name, (1, 1)).getbands()
        image = (
            Image.frombytes(name, (53, 37), noise[..., : len(bands)].tobytes())
            if name != "1"
            else Image.fromarray(grey > 99)
        )
    if variant == "transparent":
        image.info["transparency"] = (noise[0, 0, 0], noise[0, 0, 1], noise[0, 0, 2]) if name == "RGB" else 7
    monkeypatch.setattr("simclr.images.modes.STRIP", strip)
    assert np.array_equal(np.asarray(upright(image)), np.asarray(slow(image)))


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE", 100)
    small, large = saved(smooth(10, 10), "PNG"), saved(smooth(11, 10), "PNG")
    with ThreadPoolExecutor(1) as pool:
        with decoding.ONE_LARGE:
            waiting = pool.submit(decode, large)
            assert decode(small).image.size == (10, 10)  # small ones never wait
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=20).image.size == (11, 10)


def test_a_large_photo_that_is_scaled_while_it_is_decoded_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a folder of 24-megapixel photos would be decoded in one thread. A progressive one is held whole first."""
    monkeypatch.setattr(decoding, "LARGE", 64 * 48)
    turns: list[str] = []

    class Turn:
        def __enter__(self) -> None:
            turns.append("taken")

        def __exit__(self, *words: object) -> None:
            pass

    for options in ({}, {"progressive": True}):
        data = saved(smooth(128, 96), "JPEG", **options)
        decode(data, enough=lambda width, height: 48, one_large=Turn())
        decode(data, one_large=Turn())
        assert turns == ["taken"] * (1 + len(options))
        turns.clear()


# --- JPEG: fast and scaled -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_has_the_pixels_that_pillow_gives(mode: str, options: dict[str, int]) -> None:
    data = saved(smooth(123, 77, mode), "JPEG", **options)
    assert np.array_equal(pixels(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_a_jpeg_goes_through_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    marked = np.full((20, 30, 3), 7, np.uint8)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: marked)
    assert np.array_equal(pixels(saved(smooth(30, 20), "JPEG")), marked)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("least", [1, 50, 60, 61, 100, 120, 121, 200, 240, 300, 480, 600])
def test_a_scaled_jpeg_is_the_same_without_simplejpeg(
    monkeypatch: pytest.MonkeyPatch, mode: str, least: int
) -> None:
    data = saved(smooth(641, 480, mode), "JPEG")
    fast = decode(data, enough=lambda width, height: least).image
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    plain = decode(data, enough=lambda width, height: least).image
    assert fast.size == plain.size and np.array_equal(np.asarray(fast), np.asarray(plain))


@pytest.mark.parametrize(
    ("least", "size"),
    [(480, (641, 480)), (241, (641, 480)), (240, (321, 240)), (121, (321, 240)), (120, (161, 120)), (60, (81, 60)), (1, (81, 60))],
)  # fmt: skip
def test_a_jpeg_is_decoded_at_the_smallest_eighth_quarter_or_half_that_is_enough(
    least: int, size: tuple[int, int]
) -> None:
    picture = decode(saved(smooth(641, 480), "JPEG"), enough=lambda width, height: least)
    assert picture.image.size == size


def test_a_scaled_decode_still_tells_the_full_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    asked = []

    def enough(width: int, height: int) -> int:
        asked.append((width, height))
        return 60

    picture = decode(saved(smooth(641, 480), "JPEG", exif=exif), enough=enough)
    assert (picture.width, picture.height) == (480, 641)
    assert picture.image.size == (60, 81)
    assert asked == [(480, 641)]


def test_a_png_is_never_scaled() -> None:
    picture = decode(saved(smooth(64, 48), "PNG"), enough=lambda width, height: 1)
    assert picture.image.size == (64, 48)


# --- images that are open already ----------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_open_image_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright_picture())))
    opened = Image.open(BytesIO(saved(stored, "PNG", exif=exif)))
    assert np.array_equal(np.asarray(upright(opened)), upright_picture())


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
def test_an_open_image_of_any_mode_becomes_rgb(mode: str) -> None:
    assert upright(Image.new(mode, (4, 3))).mode == "RGB"


def test_an_open_image_is_left_as_found() -> None:
    image = Image.fromarray(upright_picture())
    image.getexif()[0x0112] = 3
    upright(image)
    assert np.array_equal(np.asarray(image), upright_picture()) and image.getexif()[0x0112] == 3


def test_an_open_image_that_proves_damaged_is_an_image_error() -> None:
    data = saved(smooth(120, 90), "PNG")
    with pytest.raises(ImageError, match=r"^damaged image: "):
        upright(Image.open(BytesIO(data[: len(data) // 2])))


# --- the collection of odd files -----------------------------------------------------------------

SHARED = Path(os.environ.get("SIMCLR_SHARED", Path(__file__).parents[2] / "shared" / "data"))
ODD_FILES = SHARED / "odd_files"

# `loads` is what plain Pillow 13 makes of a file. These differ on purpose:
REFUSED = {
    "modes/hopper.psd": "no photograph: PSD is not opened, whatever Pillow can do",
    "made/bomb_100MP_1bit.png": "100 megapixels, above PIXEL_LIMIT; Pillow only warns",
}
ADDED = {
    "modes/hopper.heif": "pillow-heif opens it, Pillow alone does not",
    "exif/IMG_5195.HEIC": "pillow-heif opens it, Pillow alone does not",
}


def odd_rows() -> list[dict[str, str]]:
    if not (ODD_FILES / "manifest.csv").exists():
        return []
    with open(ODD_FILES / "manifest.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def odd_file(name: str) -> bytes:
    return (ODD_FILES / "files" / name).read_bytes()


needs_odd_files = pytest.mark.skipif(
    not odd_rows(), reason="needs shared/data/odd_files beside the repository, or SIMCLR_SHARED"
)


@needs_odd_files
def test_odd_files_decode_upright_or_say_why_not() -> None:
    wrong = []
    for row in odd_rows():
        try:
            picture = decode(odd_file(row["file"]))
        except ImageError as exc:
            if "\n" in str(exc):
                wrong.append(f"{row['file']}: its reason has several lines")
            continue
        size = f"{picture.image.width}x{picture.image.height}"
        if picture.image.mode != "RGB" or f"{picture.width}x{picture.height}" != size:
            wrong.append(f"{row['file']}: {picture}")
        elif row["file"] not in ADDED and row["rgb"] != f"yes {size}":
            wrong.append(f"{row['file']}: {size}, but the manifest says {row['rgb']}")
    assert wrong == []


@needs_odd_files
def test_odd_files_that_pillow_loads_decode_but_for_the_named_exceptions() -> None:
    decoded = set()
    for row in odd_rows():
        try:
            decode(odd_file(row["file"]))
        except ImageError:
            continue
        decoded.add(row["file"])
    loads = {row["file"] for row in odd_rows() if row["loads"] == "yes"}
    assert loads - decoded == REFUSED.keys()
    assert decoded - loads <= ADDED.keys()


@needs_odd_files
def test_odd_heic_files_decode_at_their_size() -> None:
    pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    assert decode(odd_file("exif/IMG_5195.HEIC")).image.size == (2566, 3313)
