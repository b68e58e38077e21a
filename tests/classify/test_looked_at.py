"""Copies found by their looks, in stores of real files: all kinds, leaks, images that have gone, what proposes them."""

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from simclr.classify import copies as copies_module
from simclr.classify import looking
from simclr.classify.copies import KINDS, chosen_cut, planted
from simclr.classify.copy_search import Duplicates, find_duplicates, find_leaks
from simclr.classify.looking import look_at
from simclr.classify.near import facts_of, finder_in_step, finder_of, nearest_contents
from simclr.classify.small_pictures import small_pictures
from simclr.embed import Lane, Store, embed_sources
from simclr.embed.lookup import Lookup
from simclr.errors import EncoderMismatch, ImageError
from simclr.runtime import Encoder

COUNT, COPIED = 10, 2
"""Few, since this encoder takes mirrored images far off."""


def quietly(what: str) -> nullcontext:
    return nullcontext(lambda done, total, words: None)


def ignore(line: str) -> None:
    pass


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(40, 200, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC)


def embedded(model: Path, folder: Path) -> Store:
    store = folder.with_suffix(".store")
    embed_sources([folder], store, Lane(Encoder.open(model)), model=model)
    return Store.open(store)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Ten smooth images, and of two of them a copy of each kind."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(COUNT):
        picture(i).save(folder / f"{i:02d}.png")
    for i in range(COPIED):
        for kind, change in KINDS.items():
            change(picture(i)).save(folder / f"{i:02d}_{kind}.jpg", quality=95)
    return folder


@pytest.fixture
def store(model, pictures) -> Store:
    return embedded(model, pictures)


def found_in(store: Store, note=ignore) -> Duplicates:
    return find_duplicates(store, threshold=None, note=note, show=quietly)


def named(store: Store, found: Duplicates) -> dict[str, list[str]]:
    names = {row.id: row.image_path for row in store.rows()}
    ids = found.facts.ids
    return {
        names[int(ids[group.keeper])]: sorted(names[int(ids[copy])] for copy in group.copies_C)
        for group in found.groups
    }


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


def test_every_kind_of_copy_is_found_and_nothing_else(store):
    found = found_in(store)
    groups = {frozenset([keeper, *copies]) for keeper, copies in named(store, found).items()}
    assert groups == {
        frozenset([f"{i:02d}.png", *(f"{i:02d}_{kind}.jpg" for kind in KINDS)]) for i in range(COPIED)
    }
    assert found.exact == 0 and found.near == 10
    assert found.cut is not None and found.threshold == found.cut.threshold < 0.99
    assert all((group.similarities_C >= found.threshold).all() for group in found.groups)
    assert np.delete(found.cut.found_C, 2).min() > 0.8  # this encoder takes mirrored ones elsewhere


def test_twice_gives_the_same_and_leaves_nothing_behind(store, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    first, second = found_in(store), found_in(store)
    assert named(store, first) == named(store, second) and first.threshold == second.threshold
    assert list(folder.iterdir()) == []


def test_vectors_alone_would_not_do(store):
    """What looks add: the mirrored copies have other vectors."""
    by_vectors = find_duplicates(store, threshold=0.999, note=ignore, show=quietly)
    assert not any("mirrored" in name for names in named(store, by_vectors).values() for name in names)


def test_exact_copies_are_exact(model, pictures):
    shutil.copy(pictures / "05.png", pictures / "twin.png")
    store = embedded(model, pictures)
    found = found_in(store)
    assert named(store, found)["05.png"] == ["twin.png"]
    (group,) = [group for group in found.groups if group.exact_C.any()]
    assert group.similarities_C.tolist() == [1.0] and found.exact == 1


def test_an_image_that_has_gone_is_seen_in_its_twin(model, pictures):
    shutil.copy(pictures / "00.png", pictures / "twin.png")
    store = embedded(model, pictures)
    (pictures / "00.png").unlink()
    said: list[str] = []
    names = named(store, found_in(store, said.append))
    assert names["00.png"] == [*sorted(f"00_{kind}.jpg" for kind in KINDS), "twin.png"]
    assert not any("have gone" in line for line in said)


def test_images_that_have_gone_or_changed_are_counted_and_found_by_content_alone(store, pictures):
    (pictures / "00_mirrored.jpg").unlink()
    picture(50).save(pictures / "01_cropped.jpg")
    said: list[str] = []
    names = named(store, found_in(store, said.append))
    assert said[-1].startswith("2 images of ") and said[-1].endswith("only exact copies are found")
    assert names["00.png"] == sorted(f"00_{kind}.jpg" for kind in KINDS if kind != "mirrored")
    assert names["01.png"] == sorted(f"01_{kind}.jpg" for kind in KINDS if kind != "cropped")


def test_a_folder_that_has_moved_is_an_error_that_says_what_to_do(store, pictures):
    pictures.rename(pictures.with_name("elsewhere"))
    with pytest.raises(ImageError, match=r"^/.*00\.png: .* 20 of 20 images .* --threshold 0\.95$"):
        found_in(store)


def test_a_model_that_did_not_make_the_vectors_is_refused(put, pictures):
    store = put([path.name for path in sorted(pictures.iterdir())], roots=[pictures])
    with pytest.raises(ImageError, match="has changed since it was embedded"):
        found_in(store)  # contents are checked first
    from blake3 import blake3

    contents = [blake3(path.read_bytes()).hexdigest() for path in sorted(pictures.iterdir())]
    names = [path.name for path in sorted(pictures.iterdir())]
    store = put(names, roots=[pictures], contents=contents, store=pictures.with_suffix(".store"))
    with pytest.raises(EncoderMismatch, match="--threshold COSINE"):
        found_in(store)


def test_a_few_images_are_compared_too(model, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    ImageOps.mirror(picture(0)).save(folder / "b.png")
    picture(1).save(folder / "c.png")
    store = embedded(model, folder)
    found = found_in(store)
    assert named(store, found) in ({"a.png": ["b.png"]}, {"b.png": ["a.png"]}) and found.cut.precision is None


def test_one_image_has_no_copy(model, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    found = found_in(embedded(model, folder))
    assert found.groups == [] and len(found.nearest_M) == 0


def test_images_of_one_colour_are_not_copies_of_one_another(model, photos):
    """Twelve plain ones of `drawn.py`, different files."""
    assert found_in(embedded(model, photos)).near == 0


# ---- leaks


def test_leaks_are_found_in_every_kind(model, pictures, tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    train.mkdir()
    test.mkdir()
    for path in pictures.iterdir():
        shutil.move(path, test / path.name if "_" in path.name else train / path.name)
    shutil.copy(train / "07.png", test / "exact.png")
    shutil.copy(test / "00_cropped.jpg", test / "again.jpg")
    picture(70).save(test / "other.png")
    one, two = embedded(model, train), embedded(model, test)
    found = find_leaks(one, two, threshold=None, note=ignore, show=quietly)
    theirs = {row.id: row.image_path for row in two.rows()}
    ours = {row.id: row.image_path for row in one.rows()}
    pairs = {
        theirs[other]: ours[id] for other, id in zip(found.others.tolist(), found.ids.tolist(), strict=True)
    }
    expected = {f"{i:02d}_{kind}.jpg": f"{i:02d}.png" for i in range(COPIED) for kind in KINDS}
    assert pairs == expected | {"exact.png": "07.png", "again.jpg": "00.png"}
    assert found.exact.sum() == 1 and (found.similarities[found.exact] == 1).all()
    assert found.images == 13 and len(found.nearest_M) == 12


# ---- what proposes, what is planted


def test_the_nearest_contents_are_those_of_a_loop(put):
    rng = np.random.default_rng(3)
    contents = rng.integers(60, size=300)
    vectors = rng.standard_normal((60, 8))[contents]
    store = put([f"{i}.jpg" for i in range(300)], vectors=vectors, contents=[f"{i:064x}" for i in contents])
    (facts,) = facts_of(store)
    stored = np.concatenate([block for _, block in store.blocks()])
    with finder_of(
        store, Lookup(store), finder_in_step(store, Lookup(store), None), note=ignore, show=quietly
    ) as finder:
        found = nearest_contents(facts, finder, stored[:40], facts.contents[:40], 20)
        everything = nearest_contents(facts, finder, stored[:5], facts.contents[:5], 80)
    for row in range(40):
        best = {}
        for place in np.argsort(-(stored @ stored[row]), kind="stable"):
            if contents[place] != contents[row]:
                best.setdefault(contents[place], facts.firsts[place])
        assert found[row].tolist() == list(best.values())[:20]
    assert ((everything >= 0).sum(1) == len(np.unique(contents)) - 1).all()


def test_no_image_is_compared_with_its_own_content(store):
    (facts,), lookup = facts_of(store), Lookup(store)
    with (
        finder_of(store, lookup, finder_in_step(store, lookup, None), note=ignore, show=quietly) as finder,
        small_pictures(store, facts, show=quietly) as seen,
    ):
        blocks = list(look_at(store, facts, seen, finder, facts, seen))
    assert sum(len(block.places_Q) for block in blocks) == 20
    for block in blocks:
        assert (block.found_QK != block.places_Q[:, None]).all() and block.found_QK.shape[
            1
        ] == looking.NEAREST


def test_planted_copies_that_the_encoder_takes_elsewhere_are_not_reached(store, monkeypatch):
    (facts,), lookup = facts_of(store), Lookup(store)
    with (
        finder_of(store, lookup, finder_in_step(store, lookup, None), note=ignore, show=quietly) as finder,
        small_pictures(store, facts, show=quietly) as seen,
    ):
        alike, reached = planted(
            store, facts, np.arange(20), finder, seen, progress=lambda done, total, words: None
        )
        monkeypatch.setattr(copies_module, "NEAREST", 1)
        _, nearly = planted(store, facts, np.arange(20), finder, seen, progress=lambda *_: None)
        cut = chosen_cut(store, facts, lookup, finder, seen, progress=lambda *_: None)
    assert alike.shape == reached.shape == (20, 5) and (alike[:, :4] > 0.9).all()
    assert reached.mean() > 0.9 > nearly.mean() > 0.3
    assert cut.planted_SC.shape == (20, 5)
