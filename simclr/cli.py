"""One function a verb: parse, call one library function, print. No logic, no heavy import at the top.

Results go to stdout, progress and notes to stderr. Exit codes: 2 usage and settings, 3 a result below its
threshold, 1 every other failure.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import simclr
from simclr import progress
from simclr.errors import ConfigError, ExportMismatch, MissingExtra, SimclrError

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


_EXTRA_OF = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "onnx": "train",
    "onnxscript": "train",
}
"""Packages that whole stages import at their top, and the extra that brings them."""


@contextmanager
def user_errors(stopped: str = "stopped") -> Iterator[None]:
    """What a user can mend becomes one line on stderr and its exit code."""
    try:
        yield
    except SimclrError as exc:
        note(f"error: {exc}")
        code = 2 if isinstance(exc, ConfigError) else 3 if isinstance(exc, ExportMismatch) else 1
        raise typer.Exit(code) from exc
    except ModuleNotFoundError as exc:
        package = (exc.name or "").split(".")[0]
        if package not in _EXTRA_OF:
            raise
        note(f"error: {MissingExtra(package, _EXTRA_OF[package])}")
        raise typer.Exit(1) from exc
    except BrokenPipeError as exc:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise typer.Exit(1) from exc
    except OSError as exc:  # a full disk, a folder that may not be written, ...
        note(f"error: {exc.filename or 'input or output'}: {exc.strerror or exc}")
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        if not _is_follower():
            note(stopped)
        raise typer.Exit(1) from exc


def _is_follower() -> bool:
    """Whether this is not the first of several processes, which all stop together."""
    return os.environ.get("RANK", "0") != "0"


def note(line: str) -> None:
    typer.echo(line, err=True)


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


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for images, run, index and gallery; replaced if a demo made it.")
    ] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the images, the initial weights and the views.")
    ] = 0,
) -> None:
    """Run the whole path on small images it draws itself.

    Example: simclr demo --out demo
    """
    with user_errors():
        from simclr.demo import run_demo

        run_demo(out, seed=seed, say=typer.echo, note=note)


@app.command()
def pretrain(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Folder of images, searched recursively (its train/ if it has one); a list of files, one path a line "
            "(.txt, .lst, .list); tar shards, as in 'shards/{000..099}.tar' or 'shards/*.tar'; zip or Parquet files. Also behind "
            "a URL, such as 's3://bucket/{00..99}.tar'.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/TIME-ENCODER]")] = None,
    encoder: Annotated[str | None, typer.Option(help="timm model name.  [default: resnet50]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of a view in pixels.  [default: 224]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step.  [default: 4096, or the whole set]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 0]")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|FILE|timm:NAME",
            help="Encoder weights to start from; see docs/weights.md.  [default: random]",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="Settings of a known run; see docs/recipes.md."),
    ] = None,
    eval_: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="Folder with labels (class folders or labels.csv): kNN accuracy while training."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="none|ram|gpu|auto", help="Where to keep decoded images.  [default: auto, small images]"
        ),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Images in the encoder at a time; the loss sees the whole batch.  [default: auto, what fits]",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that train together, one a GPU.")
    ] = 1,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...  [default: auto]")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; see docs/settings.md."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of --out, or of the newest run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, steps, memory and time, and write nothing.")
    ] = False,
) -> None:
    """Pretrain an encoder with SimCLR on a folder of unlabelled images.

    Example: simclr pretrain --data imagenet/ --out runs/first
    """
    with user_errors():
        from simclr.pretrain.config import PretrainConfig, with_settings
        from simclr.pretrain.launch import is_first, is_one_of_several, run_processes
        from simclr.pretrain.run_folder import new_run, newest_run, saved_config
        from simclr.pretrain.train import run

        say = note if is_first() else lambda line: None
        if resume and out is None and (out := newest_run()):
            say(f"resuming {out}")
        config = saved_config(out) if resume and out else None
        if config is None and data is None:
            raise ConfigError("--data is missing. Give a folder of images: simclr pretrain --data FOLDER")
        if encoder is None and config is None and (weights or "").startswith("timm:"):
            encoder = weights.removeprefix("timm:") if weights else None
        start = config or PretrainConfig(data=str(data))
        if recipe is not None:
            from simclr.pretrain.recipe import load_recipe

            start = load_recipe(recipe).apply(start)
        given: dict[str, Any] = {
            "data": data,
            "encoder": encoder,
            "image_size": image_size,
            "batch_size": batch_size,
            "epochs": epochs,
            "seed": seed,
            "weights": weights,
            "eval": eval_,
            "cache": cache,
            "chunk": int(chunk) if chunk and chunk.isdigit() else chunk,
            "device": device,
        }
        texts = [
            f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
            for key, value in given.items()
            if value is not None
        ]
        texts += settings or []
        config = with_settings(start, texts)
        if processes > 1 and is_one_of_several():
            raise ConfigError(
                "--processes starts processes of its own, and torchrun has started some. Leave it out."
            )
        if dry_run:
            from simclr.pretrain.plan import dry_run as plan

            settings_toml, lines = plan(config, out or new_run(config.encoder), resume=resume)
            typer.echo(settings_toml)
            for line in lines:
                typer.echo(line)
            return
        if processes > 1:
            out = out or new_run(config.encoder)
            words = ["pretrain", "--out", str(out), *(["--resume"] if resume else [])]
            words += ["--recipe", recipe] if recipe else []
            words += ["--data", str(data)] if data else []
            words += [word for text in texts for word in ("--set", text)]
            raise typer.Exit(run_processes(processes, words, folder=out))
        if is_first():
            with progress.show("pretrain") as update:
                folder = run(config, out=out, resume=resume, progress=update, note=note)
        else:
            folder = run(config, out=out, resume=resume, note=note)
    if is_first():
        typer.echo(folder)
        note(f"next: simclr export {folder}")


@app.command()
def probe(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run folder, or any with encoder.safetensors and encoder.json.  [default: the newest run]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled images: class folders, perhaps below train/ and test/ or val/, or a labels.csv."
        ),
    ] = None,
    fine_tune: Annotated[
        bool,
        typer.Option("--fine-tune", help="Train all weights, from the encoder's; it stays as it is in RUN."),
    ] = False,
    labels: Annotated[
        int, typer.Option(metavar="1|10|100", help="Percent of the labels to train with.")
    ] = 100,
    epochs: Annotated[
        int | None, typer.Option(help="[default: 90; --fine-tune 30, and 60 with 1 % of the labels]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="[default: 4096, or the whole set]")] = None,
    seed: Annotated[int, typer.Option(help="Decides which labels, what is held out, order and crops.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode.  [default: one a core, at most 16]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: result and settings.")] = False,
) -> None:
    """Measure an encoder as the paper does: a linear classifier on its frozen features, on labelled images.

    Example: simclr probe runs/first --data labelled/
    """
    with user_errors("stopped: nothing was written."):
        from simclr.pretrain import probe as probing
        from simclr.pretrain.run_folder import newest_run

        if data is None:
            raise ConfigError(
                "--data is missing. Give a folder of labelled images: simclr probe --data FOLDER"
            )
        if run is None:
            if (run := newest_run()) is None:
                raise ConfigError(
                    "runs/: no run in it. Start one with `simclr pretrain --data FOLDER`, or name what to probe."
                )
            note(f"probing {run}")
        config = probing.ProbeConfig(
            data=data,
            fine_tune=fine_tune,
            labels=labels,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            device=device,
            workers=workers,
        )
        with progress.show("probe") as update:
            result = probing.probe(run, config, progress=update, note=note)
    typer.echo(json.dumps(asdict(result), ensure_ascii=False) if as_json else result.words)
    note(f"kept in {run / probing.PROBE_FOLDER / config.name}.json")


@app.command()
def export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|timm:NAME|WEIGHTS]",
            help="Run folder, timm model or weights file.  [default: the newest run]",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Export folder.  [default: RUN/export]")] = None,
    encoder: Annotated[str | None, typer.Option(help="timm model name that a weights file is for.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", "--size", min=1, help="Side in pixels, for timm models and weights files."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B", help="Mean of each channel, in 0..1, likewise.  [default: what timm documents]"
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Standard deviation of each channel, likewise.")
    ] = None,
    no_pretrained: Annotated[
        bool, typer.Option("--no-pretrained", help="timm: random weights, the same every time.")
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Some of fp32, fp16, bf16, int8 (for CPUs), int8-trt (for TensorRT), with commas between. fp32 always comes "
            "along.  [default: fp32; with --trt also fp16]",
        ),
    ] = "",
    check: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images whose neighbours are compared, at least 256.  [default: the run's own data]",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="A few hundred images that decide the ranges of INT8.  [default: the run's own data]",
        ),
    ] = None,
    full_range: Annotated[
        bool,
        typer.Option(
            "--full-range",
            help="int8: 8 bits for weights in place of 7, for CPUs that have VNNI or AMX; others add them up wrongly.",
        ),
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Keep files usable that keep too few neighbours.")
    ] = False,
    trt: Annotated[
        bool,
        typer.Option(
            "--trt",
            help="Also build TensorRT plans, for the GPU of this machine; SOURCE may be an export folder then.",
        ),
    ] = False,
    parse_only: Annotated[
        bool,
        typer.Option(
            "--parse-only",
            help="With --trt: only ask NVIDIA's parser and builder, through TensorRT-RTX; needs no GPU.",
        ),
    ] = False,
) -> None:
    """Export an encoder to ONNX and TensorRT, and prove what each precision keeps of its neighbours.

    Example: simclr export runs/first --precision fp32,fp16,int8 --check photos/
    """
    with user_errors():
        from simclr.export.report import to_lines
        from simclr.runtime.model_files import MANIFEST_FILE

        if parse_only and not trt:
            raise ConfigError("--parse-only goes with --trt.")
        names = precision.replace(" ", "").split(",") if precision else []
        names += ["int8-trt"] if trt and "int8" in names else []
        if source is None:
            from simclr.pretrain.run_folder import newest_run

            newest = newest_run()
            if newest is None:
                raise ConfigError(
                    "runs/: no run in it. Start one with `simclr pretrain --data FOLDER`, or name what to export."
                )
            source = str(newest)
            note(f"exporting {source}")
        folder, exported = Path(source), None
        if not (trt and (folder / MANIFEST_FILE).exists()):
            from simclr.export import ExportConfig, export_model
            from simclr.export.source import parse_channels

            config = ExportConfig(
                precisions=tuple(names or (["fp16"] if trt else [])),
                check=check,
                calibrate=calibrate,
                accept=accept,
                full_range=full_range,
            )
            with progress.show("export") as update:
                exported = export_model(
                    source,
                    config,
                    out=out,
                    encoder=encoder,
                    image_size=image_size,
                    mean=parse_channels("--mean", mean) if mean is not None else None,
                    std=parse_channels("--std", std) if std is not None else None,
                    pretrained=not no_pretrained,
                    progress=update,
                    note=note,
                )
            folder = exported.folder
            for row in exported.rows:
                typer.echo(folder / row.name)
            for line in to_lines(exported.rows):
                typer.echo(line)
        if parse_only:
            from simclr.export.trt_check import judge_all

            for judgement in judge_all(folder, names):
                typer.echo(judgement.words)
        elif trt:
            from simclr.export.plans import build_plans
            from simclr.export.report import refuse_failed

            run = Path(source) if exported and Path(source).is_dir() else None
            rows = build_plans(folder, names, check=check, run=run, accept=accept, note=note)
            for line in to_lines(rows):
                typer.echo(line)
            refuse_failed(folder, rows)
        if exported:
            exported.refuse_failed()
    note(f"next: simclr embed PHOTOS --model {folder} --index out.faiss")


@app.command()
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
        from simclr.embed.index import update_index
        from simclr.embed.lane import Limits
        from simclr.embed.store import Store
        from simclr.embed.sync import Selection, embed_sources
        from simclr.embed.workers import Workers
        from simclr.runtime import newest_export

        store = store or _store_beside(index)
        if model is None:
            own = Store.model_of(store)
            model = own or newest_export()
            if own is None:
                note(f"model: {model}")
        limits = Limits(seconds=file_seconds) if max_pixels is None else Limits(max_pixels, file_seconds)
        lane = Workers(model, backend=backend, precision=precision, limits=limits, note=note)
        selection = Selection(tuple(include or ()), tuple(exclude or ()), follow_links, tuple(forget or ()))
        if dry_run:
            from simclr.embed.forecast import forecast

            expected = forecast(source, store, lane, selection=selection, note=note)
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
            info = update_index(Store.open(store), index)
            measured = info.measured
            (note if as_json else typer.echo)(
                f"{index}: {info.size} vectors, {info.factory}, recall@10 {measured['recall@10']:.3f}, {measured['latency_ms']:.2f} ms a query"
            )
            note(f"next: simclr search {index} IMAGE --html gallery.html")


store_app = typer.Typer(
    help="Verify and repair a store of vectors; hand it to other tools.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(store_app, name="store")


@store_app.command("check")
def store_check(
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


@store_app.command("export")
def store_export(
    store: Annotated[Path, typer.Argument(help="Store written by `simclr embed`.")],
    to: Annotated[str, typer.Option("--to", metavar="parquet|csv|npy", help="Form of the file.")] = "parquet",
    out: Annotated[
        Path | None, typer.Option(help="File to write.  [default: beside the store, under its name]")
    ] = None,
) -> None:
    """Write all vectors and paths of a store into one file for other tools.

    Example: simclr store export out.store --to parquet
    """
    with user_errors():
        from simclr.embed.hand_over import hand_over
        from simclr.embed.store import Store

        for path in hand_over(Store.open(store), out or store.with_suffix(f".{to}"), form=to):
            typer.echo(path)


@app.command()
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


@app.command()
def benchmark(
    model: Annotated[Path, typer.Argument(help="Export folder, or the run folder that holds one.")],
    backend: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Some of trt, ort-trt, ort-cuda, ort-cpu.  [default: what may start here]"
        ),
    ] = "",
    precision: Annotated[
        str, typer.Option(metavar="LIST", help="Some of the exported.  [default: all that the backend runs]")
    ] = "",
    batch: Annotated[str, typer.Option(metavar="LIST", help="Images a call.")] = "1,8,32,256",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Measure how fast an export is here: backend, precision and batch size, with memory and fidelity.

    Example: simclr benchmark runs/first --batch 1,8,32
    """
    with user_errors():
        from simclr import benchmark as measuring

        if not all(word.isdigit() and int(word) for word in batch.split(",")):
            raise ConfigError(f"--batch {batch!r}: give whole numbers with commas between, such as 1,8,32.")
        if not as_json:
            typer.echo(measuring.HEAD)
        measured = False
        for row in measuring.benchmark(
            model,
            backends=backend.replace(" ", "").split(",") if backend else (),
            precisions=precision.replace(" ", "").split(",") if precision else (),
            batches=[int(word) for word in batch.split(",")],
        ):
            line = {"kind": type(row).__name__.lower(), **asdict(row)}
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else row.words)
            measured |= isinstance(row, measuring.Speed)
        if not measured:
            raise typer.Exit(1)


@app.command()
def doctor(
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients",
            help="Prove instead that processes and chunks change no gradient; half a minute.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Say what this machine can do, and the command that adds the rest.

    Example: simclr doctor --gradients
    """
    with user_errors():
        from simclr.doctor import Verdict, examine, prove_gradients

        if gradients:
            note("training a tiny encoder in float64, whole and divided in every way: about half a minute")
        for part in prove_gradients() if gradients else examine():
            line = {"kind": type(part).__name__.lower(), **asdict(part)}
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else part.words)
            if isinstance(part, Verdict) and not part.passed:
                note(
                    f"error: the gradient proof failed: {part.words}. Do not train with --processes or --chunk here; report the lines above."
                )
                raise typer.Exit(3)


def _store_beside(index: Path | None) -> Path:
    assert index is not None
    return index.with_suffix(".store")
