"""The loop: step, record, save. The only place of pretraining with a run folder and time.

Takes a PretrainConfig and gives a run folder: config.toml, metrics.jsonl, TensorBoard events, report.html,
checkpoints/, encoder.safetensors and encoder.json. Each of several processes runs all of this on its rows of each
batch; the first one alone writes and speaks. Reads top to bottom.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr.artifacts import EncoderInfo, write_atomically
from simclr.cpus import available_cpus
from simclr.encoder import save_encoder, weights_sha256
from simclr.errors import SimclrError, reason
from simclr.pretrain import distributed, memory
from simclr.pretrain.batch import Batch
from simclr.pretrain.checkpoint import TrainingState, newest_whole_checkpoint, save_checkpoint
from simclr.pretrain.config import PretrainConfig, checkpoint_interval, to_toml
from simclr.pretrain.data import Crops, batches
from simclr.pretrain.guard import CollapseWatch, covariance, effective_rank, spread, what_is_wrong
from simclr.pretrain.launch import FAILED_ELSEWHERE, go_on, is_watched, launcher_is_gone
from simclr.pretrain.monitor import contrastive_scores
from simclr.pretrain.record import Recorder, write_report
from simclr.pretrain.run_folder import new_run
from simclr.pretrain.schedule import learning_rate, peak_learning_rate, warmup_steps
from simclr.pretrain.setup import Setup, device_and_dtype, prepare
from simclr.pretrain.step import Contrast, accumulate_gradients, contrast
from simclr.stopping import stop_requests

_LOOK_EVERY = 10
"""Steps between looks at the rank and spread of the projections, and on a GPU between waits for its numbers."""

Progress = Callable[[int, int, str], None]
"""Called with images done, images in all, and a few words."""
Note = Callable[[str], None]


def run(
    config: PretrainConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress = lambda done, total, words: None,
    note: Note = lambda line: None,
) -> Path:
    """Pretrain an encoder; returns the run folder, `out` or a new one below `runs/`.

    As one of several processes if the environment says so (RANK, WORLD_SIZE, ..., as torchrun sets them).
    Raises ConfigError (settings, or a run that exists already), ImageError (no images), ArtifactError (checkpoints or
    weights), SimclrError (the loss went wrong twice; a process or memory was lost). Ctrl-C or SIGTERM ends the current
    step, writes a checkpoint and raises KeyboardInterrupt.
    """
    device, dtype = device_and_dtype(config)
    torch.set_num_threads(config.threads or _own_cpus())
    with distributed.group(device):
        folder = distributed.from_first(out or new_run(config.encoder))
        say = note if distributed.rank() == 0 else lambda line: None
        try:
            setup = prepare(config, folder, device, dtype, resume=resume, say=say)
            if setup.finished:
                say(f"{folder} is finished: {setup.steps} of {setup.steps} steps done")
                return folder
            state, setup = setup.state, dataclasses.replace(setup, state=None)  # else it stays in memory
            training = _Training(setup, progress=progress, note=note, say=say)
            if state is not None:
                training.restore(state)
                say(f"resuming at step {training.step}")
            training.go()
        except RuntimeError as exc:
            if not distributed.is_lost_peer(exc):
                raise
            if is_watched():  # by whoever says which process it was
                note(f"process {os.environ['RANK']}: {reason(exc)}")
                raise SystemExit(FAILED_ELSEWHERE) from exc
            raise SimclrError(
                f"{folder}: another process of this run is gone, or cannot be reached ({reason(exc)}). {go_on(folder)}"
            ) from exc
    return folder


class _WentWrong(Exception):
    """The loss of a step cannot be trusted."""

    def __init__(self, step: int, words: str) -> None:
        super().__init__(words)
        self.step = step


class _Training:
    """A run in progress. `step` counts finished steps; everything random follows from it and the seed."""

    def __init__(self, setup: Setup, *, progress: Progress, note: Note, say: Note) -> None:
        """`note` speaks for this process, `say` for all of them."""
        self.setup, self.config, self.folder = setup, setup.config, setup.folder
        self.model, self.optimizer, self.batch_size = setup.model, setup.optimizer, setup.batch_size
        self.progress, self.note, self.say = progress, note, say
        self.lead = distributed.rank() == 0
        self.chunk, self.step = setup.chunk, 0
        images, config = len(setup.dataset.images.names), setup.config
        self.warmup = warmup_steps(
            images, batch_size=self.batch_size, epochs=config.epochs * config.warmup_fraction
        )
        self.peak = peak_learning_rate(config.base_lr, batch_size=self.batch_size, scaling=config.lr_scaling)
        self.parents = {
            "run": self.folder.name,
            "data": setup.data.name,
            "images": images,
            "steps": setup.steps,
        }
        self.mean = torch.tensor(setup.recipe.mean, device=setup.device).view(1, 3, 1, 1)
        self.std = torch.tensor(setup.recipe.std, device=setup.device).view(1, 3, 1, 1)
        self.watch = CollapseWatch(self.batch_size)
        self.unreadable: set[str] = set()
        self.pending: list[dict[str, Any]] = []
        self.recorder: Recorder | None = None
        self.went_back = False
        self.start: TrainingState | None = self.state(copied=True)

    def state(self, *, copied: bool = False) -> TrainingState:
        """All that decides how the run goes on."""
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        if copied:
            model = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.items()}
        return TrainingState(self.step, self.chunk, self.setup.data_sha256, model, optimizer)

    def restore(self, state: TrainingState) -> None:
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        self.step = state.step

    # ---- the loop

    def go(self) -> None:
        """Train to the end. A loss that cannot be trusted sends the run back to its last checkpoint, a second one ends it."""
        every, seconds = checkpoint_interval(self.config.checkpoint_every)
        workers = min(16, _own_cpus()) if self.config.workers is None else self.config.workers
        gpu = self.setup.device.type == "cuda"
        with stop_requests() as stop:
            while self.step < self.setup.steps:
                self.recorder = (
                    Recorder(self.folder, first_step=self.step, note=self.say) if self.lead else None
                )
                loader = batches(
                    self.setup.dataset,
                    steps=range(self.step, self.setup.steps),
                    images=distributed.share(self.batch_size),
                    workers=workers,
                    pin=gpu,
                )
                saved, saved_at = self.step, time.monotonic()
                self.step_began = time.perf_counter()
                try:
                    while self.step < self.setup.steps:
                        self._step(next(loader))
                        if not gpu or len(self.pending) >= _LOOK_EVERY:
                            self._record()
                        due = every is not None and self.step % every == 0
                        due |= self.step == self.setup.steps or time.monotonic() - saved_at > seconds
                        stopped, due = distributed.any_of(stop.is_set() or launcher_is_gone(), due)
                        if (stopped or due) and saved != self.step:
                            self._record()
                            self._save()
                            saved, saved_at = self.step, time.monotonic()
                        if stopped:
                            self.say(
                                f"stopped after step {self.step} of {self.setup.steps}. {go_on(self.folder)}"
                            )
                            raise KeyboardInterrupt
                except _WentWrong as wrong:
                    self._go_back(wrong)
                finally:
                    loader.close()
                    if self.recorder is not None:
                        self.recorder.close()

    def _step(self, crops: Crops) -> None:
        for path, why in crops.unreadable:
            if path not in self.unreadable:
                self.unreadable.add(path)
                self.note(f"skipped {path}: {why}")
        lr = learning_rate(self.step, peak=self.peak, warmup_steps=self.warmup, total_steps=self.setup.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        result = self._gradients(crops)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        z1, z2 = result.unit_ND.chunk(2)
        images = distributed.share(self.batch_size)
        scores = contrastive_scores(z1, z2, temperature=self.config.temperature, images=images)
        began, self.step_began = self.step_began, time.perf_counter()
        self.pending.append(
            {
                "step": self.step,
                "loss": result.loss,
                "scores": distributed.add_up(scores) / self.batch_size,
                "covariance": covariance(result.unit_ND) if self.step % _LOOK_EVERY == 0 else None,
                "lr": lr,
                "seconds": self.step_began - began,
            }
        )
        self.step += 1

    def _gradients(self, crops: Crops) -> Contrast:
        """Fill every w.grad. Where memory runs out, the chunk is halved and the step begun again."""
        while True:
            try:
                return self._try_gradients(crops)
            except (RuntimeError, MemoryError) as exc:
                if not memory.is_out_of_memory(exc):
                    raise
            self._halve_chunk()  # here, where nothing holds the tensors of the try any more

    def _try_gradients(self, crops: Crops) -> Contrast:
        batch = Batch(
            crops.pixels.to(self.setup.device, non_blocking=True),
            seed=self.config.seed,
            step=self.step,
            batch_size=self.batch_size,
            chunk=self.chunk,
            augmentation=self.config.augmentation,
            mean=self.mean,
            std=self.std,
        )
        return accumulate_gradients(
            self.model,
            batch,
            contrast=partial(contrast, batch_size=self.batch_size, temperature=self.config.temperature),
            statistics=self.setup.statistics,
            precision=self.setup.precision,
            seed=_step_seed(self.config.seed, self.step),
        )

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
            raise SimclrError(f"{what}. {go_on(self.folder)} --chunk {smaller}")
        self.say(f"warning: {what}; going on with chunk {smaller}")
        self.chunk = smaller

    # ---- what is kept

    def _record(self) -> None:
        """Read back what the device has finished: the one place where the loop itself waits for it."""
        while self.pending:
            kept = self.pending.pop(0)
            step, loss, (top1, entropy) = kept["step"], kept["loss"].item(), kept["scores"].tolist()
            wrong = what_is_wrong(loss, batch_size=self.batch_size, temperature=self.config.temperature)
            if wrong:
                raise _WentWrong(step, wrong)
            line = {"step": step, "loss": loss, "top1": top1, "entropy": entropy, "lr": kept["lr"]}
            if kept["covariance"] is not None:
                line["rank"], line["spread"] = effective_rank(kept["covariance"]), spread(kept["covariance"])
                alarm = self.watch.look(rank=line["rank"], spread=line["spread"], entropy=entropy)
                if alarm:
                    self.say(f"warning: step {step}: {alarm}")
            if self.recorder is not None:
                self.recorder.write(line | {"seconds": kept["seconds"]})
                words = f"loss {loss:.3f}  top-1 {top1:.1%}{'  COLLAPSED' if self.watch.said else ''}"
                self.progress((step + 1) * self.batch_size, self.setup.steps * self.batch_size, words)

    def _save(self) -> None:
        """The checkpoint comes last: a kill in between means doing these steps again, not an old encoder."""
        finite = all(bool(torch.isfinite(w).all()) for w in self.model.parameters())
        if any(distributed.any_of(not finite)):
            raise _WentWrong(self.step - 1, "left weights that are no numbers")
        digest = weights_sha256(self.model.state_dict())
        same = digest == distributed.from_first(digest)
        distributed.together(partial(self._write, same_weights=same))
        self.start = None  # there is a checkpoint to go back to

    def _write(self, *, same_weights: bool) -> None:
        if not same_weights:
            raise SimclrError(
                f"process {distributed.rank()} has other weights than process 0 after step {self.step}: a fault of its "
                f"machine. {go_on(self.folder)}"
            )
        if not self.lead:
            return
        encoder = self.model.encoder
        assert isinstance(encoder, nn.Module)
        info = EncoderInfo(
            name=self.config.encoder,
            small_stem=bool(self.config.small_stem),
            width=self.setup.width,
            weights_sha256=weights_sha256(encoder.state_dict()),
            recipe=self.setup.recipe,
            parents=self.parents | {"step": self.step},
        )
        save_encoder(self.folder, encoder, info)
        title = f"{self.folder.name}: step {self.step} of {self.setup.steps}"
        write_report(self.folder, title=title, settings=to_toml(self.config), note=self.say)
        assert self.recorder is not None
        self.recorder.sync()  # before the checkpoint that takes its steps as done
        save_checkpoint(
            self.folder / "checkpoints",
            self.state(),
            keep=self.config.checkpoint_keep,
            keep_every=self.config.checkpoint_keep_every,
        )

    def _go_back(self, wrong: _WentWrong) -> None:
        """To the last checkpoint, or the start; the second time, give up. The batch is kept for a look."""
        self.pending.clear()
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.folder / "bad_batch" / f"step-{wrong.step:09d}.npz"
        found = f"{self.folder}: the loss {wrong} at step {wrong.step}; its images are in {batch}"

        def keep_and_find() -> TrainingState | None:
            if not self.lead:
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
        self.restore(state)
        self.say(f"warning: {found}. Going back to step {self.step}, once")


def _own_cpus() -> int:
    """Cores of this machine for this process."""
    return max(1, available_cpus() // distributed.on_this_machine())


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7])
