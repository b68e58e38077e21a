import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simclr import benchmark as measuring
from simclr.benchmark import Failure, Speed, benchmark
from simclr.cli import app
from simclr.errors import ArtifactError


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, so that the time can be shortened, and one call after another."""

    class Pool:
        def __init__(self, *args: object, **keywords: object) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *args: object) -> None: ...
        def submit(self, work: object, *args: object) -> "Pool":
            self.work = lambda: work(*args)  # type: ignore[operator]
            return self

        def result(self) -> object:
            return self.work()

    monkeypatch.setattr(measuring, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(measuring, "_SECONDS", 1e-9)


def test_each_batch_size_is_a_row_with_its_numbers(model: Path) -> None:
    rows = list(benchmark(model, batches=(1, 7)))
    assert [(row.backend, row.precision, row.batch) for row in rows] == [
        ("ort-cpu", "fp32", 1),
        ("ort-cpu", "fp32", 7),
    ]
    for row in rows:
        assert isinstance(row, Speed)
        assert row.images_per_second == pytest.approx(1000 * row.batch / row.milliseconds)
        assert row.probe_cosine > 0.999999 and row.recall_10 is None and row.memory > 10e6
        assert row.provider.startswith("CPUExecutionProvider, ONNX Runtime ")


def test_a_batch_above_the_largest_is_left_out(model: Path) -> None:
    assert [row.batch for row in benchmark(model, batches=(1, 257))] == [1]


def test_what_does_not_run_is_a_row_with_its_reason_and_the_rest_is_measured(model: Path) -> None:
    cuda, cpu = benchmark(model, backends=("ort-cuda", "ort-cpu"), batches=(1,))
    assert isinstance(cuda, Failure) and cuda.reason.startswith("backend ort-cuda is not in this onnxruntime")
    assert isinstance(cpu, Speed)


def test_a_folder_without_an_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no exported model"):
        list(benchmark(tmp_path))


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["benchmark", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_a_table_or_json(model: Path) -> None:
    code, out, _ = run(model, "--batch", "1,2")
    head, *rows = out.splitlines()
    assert code == 0 and len(rows) == 2
    assert {len(row) for row in rows} == {len(head)} and head.split()[:3] == ["backend", "precision", "batch"]
    code, out, _ = run(model, "--batch", "2", "--json")
    assert code == 0 and json.loads(out)["kind"] == "speed" and json.loads(out)["batch"] == 2


@pytest.mark.parametrize("batch", ["0", "x", "1,", "-1", "1.5"])
def test_a_batch_that_is_no_number_is_refused(model: Path, batch: str) -> None:
    code, out, err = run(model, "--batch", batch)
    assert (code, out) == (2, "")
    assert err == f"error: --batch {batch!r}: give whole numbers with commas between, such as 1,8,32.\n"


def test_nothing_measured_is_a_failure(model: Path) -> None:
    code, out, _ = run(model, "--backend", "ort-cuda", "--precision", "fp32")
    assert code == 1 and "ort-cuda" in out
