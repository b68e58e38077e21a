"""Stores of clustered vectors that can be changed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from changing_stores import WIDTH, Changing, clustered

from simclr.embed import writer as writer_module


@pytest.fixture
def changing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Changing]:
    """A store at `tmp_path / NAME.store` in shards of 150 rows at most."""
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 150)

    def changing(count: int, *, name: str = "v", seed: int = 1, width: int = WIDTH) -> Changing:
        made = Changing(tmp_path / f"{name}.store", model, width)
        made.change(add=clustered(count, seed, width))
        return made

    return changing
