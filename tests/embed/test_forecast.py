"""A dry run tells what a run would do, and changes nothing."""

import os
from pathlib import Path

import pytest

from simclr.embed import Lane, Report
from simclr.embed.forecast import Forecast, forecast
from simclr.embed.survey import Selection
from simclr.embed.words import of_forecast, of_report
from simclr.errors import ImageError


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def expect(encoder, tmp_path):
    def expect(*sources: Path, **options: object) -> Forecast:
        return forecast(sources, tmp_path / "out.store", Lane(encoder), model=encoder.folder, **options)

    return expect


def test_a_first_run_is_all_new_and_leaves_no_store(expect, encoder, photos, tmp_path):
    (photos / "note.txt").write_text("no image")
    before = contents(tmp_path)
    found = expect(photos)
    assert (found.new, found.changed, found.gone, found.kept, found.skipped) == (12, 0, 0, 0, 1)
    assert found.sampled == 12
    assert found.disk_bytes > (encoder.folder / "encoder.onnx").stat().st_size + 12 * 24
    assert contents(tmp_path) == before


def test_it_counts_what_the_run_then_does(expect, embed, photos, tmp_path):
    embed(photos)
    (photos / "new.png").write_bytes((photos / "warm" / "red_dark.png").read_bytes())
    (photos / "cold" / "blue_dark.png").unlink()
    touched = photos / "cold" / "green_dark.png"
    os.utime(touched, ns=(0, 0))
    before = contents(tmp_path)
    found = expect(photos)
    assert (found.new, found.changed, found.gone, found.kept) == (1, 1, 1, 10)
    assert contents(tmp_path) == before
    assert embed(photos) == Report(copied=1, kept=11, dropped=1)


def test_with_nothing_to_do_no_model_is_asked(expect, embed, photos, monkeypatch):
    embed(photos)
    monkeypatch.setattr(Lane, "run", lambda *words: pytest.fail("the model was asked"))
    found = expect(photos)
    assert (found.kept, found.sampled, found.images_per_second, found.seconds) == (12, 0, None, None)


def test_the_sample_is_spread_over_the_images_and_small(expect, encoder, photos, monkeypatch):
    monkeypatch.setattr(encoder, "batch", 4)
    monkeypatch.setattr("simclr.embed.forecast.SAMPLE", 3)
    monkeypatch.setattr("simclr.embed.forecast.SAMPLE_BATCHES", 0)
    seen = []
    run = Lane.run
    monkeypatch.setattr(
        Lane, "run", lambda self, tasks, known: run(self, (seen.append(t.number) or t for t in tasks), known)
    )
    monkeypatch.setattr("simclr.embed.lane.AHEAD", 1)
    found = expect(photos)
    assert found.sampled == 8  # the first batch, and one that holds three
    assert sorted(seen) != list(range(len(seen)))


def test_patterns_count(expect, photos):
    assert expect(photos, selection=Selection(include=("*_dark.png",))).new == 6


def test_a_missing_folder_is_an_error_as_in_the_run(expect, tmp_path):
    with pytest.raises(ImageError, match="no such folder"):
        expect(tmp_path / "none")


def test_words_of_a_forecast_give_time_disk_and_memory():
    lines = of_forecast(
        Forecast(120_000, 3, 7, 50, 2, 200, 40.0, 3000.0, "the model", 123_456_789, 900_000_000),
        Path("out.store"),
    ).splitlines()
    assert lines[0] == "out.store: would become"
    assert lines[1].split()[:2] == ["new", "120,000"]
    assert (
        " ".join(lines[6].split())
        == "time 50 min 0 s at 40.0 images/s, bound by the model, found by 200 images"
    )
    assert " ".join(lines[7].split()) == "disk 123.5 MB more"
    assert " ".join(lines[8].split()) == "memory 900 MB"


def test_words_of_a_report_name_the_commonest_reasons():
    report = Report(
        added=10,
        kept=5,
        skipped=15,
        reasons={"a": 1, "b": 5, "c": 4, "d": 3, "e": 2},
        seconds=2.0,
        bound="decoding",
    )
    lines = of_report(report, Path("out.store")).splitlines()
    assert lines[0] == "out.store: 15 images of these sources"
    assert (
        " ".join(lines[7].split())
        == "skipped 15 b 5, c 4, d 3, e 2, other 1; each is in out.store/skipped.csv"
    )
    assert lines[8] == "  5.0 images/s in 2.0 s, bound by decoding"


def test_a_model_with_large_batches_gets_several_of_them(expect, encoder, photos, monkeypatch):
    """The first batch is not counted: decoding ahead of it makes it slow, or those after it fast."""
    for number in range(60):
        (photos / f"{number}.png").write_bytes(
            (photos / "warm" / "red_dark.png").read_bytes() + bytes(number + 1)
        )
    monkeypatch.setattr("simclr.embed.forecast.SAMPLE", 3)
    monkeypatch.setattr(encoder, "batch", 10)
    found = expect(photos)
    assert (found.new, found.sampled) == (72, 50)
    assert found.images_per_second is not None
