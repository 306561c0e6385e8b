"""Demands on any number of a sweep, in words: `accuracy >= 0.8 of sex=Female`, `tpr_at_fpr_0.001
<= 0.01 of canaries`, `attribute_gain_income <= 0.02`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dptrain.config.build import suggestion
from dptrain.core.errors import TargetError
from dptrain.evaluation.rows import BLIND, Row
from dptrain.evaluation.subgroups import GroupRow
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of

ALL = "all"
EXAMPLES = (ALL, "canaries", "rows")
"""What stands behind `of` for those examples of the pool that attacks are measured on; else it is a
group, `column=value`.
"""
DEMAND = re.compile(
    r"\s*(?P<measure>.+?)\s*(?P<sign><=|>=)\s*(?P<limit>[^\s]+)(\s+of\s+(?P<of>.+))?"
)


@dataclass(frozen=True)
class Demand:
    """That a number lies on one side of a limit. least: whether it is at least the limit; of: the
    examples or the group that it is of.
    """

    measure: str
    least: bool
    limit: float
    of: str = ALL

    @property
    def of_utility(self) -> bool:
        return self.measure in UTILITIES

    @property
    def text(self) -> str:
        of = "" if self.of == ALL else f" of {self.of}"
        return f"{self.measure} {'>=' if self.least else '<='} {self.limit:g}{of}"


@dataclass(frozen=True)
class Number:
    """One measured number of a setting, and what is proved of it, if anything is."""

    estimate: float
    low: float
    high: float
    ceiling: float | None = None


def parse(text: str | None) -> list[Demand]:
    """Demands that commas part. Raises TargetError, about `where`."""
    return [_parse(part) for part in (text or "").split(",") if part.strip()]


def _parse(text: str) -> Demand:
    match = DEMAND.fullmatch(text)
    fix = "write such as: accuracy >= 0.8 of sex=Female, auc <= 0.6 of canaries"
    if match is None:
        raise TargetError(f"cannot read {text.strip()!r}; {fix}", "where")
    try:
        limit = float(match["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise TargetError(f"{match['limit']!r} is no number; {fix}", "where")
    of = (match["of"] or ALL).strip()
    return Demand(match["measure"], match["sign"] == ">=", limit, of)


def numbers(
    demand: Demand, setting: str, rows: Sequence[Row], groups: Sequence[GroupRow]
) -> list[Number]:
    """Those of a setting that a demand is about: of a risk one for each attack. Empty where it was
    not measured.
    """
    if demand.of not in EXAMPLES:
        return _of_group(demand, setting, groups)
    if demand.of_utility:
        found = [row for row in rows if row.metric == metric_of(demand.measure)]
        found = found if demand.of == ALL else []
    else:
        found = [
            row
            for row in rows
            if row.attack not in (None, BLIND, "imputation")
            and row.metric.name == demand.measure
            and row.examples == demand.of
        ]
    return [
        Number(
            row.estimate,
            -math.inf if row.low is None else row.low,
            math.inf if row.high is None else row.high,
            row.ceiling,
        )
        for row in found
        if row.setting == setting and row.estimate is not None
    ]


def _of_group(demand: Demand, setting: str, groups: Sequence[GroupRow]) -> list[Number]:
    """A utility of the group, or the AUC of every attack on it."""
    title = f"test {UTILITIES[demand.measure].title}" if demand.of_utility else None
    return [
        Number(*row.value)
        for row in groups
        if (row.setting, row.group) == (setting, demand.of)
        and row.value is not None
        and (row.measure == title if title else row.measure.lower().endswith(f" {demand.measure}"))
    ]


def meets(demand: Demand, measured: Sequence[Number]) -> tuple[bool, bool]:
    """Whether numbers meet a demand at the safe end of every interval, and whether their estimates
    do. A proof is as good; nothing that was not measured does.
    """
    if not measured:
        return False, False
    if demand.least:
        return (
            all(number.low >= demand.limit for number in measured),
            all(number.estimate >= demand.limit for number in measured),
        )
    ceilings = [number.ceiling for number in measured if number.ceiling is not None]
    proved = bool(ceilings) and min(ceilings) <= demand.limit
    return (
        proved or all(number.high <= demand.limit for number in measured),
        proved or all(number.estimate <= demand.limit for number in measured),
    )


def require_measured(
    demands: Sequence[Demand], rows: Sequence[Row], groups: Sequence[GroupRow]
) -> None:
    """Raise TargetError for a demand that no number of a sweep speaks of, or that looks the wrong
    way.
    """
    settings = {row.setting for row in rows if row.setting != CONSTANT}
    for demand in demands:
        if any(numbers(demand, setting, rows, groups) for setting in settings):
            more = demand.of_utility and UTILITIES[demand.measure].higher
            if demand.least != more:
                better = f"of {demand.measure} {'more' if more else 'less'} is better"
                raise TargetError(f"{demand.text}: {better}; turn the sign around", "where")
            continue
        if demand.of not in EXAMPLES:
            known = sorted({row.group for row in groups})
            refused = [row.note for row in groups if row.group == demand.of and row.note]
            near = suggestion(demand.of, known)
            fix = f"run the sweep with groups=[{demand.of.partition('=')[0]}], which trains nothing"
            reason = refused[0] if refused else f"not measured{near}; {fix}"
            raise TargetError(f"{demand.text}: {reason}", "where")
        known = [*UTILITIES, *dict.fromkeys(row.metric.name for row in rows if row.attack)]
        raise TargetError(
            f"{demand.text}: not measured in this sweep{suggestion(demand.measure, known)}", "where"
        )
