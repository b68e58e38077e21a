"""The page of an evaluation: all numbers and pictures in it, nothing from elsewhere, hostile names harmless."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from simclr.classify import figures
from simclr.classify.evaluation import evaluate
from simclr.classify.examples import Examples, Split
from simclr.classify.report import report, write_report
from simclr.classify.words import cells
from simclr.errors import ArtifactError

CLASSES = ("cat", "dog", '<b>"&', "fish", "ant", "bee")


@pytest.fixture(scope="module")
def data() -> list[Examples]:
    """Two encoders, of which the second sees more."""

    def made(noise: float) -> Examples:
        rng = np.random.default_rng(0)
        labels = np.arange(240) % 6
        vectors = rng.standard_normal((6, 12))[labels] + noise * rng.standard_normal((240, 12))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return Examples(CLASSES, vectors[:180], labels[:180], vectors[180:], labels[180:])

    return [made(1.5), made(0.8)]


@pytest.fixture(scope="module")
def measured(data):
    return [evaluate(each) for each in data]


@pytest.fixture(scope="module")
def split() -> Split:
    rows = np.arange(240)
    return Split(CLASSES, rows[:180], rows[:180] % 6, rows[180:], rows[180:] % 6, True)


@pytest.fixture(scope="module")
def page(data, measured, split) -> str:
    return report(["a.store", "b.store"], split, measured, data)


def test_every_number_of_the_table_is_on_the_page(page, measured):
    shown = re.findall(r"<t[dh]>(.*?)</t[dh]>", page)
    for row in cells(["a.store", "b.store"], measured):
        assert all(cell in shown for cell in row)


def test_every_class_of_every_encoder_is_there_the_worst_first(page):
    for table in page.split("<h2>Classes")[1:]:
        rows = re.findall(r"<tr><td>(.*?)</td>.*?<td>([\d.]+)</td></tr>", table.split("</table>")[0])
        assert sorted(name for name, _ in rows) == sorted(
            ["cat", "dog", "&lt;b&gt;&quot;&amp;", "fish", "ant", "bee"]
        )
        f1 = [float(value) for _, value in rows]
        assert f1 == sorted(f1)


def test_pictures_are_whole_and_nothing_comes_from_elsewhere(page):
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 2 + 2 * 2
    for picture in pictures:
        ElementTree.fromstring(picture)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)


def test_a_hostile_class_name_stays_text(page):
    assert "<b>" not in page


def test_the_same_numbers_give_the_same_page(page, data, measured, split):
    assert report(["a.store", "b.store"], split, measured, data) == page


def test_one_encoder_has_no_differences(data, measured, split):
    alone = report(["a.store"], split, measured[:1], data[:1])
    assert "beyond chance" not in alone
    assert len(re.findall("<svg", alone)) == 2 + 2


def test_very_few_test_images_have_no_map(data, measured, split):
    few = Examples(CLASSES, data[0].train_ND, data[0].train_N, data[0].test_QD[:4], data[0].test_Q[:4])
    assert len(re.findall("<svg", report(["a.store"], split, [evaluate(few)], [few]))) == 3


def test_many_classes_are_drawn_without_their_names():
    names = [f"class number {i}" for i in range(60)]
    assert "class number 7" not in figures.confusion(np.eye(60, dtype=np.int64), names)
    assert "class number 7" in figures.confusion(np.eye(30, dtype=np.int64), names[:30])


def test_a_page_that_cannot_be_written_is_an_error(tmp_path, data, measured, split):
    with pytest.raises(ArtifactError, match=r"p\.html: cannot be written"):
        write_report(tmp_path / "none" / "p.html", ["a"], split, measured[:1], data[:1])
