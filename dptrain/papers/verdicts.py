"""The paper's number beside ours, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dptrain.papers.presets import Expected, Source
from dptrain.report.tables import Table


@dataclass(frozen=True)
class Measured:
    """A number of ours, with what it was measured on: low and high are the ends of its interval, or
    the least and greatest of several seeds; equal to value where nothing is random.
    """

    value: float
    low: float
    high: float
    of: str = "computed"

    @staticmethod
    def exactly(value: float) -> Measured:
        return Measured(value, value, value)


class Verdict(StrEnum):
    """yes, no, or that the preset names no condition."""

    AGREES = "yes"
    DIFFERS = "no"
    SHOWN = "-"


@dataclass(frozen=True)
class Line:
    """A quantity of a paper."""

    quantity: str
    expected: Expected
    measured: Measured

    def agrees(self, others: Mapping[str, Measured]) -> Verdict:
        """others: of all quantities, for those that ours has to lie above."""
        wanted, value = self.expected, self.measured.value
        checks = []
        if wanted.least is not None:
            checks.append(value >= wanted.least)
        if wanted.most is not None:
            checks.append(value <= wanted.most)
        if wanted.within is not None and wanted.paper is not None:
            checks.append(abs(value - wanted.paper) <= wanted.within * (1 + 1e-9))
        if wanted.digits is not None and wanted.paper is not None:
            shown = f"{value:.{wanted.digits}g}", f"{wanted.paper:.{wanted.digits}g}"
            checks.append(float(shown[0]) == float(shown[1]))
        checks += [self.measured.low > others[name].high for name in wanted.above]
        if not checks:
            return Verdict.SHOWN
        return Verdict.AGREES if all(checks) else Verdict.DIFFERS


def judged(
    expected: Mapping[str, Expected], measured: Mapping[str, Measured]
) -> list[tuple[Line, Verdict]]:
    """A line for each quantity of a preset, in its order."""
    lines = [Line(quantity, expected[quantity], measured[quantity]) for quantity in expected]
    return [(line, line.agrees(measured)) for line in lines]


def reproduced(lines: Sequence[tuple[Line, Verdict]]) -> bool:
    """Whether every condition holds, and there is one."""
    verdicts = {verdict for _, verdict in lines}
    return Verdict.DIFFERS not in verdicts and Verdict.AGREES in verdicts


def table(lines: Sequence[tuple[Line, Verdict]]) -> Table:
    """Paper, ours, condition and verdict."""
    head = ["quantity", "paper", "known from", "ours", "of", "accepted", "agrees"]
    body = [
        [
            line.quantity,
            _printed(line.expected),
            line.expected.source if line.expected.paper is not None else "-",
            _shown(line.measured),
            line.measured.of,
            _condition(line.expected),
            verdict,
        ]
        for line, verdict in lines
    ]
    return head, body


def _printed(expected: Expected) -> str:
    if expected.paper is None:
        return "-"
    return "not verified" if expected.source == Source.MEMORY else f"{expected.paper:.4g}"


def _shown(measured: Measured) -> str:
    value = f"{measured.value:.4g}"
    if measured.low == measured.high:
        return value
    return f"{value} [{measured.low:.4g}, {measured.high:.4g}]"


def _condition(expected: Expected) -> str:
    parts = []
    if expected.least is not None or expected.most is not None:
        low = "" if expected.least is None else f"{expected.least:g} <= "
        high = "" if expected.most is None else f" <= {expected.most:g}"
        parts.append(f"{low}ours{high}")
    if expected.within is not None:
        parts.append(f"within {expected.within:g}")
    if expected.digits is not None:
        parts.append(f"{expected.digits} digits")
    parts += [f"above {name}" for name in expected.above]
    return "; ".join(filter(None, [", ".join(parts), expected.note])) or "-"
