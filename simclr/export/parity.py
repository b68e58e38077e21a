"""Does the exported model compute what the encoder computes? Every export ends here.

Takes the embeddings that PyTorch gave in fp32 and the exported file; gives how closely they agree, or raises
ExportMismatch naming the worst image. Runs the very code that embedding runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.errors import ExportMismatch

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def check_parity(
    run: Embed,
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
    *,
    names: Sequence[str],
    max_batch: int,
    floor: float,
) -> dict[str, Any]:
    """Compare at batch 1, 2, 7 and the largest; images repeat where a batch needs more than there are.

    `run` maps (N, size, size, 3) uint8 to (N, D); `expected` holds the fp32 embedding of each image. Returns
    batches, images, min_cosine, max_abs_difference. Raises ExportMismatch if any cosine is below `floor`.
    """
    lowest, largest = 1.0, 0.0
    for batch in (sizes := sorted({1, 2, min(7, max_batch), max_batch})):
        count = len(images) if batch < 8 else batch
        rows = np.arange(-(-count // batch) * batch) % len(images)
        found = np.concatenate([run(images[part]) for part in rows.reshape(-1, batch)])
        cosine = (found * expected[rows]).sum(1)
        difference = float(np.abs(found - expected[rows]).max())
        worst = int(np.argmin(np.nan_to_num(cosine, nan=-2.0)))
        if not cosine[worst] >= floor:  # also catches nan
            raise ExportMismatch(
                f"{names[rows[worst]]}: the exported model's embedding has cosine {cosine[worst]:.6f} to the encoder's at batch "
                f"{batch}, below {floor}. Nothing was written; please report the encoder and the versions."
            )
        lowest, largest = min(lowest, float(cosine[worst])), max(largest, difference)
    return {
        "batches": sizes,
        "images": len(images),
        "min_cosine": round(lowest, 7),
        "max_abs_difference": float(f"{largest:.1e}"),
        "floor": floor,
    }
