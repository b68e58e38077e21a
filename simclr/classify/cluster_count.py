"""How many groups some vectors are in, if any number stands out. Pure numbers.

Shape letters: N = vectors, D = width, K = clusters.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.classify.centres import find_centres, nearest_two
from simclr.cpus import available_cpus

LARGEST = 256
"""Number of clusters up to which one is chosen."""
_LEFT_OUT = 8192
"""Vectors by which numbers are judged, but a quarter of all at most."""
_TRIED_WITH, _TRIED_WITH_LEAST = 64, 4096
"""Vectors with which a number is tried: so many a cluster, and in all at least."""
_SUPPORT = 10
"""Vectors a cluster without which a number is not tried."""
_GAIN, _TIMES = 0.1, 1.25
"""A number stands out if it gains so much, and so many times what half and double the number gain."""
_AT_A_TIME = 8
"""Numbers that are tried at the same time at most, each on one core: a core each is faster than all for one after another."""
_TRIAL_ROUNDS, _TRIAL_EXCHANGES = 8, 3
"""Of Lloyd's algorithm to try a number, and times that clusters are cut and joined."""

Note = Callable[[str], None]


def wanted(largest: int = LARGEST) -> int:
    """Vectors that a choice can make use of."""
    return max(_LEFT_OUT + _TRIED_WITH * largest, 2 * _TRIED_WITH_LEAST)


@dataclass(frozen=True)
class Trial:
    """A number of clusters, judged on vectors that its centres were not found from. See `choose_count`."""

    count: int
    silhouette: float
    """Simplified silhouette, 0..1."""
    groupless: float
    """The same for made-up vectors that lie as these do, but have no groups."""

    @property
    def gain(self) -> float:
        return self.silhouette - self.groupless


@dataclass(frozen=True)
class Choice:
    count: int
    stands_out: bool
    reason: str
    """A sentence."""
    trials: tuple[Trial, ...]
    """By number, rising."""


def silhouettes(vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) 1 - a / b for cosine distances a to the nearest centre and b to the second nearest: 1 for one that lies on its
    centre, 0 for one halfway. The simplified silhouette (Hruschka, de Castro and Campello 2004), in which a <= b here."""
    _, first_N, second_N = nearest_two(vectors_ND, centres_KD)
    own_N, other_N = 1 - first_N.astype(np.float64), 1 - second_N.astype(np.float64)
    found: NDArray[np.float64] = np.where(other_N > 1e-7, 1 - own_N / np.maximum(other_N, 1e-7), 0.0)
    return found


def groupless(vectors_ND: NDArray[np.float32], count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(count, D) unit vectors of one normal distribution with the mean and covariance of those given."""
    mean_D = vectors_ND.mean(0)
    centred_ND = vectors_ND - mean_D
    covariance_DD = (centred_ND.T @ centred_ND).astype(np.float64) / len(vectors_ND)
    covariance_DD += 1e-6 * np.trace(covariance_DD) * np.eye(len(mean_D))  # above what float32 rounds away
    root_DD = np.linalg.cholesky(covariance_DD).astype(np.float32)
    noise_ND = np.random.Generator(np.random.PCG64(seed)).standard_normal((count, len(mean_D)), np.float32)
    made_ND: NDArray[np.float32] = mean_D + noise_ND @ root_DD.T
    made_ND /= np.maximum(np.linalg.norm(made_ND, axis=1, keepdims=True), 1e-12)
    return made_ND


def grid(vectors: int) -> list[int]:
    """2, 3, 4, 6, 8, 12, ... as far as so many vectors support, and to 256 at most."""
    every = sorted([*(2 << n for n in range(8)), *(3 << n for n in range(7))])
    return [count for count in every if count <= min(LARGEST, max(2, vectors // _SUPPORT))]


def choose_count(vectors_ND: NDArray[np.float32], *, seed: int = 0, note: Note = lambda line: None) -> Choice:
    """The number of clusters that gains most; `vectors_ND`, in no order, are a sample of what is to be grouped.

    Centres are found among three quarters and judged on the others: by the mean silhouette, less what is reached in the same
    way on vectors without groups (`groupless`). Where groups lie apart the silhouette alone finds their
    number as well; where there are none it says 2: 0.77 for a single long cloud (benchmarks/clusters.py). The idea of a reference is that of
    the gap statistic (Tibshirani, Walther and Hastie 2001).
    """
    held = min(_LEFT_OUT, len(vectors_ND) // 4)
    made_ND = groupless(vectors_ND, len(vectors_ND), seed=seed)

    def judged(count: int, all_ND: NDArray[np.float32]) -> float:
        rest_ND = all_ND[held : held + max(_TRIED_WITH * count, _TRIED_WITH_LEAST)]
        centres_KD = find_centres(
            rest_ND, count, seed=seed, rounds=_TRIAL_ROUNDS, exchanges=_TRIAL_EXCHANGES, one_core=True
        )
        return float(silhouettes(all_ND[:held], centres_KD).mean())

    counts = grid(len(vectors_ND) - held)
    note(
        f"trying {counts[0]} to {counts[-1]} clusters with {len(vectors_ND) - held:,} vectors, judged by {held:,} others"
    )
    trials: dict[int, Trial] = {}
    with ThreadPoolExecutor(min(available_cpus(), _AT_A_TIME)) as threads:  # FAISS and numpy let others run
        while counts:
            pairs = [
                (count, all_ND) for count in sorted(counts, reverse=True) for all_ND in (vectors_ND, made_ND)
            ]
            values = list(threads.map(judged, *zip(*pairs, strict=True)))
            for (count, _), these, made in zip(pairs[::2], values[::2], values[1::2], strict=True):
                trials[count] = Trial(count, these, made)
            counts = _between(trials) if stands_out(trials.values()) else []
    return _chosen([trials[count] for count in sorted(trials)])


def _best(trials: Any) -> Trial:
    """The smallest of those that gain most."""
    best: Trial = max(trials, key=lambda each: (each.gain, -each.count))
    return best


def _between(trials: dict[int, Trial]) -> list[int]:
    """Numbers halfway between the best and those tried beside it."""
    counts, best = sorted(trials), _best(trials.values()).count
    return [
        (low + high) // 2
        for low, high in pairwise(counts)
        if best in (low, high) and (low + high) // 2 != low
    ]


def stands_out(trials: Any) -> bool:
    """Whether the best gains enough, and numbers at most half or at least double gain much less."""
    best = _best(trials)
    far = [each.gain for each in trials if not best.count / 2 < each.count < best.count * 2]
    return best.gain >= _GAIN and all(best.gain >= _TIMES * gain for gain in far)


def _chosen(trials: Sequence[Trial]) -> Choice:
    best = _best(trials)
    clear = stands_out(trials) and best.count < trials[-1].count
    figures = f"silhouette {best.silhouette:.3f}, {best.gain:+.3f} against vectors without groups"
    if clear:
        reason = f"{best.count} clusters stand out ({figures})."
    elif best.gain < _GAIN:
        reason = f"No number stands out: none gains 0.1 against vectors without groups. {best.count} clusters gain most ({figures}); give another with -n."
    elif best.count == trials[-1].count:
        reason = f"No number stands out: {best.count} clusters gain most ({figures}), and more were not tried; give another with -n."
    else:
        reason = f"No number stands out: {best.count} clusters gain most ({figures}), others nearly as much; give another with -n."
    return Choice(best.count, clear, reason, tuple(trials))
