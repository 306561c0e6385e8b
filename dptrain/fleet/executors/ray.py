"""Stacks on the nodes of a Ray cluster, a task a chunk: what no node can lose, the driver holds."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from dptrain.config.schema import ExecutorConfig
from dptrain.core.errors import FleetError
from dptrain.fleet.executors import remote
from dptrain.fleet.executors.base import NodeLost, exception_of, in_words
from dptrain.fleet.executors.remote import Chunk, News
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import Assignment
from dptrain.training.checkpoint import record_of

ROOM_SECONDS = 5.0
"""Between looks at how large the cluster is."""
LISTENER_SECONDS = 10.0
"""For a cluster's head to accept a connection."""

Answer = tuple[bytes, float, tuple[str, ...] | None]
"""The progress, the seconds of a step, and an error in words."""


def execute(given: Assignment) -> None:
    """Train and publish every stack, as registry.execute says."""
    with _connected(given.fleet.config.executor) as ray:
        cluster = _Ray(ray, given.fleet)
        try:
            remote.drive(cluster, given)
        finally:
            cluster.cancel()


@contextlib.contextmanager
def _connected(wanted: ExecutorConfig) -> Iterator[Any]:
    """The module ray, connected to the cluster that is asked for. Raises FleetError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is trained here is nobody's matter
    try:
        import ray
    except ImportError:
        message = "Ray is not installed; pip install 'dptrain[ray]', or use executor=local"
        raise FleetError(message, "executor.name") from None
    ours = not ray.is_initialized()
    try:
        _require_listener(wanted.address or "")
        if ours:
            options = {"include_dashboard": False} if wanted.address == "local" else {}
            before = signal.getsignal(signal.SIGTERM)
            ray.init(wanted.address, log_to_driver=False, configure_logging=False, **options)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # which Ray replaces; ours saves first
    except (OSError, ValueError, RuntimeError) as error:
        raise FleetError(
            f"there is no Ray cluster at {wanted.address!r} ({_short(error)}); start one with "
            "`ray start --head`, or use executor.address=local",
            "executor.address",
        ) from None
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself asks for many minutes."""
    if match := re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+)\]?:(\d+)", address):
        socket.create_connection((match[1], int(match[2])), LISTENER_SECONDS).close()


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


def _work(fleet: Fleet, chunk: Chunk) -> Answer:
    """What a node does; an error comes back in words, since not every one survives the way."""
    began, first = time.monotonic(), record_of(chunk.progress)["step"]
    try:
        progress = remote.work(fleet, chunk)
    except Exception as error:
        return b"", 0.0, in_words(error)
    return progress, (time.monotonic() - began) / max(1, chunk.until - first), None


class _Ray:
    """The tasks of a Ray cluster, at most as many as it has room for."""

    whole = False

    def __init__(self, ray: Any, fleet: Fleet):
        self._ray, self._wanted = ray, fleet.config.executor
        self._fleet = ray.put(remote.shipped(fleet))
        self._names: dict[Any, str] = {}
        self._slots, self._looked, self._warned = 1, -ROOM_SECONDS, False
        options: dict[str, Any] = {
            "num_cpus": self._wanted.cpus,
            "num_gpus": self._wanted.gpus,
            "max_retries": self._wanted.retries,
        }
        if self._wanted.memory_gib:
            options["memory"] = int(self._wanted.memory_gib * 2**30)
        self._task = ray.remote(**options)(_work)

    def room(self, at_work: int) -> bool:
        if self._wanted.at_once:
            return at_work < self._wanted.at_once
        if time.monotonic() - self._looked > ROOM_SECONDS:
            self._slots, self._looked = self._room_of_nodes(), time.monotonic()
            if not self._slots and not self._warned:
                self._warned = True
                print(
                    "dptrain: no node of the cluster has what a task asks for (executor.cpus, gpus,"
                    " memory_gib); waiting for one",
                    file=sys.stderr,
                )
            self._slots = max(1, self._slots)  # for a cluster that grows when it is asked
        return at_work < self._slots

    def _room_of_nodes(self) -> int:
        """Tasks that all nodes hold at once."""
        asked = {"CPU": self._wanted.cpus, "GPU": self._wanted.gpus}
        asked["memory"] = (self._wanted.memory_gib or 0) * 2**30
        return sum(
            min(int(node["Resources"].get(kind, 0) / each) for kind, each in asked.items() if each)
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def submit(self, name: str, chunk: Chunk) -> None:
        self._names[self._task.remote(self._fleet, chunk)] = name

    def leftover(self, name: str) -> bytes | None:
        return None  # tasks end with the driver

    def news(self, seconds: float) -> Iterator[News]:
        done, _ = self._ray.wait(list(self._names), num_returns=1, timeout=seconds)
        for task in done:
            name = self._names.pop(task)
            try:
                progress, step_seconds, error = self._ray.get(task)
            except self._ray.exceptions.RayError as lost:
                raise NodeLost(f"a worker was lost again and again ({_short(lost)})") from None
            if error is not None:
                raise exception_of(error)
            yield News(name, progress, step_seconds)

    def cancel(self) -> None:
        """End every task at once: what it would bring back, another run computes again."""
        for task in self._names:
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                self._ray.cancel(task, force=True)
