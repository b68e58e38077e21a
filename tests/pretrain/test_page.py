"""The page that shows a run."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from simclr.pretrain.curves import Curves
from simclr.pretrain.page import About, duration, page, short_percent, size

NOW = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
EVERYTHING = {
    "loss": 4.5, "top1": 0.25, "entropy": 3.0, "lr": 0.3, "grad_norm": 0.7, "seconds": 2.0, "waited": 0.5, "rank": 12.0, "spread": 0.6,
    "alignment": 0.9, "uniformity": -2.5, "memory": 61.3e9, "knn": 0.55, "probe": 0.5, "probe_eval": 0.45,
}  # fmt: skip


def page_of(
    steps: int = 3,
    *,
    numbers: dict[str, float] = EVERYTHING,
    alarms: list[tuple[int, str]] | None = None,
    live: bool = True,
    **about: Any,
) -> str:
    curves = Curves()
    for step in range(steps):
        curves.add({"step": step} | numbers)
    plain = {"title": "run", "settings": "seed = 0", "total_steps": 10, "batch_size": 256}
    return page(About(**(plain | about)), curves, alarms or [], now=NOW, live=live)


def tiles(text: str) -> dict[str, str]:
    return dict(re.findall(r"<div><span>(.*?)</span><b>(.*?)</b></div>", text))


def rows(text: str) -> dict[str, tuple[str, str]]:
    found = re.findall(r'<tr><td>(.*?)</td><td>(.*?)</td><td class="why">(.*?)</td></tr>', text)
    return {name: (value, why) for name, value, why in found}


def panels(text: str) -> list[str]:
    return re.findall(r"<figcaption>([^<]*)", text)


class Tags(HTMLParser):
    """What is open when the text ends, and what was closed without being open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_state_is_said_in_a_few_numbers():
    assert tiles(page_of()) == {
        "step, 30% done": "3 of 10",
        "speed": "128.0 images/s",
        "time left at this speed": "14 s",
        "waiting for images": "25% of the time",
        "most memory held": "61.3 GB",
    }


def test_each_number_stands_beside_what_it_is_read_against():
    """B 256: log 511 = 6.236, log 256 = 5.545, 1/256 = 0.39%. D 128: 8/128 - 4 = -3.94."""
    found = rows(page_of(dimensions=128, raw_pixels=0.31))
    assert found["loss"] == ("4.500", "6.236 by chance, log(2B − 1)")
    assert found["contrastive top-1"] == ("25.0%", "0.39% by chance, 1/B")
    assert found["contrastive entropy"] == ("3.000", "5.545 if all images look alike, log B")
    assert found["kNN accuracy"] == ("55.0%", "plain pixels have 31.0%")
    assert found["uniformity"][1] == "0 if all projections are alike, about -3.94 if evenly scattered"
    assert found["rank"] == ("12.0", "dimensions that projections use, of 128")


def test_numbers_that_a_run_has_not_are_left_out():
    text = page_of(numbers={"loss": 4.5, "lr": 0.1, "mood": 3.0})
    assert list(rows(text)) == ["loss", "learning rate"]
    assert panels(text) == ["Loss", "Learning rate"]
    assert list(tiles(text)) == ["step, 30% done"]


def test_every_number_has_its_panel():
    assert panels(page_of()) == [
        "Loss", "Contrastive top-1", "Contrastive entropy", "Accuracy", "Geometry", "Rank of the projections",
        "Spread of the projections", "Gradient norm", "Learning rate", "Images a second", "Share of time waiting for images",
        "Most memory held, GB",
    ]  # fmt: skip


def test_a_live_page_loads_itself_again_and_a_last_one_does_not():
    live, stopped, finished = page_of(), page_of(live=False), page_of(10, live=False)
    assert '<meta http-equiv="refresh" content="30">' in live
    assert "running, loads again every 30 s · written 2026-03-01 12:34:56 UTC" in live
    assert "stopped · written" in stopped
    assert "finished · written" in finished
    assert "refresh" not in stopped + finished


def test_alarms_are_shown_newest_first_and_the_oldest_counted():
    assert 'class="alarms"' not in page_of()
    text = page_of(alarms=[(step, f"alarm <{step}>") for step in range(1000, 1023)])
    shown = re.findall(r"<li>(.*?)</li>", text)
    assert shown[0] == "step 1,022: alarm &lt;1022&gt;"
    assert shown[-1] == "and 3 earlier, in notes.jsonl"
    assert len(shown) == 21


def test_skipped_images_are_counted():
    assert tiles(page_of(numbers=EVERYTHING | {"skipped": 0.0})).get("images skipped") is None
    assert tiles(page_of(numbers=EVERYTHING | {"skipped": 1234.0}))["images skipped"] == "1,234"


def test_words_of_the_user_are_text_and_no_tags():
    text = page_of(title="run <1>", settings='data = "a&b</pre>{x}"')
    assert "<h1>run &lt;1&gt;</h1>" in text
    assert "<pre>data = &quot;a&amp;b&lt;/pre&gt;{x}&quot;</pre>" in text


@pytest.mark.parametrize("steps", [0, 1, 2, 10, 3000])
def test_the_page_is_one_well_formed_file(steps):
    text = page_of(steps, alarms=[(0, "x")], dimensions=128, raw_pixels=0.1)
    tags = Tags(text)
    assert (tags.open, tags.wrong) == ([], [])
    assert not re.search(r'(src|href)="|url\(|@import|<script', text)  # nothing is fetched
    assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (44.6, "45 s"), (60, "1 min"), (3599, "1 h 00 min"), (11_100, "3 h 05 min"), (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_said_in_two_units(seconds, text):
    assert duration(seconds) == text


def test_sizes_and_small_shares_are_short():
    assert [size(n) for n in (850e6, 61.3e9)] == ["850 MB", "61.3 GB"]
    assert [short_percent(x) for x in (1 / 4096, 1 / 8)] == ["0.024%", "12.5%"]
