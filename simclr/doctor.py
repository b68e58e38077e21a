"""What this machine can do, and the command that adds the rest; the gradient proof line by line. Prints nothing.

`examine` and `prove_gradients` yield parts: each has plain fields, for JSON, and `words`, one line to read.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import simclr
from simclr.cpus import available_cpus
from simclr.errors import reason
from simclr.free_memory import UNKNOWN, free_memory

NEEDS = {
    "search and embed": ("cpu", ("onnxruntime", "faiss-cpu", "pyarrow", "simplejpeg", "pillow")),
    "pretrain and export": ("train", ("torch", "torchvision", "timm", "onnx", "onnxscript", "tensorboard")),
    "classify": ("classify", ("scikit-learn",)),
    "serve": ("serve", ("fastapi", "uvicorn", "python-multipart", "prometheus-client")),
    "HEIC": ("heif", ("pillow-heif",)),
    "S3": ("s3", ("s3fs",)),
    "many machines": ("cluster", ("ray",)),
    "TensorRT": ("trt", ("tensorrt-cu13",)),
    "TensorRT's parser": ("parser", ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings")),
}  # fmt: skip
"""What one can do -> the extra of pyproject.toml that brings it, and the packages it takes."""
CLASHING = (("onnxruntime", "onnxruntime-gpu"), ("faiss-cpu", "faiss-gpu"))
"""Builds for the CPU (extra `cpu`) and for GPUs (`gpu`): either will do, and both overwrite each other's files."""
_INSTEAD = {cpu: (gpu,) for cpu, gpu in CLASHING} | {"tensorrt-cu13": ("tensorrt",)}
"""What does as well as a package of NEEDS."""


_PAIR = "pip uninstall -y torch torchvision && pip install torch torchvision"
"""Builds of the two for different devices count as installed to pip, and fail at import."""


@dataclass(frozen=True)
class Machine:
    simclr: str
    python: str
    platform: str
    cores: int
    """That this process may use: as many threads as ONNX Runtime, FAISS and torch are told."""
    host_cores: int
    """That libraries see which ask the host."""
    memory_free: int
    """Bytes; UNKNOWN where the system does not say."""

    @property
    def words(self) -> str:
        free = "unknown" if self.memory_free == UNKNOWN else f"{self.memory_free / 2**30:.1f} GiB"
        versions = f"{self.simclr}, Python {self.python}, {self.platform}"
        of = f" of the host's {self.host_cores}" if self.host_cores > self.cores else ""
        machine = f"{self.cores} cores usable{of}, as many threads; {free} memory free"
        return f"{_line('simclr', versions)}\n{_line('machine', machine)}"


@dataclass(frozen=True)
class Capability:
    name: str
    found: dict[str, str]
    """Package -> version."""
    missing: tuple[str, ...]
    install: str | None
    """The command that adds what is missing."""

    @property
    def words(self) -> str:
        found = [", ".join(f"{package} {version}" for package, version in self.found.items())]
        missing = [f"missing {', '.join(self.missing)}. Run: {self.install}"] if self.missing else []
        return _line(self.name, "; ".join(filter(None, found + missing)))


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: str
    """With its unit, as the driver writes it; `[N/A]` where the GPU shares the machine's."""
    driver: str

    @property
    def words(self) -> str:
        return _line("GPU", f"{self.name}, {self.memory}, driver {self.driver}")


@dataclass(frozen=True)
class Check:
    """What was tried and found, and the command that mends it if it is wrong."""

    name: str
    result: str
    fix: str | None = None

    @property
    def words(self) -> str:
        return _line(self.name, f"{self.result}. Run: {self.fix}" if self.fix else self.result)


def _line(name: str, words: str) -> str:
    return f"{name:<20} {words}"


def examine() -> Iterator[Machine | Capability | Gpu | Check]:
    """Everything, in the order to read it in. Imports ONNX Runtime, torch and torchvision where they are installed."""
    yield Machine(
        simclr.__version__,
        platform.python_version(),
        platform.platform(),
        available_cpus(),
        os.cpu_count() or 1,
        free_memory(),
    )
    installed, graphics = versions(), gpus()
    has_gpu = any(isinstance(part, Gpu) for part in graphics)
    yield from capabilities(installed, has_gpu=has_gpu)
    yield from clashes(installed, has_gpu=has_gpu)
    yield from graphics
    yield from check_onnxruntime(installed, has_gpu=has_gpu)
    yield from check_backends(installed)
    yield from check_tensorrt(installed, has_gpu=has_gpu)
    yield from check_torch(installed)
    yield from check_decoders()


# ---- packages


def versions() -> dict[str, str]:
    """Those packages of NEEDS and _INSTEAD that are installed. Reads what pip wrote, imports none."""
    found = {}
    for _, packages in NEEDS.values():
        for package in (p for needed in packages for p in (needed, *_INSTEAD.get(needed, ()))):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    return found


def capabilities(installed: Mapping[str, str], *, has_gpu: bool) -> Iterator[Capability]:
    for name, (extra, packages) in NEEDS.items():
        there = {p: [q for q in (p, *_INSTEAD.get(p, ())) if q in installed] for p in packages}
        missing = tuple(package for package, does in there.items() if not does)
        extra = _build(installed, has_gpu=has_gpu) if extra == "cpu" else extra
        found = {package: installed[package] for does in there.values() for package in does}
        yield Capability(name, found, missing, _install(extra) if missing else None)


def clashes(installed: Mapping[str, str], *, has_gpu: bool) -> Iterator[Check]:
    for cpu, gpu in CLASHING:
        if cpu in installed and gpu in installed:  # taking away one of them takes files from the other
            fix = f"pip uninstall -y {cpu} {gpu} && {_install(_build(installed, has_gpu=has_gpu))}"
            yield Check("clash", f"{cpu} and {gpu} are both installed and overwrite each other", fix)


def _build(installed: Mapping[str, str], *, has_gpu: bool) -> str:
    """`cpu` or `gpu`: like what is there already, which the other would overwrite; else like the machine."""
    for cpu, gpu in CLASHING:
        if (cpu in installed) != (gpu in installed):
            return "gpu" if gpu in installed else "cpu"
    return "gpu" if has_gpu else "cpu"


def _install(extra: str) -> str:
    return f"pip install 'simclr-toolkit[{extra}]'"


# ---- GPUs, and who sees them


def gpus() -> list[Gpu | Check]:
    """NVIDIA's GPUs, without torch; or a Check that says why there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [Check("GPU", "none found: no nvidia-smi on PATH")]
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return [Check("GPU", f"none found: nvidia-smi does not answer ({reason(exc)})")]
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        return [Check("GPU", f"none found: nvidia-smi fails ({said[0]})")]
    return [Gpu(*line.rsplit(", ", 2)) for line in done.stdout.splitlines()]


def check_onnxruntime(installed: Mapping[str, str], *, has_gpu: bool) -> Iterator[Check]:
    there = [package for package in CLASHING[0] if package in installed]
    if not there:
        return
    try:
        providers = importlib.import_module("onnxruntime").get_available_providers()
    except Exception as exc:  # what is left of two that clashed raises anything
        fix = f"pip install --force-reinstall --no-deps {there[0]}=={installed[there[0]]}"
        result = f"cannot be imported ({reason(exc)})"
        yield Check(
            "ONNX Runtime", result, fix if len(there) == 1 else None
        )  # else the clash's fix comes first
        return
    result = f"offers {', '.join(providers)}"
    if has_gpu and there == ["onnxruntime"]:
        for_cpu = " ".join(cpu for cpu, _ in CLASHING if cpu in installed)
        fix = f"pip uninstall -y {for_cpu} && {_install('gpu')}"
        yield Check("ONNX Runtime", f"{result}: none for the GPU", fix)
    else:
        yield Check("ONNX Runtime", result)


def check_backends(installed: Mapping[str, str]) -> Iterator[Check]:
    """What ONNX Runtime offers may still not start: each computes something."""
    if not any(package in installed for package in CLASHING[0]):
        return
    from simclr.runtime.ort import PROVIDERS, available_providers
    from simclr.runtime.starting import why_not

    try:
        offered = available_providers()
    except Exception:  # said already
        return
    for backend, provider in PROVIDERS.items():
        if provider in offered:
            reason = why_not(backend)
            yield Check(f"--backend {backend}", f"does not work: {reason}" if reason else "works")


def check_tensorrt(installed: Mapping[str, str], *, has_gpu: bool) -> Iterator[Check]:
    """Its packages install without its libraries, which come from NVIDIA's own index."""
    if not any(package.startswith("tensorrt") and "rtx" not in package for package in installed):
        if has_gpu:
            yield Check("--backend trt", "TensorRT is not installed", _install("trt"))
        return
    try:
        tensorrt: Any = importlib.import_module("tensorrt")
        tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    except Exception as exc:  # a missing library, no GPU, another CUDA: anything
        yield Check(
            "--backend trt",
            f"TensorRT does not start ({reason(exc)})",
            None if not has_gpu else _install("trt"),
        )
    else:
        yield Check("--backend trt", f"TensorRT {tensorrt.__version__} starts")


def check_decoders() -> Iterator[Check]:
    """Formats that this Pillow was built without, and HEIC, which takes a package."""
    from PIL import features

    kinds = {
        "jpg": "JPEG",
        "zlib": "PNG",
        "webp": "WebP",
        "avif": "AVIF",
        "jpg_2000": "JPEG 2000",
        "libtiff": "TIFF",
    }
    there = [name for codec, name in kinds.items() if features.check(codec)]
    absent = [name for name in kinds.values() if name not in there]
    heic = ["HEIC"] if importlib.util.find_spec("pillow_heif") else []
    result = f"reads {', '.join(there + heic)}" + (f"; not {', '.join(absent)}" if absent else "")
    yield Check("images", result, "pip install --upgrade --force-reinstall pillow" if absent else None)


def check_torch(installed: Mapping[str, str]) -> Iterator[Check]:
    """What torch sees, and whether torchvision is of the same build."""
    if "torch" not in installed:
        return
    version = installed["torch"]
    try:
        # By name: it may be absent here, and only the parts that train say `import torch` (tests/test_layout.py).
        torch: Any = importlib.import_module("torch")
    except Exception as exc:
        fix = f"pip install --force-reinstall torch=={version}"
        yield Check("torch", f"{version} cannot be imported ({reason(exc)})", fix)
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "no GPU"
    yield Check("torch", f"{torch.__version__} sees {seen}")
    if "torchvision" not in installed:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as exc:  # CPU torch with CUDA torchvision: operator torchvision::nms does not exist
        result = f"{installed['torchvision']} does not work with torch {torch.__version__} ({reason(exc)})"
        yield Check("torchvision", result, _PAIR)
    else:
        yield Check("torchvision", f"{installed['torchvision']} works with torch")


# ---- the gradient proof


@dataclass(frozen=True)
class Comparison:
    """A way to divide the batch against its reference: largest relative differences."""

    division: str
    reference: str
    loss: float
    gradients: float
    statistics: float
    wrong_on_purpose: bool
    passed: bool

    @property
    def words(self) -> str:
        right, wrong = (
            ("differs, as it must", "FAILED: not caught") if self.wrong_on_purpose else ("ok", "FAILED")
        )
        numbers = f"loss {self.loss:.1e}  gradients {self.gradients:.1e}  statistics {self.statistics:.1e}"
        return (
            f"{f'{self.division} against {self.reference}':<76}  {numbers}  {right if self.passed else wrong}"
        )


@dataclass(frozen=True)
class Verdict:
    """What the comparisons come to."""

    passed: bool
    words: str


def prove_gradients() -> Iterator[Comparison | Verdict]:
    """Every comparison of the proof, then the Verdict. Half a minute."""
    from simclr.pretrain.proof import BOUND, prove

    passed: dict[bool, list[bool]] = {False: [], True: []}
    for f in prove():
        passed[f.wrong_on_purpose].append(f.passed)
        numbers = (f.loss, f.gradients, f.statistics)
        yield Comparison(f.division.words, f.reference.words, *numbers, f.wrong_on_purpose, f.passed)
    equal, caught = passed[False], passed[True]
    bound = f"{BOUND:.0e}".replace("e-0", "e-")
    if all(equal + caught):
        both = "both" if len(caught) == 2 else f"all {len(caught)}"
        yield Verdict(True, f"all {len(equal)} within {bound}, {both} wrong variants caught")
    else:
        words = f"{sum(equal)} of {len(equal)} within {bound}, {sum(caught)} of {len(caught)} wrong variants caught"
        yield Verdict(False, words)
