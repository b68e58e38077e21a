"""What this machine can do, and the command that adds the rest. Looks, and changes nothing; prints nothing."""

import importlib
import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from simclr.errors import reason

_CAPABILITIES = {
    "embed and search": ("cpu", ("onnxruntime", "faiss-cpu", "pyarrow", "simplejpeg", "pillow")),
    "pretrain and export": (
        "train",
        ("torch", "torchvision", "timm", "onnx", "onnxscript", "tensorboard", "matplotlib"),
    ),
    "classify": ("classify", ("scikit-learn", "matplotlib", "onnx")),
    "serve": ("serve", ("fastapi", "uvicorn", "python-multipart", "prometheus-client")),
    "HEIC images": ("heif", ("pillow-heif",)),
    "S3": ("s3", ("s3fs",)),
    "many machines": ("cluster", ("ray",)),
    "TensorRT": ("trt", ("tensorrt-cu13",)),
}
"""What one can do: the extra that brings it, and the distributions it needs."""
_INSTEAD = {"onnxruntime": "onnxruntime-gpu", "faiss-cpu": "faiss-gpu"}
"""Builds for GPUs that serve as well, and overwrite the other's files."""


@dataclass(frozen=True)
class Capability:
    name: str
    found: dict[str, str]
    """Version of each distribution that is installed."""
    missing: tuple[str, ...]
    install: str
    """The command that adds what is missing."""


@dataclass(frozen=True)
class Remark:
    """Something about the machine; a trouble if it wants mending."""

    about: str
    words: str
    trouble: bool = False


def capabilities() -> list[Capability]:
    """What the installed packages are enough for."""
    listed = []
    for name, (extra, distributions) in _CAPABILITIES.items():
        found = {}
        for distribution in distributions:
            for candidate in (distribution, _INSTEAD.get(distribution, distribution)):
                if version := _version(candidate):
                    found[candidate] = version
                    break
        missing = tuple(d for d in distributions if d not in found and _INSTEAD.get(d) not in found)
        listed.append(Capability(name, found, missing, f"pip install 'simclr-toolkit[{extra}]'"))
    return listed


def remarks() -> list[Remark]:
    """GPUs, what the runtimes see of them, and packages that do not go together."""
    clashes = [
        Remark("packages", f"{cpu} and {gpu} overwrite each other's files. Run: pip uninstall {cpu} {gpu}, "
               f"then install the one you want.", trouble=True)
        for cpu, gpu in _INSTEAD.items()
        if _version(cpu) and _version(gpu)
    ]  # fmt: skip
    return [*clashes, *_gpus(), *_torch(), *_onnxruntime()]


def _gpus() -> list[Remark]:
    if not (tool := shutil.which("nvidia-smi")):
        return [Remark("GPU", "none found (no nvidia-smi)")]
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        return [
            Remark("GPU", f"nvidia-smi does not answer ({reason(exc)}). Look at the driver.", trouble=True)
        ]
    return [Remark("GPU", line.strip()) for line in printed.splitlines() if line.strip()]


def _torch() -> list[Remark]:
    if not _version("torch"):
        return []
    torch, trouble = _imported("torch")
    if trouble:
        return [trouble]
    _, trouble = _imported("torchvision") if _version("torchvision") else (None, None)
    if trouble:
        words = f"{trouble.words} torch and torchvision must be one pair, such as: pip install torch==2.14.1 torchvision==0.29.1"
        return [Remark("torchvision", words, trouble=True)]
    cuda = torch.cuda.is_available()
    return [Remark("torch", f"sees {torch.cuda.device_count()} GPUs" if cuda else "runs on the CPU")]


def _onnxruntime() -> list[Remark]:
    if not (_version("onnxruntime") or _version("onnxruntime-gpu")):
        return []
    onnxruntime, trouble = _imported("onnxruntime")
    return [trouble or Remark("ONNX Runtime", ", ".join(onnxruntime.get_available_providers()))]


def _imported(module: str) -> tuple[Any, Remark | None]:
    """A module by name, since this part must not need it; what importing it raises becomes a remark."""
    try:
        return importlib.import_module(module), None
    except Exception as exc:  # packages that do not go together raise anything
        return None, Remark(module, f"cannot be imported ({reason(exc)}).", trouble=True)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
