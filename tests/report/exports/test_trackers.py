"""Runs of MLflow and of Weights & Biases, written and read back by their packages."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long
WRITE = """
import socket, sys
connected, connect = [], socket.socket.connect
def watched(self, address):
    connected.append(address)
    return connect(self, address)
socket.socket.connect = watched
from pathlib import Path
from dptrain.report.exports import files
from dptrain.report.record import read
run, out = map(Path, sys.argv[1:3])
files.trackers.{name}(out, read(run), run)
abroad = [each for each in connected if isinstance(each, tuple) and each[0] != "127.0.0.1"]
assert not abroad, abroad
"""
READ = """
import os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
from pathlib import Path
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=Path(sys.argv[2]).resolve().as_uri())
[experiment] = [each for each in client.search_experiments() if each.name == "tiny"]
runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
parent = runs["tiny"]
assert "no epsilon" in parent.data.tags["mlflow.note.content"]
assert [each.path for each in client.list_artifacts(parent.info.run_id)] == ["report.html"]
assert set(runs) == {"tiny", "none", "dpsgd-8"}
for name in ("none", "dpsgd-8"):
    assert runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert runs[name].data.params["data set"] == "mnist5k"
    print(name, repr(runs[name].data.metrics["strongest AUC"]), runs[name].data.params["Epsilon"])
"""


def program(text, *arguments):
    """By itself: these packages warn, and leave threads and processes behind."""
    command = [sys.executable, "-W", "ignore", "-c", text, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_reads_a_run_a_sweep_and_a_run_a_setting(done, tmp_path):
    program(WRITE.format(name="mlflow"), done.folder, tmp_path / "out")
    lines = [line.split() for line in program(READ, done.folder, tmp_path / "out").splitlines()]
    aucs = {
        name: max(
            row.estimate
            for row in done.rows
            if (row.setting, row.metric.name, row.examples) == (name, "auc", "all")
        )
        for name in ("none", "dpsgd-8")
    }
    assert {name: float(value) for name, value, _ in lines} == aucs
    assert {name: epsilon for name, _, epsilon in lines} == {"none": "inf", "dpsgd-8": "8.0"}


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_offline_runs(done, tmp_path):
    program(WRITE.format(name="wandb"), done.folder, tmp_path / "out")
    runs = list((tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 3
    said = b"".join(path.read_bytes() for path in runs)
    for text in (b"strongest AUC", b"dpsgd-8", b"training/loss"):
        assert text in said
