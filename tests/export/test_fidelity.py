import itertools

import numpy as np
import pytest

from simclr.export.fidelity import THRESHOLDS, judge, kept


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def cloud(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, width)))


def slow(found: np.ndarray, reference: np.ndarray, k: int) -> float:
    """The definition, image by image, in float64."""
    hits = 0
    found, reference = found.astype(np.float64), reference.astype(np.float64)
    for query in range(len(found)):
        others = [i for i in range(len(found)) if i != query]
        ours = dict(enumerate((reference @ reference[query]).tolist()))
        theirs = (found @ found[query]).tolist()
        del ours[query]
        least = sorted(ours.values(), reverse=True)[k - 1]
        hits += sum(ours[i] >= least - 1e-5 for i in sorted(others, key=theirs.__getitem__, reverse=True)[:k])
    return hits / (len(found) * k)


def verdict(found: np.ndarray, reference: np.ndarray, precision: str = "fp16", **given: object):
    arguments = {"neighbours": True, "batches": (1, 8), "batch_cosine": 1.0, "measured_on": "a test"} | given
    return judge(precision, found, reference, **arguments)


# --- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_recall_is_that_of_the_definition(noise: float) -> None:
    reference = cloud(300)
    found = unit(reference + noise * cloud(300, seed=1))
    recall_1, recall_10, _ = kept(found, reference)
    assert recall_1 == pytest.approx(slow(found, reference, 1), abs=5e-5)
    assert recall_10 == pytest.approx(slow(found, reference, 10), abs=5e-5)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = cloud(300)
    found = unit(reference + 0.2 * cloud(300, seed=1))
    whole = kept(found, reference)
    monkeypatch.setattr("simclr.export.fidelity._ROWS", 7)
    assert kept(found, reference) == whole


def test_the_same_vectors_keep_everything_and_other_ones_little() -> None:
    reference = cloud(400)
    assert kept(reference, reference) == (1.0, 1.0, 1.0)
    recall_1, recall_10, top_1 = kept(cloud(400, seed=5), reference)
    assert recall_10 < 0.05 and recall_1 < 0.05 and top_1 < 0.05  # 10 of 399 by chance: 0.025


def test_both_sides_are_in_the_tested_precision() -> None:
    """A rotation moves every vector and no neighbour: it is found against vectors rotated alike."""
    reference = cloud(300)
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((16, 16)))
    assert kept((reference @ turn).astype(np.float32), reference)[1] > 0.999


def test_a_tie_counts_as_kept_and_is_another_image_all_the_same() -> None:
    """Image 1 and 2 are equally near to image 0; the tested precision prefers the other one."""
    rest = cloud(20, seed=2) * [[1, 1, 0.1] + [1] * 13]
    reference = unit(
        np.concatenate([[np.eye(16)[0], *([np.eye(16)[0] + 0.1 * np.eye(16)[i] for i in (1, 2)])], rest])
    )
    found = reference.copy()
    found[1] = unit((np.eye(16)[0] + 0.1001 * np.eye(16)[1])[None])[0]
    _, _, top_1 = kept(found, reference)
    assert kept(found, reference)[0] == 1.0
    assert top_1 < 1.0


# --- the verdict ---------------------------------------------------------------------------------


def test_what_agrees_passes_with_its_numbers() -> None:
    reference = cloud(300)
    found = verdict(reference, reference)
    assert (found.passed, found.failed, found.images) == (True, "", 300)
    assert (found.recall_1, found.recall_10, found.top_1) == (1.0, 1.0, 1.0)
    assert found.cosine_min == pytest.approx(1, abs=1e-6) and found.max_difference == 0.0


def test_cosines_are_the_smallest_the_one_percent_and_the_mean() -> None:
    cosines = np.linspace(0.9, 0.999, 200)
    reference = np.tile(np.eye(2, dtype=np.float32)[0], (200, 1))
    found = np.stack([cosines, np.sqrt(1 - cosines**2)], 1).astype(np.float32)
    result = verdict(found, reference)
    assert result.cosine_min == pytest.approx(0.9, abs=1e-6)
    assert result.cosine_low == pytest.approx(np.quantile(cosines, 0.01), abs=1e-6)
    assert result.cosine_mean == pytest.approx(0.9495, abs=1e-6)
    assert result.max_difference == pytest.approx(np.sqrt(1 - 0.81), abs=0.005)


@pytest.mark.parametrize("count", [255, 256])
def test_fewer_than_256_images_say_nothing_of_neighbours_and_never_gate(count: int) -> None:
    reference = cloud(count, width=64)
    found = reference.copy()
    found[0] = unit(reference[:1] + 0.005 * cloud(1, 64, seed=9))[0]
    result = verdict(found, reference)
    assert (result.recall_10 is None) == (result.recall_1 is None) == (result.top_1 is None) == (count < 256)


def test_neighbours_of_drawn_images_are_not_looked_at() -> None:
    assert verdict(cloud(300), cloud(300), neighbours=False).recall_10 is None


def test_neighbours_lost_fail_though_every_cosine_is_high() -> None:
    """Images that look alike to the encoder: half a percent of noise reorders them."""
    reference = unit(np.eye(64)[0] + 0.02 * cloud(400, 64))
    found = unit(reference + 0.005 * cloud(400, 64, seed=7))
    result = verdict(found, reference)
    assert result.cosine_min > 0.9999
    assert not result.passed
    assert result.failed == f"recall@10 {result.recall_10:.3f}, at least 0.99 needed"


def test_one_image_far_off_fails_and_says_how_far() -> None:
    reference = cloud(300)
    found = reference.copy()
    found[17] = np.roll(found[17], 1)
    result = verdict(found, reference)
    assert result.failed.startswith(f"smallest cosine {result.cosine_min:.6f}, at least 0.9999 needed")


def test_a_second_way_of_computing_counts_where_it_is_worse() -> None:
    reference = cloud(300)
    again = reference[:40].copy()
    again[3] = np.roll(again[3], 1)
    assert verdict(reference, reference, also_ND=again).cosine_min == pytest.approx(
        float(again[3] @ reference[3]), abs=1e-6
    )
    assert verdict(reference, reference, also_ND=reference[:40]).passed


def test_a_batch_size_that_changes_vectors_fails() -> None:
    reference = cloud(300)
    result = verdict(reference, reference, batch_cosine=0.98)
    assert result.failed == "batch size changes vectors: cosine 0.980000, at least 0.9999 needed"


@pytest.mark.parametrize("where", ["vectors", "batches"])
def test_nan_is_no_agreement(where: str) -> None:
    reference = cloud(300)
    found = reference.copy()
    if where == "vectors":
        found[5, 2] = np.nan
    result = verdict(found, reference, batch_cosine=float("nan") if where == "batches" else 1.0)
    assert not result.passed and "cosine -1.000000" in result.failed


def test_thresholds_fall_with_the_precision() -> None:
    order = [THRESHOLDS[name] for name in ("fp32", "fp16", "bf16", "int8")]
    assert all(a.cosine > b.cosine and a.recall_10 > b.recall_10 for a, b in itertools.pairwise(order))


@pytest.mark.parametrize(("batch_cosine", "passed"), [(0.999998, True), (0.99998, False)])
def test_fp32_may_round_differently_by_batch_size_but_not_more(batch_cosine: float, passed: bool) -> None:
    reference = cloud(300)
    assert verdict(reference, reference, "fp32", batch_cosine=batch_cosine).passed == passed
