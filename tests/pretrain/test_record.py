"""metrics.jsonl, TensorBoard events, and words for a progress line."""

import json
import math
import sys
from pathlib import Path

import pytest

from simclr.pretrain.record import Recorder, read_metrics, words


def line(step: int) -> dict[str, float]:
    return {"step": step, "loss": 5 - step, "top1": 0.1 * step, "lr": 0.01, "seconds": 0.5}


def write(folder: Path, steps: range, *, first_step: int | None = None) -> None:
    recorder = Recorder(
        folder, first_step=steps.start if first_step is None else first_step, note=pytest.fail
    )
    for step in steps:
        recorder.write(line(step))
    recorder.close()


def test_metrics_have_one_object_a_step(tmp_path):
    write(tmp_path, range(3))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(one) for one in text.splitlines()] == [line(0), line(1), line(2)]
    assert text.endswith("\n")


def test_a_line_can_be_read_while_the_run_goes_on(tmp_path):
    recorder = Recorder(tmp_path, first_step=0, note=pytest.fail)
    recorder.write(line(0))
    try:
        assert read_metrics(tmp_path) == [line(0)]
    finally:
        recorder.close()


def test_steps_that_are_done_again_are_cut_off_first(tmp_path):
    write(tmp_path, range(5))
    write(tmp_path, range(3, 4))
    assert read_metrics(tmp_path) == [line(0), line(1), line(2), line(3)]


def test_a_run_from_the_start_leaves_nothing_of_the_one_before(tmp_path):
    write(tmp_path, range(5))
    write(tmp_path, range(1))
    assert read_metrics(tmp_path) == [line(0)]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "\0\0\0\0", '{"step": 2, "loss": 3'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    write(tmp_path, range(2))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    assert read_metrics(tmp_path) == [line(0), line(1)]


def test_a_torn_last_line_is_written_whole_by_the_resumed_run(tmp_path):
    write(tmp_path, range(2))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    write(tmp_path, range(2, 4))
    assert read_metrics(tmp_path) == [line(step) for step in range(4)]


def test_a_folder_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_shows_each_number_at_its_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(3))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["contrast/top1", "cost/seconds", "loss/loss", "optimiser/lr"]
    assert [(event.step, event.value) for event in events.Scalars("loss/loss")] == [
        (0, 5.0),
        (1, 4.0),
        (2, 3.0),
    ]


def test_without_tensorboard_the_run_goes_on_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notes: list[str] = []
    Recorder(tmp_path, first_step=0, note=notes.append).close()
    assert notes == [
        "tensorboard is not installed, so no events are written. Run: pip install 'simclr-toolkit[train]'"
    ]


def test_any_number_is_taken(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = Recorder(tmp_path, first_step=0, note=pytest.fail)
    recorder.write({"step": 0, "mood": 3.0, "knn": 0.5})
    recorder.write({"step": 1, "knn": None})
    recorder.close()
    assert read_metrics(tmp_path) == [{"step": 0, "mood": 3.0, "knn": 0.5}, {"step": 1, "knn": None}]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["accuracy/knn", "other/mood"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null_since_json_has_no_word_for_it(tmp_path, value):
    recorder = Recorder(tmp_path, first_step=0, note=pytest.fail)
    recorder.write({"step": 0, "loss": 5.0, "grad_norm": value})
    recorder.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "loss": 5.0, "grad_norm": null}\n'


def test_a_line_without_its_end_is_torn_even_if_it_reads_well(tmp_path):
    write(tmp_path, range(2))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line(2)))
    assert read_metrics(tmp_path) == [line(0), line(1)]
    write(tmp_path, range(2, 4))
    assert read_metrics(tmp_path) == [line(step) for step in range(4)]


def test_the_curves_of_a_resumed_run_go_on_where_it_was_cut(tmp_path):
    write(tmp_path, range(5))
    recorder = Recorder(tmp_path, first_step=3, note=pytest.fail)
    assert recorder.curves.by_name["loss"].means() == [(0, 5), (1, 4), (2, 3)]
    recorder.write(line(3))
    recorder.close()
    assert recorder.curves.by_name["loss"].means() == [(0, 5), (1, 4), (2, 3), (3, 2)]
    assert recorder.curves.steps == 4


def test_progress_is_said_in_the_numbers_that_there_are():
    newest = {"step": 9, "loss": 4.3834, "top1": 0.245}
    assert words({}) == ""
    assert words(newest) == "loss 4.383  top-1 24.5%"
    newest |= {"seconds": 2.0, "waited": 0.06, "knn": 0.512, "probe_eval": 0.48}
    assert words(newest) == "loss 4.383  top-1 24.5%  kNN 51.2%  probe 48.0%  waiting 3%"
    assert "waiting" not in words(newest | {"waited": 0.01})
