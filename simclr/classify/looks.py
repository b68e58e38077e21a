"""Two images -> how alike they look, as they are, mirrored, or one of them cropped. Pure: knows no store, no encoder.

An encoder tells what an image shows, and hardly that two are one and the same picture: copies of an airplane are no nearer to it than another
airplane is. So vectors only propose pairs, and pictures of a few pixels are compared.

Shape letters: N, M = images, P = pairs, V = middles of an image, F = numbers of a small picture.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KEPT = 40
"""Pixels of a side of the pictures that are kept; of their 4,800 bytes all else is made."""
MIDDLES = (1.0, 0.9, 0.8)
"""Shares of each side that a copy may have left."""
_COMPARED = 32
"""Pixels of a side that are compared."""
_GREY_LEVELS = 0.5
"""By which every picture is taken to be noisy: those of one colour, which hardly differ, are not alike."""


def small_picture(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image -> (3, KEPT, KEPT), whatever its sides: a copy has the same ones."""
    small = image.resize((KEPT, KEPT), Image.Resampling.BOX)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def views(pictures_N: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 3, KEPT, KEPT) -> (N, V, F): each middle less its mean colour, at unit length."""
    count, pixels = len(pictures_N), pictures_N.astype(np.float32)
    found = np.empty((count, len(MIDDLES), 3, _COMPARED * _COMPARED), np.float32)
    for place, middle in enumerate(MIDDLES):
        means = _means(middle)
        lines = (pixels.reshape(-1, KEPT) @ means.T).reshape(-1, KEPT, _COMPARED)
        found[:, place] = (means @ lines).reshape(count, 3, -1)
    found -= found.mean(3, keepdims=True)
    flat: NDArray[np.float32] = found.reshape(count, len(MIDDLES), -1)
    flat /= np.sqrt((flat**2).sum(2, keepdims=True) + flat.shape[2] * _GREY_LEVELS**2)
    return flat


def alike(one_PVF: NDArray[np.float32], other_PVF: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P,) how alike the views of each pair are: the best correlation of the whole of one with a middle of the other, or mirrored; in -1..1.

    That of all colour values at once: a brighter copy, or one of more contrast, stays near 1, a shirt in another colour does not.
    """
    found = np.full(len(one_PVF), -1, np.float32)
    for whole, other in ((one_PVF, other_PVF), (other_PVF, one_PVF)):
        for turned in (whole[:, 0], _mirrored(whole[:, 0])):
            found = np.maximum(found, np.einsum("pf,pvf->pv", turned, other).max(1, initial=-1))
    return found


def all_alike(one_NVF: NDArray[np.float32], other_MVF: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) the same of every pair."""
    found = np.full((len(one_NVF), len(other_MVF)), -1, np.float32)
    for wholes, others, side in ((one_NVF, other_MVF, 0), (other_MVF, one_NVF, 1)):
        for turned in (wholes[:, 0], _mirrored(wholes[:, 0])):
            for place in range(others.shape[1]):
                both = turned @ others[:, place].T
                found = np.maximum(found, both if side == 0 else both.T)
    return found


def pictures_alike(one_N: NDArray[np.uint8], other_M: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, M) the same of small pictures, a part at a time."""
    rows = [
        np.concatenate([all_alike(views(one), views(other)) for other in _parts(other_M)], axis=1)
        for one in _parts(one_N)
    ]
    return np.concatenate(rows)


def _parts(pictures_N: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return np.array_split(pictures_N, -(-len(pictures_N) // 256) or 1)


def _mirrored(pictures_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = pictures_NF.reshape(-1, 3, _COMPARED, _COMPARED)
    return np.ascontiguousarray(sides[..., ::-1]).reshape(pictures_NF.shape)


@cache
def _means(middle: float) -> NDArray[np.float32]:
    """(_COMPARED, KEPT) weights by which a side is averaged to fewer pixels."""
    edges = KEPT * ((1 - middle) / 2 + middle * np.linspace(0, 1, _COMPARED + 1))
    pixels = np.arange(KEPT)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(covered, 0)
    found: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found
