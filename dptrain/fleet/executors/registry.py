"""The executor that a configuration chooses."""

from __future__ import annotations

import importlib

from dptrain.fleet.stacks import Assignment


def execute(given: Assignment) -> None:
    """Train and publish every stack with the executor of the configuration.

    Raises Interrupted where stop() is true, the work saved; the LayerError of a worker; WorkerDied;
    FleetError where the executor's package or cluster is not there.
    """
    name = given.fleet.config.executor.name
    importlib.import_module(f"dptrain.fleet.executors.{name}").execute(given)
