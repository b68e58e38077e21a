"""The loop: step, record, save, and when each is due. Where a run is started, or gone on with.

Takes a PretrainConfig and gives a run folder: config.toml, metrics.jsonl, TensorBoard events, report.html,
checkpoints/, encoder.safetensors and encoder.json. Each of several processes runs all of this on its rows of each
batch; the first one alone writes and speaks. Reads top to bottom.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import torch

from simclr.errors import SimclrError, reason
from simclr.pretrain import distributed
from simclr.pretrain.attempts import Attempts
from simclr.pretrain.cache import ImageCache, fill_cache
from simclr.pretrain.checkpoint import TrainingState
from simclr.pretrain.config import PretrainConfig, interval
from simclr.pretrain.data import Crops, batches
from simclr.pretrain.device import device_and_dtype
from simclr.pretrain.guard import WentWrong
from simclr.pretrain.journal import Journal, Progress
from simclr.pretrain.launch import FAILED_ELSEWHERE, go_on, is_watched, launcher_is_gone
from simclr.pretrain.optimizer import set_learning_rate
from simclr.pretrain.prepare import prepare
from simclr.pretrain.quality import gradient_norm
from simclr.pretrain.run_folder import new_run, write_config
from simclr.pretrain.saving import Saving
from simclr.pretrain.schedule import learning_rate
from simclr.pretrain.setup import Setup
from simclr.pretrain.skipped import Skipped
from simclr.stopping import stop_requests

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
    # huge pages for tensors: a tenth off a step's time on a CPU; looked at by torch at its first allocation only
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    device, dtype = device_and_dtype(config)
    torch.set_num_threads(config.threads or distributed.own_cpus())
    with distributed.group(device):
        folder = distributed.from_first(out or new_run(config.encoder))
        say = note if distributed.rank() == 0 else lambda line: None
        try:
            setup = prepare(config, folder, device, dtype, resume=resume, say=say)
            if setup.finished:
                say(f"{folder} is finished: {setup.steps} of {setup.steps} steps done")
                return folder
            distributed.together(partial(_begin, setup))
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


def _begin(setup: Setup) -> None:
    if distributed.rank() == 0:
        write_config(setup.config, setup.folder)


class _Every:
    """Says when something is due that comes every so many steps, or minutes."""

    def __init__(self, name: str, every: int | str) -> None:
        self.steps, self.seconds = interval(name, every)
        self.last = time.monotonic()

    def due(self, step: int) -> bool:
        due = self.steps is not None and step % self.steps == 0
        if time.monotonic() - self.last > self.seconds:
            due, self.last = True, time.monotonic()
        return due


class _Training:
    """A run in progress. `step` counts finished steps; everything random follows from it and the seed."""

    def __init__(self, setup: Setup, *, progress: Progress, note: Note, say: Note) -> None:
        """`note` speaks for this process, `say` for all of them."""
        self.setup, self.config = setup, setup.config
        self.model, self.optimizer, self.batch_size = setup.model, setup.optimizer, setup.batch_size
        self.say, self.step = say, 0
        self.workers = min(16, distributed.own_cpus()) if self.config.workers is None else self.config.workers
        self.cache: ImageCache | None = None
        self.skipped = Skipped(
            setup.folder,
            source=setup.dataset.images.name,
            images=len(setup.dataset),
            limit=self.config.unreadable_limit,
            note=note,
        )
        self.attempts = Attempts(setup, note=note, say=say)
        self.journal = Journal(setup, self.skipped, workers=self.workers, progress=progress, say=say)
        self.saving = Saving(setup, self.skipped, say=say)

    def restore(self, state: TrainingState) -> None:
        self.step = self.saving.restore(state)

    def go(self) -> None:
        """Train to the end. A loss that cannot be trusted sends the run back to its last checkpoint, a second one ends it."""
        with stop_requests() as stop:
            while self.step < self.setup.steps:
                self.journal.open(self.step)
                clock, loader = self.journal.clock, self._batches()
                saves = _Every("checkpoint_every", self.config.checkpoint_every)
                looks = _Every("eval_every", self.config.eval_every or max(1, self.setup.steps // 10))
                saved = self.step
                try:
                    while self.step < self.setup.steps:
                        with clock.waiting():
                            crops = next(loader)
                        self._step(crops)
                        clock.done()
                        last = self.step == self.setup.steps
                        if self.setup.evaluation is not None and (last or looks.due(self.step)):
                            self.journal.evaluate(self.setup.evaluation)
                        self.journal.maybe_record()
                        stopped, save = distributed.any_of(
                            stop.is_set() or launcher_is_gone(), last or saves.due(self.step)
                        )
                        if (save or stopped) and saved != self.step:
                            self._save()
                            saved = self.step
                        if stopped:
                            self.say(
                                f"stopped after step {self.step} of {self.setup.steps}. {go_on(self.setup.folder)}"
                            )
                            raise KeyboardInterrupt
                except WentWrong as wrong:
                    self.step = self.saving.go_back(wrong)
                    self.journal.alarm(wrong.step, f"the loss {wrong}; went back to step {self.step}")
                finally:
                    loader.close()
                    self.journal.close()

    def _batches(self) -> Generator[Crops, None, None]:
        """From this step on."""
        plan, dataset = self.setup.cache, self.setup.dataset
        steps, images = range(self.step, self.setup.steps), distributed.share(self.batch_size)
        if plan is None:
            pin = self.setup.device.type == "cuda"
            return batches(dataset, steps=steps, images=images, workers=self.workers, pin=pin)
        if self.cache is None:
            self.cache = fill_cache(plan, dataset, workers=self.workers)
        return self.cache.batches(dataset, steps=steps, images=images, device=self.setup.device)

    def _step(self, crops: Crops) -> None:
        self.skipped.add(crops.unreadable)
        setup = self.setup
        lr = learning_rate(self.step, peak=setup.peak, warmup_steps=setup.warmup, total_steps=setup.steps)
        set_learning_rate(self.optimizer, lr)
        result = self.attempts.gradients(crops, self.step)
        size = gradient_norm(self.model.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.journal.add(self.step, result, grad_norm=size, lr=lr)
        self.step += 1

    def _save(self) -> None:
        self.journal.record()
        self.journal.sync()  # before the checkpoint that takes its steps as done
        self.saving.save(self.step, self.attempts.chunk)
