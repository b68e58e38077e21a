"""Which formats are opened, told by a file's first bytes. The content decides, never the file's name.

Only these: Pillow's rarer decoders (EPS, PSD, FITS, ...) have a long history of security holes and are no photographs.
"""

HEAD_BYTES = 32
"""As many bytes of a file as `sniff` wants to see."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .avif .heic .heif .tif .tiff .bmp .dib "
    ".ppm .pgm .pbm .pnm .jp2 .j2k .jpx .jpf .j2c .qoi .mpo".split()
)


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
