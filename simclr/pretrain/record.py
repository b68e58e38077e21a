"""What a run leaves to look at: `metrics.jsonl`, TensorBoard events, `report.html`.

metrics.jsonl holds each step exactly once, also after kills: a resumed run first cuts off the steps that it is
going to do again.
"""

import base64
import html
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

from simclr.artifacts import write_atomically

METRICS_FILE = "metrics.jsonl"


class Recorder:
    """Appends one object a step. `close` it."""

    def __init__(self, folder: Path, *, first_step: int, note: Callable[[str], None]) -> None:
        self.path = folder / METRICS_FILE
        kept = [line for line in read_metrics(folder) if line["step"] < first_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path, lambda temporary: temporary.write_text(text))
        self._file: TextIO = open(self.path, "a", encoding="utf-8")
        self._board = _tensorboard(folder, first_step, note)

    def write(self, metrics: dict[str, float]) -> None:
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(metrics["step"]))

    def sync(self) -> None:
        """What is written so far survives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The complete lines of metrics.jsonl, oldest first; a line torn by a kill is left out."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def write_report(folder: Path, *, title: str, settings: str, note: Callable[[str], None]) -> None:
    """`report.html`: loss, contrastive top-1 and learning rate over steps, and the settings; one file."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        note(
            "matplotlib is not installed, so there is no report.html. Run: pip install 'simclr-toolkit[train]'"
        )
        return
    metrics = read_metrics(folder)
    steps = [line["step"] for line in metrics]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (("loss", "NT-Xent loss"), ("top1", "contrastive top-1"), ("lr", "learning rate"))
    for axes, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(steps, [line[key] for line in metrics], linewidth=1)
        axes.set(title=label, xlabel="step")
        axes.grid(alpha=0.3)
        if key == "top1":
            axes.set_ylim(0, 1)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    encoded = base64.b64encode(picture.getvalue()).decode()
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "img{max-width:100%}pre{background:#f4f4f4;padding:1rem;overflow:auto}</style>"
        f"<h1>{html.escape(title)}</h1>"
        f'<img alt="loss, contrastive top-1 and learning rate over {len(steps)} steps" '
        f'src="data:image/png;base64,{encoded}"><h2>Settings</h2><pre>{html.escape(settings)}</pre></html>\n'
    )
    write_atomically(folder / "report.html", lambda temporary: temporary.write_text(page, encoding="utf-8"))


def _tensorboard(folder: Path, first_step: int, note: Callable[[str], None]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        note(
            "tensorboard is not installed, so no events are written. Run: pip install 'simclr-toolkit[train]'"
        )
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
