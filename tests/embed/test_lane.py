"""Batches form after bad files have dropped out; decoding runs ahead of the model, and takes turns with it where they share cores."""

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.embed.lane import FLUSH, Decoding, Lane, Limits, encode
from simclr.embed.tasks import Done, Seconds, Task, bound
from simclr.errors import ImageError
from simclr.preprocess import Recipe
from simclr.sources import Place

NOTHING_KNOWN = np.empty(0, np.uint64)


class Means:
    """An encoder that gives the mean colour; one that works ahead gives a batch only when it has been given the next."""

    def __init__(
        self, *, batch: int = 4, backend: str = "ort-cpu", ahead: bool = False, seconds: float = 0.0
    ) -> None:
        self.recipe = Recipe(size=8, crop=1.0)
        self.identity, self.width, self.batch, self.backend = "means", 3, batch, backend
        self.ahead, self.seconds = ahead, seconds
        self.sizes: list[int] = []
        self.decoding_meanwhile = 0
        self.busy = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.sizes.append(len(pixels))
        before = self.decoded
        time.sleep(self.seconds)
        self.decoding_meanwhile += self.decoded - before
        return pixels.mean((1, 2), dtype=np.float32).reshape(-1, 3)

    decoded = 0

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        if not self.ahead:
            yield from map(self, batches)
            return
        held: list[np.ndarray] = []
        for pixels in batches:
            held.append(self(pixels))
            if len(held) > 1 or not len(pixels):
                yield held.pop(0)
            if not len(pixels):
                yield from held
                held.clear()
        yield from held


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve images of one colour each; the fourth and the ninth are none."""
    paths = []
    for number in range(12):
        path = tmp_path / f"{number:02d}.png"
        if number in (3, 8):
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (9, 7), (number, 2 * number, 3 * number)).save(path)
        paths.append(path)
    return paths


def tasks(files: list[Path]) -> list[Task]:
    return [Task(number, Place(str(path))) for number, path in enumerate(files)]


def check(found: list[Done]) -> None:
    """Every file once, with its own colour."""
    numbers = [image.number for done in found for image in done.images]
    assert numbers == [n for n in range(12) if n not in (3, 8)]
    vectors = np.concatenate([done.vectors for done in found])
    np.testing.assert_array_equal(vectors, [[n, 2 * n, 3 * n] for n in numbers])
    assert [failed.number for done in found for failed in done.failed] == [3, 8]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_vectors_stay_with_their_files_whatever_drops_out(files, batch, ahead):
    encoder = Means(batch=batch, ahead=ahead)
    found = list(Lane(encoder).run(tasks(files), NOTHING_KNOWN))
    check(found)
    full, rest = divmod(10, batch)
    assert [size for size in encoder.sizes if size] == [batch] * full + [rest] * (rest > 0)


@pytest.mark.parametrize("ahead", [False, True])
def test_after_a_flush_everything_has_been_answered(files, ahead):
    """Also by an engine that holds a batch back until it gets the next."""
    encoder = Means(batch=4, ahead=ahead)
    decoding = Decoding(encoder, Limits(), threads=2, is_known=lambda digest: False)
    answered: list[int] = []

    def jobs() -> Iterator[object]:
        for task in tasks(files):
            yield task, decoding.threads.submit(task)
            if task.number in (5, 9, 11):
                yield FLUSH
                assert sorted(answered) == list(range(task.number + 1))

    for done in encode(jobs(), decoding, encoder, set()):
        answered += [result.number for part in (done.images, done.failed) for result in part]
    assert sorted(answered) == list(range(12))
    decoding.close()


def test_a_batch_of_bad_files_alone_reaches_no_model(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(9)]
    for path in paths:
        path.write_bytes(b"")
    encoder = Means(batch=4)
    found = list(Lane(encoder).run(tasks(paths), NOTHING_KNOWN))
    assert [len(done.failed) for done in found] == [4, 4, 1]
    assert sum(encoder.sizes) == 0


@pytest.mark.parametrize(("backend", "meanwhile"), [("ort-cpu", False), ("ort-cuda", True)])
def test_decoding_and_the_model_take_turns_only_where_they_share_cores(
    tmp_path, monkeypatch, backend, meanwhile
):
    paths = [tmp_path / f"{n}.png" for n in range(24)]
    for n, path in enumerate(paths):
        Image.new("RGB", (9, 7), (n, n, n)).save(path)
    encoder = Means(batch=2, backend=backend, seconds=0.05)
    whole = Recipe.apply

    def apply(self: Recipe, image: Image.Image) -> np.ndarray:
        time.sleep(0.01)
        pixels = whole(self, image)
        encoder.decoded += 1
        return pixels

    monkeypatch.setattr(Recipe, "apply", apply)
    list(Lane(encoder, threads=1).run(tasks(paths), NOTHING_KNOWN))
    # one that had begun may end while the model runs
    assert (encoder.decoding_meanwhile > len(encoder.sizes)) == meanwhile


def test_waiting_for_the_model_is_no_files_own_time(files):
    found = list(
        Lane(Means(batch=1, seconds=0.2), limits=Limits(seconds=0.3)).run(tasks(files), NOTHING_KNOWN)
    )
    check(found)


def test_files_that_hang_end_a_lane_of_this_process_after_three(files, monkeypatch):
    end = threading.Event()
    monkeypatch.setattr("simclr.embed.lane.decode", lambda data, **options: end.wait())
    lane = Lane(Means(batch=2), limits=Limits(seconds=0.05))
    with pytest.raises(ImageError, match=r"3 files took longer than 0\.05 s each"):
        list(lane.run(tasks(files), NOTHING_KNOWN))
    end.set()


def test_what_bounds_the_rate_is_the_model_unless_it_waits():
    assert bound(Seconds(waiting=1, model=9, reading=5, decoding=1)) == "the model"
    assert bound(Seconds(waiting=3, model=7, reading=5, decoding=1)) == "reading"
    assert bound(Seconds(waiting=3, model=7, reading=1, decoding=5)) == "decoding"
    assert bound(Seconds()) == ""
