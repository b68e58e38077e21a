"""Puts pages that lie outside docs/ on the site, and points links at where the pages are there.

In the repository a link is relative to its file, so that it works wherever the files are read. On the site README.md is the
front page, docs/x.md is x.md, and all else keeps its path. A file that a page links to comes along.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root and of benchmarks/."""
    for path in [*PAGES, *(f"benchmarks/{report.name}" for report in (ROOT / "benchmarks").glob("*.md"))]:
        _add(files, path, config)
    for file in files:  # reports are reached from their table, not from the menu
        if file.src_uri.startswith("benchmarks/") and file.src_uri != "benchmarks/README.md":
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its links as they are on the site."""
    here = _in_repository(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = link[2]
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        if (ROOT / path).is_file() and files.get_file_from_path(_on_site(path)) is None:
            _add(files, path, config)
        there = posixpath.relpath(_on_site(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{there}{link[3]}"

    return LINK.sub(moved, markdown)


def _add(files: Any, path: str, config: Any) -> None:
    files.append(File.generated(config, _on_site(path), abs_src_path=str(ROOT / path)))


def _on_site(path: str) -> str:
    """Where a file of the repository is on the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _in_repository(path: str) -> str:
    """The reverse."""
    if path == "index.md":
        return "README.md"
    return path if path in PAGES or path.startswith("benchmarks/") else f"docs/{path}"
