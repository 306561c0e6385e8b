"""What a file may take: sizes are looked at before memory is taken for them."""

from __future__ import annotations

import gzip
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from dptrain.core.errors import LayerError

SHARE = 0.5
"""Of the machine's memory, for one file's arrays."""
HEADER = 1 << 16
"""Bytes of an array's header at most."""
MOST_CLASSES = 1000

Fail = Callable[[str], LayerError]
"""Makes the error of the caller's layer from its message."""


def memory() -> int:
    """Bytes of the machine, or of a container's share of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return machine


def require_memory(wanted: int, fail: Fail, what: str, mend: str = "use a smaller one") -> None:
    """Raise what `fail` makes where something would take more than SHARE of the memory."""
    if wanted > SHARE * memory():
        raise fail(
            f"{what} takes {wanted / 2**30:,.1f} GiB, more than half of this machine's "
            f"memory; {mend}",
        )


def require_regular(path: Path, fail: Fail) -> None:
    """Raise what `fail` makes unless a path is a file: a pipe or a device would be waited for
    without an end.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise fail(f"cannot read {path} ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise fail(f"{path} is no regular file; give one")


def read_npz(path: Path, fail: Fail) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none of them pickled. Raises what `fail` makes for a file that is
    none, or whose arrays are larger than the file holds or the machine can.
    """
    require_regular(path, fail)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            require_memory(sum(entry.file_size for entry in entries), fail, f"{path}")
            for entry in entries:
                with archive.open(entry) as opened:
                    _require_whole(opened, entry.file_size)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}
    except LayerError:
        raise
    # Zipfile and NumPy have many for a file that is not what it should be.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise fail(
            f"{path} cannot be read ({reason[:200]}); write it with numpy.savez, of plain arrays",
        ) from None


def _require_whole(opened: IO[bytes], size: int) -> None:
    """Raise ValueError unless the shape in an array's header is that of its bytes."""
    version = np.lib.format.read_magic(opened)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(opened, max_header_size=HEADER)
    count = 1
    for length in shape:
        count *= int(length)
    if dtype.hasobject or not size - HEADER <= count * dtype.itemsize <= size:
        raise ValueError("an array's header does not fit its bytes")


def gunzip(path: Path, most: int) -> bytes:
    """The content of a gzip file, up to `most` bytes. Raises ValueError for more, and what gzip
    raises.
    """
    with gzip.open(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it holds more than the {most:,} bytes that its header tells")
    return content
