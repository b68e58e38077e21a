"""Embedding in processes of their own: what a decoder does to its process costs one file, and the rest goes on."""

import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from simclr.embed import Report, Store, Workers, embed_sources
from simclr.embed import workers as workers_module
from simclr.embed.lane import Limits
from simclr.embed.tasks import Task
from simclr.errors import ArtifactError, ConfigError, SimclrError
from simclr.sources import Place

NOTHING_KNOWN = np.empty(0, np.uint64)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out.store"


@pytest.fixture
def hostile(monkeypatch) -> None:
    """Workers in which an image is decoded to harm, by the word that its file holds."""
    monkeypatch.setattr(
        workers_module,
        "_START",
        textwrap.dedent(
            """
            import ctypes, os, sys, time; sys.path[:] = {path!r}
            from simclr.embed import lane, worker
            decode = lane.decode
            def hostile(data, **options):
                if data == b"crash": os.abort()
                if data == b"exit": os._exit(3)
                if data == b"sleep": time.sleep(1000)
                if data == b"bug": raise KeyboardInterrupt
                if data == b"lock": ctypes.PyDLL(None).usleep(10_000_000)
                return decode(data, **options)
            lane.decode = hostile
            worker.main()
            """
        ),
    )


@pytest.fixture
def sync(model, out) -> Callable[..., Report]:
    def sync(*sources: Path, **options: object) -> Report:
        workers = Workers(model, **options)
        report = embed_sources(sources, out, workers, model=workers.model)
        report.seconds, report.bound, report.reasons = 0.0, "", {}
        return report

    return sync


def skipped(out: Path) -> dict[str, str]:
    with open(out / "skipped.csv", newline="") as file:
        return {path: reason for _, path, reason in list(csv.reader(file))[1:]}


def number_of_processes() -> int:
    """Children of this process that are alive."""
    done = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "stat="], capture_output=True, text=True)
    return sum(not line.startswith("Z") for line in done.stdout.split()) - 1  # ps itself


def test_a_process_computes_what_this_one_would(sync, embed, photos, out, tmp_path):
    assert sync(photos) == Report(added=12)
    embed(photos, store=tmp_path / "other.store")
    one, other = Store.open(out), Store.open(tmp_path / "other.store")
    assert one.rows() == other.rows()
    np.testing.assert_array_equal(next(one.blocks())[1], next(other.blocks())[1])
    assert number_of_processes() == 0


def test_the_choice_of_backend_is_said_once(model, photos, out):
    lines = []
    workers = Workers(model, note=lines.append)
    embed_sources([photos], out, workers, model=workers.model)
    assert [line.split(" (")[0] for line in lines] == ["backend: ort-cpu, fp32"]
    assert workers.memory > 1e7


def test_bad_files_are_told_apart_from_good_ones(sync, photos, out):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    assert sync(photos) == Report(added=12, skipped=1)
    assert skipped(out) == {"bad.jpg": "damaged JPEG: its header cannot be read"}


@pytest.mark.parametrize("backend", ["ort-cuda", "none"])
def test_a_model_that_does_not_open_is_the_error_of_opening_it(sync, photos, out, backend):
    with pytest.raises(ConfigError):
        sync(photos, backend=backend)
    assert not out.exists()
    assert number_of_processes() == 0


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no exported model"):
        Workers(tmp_path)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("crash", "ends the process that decodes it, with signal 6"),
        ("exit", "ends the process that decodes it, with exit code 3"),
    ],
)
def test_a_file_that_ends_its_process_is_found_and_skipped(sync, hostile, photos, out, harm, reason):
    (photos / "cold" / "bad.jpg").write_bytes(harm.encode())
    assert sync(photos) == Report(added=12, skipped=1)
    assert skipped(out) == {"cold/bad.jpg": reason}


def test_several_such_files_are_all_found(sync, hostile, photos, out):
    for name in ("a.jpg", "cold/b.jpg", "warm/c.jpg"):
        (photos / name).write_bytes(b"crash")
    assert sync(photos) == Report(added=12, skipped=3)
    assert set(skipped(out)) == {"a.jpg", "cold/b.jpg", "warm/c.jpg"}


def test_a_process_that_dies_whatever_it_gets_is_an_error(sync, hostile, tmp_path, out, monkeypatch):
    monkeypatch.setattr(workers_module, "_MOST_DEATHS", 5)
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(b"exit")
    with pytest.raises(SimclrError, match=r"ended with exit code 3, 5 times in a row"):
        sync(folder)
    assert number_of_processes() == 0


def test_files_that_hang_are_skipped_and_the_process_is_ended_after_three(sync, hostile, photos, out):
    for number in range(4):
        (photos / "cold" / f"slow{number}.jpg").write_bytes(b"sleep")
    assert sync(photos, limits=Limits(seconds=0.5)) == Report(added=12, skipped=4)
    assert set(skipped(out).values()) == {"takes longer than 0.5 s to read and decode"}
    assert number_of_processes() == 0


def test_a_decoder_that_stops_the_whole_process_is_ended_from_outside(
    sync, hostile, photos, out, monkeypatch
):
    """It holds Python's lock: no thread of its process can say so."""
    monkeypatch.setattr(workers_module, "_SILENT_SECONDS", 1.5)
    (photos / "cold" / "lock.jpg").write_bytes(b"lock")
    started = time.monotonic()
    assert sync(photos, limits=Limits(seconds=0.5)) == Report(added=12, skipped=1)
    assert skipped(out)["cold/lock.jpg"] == "ends the process that decodes it, with 2 s of silence"
    assert time.monotonic() - started < 20


def test_a_stuck_process_is_found_among_others_that_talk(model, hostile, photos, monkeypatch):
    """Two GPUs are made believe; messages of the other one must not hide that one is silent."""
    monkeypatch.setattr(workers_module, "_SILENT_SECONDS", 1.5)
    monkeypatch.setattr(workers_module, "gpu_count", lambda: 2)
    monkeypatch.setattr(
        workers_module,
        "_START",
        workers_module._START.replace(
            "worker.main()", "worker.Encoder.backend = 'ort-cuda'; worker.ALIVE_SECONDS = 0.2; worker.main()"
        ),
    )
    (photos / "lock.jpg").write_bytes(b"lock")
    places = [Place(str(path)) for path in [photos / "lock.jpg", *sorted(photos.rglob("*.png"))]]
    tasks = [Task(number, place, fresh=True) for number, place in enumerate(places)]
    started = time.monotonic()
    failed = []
    for done in Workers(model, limits=Limits(seconds=0.5)).run(tasks, NOTHING_KNOWN):
        failed += [(failure.number, failure.reason) for failure in done.failed]
    assert failed == [(0, "ends the process that decodes it, with 2 s of silence")]
    assert time.monotonic() - started < 20


def test_a_stop_is_heard_while_a_model_is_being_opened(model, photos, out, monkeypatch):
    monkeypatch.setattr(
        workers_module,
        "_START",
        "import sys, time; sys.path[:] = {path!r}; time.sleep(60); from simclr.embed import worker",
    )
    workers = Workers(model)
    asked = iter([False, False, True])
    stop = SimpleNamespace(is_set=lambda: next(asked, True))
    monkeypatch.setattr("simclr.embed.sync.stop_requests", lambda: nullcontext(stop))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        embed_sources([photos], out, workers, model=workers.model)
    assert time.monotonic() - started < 20
    assert number_of_processes() == 0


def test_an_error_of_ours_is_not_blamed_on_a_file(sync, hostile, photos):
    (photos / "bug.jpg").write_bytes(b"bug")
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        sync(photos)
    assert number_of_processes() == 0


def test_an_image_above_the_pixel_limit_is_skipped(sync, photos, out):
    Image.new("RGB", (200, 100)).save(photos / "large.png")
    assert sync(photos, limits=Limits(pixels=19_999)) == Report(added=12, skipped=1)
    assert skipped(out)["large.png"].startswith("too large: 200x100")
    assert sync(photos, limits=Limits(pixels=20_000)) == Report(added=1, kept=12)


def test_a_stop_commits_what_is_done_and_ends_the_processes(model, photos, out):
    def stop(done: int, total: int, words: str) -> None:
        if done:  # a worker that is slow to start is alive before it has done any
            os.kill(os.getpid(), signal.SIGINT)

    workers = Workers(model)
    with pytest.raises(KeyboardInterrupt):
        embed_sources([photos], out, workers, model=workers.model, progress=stop)
    assert len(Store.open(out)) == 8
    assert number_of_processes() == 0


def test_workers_end_when_the_one_they_work_for_is_killed(model, photos, tmp_path):
    script = f"""
import os, signal, sys
from simclr.embed import Workers
from simclr.embed.tasks import Task
import numpy as np
from simclr.sources import Place
workers = Workers({str(model)!r})
for done in workers.run([Task(0, Place({str(photos / "warm" / "red_dark.png")!r}))], np.empty(0, np.uint64)):
    print(open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    (pid,) = map(int, done.stdout.split())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_each_gpu_has_a_process_that_sees_only_it(model, photos, monkeypatch, tmp_path):
    """Three GPUs are made believe; each process writes down what it may see, and computes on the CPU."""
    monkeypatch.setattr(workers_module, "gpu_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr(
        workers_module,
        "_START",
        "import os, sys; sys.path[:] = {path!r}; from simclr.embed import worker; "
        f"open({str(tmp_path)!r} + '/' + os.environ['CUDA_VISIBLE_DEVICES'], 'w').close(); "
        "worker.Encoder.backend = 'ort-cuda'; "
        "worker.main()",
    )
    notes: list[str] = []
    places = [Place(str(path)) for path in sorted(photos.rglob("*.png"))] * 30

    def started() -> set[str]:
        return {path.name for path in tmp_path.iterdir() if path.is_file()}

    def tasks():
        for number, place in enumerate(places):
            for _ in range(400 * (number == 100)):
                if started() == {"4,5,6", "5", "6"}:
                    break
                time.sleep(0.05)
            yield Task(number, place, fresh=True)

    found: list[int] = []
    for done in Workers(model, note=notes.append).run(tasks(), NOTHING_KNOWN):
        found += [image.number for image in done.images]
    assert sorted(found) == list(range(360))
    assert started() == {"4,5,6", "5", "6"}
    assert notes[1] == "embedding on 3 GPUs, a process each"
