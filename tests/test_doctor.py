"""What the machine can do is read off it, and what is missing comes with its command."""

import json
import subprocess

import pytest
from typer.testing import CliRunner

from simclr import doctor
from simclr.cli import app
from simclr.doctor import Capability, Remark, capabilities, remarks
from simclr.pretrain import proof
from simclr.pretrain.proof import Division, Finding


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """As if these distributions were installed (`_` for `-`) and no others."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(doctor, "_version", known.get)


def named(name: str) -> Capability:
    return next(c for c in capabilities() if c.name == name)


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_what_is_missing_comes_with_the_command_that_adds_it(monkeypatch):
    installed(monkeypatch, onnxruntime="1.32.0", pyarrow="26", simplejpeg="1.9", pillow="13")
    assert named("embed and search") == Capability(
        "embed and search",
        {"onnxruntime": "1.32.0", "pyarrow": "26", "simplejpeg": "1.9", "pillow": "13"},
        ("faiss-cpu",),
        "pip install 'simclr-toolkit[cpu]'",
    )


def test_builds_for_gpus_serve_as_well(monkeypatch):
    installed(
        monkeypatch, onnxruntime_gpu="1.32", faiss_gpu="1.15", pyarrow="26", simplejpeg="1", pillow="13"
    )
    found = named("embed and search")
    assert found.missing == ()
    assert list(found.found)[:2] == ["onnxruntime-gpu", "faiss-gpu"]


def test_builds_that_overwrite_each_other_are_a_trouble(monkeypatch):
    installed(monkeypatch, faiss_cpu="1.15", faiss_gpu="1.15")
    (trouble,) = [r for r in remarks() if r.trouble]
    assert trouble.words == (
        "faiss-cpu and faiss-gpu overwrite each other's files. Run: pip uninstall faiss-cpu faiss-gpu, then install the one "
        "you want."
    )


def test_a_torchvision_that_does_not_fit_torch_is_a_trouble_with_its_cure(monkeypatch):
    real = doctor.importlib.import_module

    def failing(name: str) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", failing)
    (trouble,) = [r for r in remarks() if r.trouble]
    assert trouble.about == "torchvision"
    assert trouble.words.startswith("cannot be imported (operator torchvision::nms does not exist). ")
    assert "pip install torch==" in trouble.words


def test_a_gpu_is_named_as_its_driver_names_it(monkeypatch):
    printed = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65\nNVIDIA T4, 15360 MiB, 580.65\n"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda *args, **rest: subprocess.CompletedProcess(args, 0, stdout=printed)
    )
    assert doctor._gpus() == [Remark("GPU", line) for line in printed.splitlines()]


def test_a_driver_that_does_not_answer_is_a_trouble(monkeypatch):
    def silent(*args: object, **rest: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", silent)
    (remark,) = doctor._gpus()
    assert remark.trouble and "does not answer" in remark.words


def test_the_command_lists_this_environment():
    code, out, _ = run()
    lines = {line[:20].strip(): line[21:] for line in out.splitlines()}
    assert code == 0
    assert lines["simclr"].startswith("0.1.0, Python 3.")
    assert lines["pretrain and export"].startswith("torch 2.")
    assert "TROUBLE" not in out


def test_json_is_one_object_a_line():
    code, out, _ = run("--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {line["about"] for line in lines} >= {"simclr", "processor", "GPU", "serve"}


WHOLE = Division(16, 16)
GOOD = Finding(Division(16, 16, 2), WHOLE, 1e-15, 2e-14, 0.0)
CAUGHT = Finding(Division(16, 16, 2, "local batch norm"), WHOLE, 0.1, 2.0, 0.2)


def test_a_proof_that_holds_says_so(monkeypatch):
    monkeypatch.setattr(proof, "prove", lambda: iter([GOOD, CAUGHT]))
    code, out, err = run("--gradients")
    assert (code, out.splitlines()) == (
        0,
        [
            "batch 16, 2 processes",
            "    against batch 16, 1 process: loss 1e-15, gradients 2e-14, statistics 0e+00  ok",
            "batch 16, 2 processes, local batch norm",
            "    against batch 16, 1 process: loss 1e-01, gradients 2e+00, statistics 2e-01  differs, as it must",
        ],
    )
    assert err.splitlines()[-1].startswith("all equal within 1e-09; ")


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (Finding(Division(16, 8), WHOLE, 0.0, 2e-9, 0.0), "FAILED"),
        (Finding(Division(16, 16, 2, "local batch norm"), WHOLE, 0.0, 1e-4, 0.0), "FAILED: not caught"),
    ],
)
def test_a_proof_that_fails_is_exit_3(monkeypatch, finding, verdict):
    monkeypatch.setattr(proof, "prove", lambda: iter([GOOD, finding]))
    code, out, err = run("--gradients")
    assert code == 3
    assert out.splitlines()[-1].endswith(f"  {verdict}")
    assert err.splitlines()[-1].startswith("error: 1 of 2 comparisons failed: ")


def test_the_proof_as_json(monkeypatch):
    monkeypatch.setattr(proof, "prove", lambda: iter([GOOD, CAUGHT]))
    lines = [json.loads(line) for line in run("--gradients", "--json")[1].splitlines()]
    assert [line["passed"] for line in lines] == [True, True]
    assert lines[0]["gradients"] == 2e-14
