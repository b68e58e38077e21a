"""The gradient of each step of a run, begun again where memory runs out or compiling fails.

Takes crops and fills every w.grad, with half the chunk or without torch.compile if need be. How a gradient is worked out
is step.py's.
"""

import hashlib
from collections.abc import Callable
from functools import partial

import torch

from simclr.errors import SimclrError, reason
from simclr.pretrain import distributed, memory
from simclr.pretrain.batch import Batch, on_device
from simclr.pretrain.compiling import compiles, do_not_compile
from simclr.pretrain.data import Crops
from simclr.pretrain.launch import go_on
from simclr.pretrain.setup import Setup
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast, contrast_and_classify

Note = Callable[[str], None]


class Attempts:
    """`chunk` is what memory has been enough for so far."""

    def __init__(self, setup: Setup, *, note: Note, say: Note) -> None:
        """`note` speaks for this process, `say` for all of them."""
        self.setup, self.config = setup, setup.config
        self.model, self.optimizer, self.batch_size = setup.model, setup.optimizer, setup.batch_size
        self.note, self.say = note, say
        self.chunk = setup.chunk
        self.untried = compiles(self.config.compile, setup.device)
        if self.untried:
            setup.model.compile()
        self.mean = torch.tensor(setup.recipe.mean, device=setup.device).view(1, 3, 1, 1)
        self.std = torch.tensor(setup.recipe.std, device=setup.device).view(1, 3, 1, 1)

    def gradients(self, crops: Crops, step: int) -> Contrast:
        """Fill every w.grad. Where memory runs out, the chunk is halved and the step begun again."""
        while True:
            try:
                result = self._try_gradients(crops, step)
                self.untried = False
                return result
            except (RuntimeError, MemoryError) as exc:
                if memory.is_out_of_memory(exc):
                    todo = self._halve_chunk
                elif self.untried:
                    todo = partial(self._do_without_compiling, reason(exc))
                else:
                    raise
            todo()  # here, where nothing holds the tensors of the try any more

    def _try_gradients(self, crops: Crops, step: int) -> Contrast:
        batch = Batch(
            crops.pixels.to(self.setup.device, non_blocking=True),
            seed=self.config.seed,
            step=step,
            batch_size=self.batch_size,
            chunk=self.chunk,
            augmentation=self.config.augmentation,
            mean=self.mean,
            std=self.std,
        )
        compare = partial(
            contrast,
            batch_size=self.batch_size,
            temperature=self.config.temperature,
            decoupled=self.config.loss == "dcl",
            scale=self.config.loss_scale,
        )
        if self.setup.labels is not None:
            compare = partial(
                contrast_and_classify,
                labels_b=on_device(self.setup.labels[crops.index], self.setup.device),
                batch_size=self.batch_size,
                width=self.config.head_out,
                contrast=compare,
            )
        return accumulate_gradients(
            self.model,
            batch,
            contrast=compare,
            statistics=self.setup.statistics,
            precision=self.setup.precision,
            seed=_step_seed(self.config.seed, step),
        )

    def _do_without_compiling(self, why: str) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        do_not_compile(self.model)
        self.untried = False
        self.note(f"torch.compile failed ({why}); going on without it")

    def _halve_chunk(self) -> None:
        """Raises SimclrError where that cannot help, or would have to be agreed with processes that are in mid-step."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.setup.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = memory.equal_chunk(self.batch_size, chunk=max(2, -(-self.chunk // 2)))
        what = f"{self.setup.device}: out of memory with {self.chunk} images of {self.config.image_size} pixels at a time"
        if self.chunk <= 2:
            raise SimclrError(f"{what}. Use a smaller --image-size or --encoder.")
        if distributed.world() > 1:
            raise SimclrError(f"{what}. {go_on(self.setup.folder)} --chunk {smaller}")
        self.say(f"warning: {what}; going on with chunk {smaller}")
        self.chunk = smaller


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7])
