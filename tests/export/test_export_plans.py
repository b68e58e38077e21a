"""`export --trt` on the fake GPU of fake_nvidia.py: plans are built, judged against fp32, and kept or marked."""

import subprocess
import sys
from pathlib import Path

import fake_nvidia
import pytest
from fake_nvidia import Nvidia
from typer.testing import CliRunner

from simclr.artifacts import PlanInfo
from simclr.cli import app
from simclr.errors import ArtifactError
from simclr.export.plans import build_plans
from simclr.runtime import Encoder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def export(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    for path in model.iterdir():
        if path.is_file():
            (tmp_path / "export" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "export"


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_plan_is_built_judged_and_loadable(gpu: Nvidia, export: Path) -> None:
    onnx, plan = build_plans(export)
    assert (onnx.name, plan.name) == ("encoder.onnx", "trt/encoder.plan")
    assert plan.file.fidelity.measured_on == f"TensorRT {gpu.trt.__version__}, NVIDIA H200"
    assert plan.file.fidelity.batches == (1, 2, 7, 8, 32, 256) and plan.file.fidelity.passed
    assert plan.file.fidelity.cosine_min > 0.999999 and plan.speed.keys() == {1, 2, 7, 8, 32, 256}
    assert PlanInfo.load(export / "trt" / "encoder.plan.json").fidelity == plan.file.fidelity
    assert "TensorRT" in (export / "trt" / "FIDELITY.md").read_text()
    assert Encoder.open(export).choice == "backend: trt, fp32"


def test_a_plan_that_computes_something_else_is_marked_and_refused(
    gpu: Nvidia, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fake_nvidia.grid_colours
    monkeypatch.setattr(fake_nvidia, "grid_colours", lambda pixels: right(255 - pixels))
    rows = build_plans(export)
    assert not rows[1].file.usable
    with pytest.raises(ArtifactError, match=r"trt/encoder\.plan: its fidelity verdict failed"):
        Encoder.open(export, backend="trt")


def test_the_command_takes_an_export_folder_and_prints_the_table(gpu: Nvidia, export: Path) -> None:
    code, out, err = run(export, "--trt")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:3]] == ["fp32", "fp32"] and lines[3].startswith(
        "recommended here: "
    )
    assert "building a plan of encoder.onnx, which takes minutes" in err


def test_without_tensorrt_the_onnx_file_stays_and_the_exit_code_is_1(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    before = {path.name: path.read_bytes() for path in export.iterdir()}
    code, out, err = run(export, "--trt")
    assert (code, out) == (1, "")
    assert err == "error: tensorrt-cu13 is not installed. Run: pip install 'simclr-toolkit[trt]'\n"
    assert {path.name: path.read_bytes() for path in export.iterdir()} == before


def test_a_new_export_is_whole_though_tensorrt_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = tmp_path / "new"
    code, printed, err = run("timm:test_resnet", "--no-pretrained", "--size", 32, "--out", out, "--trt")
    assert code == 1 and "tensorrt-cu13 is not installed" in err
    assert printed.splitlines()[:2] == [str(out / "encoder.onnx"), str(out / "encoder.fp16.onnx")]
    assert Encoder.open(out, precision="fp16", backend="ort-cpu").precision == "fp16"


def test_parse_only_goes_with_trt(export: Path) -> None:
    assert run(export, "--parse-only") == (2, "", "error: --parse-only goes with --trt.\n")


def test_plans_of_an_export_folder_need_no_torch(export: Path) -> None:
    """As on a machine that only serves."""
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision", "onnx", "onnxscript", "tensorrt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from simclr.cli import main
sys.argv = ["simclr", "export", sys.argv[1], "--trt"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program, str(export)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: tensorrt-cu13 is not installed. Run: pip install 'simclr-toolkit[trt]'\n"
