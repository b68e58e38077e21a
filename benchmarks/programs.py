"""Programs measured from outside, start and end included: ours by its command line, peers by theirs. Not part of the package."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SIMCLR = (sys.executable, "-m", "simclr")


def run(words: Sequence[str | Path]) -> str:
    """What the program prints; its stderr is shown, and the benchmark ends, if it fails."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def seconds(words: Sequence[str | Path]) -> float:
    """Wall clock of a program from its start to its end."""
    started = time.perf_counter()
    run(words)
    return time.perf_counter() - started


def export(name: str, out: Path, *options: str | Path) -> Path:
    """The export folder of a timm encoder with random weights, which cost the same time as trained ones."""
    run([*SIMCLR, "export", f"timm:{name}", "--no-pretrained", "--out", out, *options])
    return out


def embed(folder: Path, store: Path, model: Path, *options: str) -> list[str | Path]:
    """The words of our command."""
    return [*SIMCLR, "embed", folder, "--store", store, "--model", model, *options]


def rows_in(store: Path) -> int:
    """Vectors that a store's manifest lists."""
    return sum(shard["rows"] for shard in json.loads((store / "manifest.json").read_text())["shards"])
