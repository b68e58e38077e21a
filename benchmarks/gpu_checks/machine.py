"""What the checks ran on: names and versions. Not a check of anything."""

import importlib.metadata
import platform
import shutil
import subprocess

import torch
from reporting import processor

from gpu_checks.rows import Place
from simclr.errors import ConfigError


def describe(place: Place) -> dict[str, str]:
    """For the head of the report. Raises ConfigError where there is no such device."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    found = {"python": platform.python_version(), **versions}
    if place.device == "cpu":
        return {"device": processor(), "threads": str(torch.get_num_threads()), **found}
    if not torch.cuda.is_available():
        raise ConfigError(
            f"no GPU: torch {torch.__version__} sees none. Use --device cpu --quick to try the script."
        )
    memory = f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
    return {
        "device": torch.cuda.get_device_name(0),
        "memory": memory,
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
        **found,
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = done.stdout.split()
    return lines[0] if lines and done.returncode == 0 else "unknown (nvidia-smi failed)"
