"""Centres of groups of like vectors: spherical k-means that does not stay where it gets stuck. Knows no store and no image.

Shape letters: N = vectors, D = width, K = clusters.
"""

import numpy as np
from numpy.typing import NDArray

from simclr.embed.index.library import faiss_library, one_thread

_EXCHANGED = 1000
"""Clusters up to which that is done: above, it takes hours."""
_POWERS = 6
"""Rounds of the power method. Of two groups in one cluster the direction is clear; of one group any will do."""
_BETTER = 1e-3
"""Share of the cost by which an exchange must lower it to be kept."""
_SMALL = 1 << 28
"""Products of a round of Lloyd's algorithm up to which one thread does it, in milliseconds: threads that wait for one another
take ten times as long where another program is at work."""
_PIECE = 1 << 24
"""Similarities in memory at a time."""
ROUNDS, _BETWEEN = 20, 3
"""Of Lloyd's algorithm at the end; and after each change of the centres."""
EXCHANGES = 20
"""Times that clusters are cut and joined at most."""


def find_centres(
    vectors_ND: NDArray[np.float32],
    count: int,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    exchanges: int = EXCHANGES,
    one_core: bool = False,
) -> NDArray[np.float32]:
    """(K, D) unit centres of unit vectors, K = `count` or the number of vectors that differ, if that is less.

    Spherical k-means (Dhillon and Modha 2001) by FAISS, from vectors drawn at random. Lloyd's algorithm stops where two groups
    share a centre and a third one has two: 23 groups that lie well apart it found in no try of five, from greedy k-means++ in 8 of 18.
    So the clusters that gain most are cut in two, as many pairs that lose least are joined, and the better of before and after
    is kept, while it is better: the split and merge of Ueda et al. (2000), several at a time as in Fritzke (2020, arXiv:2006.15666).
    """
    rng = np.random.Generator(np.random.PCG64([seed, count]))
    differ = _different(vectors_ND)
    count = min(count, len(differ))
    starts = np.sort(rng.permutation(differ)[:count])
    centres_KD = lloyd(vectors_ND, vectors_ND[starts], rounds // 2, one_core=one_core)
    if 1 < count <= _EXCHANGED:
        centres_KD = _exchange(vectors_ND, centres_KD, len(differ) - count, exchanges, one_core)
    return _occupied(vectors_ND, lloyd(vectors_ND, centres_KD, rounds, one_core=one_core))


def lloyd(
    vectors_ND: NDArray[np.float32], starts_KD: NDArray[np.float32], rounds: int, *, one_core: bool = False
) -> NDArray[np.float32]:
    """(K, D) unit centres after some rounds of spherical k-means. One that has no vector left takes half of another's."""
    means = faiss_library().Kmeans(
        vectors_ND.shape[1],
        len(starts_KD),
        niter=rounds,
        spherical=True,
        seed=1,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors_ND),
    )
    if one_core or vectors_ND.size * len(starts_KD) < _SMALL:
        one_thread()
    means.train(vectors_ND, init_centroids=np.ascontiguousarray(starts_KD))
    centres_KD: NDArray[np.float32] = means.centroids
    return centres_KD


def nearest_two(
    vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """(N,) the nearest centre, the cosine to it, and that to the second nearest, -1 if there is none."""
    own_N = np.empty(len(vectors_ND), np.int32)
    first_N, second_N = np.empty(len(vectors_ND), np.float32), np.full(len(vectors_ND), -1, np.float32)
    step = max(1, _PIECE // len(centres_KD))
    for start in range(0, len(vectors_ND), step):
        here = slice(start, start + step)
        cosines_PK = np.clip(vectors_ND[here] @ centres_KD.T, -1, 1)
        own_N[here] = cosines_PK.argmax(1)
        places = np.arange(len(cosines_PK)), own_N[here]
        first_N[here] = cosines_PK[places]
        if len(centres_KD) > 1:
            cosines_PK[places] = -np.inf
            second_N[here] = cosines_PK.max(1)
    return own_N, first_N, second_N


def _exchange(
    vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32], most: int, times: int, one_core: bool
) -> NDArray[np.float32]:
    """Better centres, as many. `most`: of clusters that are cut in two at a time, while as many pairs become one."""
    exchanged, cost = min(most, max(1, len(centres_KD) // 4)), _cost(vectors_ND, centres_KD)
    for _ in range(times):
        if not exchanged:
            break
        more_KD = lloyd(vectors_ND, split(vectors_ND, centres_KD, exchanged), _BETWEEN, one_core=one_core)
        fewer_KD = merge(vectors_ND, more_KD, len(more_KD) - len(centres_KD))
        fewer_KD = lloyd(vectors_ND, fewer_KD, _BETWEEN, one_core=one_core)
        now = _cost(vectors_ND, fewer_KD)
        if now < cost * (1 - _BETTER):
            centres_KD, cost = fewer_KD, now
        else:
            exchanged //= 2
    return centres_KD


def _cost(vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32]) -> float:
    """Sum of the cosine distances to the nearest centre."""
    return float((1 - nearest_two(vectors_ND, centres_KD)[1]).sum(dtype=np.float64))


def split(
    vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """More centres: two for each of the `count` clusters that gain most by it.

    Of a cluster with the sum s the cost is its size - |s|, so that two parts a, b gain |a| + |b| - |a + b|. The parts are what lies
    on either side of the middle, along the direction in which the cluster is longest.
    """
    own_N = nearest_two(vectors_ND, centres_KD)[0]
    order = np.argsort(own_N, kind="stable")
    ends = np.cumsum(np.bincount(own_N, minlength=len(centres_KD)))[:-1]
    gains_K, halves = np.zeros(len(centres_KD)), []
    for cluster, rows in enumerate(np.split(order, ends)):
        halves.append(_halves(vectors_ND[rows]) if len(rows) > 1 else centres_KD[[cluster, cluster]])
        if len(rows) > 1:
            gains_K[cluster] = np.linalg.norm(halves[-1], axis=1).sum() - np.linalg.norm(halves[-1].sum(0))
    chosen = np.argsort(-gains_K, kind="stable")[:count]
    more_KD = np.concatenate([centres_KD, np.empty((len(chosen), centres_KD.shape[1]), np.float32)])
    for place, cluster in enumerate(chosen.tolist(), start=len(centres_KD)):
        more_KD[[cluster, place]] = halves[cluster]
    return _units(more_KD)


def _halves(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, D) sums of the vectors on either side of their mean; the direction is found by powers of their covariance."""
    centred_ND = vectors_ND - vectors_ND.mean(0)
    along_D = centred_ND[np.einsum("nd,nd->n", centred_ND, centred_ND).argmax()]
    for _ in range(_POWERS):
        along_D = (centred_ND @ along_D) @ centred_ND
        along_D = along_D / max(float(np.linalg.norm(along_D)), 1e-12)
    here_N = centred_ND @ along_D > 0
    return np.stack([vectors_ND[here_N].sum(0), vectors_ND[~here_N].sum(0)])


def merge(
    vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Fewer centres: one for each of the `count` pairs of clusters that lose least by it, none of them in two pairs if it can be."""
    own_N = nearest_two(vectors_ND, centres_KD)[0]
    sums_KD = np.zeros_like(centres_KD)
    order = np.argsort(own_N, kind="stable")
    sizes_K = np.bincount(own_N, minlength=len(centres_KD))
    for cluster, rows in enumerate(np.split(order, np.cumsum(sizes_K)[:-1])):
        sums_KD[cluster] = vectors_ND[rows].sum(0)
    products_KK = sums_KD @ sums_KD.T
    squares_K = np.diag(products_KK).copy()
    both_KK = np.sqrt(np.maximum(squares_K[:, None] + squares_K + 2 * products_KK, 0))
    lost_KK = np.sqrt(squares_K)[:, None] + np.sqrt(squares_K) - both_KK
    lost_KK[np.tril_indices(len(lost_KK))] = np.inf
    gone: list[int] = []
    while len(gone) < count:
        one, other = np.unravel_index(lost_KK.argmin(), lost_KK.shape)
        if not np.isfinite(lost_KK[one, other]):  # all are in a pair
            gone += [k for k in np.argsort(sizes_K, kind="stable").tolist() if k not in gone][
                : count - len(gone)
            ]
            break
        sums_KD[one] += sums_KD[other]
        gone.append(int(other))
        lost_KK[[one, other]] = lost_KK[:, [one, other]] = np.inf
    return _units(np.delete(np.where(sizes_K[:, None] > 0, sums_KD, centres_KD), gone, axis=0))


def _units(sums_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = sums_KD / np.maximum(np.linalg.norm(sums_KD, axis=1, keepdims=True), 1e-12)
    return found


def _occupied(vectors_ND: NDArray[np.float32], centres_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres that no vector is nearest to, where copies are many, go to the vectors that are farthest from theirs."""
    for _ in range(len(centres_KD)):
        own_N, first_N, _ = nearest_two(vectors_ND, centres_KD)
        empty = np.flatnonzero(np.bincount(own_N, minlength=len(centres_KD)) == 0)
        if not len(empty):
            break
        centres_KD = centres_KD.copy()
        centres_KD[empty[0]] = vectors_ND[first_N.argmin()]
    return centres_KD


def _different(vectors_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows of vectors of which none is equal to an earlier one, rising."""
    seen: dict[bytes, int] = {}
    for row, vector in enumerate(np.ascontiguousarray(vectors_ND, np.float16)):
        seen.setdefault(vector.tobytes(), row)
    return np.array(list(seen.values()), np.int64)
