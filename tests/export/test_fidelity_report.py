import dataclasses

import pytest

from simclr.artifacts import EncoderInfo, Fidelity, ModelFile
from simclr.export.report import Row, recommendation, to_lines, to_markdown
from simclr.preprocess import Recipe

FIDELITY = Fidelity(
    images=1000, cosine_min=0.99991, cosine_low=0.99995, cosine_mean=0.99999, max_difference=0.001, recall_1=0.99,
    recall_10=0.987, top_1=0.98, batches=(1, 8), batch_cosine=1.0, measured_on="a provider", passed=True, failed="",
)  # fmt: skip
INFO = EncoderInfo(name="resnet18", small_stem=False, width=512, weights_sha256="a", recipe=Recipe())


def row(precision: str, speed: dict[int, float], *, accepted: bool = False, **fidelity: object) -> Row:
    file = ModelFile(
        sha256="", size=94_000_000, precision=precision, opset=18, probe_cosine=1.0,
        fidelity=dataclasses.replace(FIDELITY, **fidelity), accepted=accepted,
    )  # fmt: skip
    return Row(f"encoder.{precision}.onnx", file, speed)


FP32 = row("fp32", {1: 9.0, 8: 10.0})


def test_the_fastest_usable_precision_is_recommended_with_its_price() -> None:
    rows = [FP32, row("fp16", {1: 12.0, 8: 11.0}), row("int8", {1: 20.0, 8: 26.0}, recall_10=0.962)]
    assert recommendation(rows) == "recommended here: int8: 2.6x faster than fp32, 96.2% of neighbours kept"


def test_what_failed_is_not_recommended_unless_it_was_accepted() -> None:
    failed = {"passed": False, "failed": "recall@10 0.500, at least 0.94 needed", "recall_10": 0.5}
    assert "fp32, nothing" in recommendation([FP32, row("int8", {8: 26.0}, **failed)])
    assert "int8: 2.6x" in recommendation([FP32, row("int8", {8: 26.0}, accepted=True, **failed)])


@pytest.mark.parametrize("speed", [{}, {8: 11.0}])
def test_what_is_no_faster_here_or_does_not_run_is_not_recommended(speed: dict[int, float]) -> None:
    assert recommendation([FP32, row("fp16", speed)]) == (
        "recommended here: fp32, nothing else exported is faster on this machine"
    )


def test_neighbours_that_were_not_measured_are_not_promised() -> None:
    rows = [FP32, row("int8", {8: 26.0}, recall_1=None, recall_10=None, top_1=None)]
    assert recommendation(rows).endswith("2.6x faster than fp32, its neighbours were not measured")
    assert to_lines(rows)[2].split("  ")[-8:][0:1] != []
    assert to_lines(rows)[2].count("not measured") == 3


def test_the_table_lines_up() -> None:
    lines = to_lines([FP32, row("int8-trt", {}, passed=False, failed="x")])
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[2].endswith("UNUSABLE") and " 0.9870 " in lines[2]


def test_the_report_gives_every_number_its_provider_and_what_failed() -> None:
    text = to_markdown(
        INFO, [FP32, row("bf16", {}, passed=False, failed="smallest cosine 0.9, at least 0.9995 needed")]
    )
    assert text.startswith("# Fidelity of resnet18 at 224 px\n")
    assert (
        "| fp32 | 94.0 | 0.999910 | 0.999950 | 0.999990 | 0.9900 | 0.9870 | 0.9800 | 1.000000 | 10.0 | ok |"
        in text
    )
    assert "- bf16: smallest cosine 0.9, at least 0.9995 needed" in text
    assert "- fp32: 1000 images, a provider" in text
    assert "| precision | 1 | 8 |" in text and "| fp32 | 9.0 | 10.0 |" in text


def test_the_file_for_tensorrt_is_not_recommended_for_a_cpu_and_its_plan_is() -> None:
    fast = row("int8-trt", {8: 99.0})
    assert "fp32, nothing" in recommendation([FP32, fast])
    plan = dataclasses.replace(fast, name="trt/encoder.int8-trt.plan")
    assert "int8-trt: 9.9x" in recommendation([FP32, plan])
