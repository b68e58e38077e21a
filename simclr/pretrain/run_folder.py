"""Which folders are runs, and whether one may be started or gone on with. No torch.

A run folder holds config.toml, metrics.jsonl, TensorBoard events, report.html, checkpoints/, encoder.safetensors and
encoder.json; `bad_batch/` if the loss went wrong.
"""

import dataclasses
import datetime
from pathlib import Path

from simclr.artifacts import write_atomically
from simclr.errors import ConfigError
from simclr.pretrain.config import PretrainConfig, from_toml, to_toml

CONFIG_FILE = "config.toml"
RUNS = Path("runs")

_FREE_TO_CHANGE = frozenset(
    (
        "data", "device", "workers", "threads", "recompute", "chunk", "cache", "compile", "unreadable_limit",
        "checkpoint_every", "checkpoint_keep", "checkpoint_keep_every", "eval", "eval_every",
    )
)  # fmt: skip
"""Settings that a resumed run may change: they decide where and how fast it runs, not what it computes; `chunk`, which also
decides who shares batch statistics, because memory may leave no choice."""


def check_folder(folder: Path, config: PretrainConfig, *, resume: bool) -> None:
    """Raises ConfigError unless the folder is new, or holds this run and is to be resumed."""
    saved = folder / CONFIG_FILE
    if not saved.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: exists and is no run. Use another --out.")
        return
    if not resume:
        raise ConfigError(f"{folder}: a run exists there. Continue it with --resume, or use another --out.")
    before = from_toml(saved.read_text(encoding="utf-8"), where=saved)
    changed = [
        f"{f.name} {getattr(before, f.name)!r} -> {getattr(config, f.name)!r}"
        for f in dataclasses.fields(config)
        if f.name not in _FREE_TO_CHANGE and getattr(before, f.name) != getattr(config, f.name)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was started with other settings ({'; '.join(changed)}). Resume without them, or use another --out."
        )


def saved_config(folder: Path) -> PretrainConfig | None:
    """The settings of the run in this folder, None where there is no run."""
    path = folder / CONFIG_FILE
    return from_toml(path.read_text(encoding="utf-8"), where=path) if path.exists() else None


def write_config(config: PretrainConfig, folder: Path) -> None:
    """config.toml in a run folder that may be new."""
    folder.mkdir(parents=True, exist_ok=True)
    text = to_toml(config)
    write_atomically(folder / CONFIG_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def new_run(encoder: str) -> Path:
    """A folder below `runs/` named after the time and the encoder."""
    return RUNS / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}-{encoder}"


def newest_run(runs: Path = RUNS) -> Path | None:
    """The run below `runs` that was started or saved last, None where there is none."""
    candidates = [path.parent for path in runs.glob(f"*/{CONFIG_FILE}")]
    return max(candidates, key=lambda folder: folder.stat().st_mtime, default=None)
