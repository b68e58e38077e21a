"""A plan runs on a fake GPU that computes as lazily as CUDA's rules allow (fake_nvidia.py)."""

import gc
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_nvidia import Nvidia, grid_colours

from simclr.artifacts import ModelInfo
from simclr.errors import ArtifactError, ConfigError, TensorRTError
from simclr.runtime import Encoder
from simclr.runtime.model_files import open_folder
from simclr.runtime.tensorrt import TrtEngine, open_trt


@pytest.fixture
def opened(model: Path, tmp_path: Path) -> tuple[Path, ModelInfo]:
    """An export of its own, so that plans of other tests do not lie in it."""
    for path in model.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return open_folder(tmp_path)


@pytest.fixture
def engine(gpu: Nvidia, opened: tuple[Path, ModelInfo]) -> TrtEngine:
    engine = open_trt(*opened, "fp32", note=lambda line: None)
    gpu.calls.clear()
    return engine


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def right(found: np.ndarray, pixels: np.ndarray) -> bool:
    return found.shape == (len(pixels), 12) and np.allclose(found, grid_colours(pixels), atol=1e-6)


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 8, 9, 33, 64, 100, 256, 257, 600])
def test_any_number_of_images_gives_their_vectors(engine: TrtEngine, count: int) -> None:
    assert right(engine(drawn(count)), drawn(count))


def test_no_image_gives_no_vector(engine: TrtEngine) -> None:
    assert engine(drawn(0)).shape == (0, 12) and engine(drawn(0)).dtype == np.float32


@pytest.mark.parametrize("counts", [[8] * 7, [256, 256, 3], [1, 64, 7, 0, 300, 1], [5], [], [0, 0]])
def test_a_stream_gives_every_batch_in_order_whatever_their_sizes(
    engine: TrtEngine, counts: list[int]
) -> None:
    batches = [drawn(count, seed) for seed, count in enumerate(counts)]
    found = list(engine.stream(iter(batches)))
    assert len(found) == len(batches) and all(map(right, found, batches))


def test_vectors_given_out_are_not_overwritten_by_later_batches(engine: TrtEngine) -> None:
    stream = engine.stream(drawn(8, seed) for seed in range(6))
    first = next(stream)
    kept = first.copy()
    list(stream)
    assert np.array_equal(first, kept)


def test_a_stream_that_is_left_half_way_leaves_the_engine_usable(engine: TrtEngine) -> None:
    stream = engine.stream(drawn(8, seed) for seed in range(6))
    next(stream)
    stream.close()
    assert right(engine(drawn(9, 77)), drawn(9, 77))


def test_a_call_within_a_stream_is_refused_and_not_a_deadlock(engine: TrtEngine) -> None:
    stream = engine.stream(drawn(8, seed) for seed in range(3))
    next(stream)
    with pytest.raises(RuntimeError, match=r"^a stream of this engine is open in this thread\."):
        engine(drawn(1))
    assert len(list(stream)) == 2
    assert right(engine(drawn(1)), drawn(1))


def test_a_failing_source_of_batches_leaves_the_engine_usable(engine: TrtEngine) -> None:
    def batches():
        yield drawn(8)
        yield drawn(8, 1)
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        list(engine.stream(batches()))
    assert right(engine(drawn(9, 77)), drawn(9, 77))


def test_threads_take_turns(engine: TrtEngine) -> None:
    found: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: engine(drawn(20, i))})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(right(found[i], drawn(20, i)) for i in range(8))


def test_the_encoder_opens_it_checks_the_probe_and_agrees_with_the_cpu(
    gpu: Nvidia, opened: tuple[Path, ModelInfo]
) -> None:
    encoder = Encoder.open(opened[0], backend="trt")
    assert (encoder.backend, encoder.precision, encoder.batch) == ("trt", "fp32", 256)
    assert encoder.engine.provider == f"TensorRT {gpu.trt.__version__}, NVIDIA H200"
    cpu = Encoder.open(opened[0], backend="ort-cpu")
    assert np.allclose(encoder.encode(drawn(40)), cpu.encode(drawn(40)), atol=1e-6)


# --- sabotage: each rule of the pipeline is needed ---------------------------------------------


@pytest.mark.parametrize("rule", ["cudaStreamWaitEvent", "cudaEventSynchronize", "cudaEventRecord"])
def test_without_one_of_its_rules_the_numbers_are_wrong(engine: TrtEngine, gpu: Nvidia, rule: str) -> None:
    batches = [drawn(8, seed) for seed in range(5)]
    list(engine.stream(batches))  # graphs are there
    gpu.cuda.ignored = {rule}
    found = list(engine.stream([drawn(8, seed) for seed in range(50, 55)]))
    assert not all(right(vectors, drawn(8, seed)) for vectors, seed in zip(found, range(50, 55), strict=True))


# --- the calls -----------------------------------------------------------------------------------


def test_a_size_is_prepared_in_the_order_that_tensorrt_asks_for(engine: TrtEngine, gpu: Nvidia) -> None:
    engine(drawn(5))
    assert gpu.named(
        "create_execution_context", "set_optimization_profile_async", "set_input_shape", "set_tensor_address",
        "execute_async_v3", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch",
    ) == [
        "create_execution_context", "set_optimization_profile_async", "set_input_shape", "set_tensor_address",
        "set_tensor_address", "execute_async_v3", "cudaStreamBeginCapture", "execute_async_v3", "cudaStreamEndCapture",
        "cudaGraphInstantiate", "cudaGraphLaunch",
    ]  # fmt: skip
    assert ("set_input_shape", "images", (8, 16, 16, 3)) in gpu.calls
    assert ("set_optimization_profile_async", 1) in gpu.calls


@pytest.mark.parametrize(
    ("count", "size", "profile"), [(1, 1, 0), (8, 8, 1), (33, 64, 1), (65, 128, 2), (200, 256, 2)]
)
def test_a_batch_takes_the_smallest_size_and_the_first_profile_that_hold_it(
    engine: TrtEngine, gpu: Nvidia, count: int, size: int, profile: int
) -> None:
    engine(drawn(count))
    assert ("set_input_shape", "images", (size, 16, 16, 3)) in gpu.calls
    assert ("set_optimization_profile_async", profile) in gpu.calls


def test_once_a_size_is_captured_only_graphs_are_launched(engine: TrtEngine, gpu: Nvidia) -> None:
    list(engine.stream([drawn(8, seed) for seed in range(4)]))
    gpu.calls.clear()
    list(engine.stream([drawn(8, seed) for seed in range(4)]))
    assert gpu.named("cudaGraphLaunch") == ["cudaGraphLaunch"] * 4
    assert gpu.named("execute_async_v3", "create_execution_context", "cudaMalloc", "cudaHostAlloc") == []


def test_the_next_batch_goes_up_before_the_last_one_comes_down(engine: TrtEngine, gpu: Nvidia) -> None:
    list(engine.stream([drawn(8, seed) for seed in range(3)]))
    gpu.calls.clear()
    list(engine.stream([drawn(8, seed) for seed in range(3)]))
    copies = [("up" if call[4] == 1 else "down") for call in gpu.calls if call[0] == "cudaMemcpyAsync"]
    assert copies == ["up", "up", "down", "up", "down", "down"]


def test_copying_and_computing_are_two_streams(engine: TrtEngine, gpu: Nvidia) -> None:
    engine(drawn(8))
    copying = {call[5].number for call in gpu.calls if call[0] == "cudaMemcpyAsync"}
    computing = {call[2].number for call in gpu.calls if call[0] == "cudaGraphLaunch"}
    assert len(copying) == len(computing) == 1 and copying.isdisjoint(computing)


# --- what goes wrong -----------------------------------------------------------------------------


def test_everything_is_freed_at_the_end(engine: TrtEngine, gpu: Nvidia) -> None:
    engine(drawn(300))
    assert gpu.cuda.alive
    engine.close()
    assert gpu.cuda.alive == {} and gpu.cuda.memory_left == 1 << 30


def test_everything_is_freed_when_the_engine_is_forgotten(
    gpu: Nvidia, opened: tuple[Path, ModelInfo]
) -> None:
    engine = open_trt(*opened, "fp32", note=lambda line: None)
    engine(drawn(9))
    assert gpu.cuda.alive
    del engine
    gc.collect()
    assert gpu.cuda.alive == {}


@pytest.mark.parametrize("left", [0, 1 << 18, 1 << 19])
def test_memory_that_runs_out_while_opening_is_one_line_and_all_is_freed(
    gpu: Nvidia, opened: tuple[Path, ModelInfo], left: int
) -> None:
    gpu.cuda.memory_left = left
    with pytest.raises(
        ConfigError,
        match=r"^the GPU cannot be used: cuda\w+ gives cudaErrorMemoryAllocation\. Look at `nvidia-smi`",
    ):
        open_trt(*opened, "fp32", note=lambda line: None)
    assert gpu.cuda.alive == {}


def test_a_run_that_fails_is_one_line(engine: TrtEngine, gpu: Nvidia) -> None:
    gpu.trt.runs = False
    with pytest.raises(TensorRTError, match=r"^TensorRT fails to run the plan"):
        engine(drawn(3))


def test_a_plan_that_tensorrt_cannot_load_is_named(gpu: Nvidia, opened: tuple[Path, ModelInfo]) -> None:
    gpu.trt.loads = False
    with pytest.raises(
        ArtifactError,
        match=r"trt/encoder\.plan: TensorRT \S+ cannot load it\. Delete it; it is built again\.$",
    ):
        open_trt(*opened, "fp32", note=lambda line: None)


def test_a_plan_of_another_form_is_refused(
    gpu: Nvidia, opened: tuple[Path, ModelInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = gpu.trt.Builder

    def wider(logger: object) -> object:
        made = builder(logger)
        build = made.build_serialized_network
        made.build_serialized_network = lambda *args: json.dumps(
            json.loads(build(*args)) | {"width": 99}
        ).encode()
        return made

    monkeypatch.setattr(gpu.trt, "Builder", wider)
    with pytest.raises(
        ArtifactError, match=r"trt/encoder\.plan: takes and gives .*\(-1, 99\).* but the manifest describes"
    ):
        open_trt(*opened, "fp32", note=lambda line: None)


def test_code_of_the_plan_stays_forbidden(
    gpu: Nvidia, opened: tuple[Path, ModelInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes = []
    make = gpu.trt.Runtime
    monkeypatch.setattr(gpu.trt, "Runtime", lambda logger: runtimes.append(make(logger)) or runtimes[-1])
    open_trt(*opened, "fp32", note=lambda line: None)
    assert [runtime.engine_host_code_allowed for runtime in runtimes] == [False]
