"""Stacks on other machines: what a worker is sent, what it does, and the side that waits for it.

A chunk is a stack's progress and a step to reach. The driver, which alone writes the folder of
results, charges every step of a chunk to the ledger, durably, before it sends the chunk: a worker
that is lost neither refunds a step nor adds one, since the next worker draws the very same noise
for the same steps. What comes back is the progress, from which the driver writes the checkpoint and
at the end the models.
"""

from __future__ import annotations

import errno
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from dptrain.core import allocator
from dptrain.core.errors import FleetError
from dptrain.core.store import code_fingerprint, versions
from dptrain.core.types import Mechanism, Setting
from dptrain.fleet import models as trained
from dptrain.fleet.executors.base import POLL_SECONDS, Emit, Interrupted, Place
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import Assignment, advance, begin, book, publish
from dptrain.privacy import ledger
from dptrain.training.checkpoint import OnCurve, Point, Progress, Steps, record_of

FIRST_STEPS = 8
"""Of a stack whose step nobody has measured."""
GROWTH = 8
"""A chunk takes at most this many times the steps of the one before, since the first is short."""

DRIVER_SHARE = 2
"""Chunks are so long that the driver is at work in at most one over this of the time, however many
stacks it serves.
"""


@dataclass(frozen=True)
class Chunk:
    """setting: of the stack; progress: a Progress in bytes; until: the step to reach, of which all
    steps before are charged; place: where the worker computes; code: of the driver.
    """

    setting: Setting
    progress: bytes
    until: int
    place: Place
    code: str


@dataclass(frozen=True)
class News:
    """Of the stack `name`: its progress in bytes, and the seconds that a step of it took, where the
    worker says so.
    """

    name: str
    progress: bytes
    step_seconds: float | None = None


class Cluster(Protocol):
    """What the driver needs of an engine of other machines."""

    whole: bool
    """Whether a chunk holds all the steps that are left of its stack. It does where every chunk
    waits in a queue.
    """

    def room(self, at_work: int) -> bool:
        """Whether another chunk may be sent when so many stacks are at work."""

    def submit(self, name: str, chunk: Chunk) -> None:
        """Send a chunk of the stack `name`."""

    def leftover(self, name: str) -> bytes | None:
        """Progress of a stack that an earlier run, since killed, has not fetched."""

    def news(self, seconds: float) -> Iterator[News]:
        """What has come in, waiting so long if nothing has. Raises what a worker raised, WorkerDied
        where one was lost too often.
        """


def code() -> str:
    """Of all that shapes a model, the same on the driver and on every node."""
    return f"{code_fingerprint(*trained.TRAINED_BY)} {sorted(versions().items())}"


def shipped(fleet: Fleet) -> Fleet:
    """A fleet as workers are sent it: with the inputs as the trained part of the model sees them,
    since workers do not read the store.
    """
    if not fleet.has_features:
        return fleet
    return replace(
        fleet, features={name: part.cpu().numpy() for name, part in fleet.tensors.items()}
    )


def work(fleet: Fleet, chunk: Chunk, save: Callable[[Progress], None] | None = None) -> bytes:
    """Do a chunk; its progress. save: called every `checkpoint_seconds` with the progress so far.

    Raises FleetError where this machine has another code, or other versions, than the driver.
    """
    if chunk.code != code():
        raise FleetError(
            "a node has another dptrain, Python or library than the driver; install the same "
            "versions on all",
            "executor.name",
        )
    allocator.keep_memory()
    torch.set_num_threads(chunk.place.threads)
    # Arrays in shared memory are read-only. That is no danger: nothing here writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    progress, saved = Progress.of(chunk.progress), time.monotonic()

    def charged(step: int, used: Mechanism, noise_std: float) -> None:
        plan = chunk.setting.mechanism
        if not (step < chunk.until and used == plan and noise_std == plan.noise_std):
            raise RuntimeError(f"step {step} would draw noise that the driver has not charged")

    def after(_point: Point | None) -> None:
        nonlocal saved
        # The last progress is the answer, which says what ran too.
        if not save or progress.state.step == chunk.until:
            return
        if time.monotonic() - saved > fleet.config.training.checkpoint_seconds:
            save(progress)
            saved = time.monotonic()

    here = replace(fleet, device=torch.device(chunk.place.device))
    advance(here, chunk.setting, progress, chunk.until, charged, after)
    return progress.to_bytes()


def drive(cluster: Cluster, given: Assignment) -> None:
    """Train and publish every stack on a cluster. Raises Interrupted where stop() is true, with the
    last progress that came in saved; and what the cluster raises.
    """
    at_work: dict[str, Stack] = {}
    try:
        _drive(cluster, given, at_work)
    except Interrupted:
        for news in cluster.news(0.0) if at_work else ():
            at_work[news.name].take(news)
        raise
    finally:
        for stack in at_work.values():
            stack.close()


def _drive(cluster: Cluster, given: Assignment, at_work: dict[str, Stack]) -> None:
    todo, fleet = deque(given.jobs), given.fleet
    served, service = 0, 0.0  # chunks that came in, and seconds spent on them
    while todo or at_work:
        while todo and cluster.room(len(at_work)) and not given.stop():
            setting, block = todo.popleft()
            if absent := trained.missing(fleet, setting, block):
                stack = Stack.of(fleet, setting, block, absent, given.on_event)
                at_work[stack.name] = stack
                stack.take_over(cluster.leftover(stack.name))
                if not stack.finished:
                    stack.send(cluster)
        if given.stop():
            raise Interrupted
        for stack in [each for each in at_work.values() if each.finished]:
            stack.publish(given.headers[stack.setting.name])
            del at_work[stack.name]
            todo.appendleft((stack.setting, stack.block))  # a checkpoint may hold some models only
        for news in cluster.news(POLL_SECONDS) if at_work else ():
            stack, began = at_work[news.name], time.monotonic()
            stack.take(news)
            if stack.step == stack.charged and not stack.finished:
                stack.send(cluster, DRIVER_SHARE * len(at_work) * service / max(1, served))
            served, service = served + 1, service + time.monotonic() - began


@dataclass
class Stack:
    """A stack at work elsewhere. Its state lies in its checkpoint alone, since thousands of stacks
    may wait. step: as last heard of; charged: steps that stand in the ledger.
    """

    fleet: Fleet
    setting: Setting
    block: range
    name: str
    record: dict[str, Any]
    emit: Emit
    charged: int = 0
    page: ledger.Ledger | None = None
    step_seconds: float | None = None

    @staticmethod
    def of(fleet: Fleet, setting: Setting, block: range, absent: list[int], emit: Emit) -> Stack:
        name, progress = begin(fleet, setting, block, absent)
        seconds = fleet.placement.step_seconds
        emit(Steps(setting, len(progress.models), progress.state.step))
        return Stack(
            fleet,
            setting,
            block,
            name,
            record_of(progress.to_bytes()),
            emit,
            step_seconds=seconds and seconds * len(progress.models),
        )

    @property
    def step(self) -> int:
        return int(self.record["step"])

    @property
    def models(self) -> tuple[int, ...]:
        return tuple(self.record["models"])

    @property
    def finished(self) -> bool:
        """Whether the last step is done, and a trainer has said what it ran."""
        return self.step == self.setting.mechanism.steps and self.record["ran"] is not None

    def send(self, cluster: Cluster, least_seconds: float = 0.0) -> None:
        """Charge the next steps, of so many seconds at the least, and send them off."""
        steps = self.setting.mechanism.steps
        until = steps if cluster.whole else min(steps, self.step + self._next(least_seconds))
        progress = self._charge(until)
        if cluster.whole:
            self.close()  # thousands of stacks may wait at once
        wanted = self.fleet.config.executor
        place = Place("cuda" if wanted.gpus else "cpu", max(1, int(wanted.cpus)))
        cluster.submit(
            self.name, Chunk(self.setting, progress.to_bytes(), self.charged, place, code())
        )

    def _charge(self, until: int) -> Progress:
        """Charge the steps before `until` durably; the progress that they go on from."""
        progress, mechanism = self.stored(), self.setting.mechanism
        if mechanism.private:
            if self.page is None:
                self.page = book(self.fleet, self.setting, self.name, progress)
            for step in range(self.charged, until):
                self.page.charge(step, mechanism, mechanism.noise_std)
            self.page.sync()
        self.charged = max(self.charged, until)
        return progress

    def stored(self) -> Progress:
        progress = Progress.read(self.fleet.store, self.name)
        if progress is None:
            raise OSError(errno.EIO, "the checkpoint of a stack that is at work is gone", self.name)
        return progress

    def _next(self, least_seconds: float) -> int:
        """Steps that take about `checkpoint_seconds`, or more."""
        if self.step_seconds is None:
            return FIRST_STEPS
        seconds = max(least_seconds, self.fleet.config.training.checkpoint_seconds)
        fit = int(seconds / self.step_seconds)
        return max(1, min(fit, GROWTH * max(self.step, FIRST_STEPS)))

    def take_over(self, progress: bytes | None) -> None:
        """Take what an earlier run has not fetched, where it is of these very keys and further."""
        if progress is not None:
            record = record_of(progress)
            if self._same(record) and record["step"] > self.step:
                self._charge(record["step"])
                self.take(News(self.name, progress))

    def take(self, news: News) -> None:
        """Write down the progress that came in."""
        record = record_of(news.progress)
        if not (self._same(record) and self.step <= record["step"] <= self.charged):
            raise RuntimeError(f"a worker gave back another stack than {self.name}")
        steps, points, models = record["step"] - self.step, len(self.record["curve"]), self.models
        self.fleet.store.write_file("checkpoint", self.name, news.progress)
        self.record = record
        self.step_seconds = news.step_seconds or self.step_seconds
        self.emit(Steps(self.setting, len(models), steps))
        for point in record["curve"][points:]:
            self.emit(OnCurve(self.setting, models, point))

    def publish(self, header: str) -> None:
        self.close()
        publish(self.fleet, self.setting, self.name, self.stored(), header)

    def close(self) -> None:
        if self.page is not None:
            self.page.close()
            self.page = None

    def _same(self, record: dict[str, Any]) -> bool:
        return all(record[part] == self.record[part] for part in ("models", "artefacts", "keys"))
