"""`make gpu` on a CPU: it needs few packages, and one failing check leaves the others alone."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simclr.pretrain import nt_xent

ROOT = Path(__file__).parent.parent
ABSENT = "pyarrow fsspec simplejpeg rich matplotlib blake3 filelock lightly typer tensorboard faiss"
BLOCKER = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def gpu_script(tmp_path, *words):
    """In an interpreter, and child processes, where packages that a GPU machine may lack cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_a_failing_check_is_reported_and_the_others_go_on_with_few_packages_installed(tmp_path):
    names = [word for name in ("limits", "loss", "waits", "cifar") for word in ("--only", name)]
    done = gpu_script(tmp_path, "--device", "cpu", "--quick", "--cifar", "nowhere", *names)
    assert done.returncode == 1, done.stderr
    (path,) = tmp_path.glob("gpu_cpu_*.json")
    found = json.loads(path.read_text())["checks"]
    assert {name: check["state"] for name, check in found.items()} == {
        "limits": "done",
        "loss": "done",
        "waits": "skipped",
        "cifar": "failed",
    }
    assert found["cifar"]["reason"].startswith("ConfigError: --cifar nowhere: not there.")
    assert len(found["limits"]["rows"]) == 2 and len(found["loss"]["rows"]) == 8
    for row in found["limits"]["rows"] + found["loss"]["rows"]:
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("value", "low", "high"))
        assert row["verdict"] == "not asked"
    page = path.with_suffix(".md").read_text()
    assert "## cifar: failed" in page and "failed: ConfigError: --cifar nowhere" in page


def test_the_baselines_loss_is_nt_xent(checks):
    from gpu_checks.workload import matrix_nt_xent

    z1, z2 = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = nt_xent(z1.float(), z2.float(), temperature=0.1)
    assert float(matrix_nt_xent(z1, z2, temperature=0.1)) == pytest.approx(float(ours), rel=1e-6)


def test_a_goal_is_asked_only_of_full_sizes_on_a_gpu(checks):
    from gpu_checks.rows import Goal, Place, Row

    fast, slow, none = (
        Row("rate", values, "views/s", Goal("at least", 4000))
        for values in ((1, 4000, 4001), (1, 2, 4001), ())
    )
    gpu = Place("cuda", quick=False)
    assert [row.verdict(gpu) for row in (fast, slow, none)] == ["met", "missed", "missed"]
    assert Row("peak", (2.1,), "GB", Goal("at most", 2)).verdict(gpu) == "missed"
    assert {
        row.verdict(Place(*where)) for row in (fast, slow) for where in (("cpu", False), ("cuda", True))
    } == {"not asked"}


def test_some_checks_run_again_leave_the_others_of_the_same_machine_in_the_report(checks, tmp_path):
    from gpu_checks.report import Report
    from gpu_checks.rows import Place, Row

    place = Place("cuda", quick=False)
    first = Report(tmp_path / "r", {"device": "H"}, place)
    for name in ("limits", "loss"):
        first.begin(name, date="d", command="c")
        first.add(name, Row("rate", (1.0,), "GB/s"))
        first.end(name, seconds=1)
    again, elsewhere = (Report(tmp_path / "r", {"device": device}, place) for device in ("H", "G"))
    for report in (again, elsewhere):
        report.keep_others()
    assert elsewhere.checks == {}
    again.begin("loss", date="d", command="c")
    again.add("loss", "it broke")
    again.end("loss", seconds=1)
    found = json.loads((tmp_path / "r.json").read_text())["checks"]
    assert [found[name]["state"] for name in ("limits", "loss")] == ["done", "failed"]
    assert found["limits"]["rows"][0]["value"] == 1.0


def test_a_check_whose_process_dies_says_so(checks, monkeypatch):
    import gpu_checks.child as child
    from gpu_checks.rows import Place

    assert list(child._told(_dies, "x", Place("cpu", quick=True), minutes=1)) == [
        "its process ended with code 9"
    ]


def _dies(pipe, name, place):
    os._exit(9)
