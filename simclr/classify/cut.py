"""How alike planted copies look, and images that are none -> from which likeness on two images are taken for copies. Pure numbers.

How alike two different images may look by chance cannot be read off the nearest neighbours of each, since some of these are just the copies that
are looked for. Those further down seldom are, and look nearly as alike: of Fisher's z of their correlations (arctanh, 1915) the largest fall off
exponentially, which tells how many lie beyond any likeness, seen or not (`by_chance`).

Shape letters: M = images of a sample, K = their nearest others, F = the others after these, S = images copied, C = kinds of copies, T = cuts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRECISION = 0.99
"""Share of pairs at or above the cut that shall be copies."""
LEAST = 0.01
"""Share of images that are taken to have a copy where fewer seem to: with no copies at all every pair is wrong, at any cut."""
USUAL = 0.96
"""Where there are too few images to tell by: copies as these are made look more alike, nearly all of them."""
FEWEST = 20
"""Images of different contents that tell anything."""
_FOUND = 0.98
"""Of the planted copies of each kind: a cut that is lower finds hardly more."""
_TAIL, _FEWEST_IN_TAIL = 0.02, 20
"""Of the pairs further down, the most alike, whose fall is measured."""
_NEARER = 6.0
"""How many times as often the nearest look alike as those further down: a guess to the safe side, with which 1 to 2 of 1,000 pairs were wrong."""
_TRIED = 2000


@dataclass(frozen=True, eq=False)
class Cut:
    """A likeness, and what it was chosen by."""

    threshold: float
    """In (0, 1), to four decimals; see `looks.alike`."""
    precision: float | None
    """In 0..1, as estimated; None where there are too few images to tell."""
    planted_SC: NDArray[np.float32]
    """How alike planted copies look to their originals."""
    reached_SC: NDArray[np.bool_]
    """Whether the original is among the nearest of the copy, so that the two are compared at all."""

    @property
    def found_C(self) -> NDArray[np.float64]:
        """Share of the planted copies of each kind that would be found."""
        found: NDArray[np.float64] = (self.reached_SC & (self.planted_SC >= self.threshold)).mean(0)
        return found


def choose(
    planted_SC: NDArray[np.float32],
    reached_SC: NDArray[np.bool_],
    nearest_MK: NDArray[np.float32],
    further_MF: NDArray[np.float32],
) -> Cut:
    """The lowest cut that is precise enough, but no lower than 98 % of the planted copies of each kind; where none is precise enough, the most precise.

    `nearest_MK`, `further_MF`: likenesses to the nearest others and to those after them.
    """
    lowest = float(np.quantile(planted_SC, 1 - _FOUND, axis=0, method="lower").min())
    if len(nearest_MK) < FEWEST:
        return Cut(USUAL, None, planted_SC, reached_SC)
    cuts_T = np.tanh(np.linspace(0.5, 5, _TRIED))
    ranked = np.sort(nearest_MK.max(1))
    seen_T = 1 - np.searchsorted(ranked, cuts_T) / len(ranked)
    wrong_T = nearest_MK.shape[1] * _NEARER * by_chance(further_MF, lowest, cuts_T)
    precision_T = 1 - wrong_T / np.maximum(seen_T, wrong_T + LEAST)
    enough = np.flatnonzero((precision_T >= PRECISION) & (cuts_T >= min(lowest, cuts_T[-1])))
    place = int(enough[0]) if len(enough) else int(precision_T.argmax())
    return Cut(round(float(cuts_T[place]), 4), float(precision_T[place]), planted_SC, reached_SC)


def by_chance(
    further_MF: NDArray[np.float32], copy: float, cuts_T: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(T,) the share of pairs of different images at or above each cut: counted where many are, beyond by the fall of the most alike.

    Pairs as alike as a `copy` may be one, and are left out: the fall is that of an exponential of which only the part up to there is seen,
    whose mean is s - L / (exp(L / s) - 1) after a length of L.
    """
    top = float(np.arctanh(min(copy, 1 - 1e-9)))
    z = np.sort(np.arctanh(np.clip(further_MF.ravel().astype(np.float64), 0, 1 - 1e-9)))
    z = z[: np.searchsorted(z, top)]
    if not len(z):
        return np.ones(len(cuts_T))
    count = min(len(z), max(_FEWEST_IN_TAIL, round(_TAIL * len(z))))
    start = z[len(z) - count]
    falls = np.geomspace(1e-3, 10, 500)
    means = falls - (top - start) / np.expm1(np.minimum(700, (top - start) / falls))
    fall = float(np.interp((z[len(z) - count :] - start).mean(), means, falls))
    asked_T = np.arctanh(cuts_T)
    counted_T = 1 - np.searchsorted(z, asked_T) / len(z)
    beyond_T = count / len(z) * np.exp(-np.maximum(0, asked_T - start) / fall)
    found: NDArray[np.float64] = np.where(asked_T < start, counted_T, beyond_T)
    return found
