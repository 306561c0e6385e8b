"""The executor that a configuration chooses."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

from dptrain.core.types import Setting
from dptrain.fleet.executors.base import Emit
from dptrain.fleet.fleet import Fleet


def execute(
    fleet: Fleet,
    jobs: Sequence[tuple[Setting, range]],
    headers: Mapping[str, str],
    on_event: Emit,
    stop: Callable[[], bool],
) -> None:
    """Train and publish every stack, a job each, with the executor of the configuration. `headers`,
    by setting, go into the files of parameters; on_event hears of steps, in this process.

    Raises Interrupted where stop() is true, the work saved; the LayerError of a worker; WorkerDied;
    FleetError where the executor's package or cluster is not there.
    """
    module = importlib.import_module(f"dptrain.fleet.executors.{fleet.config.executor.name}")
    module.execute(fleet, jobs, headers, on_event, stop)
