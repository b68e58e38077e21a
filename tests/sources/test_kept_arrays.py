"""What is kept between runs is made again when it is damaged, however."""

import numpy as np
import pytest

from simclr.sources.cache import load_arrays, save_arrays


def test_what_was_kept_comes_back(tmp_path):
    save_arrays(tmp_path / "a" / "x.npz", {"sha256": np.array("ab"), "n": np.arange(3)})
    kept = load_arrays(tmp_path / "a" / "x.npz")
    assert kept is not None
    assert (str(kept["sha256"]), kept["n"].tolist()) == ("ab", [0, 1, 2])


def test_nothing_kept_is_nothing(tmp_path):
    assert load_arrays(tmp_path / "x.npz") is None


@pytest.mark.parametrize("seed", range(4))
def test_any_changed_byte_gives_the_arrays_or_nothing(tmp_path, seed):
    """zipfile has an exception of its own for each field that makes no sense to it."""
    path = tmp_path / "x.npz"
    save_arrays(path, {"sha256": np.array("ab" * 32)})
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    for place in range(len(whole)):
        harmed = bytearray(whole)
        harmed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(harmed)
        kept = load_arrays(path)
        assert kept is None or kept.get("sha256", "ab" * 32) == "ab" * 32
