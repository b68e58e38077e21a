"""The verbs `index build`, `train`, `join`, `info`, `check` and `merge`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from simclr import progress
from simclr.artifacts import IndexInfo
from simclr.console import note, user_errors

IndexType = Annotated[
    str | None,
    typer.Option(
        metavar="auto|FACTORY",
        help="auto measures what suits and takes the best; or a FAISS factory string such as IVF1024,SQ8.  [default: auto, or as it was]",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="What the index may take while it is searched, such as 2GB.  [default: half of what is free]",
    ),
]
Recall = Annotated[
    float | None, typer.Option(help="Share of the true ten nearest that must be found.  [default: 0.95]")
]
Latency = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="What one query may take, the encoder aside, such as 10ms.  [default: 10ms]",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Index to write.  [default: out.faiss beside out.store]")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def build(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    out: Out = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Fill only part I of N of an index that `simclr index train` has trained; `simclr index join` makes one of all parts.",
        ),
    ] = None,
    index_type: IndexType = None,
    memory: Memory = None,
    recall: Recall = None,
    latency: Latency = None,
    as_json: AsJson = False,
) -> None:
    """Build the index of a store anew: choose its type by budgets, fill it, measure it.

    Example: simclr index build out.store --memory 2GB --recall 0.95 --latency 10ms
    """
    with user_errors("stopped: the index is as it was."):
        from simclr.embed.index import Shard, build_index, build_part
        from simclr.embed.index.budgets import wish_of
        from simclr.embed.store import Store
        from simclr.errors import ConfigError

        path = out or store.with_suffix(".faiss")
        wish = wish_of(index_type, memory, recall, latency)
        if shard is not None:
            if wish is not None:
                raise ConfigError(
                    f"--shard {shard}: the parts of an index are what it was trained to be. Say type and budgets to: simclr index train {store}"
                )
            with progress.show("index") as update:
                part = build_part(Store.open(store), path, Shard.parse(shard), progress=update, note=note)
            typer.echo(
                json.dumps(asdict(part)) if as_json else f"{path}: part {shard}, {part.size:,} vectors"
            )
            note(f"next, once there are all parts: simclr index join {store} --out {path}")
            return
        with progress.show("index") as update:
            info = build_index(Store.open(store), path, wish, progress=update, note=note)
        say(info, path, as_json=as_json, table=True)
        note(f"next: simclr search {path} IMAGE --html gallery.html")
        end_if_missed(info, path)


def train(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    out: Out = None,
    index_type: IndexType = None,
    memory: Memory = None,
    recall: Recall = None,
    latency: Latency = None,
    as_json: AsJson = False,
) -> None:
    """Choose and train an index that several processes or machines fill, each with a part of the store.

    Example: simclr index train out.store && simclr index build out.store --shard 1/2 && simclr index build out.store --shard 2/2 && simclr index join out.store
    """
    with user_errors("stopped: nothing was trained."):
        from simclr.embed import words
        from simclr.embed.index import train_parts
        from simclr.embed.index.budgets import wish_of
        from simclr.embed.store import Store

        path = out or store.with_suffix(".faiss")
        wish = wish_of(index_type, memory, recall, latency)
        trained = train_parts(Store.open(store), path, wish, note=note)
        if as_json:
            typer.echo(json.dumps(asdict(trained), ensure_ascii=False))
        else:
            typer.echo(words.of_choice(trained))
        note(f"next: simclr index build {store} --out {path} --shard 1/N, and so on to N/N")


def join(
    store: Annotated[Path, typer.Argument(help="Store whose index was built with --shard.")],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Make one index of the parts that `simclr index build --shard` has filled; measure it on the whole store.

    Example: simclr index join out.store
    """
    with user_errors("stopped: the index is as it was."):
        from simclr.embed.index import join_parts
        from simclr.embed.store import Store

        path = out or store.with_suffix(".faiss")
        joined = join_parts(Store.open(store), path, note=note)
        say(joined, path, as_json=as_json, table=False)
        note(
            f"next: simclr search {path} IMAGE --html gallery.html; the parts are not needed any more: {path}.parts"
        )
        end_if_missed(joined, path)


def info(
    index: Annotated[Path, typer.Argument(help="Index written by `simclr embed`.")],
    as_json: AsJson = False,
) -> None:
    """Say what an index is, why it is of its type, and how good it was measured to be.

    Example: simclr index info out.faiss
    """
    with user_errors():
        from simclr.embed import words
        from simclr.embed.index.files import describe
        from simclr.embed.store import Store

        found = describe(index)
        say(found, index, as_json=as_json, table=False)
        if as_json:
            return
        typer.echo(words.of_details(found))
        typer.echo(words.of_choice(found))
        store = Store.open(index.parent / found.store)
        if store.info.generation != found.generation:
            note(
                f"{index} is older than its store; bring it in step with: simclr embed FOLDER --index {index}"
            )


def check(
    index: Annotated[Path, typer.Argument(help="Index written by `simclr embed`.")],
    store: Annotated[
        Path | None, typer.Option(help="Store of the vectors.  [default: the one the index was built from]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read an index in full, compare it with its store, and measure it again.

    Example: simclr index check out.faiss
    """
    with user_errors():
        from simclr.embed.index.check import check_index
        from simclr.embed.index.proving import below_recall

        found = check_index(index, store=store)
        if as_json:
            typer.echo(json.dumps(asdict(found), ensure_ascii=False))
        else:
            for fault in found.faults:
                typer.echo(f"{index}: {fault}")
            if found.missing or found.superfluous:
                typer.echo(
                    f"{index}: behind its store, {found.missing:,} to add and {found.superfluous:,} to drop"
                )
            if found.measured:
                typer.echo(
                    f"{index}: whole, recall@10 {found.measured['recall@10']:.3f}, {found.measured['latency_ms']:.2f} ms a query"
                )
        if found.faults:
            note(f"error: {index} is damaged. Build it anew with: simclr index build STORE --out {index}")
            raise typer.Exit(1)
        if why := below_recall(found.measured, found.info.wish):
            note(f"error: {index}: {why}. Build it anew with: simclr index build STORE --out {index}")
            raise typer.Exit(3)


def merge(
    index: Annotated[list[Path], typer.Argument(help="Indexes of one encoder, each with its store.")],
    out: Annotated[Path, typer.Option(help="Index to write; its store lies beside it.")],
    index_type: IndexType = None,
    memory: Memory = None,
    recall: Recall = None,
    latency: Latency = None,
    as_json: AsJson = False,
) -> None:
    """Put several indexes and their stores together into new ones. Nothing is embedded again.

    Example: simclr index merge summer.faiss winter.faiss --out all.faiss
    """
    with user_errors("stopped: nothing was merged."):
        from simclr.embed.index.budgets import wish_of
        from simclr.embed.index.merge import merge_indexes

        wish = wish_of(index_type, memory, recall, latency)
        with progress.show("index") as update:
            merged = merge_indexes(index, out, wish, progress=update, note=note)
        say(merged, out, as_json=as_json, table=False)
        end_if_missed(merged, out)


def say(info: IndexInfo, path: Path, *, as_json: bool, table: bool) -> None:
    """What an index is, on stdout."""
    from simclr.embed import words

    if as_json:
        typer.echo(json.dumps(asdict(info), ensure_ascii=False))
        return
    if table:
        typer.echo(words.of_choice(info))
    typer.echo(words.of_index(info, path))


def end_if_missed(info: IndexInfo, path: Path) -> None:
    """Exit code 3 where an index does not find what it was asked to find; a word where it is slower than asked."""
    from simclr.embed.index.proving import above_latency, below_recall

    if why := above_latency(info.measured, info.wish):
        note(f"{path}: {why}, while it was measured. Another program may have been at work.")
    if why := below_recall(info.measured, info.wish):
        note(f"error: {path}: {why}. It can be used; ask for less, or allow more --memory or --latency.")
        raise typer.Exit(3)
