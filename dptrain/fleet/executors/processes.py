"""Jobs in this process, or in one process for each place of this machine.

It imports no more than it needs, since every new process imports it.
"""

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
from pathlib import Path
from typing import Any

from dptrain.core import allocator
from dptrain.core.guard import live_as_worker
from dptrain.fleet.executors.base import (
    POLL_SECONDS,
    Emit,
    Interrupted,
    Place,
    Work,
    WorkerDied,
    exception_of,
    in_words,
)

GRACE_SECONDS = 60
DEAD_SECONDS = 1.0


def run(
    jobs: Sequence[Any],
    setup: Callable[[Place], Work],
    places: Sequence[Place],
    on_event: Emit,
    stop: Callable[[], bool],
    folder: Path | None = None,
) -> None:
    """Do every job; on_event is called in this process, in the order of each worker's events.

    With one place the jobs run here. With more, each place gets a process, to which `setup` is
    sent, and takes jobs as it is free. A job's LayerError is raised here after the others have
    stopped with their work saved; so are Interrupted and OSError, and any other exception as a
    RuntimeError with its traceback. A worker that is killed raises WorkerDied; one whose parent is
    killed ends at once on Linux, at its next step elsewhere, and holds `folder`, where the jobs
    write, for as long as it lives.
    """
    places = places[: len(jobs)]
    if len(places) > 1:
        _run_processes(jobs, setup, places, on_event, stop, folder)
    elif jobs:
        work = setup(places[0])
        for job in jobs:
            work(job, on_event, stop)


def _run_processes(
    jobs: Sequence[Any],
    setup: Callable[[Place], Work],
    places: Sequence[Place],
    on_event: Emit,
    stop: Callable[[], bool],
    folder: Path | None,
) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process with OpenMP threads hangs
    todo, events, halt = context.Queue(), context.Queue(), context.Event()
    for job in [*jobs, *[None] * len(places)]:
        todo.put(job)
    workers = [
        context.Process(
            target=_worker,
            args=(number, setup, place, todo, events, halt, os.getpid(), folder),
            daemon=True,
        )
        for number, place in enumerate(places)
    ]
    grace: float = GRACE_SECONDS
    try:
        # Workers inherit deaf ears: the parent alone decides to stop, and says so through halt.
        with _blocked({signal.SIGINT, signal.SIGTERM}), _no_main():
            for worker in workers:
                worker.start()
        failure = _listen(workers, events, halt, on_event, stop)
        if failure is None and halt.is_set():
            failure = Interrupted()
    except KeyboardInterrupt:  # asked a second time
        grace = 0.0
        raise
    finally:
        halt.set()
        _wind_down([worker for worker in workers if worker.pid is not None], events, grace)
    if failure:
        raise failure


def _listen(
    workers: Sequence[Any], events: Any, halt: Any, on_event: Emit, stop: Callable[[], bool]
) -> Exception | None:
    """Pass events on until every worker has ended; the first failure, which stops the others.
    Raises WorkerDied.
    """
    ended: set[int] = set()
    failure: Exception | None = None
    looked, dead = time.monotonic(), list[int]()
    while len(ended) < len(workers):
        if stop():
            halt.set()
        with contextlib.suppress(queue.Empty):
            kind, content = events.get(timeout=POLL_SECONDS)
            if kind == "event":
                on_event(content)
            else:
                number, message = content
                ended.add(number)
                if message is not None:
                    halt.set()
                    if failure is None or isinstance(failure, Interrupted):
                        failure = exception_of(message)
        # Long enough for the last words of one that has just ended to arrive.
        if time.monotonic() - looked > DEAD_SECONDS:
            _require_alive([workers[n] for n in dead if n not in ended])
            looked = time.monotonic()
            dead = [n for n, worker in enumerate(workers) if worker.exitcode is not None]
    return failure


def _require_alive(silent: Sequence[Any]) -> None:
    """Raise WorkerDied for workers that ended without a word."""
    if silent:
        code = silent[0].exitcode
        raise WorkerDied(f"a worker died with exit code {code}, perhaps for want of memory")


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
    """Keep a new process from importing the program that runs here: it would start from the top
    where it lacks `if __name__ == ...`.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _wind_down(workers: Sequence[Any], events: Any, grace: float) -> None:
    """Let workers save and end; one that does not in time is killed, at the cost of its steps since
    the last checkpoint.
    """
    deadline = time.monotonic() + grace
    try:
        while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                # A process cannot end while its last events are unread.
                events.get(timeout=POLL_SECONDS)
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def _worker(  # noqa: PLR0913  # all that a process is sent
    number: int,
    setup: Callable[[Place], Work],
    place: Place,
    todo: Any,
    events: Any,
    halt: Any,
    parent: int,
    folder: Path | None,
) -> None:
    live_as_worker(folder, parent)

    def stop() -> bool:
        if os.getppid() != parent:
            os._exit(1)  # killed: a later run may hold the files by now, so nothing more is written
        result: bool = halt.is_set()
        return result

    import torch

    allocator.keep_memory()
    torch.set_num_threads(place.threads)
    message: tuple[str, ...] | None = None
    try:
        work = setup(place)
        while not stop() and (job := todo.get()) is not None:
            work(job, lambda event: events.put(("event", event)), stop)
    except BaseException as error:
        message = in_words(error)
    events.put(("end", (number, message)))
