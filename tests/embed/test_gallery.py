"""The page is one file, says what it shows, and runs nothing that a file name brings along."""

import base64
import tarfile
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from simclr.embed.gallery import Blend, gallery, write_gallery
from simclr.embed.search import Hit, Index
from simclr.errors import ArtifactError


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def photo(tmp_path: Path):
    def photo(name: str, colour: tuple[int, int, int] = (220, 30, 30), size=(600, 300)) -> str:
        Image.new("RGB", size, colour).save(tmp_path / name)
        return str(tmp_path / name)

    return photo


def colour_of(image: dict[str, str | None]) -> tuple[int, ...]:
    """In the middle of a thumbnail."""
    encoded = (image["src"] or "").removeprefix("data:image/jpeg;base64,")
    with Image.open(BytesIO(base64.b64decode(encoded))) as thumbnail:
        return thumbnail.getpixel((thumbnail.width // 2, thumbnail.height // 2))


def hit(path: str, similarity: float = 0.5, id: int = 0) -> Hit:
    return Hit(path=path, similarity=similarity, id=id)


def test_a_page_fetches_nothing(photo):
    text = gallery([(photo("q.png"), [hit(photo("a.png"))])], title="t")
    page = Page(text)
    assert [image["src"][:23] for image in page.attributes("img")] == ["data:image/jpeg;base64,"] * 2
    assert "http" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_the_query_comes_first_and_hits_keep_their_order(photo):
    hits = [hit(photo("b.png"), 0.25), hit(photo("c.png"), 0.75), hit(photo("a.png"), 0.5)]
    page = Page(gallery([(photo("q.png"), hits)], title="t"))
    figures = page.attributes("figure")
    assert [figure["class"] for figure in figures] == ["query", "hit", "hit", "hit"]
    assert [Path(figure["title"]).name for figure in figures] == ["q.png", "b.png", "c.png", "a.png"]


def test_each_hit_shows_its_similarity(photo):
    page = Page(gallery([(photo("q.png"), [hit(photo("a.png"), 0.98765)])], title="t"))
    assert "0.988" in page.texts


def test_each_query_has_a_row_of_its_own(photo):
    page = Page(gallery([(photo("q.png"), [hit(photo("a.png"))]), (photo("r.png"), [])], title="t"))
    assert len(page.attributes("section")) == 2


def test_thumbnails_show_the_image_small(photo):
    page = Page(gallery([(photo("q.png", (30, 180, 60)), [])], title="t"))
    encoded = page.attributes("img")[0]["src"].removeprefix("data:image/jpeg;base64,")
    with Image.open(BytesIO(base64.b64decode(encoded))) as image:
        assert image.size == (256, 128)
        assert image.getpixel((100, 60)) == pytest.approx((30, 180, 60), abs=3)


def test_a_hostile_file_name_stays_text(photo):
    path = photo('<b>"&.png')
    page = Page(gallery([(path, [hit(path)])], title="t"))
    assert [figure["title"] for figure in page.attributes("figure")] == [path, path]
    assert page.attributes("img")[0]["alt"].endswith('/<b>"&.png')
    assert [attributes for attributes in page.attributes("b")] == [{}, {}]  # the labels, and no third


def test_a_hostile_title_stays_text(photo):
    page = Page(gallery([], title="</title><script>{x}"))
    assert page.texts.count("</title><script>{x}") == 2 and not page.attributes("script")


def test_an_image_that_is_gone_says_so_and_the_others_are_shown(photo, tmp_path):
    page = Page(
        gallery([(photo("q.png"), [hit(str(tmp_path / "gone.png")), hit(photo("a.png"))])], title="t")
    )
    assert "image is no longer there" in page.texts
    assert len(page.attributes("img")) == 2
    assert len(page.attributes("figure")) == 3


def test_the_page_is_written_as_given(photo, tmp_path):
    results = [(photo("q.png"), [hit(photo("ä.png"))])]
    write_gallery(tmp_path / "out.html", results, title="t")
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == gallery(results, title="t")


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"out\.html: cannot be written"):
        write_gallery(tmp_path / "no folder" / "out.html", [], title="t")


def test_an_image_in_a_tar_has_a_thumbnail_too(photos: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos / "warm" / "red_dark.png", arcname="in/red.png")
    page = gallery(
        [(str(photos / "warm" / "red_dark.png"), [Hit(f"{tmp_path}/x.tar/in/red.png", 1.0, 0)])], title="t"
    )
    assert page.count("data:image/jpeg;base64,") == 2
    assert "no longer there" not in page
    page = gallery([("q", [Hit(f"{tmp_path}/x.tar/in/none.png", 1.0, 0)])], title="t")
    assert page.count("no longer there") == 2


# ---- several images that were looked for as one


def test_what_hits_are_to_be_like_comes_first_then_what_unlike_then_the_hits(photo):
    blend = Blend((photo("b.png"), photo("a.png")), (photo("d.png"), photo("c.png")))
    page = Page(gallery([(blend, [hit(photo("f.png")), hit(photo("e.png"))])], title="t"))
    figures = page.attributes("figure")
    assert [Path(figure["title"]).name[0] for figure in figures] == list("badcfe")
    assert [figure["class"] for figure in figures] == ["query", "query", "unlike", "unlike", "hit", "hit"]


def test_each_image_of_several_says_which_it_is(photo):
    page = Page(gallery([(Blend((photo("a.png"), photo("b.png")), (photo("c.png"),)), [])], title="t"))
    assert [text for text in page.texts if text in ("like", "unlike", "query")] == ["like", "like", "unlike"]


def test_each_image_of_several_is_shown(photo):
    red, green, blue = (220, 30, 30), (30, 180, 60), (40, 60, 220)
    blend = Blend((photo("a.png", red), photo("b.png", green)), (photo("c.png", blue),))
    images = Page(gallery([(blend, [])], title="t")).attributes("img")
    assert [colour_of(image) for image in images] == [pytest.approx(c, abs=3) for c in (red, green, blue)]


def test_several_as_one_have_a_row_together(photo):
    blend = Blend((photo("a.png"), photo("b.png")), (photo("c.png"),))
    page = Page(gallery([(blend, []), (photo("q.png"), [])], title="t"))
    assert len(page.attributes("section")) == 2


def test_what_hits_are_to_be_unlike_is_framed_in_another_way(photo):
    text = gallery([(Blend((photo("a.png"),), (photo("b.png"),)), [])], title="t")
    frames = [line for line in text.splitlines() if "outline:" in line]
    assert [frame.split()[0] for frame in frames] == [".query", ".unlike"]
    assert len({frame.partition("outline:")[2] for frame in frames}) == 2


def test_a_hostile_name_of_one_of_several_stays_text(photo):
    path = photo('<b>"&.png')
    page = Page(gallery([(Blend((path,), (path,)), [])], title="t"))
    assert [figure["title"] for figure in page.attributes("figure")] == [path, path]
    assert page.attributes("b") == [{}, {}]  # the labels, and no third


def test_one_of_several_that_is_gone_says_so_and_the_others_are_shown(photo, tmp_path):
    blend = Blend((photo("a.png"), str(tmp_path / "gone.png")), (str(tmp_path / "gone, too.png"),))
    page = Page(gallery([(blend, [hit(photo("b.png"))])], title="t"))
    assert page.texts.count("image is no longer there") == 2
    assert len(page.attributes("img")) == 2


def test_an_id_that_is_looked_for_shows_its_image(index, photos):
    opened = Index.open(index)
    ids = {opened.store.path(row): row.id for row in opened.store.rows()}
    path = str(photos / "cold" / "green_light.png")
    page = Page(gallery(list(zip(opened.names([ids[path]]), [[]], strict=True)), title="t"))
    assert [figure["title"] for figure in page.attributes("figure")] == [path]
    assert colour_of(page.attributes("img")[0]) == pytest.approx((30, 180, 60), abs=3)
