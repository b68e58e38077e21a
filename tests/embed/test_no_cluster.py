"""What is said where there is no Ray cluster; `test_cluster.py` has one."""

import sys

import numpy as np
import pytest
from test_cli import run

from simclr.embed.cluster import Cluster
from simclr.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

NOTHING_KNOWN = np.empty(0, np.uint64)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_no_cluster_is_one_line_on_how_to_start_one(model, photos, tmp_path, address):
    code, _, err = run("embed", photos, "--store", tmp_path / "o.store", "--model", model, "--ray", address)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: --ray {address}: no cluster there (") and "ray start --head" in last
    assert not (tmp_path / "o.store").exists()


def test_nothing_to_do_starts_nothing(model):
    assert list(Cluster(model, address="127.0.0.1:1").run([], NOTHING_KNOWN)) == []


def test_without_ray_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'simclr-toolkit\[cluster\]'"):
        Cluster(model)
