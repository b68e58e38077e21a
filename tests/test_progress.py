import sys

import pytest

from simclr import progress
from simclr.progress import show


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `progress` sees, as the one entry of a list."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_tells_done_total_rate_time_left_and_words(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with show("embedding") as update:
        update(1000, 5000, "")
        clock[0] += 10
        update(2000, 5000, "3 skipped")
    assert capsys.readouterr() == (
        "",
        "embedding: 2,000 of 5,000 images, 100.0 images/s, 30 s left  3 skipped\n",
    )


def test_lines_are_ten_seconds_apart(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show("embedding") as update:
        for second in range(30):
            clock[0] = 100.0 + second
            update(second, 100, "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["embedding: 10", "embedding: 20"]


def test_the_last_line_always_comes_and_ends_cleanly(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with show("embedding") as update:
        update(0, 8, "")
        clock[0] += 2
        update(8, 8, "")
    assert capsys.readouterr().err == "embedding: 8 of 8 images, 4.0 images/s\n"


def test_what_was_done_before_does_not_count_as_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with show("embedding") as update:
        update(900, 1000, "")
        clock[0] += 10
        update(1000, 1000, "")
    assert "10.0 images/s" in capsys.readouterr().err


def test_no_time_passed_is_no_speed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show("embedding") as update:
        update(8, 8, "")
    assert capsys.readouterr().err == "embedding: 8 of 8 images\n"


def test_a_terminal_gets_a_bar_on_stderr_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show("embedding") as update:
        update(3, 8, "1 skipped")
    out, err = capsys.readouterr()
    assert out == ""
    assert "embedding" in err and "3/8" in err and "1 skipped" in err
