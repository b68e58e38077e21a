"""The page's own files, by their names, from memory: a request never says a path."""

from importlib.resources import files as packaged
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

from simclr.serve.limits import Refused

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def add_page(app: FastAPI) -> None:
    folder = packaged("simclr.serve") / "page"
    parts = {
        part.name: (part.read_bytes(), _KINDS[Path(part.name).suffix])
        for part in folder.iterdir()
        if Path(part.name).suffix in _KINDS
    }

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _part("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _part(name)

    def _part(name: str) -> Response:
        if name not in parts:
            raise Refused(404, "the page has no such part.")
        data, media_type = parts[name]
        return Response(data, media_type=media_type, headers={"cache-control": "no-cache"})
