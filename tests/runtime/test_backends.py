"""Which backend and precision are opened. GPU providers are stood in for: none is here."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from simclr.artifacts import ModelFile, ModelInfo
from simclr.errors import ArtifactError, ConfigError
from simclr.runtime import Encoder, backends
from simclr.runtime.backends import choose
from simclr.runtime.model_files import open_folder
from simclr.runtime.ort import PROVIDERS

CPU_BUILD = ["AzureExecutionProvider", "CPUExecutionProvider"]
GPU_BUILD = [*PROVIDERS.values()]


@pytest.fixture
def opened(model: Path) -> tuple[Path, ModelInfo]:
    return open_folder(model)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Another machine: how many GPUs, which build of ONNX Runtime."""

    def become(*, gpus: int, build: list[str], session: type | None = None) -> None:
        monkeypatch.setattr(backends, "gpu_count", lambda: gpus)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: build)
        if session is not None:
            monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    return become


class OnGpu(onnxruntime.InferenceSession):  # type: ignore[misc]
    """Says that it computes on the provider it was asked for; does so on the CPU."""

    nodes = ("",)
    """Providers that nodes land on, besides."""
    last: "OnGpu"

    def __init__(
        self, model: bytes, options: object, *, providers: list[tuple[str, dict[str, str]]], **rest: object
    ):
        ((self.asked, self.given),) = providers
        self.rest = rest
        self.options = options
        type(self).last = self
        super().__init__(model, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [self.asked]

    def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(ep_name=name or self.asked) for name in self.nodes]


class HalfOnGpu(OnGpu):
    nodes = ("", "CPUExecutionProvider")


class Fails:
    def __init__(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("no CUDA device\nand a long story")


def pick(opened: tuple[Path, ModelInfo], backend: str = "auto", precision: str = "auto") -> backends.Choice:
    return choose(*opened, backend=backend, precision=precision, threads=1, note=lambda line: None)


def with_files(info: ModelInfo, **usable: bool) -> ModelInfo:
    """The manifest with more precisions in it, all with the bytes of fp32."""
    first = info.files["encoder.onnx"]

    def file(precision: str, passed: bool) -> ModelFile:
        fidelity = dataclasses.replace(
            first.fidelity, passed=passed, failed="" if passed else "recall@10 0.812"
        )
        return dataclasses.replace(first, precision=precision, fidelity=fidelity)

    more = {f"encoder.{name}.onnx": file(name, passed) for name, passed in usable.items()}
    return dataclasses.replace(info, files=info.files | more)


# --- auto ----------------------------------------------------------------------------------------


def test_auto_is_the_cpu_where_no_gpu_is_and_says_so(opened, machine) -> None:
    machine(gpus=0, build=GPU_BUILD, session=None)
    assert pick(opened).words == "backend: ort-cpu, fp32 (no NVIDIA GPU here)"


def test_a_gpu_that_this_onnxruntime_cannot_use_comes_with_the_command_that_mends_it(opened, machine) -> None:
    machine(gpus=1, build=CPU_BUILD)
    words = pick(opened).words
    assert words.startswith("backend: ort-cpu, fp32 (trt: ")
    assert words.endswith(
        "; a GPU is here, but this onnxruntime is the build for the CPU: pip uninstall -y onnxruntime && "
        "pip install 'simclr-toolkit[gpu]')"
    )


def test_auto_takes_the_gpu_that_works(opened, machine) -> None:
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    chosen = pick(opened)
    assert chosen.engine.backend == "ort-cuda"
    assert re.match(r"backend: ort-cuda, fp32 \(trt: [^()]*", chosen.words)


def test_a_gpu_that_does_not_start_is_a_reason_and_no_end(opened, machine, monkeypatch) -> None:
    session = onnxruntime.InferenceSession

    def fails_on_gpus(
        model: bytes, options: object, *, providers: list[tuple[str, object]], **rest: object
    ) -> object:
        if providers[0][0] != "CPUExecutionProvider":
            raise RuntimeError("no CUDA device\nand a long story")
        return session(model, options, providers=providers, **rest)

    machine(gpus=1, build=GPU_BUILD, session=fails_on_gpus)
    chosen = pick(opened)
    assert (
        chosen.engine.backend == "ort-cpu"
        and "ort-cuda: " in chosen.words
        and "(no CUDA device)" in chosen.words
    )
    assert "\n" not in chosen.words


# --- a named backend -----------------------------------------------------------------------------


def test_an_unknown_backend_names_those_there_are(model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^backend 'tpu' is unknown\. Use one of: auto, trt, ort-trt, ort-cuda, ort-cpu\.$"
    ):
        Encoder.open(model, backend="tpu")


def test_cuda_is_refused_and_never_replaced_where_there_is_none(opened, machine) -> None:
    machine(gpus=1, build=CPU_BUILD)
    with pytest.raises(
        ConfigError,
        match=r"^backend ort-cuda is not in this onnxruntime, which is the build for the CPU\. Run: pip uninstall -y onnxruntime "
        r"&& pip install 'simclr-toolkit\[gpu\]', or use --backend ort-cpu\.$",
    ):
        pick(opened, "ort-cuda")


def test_cuda_that_is_offered_but_does_not_work_is_refused(opened, machine) -> None:
    machine(gpus=1, build=GPU_BUILD, session=Fails)
    with pytest.raises(
        ConfigError,
        match=r"^backend ort-cuda cannot run .*encoder.onnx \(no CUDA device\)\. Use --backend ort-cpu\.$",
    ):
        pick(opened, "ort-cuda")


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-trt"])
def test_a_session_of_which_one_node_runs_elsewhere_is_refused(opened, machine, backend: str) -> None:
    machine(gpus=1, build=GPU_BUILD, session=HalfOnGpu)
    with pytest.raises(
        ConfigError, match=rf"^backend {backend} was asked for, but ONNX Runtime chose CPUExecutionProvider"
    ):
        pick(opened, backend)


def test_every_way_back_to_the_cpu_is_closed(opened, machine) -> None:
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    pick(opened, "ort-cuda")
    session = OnGpu.last
    assert (session.asked, session.rest) == ("CUDAExecutionProvider", {"enable_fallback": 0})
    assert session.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert session._enable_fallback is False


def test_fp32_on_cuda_is_fp32_and_no_tf32(opened, machine) -> None:
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    pick(opened, "ort-cuda")
    assert OnGpu.last.given == {"use_tf32": "0"}


def test_the_tensorrt_provider_gets_one_profile_and_keeps_its_engines_with_the_user(
    opened, machine, cache: Path
) -> None:
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    pick(opened, "ort-trt")
    given = OnGpu.last.given
    assert [given[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")] == [
        "images:1x16x16x3", "images:32x16x16x3", "images:256x16x16x3",
    ]  # fmt: skip
    assert given["trt_engine_cache_path"] == str(cache / "ort-trt" / opened[1].files["encoder.onnx"].sha256)


def test_threads_are_those_asked_for_and_no_more(opened) -> None:
    chosen = choose(*opened, backend="ort-cpu", precision="fp32", threads=1, note=lambda line: None)
    assert chosen.engine.session.get_session_options().intra_op_num_threads == 1


def test_threads_follow_the_quota_where_none_are_named(opened, monkeypatch) -> None:
    monkeypatch.setattr(backends, "available_cpus", lambda: 3)
    chosen = choose(*opened, backend="ort-cpu", precision="fp32", threads=None, note=lambda line: None)
    assert chosen.engine.session.get_session_options().intra_op_num_threads == 3


# --- precision -----------------------------------------------------------------------------------


def test_an_unknown_precision_names_those_there_are(opened) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^precision 'fp8' is unknown\. Use one of: auto, fp32, fp16, bf16, int8, int8-trt\.",
    ):
        pick(opened, "ort-cpu", "fp8")


def test_a_precision_that_was_not_exported_comes_with_the_command(opened) -> None:
    with pytest.raises(
        ConfigError, match=r": holds no int8, but fp32\. Run `simclr export --precision int8` again\.$"
    ):
        pick(opened, "ort-cpu", "int8")


def test_the_cpu_has_no_bf16(opened) -> None:
    folder, info = opened
    with pytest.raises(
        ConfigError, match=r"^backend ort-cpu does not run bf16\. It runs fp32, fp16, int8, int8-trt\.$"
    ):
        pick((folder, with_files(info, bf16=True)), "ort-cpu", "bf16")


def test_a_precision_whose_verdict_failed_is_refused_by_name_and_not_taken_unasked(opened, machine) -> None:
    folder, info = opened[0], with_files(opened[1], fp16=False)
    with pytest.raises(
        ArtifactError,
        match=r"encoder.fp16.onnx: its fidelity verdict failed \(recall@10 0\.812\)\. See FIDELITY.md beside it; use another "
        r"precision, or export again with --accept\.$",
    ):
        pick((folder, info), "ort-cpu", "fp16")
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    assert pick((folder, info), "ort-cuda").precision == "fp32"


def test_on_a_gpu_fp16_is_taken_unasked_and_on_the_cpu_nothing_but_fp32(
    opened, tmp_path: Path, machine
) -> None:
    folder, info = opened
    info = with_files(info, fp16=True, int8=True)
    for name in info.files:
        (tmp_path / name).write_bytes((folder / "encoder.onnx").read_bytes())
    assert pick((tmp_path, info), "ort-cpu").precision == "fp32"
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    assert pick((tmp_path, info), "ort-cuda").precision == "fp16"


def test_all_backends_have_one_interface(opened, machine) -> None:
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = pick(opened, "ort-cpu").engine(pixels)
    for backend in ("ort-cuda", "ort-trt"):
        engine = pick(opened, backend).engine
        assert np.array_equal(engine(pixels), expected)
        assert [part.shape for part in engine.stream([pixels, pixels[:1]])] == [(3, 12), (1, 12)]


def test_a_precision_that_only_the_cpu_runs_is_taken_there_though_a_gpu_is_here(
    opened, tmp_path: Path, machine
) -> None:
    folder, info = opened
    info = with_files(info, int8=True)
    for name in info.files:
        (tmp_path / name).write_bytes((folder / "encoder.onnx").read_bytes())
    machine(gpus=1, build=GPU_BUILD, session=OnGpu)
    assert pick((tmp_path, info), "auto", "int8").engine.backend == "ort-cpu"
