"""The verb `embed`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors
from simclr.errors import ConfigError
from simclr.verbs.index import IndexType, Latency, Memory, Recall, end_if_missed


def embed(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of images, searched recursively; lists of files, tars, zips, Parquet files; also behind URLs. See docs/embedding.md.",
        ),
    ],
    index: Annotated[Path | None, typer.Option(help="Index to write, such as out.faiss.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store of the vectors.  [default: out.store beside out.faiss]")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Export folder.  [default: the store's own, else the newest export]")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="auto, or one of trt, ort-trt, ort-cuda, ort-cpu, which is then used or refused. auto takes the best that starts."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, fp32, fp16, bf16, int8 or int8-trt. auto: fp16 on a GPU, else fp32."),
    ] = "auto",
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only images that match, such as '*.jpg' or 'a/**'; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Not those that match, such as 'thumbs' or '*.gif'; repeatable."),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also go into folders that are links.")
    ] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Drop the rows of a source that the store has; where its images turn up elsewhere, they keep their ids. Repeatable.",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Largest image decoded.  [default: 89478485, 256 MiB as RGB]"),
    ] = None,
    file_seconds: Annotated[
        float, typer.Option(min=0.1, help="What reading and decoding one file may take.")
    ] = 30.0,
    index_type: IndexType = None,
    memory: Memory = None,
    recall: Recall = None,
    latency: Latency = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS",
            help="Embed on the machines of this Ray cluster; auto: the one that this machine belongs to. See docs/scale.md.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be done, and what it would take, by a few images; write nothing.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Embed images and index them; run it again to bring both in step with their sources.

    Example: simclr embed photos/ --index out.faiss
    """
    with user_errors("stopped: finished shards are kept. Run the same command to go on."):
        if index is None and store is None:
            raise ConfigError(
                "--index is missing. Give the index to write: simclr embed FOLDER --index out.faiss"
            )
        if index is not None and (index.is_dir() or index.suffix == ".store"):
            raise ConfigError(f"{index}: names a folder. Give the index a file name, such as out.faiss.")
        from simclr.embed import words
        from simclr.embed.cluster import Cluster
        from simclr.embed.index import update_index
        from simclr.embed.index.budgets import wish_of
        from simclr.embed.lane import Limits
        from simclr.embed.store import Store
        from simclr.embed.survey import Selection
        from simclr.embed.sync import embed_sources
        from simclr.embed.workers import Workers
        from simclr.runtime import newest_export

        store = store or _store_beside(index)
        wish = wish_of(index_type, memory, recall, latency)
        if model is None:
            own = Store.model_of(store)
            model = own or newest_export()
            if own is None:
                note(f"model: {model}")
        limits = Limits(seconds=file_seconds) if max_pixels is None else Limits(max_pixels, file_seconds)
        lane: Workers | Cluster
        if ray is None or dry_run:
            lane = Workers(model, backend=backend, precision=precision, limits=limits, note=note)
        else:
            lane = Cluster(model, address=ray, backend=backend, precision=precision, limits=limits, note=note)
        selection = Selection(tuple(include or ()), tuple(exclude or ()), follow_links, tuple(forget or ()))
        if dry_run:
            from simclr.embed.forecast import forecast

            expected = forecast(source, store, lane, model=lane.model, selection=selection, note=note)
            typer.echo(json.dumps(asdict(expected)) if as_json else words.of_forecast(expected, store))
            return
        with progress.show("embed") as update:
            report = embed_sources(
                source, store, lane, model=lane.model, selection=selection, progress=update, note=note
            )
        if as_json:
            typer.echo(json.dumps(asdict(report), ensure_ascii=False))
        else:
            typer.echo(words.of_report(report, store))
        if not report.there:
            note(f"error: none of the images could be embedded. See {store / 'skipped.csv'}.")
            raise typer.Exit(1)
        if index is not None:
            with progress.show("index") as update:
                info = update_index(Store.open(store), index, wish, progress=update, note=note)
            (note if as_json else typer.echo)(words.of_index(info, index))
            note(f"next: simclr search {index} IMAGE --html gallery.html")
            end_if_missed(info, index)


def _store_beside(index: Path | None) -> Path:
    assert index is not None
    return index.with_suffix(".store")
