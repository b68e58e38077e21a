"""NVIDIA's own parser and builder, where its wheels are installed (Linux, x86-64): what TensorRT would refuse shows here."""

import dataclasses
import importlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simclr.artifacts import ModelInfo, file_sha256
from simclr.encoder import build_encoder
from simclr.errors import MissingExtra, TensorRTError
from simclr.export import ExportConfig, export_model, trt_check
from simclr.export.trt_check import judge, judge_all
from simclr.runtime.model_files import open_folder

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None
    and importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX is not installed: pip install 'simclr-toolkit[parser]'",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(64):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((20, 20), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
    config = ExportConfig(precisions=("fp16", "bf16", "int8-trt"), calibrate=str(folder), accept=True)
    out = tmp_path_factory.mktemp("rtx") / "export"
    return export_model("timm:test_resnet", config, out=out, image_size=32, pretrained=False).folder


def replaced(folder: Path, model: onnx.ModelProto) -> tuple[Path, ModelInfo]:
    """The export with another graph as its fp32 file, which the manifest vouches for."""
    _, info = open_folder(folder)
    path = folder / "encoder.onnx"
    onnx.save(model, path)
    file = dataclasses.replace(info.files["encoder.onnx"], sha256=file_sha256(path), size=path.stat().st_size)
    info = dataclasses.replace(info, files=info.files | {"encoder.onnx": file})
    info.save(folder / "manifest.json")
    return folder, info


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8-trt"])
def test_nvidias_parser_and_builder_take_the_file(exported: Path, precision: str) -> None:
    folder, info = open_folder(exported)
    judgement = judge(folder, info, precision)
    assert judgement.refused == "" and judgement.plan_bytes > 100_000
    assert re.fullmatch(
        rf"encoder\S*\.onnx: built by NVIDIA's parser and builder \(TensorRT-RTX {judgement.version}\), \d\.\d MB in \d+\.\d s",
        judgement.words,
    )


class Naive(nn.Module):
    """The graph as anyone would write it first: uint8 is transposed before it is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder("test_resnet").eval()

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        return nn.functional.normalize(self.encoder(x))


@needs_rtx
def test_a_uint8_transpose_is_refused_in_the_parsers_words_and_the_other_files_are_judged_all_the_same(
    exported: Path, tmp_path: Path
) -> None:
    program = torch.onnx.export(
        Naive().eval(), (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),), dynamo=True, verbose=False, opset_version=18,
        input_names=["images"], output_names=["embedding"], dynamic_shapes={"images": {0: torch.export.Dim("batch", max=256)}},
    )  # fmt: skip
    assert program is not None
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    folder, info = replaced(tmp_path, program.model_proto)
    judgement = judge(folder, info, "fp32")
    assert "UINT8" in judgement.refused.upper() and "\n" not in judgement.refused
    found = []
    with pytest.raises(
        TensorRTError, match=r": TensorRT would refuse encoder\.onnx\. The ONNX files are kept\.$"
    ):
        found.extend(judge_all(folder, ["fp16"]))  # nothing is lost of a generator that raises
    judged = judge_all(folder, ["fp16"])
    assert ["refused" in next(judged).words, "built" in next(judged).words] == [True, True]


def test_an_int8_file_for_cpus_is_not_asked_about() -> None:
    assert "int8" not in trt_check.RUNS["trt"]


def test_without_the_wheels_the_line_that_brings_them_is_given(exported: Path, monkeypatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(
        MissingExtra,
        match=r"^tensorrt-rtx-cu13-libs is not installed\. Run: pip install 'simclr-toolkit\[parser\]'$",
    ):
        judge(*open_folder(exported), "fp32")
