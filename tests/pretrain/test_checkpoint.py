"""Checkpoints: what comes back, what is kept, and damage."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from simclr.errors import ArtifactError
from simclr.pretrain.checkpoint import (
    TrainingState,
    load_checkpoint,
    newest_whole_checkpoint,
    save_checkpoint,
)
from simclr.pretrain.lars import LARS, lars_groups


def save(folder: Path, step: int, *, keep: int = 2, keep_every: int | None = None) -> tuple[nn.Module, LARS]:
    torch.manual_seed(step)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = LARS(lars_groups(model, weight_decay=1e-4), lr=0.1)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    state = TrainingState(step, 6, "abc", dict(model.state_dict()), optimizer.state_dict())
    save_checkpoint(folder, state, keep=keep, keep_every=keep_every)
    return model, optimizer


def flat(state: object) -> list[object]:
    """Every leaf of nested dicts and lists, in order; tensors as lists."""
    if isinstance(state, dict):
        return [leaf for key, value in state.items() for leaf in (key, *flat(value))]
    if isinstance(state, list):
        return [leaf for value in state for leaf in flat(value)]
    return [state.tolist() if isinstance(state, Tensor) else state]


def contents(state: TrainingState) -> list[object]:
    return [state.step, state.chunk, state.data_sha256, *flat(state.model), *flat(state.optimizer)]


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    model, optimizer = save(tmp_path / "c", 12)
    state = load_checkpoint(tmp_path / "c" / "step-000000012.pt")
    assert contents(state) == [12, 6, "abc", *flat(dict(model.state_dict())), *flat(optimizer.state_dict())]


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in folder.iterdir())


def newest(folder: Path) -> tuple[int | None, list[str]]:
    notes: list[str] = []
    state = newest_whole_checkpoint(folder, note=notes.append)
    return state.step if state else None, notes


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 20, 100):
        save(tmp_path, step)
    assert steps_in(tmp_path) == [20, 100]


def test_as_many_are_kept_as_asked(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step, keep=4)
    assert steps_in(tmp_path) == [4, 5, 6, 7]


def test_the_first_at_or_after_each_multiple_is_kept_for_good(tmp_path):
    """Saved at odd times, as by the minute; multiples of 100."""
    for step in (30, 90, 120, 150, 199, 200, 290, 410, 480, 499):
        save(tmp_path, step, keep_every=100)
    assert steps_in(tmp_path) == [120, 200, 410, 480, 499]


def test_checkpoints_of_later_steps_are_of_a_past_that_is_given_up(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    save(tmp_path, 15, keep=3)
    assert steps_in(tmp_path) == [10, 15]


def test_the_newest_is_the_one_with_most_steps(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    assert newest(tmp_path) == (10, [])


def test_a_run_without_checkpoints_has_no_newest(tmp_path):
    assert newest(tmp_path / "checkpoints") == (None, [])


def test_a_save_that_was_killed_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-000000002.pt.77.tmp").write_bytes(b"half")
    assert newest(tmp_path) == (1, [])


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step-000000002.pt.77.tmp").write_bytes(b"half")
    save(tmp_path, 2)
    assert steps_in(tmp_path) == [1, 2]


def test_a_damaged_newest_is_named_and_passed_over(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    for step in (2, 3):
        path = tmp_path / f"step-{step:09d}.pt"
        path.write_bytes(path.read_bytes()[:-50])
    step, notes = newest(tmp_path)
    assert step == 1
    assert [note.split(": damaged checkpoint")[0] for note in notes] == [
        str(tmp_path / f"step-{step:09d}.pt") for step in (3, 2)
    ]


def test_where_all_are_damaged_that_is_an_error(tmp_path):
    (tmp_path / "step-000000002.pt").write_bytes(b"")
    with pytest.raises(ArtifactError, match="none of its 1 checkpoints can be read"):
        newest(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing"])
def test_a_damaged_checkpoint_is_refused_and_named(tmp_path, damage):
    save(tmp_path, 1)
    path = tmp_path / "step-000000001.pt"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"hello\n" * 99}[damage])
    with pytest.raises(ArtifactError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: damaged checkpoint (")
    assert "\n" not in str(error.value)


def test_one_flipped_byte_never_changes_what_is_loaded(tmp_path):
    """At 300 places: either the file is refused, or the byte was padding and the state is the same."""
    save(tmp_path, 1)
    path = tmp_path / "step-000000001.pt"
    content = path.read_bytes()
    whole, refused = contents(load_checkpoint(path)), 0
    for place in range(0, len(content), len(content) // 300):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert contents(load_checkpoint(path)) == whole, place
        except ArtifactError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0


def test_a_flipped_byte_of_a_weight_is_refused(tmp_path):
    model, _ = save(tmp_path, 1)
    path = tmp_path / "step-000000001.pt"
    content = bytearray(path.read_bytes())
    content[content.index(model[0].weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged checkpoint"):
        load_checkpoint(path)


def test_another_torch_file_is_no_checkpoint(tmp_path):
    torch.save({"weight": torch.ones(2)}, path := tmp_path / "step-000000001.pt")
    with pytest.raises(ArtifactError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: damaged checkpoint (")


class _Callable:
    """Pickled by reference to a function, which loading would call."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("touched"),))


def test_loading_runs_no_code_from_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": _Callable()}, tmp_path / "step-000000001.pt")
    with pytest.raises(ArtifactError):
        load_checkpoint(tmp_path / "step-000000001.pt")
    assert not (tmp_path / "touched").exists()
