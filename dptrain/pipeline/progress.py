"""Progress of long work: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

LINE_SECONDS = 60.0
"""Between lines where standard error is no terminal."""


class Progress:
    """How far a work of `total` units is, on standard error; nothing unless `show`."""

    def __init__(self, total: int, unit: str, show: bool):
        self.total, self.unit, self.done = total, unit, 0
        self._text, self._show = "", show
        self._began = self._last = time.monotonic()
        console = Console(stderr=True)
        self._lines = show and not console.is_terminal
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            _Rate(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        shown = show and console.is_terminal
        self._bar = Bar(*columns, console=console, disable=not shown, refresh_per_second=2)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._lines and self.total:
            print(self._line(), file=sys.stderr)

    def update(self, units: int) -> None:
        self.done += units
        self._bar.update(self._task, completed=self.done, description=self._text)
        if self._lines and time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            print(self._line(), file=sys.stderr)

    def describe(self, text: str) -> None:
        """What is done now; shown with the next update."""
        self._text = text

    def say(self, text: str) -> None:
        """A line that the bar does not write over."""
        if self._show:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> str:
        """`setting 2/4 dpsgd-8, model 14/64: 27 %, 264 steps/s, 0:00:33 gone, 0:01:29 left`."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        speed = self.done / seconds
        text = f"{self._text}: {self.done / self.total:.0%}, {_rate(speed, self.unit)}"
        text += f", {timedelta(seconds=round(seconds))} gone"
        if 0 < self.done < self.total:
            text += f", {timedelta(seconds=round((self.total - self.done) / speed))} left"
        return text


class _Rate(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else _rate(task.speed, self._unit))


def _rate(speed: float, unit: str) -> str:
    return f"{speed:,.0f} {unit}s/s" if speed >= 10 else f"{speed:.1f} {unit}s/s"
