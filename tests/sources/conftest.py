"""A cache of each test's own, and images with different bytes."""

from pathlib import Path

import numpy as np
import pytest

from simclr.sources import located


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMCLR_CACHE", str(tmp_path / "cache"))
    located._opened.cache_clear()
    located.remote_exists.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def blobs() -> dict[str, bytes]:
    """Names of 40 images and bytes to tell them by, of 0 to 5,000 bytes; nobody decodes them here."""
    rng = np.random.default_rng(0)
    return {f"{i:04d}.jpg": rng.bytes(int(rng.integers(0, 5000))) for i in range(40)}
