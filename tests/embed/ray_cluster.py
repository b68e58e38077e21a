"""A Ray cluster of two machines on this one, in a process of its own, and words to kill parts of it. Run by `test_cluster.py`."""

import os
import signal
import sys
from pathlib import Path

from ray.cluster_utils import Cluster


def actors() -> list[int]:
    """Processes in which Ray runs what embeds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::MapWorker"):
            found.append(int(path.parent.name))
    return found


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "kill a worker":
            os.kill(actors()[0], signal.SIGKILL)
        elif word == "kill a machine":
            cluster.remove_node(second, allow_graceful=False)
        elif word == "add a machine":
            second = cluster.add_node(num_cpus=1)
        print(word, flush=True)
    cluster.shutdown()


main()
