"""Save and resume the full training state. No policy about when.

A checkpoint is `checkpoints/step-000000500.pt`: model, optimiser, number of finished steps, chunk, and what the data
was. Random numbers need no saving, since (seed, step) decides them all.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from simclr.artifacts import write_atomically
from simclr.errors import ArtifactError, reason


@dataclass(frozen=True)
class TrainingState:
    step: int
    """Finished steps; the next one has this number."""
    chunk: int
    """Images that go through the encoder at a time; less than the run's own setting if memory ran out."""
    data_sha256: str
    """Of the listing of images, whose order the run depends on."""
    model: dict[str, Any]
    optimizer: dict[str, Any]


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int, keep_every: int | None = None) -> None:
    """Write a checkpoint whole, then drop all but the newest `keep` and the first at or after each `keep_every` steps.

    Those of later steps, left from before a run went back, are dropped first.
    """
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".step-*.tmp"):  # of a save that was killed
        left.unlink()
    for path in _checkpoints(folder):
        if _step(path) > state.step:
            path.unlink()
    content = {f.name: getattr(state, f.name) for f in fields(state)}  # asdict would copy every tensor
    write_atomically(folder / f"step-{state.step:09d}.pt", lambda temporary: torch.save(content, temporary))
    kept = _checkpoints(folder)
    seen: set[int] = set()
    for path in kept[:-keep]:
        period = _step(path) // keep_every if keep_every else 0
        if period == 0 or period in seen:
            path.unlink()
        seen.add(period)


def newest_whole_checkpoint(folder: Path, *, note: Callable[[str], None]) -> TrainingState | None:
    """The newest checkpoint that can be read, None where there is none at all; damaged ones are noted and passed over.

    Raises ArtifactError if there are checkpoints and all are damaged.
    """
    damaged = []
    for left, path in reversed([*enumerate(_checkpoints(folder))]):
        try:
            return load_checkpoint(path)
        except ArtifactError as exc:
            damaged.append(path)
            note(f"{exc} Using the one before it." if left else str(exc))
    if damaged:
        raise ArtifactError(
            f"{folder}: none of its {len(damaged)} checkpoints can be read. Start again with a new --out, or delete "
            "the folder to start this run over."
        )
    return None


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
        raise ArtifactError(f"{path}: damaged checkpoint ({reason(exc)}).") from exc


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*.pt"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
