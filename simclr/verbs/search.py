"""The verb `search`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simclr.console import note, user_errors
from simclr.errors import ConfigError


def search(
    index: Annotated[Path, typer.Argument(help="Index written by `simclr embed`.")],
    image: Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Images to look for.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    id: Annotated[
        list[int] | None,
        typer.Option("--id", metavar="ID", help="Look for an image of the index, by its id; repeatable."),
    ] = None,
    mean: Annotated[
        bool, typer.Option("--mean", help="Look for all images as one: what is like each of them.")
    ] = False,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="With --mean: less like this one; repeatable."),
    ] = None,
    unlike_id: Annotated[
        list[int] | None,
        typer.Option(metavar="ID", help="The same for an image of the index; repeatable."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Only images that meet a condition on path, source, width, height, size, modified or id, "
            "such as \"path like '%2024%' and width > 800\".",
        ),
    ] = None,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Leave out the images that are looked for.")
    ] = False,
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
    mapped: Annotated[
        bool,
        typer.Option(
            help="Read only those parts of the index that are used, instead of all of it.",
        ),
    ] = True,
) -> None:
    """Print the images most like each IMAGE, best first.

    Example: simclr search out.faiss beach.jpg -k 5
    """
    with user_errors():
        from simclr.embed.gallery import Blend, Result, write_gallery
        from simclr.embed.search import Index

        queries = [*(image or ()), *(id or ())]
        rejected = [*(unlike or ()), *(unlike_id or ())]
        if not queries:
            raise ConfigError(f"no image to look for. Name some, or give --id: simclr search {index} IMAGE")
        if rejected and not mean:
            raise ConfigError("--unlike needs --mean: all images are looked for as one then.")
        opened = Index.open(index, store=store, model=model, mapped=mapped)
        if opened.stale:
            note(
                f"{index} is older than its store; bring it in step with: simclr embed FOLDER --index {index}"
            )
        results: list[Result]
        if mean:
            best = opened.search_like(queries, rejected, k, where=where, exclude_self=exclude_self)
            results = [(Blend(opened.names(queries), opened.names(rejected)), best)]
        else:
            rows = opened.search(queries, k, where=where, exclude_self=exclude_self)
            results = list(zip(opened.names(queries), rows, strict=True))
        for query, hits in results:
            name = query if isinstance(query, str) else " + ".join(query.like)
            if len(results) > 1 and not as_json:
                typer.echo(f"{name}:")
            for rank, hit in enumerate(hits, start=1):
                if as_json:
                    line = {
                        "query": name,
                        "rank": rank,
                        "id": hit.id,
                        "path": hit.path,
                        "similarity": round(hit.similarity, 6),
                    }
                    typer.echo(json.dumps(line, ensure_ascii=False))
                else:
                    typer.echo(f"{hit.similarity:.3f}  {hit.path}")
        if not any(hits for _, hits in results):
            note("no image meets the condition" if where is not None else "no image found")
        if html is not None:
            write_gallery(html, results, title=f"Most similar in {index.name}")
            note(f"gallery: {html}")
