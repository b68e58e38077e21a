"""The numbers of a run: measured each step, read back when the device is done -> metrics.jsonl, report.html, warnings, progress.

Only the first process writes. Raises WentWrong for a loss that cannot be trusted; changes nothing of the training.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from simclr.pretrain import distributed
from simclr.pretrain.clock import Clock, InputWatch, peak_memory
from simclr.pretrain.config import to_toml
from simclr.pretrain.evaluation import Evaluation
from simclr.pretrain.guard import CollapseWatch, WentWrong, covariance, effective_rank, spread, what_is_wrong
from simclr.pretrain.monitor import contrastive_scores
from simclr.pretrain.page import About
from simclr.pretrain.quality import alignment, uniformity
from simclr.pretrain.record import Recorder, words
from simclr.pretrain.report import Report
from simclr.pretrain.setup import Setup
from simclr.pretrain.skipped import Skipped
from simclr.pretrain.step import Contrast

_LOOK_EVERY = 10
"""Steps between looks at the rank and spread of the projections, and on a GPU between waits for its numbers."""

Progress = Callable[[int, int, str], None]
"""Called with images done, images in all, and a few words."""


class Journal:
    """`open` it at the step that comes next, `add` each step, `record` what is done, `close` it.

    Opened again, it goes on from an earlier step.
    """

    def __init__(
        self,
        setup: Setup,
        skipped: Skipped,
        *,
        workers: int,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self.setup, self.config, self.folder = setup, setup.config, setup.folder
        self.model, self.batch_size = setup.model, setup.batch_size
        self.skipped, self.progress, self.say = skipped, progress, say
        self.watch = CollapseWatch(self.batch_size)
        self.clock = Clock(setup.device)
        self.input_watch = InputWatch(workers, distributed.own_cpus(), in_ram=setup.cache is not None)
        self.pending: list[dict[str, Any]] = []
        self.recorder: Recorder | None = None
        self.report: Report | None = None

    def open(self, step: int) -> None:
        """Lines of this step and of later ones, which are done again, are cut off."""
        if distributed.rank() == 0:
            self.recorder = Recorder(self.folder, first_step=step, note=self.say)
            self.report = Report(self.folder, self.recorder.curves, self._about())
        self.clock = Clock(self.setup.device)
        self.pending.clear()

    def close(self) -> None:
        if self.recorder is not None and self.report is not None:
            self.report.write(live=False)
            self.recorder.close()

    def add(self, step: int, result: Contrast, *, grad_norm: Tensor, lr: float) -> None:
        """What a step has computed, its numbers still on the device."""
        z1, z2 = result.unit_ND.chunk(2)
        images = distributed.share(self.batch_size)
        scores = contrastive_scores(z1, z2, temperature=self.config.temperature, images=images)
        sums = scores if result.classified is None else torch.cat([scores, result.classified])
        kept = {
            "step": step,
            "loss": result.loss,
            "sums": distributed.add_up(sums),
            "grad_norm": grad_norm,
            "lr": lr,
        }
        if step % _LOOK_EVERY == 0:
            kept |= {
                "covariance": covariance(result.unit_ND),
                "alignment": alignment(z1, z2),
                "uniformity": uniformity(z1),
            }
        self.pending.append(kept)

    def evaluate(self, evaluation: Evaluation) -> None:
        """On the labelled images, by the first process; the others wait for it at their next exchange."""
        self.pending[-1]["accuracy"] = evaluation.accuracy(
            self.model.encoder, self.setup.device, self.setup.dtype
        )

    def maybe_record(self) -> None:
        """At once; on a GPU some steps together, as it is waited for."""
        if self.setup.device.type != "cuda" or len(self.pending) >= _LOOK_EVERY:
            self.record()

    def record(self) -> None:
        """Read back what the device has finished: the one place where the loop itself waits for it."""
        while self.pending:
            kept = self.pending.pop(0)
            step, loss = kept["step"], kept["loss"].item()
            wrong = what_is_wrong(loss, batch_size=self.batch_size, temperature=self.config.temperature)
            if wrong:
                raise WentWrong(step, wrong)
            right, entropy, *classified = kept["sums"].tolist()
            top1, entropy = right / self.batch_size, entropy / self.batch_size
            line = {"step": step, "loss": loss, "top1": top1, "entropy": entropy, "lr": kept["lr"]}
            line["grad_norm"] = kept["grad_norm"].item()
            if classified:
                line["probe"] = classified[0] / max(1.0, classified[1])
            if "covariance" in kept:
                line |= self._look(step, kept, entropy)
            line |= kept.get("accuracy", {})
            spent = self.clock.pop()
            if bound := self.input_watch.look(spent):
                self._warn(step, bound)
            if self.recorder is not None and self.report is not None:
                self.recorder.write(line | {"seconds": spent.seconds, "waited": spent.waited})
                self.report.maybe()
                said = words(self.recorder.curves.newest()) + ("  COLLAPSED" if self.watch.said else "")
                self.progress((step + 1) * self.batch_size, self.setup.steps * self.batch_size, said)

    def alarm(self, step: int, what: str) -> None:
        """Keep words for the page."""
        if self.report is not None:
            self.report.say(step, what)

    def sync(self) -> None:
        """What is recorded so far survives a power cut."""
        if self.recorder is not None:
            self.recorder.sync()

    def _look(self, step: int, kept: dict[str, Any], entropy: float) -> dict[str, float]:
        """The numbers of every tenth step, and a warning where they say that projections have collapsed."""
        rank, even = effective_rank(kept["covariance"]), spread(kept["covariance"])
        if alarm := self.watch.look(rank=rank, spread=even, entropy=entropy):
            self._warn(step, alarm)
        return {
            "rank": rank,
            "spread": even,
            "alignment": kept["alignment"].item(),
            "uniformity": kept["uniformity"].item(),
            "memory": peak_memory(self.setup.device),
        } | ({"skipped": len(self.skipped)} if self.skipped else {})

    def _warn(self, step: int, what: str) -> None:
        """To the person at the keyboard, and on the page."""
        self.say(f"warning: step {step}: {what}")
        self.alarm(step, what)

    def _about(self) -> About:
        return About(
            title=self.folder.name,
            settings=to_toml(self.config),
            total_steps=self.setup.steps,
            batch_size=self.batch_size,
            dimensions=self.config.head_out,
        )
