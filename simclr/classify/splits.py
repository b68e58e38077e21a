"""Labelled images -> which of them test, and which train with fewer labels. The same for the same seed; touches no file.

Shape letters: N = images.
"""

import numpy as np
from numpy.typing import NDArray

from simclr.classify.labels import Labels
from simclr.errors import ConfigError

HELD_OUT = 0.2
"""Share of each class that tests where nothing says which."""


def hold_out(labels: Labels, *, seed: int, share: float = HELD_OUT) -> NDArray[np.bool_]:
    """(N,) which images test: about `share` of each class, at least one, never all.

    Copies stay together: one that trains would give away the one that tests. A class whose images are all the same one
    trains. Raises ConfigError if nothing is left to test on.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x7E57])))
    _, first_G, group_N = np.unique(labels.contents_N, return_index=True, return_inverse=True)
    sizes_G = np.bincount(group_N)
    tests_G = np.zeros(len(first_G), np.bool_)
    for label in range(len(labels.classes)):
        groups = rng.permutation(np.flatnonzero(labels.labels_N[first_G] == label))
        wanted = max(1, round(share * sizes_G[groups].sum()))
        before = np.cumsum(sizes_G[groups]) - sizes_G[groups]
        tests_G[groups[:-1][before[:-1] < wanted]] = True
    tests_N: NDArray[np.bool_] = tests_G[group_N]
    if not tests_N.any():
        raise ConfigError(
            "no class has a second image, so that nothing can be held out to test on. Add images, or name those to test on in a column split."
        )
    return tests_N


def share_of_labels(labels_N: NDArray[np.int64], percent: float, *, seed: int) -> NDArray[np.int64]:
    """Rows, rising: so many percent of each class, at least one. Fewer percent give some of the rows that more give."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x1ABE])))
    taken = []
    for label in np.unique(labels_N):
        rows = rng.permutation(np.flatnonzero(labels_N == label))
        taken.append(rows[: max(1, round(len(rows) * percent / 100))])
    return np.sort(np.concatenate(taken))


def at_most(labels_N: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Rows, rising: all, or about `limit` of them with each class's share kept."""
    if len(labels_N) <= limit:
        return np.arange(len(labels_N))
    return share_of_labels(labels_N, 100 * limit / len(labels_N), seed=0)
