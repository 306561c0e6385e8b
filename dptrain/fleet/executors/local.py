"""Stacks on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from dptrain.core.types import Setting
from dptrain.fleet.executors.base import Emit
from dptrain.fleet.executors.processes import run
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import worker


def execute(
    fleet: Fleet,
    jobs: Sequence[tuple[Setting, range]],
    headers: Mapping[str, str],
    on_event: Emit,
    stop: Callable[[], bool],
) -> None:
    """Train and publish every stack. Raises what `run` raises."""
    setup = functools.partial(worker, fleet, headers)
    run(jobs, setup, fleet.placement.places, on_event, stop, fleet.config.folder)
