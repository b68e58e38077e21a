"""metrics.jsonl, TensorBoard events and report.html."""

import json
import sys
from pathlib import Path

import pytest

from simclr.pretrain.record import Recorder, read_metrics, write_report


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
    assert sorted(events.Tags()["scalars"]) == ["loss", "lr", "seconds", "top1"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 5.0), (1, 4.0), (2, 3.0)]


def test_without_tensorboard_the_run_goes_on_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    notes: list[str] = []
    Recorder(tmp_path, first_step=0, note=notes.append).close()
    assert notes == [
        "tensorboard is not installed, so no events are written. Run: pip install 'simclr-toolkit[train]'"
    ]


def test_the_report_is_one_file_that_says_title_and_settings(tmp_path):
    write(tmp_path, range(3))
    write_report(tmp_path, title="run <1>", settings='data = "a&b"', note=pytest.fail)
    page = (tmp_path / "report.html").read_text()
    assert "<h1>run &lt;1&gt;</h1>" in page
    assert "<pre>data = &quot;a&amp;b&quot;</pre>" in page
    assert 'src="data:image/png;base64,iVBOR' in page
    assert 'alt="loss, contrastive top-1 and learning rate over 3 steps"' in page


def test_without_matplotlib_there_is_no_report_and_a_note_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    notes: list[str] = []
    write_report(tmp_path, title="run", settings="", note=notes.append)
    assert notes == [
        "matplotlib is not installed, so there is no report.html. Run: pip install 'simclr-toolkit[train]'"
    ]
    assert not (tmp_path / "report.html").exists()
