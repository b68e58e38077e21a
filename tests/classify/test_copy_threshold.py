"""Where the threshold lies: chance against a simulation, real copies in the store, planted copies of real images."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from simclr.classify.copies import KINDS, chosen_cut, nearest_others, planted
from simclr.classify.near import facts_of
from simclr.classify.threshold import by_chance, choose, without_copies
from simclr.embed import Lane, Store, embed_sources
from simclr.embed.lookup import Lookup
from simclr.errors import ConfigError, EncoderMismatch, ImageError
from simclr.runtime import Encoder

WIDTH = 24


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def on_a_surface(count: int, *, dimensions: int, seed: int = 0) -> np.ndarray:
    """Unit vectors with so many degrees of freedom in `WIDTH` numbers."""
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, dimensions)))[0]
    return unit(rng.standard_normal((count, dimensions)) @ frame.T)


def others(vectors: np.ndarray, count: int = 40) -> np.ndarray:
    """Cosines to the nearest others, best first."""
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2)
    return -np.sort(-alike, axis=1)[:, :count]


def copies_of(vectors: np.ndarray, *, noise: float, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(vectors + noise * rng.standard_normal(vectors.shape) / vectors.shape[1] ** 0.5)


def planted_on(vectors: np.ndarray, noises: tuple[float, ...]) -> np.ndarray:
    return np.stack(
        [
            (copies_of(vectors, noise=noise, seed=i) * vectors).sum(1)
            for i, noise in enumerate(noises, start=50)
        ],
        axis=1,
    )


@pytest.mark.parametrize("dimensions", [4, 8, 16])
def test_chance_is_what_happens_where_there_are_no_copies(dimensions):
    near = others(on_a_surface(3000, dimensions=dimensions), 20)
    thresholds = np.quantile(near[:, 0], [0.5, 0.9, 0.99])
    told = by_chance(near, thresholds) / [0.5, 0.1, 0.01]
    assert (told > 0.8).all() and (told < [1.2, 1.4, 2.5]).all()  # on a sphere, the rarer the more cautious


def test_chance_is_told_by_neighbours_that_are_no_copies():
    """However many copies there are, up to nine of an image: only the tenth neighbour and the twentieth are looked at."""
    clean = on_a_surface(2000, dimensions=8)
    near = others(clean, 20)
    near_with_copies = near.copy()
    near_with_copies[:, :9] = 0.9999
    thresholds = np.quantile(near[:, 0], [0.5, 0.99, 0.999])
    np.testing.assert_array_equal(by_chance(near, thresholds), by_chance(near_with_copies, thresholds))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_a_threshold_is_as_precise_as_asked_whatever_share_has_copies(share):
    clean = on_a_surface(1500, dimensions=8)
    copied = copies_of(clean[: int(share * 1500)], noise=0.02)
    everything = np.concatenate([clean, copied])
    cut = choose(planted_on(clean[:200], (0.01, 0.02)), others(everything))
    alike = everything @ everything.T
    np.fill_diagonal(alike, -2)
    nearest = alike.argmax(1)
    reported = alike.max(1) >= cut.threshold
    original = np.concatenate([np.arange(1500), np.arange(len(copied))])
    wrong = reported & (original != original[nearest])
    assert cut.precision >= 0.99
    assert wrong.sum() <= max(3, 0.02 * reported.sum())
    if share:
        assert reported.sum() >= 0.9 * 2 * len(copied)
    assert cut.found_C.min() >= 0.9


def test_a_store_full_of_copies_needs_no_higher_threshold():
    clean, noises = on_a_surface(1500, dimensions=8), (0.02, 0.05, 0.1, 0.2)
    found = []
    for share in (0.02, 0.5):
        copies = [copies_of(clean[: int(share * 1500)], noise=noise) for noise in noises]
        found.append(choose(planted_on(clean[:200], noises), others(np.concatenate([clean, *copies]))))
    assert found[1].threshold <= found[0].threshold < 0.99


def test_copies_are_left_out_of_what_tells_of_chance():
    near = -np.sort(-np.random.default_rng(0).uniform(0.2, 0.8, (5, 40)), axis=1).astype(np.float32)
    near[0, :3] = 0.95
    near[1, :25] = 0.95  # too few others remain
    near[2, :10] = 0.85  # ten, nearer than the mildest copies
    clean = without_copies(near, 0.9, 0.82)
    np.testing.assert_array_equal(clean, np.stack([near[0, 3:23], near[3, :20], near[4, :20]]))


def test_crowded_places_set_the_threshold():
    clean = on_a_surface(1500, dimensions=8)
    sky = copies_of(np.repeat(clean[:1], 200, axis=0), noise=0.25)  # photos of the sky: alike, and no copies
    plain = choose(planted_on(clean[:200], (0.01, 0.3)), others(clean))
    crowded = choose(planted_on(clean[:200], (0.01, 0.3)), others(np.concatenate([clean, sky])))
    assert crowded.threshold > plain.threshold
    assert (others(sky)[:, 0] >= crowded.threshold).mean() < 0.02


def test_many_copies_of_one_image_do_not_pass_for_a_crowd():
    clean = on_a_surface(1500, dimensions=8)
    logo = copies_of(np.repeat(clean[:1], 300, axis=0), noise=0.002)
    plain = choose(planted_on(clean[:200], (0.02,)), others(clean))
    cut = choose(planted_on(clean[:200], (0.02,)), others(np.concatenate([clean, logo])))
    assert abs(cut.threshold - plain.threshold) < 0.001 and cut.precision >= 0.99


def test_no_lower_than_all_planted_copies():
    """Where copies and others lie far apart, the threshold is at the copies."""
    apart = unit(np.random.default_rng(0).standard_normal((500, 400)))
    made = planted_on(apart[:200], (0.05, 0.1))
    cut = choose(made, others(apart))
    assert cut.threshold == pytest.approx(np.quantile(made, 0.01), abs=1e-3)
    assert cut.found_C.min() >= 0.98


def test_where_nothing_tells_copies_from_others_that_is_known():
    crowd = on_a_surface(400, dimensions=4)
    cut = choose(planted_on(crowd[:100], (0.3, 0.35)), others(crowd))
    assert cut.precision < 0.9 and 0 < cut.threshold <= 1


def test_too_few_images_tell_nothing():
    for count in (1, 2, 19):
        near = others(on_a_surface(count, dimensions=4)) if count > 1 else np.empty((1, 0), np.float32)
        with pytest.raises(ConfigError, match=rf"^{count} different images are too few .*--threshold 0\.95"):
            choose(np.ones((count, 5), np.float32), near)


def test_images_that_all_have_ten_copies_tell_nothing():
    vectors = copies_of(np.repeat(on_a_surface(30, dimensions=8), 15, axis=0), noise=0.001)
    with pytest.raises(ConfigError, match="nearly every image has ten others"):
        choose(planted_on(vectors[:100], (0.01,)), others(vectors))


# ---- copies of real images


@pytest.fixture
def pictures(tmp_path):
    """Forty smooth images with a bright left half each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def store(model, pictures, tmp_path) -> Store:
    embed_sources([pictures], tmp_path / "out.store", Lane(Encoder.open(model)), model=model)
    return Store.open(tmp_path / "out.store")


def cut_of(store: Store):
    (facts,) = facts_of(store)
    return chosen_cut(store, facts, Lookup(store), progress=lambda done, total, words: None)


def made(store: Store, ids) -> np.ndarray:
    return planted(store, np.array(ids), Lookup(store), progress=lambda done, total, words: None)


def test_copies_are_what_they_are_called():
    image = Image.fromarray(np.random.default_rng(0).integers(60, 120, (40, 60, 3), dtype=np.uint8))
    sizes = {kind: change(image).size for kind, change in KINDS.items()}
    assert sizes == {
        "rescaled": (30, 20), "recompressed": (60, 40), "mirrored": (60, 40), "cropped": (54, 36), "recoloured": (60, 40),
    }  # fmt: skip
    pixels = {kind: np.asarray(change(image)).astype(float) for kind, change in KINDS.items()}
    original = np.asarray(image).astype(float)
    np.testing.assert_array_equal(pixels["mirrored"], original[:, ::-1])
    np.testing.assert_array_equal(pixels["cropped"], original[2:-2, 3:-3])
    assert pixels["recoloured"].mean() > original.mean() + 10
    assert 1 < abs(pixels["recompressed"] - original).mean() < 30
    for change in KINDS.values():
        assert change(Image.new("RGB", (1, 1))).size == (1, 1)


def test_planted_copies_are_those_that_one_would_save_and_embed(store, model, tmp_path):
    encoder, rows = Encoder.open(model), {row.id: row for row in store.rows()}
    ids = [3, 17, 22]
    for id, found in zip(ids, made(store, ids), strict=True):
        with Image.open(store.path(rows[id])) as image:
            own = encoder.encode(image.copy())[0]
            for cosine, change in zip(found, KINDS.values(), strict=True):
                file = BytesIO()
                change(image).save(file, "PNG")
                assert cosine == pytest.approx(float(encoder.encode(Image.open(file))[0] @ own), abs=1e-3)


def test_nearest_others_are_those_of_all_pairs_and_each_content_counts_once(put):
    rng = np.random.default_rng(3)
    vectors, contents = rng.standard_normal((120, 8)), rng.integers(60, size=120)
    vectors = vectors[contents]  # equal contents, equal vectors
    store = put([f"{i}.jpg" for i in range(120)], vectors=vectors, contents=[f"{i:064x}" for i in contents])
    (facts,) = facts_of(store)
    places = np.unique(facts.firsts)
    kept = np.concatenate([block for _, block in store.blocks()])[places]
    np.testing.assert_allclose(
        nearest_others(store, facts, Lookup(store), places[:50]), others(kept)[:50], atol=1e-6
    )


def test_a_threshold_for_real_images_finds_their_copies_and_is_the_same_twice(store):
    cut = cut_of(store)
    assert cut.planted_SC.shape == (40, 5) and 0.9 < cut.threshold <= 1
    assert cut.found_C[0] > 0.9  # rescaled
    assert cut_of(store).threshold == cut.threshold


def test_images_that_have_gone_are_named_with_what_to_do(store, pictures):
    for path in sorted(pictures.iterdir())[:30]:
        path.unlink()
    with pytest.raises(
        ImageError, match=r"^/.*\.png: cannot be read: .*30 of 40 images .*--threshold 0\.95$"
    ):
        cut_of(store)


def test_some_that_have_gone_or_changed_are_left_out(store, pictures):
    first, second, *_ = sorted(pictures.iterdir())
    first.unlink()
    Image.new("RGB", (60, 40), (9, 9, 9)).save(second)
    assert cut_of(store).planted_SC.shape == (38, 5)
    assert (made(store, [0, 1, 2, 3])[:, 0] > 0.99).all()


def test_a_model_that_did_not_make_the_vectors_is_refused(put):
    with pytest.raises(EncoderMismatch, match="--threshold COSINE"):
        cut_of(put([f"{i}.jpg" for i in range(30)]))


def test_a_few_images_are_not_read(put):
    with pytest.raises(ConfigError, match=r"^5 different images are too few"):
        cut_of(put([f"{i}.jpg" for i in range(5)]))
