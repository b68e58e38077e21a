"""Vectors -> points in the plane, like ones near each other.

t-SNE (van der Maaten and Hinton 2008) by scikit-learn, begun from the two directions in which they differ most; these alone where it is not installed.

Shape letters: N = images, D = width, M = directions.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_DIRECTIONS = 50
"""That t-SNE sees: as many as its authors took."""
_FEWEST = 12
"""Images from which t-SNE makes sense."""


def projected(vectors_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], Literal["t-SNE", "PCA"]]:
    """(N, 2) in 0..1, both axes by one scale, and how they were found."""
    main_NM = main_directions(vectors_ND, _DIRECTIONS)
    if len(main_NM) >= _FEWEST:
        try:
            from sklearn.manifold import TSNE
            from threadpoolctl import threadpool_limits
        except ImportError:
            pass
        else:
            start_N2 = main_NM[:, :2] / max(1e-12, float(main_NM[:, 0].std())) * 1e-4
            with threadpool_limits(1):  # searches go on beside it
                method = TSNE(2, init=start_N2, perplexity=min(30.0, (len(main_NM) - 1) / 3), n_jobs=1)
                return scaled(method.fit_transform(main_NM)), "t-SNE"
    return scaled(main_NM[:, :2]), "PCA"


def main_directions(vectors_ND: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(N, at least 2) where the images lie along the directions in which they differ most; zeros where there are fewer."""
    centred_ND = vectors_ND - vectors_ND.mean(0)
    _, directions_DD = np.linalg.eigh(centred_ND.T.astype(np.float64) @ centred_ND)
    count = max(2, min(count, centred_ND.shape[1]))
    found_NM = centred_ND @ directions_DD[:, ::-1][:, :count].astype(np.float32)
    missing = 2 - found_NM.shape[1]
    return np.pad(found_NM, ((0, 0), (0, max(0, missing))))


def scaled(places_N2: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Into 0..1, the longer axis in full, the other one in the middle."""
    low, high = places_N2.min(0).astype(np.float64), places_N2.max(0).astype(np.float64)
    side = max(float((high - low).max()), 1e-12)
    found: NDArray[np.float64] = (places_N2 - (low + high) / 2) / side + 0.5
    return found
