"""A title and a body -> one self-contained HTML page, readable in light and dark, that fetches nothing and runs nothing."""

import html
from collections.abc import Sequence
from pathlib import Path

from simclr.artifacts import unwritable, write_atomically

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }}
h2 {{ margin: 2.2rem 0 .4rem; font-size: 1.15rem; }}
p {{ margin: .2rem 0 .8rem; max-width: 60rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25rem 1.1rem .25rem 0; white-space: nowrap;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }}
svg {{ max-width: 100%; height: auto; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def html_page(title: str, body: str, *, style: str = "") -> str:
    """`title` is text; `body` is HTML, in which names of files and the like are escaped already. `style`: more CSS."""
    return _PAGE.format(title=html.escape(title), body=body, style=style)


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Text in, HTML out; the first row is the head."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(tags, rows, strict=True)
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def write_page(path: Path, page: str) -> None:
    """Whole, or not at all. Raises ArtifactError if it cannot be written."""
    try:
        write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    except OSError as exc:
        raise unwritable(path, "--html", exc) from exc
