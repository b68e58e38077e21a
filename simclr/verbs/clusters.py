"""The verb `clusters`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from simclr.console import note, user_errors
from simclr.errors import ConfigError


def clusters(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    count: Annotated[
        str, typer.Option("-n", metavar="COUNT|auto", help="How many clusters; auto tries 2 to 256.")
    ] = "auto",
    csv: Annotated[
        Path | None, typer.Option(help="Also write the cluster of every image to this file.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a page with the most and least typical images of each cluster."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which vectors the centres are found from.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for each cluster.")
    ] = False,
) -> None:
    """Group the images of a store by likeness, to see what is in a collection.

    Example: simclr clusters photos.store --html clusters.html
    """
    with user_errors():
        from simclr.artifacts import check_writable
        from simclr.classify import cluster_figures
        from simclr.classify.clusters import find_clusters, write_csv
        from simclr.classify.figures import check_drawing
        from simclr.embed.store import Store
        from simclr.html_page import write_page

        wanted = _count(count)
        opened = Store.open(store)
        for path, option in ((csv, "--csv"), (html, "--html")):
            if path is not None:
                check_writable(path, option)
        if html is not None:
            check_drawing()
        found = find_clusters(opened, wanted, seed=seed, note=note)
        if csv is not None:
            write_csv(csv, opened, found)
            note(f"cluster of every image: {csv}")
        if html is not None:
            write_page(html, cluster_figures.page(found, title=f"Clusters of {store.name}"))
            note(f"page: {html}")
        if as_json:
            if found.choice is not None:
                note(found.choice.reason)
            for each in found.clusters:
                typer.echo(json.dumps(cluster_figures.as_object(each), ensure_ascii=False))
            return
        if found.choice is not None:
            for line in cluster_figures.lines(cluster_figures.choice_cells(found.choice)):
                typer.echo(line)
            typer.echo(f"{found.choice.reason}\n")
        typer.echo(cluster_figures.summary(found))
        for line in cluster_figures.lines(cluster_figures.cluster_cells(found)):
            typer.echo(line)


def _count(text: str) -> int | None:
    """Raises ConfigError."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"-n {text!r}: is no number. Give one such as 20, or auto.") from None
