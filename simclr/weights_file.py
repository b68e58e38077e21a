"""A weights file of any library -> its tensors, by name and by the dictionaries around them.

Reads .safetensors and torch files, by what is in them and not by their suffix. Runs no code from a file, and knows nothing
of encoders.
"""

import argparse
import pickle
import re
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from simclr.encoder import WEIGHTS_FILE
from simclr.errors import ArtifactError, reason

State = Mapping[str, Tensor]
"""Tensors by name."""


def read_weights(path: Path) -> dict[str, State]:
    """The tensors of a file by the keys of the dictionaries around them, joined by dots; "" where there are none.

    A run folder stands for its encoder. Raises ArtifactError if the file is missing, damaged, or no weights file, if it
    holds no tensors, or Python objects whose reading could run code.
    """
    if path.is_dir():
        path = path / WEIGHTS_FILE
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file.") from None
    try:
        content = _read(path, head)
    except pickle.UnpicklingError as exc:
        found = re.search(r"GLOBAL (\S+)", str(exc))  # torch says it in no other way, for files of all ages
        if found is None:
            raise ArtifactError(f"{path}: damaged, or no weights file ({reason(exc)}).") from exc
        raise ArtifactError(
            f"{path}: holds Python objects besides tensors ({found[1]}), and reading those could run code. If you trust "
            f"it, keep its tensors alone, where its library is installed: {_keep_tensors(path)}"
        ) from exc
    except Exception as exc:  # both formats raise anything on damaged files
        raise ArtifactError(f"{path}: damaged, or no weights file ({reason(exc)}).") from exc
    contents = dict(_states(content, ""))
    if not contents:
        raise ArtifactError(f"{path}: holds no tensors by name.")
    return contents


def _keep_tensors(path: Path) -> str:
    """A command that runs without us and writes tensors.pth with nothing but the tensors of a torch file."""
    return (
        'python -c "import sys, torch; keep = lambda x: {k: keep(v) for k, v in x.items()} if isinstance(x, dict) else '
        "x if torch.is_tensor(x) else None; torch.save(keep(torch.load(sys.argv[1], map_location='cpu', weights_only=False)), "
        f"'tensors.pth')\" {shlex.quote(str(path))}"
    )


def _read(path: Path, head: bytes) -> object:
    """By what is in it: hubs name safetensors files .bin and .pth, too."""
    if head[8:9] == b"{" and head[6:8] == b"\0\0":  # eight bytes of length, then JSON
        return load_file(path)
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise ValueError("its end is missing")
    if head[:2] != b"PK" and head[:1] != b"\x80":  # a zip file, or a pickle of torch before 1.6
        raise ValueError(f"it begins with {head!r}" if head else "it is empty")
    # MoCo, DINO and timm keep the words of their command line in a Namespace. It is a plain bag of attributes: reading one
    # sets attributes and runs nothing, and what lies in it is checked like all else.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _states(content: object, key: str) -> Iterator[tuple[str, State]]:
    """Every dictionary with tensors in it, however deep; numbers, settings and lists beside them are passed over."""
    if not isinstance(content, Mapping):
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
        yield key, tensors
    for name, value in named.items():
        yield from _states(value, f"{key}.{name}" if key else name)
