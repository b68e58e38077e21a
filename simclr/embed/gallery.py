"""Rows of images, such as search results, as one self-contained HTML page with thumbnails. Takes paths, gives text; searches nothing."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from simclr.embed.search import Hit
from simclr.errors import ImageError
from simclr.html_page import html_page, write_page
from simclr.images import decode
from simclr.sources import place_of, read_place

_THUMBNAIL = 256
"""Longest side, in pixels."""

_STYLE = """section { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: 1rem 0; }
.row { display: flex; flex-wrap: wrap; gap: .75rem; }
figure { margin: 0; width: 9rem; }
img { width: 9rem; height: 9rem; object-fit: contain; background: color-mix(in srgb, currentColor 8%, transparent);
  border-radius: .4rem; }
.query img { outline: 3px solid #3b82f6; }
.unlike img { outline: 3px dashed #dc2626; }
.missing { display: grid; place-items: center; width: 9rem; height: 9rem; font-size: .8rem; text-align: center; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; }
b { display: block; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Tile:
    """An image of a row."""

    path: str
    label: str
    kind: str = "hit"
    """`query` and `unlike` are framed."""


@dataclass(frozen=True)
class Row:
    tiles: Sequence[Tile]
    heading: str = ""


def picture_page(rows: Sequence[Row], *, title: str, lead: str = "") -> str:
    """Rows of images -> an HTML page. `lead`: HTML that comes before them."""
    sections = "\n".join(
        "<section>"
        + (f"<h2>{html.escape(row.heading)}</h2>" if row.heading else "")
        + f'<div class="row">{"".join(map(_figure, row.tiles))}</div></section>'
        for row in rows
    )
    return html_page(title, lead + sections, style=_STYLE)


@dataclass(frozen=True)
class Blend:
    """Several images that were looked for as one: paths of those that the hits are to be like, and unlike."""

    like: tuple[str, ...]
    unlike: tuple[str, ...] = ()


Result = tuple[str | Blend, Sequence[Hit]]
"""What was looked for, an image's path or several as one, and what was found."""


def gallery(results: Sequence[Result], *, title: str) -> str:
    """Queries with their hits -> an HTML page; what was looked for comes first in its row, framed."""
    rows = [
        Row([*_asked(query), *(Tile(hit.path, f"{hit.similarity:.3f}") for hit in hits)])
        for query, hits in results
    ]
    return picture_page(rows, title=title)


def _asked(query: str | Blend) -> list[Tile]:
    if isinstance(query, str):
        return [Tile(query, "query", "query")]
    return [
        *(Tile(path, "like", "query") for path in query.like),
        *(Tile(path, "unlike", "unlike") for path in query.unlike),
    ]


def write_gallery(path: Path, results: Sequence[Result], *, title: str) -> None:
    """Write the page. Raises ArtifactError if the file cannot be written."""
    write_page(path, gallery(results, title=title))


def _figure(tile: Tile) -> str:
    name = html.escape("/".join(Path(tile.path).parts[-2:]))
    return (
        f'<figure class="{tile.kind}" title="{html.escape(tile.path)}">{_image(tile.path, name)}'
        f"<figcaption><b>{html.escape(tile.label)}</b> {name}</figcaption></figure>"
    )


def _image(path: str, name: str) -> str:
    try:
        image = decode(read_place(place_of(path)), enough=lambda w, h: min(w, h, _THUMBNAIL)).image
    except ImageError:  # moved or damaged since it was embedded: the page says so and goes on
        return '<div class="missing">image is no longer there</div>'
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    encoded = base64.b64encode(jpeg.getvalue()).decode()
    return f'<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{encoded}">'
