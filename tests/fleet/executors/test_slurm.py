"""submitit's jobs on this machine, as Slurm would start them: preempted, lost, cancelled."""

import json
import signal
import subprocess

import pytest

from dptrain.core.store import fingerprint
from dptrain.fleet.executors import slurm
from tests.helpers.clusters import processes, require_same, start, wait_for
from tests.helpers.sweep import command, go

pytest.importorskip("submitit", reason="the extra dptrain[slurm] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of submitit's own code

LOCAL = ["executor=slurm", "executor.cluster=local", "executor.stacks=4"]


def test_jobs_give_the_same_bits(tmp_path):
    here = go(tmp_path / "here")
    there = go(tmp_path / "there", *LOCAL)
    assert there.trained == here.trained == 12
    require_same(tmp_path / "there", tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]  # no keys are left


def test_an_array_is_asked_for_as_the_configuration_says(tmp_path):
    """What submitit would write for sbatch, without a Slurm."""
    from submitit.slurm.slurm import SlurmExecutor

    from dptrain.config import compose

    wanted = compose.load(
        "sweep",
        ["executor=slurm", "executor.partition=gpu", "executor.gpus=1", "executor.at_once=9"],
    ).executor

    class Submitit:
        class AutoExecutor:
            def __init__(self, folder, cluster):
                self.asked = {"cluster": cluster}

            def update_parameters(self, **given):
                self.asked |= given

    asked = slurm._submitter(Submitit, wanted, tmp_path).asked
    assert asked["slurm_partition"] == "gpu"
    assert asked["slurm_array_parallelism"] == 9
    assert asked["gpus_per_node"] == 1
    assert asked["timeout_min"] == 240
    known = {f"slurm_{name}" for name in SlurmExecutor._valid_parameters()}
    assert {name for name in asked if name.startswith("slurm_")} <= known


@pytest.mark.long
@pytest.mark.parametrize("lost", ["preempted", "job", "driver", "interrupt"])
def test_who_is_lost_changes_nothing(tmp_path, lost):
    """A job is preempted, or killed; the driver is killed, or interrupted; each in the middle."""
    folder, here = tmp_path / "there", tmp_path / "here"
    arguments = command(folder, *LOCAL)
    process = start(arguments)
    exchange = tmp_path / f"there-slurm-{fingerprint(str(folder))[:8]}"
    # Something was saved on the way.
    wait_for(process, lambda: any(1 < step < 150 for step in _steps(exchange)))
    jobs = processes(f"submitit.core._submit {exchange}")
    assert jobs
    if lost in ("preempted", "job"):
        number = signal.SIGUSR2 if lost == "preempted" else signal.SIGKILL
        for identifier in jobs:
            subprocess.run(["kill", f"-{number.value}", str(identifier)], check=False)
    else:
        process.send_signal(signal.SIGKILL if lost == "driver" else signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-9 if lost == "driver" else 130), err
        if lost == "interrupt":
            assert not processes(str(exchange))  # no orphan computes on
            assert not exchange.exists()
        process = start(arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not exchange.exists()
    subprocess.run(command(here), check=True, capture_output=True)
    require_same(folder, here)


def _steps(exchange):
    """Steps of every stack, as its node saved them last."""
    for path in (exchange / "progress").glob("*.bin"):
        data = path.read_bytes()[32:]
        yield json.loads(data[8 : 8 + int.from_bytes(data[:8], "big")])["step"]
