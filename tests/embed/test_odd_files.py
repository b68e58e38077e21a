"""A collection of odd and broken files: each is embedded or listed, in little memory. Skips where the collection is absent."""

import csv
import os
from pathlib import Path

import pytest

from simclr.embed import Store, Workers, embed_sources
from simclr.embed import workers as workers_module

SHARED = Path(os.environ.get("SIMCLR_SHARED", Path(__file__).parents[3] / "shared" / "data"))
ODD = SHARED / "odd_files"


@pytest.mark.skipif(not ODD.exists(), reason="shared/data/odd_files is absent")
def test_every_odd_file_is_embedded_or_listed_below_two_gigabytes(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        workers_module,
        "_START",
        "import sys; sys.path[:] = {path!r}; from simclr.embed import worker; worker.ALIVE_SECONDS = 0.02; worker.main()",
    )
    workers = Workers(model)
    report = embed_sources([ODD], tmp_path / "o.store", workers, model=workers.model)
    files = {path.relative_to(ODD).as_posix() for path in ODD.rglob("*") if path.is_file()}
    rows = {row.image_path for row in Store.open(tmp_path / "o.store").rows()}
    with open(tmp_path / "o.store" / "skipped.csv", newline="") as file:
        skipped = {path for _, path, _ in list(csv.reader(file))[1:]}
    assert rows | skipped == files
    assert not rows & skipped
    assert (report.there, report.skipped) == (len(rows), len(skipped))
    assert 5e7 < workers.memory < 2e9
