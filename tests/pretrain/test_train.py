"""The loop: repeatable, resumable to the last bit, careful with folders that exist."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr.encoder import load_encoder
from simclr.errors import ArtifactError, ConfigError, ImageError, SimclrError
from simclr.pretrain import attempts, journal, saving, train
from simclr.pretrain.batch import Batch
from simclr.pretrain.checkpoint import TrainingState, load_checkpoint, newest_whole_checkpoint
from simclr.pretrain.config import Augmentation, PretrainConfig, from_toml
from simclr.pretrain.evaluation import Evaluation
from simclr.pretrain.report import Report
from simclr.pretrain.run_folder import newest_run, saved_config
from simclr.pretrain.schedule import learning_rate
from simclr.pretrain.step import Contrast
from simclr.pretrain.train import run

STEPS = 5
"""16 images, batch 8, two epochs: 16 * 2 // 8 + 1."""


@pytest.fixture
def config(noise_photos: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(noise_photos),
        encoder="test_resnet",
        image_size=32,
        batch_size=8,
        epochs=2,
        head_out=16,
        weight_decay=1e-4,
        device="cpu",
        workers=0,
        threads=1,
    )


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A run sets torch's threads for its whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _light_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing the report takes longer than the training here; one test draws it."""
    if "report" not in request.node.name:
        monkeypatch.setattr(Report, "write", lambda *args, **kwargs: None)


def change(config: PretrainConfig, **settings: Any) -> PretrainConfig:
    return dataclasses.replace(config, **settings)


def keep(notes: list[str]) -> Callable[[str], None]:
    """Collects notes, but for what a step and a cache need of memory, which every run says."""
    return lambda line: None if line.startswith(("memory: ", "cache: ")) else notes.append(line)


def metrics_of(folder: Path) -> list[tuple[float, ...]]:
    """(step, loss, top1, lr) of each line."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["top1"], line["lr"]) for line in lines]


def newest(folder: Path) -> TrainingState:
    state = newest_whole_checkpoint(folder / "checkpoints", note=lambda line: None)
    assert state is not None
    return state


def digest_of(folder: Path) -> str:
    return json.loads((folder / "encoder.json").read_text())["weights_sha256"]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resume_and_stop(config: PretrainConfig, out: Path, *, after: int) -> list[str]:
    return run_and_stop(config, out, after=after, resume=True)


def run_and_stop(
    config: PretrainConfig, out: Path, *, after: int, number: int = signal.SIGTERM, resume: bool = False
) -> list[str]:
    """Runs until `after` steps are done and a signal arrives; gives the notes."""
    notes: list[str] = []

    def progress(done: int, total: int, words: str) -> None:
        if done == after * 8:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run(config, out=out, resume=resume, progress=progress, note=keep(notes))
    return notes


# ---- what a run leaves


def test_a_run_leaves_an_encoder_that_loads(config, tmp_path):
    folder = run(config, out=tmp_path / "run")
    encoder, info = load_encoder(folder)
    assert (info.name, info.width, info.small_stem, info.recipe.size) == ("test_resnet", 96, False, 32)
    assert info.parents == {"run": "run", "data": "noise", "images": 16, "steps": STEPS, "step": STEPS}
    saved = load_checkpoint(folder / "checkpoints" / f"step-{STEPS:09d}.pt").model
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, saved[f"encoder.{name}"]), name


def test_metrics_have_each_step_once_with_its_learning_rate(config, tmp_path):
    """Peak 0.3 * 8 / 256; warm-up 16 * 0.2 // 8 = 0 steps."""
    rows = metrics_of(run(config, out=tmp_path / "run"))
    assert [row[0] for row in rows] == list(range(STEPS))
    expected = [learning_rate(s, peak=0.3 * 8 / 256, warmup_steps=0, total_steps=STEPS) for s in range(STEPS)]
    assert [row[3] for row in rows] == pytest.approx(expected, rel=1e-12)


def test_warm_up_is_a_share_of_the_run(config, tmp_path):
    """Half of 2 epochs of 16 images in batches of 8: 2 steps from 0 up."""
    rows = metrics_of(run(change(config, warmup_fraction=0.5, lr_scaling="none"), out=tmp_path / "run"))
    assert [row[3] for row in rows] == pytest.approx([0, 0.15, 0.3, 0.225, 0.075], rel=1e-12)


def test_progress_counts_images(config, tmp_path):
    seen: list[tuple[int, int]] = []
    run(config, out=tmp_path / "run", progress=lambda done, total, words: seen.append((done, total)))
    assert seen == [(8 * (step + 1), 8 * STEPS) for step in range(STEPS)]


def test_the_saved_settings_are_those_of_the_run_with_nothing_left_open(config, tmp_path):
    folder = run(change(config, batch_size=None, small_stem=None), out=tmp_path / "run")
    path = folder / "config.toml"
    assert from_toml(path.read_text(), where=path) == change(
        config, batch_size=16, small_stem=False, chunk=16, cache="ram"
    )


def test_the_report_is_written(config, tmp_path):
    page = (run(config, out=tmp_path / "run") / "report.html").read_text()
    assert "<h1>run</h1>" in page
    assert "<b>5 of 5</b>" in page


def test_training_lowers_the_loss(config, tmp_path):
    """Crops of 16 images told apart: from about 3.0 to 2.1 in 25 steps, with four seeds within 0.1."""
    easy = Augmentation(crop_min=0.5, jitter=0, grayscale=0, blur=0)
    quick = change(config, batch_size=16, epochs=24, augmentation=easy, temperature=0.5)
    folder = run(change(quick, base_lr=10, lr_scaling="none", warmup_fraction=0), out=tmp_path / "run")
    losses = [row[1] for row in metrics_of(folder)]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5


def test_weights_to_start_from_are_loaded(config, tmp_path):
    first = run(config, out=tmp_path / "first")
    start = change(config, weights=str(first / "encoder.safetensors"), base_lr=1e-30, epochs=1, seed=5)
    second = run(start, out=tmp_path / "second")
    before, after = (load_file(folder / "encoder.safetensors") for folder in (first, second))
    assert torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])


def test_the_train_folder_of_a_data_set_is_used_and_said(config, tmp_path):
    whole = tmp_path / "set"
    (whole / "test").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(whole / "test" / "0.png")
    Path(config.data).rename(whole / "train")
    notes: list[str] = []
    folder = run(change(config, data=str(whole)), out=tmp_path / "run", note=keep(notes))
    assert notes == [f"reading {whole / 'train'}"]
    assert json.loads((folder / "encoder.json").read_text())["parents"]["images"] == 16


def test_a_batch_of_the_whole_set_is_said(config, tmp_path):
    notes: list[str] = []
    run(change(config, batch_size=None), out=tmp_path / "run", note=keep(notes))
    assert notes == ["batch size 16: all images of this set"]


def test_a_file_that_cannot_be_read_is_said_once(config, tmp_path):
    (Path(config.data) / "03.jpg").write_bytes(b"")
    notes: list[str] = []
    run(config, out=tmp_path / "run", note=keep(notes))
    assert notes == ["skipped 03.jpg: empty file"]


# ---- repeatable


def test_the_same_seed_gives_the_same_run(config, tmp_path):
    one, other = (run(config, out=tmp_path / name) for name in ("one", "other"))
    assert metrics_of(one) == metrics_of(other)
    assert digest_of(one) == digest_of(other)


def test_what_was_random_before_does_not_matter(config, tmp_path):
    one = run(config, out=tmp_path / "one")
    torch.manual_seed(99)
    assert digest_of(run(config, out=tmp_path / "other")) == digest_of(one)


def test_another_seed_gives_another_run(config, tmp_path):
    one = run(config, out=tmp_path / "one")
    other = run(change(config, seed=1), out=tmp_path / "other")
    assert metrics_of(one)[0][1] != metrics_of(other)[0][1]
    assert digest_of(one) != digest_of(other)


def test_workers_do_not_change_the_run(config, tmp_path):
    one = run(config, out=tmp_path / "one")
    other = run(change(config, workers=2), out=tmp_path / "other")
    assert metrics_of(one) == metrics_of(other)


# ---- stopped and resumed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_keeps_the_steps_it_did(config, tmp_path, number):
    run_and_stop(config, tmp_path / "run", after=2, number=number)
    assert [row[0] for row in metrics_of(tmp_path / "run")] == [0, 1]
    assert newest(tmp_path / "run").step == 2


def test_a_stopped_run_says_how_to_go_on(config, tmp_path):
    folder = tmp_path / "run"
    notes = run_and_stop(config, folder, after=2)
    assert notes == [f"stopped after step 2 of {STEPS}. Go on with: simclr pretrain --resume --out {folder}"]


@pytest.mark.parametrize("after", [1, 3, STEPS])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one_to_the_last_bit(config, tmp_path, after):
    whole = run(config, out=tmp_path / "whole")
    run_and_stop(config, tmp_path / "run", after=after)
    resumed = run(config, out=tmp_path / "run", resume=True)
    assert metrics_of(resumed) == metrics_of(whole)
    ends = [newest(folder) for folder in (resumed, whole)]
    for name, tensor in ends[0].model.items():
        assert torch.equal(tensor, ends[1].model[name]), name
    assert digest_of(resumed) == digest_of(whole)


def test_a_run_killed_between_checkpoints_does_the_steps_again(config, tmp_path):
    """A checkpoint after step 2, then lines up to step 4 and a torn one, as a kill leaves them."""
    whole = run(config, out=tmp_path / "whole")
    folder = tmp_path / "run"
    run_and_stop(config, folder, after=2)
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    run(config, out=folder, resume=True)
    assert metrics_of(folder) == metrics_of(whole)


@pytest.mark.parametrize("kept_bytes", [0, 1000, -1])
def test_a_checkpoint_cut_short_is_refused_and_the_one_before_it_used(config, tmp_path, kept_bytes):
    often = change(config, checkpoint_every=2)
    whole = run(often, out=tmp_path / "whole")
    folder = tmp_path / "run"
    run_and_stop(often, folder, after=3)
    damaged = folder / "checkpoints" / "step-000000003.pt"
    damaged.write_bytes(damaged.read_bytes()[:kept_bytes])
    notes: list[str] = []
    run(often, out=folder, resume=True, note=keep(notes))
    assert notes[0].startswith(f"{damaged}: damaged checkpoint (")
    assert notes[0].endswith("Using the one before it.")
    assert notes[1:] == ["resuming at step 2"]
    assert metrics_of(folder) == metrics_of(whole)
    assert digest_of(folder) == digest_of(whole)


def test_where_every_checkpoint_is_damaged_nothing_is_started_over(config, tmp_path):
    folder = tmp_path / "run"
    run_and_stop(config, folder, after=2)
    (folder / "checkpoints" / "step-000000002.pt").write_bytes(b"no checkpoint")
    before = everything_in(folder)
    notes: list[str] = []
    with pytest.raises(ArtifactError) as error:
        run(config, out=folder, resume=True, note=keep(notes))
    assert notes[0].endswith("(File is not a zip file).")  # and no word of one before it
    assert str(error.value) == (
        f"{folder / 'checkpoints'}: none of its 1 checkpoints can be read. Start again with a new --out, or delete the "
        "folder to start this run over."
    )
    assert everything_in(folder) == before


def test_checkpoints_are_written_as_often_as_asked(config, tmp_path):
    folder = run(change(config, checkpoint_every=2), out=tmp_path / "run")
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step-000000004.pt", "step-000000005.pt"]


def test_a_finished_run_says_so_and_changes_nothing(config, tmp_path):
    folder = run(config, out=tmp_path / "run")
    before, notes = everything_in(folder), []
    assert run(config, out=folder, resume=True, note=keep(notes)) == folder
    assert notes == [f"{folder} is finished: {STEPS} of {STEPS} steps done"]
    assert everything_in(folder) == before


def test_resuming_a_run_that_never_started_starts_it(config, tmp_path):
    assert len(metrics_of(run(config, out=tmp_path / "run", resume=True))) == STEPS


def test_speed_and_place_may_change_at_a_resume(config, tmp_path):
    whole = run(config, out=tmp_path / "whole")
    run_and_stop(config, tmp_path / "run", after=2)
    moved = Path(config.data).rename(tmp_path / "moved")
    faster = change(config, data=str(moved), workers=1, checkpoint_every=1)
    assert metrics_of(run(faster, out=tmp_path / "run", resume=True)) == metrics_of(whole)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.5}, "temperature 0.1 -> 0.5"),
        ({"batch_size": 4}, "batch_size 8 -> 4"),
        ({"seed": 1}, "seed 0 -> 1"),
        ({"epochs": 3, "momentum": 0.8}, "epochs 2 -> 3; momentum 0.9 -> 0.8"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_names_them(config, tmp_path, settings, named):
    folder = tmp_path / "run"
    run_and_stop(config, folder, after=1)
    before = everything_in(folder)
    with pytest.raises(ConfigError) as error:
        run(change(config, **settings), out=folder, resume=True)
    assert str(error.value) == (
        f"{folder}: was started with other settings ({named}). Resume without them, or use another --out."
    )
    assert everything_in(folder) == before


def test_resuming_on_other_images_is_refused(config, tmp_path):
    folder = tmp_path / "run"
    run_and_stop(config, folder, after=1)
    data = Path(config.data)
    (data / "00.jpg").rename(data / "zz.jpg")
    with pytest.raises(ConfigError) as error:
        run(config, out=folder, resume=True)
    assert str(error.value) == (
        f"{data}: its images are not those that {folder} was started on. Restore them, or use a new --out."
    )


# ---- refused


def test_an_existing_run_is_not_touched_without_resume(config, tmp_path):
    folder = run(config, out=tmp_path / "run")
    before = everything_in(folder)
    with pytest.raises(ConfigError) as error:
        run(config, out=folder)
    assert str(error.value) == (
        f"{folder}: a run exists there. Continue it with --resume, or use another --out."
    )
    assert everything_in(folder) == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_something_else_is_refused(config, tmp_path, resume):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    with pytest.raises(ConfigError) as error:
        run(config, out=tmp_path / "letters", resume=resume)
    assert str(error.value) == f"{tmp_path / 'letters'}: exists and is no run. Use another --out."
    assert everything_in(tmp_path / "letters") == {"one.txt": b"dear"}


def test_a_batch_larger_than_the_set_is_refused(config, tmp_path):
    with pytest.raises(ConfigError) as error:
        run(change(config, batch_size=17), out=tmp_path / "run")
    assert str(error.value) == "batch_size (17) is more than the 16 images found. Give at most 16."


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 17},
        {"encoder": "resnet5O"},
        {"weights": "none.pt"},
        {"device": "abacus"},
        {"data": "none"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_refused_run_leaves_no_folder(config, tmp_path, settings):
    with pytest.raises(SimclrError):
        run(change(config, **settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_refused_and_named(config, tmp_path):
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        run(change(config, device="abacus"), out=tmp_path / "run")


def nan_in_steps(monkeypatch: pytest.MonkeyPatch, *wrong: int) -> list[int]:
    """Makes the loss of these calls of the step no number; gives the list of all calls so far."""
    calls: list[int] = []
    real = attempts.contrast

    def failing(z: Tensor, **rest: Any) -> Contrast:
        calls.append(len(calls))
        found = real(z, **rest)
        return dataclasses.replace(found, loss=found.loss * float("nan")) if calls[-1] in wrong else found

    monkeypatch.setattr(attempts, "contrast", failing)
    return calls


def test_a_loss_that_is_no_number_sends_the_run_back_once(config, tmp_path, monkeypatch):
    """Steps 0, 1, 2, 3 (nan), then again from the checkpoint after 2: 2, 3, 4."""
    whole = run(change(config, checkpoint_every=2), out=tmp_path / "whole")
    calls, notes = nan_in_steps(monkeypatch, 3), []
    folder = tmp_path / "run"
    run(change(config, checkpoint_every=2), out=folder, note=keep(notes))
    batch = folder / "bad_batch" / "step-000000003.npz"
    assert notes == [
        f"warning: {folder}: the loss is nan at step 3; its images are in {batch}. Going back to step 2, once"
    ]
    assert len(calls) == 7
    assert metrics_of(folder) == metrics_of(whole)
    assert digest_of(folder) == digest_of(whole)
    assert np.load(batch)["pixels"].shape == (2, 8, 32, 32, 3)


def test_before_the_first_checkpoint_it_goes_back_to_the_start(config, tmp_path, monkeypatch):
    whole = run(config, out=tmp_path / "whole")
    nan_in_steps(monkeypatch, 2)
    assert metrics_of(run(config, out=tmp_path / "run")) == metrics_of(whole)
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_a_loss_that_is_no_number_twice_ends_the_run(config, tmp_path, monkeypatch):
    """What came before is kept, the last good checkpoint too."""
    nan_in_steps(monkeypatch, 2, 3)
    folder = tmp_path / "run"
    with pytest.raises(SimclrError) as error:
        run(change(config, checkpoint_every=1), out=folder)
    assert str(error.value) == (
        f"{folder}: the loss is nan at step 2; its images are in {folder / 'bad_batch' / 'step-000000002.npz'}. It went wrong "
        "before, too. Start a new run with base_lr below 0.3, or a longer warmup_fraction."
    )
    assert [row[0] for row in metrics_of(folder)] == [0, 1]
    assert newest(folder).step == 2


def test_a_learning_rate_beyond_reason_is_said_to_be_the_cause(config, tmp_path):
    with pytest.raises(SimclrError, match=r"is nan at step \d; .* Start a new run with base_lr below 1e"):
        run(change(config, base_lr=1e30, lr_scaling="none"), out=tmp_path / "run")


def test_weights_that_are_no_numbers_are_not_saved(config, tmp_path, monkeypatch):
    """The loss of a step says nothing about the weights after it."""
    real = attempts.accumulate_gradients

    def poisoned(model: nn.Module, *args: Any, **rest: Any) -> Contrast:
        found = real(model, *args, **rest)
        next(model.parameters()).grad.fill_(float("inf"))
        return found

    monkeypatch.setattr(attempts, "accumulate_gradients", poisoned)
    with pytest.raises(SimclrError, match="the loss left weights that are no numbers at step 0; "):
        run(change(config, checkpoint_every=1, base_lr=1.0), out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_collapse_is_said_once_in_the_notes_and_from_then_on_in_the_progress(config, tmp_path, monkeypatch):
    """Looked at every tenth step; the fifth look in a row makes it certain."""
    monkeypatch.setattr(journal, "effective_rank", lambda covariance: 1.0)
    notes: list[str] = []
    words: dict[int, bool] = {}
    folder = run(
        change(config, epochs=30),
        out=tmp_path / "run",
        note=keep(notes),
        progress=lambda done, total, text: words.update({done // 8 - 1: "COLLAPSED" in text}),
    )
    assert [note.split(". ")[0] for note in notes] == [
        "warning: step 40: the projections have collapsed: they use 1.0 dimensions"
    ]
    assert [step for step, said in words.items() if said] == list(range(40, 61))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "rank" in line] == [0, 10, 20, 30, 40, 50, 60]


def out_of_memory_at(monkeypatch: pytest.MonkeyPatch, *, step: int, chunk: int) -> None:
    """Memory runs out in that step as long as so many images go through at a time."""
    real = attempts.accumulate_gradients
    steps: list[int] = []

    def limited(model: nn.Module, batch: Batch, **rest: Any) -> Contrast:
        if len(steps) == step and max(map(len, batch.companies)) > chunk:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        steps.append(len(steps))
        return real(model, batch, **rest)

    monkeypatch.setattr(attempts, "accumulate_gradients", limited)


def test_memory_that_runs_out_halves_the_chunk_until_it_fits(config, tmp_path, monkeypatch):
    """From 16 views at a time to 8 to 4: chunk 8, 4, 2; then the run goes on with chunk 2."""
    out_of_memory_at(monkeypatch, step=2, chunk=4)
    notes: list[str] = []
    folder = run(config, out=tmp_path / "run", note=keep(notes))
    assert notes == [
        "warning: cpu: out of memory with 8 images of 32 pixels at a time; going on with chunk 4",
        "warning: cpu: out of memory with 4 images of 32 pixels at a time; going on with chunk 2",
    ]
    assert [row[0] for row in metrics_of(folder)] == list(range(STEPS))
    assert newest(folder).chunk == 2


def test_a_step_begun_again_is_that_of_the_smaller_chunk(config, tmp_path, monkeypatch):
    """Nothing of the failed try is left: running statistics and gradients are those of a run that had the chunk at once."""
    whole = run(change(config, chunk=4), out=tmp_path / "whole")
    out_of_memory_at(monkeypatch, step=0, chunk=8)
    folder = run(config, out=tmp_path / "run")
    assert metrics_of(folder) == metrics_of(whole)
    assert digest_of(folder) == digest_of(whole)


def test_a_resumed_run_keeps_its_halved_chunk(config, tmp_path, monkeypatch):
    out_of_memory_at(monkeypatch, step=1, chunk=8)
    whole = run(config, out=tmp_path / "whole")
    out_of_memory_at(monkeypatch, step=1, chunk=8)
    run_and_stop(config, tmp_path / "run", after=3)
    monkeypatch.undo()
    notes: list[str] = []
    folder = run(config, out=tmp_path / "run", resume=True, note=keep(notes))
    assert notes == [
        "chunk 4: 8 images go through the encoder as 2 companies of about 8 first or second views",
        "resuming at step 3",
    ]
    assert metrics_of(folder) == metrics_of(whole)


def test_a_halved_chunk_stays_however_often_the_same_command_resumes(config, tmp_path, monkeypatch):
    """As a scheduler restarts it, each time with the chunk that was asked for."""
    out_of_memory_at(monkeypatch, step=0, chunk=8)
    for after in (1, 2, 3):
        run_and_stop(config, tmp_path / "run", after=after) if after == 1 else resume_and_stop(
            config, tmp_path / "run", after=after
        )
        monkeypatch.undo()
        assert newest(tmp_path / "run").chunk == 4
    assert saved_config(tmp_path / "run").chunk == 8


def test_a_resumed_run_does_not_need_the_weights_it_began_with(config, tmp_path):
    first = run(config, out=tmp_path / "first")
    start = change(config, weights=str(first / "encoder.safetensors"), seed=5)
    whole = run(start, out=tmp_path / "whole")
    run_and_stop(start, tmp_path / "run", after=2)
    (first / "encoder.safetensors").unlink()
    notes: list[str] = []
    run(start, out=tmp_path / "run", resume=True, note=keep(notes))
    assert notes == ["resuming at step 2"]
    assert digest_of(tmp_path / "run") == digest_of(whole)


def test_another_chunk_at_a_resume_is_taken_and_said(config, tmp_path):
    run_and_stop(config, tmp_path / "run", after=2)
    notes: list[str] = []
    run(change(config, chunk=4), out=tmp_path / "run", resume=True, note=keep(notes))
    assert notes[0] == "chunk 8 -> 4: from here on other views share batch-norm statistics"
    assert newest(tmp_path / "run").chunk == 4


def test_memory_that_is_not_enough_for_two_images_ends_the_run(config, tmp_path, monkeypatch):
    out_of_memory_at(monkeypatch, step=1, chunk=0)
    with pytest.raises(SimclrError) as error:
        run(change(config, chunk=2), out=tmp_path / "run")
    assert str(error.value) == (
        "cpu: out of memory with 2 images of 32 pixels at a time. Use a smaller --image-size or --encoder."
    )


def test_recomputation_changes_no_number(config, tmp_path):
    whole = run(config, out=tmp_path / "whole")
    folder = run(change(config, recompute=True), out=tmp_path / "run")
    assert metrics_of(folder) == metrics_of(whole)
    assert digest_of(folder) == digest_of(whole)


def test_an_encoder_that_cannot_recompute_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr("timm.models.resnet.ResNet.set_grad_checkpointing", None)
    with pytest.raises(ConfigError, match="encoder 'test_resnet' cannot recompute its blocks"):
        run(change(config, recompute=True), out=tmp_path / "run")


def test_checkpoints_by_the_minute(config, tmp_path):
    """Every step takes longer than 6 microseconds."""
    folder = run(change(config, checkpoint_every="0.0000001min", checkpoint_keep=9), out=tmp_path / "run")
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [f"step-{step:09d}.pt" for step in range(1, STEPS + 1)]


# ---- runs


def test_without_out_a_run_gets_a_folder_named_after_its_encoder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run(config)
    assert folder.parent == Path("runs")
    assert folder.name.endswith("-test_resnet")


def test_the_newest_run_is_the_one_saved_last(tmp_path):
    for name, seconds in (("old", 100), ("new", 300), ("middle", 200)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").touch()
        os.utime(tmp_path / name, (seconds, seconds))
    (tmp_path / "no_run").mkdir()
    assert newest_run(tmp_path) == tmp_path / "new"


def test_without_runs_there_is_no_newest(tmp_path):
    assert newest_run(tmp_path / "runs") is None


def test_a_folder_without_a_run_has_no_saved_settings(tmp_path):
    assert saved_config(tmp_path) is None


def test_saved_settings_are_read_back(config, tmp_path):
    folder = run(config, out=tmp_path / "run")
    assert saved_config(folder) == change(config, small_stem=False, chunk=8, cache="ram")


def test_a_signal_to_the_whole_process_group_stops_at_a_step_and_leaves_no_worker(noise_photos, tmp_path):
    """Schedulers and terminals signal the loader's workers as well."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "simclr", "pretrain", "--data", noise_photos, "--out", out]
    command += ["--encoder", "test_resnet", "--image-size", "32", "--batch-size", "8", "--epochs", "100000"]
    command += ["--set", "workers=2", "--set", "threads=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Go on with: simclr pretrain --resume --out {out}" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_kill_while_the_last_checkpoint_is_written_does_not_leave_an_old_encoder(
    config, tmp_path, monkeypatch
):
    """A finished run must mean a finished encoder: what vouches for the run is written last."""
    real = saving.save_checkpoint

    def killed(folder, state, **rest):
        if state.step == STEPS:
            raise MemoryError("stands for a kill")
        real(folder, state, **rest)

    config = dataclasses.replace(config, checkpoint_every=2)
    monkeypatch.setattr(saving, "save_checkpoint", killed)
    with pytest.raises(MemoryError):
        run(config, out=tmp_path / "run")
    assert load_encoder(tmp_path / "run")[1].parents["step"] == STEPS
    monkeypatch.undo()
    notes: list[str] = []
    run(config, out=tmp_path / "run", resume=True, note=keep(notes))
    assert "resuming at step 4" in notes
    assert load_encoder(tmp_path / "run")[1].parents["step"] == STEPS


# ---- labels


@pytest.fixture
def classes(noise_photos: Path, tmp_path: Path) -> Path:
    """The noise photos in two class folders."""
    for number, path in enumerate(sorted(noise_photos.iterdir())):
        (tmp_path / "classes" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "classes" / "ab"[number % 2] / path.name)
    return tmp_path / "classes"


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_neighbours_accuracy_is_measured_as_often_as_asked_and_at_the_end(config, classes, tmp_path):
    """And is that of the encoder as it is then."""
    asked = change(config, data=str(classes), eval=str(classes), eval_every=2)
    notes: list[str] = []
    folder = run(asked, out=tmp_path / "run", note=keep(notes))
    assert [line["step"] for line in lines_of(folder) if "knn" in line] == [1, 3, 4]
    assert "16 images of 2 classes" in notes[0]
    encoder, info = load_encoder(folder)
    expected = Evaluation(classes, info.recipe, workers=0).accuracy(
        encoder, torch.device("cpu"), torch.float32
    )
    assert lines_of(folder)[-1]["knn"] == expected["knn"]


def test_measuring_changes_nothing_of_the_run(config, classes, tmp_path):
    plain = run(change(config, data=str(classes)), out=tmp_path / "plain")
    watched = run(
        change(config, data=str(classes), eval=str(classes), eval_every=1), out=tmp_path / "watched"
    )
    assert metrics_of(watched) == metrics_of(plain)
    assert (watched / "encoder.safetensors").read_bytes() == (plain / "encoder.safetensors").read_bytes()


def test_labels_that_make_no_sense_are_said_before_anything_is_written(config, tmp_path):
    with pytest.raises(ConfigError, match="lie directly in it"):
        run(change(config, eval=config.data), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_online_classifier_learns_beside_the_encoder(config, classes, tmp_path):
    """That it never moves the encoder is in test_step.py; here float32 sums in another order are all that differs."""
    plain = run(change(config, data=str(classes)), out=tmp_path / "plain")
    probed = run(change(config, data=str(classes), online_probe=True), out=tmp_path / "probed")
    np.testing.assert_allclose(metrics_of(probed), metrics_of(plain), rtol=1e-3)
    assert all(0 <= line["probe"] <= 1 for line in lines_of(probed))
    assert len({line["probe"] for line in lines_of(probed)}) > 1


def test_an_online_classifier_goes_on_where_it_was(config, classes, tmp_path):
    probing = change(config, data=str(classes), online_probe=True, checkpoint_every=2)
    whole = run(probing, out=tmp_path / "whole")
    run_and_stop(probing, tmp_path / "parts", after=2)
    parts = run(probing, out=tmp_path / "parts", resume=True)
    assert [line["probe"] for line in lines_of(parts)] == [line["probe"] for line in lines_of(whole)]


# ---- numbers of a step


def test_every_step_has_its_gradient_and_its_time_and_every_tenth_the_shape_of_the_projections(
    config, tmp_path
):
    lines = lines_of(run(change(config, epochs=6), out=tmp_path / "run"))
    each = {"step", "loss", "top1", "entropy", "lr", "grad_norm", "seconds", "waited"}
    looks = each | {"rank", "spread", "alignment", "uniformity", "memory"}
    assert [set(line) for line in lines] == [looks if line["step"] % 10 == 0 else each for line in lines]
    assert all(line["grad_norm"] > 0 and 0 <= line["waited"] <= line["seconds"] for line in lines)


# ---- images that cannot be read


def test_skipped_images_are_listed_with_their_reasons_also_after_a_resume(config, tmp_path):
    for name in ("03.jpg", "09.jpg"):
        (Path(config.data) / name).write_bytes(b"")
    for cache in ("none", "ram"):
        folder = run(change(config, cache=cache, checkpoint_every=2), out=tmp_path / cache)
        assert (folder / "skipped.csv").read_text() == "path,reason\n03.jpg,empty file\n09.jpg,empty file\n"


def test_more_unreadable_images_than_allowed_end_the_run_with_their_number(config, tmp_path):
    for name in ("03.jpg", "09.jpg"):
        (Path(config.data) / name).write_bytes(b"")
    with pytest.raises(ImageError, match=r"2 of its 16 images cannot be read, more than the share of 0\.1"):
        run(change(config, unreadable_limit=0.1), out=tmp_path / "run")


# ---- compiling


def test_where_compiling_fails_the_run_says_so_and_goes_on_without(config, tmp_path, monkeypatch):
    def no_compiler(*args: Any, **rest: Any) -> None:
        raise RuntimeError("no working C++ compiler\nfound")

    def broken(self: nn.Module) -> None:
        self._compiled_call_impl = no_compiler

    monkeypatch.setattr(nn.Module, "compile", broken)
    notes: list[str] = []
    folder = run(change(config, compile=True), out=tmp_path / "run", note=keep(notes))
    assert notes == ["torch.compile failed (no working C++ compiler); going on without it"]
    assert metrics_of(folder) == metrics_of(run(config, out=tmp_path / "plain"))


@pytest.mark.parametrize("chunk", [8, 2])
def test_a_compiled_run_has_the_numbers_of_a_plain_one_and_is_compiled_once(
    config, tmp_path, monkeypatch, chunk
):
    """The compiler is asked for a graph with and without gradient, and for nothing more after the second step."""
    graphs: list[int] = []

    def counting(graph: Any, example: Any) -> Any:
        graphs.append(training[-1].step if training else -1)
        return graph.forward

    training: list[Any] = []
    plain_step = train._Training._step

    def step(self: Any, crops: Any) -> None:
        training.append(self)
        plain_step(self, crops)

    torch._dynamo.reset()
    monkeypatch.setattr(train._Training, "_step", step)
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self: setattr(self, "_compiled_call_impl", torch.compile(self._call_impl, backend=counting)),
    )
    folder = run(change(config, compile=True, chunk=chunk), out=tmp_path / "run")
    assert graphs and max(graphs) == 0
    plain = run(change(config, chunk=chunk), out=tmp_path / "plain")
    np.testing.assert_allclose(metrics_of(folder), metrics_of(plain), rtol=1e-4)
