"""Save and resume the full training state. No policy about when.

A checkpoint is `checkpoints/step-000000500.pt`: model, optimiser, number of finished steps and what the data
was. Random numbers need no saving, since (seed, step) decides them all.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr.artifacts import write_atomically
from simclr.errors import ArtifactError, reason

KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""


@dataclass(frozen=True)
class TrainingState:
    step: int
    """Finished steps; the next one has this number."""
    data_sha256: str
    """Of the listing of images, whose order the run depends on."""
    model: dict[str, Any]
    optimizer: dict[str, Any]


def save_checkpoint(
    folder: Path, *, step: int, data_sha256: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint whole, then drop all but the newest two."""
    folder.mkdir(exist_ok=True)
    content = {
        "step": step,
        "data_sha256": data_sha256,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    write_atomically(folder / f"step-{step:09d}.pt", lambda temporary: torch.save(content, temporary))
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, None where there is none."""
    return next(iter(reversed(_checkpoints(folder))), None)


def load_checkpoint(path: Path) -> TrainingState:
    """Raises ArtifactError if the file is damaged. Runs no code from it."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"checksum of {bad} disagrees")
            # a folder to torch, which then leaves the tensor unfilled; zipfile goes by the name alone
            if any(entry.external_attr & 0x10 for entry in archive.infolist()):
                raise ValueError("a tensor is marked as a folder")
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as exc:  # damaged files raise anything
        raise ArtifactError(
            f"{path}: damaged checkpoint ({reason(exc)}). Delete it and resume again: the one before it is used, "
            "or the run starts over."
        ) from exc


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"))
