from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr.errors import ImageError
from simclr.export import pictures
from simclr.export.pictures import calibration_images, gallery_images
from simclr.preprocess import Recipe

RECIPE = Recipe(size=4, crop=1.0)


@pytest.fixture
def greys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 images, each of its own grey; two more that are broken."""
    monkeypatch.setattr(pictures, "GALLERY", 10)
    monkeypatch.setattr(pictures, "CALIBRATION", 10)
    folder = tmp_path / "greys"
    folder.mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i:02d}.png")
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "cut.png").write_bytes((folder / "07.png").read_bytes()[:40])
    return folder


@pytest.fixture
def run(tmp_path: Path, greys: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(f"data = '{greys}'\n")
    return tmp_path / "run"


@pytest.fixture
def said() -> list[str]:
    return []


def greys_in(images: np.ndarray) -> list[int]:
    assert images.dtype == np.uint8 and images.shape[1:] == (4, 4, 3)
    return images[:, 0, 0, 0].tolist()


def test_the_gallery_is_drawn_from_the_whole_folder_and_always_the_same(greys: Path, said: list[str]) -> None:
    first = greys_in(gallery_images(str(greys), None, RECIPE, note=said.append))
    assert first == greys_in(gallery_images(str(greys), None, RECIPE, note=said.append))
    assert len(set(first)) == 10 and first != sorted(first) and max(first) > 20


def test_broken_images_are_replaced_by_others(greys: Path, said: list[str], monkeypatch) -> None:
    monkeypatch.setattr(pictures, "GALLERY", 40)
    assert sorted(greys_in(gallery_images(str(greys), None, RECIPE, note=said.append))) == list(range(40))


def test_calibration_and_gallery_of_a_run_are_other_images(run: Path, said: list[str]) -> None:
    gallery = greys_in(gallery_images(None, run, RECIPE, note=said.append))
    calibration = greys_in(calibration_images(None, run, RECIPE, note=said.append))
    assert len(calibration) == 10 and set(gallery).isdisjoint(calibration)
    assert said == [f"calibrating INT8 with images of {run.parent}/greys"]


def test_a_train_folder_is_read_as_pretraining_reads_it(run: Path, greys: Path, said: list[str]) -> None:
    (greys / "train").mkdir()
    Image.new("RGB", (8, 8), (200, 200, 200)).save(greys / "train" / "a.png")
    assert greys_in(gallery_images(None, run, RECIPE, note=said.append)) == [200]


def test_without_any_images_there_is_no_gallery_and_calibration_warns(
    tmp_path: Path, said: list[str]
) -> None:
    assert len(gallery_images(None, None, RECIPE, note=said.append)) == 0
    assert len(calibration_images(None, None, RECIPE, note=said.append)) == 256
    assert len(said) == 1 and said[0].startswith("warning: INT8 is calibrated with drawn images")


@pytest.mark.parametrize("choose", [gallery_images, calibration_images])
def test_a_folder_without_images_is_an_error(tmp_path: Path, choose, said: list[str]) -> None:
    with pytest.raises(ImageError, match=f"^{tmp_path}: no image found in it or below"):
        choose(str(tmp_path), None, RECIPE, note=said.append)
