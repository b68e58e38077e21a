"""TensorRT plans: where they lie, which may be loaded, and building those that may not. No torch.

    trt/encoder.fp16.plan        a plain serialised engine, for trtexec and Triton as well
    trt/encoder.fp16.plan.json   what it is bound to, for people and other tools

Loading a plan is running its code, and a description beside it vouches for nothing: whoever can change the one can change the
other. So building leaves a record under the plan's SHA-256 in this user's own cache folder, and a plan without a record there,
or bound to anything that is not here, is built again from the ONNX file.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simclr.artifacts import Fidelity, ModelInfo, PlanInfo, write_atomically
from simclr.cache_folder import is_ours, own_folder
from simclr.errors import ArtifactError, ConfigError, MissingExtra, SimclrError, reason
from simclr.runtime import cuda
from simclr.runtime.model_files import FILE_OF, read_model
from simclr.runtime.trt_build import build, profiles

Note = Callable[[str], None]

PLAN_FOLDER = "trt"

_BOUND_TO = {
    "onnx_sha256": "another ONNX file",
    "profiles": "other batch sizes",
    "tensorrt": "TensorRT {}",
    "cuda": "CUDA {}",
    "driver": "driver {}",
    "gpu": "a {}",
    "compute_capability": "compute capability {}",
}
"""Fields of PlanInfo that must be as they are here, and how a difference is said."""


def import_tensorrt() -> Any:
    """The module tensorrt. Raises MissingExtra, or ConfigError where its libraries are missing or too old."""
    try:
        trt: Any = importlib.import_module("tensorrt")
    except ModuleNotFoundError:
        raise MissingExtra("tensorrt-cu13", "trt") from None
    except Exception as exc:  # a wheel without its libraries raises anything
        raise ConfigError(
            f"TensorRT is installed and does not start ({reason(exc)}). Run: pip install --force-reinstall tensorrt-cu13, "
            "which fetches its libraries from NVIDIA."
        ) from exc
    if tuple(map(int, trt.__version__.split(".")[:2])) < (10, 13):
        raise ConfigError(f"TensorRT {trt.__version__} is too old. Run: pip install 'simclr-toolkit[trt]'")
    return trt


def plan_path(folder: Path, precision: str) -> Path:
    return folder / PLAN_FOLDER / Path(FILE_OF[precision]).with_suffix(".plan").name


def obtain_plan(folder: Path, info: ModelInfo, precision: str, *, note: Note) -> bytes:
    """The bytes of a plan that this user built on this machine for what is here, building it where there is none.

    `note` gets one sentence where it is built. Raises ArtifactError (the ONNX file; a plan whose verdict failed),
    MissingExtra, ConfigError (no GPU), TensorRTError.
    """
    path = plan_path(folder, precision)
    here = _here(info, precision)
    plan, why = _find(path, here)
    if plan is None:
        note(f"{path}: {why}; building it, which takes minutes")
        plan, _ = build_plan(folder, info, precision)
    return plan


def build_plan(folder: Path, info: ModelInfo, precision: str) -> tuple[bytes, PlanInfo]:
    """Build from the ONNX file, which is verified first, and keep plan, description and record. Raises as above."""
    import filelock

    trt, here, path = import_tensorrt(), _here(info, precision), plan_path(folder, precision)
    onnx = read_model(folder, info, precision)
    records = _records()
    gpu = "".join(c if c.isalnum() else "-" for c in here.gpu)
    timing = records / f"timing-{here.tensorrt}-{here.cuda}-{gpu}.cache"
    with filelock.FileLock(records / ".lock"):  # two builds at once spoil each other's timings
        built = build(
            trt,
            onnx,
            name=str(folder / FILE_OF[precision]),
            size=info.encoder.recipe.size,
            profiles=profiles(info.max_batch),
            fp32=precision == "fp32",
            timing=timing.read_bytes() if is_ours(timing) else b"",
        )
        write_atomically(timing, lambda temporary: temporary.write_bytes(built.timing))
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(built.plan))
    plan = replace(here, sha256=hashlib.sha256(built.plan).hexdigest(), size=len(built.plan))
    _describe(path, plan)
    return built.plan, plan


def keep_verdict(folder: Path, built: PlanInfo, fidelity: Fidelity, *, accepted: bool) -> PlanInfo:
    """Write the verdict on a plan beside it and into its record: one that failed is not loaded again, unless accepted.

    `built` is what `build_plan` gave: what lies in the folder may have been exchanged since, and is not read.
    """
    info = replace(built, fidelity=fidelity, accepted=accepted)
    _describe(plan_path(folder, built.precision), info)
    return info


def why_no_plan(folder: Path, info: ModelInfo, precision: str) -> str:
    """Why no plan can be loaded here without building one; empty where one can. Raises nothing for what is absent."""
    try:
        import_tensorrt()
        plan, why = _find(plan_path(folder, precision), _here(info, precision))
    except SimclrError as exc:
        return f"trt: {str(exc).rstrip('.')}"
    return "" if plan is not None else f"trt: {why}; build one with `simclr export --trt`"


def _here(info: ModelInfo, precision: str) -> PlanInfo:
    """What a plan would have to be bound to."""
    device = cuda.device()
    return PlanInfo(
        sha256="",
        size=0,
        precision=precision,
        onnx_sha256=info.files[FILE_OF[precision]].sha256,
        profiles=profiles(info.max_batch),
        tensorrt=import_tensorrt().__version__,
        cuda=device.runtime,
        driver=device.driver,
        gpu=device.name,
        compute_capability=device.compute_capability,
        fidelity=None,
        accepted=False,
    )


def _find(path: Path, here: PlanInfo) -> tuple[bytes | None, str]:
    """The plan if it may be loaded, else why not."""
    try:
        plan = path.read_bytes()
    except OSError:
        return None, "no plan yet"
    record = _records() / f"{hashlib.sha256(plan).hexdigest()}.json"
    if not is_ours(record):
        return None, "was not built by this user on this machine"
    try:
        found = PlanInfo.load(record)
    except ArtifactError:  # damaged, or of an earlier version of simclr
        return None, "the record of its building cannot be read"
    for name, words in _BOUND_TO.items():
        was, is_now = getattr(found, name), getattr(here, name)
        if was != is_now:
            said = words.format(was)
            return None, f"was built for {said}" + (f", and this is {is_now}" if "{}" in words else "")
    if not found.usable:
        assert found.fidelity is not None
        raise ArtifactError(
            f"{path}: its fidelity verdict failed ({found.fidelity.words}). Use another --precision, or export again with --accept."
        )
    return plan, ""


def _describe(path: Path, info: PlanInfo) -> None:
    info.save(_described(path))
    info.save(_records() / f"{info.sha256}.json")


def _described(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _records() -> Path:
    return own_folder("plans")
