"""What is missing comes with the line that adds it, what is wrong with the line that mends it."""

import importlib
import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
from typer.testing import CliRunner

from simclr import doctor
from simclr.cli import app
from simclr.doctor import (
    Capability,
    Check,
    Gpu,
    capabilities,
    check_backends,
    check_onnxruntime,
    check_tensorrt,
    check_torch,
    clashes,
    gpus,
)
from simclr.pretrain import proof
from simclr.pretrain.proof import Division, Finding
from simclr.runtime.starting import why_not

ROOT = Path(__file__).parent.parent
BASE = {"pyarrow": "26.0.1", "simplejpeg": "1.9.0", "pillow": "13.0.0"}
ORT, ORT_GPU = {"onnxruntime": "1.32.0"}, {"onnxruntime-gpu": "1.32.0"}
FAISS, FAISS_GPU = {"faiss-cpu": "1.15.1"}, {"faiss-gpu": "1.15.1"}
TORCH = {"torch": "2.14.1", "torchvision": "0.29.1"}


def run(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `simclr doctor WORDS`."""
    result = CliRunner().invoke(app, ["doctor", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def search_and_embed(installed: dict[str, str], *, has_gpu: bool = False) -> Capability:
    return next(iter(capabilities(installed, has_gpu=has_gpu)))


# ---- packages


def test_a_missing_package_is_named_with_the_line_that_adds_it():
    assert search_and_embed(BASE | ORT) == Capability(
        "search and embed", ORT | BASE, ("faiss-cpu",), "pip install 'simclr-toolkit[cpu]'"
    )


def test_a_capability_with_all_its_packages_needs_no_line():
    assert search_and_embed(BASE | ORT | FAISS) == Capability(
        "search and embed", ORT | FAISS | BASE, (), None
    )


def test_builds_for_gpus_do_as_well():
    assert search_and_embed(BASE | ORT_GPU | FAISS_GPU).missing == ()


@pytest.mark.parametrize(
    ("there", "has_gpu", "extra"),
    [
        ({}, False, "cpu"),
        ({}, True, "gpu"),
        (ORT, True, "cpu"),
        (ORT_GPU, False, "gpu"),
        (FAISS, True, "cpu"),
        (FAISS_GPU, False, "gpu"),
    ],
)
def test_what_is_added_never_overwrites_what_is_there(there, has_gpu, extra):
    """The machine decides between the builds only where none is installed."""
    assert search_and_embed(there, has_gpu=has_gpu).install == f"pip install 'simclr-toolkit[{extra}]'"


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-cu13"])
def test_any_of_nvidias_packages_is_tensorrt(package):
    (trt,) = [c for c in capabilities({package: "11.4"}, has_gpu=False) if c.name == "TensorRT"]
    assert (trt.found, trt.missing) == ({package: "11.4"}, ())


def test_the_table_is_what_pyproject_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, packages in doctor.NEEDS.values():
        brought = project["optional-dependencies"][extra] + project["dependencies"]
        assert set(packages) <= {requirement.partition(">=")[0].partition("[")[0] for requirement in brought}


def test_builds_that_overwrite_each_other_are_both_taken_away_and_one_is_put_back():
    both = ORT | ORT_GPU | FAISS_GPU
    assert list(clashes(both, has_gpu=False)) == [
        Check(
            "clash",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'simclr-toolkit[gpu]'",
        )
    ]


def test_two_clashes_are_two_lines():
    both = ORT | ORT_GPU | FAISS | FAISS_GPU
    assert [check.fix for check in clashes(both, has_gpu=False)] == [
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'simclr-toolkit[cpu]'",
        "pip uninstall -y faiss-cpu faiss-gpu && pip install 'simclr-toolkit[cpu]'",
    ]


def test_one_build_of_each_is_no_clash():
    assert list(clashes(ORT_GPU | FAISS, has_gpu=True)) == []


# ---- GPUs


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The only thing on PATH."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_gpus_are_read_from_the_driver(tmp_path, monkeypatch):
    lines = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.95.05\\nNVIDIA GB10, [N/A], 580.95.05\\n"
    nvidia_smi(tmp_path, monkeypatch, f"printf '{lines}'")
    assert gpus() == [
        Gpu("NVIDIA H100 80GB HBM3", "81559 MiB", "580.95.05"),
        Gpu("NVIDIA GB10", "[N/A]", "580.95.05"),
    ]


def test_a_driver_that_fails_is_quoted(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed: no driver'; exit 9")
    assert gpus() == [Check("GPU", "none found: nvidia-smi fails (NVIDIA-SMI has failed: no driver)")]


def test_a_driver_that_hangs_is_given_up_on(monkeypatch):
    def hang(command: list[str], *, timeout: float, **rest: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", hang)
    words = "nvidia-smi does not answer (Command 'nvidia-smi' timed out after 20 seconds)"
    assert gpus() == [Check("GPU", f"none found: {words}")]


def test_without_the_tool_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == [Check("GPU", "none found: no nvidia-smi on PATH")]


# ---- imports


def importing(monkeypatch: pytest.MonkeyPatch, **modules: object) -> None:
    """Importing these by name gives an object, or raises it."""

    def fake(name: str) -> object:
        if isinstance(module := modules[name], Exception):
            raise module
        return module

    monkeypatch.setattr(importlib, "import_module", fake)


def cuda(*names: str) -> SimpleNamespace:
    return SimpleNamespace(
        is_available=lambda: bool(names), device_count=lambda: len(names), get_device_name=lambda i: names[i]
    )


def test_torch_says_which_gpus_it_sees(monkeypatch):
    torch = SimpleNamespace(__version__="2.14.1+cu130", cuda=cuda("NVIDIA H100", "NVIDIA H100"))
    importing(monkeypatch, torch=torch, torchvision=object())
    assert list(check_torch(TORCH)) == [
        Check("torch", "2.14.1+cu130 sees NVIDIA H100, NVIDIA H100"),
        Check("torchvision", "0.29.1 works with torch"),
    ]


def test_a_torchvision_of_another_build_comes_with_the_command_that_makes_them_a_pair(monkeypatch):
    mismatch = RuntimeError("operator torchvision::nms does not exist")
    importing(monkeypatch, torch=SimpleNamespace(__version__="2.14.1+cpu", cuda=cuda()), torchvision=mismatch)
    _, check = check_torch({"torch": "2.14.1+cpu", "torchvision": "0.29.1"})
    assert check.words == (
        "torchvision          0.29.1 does not work with torch 2.14.1+cpu (operator torchvision::nms does not exist). Run: "
        "pip uninstall -y torch torchvision && pip install torch torchvision"
    )


def test_a_torch_that_cannot_be_imported_is_one_line(monkeypatch):
    importing(monkeypatch, torch=OSError("libcudart.so.13: cannot open shared object file"))
    assert list(check_torch(TORCH)) == [
        Check(
            "torch",
            "2.14.1 cannot be imported (libcudart.so.13: cannot open shared object file)",
            "pip install --force-reinstall torch==2.14.1",
        )
    ]


def test_nothing_is_said_or_imported_of_what_is_not_installed(monkeypatch):
    importing(monkeypatch)
    assert [*check_torch({}), *check_onnxruntime({}, has_gpu=True)] == []


CPU_ONLY = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])


def test_an_onnxruntime_without_the_gpu_that_is_there_comes_with_the_line_for_the_other(monkeypatch):
    importing(monkeypatch, onnxruntime=CPU_ONLY)
    assert list(check_onnxruntime(ORT | FAISS, has_gpu=True)) == [
        Check(
            "ONNX Runtime",
            "offers CPUExecutionProvider: none for the GPU",
            "pip uninstall -y onnxruntime faiss-cpu && pip install 'simclr-toolkit[gpu]'",
        )
    ]
    assert list(check_onnxruntime(ORT | FAISS, has_gpu=False)) == [
        Check("ONNX Runtime", "offers CPUExecutionProvider")
    ]


def test_an_onnxruntime_that_cannot_be_imported_is_put_back(monkeypatch):
    importing(monkeypatch, onnxruntime=ImportError("no module onnxruntime.capi"))
    (alone,) = check_onnxruntime(ORT, has_gpu=False)
    assert alone.fix == "pip install --force-reinstall --no-deps onnxruntime==1.32.0"
    (clashed,) = check_onnxruntime(ORT | ORT_GPU, has_gpu=False)
    assert clashed == Check("ONNX Runtime", "cannot be imported (no module onnxruntime.capi)")


def backends(monkeypatch: pytest.MonkeyPatch, **why_not: str) -> dict[str, str]:
    """What is said of each backend, where those named fail for the reason given."""
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("simclr.runtime.ort.available_providers", lambda: offered)
    monkeypatch.setattr(
        "simclr.runtime.starting.why_not", lambda name: why_not.get(name.replace("-", "_"), "")
    )
    return {check.name: check.result for check in check_backends(ORT_GPU)}


def test_a_provider_that_is_offered_and_does_not_start_is_found_out(monkeypatch):
    assert backends(monkeypatch, ort_trt="libnvinfer.so.10: cannot open") == {
        "--backend ort-cpu": "works",
        "--backend ort-cuda": "works",
        "--backend ort-trt": "does not work: libnvinfer.so.10: cannot open",
    }


def test_a_provider_starts_if_it_computes_the_right_numbers(monkeypatch):
    assert why_not("ort-cpu") == ""
    session = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *args: [session(*args)[0] * 1.01])
    assert why_not("ort-cpu").startswith("computes [[")


def test_a_provider_that_fails_at_its_first_batch_does_not_start(monkeypatch):
    def fails(*args: object) -> None:
        raise RuntimeError("cuDNN is missing\nand more")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fails)
    assert why_not("ort-cpu") == "fails at its first batch (RuntimeError: cuDNN is missing)"


def test_tensorrt_that_has_no_libraries_is_found_out(monkeypatch):
    importing(monkeypatch, tensorrt=ImportError("libnvinfer.so.11: cannot open shared object file"))
    (found,) = check_tensorrt({"tensorrt-cu13": "11.4.0"}, has_gpu=True)
    assert found.result == "TensorRT does not start (libnvinfer.so.11: cannot open shared object file)"
    assert found.fix == "pip install 'simclr-toolkit[trt]'"


def test_tensorrt_that_starts_says_its_version(monkeypatch):
    logger = SimpleNamespace(ERROR=1)
    there = SimpleNamespace(
        __version__="11.4.0", Logger=lambda level: logger, Builder=lambda logger: object()
    )
    there.Logger.ERROR = 1
    importing(monkeypatch, tensorrt=there)
    assert [
        check.words.split(None, 2)[2] for check in check_tensorrt({"tensorrt": "11.4.0"}, has_gpu=True)
    ] == ["TensorRT 11.4.0 starts"]


# ---- the command


def test_the_command_says_what_this_environment_can_do(monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: [Gpu("NVIDIA T4", "15360 MiB", "580.95")])
    monkeypatch.setattr(doctor, "free_memory", lambda: 3 * 2**29)
    code, out, err = run()
    lines = {line[:20].rstrip(): line[21:] for line in out.splitlines()}
    assert (code, err) == (0, "")
    assert list(lines) == [
        "simclr", "machine", *doctor.NEEDS, "GPU", "ONNX Runtime", "--backend ort-cpu", "--backend trt", "torch", "torchvision",
        "images",
    ]  # fmt: skip
    assert lines["machine"].endswith("; 1.5 GiB memory free") and " cores usable" in lines["machine"]
    assert lines["--backend ort-cpu"] == "works"
    assert lines["--backend trt"] == "TensorRT is not installed. Run: pip install 'simclr-toolkit[trt]'"
    assert lines["images"].startswith("reads JPEG, PNG, WebP, ")
    assert lines["GPU"] == "NVIDIA T4, 15360 MiB, driver 580.95"
    assert lines["classify"] == f"scikit-learn {doctor.versions()['scikit-learn']}"
    assert lines["torchvision"] == f"{doctor.versions()['torchvision']} works with torch"


def test_a_machine_with_nothing_installed_is_told_every_line(monkeypatch):
    monkeypatch.setattr(doctor, "versions", dict)
    monkeypatch.setattr(doctor, "gpus", list)
    monkeypatch.setattr(doctor, "check_decoders", list)
    code, out, _ = run()
    lines = out.splitlines()
    assert code == 0
    assert [line.rpartition("[")[2].rstrip("]'") for line in lines[2:]] == [
        "cpu", "train", "classify", "serve", "heif", "s3", "cluster", "trt", "parser"
    ]  # fmt: skip
    assert lines[5] == (
        "serve                missing fastapi, uvicorn, python-multipart, prometheus-client. "
        "Run: pip install 'simclr-toolkit[serve]'"
    )


def test_json_is_one_object_a_line_with_its_kind(monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: [Gpu("NVIDIA T4", "15360 MiB", "580.95")])
    code, out, _ = run("--json")
    parts = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [part["kind"] for part in parts] == ["machine"] + ["capability"] * 9 + ["gpu"] + ["check"] * 6
    assert parts[10] == {"kind": "gpu", "name": "NVIDIA T4", "memory": "15360 MiB", "driver": "580.95"}


def test_looking_imports_no_torch_where_none_is_installed(monkeypatch):
    """As on a machine that only serves."""
    monkeypatch.setattr(doctor, "versions", lambda: ORT | BASE | FAISS)
    importing(monkeypatch, onnxruntime=CPU_ONLY)
    code, out, _ = run()
    assert code == 0
    assert "missing torch, torchvision, timm, " in out


# ---- the proof, with findings made by hand

WHOLE = Division(16, 16)
RIGHT = Finding(Division(16, 16, 2), WHOLE, 1.14e-15, 2.5e-14, 0.0)
CHUNKED = Finding(Division(16, 8), Division(16, 8, 1, "one graph"), 0.0, 1e-9, 0.0)
CAUGHT = [
    Finding(Division(16, 16, 2, variant), WHOLE, 0.1, 2.0, 0.2)
    for variant in ("local batch norm", "gather without gradient")
]


def found(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    def prove() -> Iterator[Finding]:
        yield from findings

    monkeypatch.setattr(proof, "prove", prove)


def test_a_proof_that_holds_ends_with_its_verdict(monkeypatch):
    found(monkeypatch, RIGHT, CHUNKED, *CAUGHT)
    code, out, err = run("--gradients")
    assert (code, out.splitlines()) == (0, [
        "batch 16, 2 processes against batch 16, 1 process                             loss 1.1e-15  gradients 2.5e-14  statistics 0.0e+00  ok",
        "batch 16, 1 process, chunk 8 against batch 16, 1 process, chunk 8, one graph  loss 0.0e+00  gradients 1.0e-09  statistics 0.0e+00  ok",
        "batch 16, 2 processes, local batch norm against batch 16, 1 process           loss 1.0e-01  gradients 2.0e+00  statistics 2.0e-01  differs, as it must",
        "batch 16, 2 processes, gather without gradient against batch 16, 1 process    loss 1.0e-01  gradients 2.0e+00  statistics 2.0e-01  differs, as it must",
        "all 2 within 1e-9, both wrong variants caught",
    ])  # fmt: skip
    assert err == "training a tiny encoder in float64, whole and divided in every way: about half a minute\n"


@pytest.mark.parametrize(
    ("bad", "last_words", "verdict"),
    [
        (
            Finding(Division(16, 8), WHOLE, 0.0, 1.1e-9, 0.0),
            "FAILED",
            "1 of 2 within 1e-9, 2 of 2 wrong variants caught",
        ),
        (
            Finding(Division(16, 16, 2, "local batch norm"), WHOLE, 0.0, 1e-4, 0.0),
            "FAILED: not caught",
            "1 of 1 within 1e-9, 2 of 3 wrong variants caught",
        ),
    ],
)
def test_a_proof_that_fails_says_so_after_the_lines_and_ends_with_code_3(
    monkeypatch, bad, last_words, verdict
):
    found(monkeypatch, RIGHT, *CAUGHT, bad)
    code, out, err = run("--gradients")
    assert code == 3
    assert out.splitlines()[-2].endswith(f"  {last_words}")
    assert out.splitlines()[-1] == verdict
    assert err.splitlines()[-1] == (
        f"error: the gradient proof failed: {verdict}. "
        "Do not train with --processes or --chunk here; report the lines above."
    )


def test_the_proof_as_json_ends_with_the_verdict(monkeypatch):
    found(monkeypatch, RIGHT, *CAUGHT)
    code, out, _ = run("--gradients", "--json")
    first, *_, last = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert first == {
        "kind": "comparison",
        "division": "batch 16, 2 processes",
        "reference": "batch 16, 1 process",
        "loss": 1.14e-15,
        "gradients": 2.5e-14,
        "statistics": 0.0,
        "wrong_on_purpose": False,
        "passed": True,
    }
    assert last == {
        "kind": "verdict",
        "passed": True,
        "words": "all 1 within 1e-9, both wrong variants caught",
    }
