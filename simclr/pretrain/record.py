"""What a run writes down each step: `metrics.jsonl` and TensorBoard events.

metrics.jsonl holds each step exactly once, also after kills: a resumed run first cuts off the steps that it is
going to do again. Knows no step's meaning: it takes whatever numbers come.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from simclr.pretrain.curves import Curves

METRICS_FILE = "metrics.jsonl"

GROUPS = {
    "loss": "loss",
    "top1": "contrast",
    "entropy": "contrast",
    "alignment": "projections",
    "uniformity": "projections",
    "rank": "projections",
    "spread": "projections",
    "knn": "accuracy",
    "probe": "accuracy",
    "probe_eval": "accuracy",
    "lr": "optimiser",
    "grad_norm": "optimiser",
    "seconds": "cost",
    "waited": "cost",
    "memory": "cost",
}
"""Where TensorBoard shows a number; others under `other`."""


class Recorder:
    """Appends one object a step. `close` it."""

    def __init__(self, folder: Path, *, first_step: int, note: Callable[[str], None]) -> None:
        self.path = folder / METRICS_FILE
        self.curves = Curves()
        """Of all steps so far."""
        keep = 0
        for line, end in _whole_lines(self.path):
            if line["step"] >= first_step:
                break
            self.curves.add(line)
            keep = end
        self.curves.start()
        if self.path.exists():
            os.truncate(self.path, keep)
        self._file: TextIO = open(self.path, "a", encoding="utf-8", newline="\n")
        self._board = _tensorboard(folder, first_step, note)

    def write(self, metrics: Mapping[str, float | None]) -> None:
        """`step` and any numbers. What is no number becomes null: JSON has no word for it."""
        line = {name: x if x is not None and math.isfinite(x) else None for name, x in metrics.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.curves.add(line)
        if self._board is not None:
            for name, x in metrics.items():
                if name != "step" and x is not None:
                    self._board.add_scalar(
                        f"{GROUPS.get(name, 'other')}/{name}", x, int(metrics["step"] or 0)
                    )

    def sync(self) -> None:
        """What is written so far survives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl, oldest first; a line torn by a kill is left out."""
    return [line for line, _ in _whole_lines(folder / METRICS_FILE)]


def words(newest: Mapping[str, float]) -> str:
    """A few words for a progress line: `loss 4.383  top-1 24.5%  kNN 51.2%  waiting 3%`. Numbers that are not there are left out."""
    found = []
    for name, label, form in (
        ("loss", "loss", ".3f"),
        ("top1", "top-1", ".1%"),
        ("knn", "kNN", ".1%"),
        ("probe_eval", "probe", ".1%"),
    ):
        if name in newest:
            found.append(f"{label} {newest[name]:{form}}")
    if newest.get("seconds", 0) > 0 and newest.get("waited", 0) >= 0.01 * newest["seconds"]:
        found.append(f"waiting {newest['waited'] / newest['seconds']:.0%}")
    return "  ".join(found)


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each line, and where in the file it ends, up to the first that a kill or a power cut has torn."""
    if not path.exists():
        return
    end = 0
    with open(path, "rb") as file:
        for raw in file:
            end += len(raw)
            try:
                line = json.loads(raw)
            except ValueError:
                return
            if not raw.endswith(b"\n") or not isinstance(line, dict):
                return
            yield line, end


def _tensorboard(folder: Path, first_step: int, note: Callable[[str], None]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        note(
            "tensorboard is not installed, so no events are written. Run: pip install 'simclr-toolkit[train]'"
        )
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
