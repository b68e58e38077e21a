"""The verbs `store check`, `store export`, `store push` and `store pull`."""

from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.console import note, user_errors


def check(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Mend what is damaged: from second copies, else by embedding that shard again."
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="Export folder from which a damaged copy of the model is restored."),
    ] = None,
    backend: Annotated[str, typer.Option(help="As of `simclr embed`.")] = "auto",
) -> None:
    """Read a store in full and compare it with its checksums; mend it if asked to.

    Example: simclr store check out.store --repair
    """
    with user_errors():
        from simclr.embed.check import check_store, repair_store
        from simclr.embed.workers import Workers

        faults = list(check_store(store))
        for fault in faults:
            typer.echo(fault.words)
        if not faults:
            typer.echo(f"{store}: whole")
            return
        if not repair:
            note(f"error: {store} is damaged. Mend it with: simclr store check {store} --repair")
            raise typer.Exit(1)
        lost = 0
        for mended in repair_store(
            store, open_lane=lambda folder: Workers(folder, backend=backend, note=note), model=model
        ):
            typer.echo(mended.words)
            lost += mended.lost
        left = list(check_store(store))
        for fault in left:
            typer.echo(fault.words)
        typer.echo(f"{store}: {'still damaged' if left else 'whole again'}")
        if lost or left:
            note(f"error: {lost:,} rows were lost." if lost else f"error: {store} is still damaged.")
            raise typer.Exit(1)


def export(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    to: Annotated[str, typer.Option("--to", metavar="parquet|csv|npy", help="Form of the file.")] = "parquet",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write.  [default: beside the store, such as out.store.parquet]"),
    ] = None,
) -> None:
    """Write all vectors and paths of a store into one file for other tools.

    Example: simclr store export out.store --to parquet
    """
    with user_errors():
        from simclr.embed.hand_over import hand_over
        from simclr.embed.store import Store

        for path in hand_over(Store.open(store), out or store.with_name(f"{store.name}.{to}"), form=to):
            typer.echo(path)


def push(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    url: Annotated[
        str, typer.Argument(help="Where its copy lies or shall lie, such as s3://bucket/out.store.")
    ],
) -> None:
    """Bring the copy of a store behind a URL in step with it; only what it lacks is sent.

    Example: simclr store push out.store s3://bucket/out.store
    """
    with user_errors("stopped: readers of the copy have what they had."):
        from simclr.embed.mirror import push as push_store

        with progress.show("push") as update:
            copied = push_store(store, url, progress=update)
        typer.echo(
            f"{url}: {copied.rows:,} images; {copied.shards:,} shards ({copied.size / 1e6:,.1f} MB) sent"
        )


def pull(
    url: Annotated[str, typer.Argument(help="Where `simclr store push` has brought a store.")],
    store: Annotated[Path, typer.Argument(help="Store to make, or to bring in step.")],
) -> None:
    """Bring a store in step with its copy behind a URL; only what it lacks is fetched.

    Example: simclr store pull s3://bucket/out.store out.store
    """
    with user_errors("stopped: the store is as it was."):
        from simclr.embed.mirror import pull as pull_store

        with progress.show("pull") as update:
            copied = pull_store(url, store, progress=update)
        typer.echo(
            f"{store}: {copied.rows:,} images; {copied.shards:,} shards ({copied.size / 1e6:,.1f} MB) fetched"
        )
        note(f"next: simclr index build {store}")
