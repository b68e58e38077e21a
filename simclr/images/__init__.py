"""Bytes -> one upright RGB image, or the reason why not. Numpy and Pillow; simplejpeg where it is installed."""

from simclr.images.decoding import PIXEL_LIMIT, Picture, decode, upright
from simclr.images.kinds import HEAD_BYTES, SUFFIXES, sniff

__all__ = ["HEAD_BYTES", "PIXEL_LIMIT", "SUFFIXES", "Picture", "decode", "sniff", "upright"]
