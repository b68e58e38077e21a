"""What all verbs share: errors of the user on one line, notes on stderr, exit codes.

2 usage and settings, 3 a result below its threshold, 1 every other failure.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from simclr.errors import ConfigError, ExportMismatch, MissingExtra, SimclrError

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
