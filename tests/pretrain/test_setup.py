"""Training does not notice where its images lie."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.report import Report
from simclr.pretrain.train import run
from simclr.sources import list_images


def losses(source: str, out: Path, *, workers: int = 0) -> list[float]:
    config = PretrainConfig(
        data=source, encoder="test_resnet", image_size=32, batch_size=8, epochs=1, head_out=16, device="cpu",
        workers=workers, threads=1,
    )  # fmt: skip
    run(config, out=out)
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["list", "tar", "parquet", "memory"])
def test_training_gives_the_same_losses_wherever_the_images_lie(
    noise_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Report, "write", lambda *args, **kwargs: None)
    threads = torch.get_num_threads()
    paths = [noise_photos / name for name in list_images(noise_photos)]
    for i in range(2):
        with tarfile.open(tmp_path / f"{i}.tar", "w") as tar:
            for path in paths[i * 8 : i * 8 + 8]:
                info = tarfile.TarInfo(path.name)
                info.size = path.stat().st_size
                tar.addfile(info, io.BytesIO(path.read_bytes()))
        rows = [{"bytes": path.read_bytes(), "path": path.name} for path in paths[i * 8 : i * 8 + 8]]
        pq.write_table(pa.table({"image": rows, "label": [0] * 8}), tmp_path / f"{i}.parquet")
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    if kind == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        for i in range(2):
            memory.pipe_file(f"/set/{i}.tar", (tmp_path / f"{i}.tar").read_bytes())
    source = {
        "list": f"{tmp_path}/list.txt",
        "tar": f"{tmp_path}/{{0..1}}.tar",
        "parquet": f"{tmp_path}/*.parquet",
        "memory": "memory://set/{0..1}.tar",
    }[kind]
    expected = losses(str(noise_photos), tmp_path / "folder")
    assert len(expected) == 3
    assert losses(source, tmp_path / "other", workers=1) == expected
    torch.set_num_threads(threads)
