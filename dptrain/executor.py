"""Run jobs in this process or in one process for each place; the seam for a cluster's engine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dptrain import allocator

POLL_SECONDS = 0.2
GRACE_SECONDS = 60

Emit = Callable[[Any], None]
Work = Callable[[Any, Emit, Callable[[], bool]], None]
"""(job, emit, stop): does a job, emits picklable events, and raises Interrupted where stop() is true, its work saved."""


class Interrupted(Exception):
    """Work stopped at a good moment, its state saved."""


@dataclass(frozen=True)
class Place:
    """Where a worker computes: a torch device, and threads of a CPU."""

    device: str
    threads: int


def run(jobs: Sequence[Any], setup: Callable[[Place], Work], places: Sequence[Place], on_event: Emit, stop: Callable[[], bool]) -> None:
    """Do every job; on_event is called in this process, in the order of each worker's events.

    With one place the jobs run here. With more, each place gets a process, to which `setup` is sent, and takes jobs as it is free. A
    job's exception is raised here after the others have stopped with their work saved; so is Interrupted. A worker that is killed
    raises RuntimeError, one whose parent is killed ends by itself at the next step.
    """
    places = places[: len(jobs)]
    if len(places) > 1:
        _run_processes(jobs, setup, places, on_event, stop)
    elif jobs:
        work = setup(places[0])
        for job in jobs:
            work(job, on_event, stop)


def _run_processes(
    jobs: Sequence[Any], setup: Callable[[Place], Work], places: Sequence[Place], on_event: Emit, stop: Callable[[], bool]
) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process with OpenMP threads hangs
    todo, events, halt = context.Queue(), context.Queue(), context.Event()
    for job in [*jobs, *[None] * len(places)]:
        todo.put(job)
    workers = [context.Process(target=_worker, args=(setup, place, todo, events, halt, os.getpid()), daemon=True) for place in places]
    left = len(workers)
    failure: Exception | None = None
    try:
        # Workers inherit deaf ears: the parent alone decides to stop, and says so through halt.
        with _blocked({signal.SIGINT, signal.SIGTERM}), _no_main():
            for worker in workers:
                worker.start()
        while left:
            if stop():
                halt.set()
            try:
                kind, content = events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if dead := [worker for worker in workers if worker.exitcode not in (None, 0)]:
                    message = f"a worker died with exit code {dead[0].exitcode}, perhaps for want of memory; use training.workers=1"
                    failure = failure or RuntimeError(message)
                    break
                continue
            if kind == "event":
                on_event(content)
                continue
            left -= 1
            if content is not None:
                failure = failure if failure and not isinstance(failure, Interrupted) else content
                halt.set()
        if failure is None and halt.is_set():
            failure = Interrupted()
    finally:
        halt.set()
        _wind_down([worker for worker in workers if worker.pid is not None], events)
    if failure:
        raise failure


@contextlib.contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    """Signals wait until the end of the block; a process started within never hears them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Keep a new process from importing the program that runs here: it would start from the top where it lacks `if __name__ == ...`."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _wind_down(workers: Sequence[Any], events: Any) -> None:
    """Let workers save and end; one that does not within a minute is killed, at the cost of its steps since the last checkpoint."""
    deadline = time.monotonic() + GRACE_SECONDS
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            events.get(timeout=POLL_SECONDS)  # a process cannot end while its last events are unread
    for worker in workers:
        worker.kill()
        worker.join()


def _worker(setup: Callable[[Place], Work], place: Place, todo: Any, events: Any, halt: Any, parent: int) -> None:
    def stop() -> bool:
        if os.getppid() != parent:
            os._exit(1)  # killed: a later run may hold the files by now, so nothing more is written
        return halt.is_set()

    allocator.keep_memory()
    failure: Exception | None = None
    try:
        work = setup(place)
        while not stop() and (job := todo.get()) is not None:
            work(job, lambda event: events.put(("event", event)), stop)
    except Exception as error:
        failure = error
    events.put(("end", failure))
