"""The verb `search`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simclr.console import note, user_errors


def search(
    index: Annotated[Path, typer.Argument(help="Index written by `simclr embed`.")],
    image: Annotated[list[Path], typer.Argument(help="Images to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a gallery with thumbnails to this file.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store of the vectors.  [default: the one the index was built from]")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Export folder.  [default: the copy in the store]")
    ] = None,
) -> None:
    """Print the images most like each IMAGE, best first.

    Example: simclr search out.faiss beach.jpg -k 5
    """
    with user_errors():
        from simclr.embed.search import Index

        opened = Index.open(index, store=store, model=model)
        if opened.stale:
            note(
                f"{index} is older than its store; bring it in step with: simclr embed FOLDER --index {index}"
            )
        results = list(zip(map(str, image), opened.search(image, k=k), strict=True))
        for query, hits in results:
            if len(results) > 1 and not as_json:
                typer.echo(f"{query}:")
            for rank, hit in enumerate(hits, start=1):
                if as_json:
                    line = {
                        "query": query,
                        "rank": rank,
                        "id": hit.id,
                        "path": hit.path,
                        "similarity": round(hit.similarity, 6),
                    }
                    typer.echo(json.dumps(line, ensure_ascii=False))
                else:
                    typer.echo(f"{hit.similarity:.3f}  {hit.path}")
        if html is not None:
            from simclr.embed.gallery import write_gallery

            write_gallery(html, results, title=f"Most similar in {index.name}")
            note(f"gallery: {html}")
