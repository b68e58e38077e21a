"""Building plans, and which may be loaded. TensorRT and the GPU are fakes that record (fake_nvidia.py)."""

import dataclasses
import importlib
import json
import os
import shutil
from pathlib import Path

import pytest
from fake_nvidia import Nvidia

from simclr.artifacts import ModelInfo, PlanInfo, file_sha256
from simclr.errors import ArtifactError, ConfigError, MissingExtra, TensorRTError
from simclr.runtime import plans
from simclr.runtime.backends import choose
from simclr.runtime.model_files import open_folder
from simclr.runtime.plans import build_plan, keep_verdict, obtain_plan, plan_path, why_no_plan
from simclr.runtime.trt_build import profiles

Opened = tuple[Path, ModelInfo]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(model: Path, tmp_path: Path) -> Opened:
    (tmp_path / "export").mkdir()
    for path in model.iterdir():
        if path.is_file():
            (tmp_path / "export" / path.name).write_bytes(path.read_bytes())
    return open_folder(tmp_path / "export")


@pytest.fixture
def said() -> list[str]:
    return []


def loaded(gpu: Nvidia) -> list[bytes]:
    return [call[1] for call in gpu.calls if call[0] == "deserialize_cuda_engine"]


# --- building ------------------------------------------------------------------------------------


def test_a_plan_is_built_by_these_calls_and_no_other(gpu: Nvidia, opened: Opened) -> None:
    build_plan(*opened, "fp32")
    onnx = (opened[0] / "encoder.onnx").stat().st_size
    building = [call for call in gpu.calls if not call[0].startswith("cuda")]
    assert building == [
        ("create_network", 2),  # 1 << STRONGLY_TYPED
        ("parse", onnx),
        ("set", "builder_optimization_level", 3),
        ("set", "profiling_verbosity", gpu.trt.ProfilingVerbosity.DETAILED),
        ("clear_flag", "TF32"),
        ("set_shape", "images", (1, 16, 16, 3), (1, 16, 16, 3), (1, 16, 16, 3)),
        ("set_shape", "images", (1, 16, 16, 3), (32, 16, 16, 3), (64, 16, 16, 3)),
        ("set_shape", "images", (1, 16, 16, 3), (256, 16, 16, 3), (256, 16, 16, 3)),
        ("create_timing_cache", b""),
        ("set_timing_cache", b"+", False),
        ("build_serialized_network",),
    ]


def test_the_timing_cache_of_a_build_helps_the_next(gpu: Nvidia, opened: Opened) -> None:
    build_plan(*opened, "fp32")
    gpu.calls.clear()
    build_plan(*opened, "fp32")
    assert ("create_timing_cache", b"+") in gpu.calls


def test_lower_precisions_keep_their_flags_as_they_are(gpu: Nvidia, opened: Opened) -> None:
    folder, info = opened
    shutil.copy(folder / "encoder.onnx", folder / "encoder.fp16.onnx")
    file = dataclasses.replace(info.files["encoder.onnx"], precision="fp16")
    build_plan(folder, dataclasses.replace(info, files=info.files | {"encoder.fp16.onnx": file}), "fp16")
    assert "clear_flag" not in gpu.named()
    assert (folder / "trt" / "encoder.fp16.plan").exists()


@pytest.mark.parametrize("most", [1, 20, 256])
def test_every_batch_up_to_the_largest_fits_a_profile(most: int) -> None:
    found = profiles(most)
    assert found[0] == (1, 1, 1) and found[-1][2] == most
    assert all(low <= best <= high <= most for low, best, high in found)


def test_a_plan_is_a_plain_engine_with_a_description_beside_it(gpu: Nvidia, opened: Opened) -> None:
    folder, info = opened
    plan, _ = build_plan(folder, info, "fp32")
    assert json.loads(plan)["number"] == 1  # what the builder gave, no header before it
    path = folder / "trt" / "encoder.plan"
    assert path.read_bytes() == plan
    described = PlanInfo.load(folder / "trt" / "encoder.plan.json")
    assert described == PlanInfo(
        sha256=file_sha256(path), size=len(plan), precision="fp32", onnx_sha256=info.files["encoder.onnx"].sha256,
        profiles=((1, 1, 1), (1, 32, 64), (1, 256, 256)), tensorrt=gpu.trt.__version__, cuda="13.0", driver="580.95.05",
        gpu="NVIDIA H200", compute_capability="9.0", fidelity=None, accepted=False,
    )  # fmt: skip


def test_a_file_that_the_parser_refuses_is_named_with_its_words_and_node(gpu: Nvidia, opened: Opened) -> None:
    gpu.trt.parse_errors = ["antialias is\n  not supported", "and more"]
    with pytest.raises(
        TensorRTError,
        match=r"encoder\.onnx: TensorRT \S+ refuses it: antialias is not supported at node node_7 \(Resize\); and more at node",
    ):
        build_plan(*opened, "fp32")
    assert not (opened[0] / "trt").exists()


def test_a_build_that_fails_says_what_the_log_said(gpu: Nvidia, opened: Opened) -> None:
    gpu.trt.builds = False
    with pytest.raises(
        TensorRTError, match=r"cannot build it here \(Cuda Runtime \(out of memory\) in kernel selection\)"
    ):
        build_plan(*opened, "fp32")
    assert not (opened[0] / "trt").exists()


def test_a_changed_onnx_file_is_found_before_anything_parses_it(gpu: Nvidia, opened: Opened) -> None:
    path = opened[0] / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="its SHA-256 is not the one in"):
        build_plan(*opened, "fp32")
    assert "parse" not in gpu.named()


def test_a_disk_that_is_full_leaves_no_half_plan(
    gpu: Nvidia, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, write: object) -> None:
        if path.suffix == ".plan":
            raise OSError(28, "No space left on device", str(path))
        write_atomically(path, write)

    write_atomically = plans.write_atomically
    monkeypatch.setattr(plans, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        build_plan(*opened, "fp32")
    assert list((opened[0] / "trt").iterdir()) == []


# --- loading -------------------------------------------------------------------------------------


def test_a_plan_of_our_own_is_loaded_without_building(gpu: Nvidia, opened: Opened, said: list[str]) -> None:
    first = obtain_plan(*opened, "fp32", note=said.append)
    assert said == [f"{opened[0]}/trt/encoder.plan: no plan yet; building it, which takes minutes"]
    assert obtain_plan(*opened, "fp32", note=said.append) == first
    assert len(said) == 1 and gpu.trt.built == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda gpu: setattr(gpu.trt, "__version__", "12.0.1"),
            "was built for TensorRT {}, and this is 12.0.1",
        ),
        (lambda gpu: setattr(gpu.cuda, "runtime", 13040), "was built for CUDA 13.0, and this is 13.4"),
        (
            lambda gpu: setattr(gpu.cuda, "name", "NVIDIA L4"),
            "was built for a NVIDIA H200, and this is NVIDIA L4",
        ),
    ],
    ids=["TensorRT", "CUDA", "GPU"],
)
def test_on_another_machine_a_plan_is_built_again_and_one_sentence_says_why(
    gpu: Nvidia, opened: Opened, said: list[str], change, sentence: str
) -> None:
    before = gpu.trt.__version__
    obtain_plan(*opened, "fp32", note=said.append)
    change(gpu)
    obtain_plan(*opened, "fp32", note=said.append)
    assert said[1:] == [
        f"{opened[0]}/trt/encoder.plan: {sentence.format(before)}; building it, which takes minutes"
    ]
    assert gpu.trt.built == 2


def test_another_driver_or_another_onnx_file_is_another_plan(
    gpu: Nvidia, opened: Opened, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    obtain_plan(*opened, "fp32", note=said.append)
    monkeypatch.setattr("simclr.runtime.cuda._driver", lambda: "600.1")
    obtain_plan(*opened, "fp32", note=said.append)
    assert said[1].endswith(
        "was built for driver 580.95.05, and this is 600.1; building it, which takes minutes"
    )
    folder, info = opened
    path = folder / "encoder.onnx"
    path.write_bytes(path.read_bytes() + b"\x00" * 0 + b"")
    file = dataclasses.replace(info.files["encoder.onnx"], sha256="ab" * 32)
    assert why_no_plan(folder, dataclasses.replace(info, files={"encoder.onnx": file}), "fp32") == (
        "trt: was built for another ONNX file; build one with `simclr export --trt`"
    )


def test_a_plan_and_its_description_from_elsewhere_are_never_loaded(
    gpu: Nvidia, opened: Opened, said: list[str], own_cache: Path
) -> None:
    """Whoever can bring a plan can bring a description that fits it: only our own record counts."""
    theirs = obtain_plan(*opened, "fp32", note=said.append)
    shutil.rmtree(own_cache)
    choose(*opened, backend="trt", precision="fp32", threads=1, note=said.append)
    assert said[1] == (
        f"{opened[0]}/trt/encoder.plan: was not built by this user on this machine; building it, which takes minutes"
    )
    assert theirs not in loaded(gpu) and len(loaded(gpu)) == 1


@pytest.mark.parametrize("cut", [1, 20])
def test_a_truncated_plan_is_never_loaded(gpu: Nvidia, opened: Opened, said: list[str], cut: int) -> None:
    whole = obtain_plan(*opened, "fp32", note=said.append)
    plan_path(opened[0], "fp32").write_bytes(whole[:-cut])
    choose(*opened, backend="trt", precision="fp32", threads=1, note=said.append)
    assert whole[:-cut] not in loaded(gpu) and gpu.trt.built == 2


def test_a_verdict_never_makes_a_foreign_plan_ours(gpu: Nvidia, opened: Opened, own_cache: Path) -> None:
    """Plan and description are exchanged while the verdict is found: only what was built is recorded."""
    folder, info = opened
    _, built = build_plan(folder, info, "fp32")
    path = plan_path(folder, "fp32")
    path.write_bytes(b"EVIL PLAN")
    described = dataclasses.replace(built, sha256="../../escaped", size=9)
    described.save(path.with_name("encoder.plan.json"))
    keep_verdict(folder, built, info.files["encoder.onnx"].fidelity, accepted=False)
    assert "was not built by this user" in why_no_plan(folder, info, "fp32")
    assert [record.stem for record in (own_cache / "plans").glob("*.json")] == [built.sha256]


def test_a_record_that_cannot_be_read_is_a_reason_to_build_again(
    gpu: Nvidia, opened: Opened, said: list[str], own_cache: Path
) -> None:
    obtain_plan(*opened, "fp32", note=said.append)
    (record,) = (own_cache / "plans").glob("*.json")
    record.write_text("{}")
    obtain_plan(*opened, "fp32", note=said.append)
    assert said[1].endswith("the record of its building cannot be read; building it, which takes minutes")


@pytest.mark.skipif(os.name != "posix", reason="has no umask")
def test_a_plan_is_found_again_whatever_the_umask(gpu: Nvidia, opened: Opened, said: list[str]) -> None:
    before = os.umask(0o002)
    try:
        obtain_plan(*opened, "fp32", note=said.append)
        obtain_plan(*opened, "fp32", note=said.append)
    finally:
        os.umask(before)
    assert gpu.trt.built == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="giving a file away needs root")
def test_a_record_of_another_user_is_none(
    gpu: Nvidia, opened: Opened, said: list[str], own_cache: Path
) -> None:
    obtain_plan(*opened, "fp32", note=said.append)
    (record,) = (own_cache / "plans").glob("*.json")
    os.chown(record, 12345, 12345)
    obtain_plan(*opened, "fp32", note=said.append)
    assert "was not built by this user on this machine" in said[1]


def test_a_cache_folder_that_others_may_write_to_is_refused(
    gpu: Nvidia, opened: Opened, own_cache: Path
) -> None:
    (own_cache / "plans").mkdir(parents=True)
    (own_cache / "plans").chmod(0o777)
    with pytest.raises(
        ConfigError,
        match=rf"^{own_cache}/plans: others may write to it, so that nothing in it can be trusted\. Run: ",
    ):
        build_plan(*opened, "fp32")


def test_a_plan_whose_verdict_failed_is_refused_until_it_is_accepted(gpu: Nvidia, opened: Opened) -> None:
    folder, info = opened
    plan, built = build_plan(folder, info, "fp32")
    failed = dataclasses.replace(info.files["encoder.onnx"].fidelity, passed=False, failed="recall@10 0.610")
    assert keep_verdict(folder, built, failed, accepted=False).fidelity == failed
    with pytest.raises(
        ArtifactError, match=r"trt/encoder\.plan: its fidelity verdict failed \(recall@10 0\.610\)\."
    ):
        obtain_plan(folder, info, "fp32", note=lambda line: None)
    assert "its fidelity verdict failed" in why_no_plan(folder, info, "fp32")
    keep_verdict(folder, built, failed, accepted=True)
    assert obtain_plan(folder, info, "fp32", note=lambda line: None) == plan


def test_auto_takes_a_plan_that_is_built_and_builds_none(gpu: Nvidia, opened: Opened) -> None:
    without = choose(*opened, backend="auto", precision="auto", threads=1, note=lambda line: None)
    assert without.engine.backend != "trt" and gpu.trt.built == 0
    assert "trt: no plan yet; build one with `simclr export --trt`" in without.words
    build_plan(*opened, "fp32")
    chosen = choose(*opened, backend="auto", precision="auto", threads=1, note=lambda line: None)
    assert chosen.words == "backend: trt, fp32"


# --- what is absent ------------------------------------------------------------------------------


def test_without_tensorrt_the_install_line_is_given(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    words = r"tensorrt-cu13 is not installed\. Run: pip install 'simclr-toolkit\[trt\]'"
    with pytest.raises(MissingExtra, match=f"^{words}$"):
        choose(*opened, backend="trt", precision="fp32", threads=1, note=lambda line: None)
    assert (
        why_no_plan(*opened, "fp32")
        == "trt: tensorrt-cu13 is not installed. Run: pip install 'simclr-toolkit[trt]'"
    )


def test_tensorrt_without_its_libraries_says_where_they_come_from(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> object:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(
        ConfigError, match=r"^TensorRT is installed and does not start \(libnvinfer\.so\.11: .*NVIDIA\.$"
    ):
        plans.import_tensorrt()


def test_a_tensorrt_that_is_too_old_is_refused(gpu: Nvidia) -> None:
    gpu.trt.__version__ = "10.9.0.34"
    with pytest.raises(
        ConfigError, match=r"^TensorRT 10\.9\.0\.34 is too old\. Run: pip install 'simclr-toolkit\[trt\]'$"
    ):
        plans.import_tensorrt()


@pytest.mark.parametrize("name", ["EXPLICIT_BATCH", "FP16", "INT8", "IInt8Calibrator"])
def test_the_fake_knows_no_name_that_11_took_away(gpu: Nvidia, name: str) -> None:
    homes = (gpu.trt, gpu.trt.BuilderFlag, gpu.trt.NetworkDefinitionCreationFlag)
    assert not any(hasattr(home, name) for home in homes)
