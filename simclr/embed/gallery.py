"""Search results as one self-contained HTML page with thumbnails. Takes hits, gives text; searches nothing."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from simclr.artifacts import write_atomically
from simclr.embed.search import Hit
from simclr.errors import ArtifactError, ImageError
from simclr.images import decode
from simclr.sources import place_of, read_place

_THUMBNAIL = 256
"""Longest side, in pixels."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }}
section {{ border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: 1rem 0; }}
.row {{ display: flex; flex-wrap: wrap; gap: .75rem; }}
figure {{ margin: 0; width: 9rem; }}
img {{ width: 9rem; height: 9rem; object-fit: contain; background: color-mix(in srgb, currentColor 8%, transparent);
  border-radius: .4rem; }}
.query img {{ outline: 3px solid #3b82f6; }}
.unlike img {{ outline: 3px dashed #dc2626; }}
.missing {{ display: grid; place-items: center; width: 9rem; height: 9rem; font-size: .8rem; text-align: center; }}
figcaption {{ font-size: .75rem; overflow-wrap: anywhere; }}
b {{ display: block; font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""


@dataclass(frozen=True)
class Blend:
    """Several images that were looked for as one: paths of those that the hits are to be like, and unlike."""

    like: tuple[str, ...]
    unlike: tuple[str, ...] = ()


Result = tuple[str | Blend, Sequence[Hit]]
"""What was looked for, an image's path or several as one, and what was found."""


def gallery(results: Sequence[Result], *, title: str) -> str:
    """Queries with their hits -> an HTML page; what was looked for comes first in its row, framed."""
    sections = "\n".join(
        '<section><div class="row">'
        + _asked(query)
        + "".join(_figure(hit.path, f"{hit.similarity:.3f}", "hit") for hit in hits)
        + "</div></section>"
        for query, hits in results
    )
    return _PAGE.format(title=html.escape(title), sections=sections)


def _asked(query: str | Blend) -> str:
    if isinstance(query, str):
        return _figure(query, "query", "query")
    return "".join(
        [
            *(_figure(path, "like", "query") for path in query.like),
            *(_figure(path, "unlike", "unlike") for path in query.unlike),
        ]
    )


def write_gallery(path: Path, results: Sequence[Result], *, title: str) -> None:
    """Write the page. Raises ArtifactError if the file cannot be written."""
    page = gallery(results, title=title)
    try:
        write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be written ({exc.strerror or exc}).") from exc


def _figure(path: str, label: str, kind: str) -> str:
    name = html.escape("/".join(Path(path).parts[-2:]))
    return (
        f'<figure class="{kind}" title="{html.escape(path)}">{_image(path, name)}'
        f"<figcaption><b>{label}</b> {name}</figcaption></figure>"
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
