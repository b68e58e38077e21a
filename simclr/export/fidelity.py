"""How much of fp32 another precision keeps: cosines, neighbours, the verdict. Pure numbers; runs no model.

Shape letters: N = images, D = embedding width, K = neighbours.

A search shows neighbours, not vectors: every entry of an embedding may be right to three decimals while half of the
neighbours change. So the verdict looks at both. Queries and gallery are the same images, both in the tested precision,
as they are in use; an image is no neighbour of itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import Fidelity

ENOUGH = 256
"""Images. Among fewer, ten neighbours are a good part of all, and their recall says little."""

TIE = 1e-5
"""Cosine. A neighbour this close to the k-th of fp32 is kept: which of the two comes first is rounding in fp32 as well."""

FP32_DIFFERENCE = 1e-5
"""Of any number of a unit vector, against PyTorch; sound files reach 1e-7 to 4e-7. A cosine of 0.999999 alone would allow 1e-3."""

BATCH_COSINE = 0.99999
"""Kernels for other batch sizes add in another order: 0.999998 was met with a MobileNet. A graph made for one size is far off."""

_ROWS = 1024
"""Queries whose similarities are held at a time."""


@dataclass(frozen=True)
class Threshold:
    """What a precision has to keep."""

    cosine: float
    """Smallest of all images."""
    recall_10: float
    """Where it was measured."""


THRESHOLDS: Mapping[str, Threshold] = {
    "fp32": Threshold(cosine=0.999999, recall_10=0.999),
    "fp16": Threshold(cosine=0.9999, recall_10=0.99),
    "bf16": Threshold(cosine=0.9995, recall_10=0.97),
    "int8": Threshold(cosine=0.97, recall_10=0.94),
    "int8-trt": Threshold(cosine=0.97, recall_10=0.94),
}
"""From trained encoders, see docs/exporting.md: a sound export stays above with a margin, a broken one far below."""


def judge(
    precision: str,
    found_ND: NDArray[np.float32],
    reference_ND: NDArray[np.float32],
    *,
    neighbours: bool,
    batches: tuple[int, ...],
    batch_cosine: float | None,
    measured_on: str,
    also_ND: NDArray[np.float32] | None = None,
) -> Fidelity:
    """The verdict on unit vectors of one precision against those of fp32, row by row.

    `neighbours`: whether the images are of the user's, so that their neighbours mean something. `batch_cosine` is the
    smallest cosine between vectors of one image in batches of the sizes `batches`. `also_ND`: vectors of the first images
    in the same precision, computed in a second way; the worse of both counts for the cosines.
    """
    cosine_N = (found_ND * reference_ND).sum(1, dtype=np.float64)
    if also_ND is not None:
        again = (also_ND * reference_ND[: len(also_ND)]).sum(1, dtype=np.float64)
        cosine_N[: len(also_ND)] = np.minimum(cosine_N[: len(also_ND)], again)
    cosine_N = np.nan_to_num(cosine_N, nan=-1.0)  # as wrong as can be
    batch_cosine = None if batch_cosine is None else float(np.nan_to_num(batch_cosine, nan=-1.0))
    measured = neighbours and len(found_ND) >= ENOUGH
    recall_1, recall_10, top_1 = kept(found_ND, reference_ND) if measured else (None, None, None)
    threshold = THRESHOLDS[precision]
    failed = []
    if not cosine_N.min() >= threshold.cosine:
        failed.append(f"smallest cosine {cosine_N.min():.6f}, at least {threshold.cosine} needed")
    difference = float(np.nan_to_num(np.abs(found_ND - reference_ND), nan=2.0).max())
    if precision == "fp32" and difference > FP32_DIFFERENCE:
        failed.append(f"largest difference {difference:.1e}, at most {FP32_DIFFERENCE:.0e} allowed")
    if recall_10 is not None and not recall_10 >= threshold.recall_10:
        failed.append(f"recall@10 {recall_10:.3f}, at least {threshold.recall_10} needed")
    at_any_batch = min(threshold.cosine, BATCH_COSINE)
    if batch_cosine is not None and not batch_cosine >= at_any_batch:
        failed.append(
            f"batch size changes vectors: cosine {batch_cosine:.6f}, at least {at_any_batch} needed"
        )
    return Fidelity(
        images=len(found_ND),
        cosine_min=_digits(cosine_N.min()),
        cosine_low=_digits(np.quantile(cosine_N, 0.01)),
        cosine_mean=_digits(cosine_N.mean()),
        max_difference=float(f"{difference:.1e}"),
        recall_1=recall_1,
        recall_10=recall_10,
        top_1=top_1,
        batches=batches,
        batch_cosine=None if batch_cosine is None else _digits(batch_cosine),
        measured_on=measured_on,
        passed=not failed,
        failed="; ".join(failed),
    )


def kept(found_ND: NDArray[np.float32], reference_ND: NDArray[np.float32]) -> tuple[float, float, float]:
    """recall@1, recall@10 and top-1 agreement of the neighbours in `found_ND` against those in `reference_ND`.

    A found neighbour counts for recall if its similarity in the reference is within TIE of the reference's k-th. Top-1
    agreement asks for the very same image. Each in 0..1, rounded to four digits.
    """
    count = len(found_ND)
    hits_1 = hits_10 = same = 0
    ten = min(10, count - 1)
    for start in range(0, count, _ROWS):
        rows = np.arange(start, min(start + _ROWS, count))
        theirs = _similarities(found_ND, rows)
        ours = _similarities(reference_ND, rows)
        near = np.argpartition(-theirs, ten - 1, axis=1)[:, :ten]
        first = theirs.argmax(1)
        tenth = -np.partition(-ours, ten - 1, axis=1)[:, ten - 1]
        hits_10 += int((np.take_along_axis(ours, near, 1) >= tenth[:, None] - TIE).sum())
        hits_1 += int((ours[np.arange(len(rows)), first] >= ours.max(1) - TIE).sum())
        same += int((first == ours.argmax(1)).sum())
    return _share(hits_1, count), _share(hits_10, count * ten), _share(same, count)


def _similarities(vectors_ND: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(rows, N) cosines, an image to itself -1."""
    similar: NDArray[np.float32] = vectors_ND[rows] @ vectors_ND.T
    similar[np.arange(len(rows)), rows] = -1
    return similar


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4)


def _digits(cosine: float) -> float:
    """Seven digits: as many as float32 holds, so that the manifest is the same when exported again."""
    return round(float(cosine), 7)
