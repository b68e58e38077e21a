"""How near copies come, and how near images come that are none -> the cosine from which on a pair is taken for copies. Pure numbers.

What tells a good threshold is how near an image would come to another by chance. That cannot be read off the nearest neighbours, whose nearest
are just the copies that are looked for: their largest would put the threshold above every copy, and a quantile is right for one share of copies
only, which nobody knows before. But few images have ten copies. So the tenth neighbour tells how crowded the place of an image is, and from
there to the twentieth how distances grow; what that makes likely for the nearest follows (`by_chance`). Crowded places, such as a hundred
photos of the sky, count with their own short distances, and it is they that set the threshold.

Shape letters: M = images of a sample, L = their nearest others, S = images copied, C = kinds of copies, T = thresholds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr.classify.duplicates import ROUNDING
from simclr.errors import ConfigError

PRECISION = 0.99
"""Share of nearest pairs at or above the threshold that shall be copies."""
LEAST = 0.01
"""Share of images that are taken to have a copy, of the mildest kind, where fewer seem to: with no copies at all every pair is wrong, at any
threshold."""
NEIGHBOURS = 20
"""Nearest others that are looked at: the last, and the one half as far down; twice as many are to be given, in case some are copies."""
FEWEST = 20
"""Images of different contents that tell anything."""
_FOUND = 0.99
"""Of the planted copies: a threshold that is lower finds hardly more."""
_WINDOW = 30
"""Images of like crowdedness, at least, whose distances are taken to grow alike; or a fiftieth of all."""
_ROUNDS = 6
"""It is chosen at most; the second or third seldom differs from the one before."""
_TRIED = 2000
"""Thresholds, with distances that fall by 0.8 %."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A threshold, and what it was chosen by."""

    threshold: float
    """Cosine in (0, 1], to six decimals."""
    precision: float
    """In 0..1, as estimated for pairs of nearest neighbours."""
    planted_SC: NDArray[np.float32]
    """Cosines of planted copies to their originals."""

    @property
    def found_C(self) -> NDArray[np.float64]:
        """Share of the planted copies of each kind at or above the threshold."""
        found: NDArray[np.float64] = (self.planted_SC >= self.threshold - ROUNDING).mean(0)
        return found


def choose(planted_SC: NDArray[np.float32], others_ML: NDArray[np.float32]) -> Cut:
    """Cosines of planted copies to their originals, and of images to their nearest others, best first -> where to cut.

    The lowest threshold whose precision is enough, but no lower than 99 % of the planted copies; where none is enough, the most precise. What it
    takes for copies is left out, and it is chosen again: five copies make a fifteenth neighbour the twentieth, and the place look less crowded.
    Raises ConfigError where there are too few images to tell.
    """
    if others_ML.shape[1] < FEWEST - 1 or len(others_ML) < FEWEST:
        raise ConfigError(
            f"{len(others_ML):,} different images are too few to choose a threshold by, {FEWEST} at least. Give one: --threshold 0.95"
        )
    planted_SC, others_ML = np.clip(planted_SC, -1, 1), np.clip(others_ML, -1, 1)
    tried_T = 1 - np.geomspace(1, 1e-7, _TRIED)
    copied_T = LEAST * np.stack([_share_above(planted_S, tried_T) for planted_S in planted_SC.T]).max(0)
    seen_T = _share_above(others_ML[:, 0], tried_T)
    mildest = float(np.median(planted_SC, axis=0).max())
    place, precision = len(tried_T), 0.0
    for _ in range(_ROUNDS):
        above = tried_T[place] if place < len(tried_T) else 2.0
        clean_ML = without_copies(others_ML, above, mildest)
        if len(clean_ML) < FEWEST:
            break
        wrong_T = by_chance(clean_ML, tried_T)
        precision_T = 1 - wrong_T / np.maximum(np.maximum(seen_T, wrong_T + copied_T), 1e-300)
        enough = np.flatnonzero(precision_T >= PRECISION)
        before, place = place, int(enough[0]) if len(enough) else int(precision_T.argmax())
        precision = float(precision_T[place])
        if place == before:
            break
    if place == len(tried_T):
        raise ConfigError(
            "nearly every image has ten others that are as near as copies of it, so no threshold can be told from them. Give one: --threshold 0.95"
        )
    lowest = float(np.quantile(planted_SC, 1 - _FOUND, method="lower"))
    highest = int(np.searchsorted(tried_T, lowest, side="right")) - 1
    if highest > place:
        place, precision = highest, float(precision_T[highest])
    threshold = min(1.0, max(1e-6, math.ceil(float(tried_T[place]) * 1e6 - 1e-3) / 1e6))
    return Cut(threshold, precision, planted_SC)


def without_copies(others_ML: NDArray[np.float32], above: float, mildest: float) -> NDArray[np.float32]:
    """The neighbours that remain of each image when those with a cosine of at least `above` are left out, as many of each.

    Images of which too few remain are left out; and those with a tenth neighbour nearer than `mildest`, half of the mildest copies: they have
    ten copies or more.
    """
    count = min(NEIGHBOURS, max(4, others_ML.shape[1] * 2 // 3))
    first_M = (others_ML >= above).sum(1)
    rows = np.flatnonzero(first_M + count <= others_ML.shape[1])
    kept_ML = np.take_along_axis(others_ML[rows], first_M[rows, None] + np.arange(count), axis=1)
    found: NDArray[np.float32] = kept_ML[kept_ML[:, count // 2 - 1] < mildest]
    return found


def by_chance(others_ML: NDArray[np.float32], thresholds_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) the share of images whose nearest other would be at or above each threshold if there were no copies.

    `others_ML`: cosines to the L nearest others, best first, of which only the last and the one half as far down, the a-th, are used: copies are
    among those before. Of points spread evenly in m dimensions, (d_1 / d_a)^m is distributed as the least of a - 1 numbers drawn evenly from 0..1,
    and (d_a / d_L)^m as Beta(a, L - a), from whose median m follows. (Levina and Bickel 2004 take a mean; the median leaves aside images
    with copies that are still among their neighbours.) m is estimated among images with a like d_L, since places differ.
    """
    a, last = others_ML.shape[1] // 2, others_ML.shape[1]
    distances_M2 = np.sqrt(np.maximum(1e-12, 2 - 2 * others_ML[:, [a - 1, last - 1]].astype(np.float64)))
    order = np.argsort(distances_M2[:, 1], kind="stable")  # by d_L, of which the ratio does not depend
    near_M, far_M = distances_M2[order].T
    growth_M = np.log(far_M / near_M)
    windows = max(1, len(order) // max(_WINDOW, len(order) // 50))
    median = (a - 1 / 3) / (last - 2 / 3)  # of Beta(a, L - a), closely
    chance_T = np.zeros(len(thresholds_T))
    asked_T = np.sqrt(np.maximum(0, 2 - 2 * thresholds_T.astype(np.float64)))
    for window in np.array_split(np.arange(len(order)), windows):
        dimensions = -math.log(median) / max(1e-6, float(np.median(growth_M[window])))
        closer_MT = np.minimum(1, asked_T / near_M[window, None]) ** dimensions
        chance_T += (1 - (1 - closer_MT) ** (a - 1)).sum(0)
    return chance_T / len(order)


def _share_above(values: NDArray[np.float32], thresholds_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) of the values, those at or above each threshold."""
    below = np.searchsorted(np.sort(values), thresholds_T, side="left")
    found: NDArray[np.float64] = 1 - below / len(values)
    return found
