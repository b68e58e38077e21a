"""The verdict on each file of an export: who runs it here, over which images, against what.

fp32 is held against PyTorch, every other precision against fp32. A 16-bit file that no GPU runs here is computed a
second time, rounded after every operation: a CPU alone would flatter it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from simclr.artifacts import EncoderInfo, Fidelity
from simclr.cpus import available_cpus
from simclr.export.fidelity import judge
from simclr.export.graph import fold_bn
from simclr.export.measure import Vectors, embed_all, over_batch_sizes
from simclr.export.onnx import DTYPE
from simclr.export.pictures import drawn_images
from simclr.export.rounding import rounded
from simclr.preprocess import Recipe
from simclr.runtime.backends import RUNS, Engine, gpu_count
from simclr.runtime.model_files import FILE_OF
from simclr.runtime.ort import open_ort
from simclr.runtime.starting import why_not

MAX_BATCH = 256
TORCH_IMAGES = 256
"""Compared where PyTorch computes one side: it is slower, and that many make a gallery."""
_BATCH = 8

Progress = Callable[[int, int, str], None]


class Judge:
    """Of the files in `folder`, fp32 first; the others are held against it.

    `images`: the user's (N, size, size, 3), or none. `progress` gets images run and to run for the precision at hand.
    """

    def __init__(
        self, model: nn.Module, info: EncoderInfo, folder: Path, images: NDArray[np.uint8], progress: Progress
    ) -> None:
        self.model, self.info, self.folder, self.progress = model, info, folder, progress
        self.probe = drawn_images(info.recipe)
        self.own = len(images) > 0
        self.images = images if self.own else self.probe
        self.probe_vectors = by_torch(model, info.recipe, self.probe)
        self.reference: Vectors | None = None
        """Of fp32, once that file is judged."""
        self.total = self.done = 0
        """Images to run and run for the precision at hand."""

    def __call__(self, precision: str) -> tuple[Fidelity, float, dict[int, float]]:
        """Verdict, smallest cosine of the probe's images, images a second by batch size."""
        engine, twin = self._open(precision), None
        if precision in ("fp16", "bf16") and (engine is None or engine.backend == "ort-cpu"):
            twin = rounded(fold_bn(self.model), self.info.recipe, DTYPE[precision])
        slow = twin is not None or precision == "fp32"
        images = self.images[:TORCH_IMAGES] if slow else self.images
        step = partial(self._step, precision)
        passes = [images if twin else self.images] * (engine is not None) + [images] * slow
        self.total, self.done = sum(map(len, passes)), 0
        by_file = None if engine is None else embed_all(engine, passes[0], batch=_BATCH, step=step)
        if precision == "fp32":
            assert by_file is not None
            self.reference = by_file
            expected = by_torch(self.model, self.info.recipe, images, step)
        else:
            assert self.reference is not None
            expected = self.reference[: len(images)]
        batched = None if engine is None else over_batch_sizes(engine, self.probe, max_batch=MAX_BATCH)
        found = embed_all(twin, images, batch=_BATCH, step=step) if twin else by_file
        assert found is not None
        fidelity = judge(
            precision,
            found[: len(images)],
            expected,
            neighbours=self.own,
            batches=batched.batches if batched else (),
            batch_cosine=batched.cosine if batched else None,
            measured_on=_measured_on(engine, precision if twin else None),
            also_ND=by_file if twin else None,
        )
        probe_cosine = min(
            float((run(self.probe) * self.probe_vectors).sum(1).min()) for run in (engine, twin) if run
        )
        return fidelity, round(probe_cosine, 7), batched.speed if batched else {}

    def _open(self, precision: str) -> Engine | None:
        """The file on the GPU where one runs it, else on the CPU; None where neither can."""
        path = self.folder / FILE_OF[precision]
        wanted = [name for name in ("ort-cuda", "ort-cpu") if precision in RUNS[name]]
        if not gpu_count() or why_not("ort-cuda"):
            wanted = [name for name in wanted if name == "ort-cpu"]
        if not wanted:
            return None
        return open_ort(path.read_bytes(), name=path.name, backend=wanted[0], threads=available_cpus())

    def _step(self, precision: str, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total, precision)


def _measured_on(engine: Engine | None, rounded_to: str | None) -> str:
    file = engine.provider if engine else "no provider here runs the file"
    return f"PyTorch, rounded to {rounded_to} after every operation; {file}" if rounded_to else file


@torch.inference_mode()
def by_torch(
    model: nn.Module,
    recipe: Recipe,
    images: NDArray[np.uint8],
    step: Callable[[int], None] = lambda count: None,
) -> Vectors:
    """What the encoder itself makes of the images: no part of the exported graph is used, so all of it is checked."""
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)

    def run(pixels: NDArray[np.uint8]) -> Vectors:
        x = (torch.from_numpy(pixels) / 255 - mean) / std
        vectors: Vectors = F.normalize(model(x.permute(0, 3, 1, 2)), dim=1).numpy()
        return vectors

    return embed_all(run, images, batch=_BATCH, step=step)
