"""glibc's allocator, told to keep memory: a training step asks for the same large buffers again and
again.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEEP = 1 << 30


def keep_memory() -> bool:
    """Serve buffers below 1 GiB from the heap and never give the heap back, for this process only;
    True if glibc agreed.

    Otherwise every large buffer is mapped afresh, and the kernel fills it with zeros page by page.
    For our own processes at their start, never on import: it is a choice for a whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP)) and bool(mallopt(M_TRIM_THRESHOLD, KEEP))
