"""Stacks on this machine."""

from __future__ import annotations

import functools

from dptrain.fleet.executors.processes import run
from dptrain.fleet.stacks import Assignment, worker


def execute(given: Assignment) -> None:
    """Train and publish every stack. Raises what `run` raises."""
    fleet = given.fleet
    setup = functools.partial(worker, fleet, given.headers)
    places, folder = fleet.placement.places, fleet.config.folder
    run(given.jobs, setup, places, given.on_event, given.stop, folder)
