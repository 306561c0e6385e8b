"""The sweep of TINY: run, killed and read."""

import contextlib
import sys

import numpy as np
from safetensors.numpy import load

from dptrain.config import compose
from dptrain.pipeline.run import sweep
from tests.common import TINY


def go(folder, *more, overrides=TINY):
    return sweep(
        compose.load("sweep", [*overrides, f"output={folder}", *more]), show_progress=False
    )


def parameters(folder):
    """Every model's parameters, by key."""
    return {
        path.parent.name: path.read_bytes()
        for path in (folder / "store" / "model").glob("*/parameters.safetensors")
    }


SLOW = [
    "training.trajectory=3",
    *TINY,
    "training.epochs=40",
    "model.hidden=[64]",
    "training.checkpoint_seconds=0.05",
]


def command(folder, *more):
    return [sys.executable, "-m", "dptrain", "sweep", *SLOW, f"output={folder}", *more]


def ledgers(folder):
    return {path.name: path.read_bytes() for path in (folder / "store" / "ledger").iterdir()}


def trajectories(folder):
    return {
        path.parent.name: path.read_bytes()
        for path in (folder / "store" / "model").glob("*/trajectory.npy")
    }


def close(folder, whole):
    """The same models but for rounding, which the width of a stack and the number of threads may
    change.
    """
    found = parameters(folder)
    assert found.keys() == whole.keys()
    for key, data in found.items():
        for name, value in load(data).items():
            np.testing.assert_allclose(value, load(whole[key])[name], rtol=1e-4, atol=1e-5)


NO_MODEL = [override for override in TINY if not override.startswith("model.")]


def saved_since(folder, start):
    """Whether a stack under work was saved after a time: what a run does at its start, such as
    deleting what a killed one left, does not count.
    """
    with contextlib.suppress(FileNotFoundError):  # it was finished in between
        return any(
            path.stat().st_mtime > start
            for path in (folder / "store" / "checkpoint").glob("[!.]*.bin")
        )
    return False
