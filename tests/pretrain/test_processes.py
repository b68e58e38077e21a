"""Several processes that train one model: the same run on 1, 2 or 3, whatever stops it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr.errors import SimclrError
from simclr.pretrain.checkpoint import TrainingState, newest_whole_checkpoint
from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.launch import start_together
from simclr.pretrain.report import Report
from simclr.pretrain.train import run

BATCH, STEPS = 8, 9
"""16 images, batch 8, four epochs: 16 * 4 // 8 + 1."""


# ---- processes of this test, forked from a server that has torch loaded


def config_for(photos: Path, **settings: Any) -> PretrainConfig:
    plain: dict[str, Any] = dict(
        data=str(photos), encoder="test_resnet", image_size=32, batch_size=BATCH, epochs=4, device="cpu", seed=3,
        workers=0, threads=1, head_out=16, chunk=4,
    )  # fmt: skip
    return PretrainConfig(**(plain | settings))


def work(config: PretrainConfig, out: Path, resume: bool) -> None:
    """What each process does; its notes and how it ended go to a file of its own."""
    Report.write = lambda *args, **rest: None  # drawing it takes longer than the training here
    log = out.parent / f"{out.name}.rank{os.environ['RANK']}"
    with open(log, "w") as file:

        def note(line: str) -> None:
            print(line, file=file, flush=True)

        try:
            run(config, out=out, resume=resume, note=note)
        except (SimclrError, SystemExit) as exc:
            note(f"{type(exc).__name__}: {exc}")
            raise SystemExit(1) from None


def train(count: int, config: PretrainConfig, out: Path, *, resume: bool = False) -> list[list[str]]:
    """Runs to the end; the lines of each process."""
    processes = start_together(count, partial(work, config, out, resume))
    for process in processes:
        process.join(300)
        assert process.exitcode is not None
    return [(out.parent / f"{out.name}.rank{rank}").read_text().splitlines() for rank in range(count)]


def is_running(processes: list[BaseProcess]) -> bool:
    return all(process.is_alive() for process in processes)


# ---- processes as a user starts them


def command(photos: Path, out: Path, *more: object, epochs: int = 4) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "simclr",
        "pretrain",
        "--data",
        photos,
        "--out",
        out,
        "--encoder",
        "test_resnet",
    ]
    words += ["--image-size", 32, "--batch-size", BATCH, "--epochs", epochs, "--device", "cpu", "--seed", 3]
    words += ["--chunk", 4, "--set", "workers=0", "--set", "head_out=16", "--set", "threads=1", *more]
    return [str(word) for word in words]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | environment,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The whole lines; the last may be half written."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def steps_recorded(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest(folder: Path) -> TrainingState:
    state = newest_whole_checkpoint(folder / "checkpoints", note=lambda line: None)
    assert state is not None
    return state


def wait_for_steps(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while steps_recorded(folder) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def pids_of(folder: Path) -> list[int]:
    """The processes that train, not the one that watches them."""
    found = subprocess.run(
        ["pgrep", "-f", f"simclr pretrain --out {folder} "], capture_output=True, text=True
    )
    return [int(word) for word in found.stdout.split()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(16):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(1, config_for(pictures), out)
    return out


def assert_same_run(folder: Path, other: Path) -> None:
    """The same steps, and numbers as near as float32 sums in another order are after nine steps."""
    ours, theirs = metrics_of(folder), metrics_of(other)
    assert [line["step"] for line in ours] == list(range(STEPS))
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=2e-3)
    a, b = newest(folder).model, newest(other).model
    for name, tensor in a.items():
        limit = 5e-2 * float(b[name].abs().max())
        torch.testing.assert_close(
            tensor, b[name], rtol=1e-2, atol=limit, msg=lambda words, name=name: f"{name}: {words}"
        )


@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_of_several_processes_is_that_of_one(pictures, alone, tmp_path, processes):
    """Three do not divide the batch of eight. (To 1e-9, in float64: tests/pretrain/test_proof.py.)"""
    first, *others = train(processes, config_for(pictures), tmp_path / "run")
    assert first[0].startswith("chunk 4: ") and first[1].startswith("memory: ")
    assert others == [[]] * (processes - 1)
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("processes", "settings", "message"),
    [
        (3, {"batch_size": 2, "chunk": 2}, "3 processes are more than the 2 images of a batch."),
        (
            3,
            {"chunk": 2},
            "chunk 2 is too small for 3 processes: each needs views of every company. Give at least --chunk 6.",
        ),
        (2, {"weights": "none.pt"}, "none.pt: no such file."),
    ],
)
def test_what_is_wrong_is_said_by_the_first_and_ends_all(pictures, tmp_path, processes, settings, message):
    first, *others = train(processes, config_for(pictures, **settings), tmp_path / "run")
    assert first[-1].endswith(f"Error: {message}")
    assert all(lines[-1] in ("SystemExit: 99", first[-1]) for lines in others)  # the command keeps them quiet
    assert not (tmp_path / "run").exists()


def test_an_image_that_one_process_alone_cannot_read_is_said_by_it(pictures, tmp_path):
    """Rows 4 to 7 of a batch are the second process's."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in pictures.iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    (photos / "03.png").write_bytes(b"")
    lines = train(2, config_for(photos), tmp_path / "run")
    assert sum(line == "skipped 03.png: empty file" for process in lines for line in process) in (1, 2)
    assert len(metrics_of(tmp_path / "run")) == STEPS


def test_torchrun_and_another_number_of_processes_after_a_stop(pictures, alone, tmp_path):
    """Two processes of torchrun are stopped and one goes on; only the first writes and speaks."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = start([*torchrun, *command(pictures, out)[2:]], OMP_NUM_THREADS="1")
    wait_for_steps(process, out, 2)
    process.send_signal(signal.SIGTERM)
    _, _, err = finish(process)
    done = newest(out).step
    assert 2 <= done < STEPS
    go_on = f"Go on by starting it again as before, with --resume --out {out}\n"
    assert err.count(f"stopped after step {done} of {STEPS}. {go_on}") == 1
    assert f"resuming at step {done}" in train(1, config_for(pictures), out, resume=True)[0]
    assert_same_run(out, alone)


def test_torchrun_starts_processes_again_when_one_is_killed(pictures, alone, tmp_path):
    """Once is allowed. They meet at their first try, though torchrun's store still says where the others were before."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, "--max-restarts", "1", "-m", *command(pictures, out)[2:]]
    process = start([*words, "--resume", "--set", "checkpoint_every=1"], OMP_NUM_THREADS="1")
    wait_for_steps(process, out, 3)
    pids = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in pids:
        if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            os.kill(int(pid), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert "\nresuming at step " in err
    assert_same_run(out, alone)


def test_ctrl_c_stops_all_at_one_step_and_says_how_to_go_on(pictures, alone, tmp_path):
    out = tmp_path / "run"
    process = start(command(pictures, out, "--processes", 2))
    wait_for_steps(process, out, 2)
    process.send_signal(signal.SIGINT)
    code, stdout, err = finish(process)
    done = newest(out).step
    assert (code, stdout) == (1, "")
    assert (
        f"stopped after step {done} of {STEPS}. Go on with: simclr pretrain --resume --out {out} --processes 2"
        in err
    )
    assert "Traceback" not in err
    assert pids_of(out) == []
    train(3, config_for(pictures), out, resume=True)
    assert_same_run(out, alone)


def test_a_killed_process_ends_the_others_with_a_sentence(pictures, tmp_path):
    out = tmp_path / "run"
    process = start(command(pictures, out, "--processes", 2, epochs=10_000))
    wait_for_steps(process, out, 1)
    os.kill(random.Random(0).choice(pids_of(out)), signal.SIGKILL)
    code, stdout, err = finish(process)
    assert (code, stdout) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {out}: process ") and " of 2 was killed (SIGKILL). " in last
    assert last.endswith(f"Go on with: simclr pretrain --resume --out {out} --processes 2")
    assert "Traceback" not in err
    assert pids_of(out) == []


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_stop_with_a_checkpoint(pictures, tmp_path):
    out = tmp_path / "run"
    process = start(command(pictures, out, "--processes", 2, epochs=10_000))
    wait_for_steps(process, out, 1)
    process.kill()
    deadline = time.monotonic() + 60
    while pids_of(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids_of(out) == []
    assert newest(out).step >= 1
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_at_random_moments_lose_nothing(pictures, tmp_path, processes):
    """One process, or one of two, is killed 20 times at a random moment, and the run resumed each time.

    Losses and weights are then those of the undisturbed run of as many processes, bit for bit, and each step is there once.
    """
    config = config_for(pictures, epochs=250, checkpoint_every=3)
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(processes, config, whole)
    dice, kills, steps_at_kill = random.Random(processes), 0, []
    while kills < 20:
        before = steps_recorded(out)
        started = start_together(processes, partial(work, config, out, kills > 0))
        early = kills % 5 == 4  # while it starts and reads its checkpoint; else up to forty steps later
        moment, wanted = time.monotonic() + dice.uniform(0, 2.0), before + dice.randint(1, 40)
        while time.monotonic() < moment if early else steps_recorded(out) < wanted:
            assert is_running(started)
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.1))
        dice.choice(started).kill()
        for process in started:
            process.join(60)
        assert not any(process.exitcode == 0 for process in started)
        kills += 1
        steps_at_kill.append(steps_recorded(out))
    print(f"killed with so many steps recorded: {steps_at_kill}")
    assert steps_at_kill[-1] > 100
    train(processes, config, out, resume=True)

    def numbers(folder: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in metrics_of(folder)]

    assert [line["step"] for line in numbers(out)] == list(range(501))
    assert numbers(out) == numbers(whole)
    ends = [newest(folder).model for folder in (out, whole)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
