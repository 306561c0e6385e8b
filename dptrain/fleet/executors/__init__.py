"""Where the stacks of a fleet are trained: on this machine, by Ray, or by Slurm.

An executor is a module with one function, `execute`. Whichever it is, secret keys are made and
stored, and steps are charged, by the process that holds the folder of results or by a worker of
its own machine, before any noise of theirs is drawn.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dptrain.config.schema import Config
from dptrain.core.types import Setting
from dptrain.fleet.executors.base import Emit
from dptrain.fleet.fleet import Fleet


def exchange_folder(config: Config) -> Path:
    """Where the driver and Slurm's nodes exchange files: never the folder of results, which the
    driver alone writes.
    """
    folder = config.folder.absolute()
    return Path(config.executor.folder or folder.with_name(f"{folder.name}-slurm"))


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
    # The keys that a driver left there when it was killed.
    shutil.rmtree(exchange_folder(fleet.config), ignore_errors=True)
