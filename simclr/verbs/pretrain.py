"""The verb `pretrain`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from simclr import progress
from simclr.console import note, user_errors
from simclr.errors import ConfigError


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
