"""A Ray cluster of two nodes on loopback, and what is compared between two runs."""

import contextlib
import json
import os
import signal
import subprocess
import time

from tests.helpers.sweep import ledgers, parameters

SMALL_STORE = 80 * 2**20
"""Bytes of a node's object store."""


@contextlib.contextmanager
def two_nodes():
    """A cluster with a head without processors, and two nodes with one each; its address in
    `.address`, the nodes in `.workers`.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": SMALL_STORE}
    )
    try:
        cluster.workers = [
            cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE) for _ in range(2)
        ]
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def require_same(folder, other):
    """The same models, ledger and rows, byte for byte."""
    assert parameters(folder) == parameters(other)
    assert ledgers(folder) == ledgers(other)
    assert rows(folder) == rows(other)


def rows(folder):
    return json.loads((folder / "metrics.json").read_text())["rows"]


def start(arguments):
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(process, condition, seconds=120):
    """Until a condition holds; the process must live until then."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def processes(word):
    """Identifiers of processes whose command line holds a word."""
    out = subprocess.run(["pgrep", "-f", word], capture_output=True, text=True).stdout
    return {int(line) for line in out.split()} - {os.getpid()}


def kill(identifier):
    with contextlib.suppress(ProcessLookupError):
        os.kill(identifier, signal.SIGKILL)
