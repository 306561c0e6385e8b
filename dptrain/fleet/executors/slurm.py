"""Stacks on the nodes of a Slurm cluster, many to an element of a job array, through submitit.

Driver and nodes exchange files in a folder that both see, beside the folder of results: the data
once, and of each stack its progress, which the driver writes at first and the node every
`checkpoint_seconds`. An element that is preempted goes on from there when Slurm starts it again. So
does the next run of a driver that was killed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dptrain.config.schema import ExecutorConfig
from dptrain.core.errors import FleetError
from dptrain.core.store import Store, to_json, to_npy, write_atomic
from dptrain.data.splits import Dataset, Examples
from dptrain.fleet.executors import remote
from dptrain.fleet.executors.base import (
    NodeLost,
    exception_of,
    exchange_folder,
    in_words,
)
from dptrain.fleet.executors.remote import Chunk, News
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import Assignment
from dptrain.training.checkpoint import Progress, record_of

PROGRESS, JOBS, DATA = "progress", "jobs.json", "data"
LARGEST_ARRAY = 1000
"""Elements of one job array; Slurm's MaxArraySize is 1001 where nobody has changed it."""
LOOK_SECONDS = 1.0
"""Between looks at the folder."""
END_SECONDS = 10.0
"""For jobs that were cancelled to end."""


def execute(given: Assignment) -> None:
    """Train and publish every stack, as registry.execute says."""
    with contextlib.closing(_Slurm(given.fleet)) as cluster:
        remote.drive(cluster, given)


def _submitit() -> Any:
    """The module submitit. Raises FleetError."""
    try:
        import submitit
    except ImportError:
        message = "submitit is not installed; pip install 'dptrain[slurm]', or use executor=local"
        raise FleetError(message, "executor.name") from None
    return submitit


def _submitter(submitit: Any, wanted: ExecutorConfig, folder: Path) -> Any:
    """What submits jobs as they are asked for. Raises FleetError where there is no Slurm."""
    try:
        submitter = submitit.AutoExecutor(folder / "jobs", cluster=wanted.cluster)
    except RuntimeError as error:
        fix = "run where sbatch is, or try it on this machine with executor.cluster=local"
        raise FleetError(f"there is no Slurm here ({error}); {fix}", "executor.cluster") from None
    given: dict[str, Any] = {
        "name": "dptrain",
        "timeout_min": wanted.minutes,
        "cpus_per_task": int(wanted.cpus),
        "slurm_array_parallelism": wanted.at_once or 256,
    }
    if wanted.gpus:
        given["gpus_per_node"] = int(wanted.gpus)
    if wanted.memory_gib:
        given["mem_gb"] = wanted.memory_gib
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(wanted, name):
            given[f"slurm_{name}"] = value
    submitter.update_parameters(**given)
    return submitter


@dataclass(frozen=True)
class Element:
    """What one element of a job array does: chunks by name of their stacks, whose progress lies in
    the folder, with the fleet's arrays. submitit calls it, and `checkpoint` before a preemption.
    """

    folder: Path
    fleet: Fleet
    chunks: Mapping[str, Chunk]

    def __call__(self) -> tuple[str, ...] | None:
        """Do every chunk; an error comes back in words."""
        submitit, exchange = _submitit(), Store(self.folder)
        try:
            fleet = _with_arrays(self.fleet, self.folder)
            for name, chunk in self.chunks.items():
                self._do(exchange, fleet, name, chunk)
        except submitit.core.utils.UncompletedJobError:
            raise  # preempted, and not to be started again
        except Exception as error:
            return in_words(error)
        return None

    def _do(self, exchange: Store, fleet: Fleet, name: str, chunk: Chunk) -> None:
        def save(so_far: Progress) -> None:
            if not (self.folder / DATA).is_dir():  # deleted, and its keys are not to come back
                raise FleetError("the driver of this job has ended", "executor.name")
            exchange.write_file(PROGRESS, name, so_far.to_bytes())

        progress = exchange.read_file(PROGRESS, name)
        if progress is not None and not _reached(progress, chunk):
            save(Progress.of(remote.work(fleet, replace(chunk, progress=progress), save)))

    def checkpoint(self) -> Any:
        """The same again: what was saved last is where it goes on."""
        return _submitit().helpers.DelayedSubmission(self)


def _reached(progress: bytes, chunk: Chunk) -> bool:
    record = record_of(progress)
    return bool(record["step"] >= chunk.until and record["ran"] is not None)


def _without_arrays(fleet: Fleet, folder: Path) -> Fleet:
    """A fleet whose arrays lie in the folder."""
    fleet, dataset = replace(remote.shipped(fleet), store=Store(fleet.store.root)), fleet.dataset
    data = folder / DATA
    data.mkdir(exist_ok=True)
    arrays = {"membership": fleet.membership}
    for name, part in dataset.parts.items():
        arrays |= {f"{name}-inputs": part.inputs, f"{name}-labels": part.labels}
    arrays |= {f"{name}-features": part for name, part in (fleet.features or {}).items()}
    for name, array in arrays.items():
        # A job of an earlier driver may still read the file that stands there.
        write_atomic(data / f"{name}.npy", to_npy(array))
    pool, population, test = (part.take(np.arange(0)) for part in dataset.parts.values())
    return replace(
        fleet,
        dataset=replace(dataset, pool=pool, population=population, test=test),
        membership=fleet.membership[:0],
        features=fleet.features and {},
    )


def _with_arrays(fleet: Fleet, folder: Path) -> Fleet:
    """The inverse, memory-mapped."""

    def read(name: str) -> np.ndarray:
        array: np.ndarray = np.load(folder / DATA / f"{name}.npy", "r", allow_pickle=False)
        return array

    names, features = list(fleet.dataset.parts), None
    if fleet.features is not None:
        features = {name: read(f"{name}-features") for name in names}
    pool, population, test = (
        Examples(read(f"{name}-inputs"), read(f"{name}-labels")) for name in names
    )
    dataset = Dataset(pool, population, test, fleet.dataset.classes)
    return replace(fleet, dataset=dataset, membership=read("membership"), features=features)


class _Slurm:
    """The job arrays of a sweep, and their folder, which goes when it is closed."""

    whole = True

    def __init__(self, fleet: Fleet):
        self._submitit, self._wanted = _submitit(), fleet.config.executor
        self._folder = exchange_folder(fleet.config)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # an earlier driver's too: secret keys lie there
        self._submitter = _submitter(self._submitit, self._wanted, self._folder)
        self._cancel_orphans()
        self._exchange = Store(self._folder)
        self._fleet = _without_arrays(fleet, self._folder)
        self._queued: dict[str, Chunk] = {}
        self._at_work: dict[str, Chunk] = {}
        self._jobs: dict[Any, tuple[str, ...]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._lost: dict[str, int] = {}
        self._looked = 0.0

    def room(self, at_work: int) -> bool:
        return True

    def leftover(self, name: str) -> bytes | None:
        return self._exchange.read_file(PROGRESS, name)

    def submit(self, name: str, chunk: Chunk) -> None:
        self._exchange.write_file(PROGRESS, name, chunk.progress)
        self._seen[name] = (self._changed(name), record_of(chunk.progress)["step"])
        self._at_work[name] = self._queued[name] = replace(chunk, progress=b"")

    def news(self, seconds: float) -> Iterator[News]:
        if seconds:  # else the driver stops
            self._send()
        time.sleep(min(seconds, max(0.0, self._looked + LOOK_SECONDS - time.monotonic())))
        if time.monotonic() < self._looked + LOOK_SECONDS and seconds:
            return
        self._looked = time.monotonic()
        ended = [job for job in self._jobs if job.done()] if seconds else []
        for name in list(self._at_work):
            if (progress := self._progress(name)) is not None:
                self._lost.pop(name, None)
                if _reached(progress, self._at_work[name]):
                    del self._at_work[name]
                yield News(name, progress)
        for job in ended:
            self._judge(job, self._jobs.pop(job))

    def _progress(self, name: str) -> bytes | None:
        """Of a stack, where there is more of it than when we looked last."""
        changed, step = self._seen[name]
        now = self._changed(name)
        progress = self._exchange.read_file(PROGRESS, name) if now != changed else None
        if progress is None:
            return None
        reached = record_of(progress)["step"]
        self._seen[name] = (now, max(step, reached))
        ended = _reached(progress, self._at_work[name])
        return progress if reached > step or ended else None

    def _changed(self, name: str) -> int:
        return (self._folder / PROGRESS / f"{name}.bin").stat().st_mtime_ns

    def _judge(self, job: Any, names: tuple[str, ...]) -> None:
        """Send what a job that has ended left undone once more. Raises what it raised, and
        NodeLost where it was lost too often.
        """
        words, reason = None, "it ended without a word"
        if job.paths.result_pickle.exists():  # submitit waits a quarter of a minute for one
            try:
                words, reason = job.result(), "its files have not come"
            except self._submitit.core.utils.UncompletedJobError as error:
                reason = (str(error).strip().splitlines() or [""])[-1][:200]
        if words is not None:
            raise exception_of(words)
        for name in names:
            if name in self._at_work:
                self._lost[name] = self._lost.get(name, 0) + 1
                if self._lost[name] > self._wanted.retries:
                    raise NodeLost(f"Slurm's job {job.job_id} was lost again and again: {reason}")
                self._queued[name] = self._at_work[name]

    def _send(self) -> None:
        """Submit what is queued as job arrays."""
        names, each = list(self._queued), self._wanted.stacks or 1
        groups = [tuple(names[start : start + each]) for start in range(0, len(names), each)]
        for start in range(0, len(groups), LARGEST_ARRAY):
            array = groups[start : start + LARGEST_ARRAY]
            elements = [
                Element(self._folder, self._fleet, {name: self._queued[name] for name in group})
                for group in array
            ]
            try:
                with self._submitter.batch():
                    jobs = [self._submitter.submit(element) for element in elements]
            except self._submitit.core.utils.FailedSubmissionError as error:
                reason = " ".join(str(error).split())[:200]
                raise FleetError(f"Slurm refuses the jobs: {reason}", "executor.cluster") from None
            self._jobs |= dict(zip(jobs, array, strict=True))
            write_atomic(self._folder / JOBS, to_json([job.job_id for job in self._jobs]))
        self._queued.clear()

    def _cancel_orphans(self) -> None:
        """Cancel the jobs of a driver that was killed: what they have saved is taken over."""
        file = self._folder / JOBS
        if self._wanted.cluster != "slurm" or not file.exists():
            return
        for number in json.loads(file.read_bytes()):
            self._submitit.SlurmJob(self._folder / "jobs", number).cancel(check=False)

    def close(self) -> None:
        """Cancel what is left, and delete the folder, with the secret keys in it."""
        for job in self._jobs:
            job.cancel(check=False)
        end = time.monotonic() + END_SECONDS
        while any(not job.done(force_check=True) for job in self._jobs) and time.monotonic() < end:
            time.sleep(LOOK_SECONDS / 10)
        shutil.rmtree(self._folder, ignore_errors=True)
