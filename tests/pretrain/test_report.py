"""When report.html is written, and the alarms that outlive a resume."""

from pathlib import Path

import pytest

from simclr.pretrain import report as report_module
from simclr.pretrain.curves import Curves
from simclr.pretrain.page import About
from simclr.pretrain.report import Report

ABOUT = About(title="run", settings="", total_steps=10, batch_size=8)


class Time:
    """A clock on which drawing a page takes `drawing` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, drawing: float) -> None:
        self.now, self.drawn = 1000.0, 0

        def page(*args: object, **rest: object) -> str:
            self.now += drawing
            self.drawn += 1
            return "page"

        monkeypatch.setattr(report_module, "page", page)

    def __call__(self) -> float:
        return self.now

    def pages_in(self, report: Report, seconds: int) -> int:
        """With a step every tenth of a second."""
        before, end = self.drawn, self.now + seconds
        while self.now < end:
            report.maybe()
            self.now += 0.1
        return self.drawn - before


def test_a_page_is_written_at_once_and_then_every_half_minute(tmp_path, monkeypatch):
    clock = Time(monkeypatch, drawing=0.1)
    report = Report(tmp_path, Curves(), ABOUT, clock=clock)
    report.maybe()
    assert (tmp_path / "report.html").read_text() == "page"
    assert clock.pages_in(report, 300) == 9


def test_drawing_that_takes_long_is_done_seldom(tmp_path, monkeypatch):
    """3 s a page: the next one 150 s later, so 2 % of the time."""
    clock = Time(monkeypatch, drawing=3)
    report = Report(tmp_path, Curves(), ABOUT, clock=clock)
    assert clock.pages_in(report, 3060) == 20


def test_an_alarm_is_on_the_page_at_the_next_step(tmp_path):
    report = Report(tmp_path, Curves(), ABOUT, clock=lambda: 0.0)
    report.write()
    report.maybe()
    assert "the projections" not in (tmp_path / "report.html").read_text()
    report.say(7, "the projections have collapsed")
    report.maybe()
    assert "<li>step 7: the projections have collapsed</li>" in (tmp_path / "report.html").read_text()


def test_alarms_outlive_a_resume_and_a_torn_last_line(tmp_path):
    Report(tmp_path, Curves(), ABOUT).say(7, "Überlauf")
    with open(tmp_path / "notes.jsonl", "a") as file:
        file.write('{"step": 8, "wo')
    report = Report(tmp_path, Curves(), ABOUT)
    assert report.alarms == [(7, "Überlauf")]
    report.say(9, "again")
    assert Report(tmp_path, Curves(), ABOUT).alarms == [(7, "Überlauf"), (9, "again")]


def test_an_alarm_that_is_repeated_at_once_is_kept_once(tmp_path):
    report = Report(tmp_path, Curves(), ABOUT)
    for words in ("a", "a", "b", "a"):
        report.say(7, words)
    assert report.alarms == [(7, "a"), (7, "b"), (7, "a")]
    assert len((tmp_path / "notes.jsonl").read_text().splitlines()) == 3


def test_the_last_page_of_a_run_does_not_load_itself_again(tmp_path):
    report = Report(tmp_path, Curves(), ABOUT)
    report.write()
    assert "refresh" in (tmp_path / "report.html").read_text()
    report.write(live=False)
    assert "refresh" not in (tmp_path / "report.html").read_text()


def test_nothing_but_the_page_and_the_notes_is_left(tmp_path: Path):
    report = Report(tmp_path, Curves(), ABOUT)
    report.say(0, "x")
    report.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.jsonl", "report.html"]
