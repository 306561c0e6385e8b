"""Progress of long work: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 60.0
"""Between lines where standard error is no terminal."""


class Progress:
    """A bar of `total` units on standard error."""

    def __init__(self, total: int, unit: str, show: bool):
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            unit=unit,
            disable=not show,
            unit_scale=total > 10_000,
            dynamic_ncols=terminal,
            leave=None if terminal else True,
            mininterval=0.5 if terminal else LINE_SECONDS,
            # Every report is a line of its own where nothing can be written over.
            file=sys.stderr if terminal else _Lines(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    @property
    def done(self) -> float:
        return float(self.bar.n)

    def update(self, units: int) -> None:
        self.bar.update(units)

    def describe(self, text: str) -> None:
        self.bar.set_description(text, refresh=False)

    def say(self, text: str) -> None:
        """A line that the bar does not write over."""
        tqdm.write(text, file=sys.stderr)


class _Lines:
    """Standard error for a bar whose every state is a line."""

    def write(self, text: str) -> None:
        line = text.replace("\r", "").strip()
        if line:
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
