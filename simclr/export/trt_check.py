"""What NVIDIA's parser and builder say of a file, on a machine without a GPU: TensorRT-RTX stands in for TensorRT.

TensorRT's own libraries cannot be had from the package index, those of TensorRT-RTX can; parser and strongly typed builder are the
same code. The plan it makes is thrown away.
"""

import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr.artifacts import ModelInfo
from simclr.errors import ConfigError, MissingExtra, TensorRTError, reason
from simclr.runtime.backends import RUNS
from simclr.runtime.model_files import FILE_OF, open_folder, read_model
from simclr.runtime.trt_build import build, profiles


@dataclass(frozen=True)
class Judgement:
    name: str
    """Of the file."""
    version: str
    refused: str
    """The parser's or builder's words; empty where it was built."""
    plan_bytes: int = 0
    seconds: float = 0.0

    @property
    def words(self) -> str:
        judge = f"NVIDIA's parser and builder (TensorRT-RTX {self.version})"
        if self.refused:
            return f"{self.name}: refused by {judge}: {self.refused}"
        return f"{self.name}: built by {judge}, {self.plan_bytes / 1e6:.1f} MB in {self.seconds:.1f} s"


def judge(folder: Path, info: ModelInfo, precision: str) -> Judgement:
    """Parse and build one file of an export folder. Raises MissingExtra, ConfigError (TensorRT-RTX), ArtifactError (the file)."""
    trt = _rtx()
    name = FILE_OF[precision]
    onnx = read_model(folder, info, precision)
    started = time.perf_counter()
    try:
        built = build(
            trt,
            onnx,
            name=name,
            size=info.encoder.recipe.size,
            profiles=profiles(info.max_batch),
            fp32=precision == "fp32",
        )
    except TensorRTError as exc:
        return Judgement(name, trt.__version__, str(exc))
    return Judgement(name, trt.__version__, "", len(built.plan), time.perf_counter() - started)


def judge_all(folder: Path, precisions: Sequence[str] = ()) -> Iterator[Judgement]:
    """Each file that TensorRT runs, fp32 among them, or those named. Raises TensorRTError after the last if one was refused."""
    folder, info = open_folder(folder)
    refused = []
    for file in info.files.values():
        if file.precision in RUNS["trt"] and (not precisions or file.precision in (*precisions, "fp32")):
            judgement = judge(folder, info, file.precision)
            refused += [judgement.name] if judgement.refused else []
            yield judgement
    if refused:
        raise TensorRTError(f"{folder}: TensorRT would refuse {', '.join(refused)}. The ONNX files are kept.")


def _rtx() -> Any:
    for module in (
        "tensorrt_rtx",
        "tensorrt_rtx_bindings",
    ):  # NVIDIA's own index has the first, PyPI's wheels the second
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except Exception as exc:  # wheels of different versions raise anything
            raise ConfigError(
                f"TensorRT-RTX is installed and does not start ({reason(exc)}). Run: pip install --force-reinstall "
                "'simclr-toolkit[parser]'"
            ) from exc
    raise MissingExtra("tensorrt-rtx-cu13-libs", "parser")
