"""A Ray cluster of two nodes: the same bits as on this machine, whoever is lost on the way."""

import signal
import subprocess
import time

import pytest

from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.pipeline.run import sweep
from tests.common import TINY
from tests.helpers.clusters import kill, processes, require_same, start, two_nodes, wait_for
from tests.helpers.sweep import command, go

pytest.importorskip("ray", reason="the extra dptrain[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own code


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as nodes:
        yield nodes


def on(cluster):
    return ["executor=ray", f"executor.address={cluster.address}"]


WORKER = "ray::_work"


@pytest.mark.long
def test_two_nodes_give_the_same_bits(tmp_path, cluster):
    """Chunks of a few steps, so that every stack comes and goes."""
    short = "training.checkpoint_seconds=0.01"
    here = go(tmp_path / "here", short)
    there = go(tmp_path / "there", short, *on(cluster))
    assert there.trained == here.trained == 12
    require_same(tmp_path / "there", tmp_path / "here")
    assert not list((tmp_path / "there" / "store" / "checkpoint").iterdir())


def test_a_missing_cluster_is_one_line(tmp_path):
    overrides = [*TINY, f"output={tmp_path}", "executor=ray", "executor.address=127.0.0.1:1"]
    with pytest.raises(ConfigError, match=r"^executor\.address: there is no Ray cluster"):
        sweep(compose.load("sweep", overrides), show_progress=False)


@pytest.mark.parametrize("keys", [["device=cuda"], ["device=cpu", "executor.gpus=1"]])
def test_device_and_gpus_of_a_task_agree(keys):
    overrides = [*TINY, "executor=ray", f"training.{keys[0]}", *keys[1:]]
    with pytest.raises(ConfigError, match=r"^training\.device: .* executor\.gpus"):
        compose.load("sweep", overrides)


@pytest.mark.long
@pytest.mark.parametrize("lost", ["worker", "node", "driver", "interrupt"])
def test_who_is_lost_changes_nothing(tmp_path, uninterrupted, lost):
    """A worker is killed, a node removed, the driver killed or interrupted, each in the middle."""
    with two_nodes() as cluster:
        arguments = command(tmp_path, *on(cluster))
        process, store = start(arguments), tmp_path / "store"
        # A second chunk is at work.
        wait_for(process, lambda: _steps(store) > 10)
        if lost == "worker":
            for identifier in list(processes(WORKER))[:1]:
                kill(identifier)
        elif lost == "node":
            cluster.remove_node(cluster.workers[0], allow_graceful=False)
        else:
            process.send_signal(signal.SIGKILL if lost == "driver" else signal.SIGINT)
            out, err = process.communicate(timeout=120)
            assert process.returncode == (-9 if lost == "driver" else 130), err
            end = time.monotonic() + 60
            while processes(WORKER) and time.monotonic() < end:
                time.sleep(0.2)
            assert not processes(WORKER)  # no orphan computes on
            process = start(arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert "models trained now" in out
    _same_as_here(tmp_path)


def _steps(store):
    """Steps that are charged."""
    return sum(path.read_text().count("noise_std") for path in (store / "ledger").glob("*.jsonl"))


def _same_as_here(folder):
    here = folder.with_name(f"{folder.name}-here")
    subprocess.run([*command(here)], check=True, capture_output=True)
    require_same(folder, here)
