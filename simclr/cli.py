"""The command `simclr`: which verbs there are. Each has a file in `verbs/`.

Results go to stdout, progress and notes to stderr; exit codes are in `console.py`.
"""

import warnings
from typing import Annotated

import typer

import simclr
from simclr.verbs import classify, index, store
from simclr.verbs.benchmark import benchmark
from simclr.verbs.clusters import clusters
from simclr.verbs.demo import demo
from simclr.verbs.doctor import doctor
from simclr.verbs.duplicates import duplicates
from simclr.verbs.embed import embed
from simclr.verbs.evaluate import evaluate
from simclr.verbs.export import export
from simclr.verbs.pretrain import pretrain
from simclr.verbs.probe import probe
from simclr.verbs.search import search
from simclr.verbs.serve import serve

app = typer.Typer(
    name="simclr",
    help="From a folder of unlabelled images to a running visual search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The `simclr` command."""
    # Pillow's remarks about odd files; each file's fate is in skipped.csv
    warnings.filterwarnings("ignore", module="PIL")
    app(prog_name="simclr")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(simclr.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for verb in (
    demo, pretrain, probe, export, embed, search, serve, evaluate, clusters, duplicates, benchmark, doctor,
):  # fmt: skip
    app.command()(verb)

store_app = typer.Typer(
    help="Verify and repair a store of vectors; hand it to other tools; copy it to and from a URL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for store_verb in (store.check, store.export, store.push, store.pull):
    store_app.command()(store_verb)
app.add_typer(store_app, name="store")

index_app = typer.Typer(
    help="Build, describe, verify and combine indexes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for part in (index.build, index.train, index.join, index.info, index.check, index.merge):
    index_app.command()(part)
app.add_typer(index_app, name="index")

classify_app = typer.Typer(
    help="Fit classifiers to the vectors of a store, and use them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
classify_app.command()(classify.fit)
classify_app.command()(classify.predict)
classify_app.command()(classify.score)
classify_app.command()(classify.export)
app.add_typer(classify_app, name="classify")
