"""What a run can go on from, and back to: its start, then its checkpoints, each with the encoder of that moment.

Takes the step and chunk; writes encoder, skipped.csv and checkpoint. No policy about when.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from simclr.artifacts import EncoderInfo, write_atomically
from simclr.encoder import save_encoder, weights_sha256
from simclr.errors import SimclrError
from simclr.pretrain import distributed
from simclr.pretrain.checkpoint import TrainingState, newest_whole_checkpoint, save_checkpoint
from simclr.pretrain.guard import WentWrong
from simclr.pretrain.launch import go_on
from simclr.pretrain.setup import Setup
from simclr.pretrain.skipped import Skipped


class Saving:
    """Model and optimiser of a run, to disk and back. Made before its first step."""

    def __init__(self, setup: Setup, skipped: Skipped, *, say: Callable[[str], None]) -> None:
        self.setup, self.config, self.folder = setup, setup.config, setup.folder
        self.model, self.optimizer = setup.model, setup.optimizer
        self.skipped, self.say = skipped, say
        self.parents = {
            "run": self.folder.name,
            "data": Path(setup.dataset.images.name).name,
            "images": len(setup.dataset),
            "steps": setup.steps,
        }
        self.went_back = False
        self.start: TrainingState | None = self._state(0, setup.chunk, copied=True)

    def restore(self, state: TrainingState) -> int:
        """The number of the step that comes next."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        return state.step

    def save(self, step: int, chunk: int) -> None:
        """The checkpoint comes last: a kill in between means doing these steps again, not an old encoder."""
        finite = all(bool(torch.isfinite(w).all()) for w in self.model.parameters())
        if any(distributed.any_of(not finite)):
            raise WentWrong(step - 1, "left weights that are no numbers")
        digest = weights_sha256(self.model.state_dict())
        same = digest == distributed.from_first(digest)
        self.skipped.exchange()
        distributed.together(partial(self._write, step, chunk, same_weights=same))
        self.start = None  # there is a checkpoint to go back to

    def go_back(self, wrong: WentWrong) -> int:
        """To the last checkpoint, or the start, and the step that comes next; the second time, give up.

        The batch is kept for a look.
        """
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.folder / "bad_batch" / f"step-{wrong.step:09d}.npz"
        found = f"{self.folder}: the loss {wrong} at step {wrong.step}; its images are in {batch}"

        def keep_and_find() -> TrainingState | None:
            if distributed.rank() != 0:
                return None
            batch.parent.mkdir(exist_ok=True)
            write_atomically(batch, lambda temporary: self.setup.dataset.save(wrong.step, temporary))
            if self.went_back:
                raise SimclrError(
                    f"{found}. It went wrong before, too. Start a new run with base_lr below {self.config.base_lr:g}, or a "
                    "longer warmup_fraction."
                )
            return newest_whole_checkpoint(self.folder / "checkpoints", note=self.say)

        state = distributed.from_first(distributed.together(keep_and_find)) or self.start
        assert state is not None
        self.went_back = True
        step = self.restore(state)
        self.say(f"warning: {found}. Going back to step {step}, once")
        return step

    def _state(self, step: int, chunk: int, *, copied: bool = False) -> TrainingState:
        """All that decides how the run goes on."""
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        if copied:
            model = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.items()}
        return TrainingState(step, chunk, self.setup.data_sha256, model, optimizer)

    def _write(self, step: int, chunk: int, *, same_weights: bool) -> None:
        if not same_weights:
            raise SimclrError(
                f"process {distributed.rank()} has other weights than process 0 after step {step}: a fault of its "
                f"machine. {go_on(self.folder)}"
            )
        if distributed.rank() != 0:
            return
        encoder = self.model.encoder
        self.skipped.write()
        info = EncoderInfo(
            name=self.config.encoder,
            small_stem=bool(self.config.small_stem),
            width=self.setup.width,
            weights_sha256=weights_sha256(encoder.state_dict()),
            recipe=self.setup.recipe,
            parents=self.parents | {"step": step},
        )
        save_encoder(self.folder, encoder, info)
        save_checkpoint(
            self.folder / "checkpoints",
            self._state(step, chunk),
            keep=self.config.checkpoint_keep,
            keep_every=self.config.checkpoint_keep_every,
        )
