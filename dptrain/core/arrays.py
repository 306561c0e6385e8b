"""Large arrays that lie in a file without a name, so that the system can take their memory back."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np

LARGE = 1 << 27
"""Bytes from which an array lies in a file."""


def empty(shape: Sequence[int], dtype: type = np.float64) -> np.ndarray:
    """An array to fill. A large one is mapped from a file in the folder for temporary files (where
    TMPDIR says), where there is twice the room; the file goes with the array.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE or not hasattr(os, "posix_fallocate"):
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            room = os.statvfs(file.fileno())
            if 2 * size > room.f_bavail * room.f_frsize:
                return np.empty(shape, dtype)
            # A disk that is full must say so now: a write to a mapped page could only kill us.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype).reshape(shape)
