"""Who may write to a folder, and how a run stops."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dptrain.core.errors import FolderError

LOCK, WORKERS = ".lock", ".workers"
"""Files of a results folder: held by the process that writes there, and by each worker of it for as
long as it lives.
"""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


ORPHAN_SECONDS = 10
"""How long workers of a parent that was killed may take to end."""


def _locked(descriptor: int, seconds: float) -> bool:
    """Whether a lock could be had within a time."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.1)


def _open(path: Path) -> int:
    """For a lock: made if need be, never emptied, and no link, which would lead elsewhere."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, made if need be; the lock ends with the process. Raises
    FolderError.

    A worker that outlives its parent could still write, so a folder is not held while one does.
    """
    held = []
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = [_open(folder / name) for name in (LOCK, WORKERS)]
        except OSError as error:
            raise FolderError(
                f"cannot write to {folder}: {error.strerror}; choose another folder"
            ) from None
        for descriptor, who in zip(
            held,
            ("another dptrain is", "workers of a dptrain that was killed are still"),
            strict=True,
        ):
            if not _locked(descriptor, 0 if who.startswith("another") else ORPHAN_SECONDS):
                raise FolderError(
                    f"{who} at work in {folder}; wait for it, or choose another folder"
                )
        os.close(held.pop())  # for workers to hold; none of an earlier run can be left
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def live_as_worker(folder: Path | None, parent: int) -> None:
    """Tie this process to its parent: it holds the folder against others, and ends at once where
    the parent has.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if folder is not None:
        fcntl.flock(_open(folder / WORKERS), fcntl.LOCK_SH)
    # It ended before the lock was ours: a later run may hold the folder by now.
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets, so that training stops between steps; a second SIGINT
    stops at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
