"""What every executor shares: where a worker computes, how it stops, and how its errors travel."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dptrain.config.schema import Config
from dptrain.core import errors
from dptrain.core.errors import LayerError
from dptrain.core.store import fingerprint

POLL_SECONDS = 0.2

Emit = Callable[[Any], None]
Work = Callable[[Any, Emit, Callable[[], bool]], None]
"""(job, emit, stop): does a job, emits picklable events, and raises Interrupted where stop() is
true, its work saved.
"""


class Interrupted(Exception):
    """Work stopped at a good moment, its state saved."""


def no_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: Python's, or torch's of a GPU or of a CPU,
    which are none of Python's.
    """
    out = isinstance(error, RuntimeError) and (
        "out of memory" in str(error) or "not enough memory" in str(error)
    )
    return out or isinstance(error, MemoryError)


class WorkerDied(RuntimeError):
    """A worker ended without a word: it was killed, perhaps for want of memory."""


class NodeLost(WorkerDied):
    """A worker on another machine was lost more often than `executor.retries` allows."""


@dataclass(frozen=True)
class Place:
    """Where a worker computes: a torch device, and threads of a CPU."""

    device: str
    threads: int


def exchange_folder(config: Config) -> Path:
    """Where the driver and Slurm's nodes exchange files, for the results of one folder alone: never
    that folder, which the driver alone writes, and never a user's, since it is deleted.
    """
    results = config.folder.absolute()
    parent = Path(config.executor.folder) if config.executor.folder else results.parent
    return parent.absolute() / f"{results.name}-slurm-{fingerprint(str(results))[:8]}"


def in_words(error: BaseException) -> tuple[str, ...]:
    """An exception in words, since not every one survives the way to the parent."""
    if isinstance(error, LayerError):
        return ("layer", type(error).__name__, error.message, error.about)
    if no_memory(error):
        return ("system", str(errno.ENOMEM), os.strerror(errno.ENOMEM), "")
    if isinstance(error, OSError) and error.errno is not None:
        return ("system", str(error.errno), str(error.strerror), str(error.filename or ""))
    return (
        ("interrupted",)
        if isinstance(error, Interrupted)
        else ("failed", "".join(traceback.format_exception(error)))
    )


def exception_of(message: tuple[str, ...]) -> Exception:
    if message[0] == "layer":
        result: Exception = getattr(errors, message[1])(*message[2:])
        return result
    if message[0] == "system":
        return OSError(int(message[1]), message[2], *filter(None, message[3:]))
    return (
        Interrupted()
        if message[0] == "interrupted"
        else RuntimeError(f"a worker failed:\n{message[1]}")
    )
