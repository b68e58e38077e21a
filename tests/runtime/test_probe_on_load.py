import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from simclr.artifacts import ModelInfo
from simclr.errors import ExportMismatch
from simclr.runtime import Encoder, probe
from simclr.runtime.model_files import open_folder
from simclr.runtime.probe import check_probe, read_probe


@pytest.fixture(autouse=True)
def forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own."""
    monkeypatch.setattr(probe, "_checked", set())


@pytest.fixture
def opened(model: Path) -> tuple[Path, ModelInfo]:
    return open_folder(model)


class Answers:
    """Gives the probe's own vectors, turned away from some of them to a given cosine; counts its images."""

    backend, provider = "ort-cpu", "Answers 1.0"

    def __init__(self, folder: Path, info: ModelInfo, cosines: dict[int, float]) -> None:
        self.images, self.vectors = read_probe(folder, info)
        self.cosines, self.seen = cosines, 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += len(pixels)
        found = []
        for i, vector in enumerate(self.vectors[: len(pixels)]):
            away = np.zeros_like(vector)
            away[:2] = -vector[1], vector[0]  # at right angles to it
            cosine = self.cosines.get(i, 1.0)
            found.append(cosine * vector + np.sqrt(1 - cosine**2) * away / np.linalg.norm(away))
        return np.stack(found).astype(np.float32)


def with_probe_cosine(info: ModelInfo, cosine: float) -> ModelInfo:
    file = dataclasses.replace(info.files["encoder.onnx"], probe_cosine=cosine)
    return dataclasses.replace(info, files={"encoder.onnx": file})


def test_a_few_images_are_enough(opened: tuple[Path, ModelInfo]) -> None:
    engine = Answers(*opened, {})
    check_probe(engine, *opened, "fp32")
    assert engine.seen == 4


def test_the_same_file_on_the_same_backend_is_checked_once(opened: tuple[Path, ModelInfo]) -> None:
    engine = Answers(*opened, {})
    for _ in range(3):
        check_probe(engine, *opened, "fp32")
    assert engine.seen == 4
    engine.backend = "ort-cuda"
    check_probe(engine, *opened, "fp32")
    assert engine.seen == 8


def test_a_runtime_that_failed_is_checked_again(opened: tuple[Path, ModelInfo]) -> None:
    engine = Answers(*opened, {0: 0.5})
    for _ in range(2):
        with pytest.raises(ExportMismatch):
            check_probe(engine, *opened, "fp32")
    assert engine.seen == 8


def test_what_disagrees_is_named_with_provider_and_versions(opened: tuple[Path, ModelInfo]) -> None:
    folder, info = opened
    versions = ", ".join(f"{name} {version}" for name, version in sorted(info.versions.items()))
    with pytest.raises(ExportMismatch) as caught:
        check_probe(Answers(folder, info, {1: 0.9, 2: 0.8}), folder, info, "fp32")
    assert re.fullmatch(
        rf"{folder}/encoder.onnx: on ort-cpu \(Answers 1\.0\), probe image 2 has cosine 0\.80\d+ to its fp32 embedding, below "
        rf"0\.9999\d+; at export \({re.escape(versions)}\) the smallest was 1\.000000\. This runtime computes something else: "
        r"use another --backend, or export again\.",
        str(caught.value),
    )


@pytest.mark.parametrize(("at_export", "now", "passes"), [
    (0.99, 0.981, True), (0.99, 0.9799, False), (0.9999, 0.9998, True), (0.9999, 0.9997, False),
])  # fmt: skip
def test_a_load_may_be_twice_as_far_from_fp32_as_the_export_was(
    opened: tuple[Path, ModelInfo], at_export: float, now: float, passes: bool
) -> None:
    folder, info = opened[0], with_probe_cosine(opened[1], at_export)
    engine = Answers(folder, info, {3: now})
    if passes:
        check_probe(engine, folder, info, "fp32")
    else:
        with pytest.raises(ExportMismatch, match="probe image 3"):
            check_probe(engine, folder, info, "fp32")


def test_nan_is_no_agreement(opened: tuple[Path, ModelInfo]) -> None:
    with pytest.raises(ExportMismatch, match="has cosine nan"):
        check_probe(Answers(*opened, {2: float("nan")}), *opened, "fp32")


def test_every_opening_checks_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = probe.read_probe
    monkeypatch.setattr(probe, "read_probe", lambda *args: (read(*args)[0], -read(*args)[1]))
    with pytest.raises(ExportMismatch, match=r"has cosine -1\.000000"):
        Encoder.open(model, backend="ort-cpu")
