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
from dptrain.evaluation.rows import AUC, BLIND, Kind, Row, Threshold
from dptrain.evaluation.subgroups import GroupRow, is_risk_title, utility_title
from dptrain.evaluation.utility import CONSTANT, UTILITIES, metric_of
from dptrain.report.statement import rounded_up

ALL = "all"
EXAMPLES = (ALL, "canaries", "rows")
"""What stands behind `of` for those examples of the pool that attacks are measured on; else it is a
group, `column=value`.
"""
OF_BOTH = (Kind.BALANCED_ACCURACY,)
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
        """Whether it is of predictions, and not of attacks: balanced accuracy is a measure of both,
        and at least as much of it is asked of predictions, at most of attacks.
        """
        utility = UTILITIES.get(self.measure)
        if utility is None:
            return False
        return self.least or not (utility.higher and self.measure in OF_BOTH)

    @property
    def text(self) -> str:
        of = "" if self.of == ALL else f" of {self.of}"
        return f"{self.measure} {'>=' if self.least else '<='} {self.limit:g}{of}"


@dataclass(frozen=True)
class Number:
    """One number of a setting, and what is proved of it, if anything is; without an estimate where
    it was refused.
    """

    estimate: float | None
    low: float
    high: float
    ceiling: float | None = None
    attack: str = ""


def parse(text: str | None) -> list[Demand]:
    """Demands that commas part. Raises TargetError, about `where`."""
    return [_parse(part) for part in _parted(text or "")]


def _parted(text: str) -> list[str]:
    """The texts of demands: a comma in the name of a column or of a value parts none."""
    parts: list[str] = []
    for piece in filter(str.strip, text.split(",")):
        signed = re.search("<=|>=", piece) is not None
        open_name = bool(parts) and not re.search("<=|>=", parts[-1])
        open_value = bool(parts) and " of " in parts[-1] and not signed
        if open_name or open_value:
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


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
    """Those of a setting that a demand is about: of a risk one for each attack, without an estimate
    where an attack was refused. Empty where there is none.
    """
    if demand.of not in EXAMPLES:
        return _of_group(demand, setting, rows, groups)
    if demand.of_utility:
        metric = metric_of(demand.measure)
        of = [row for row in rows if row.metric == metric and demand.of == ALL]
    else:
        of = [row for row in rows if _is_risk(row, demand)]
    return [_number(row) for row in of if row.setting == setting]


def _is_risk(row: Row, demand: Demand) -> bool:
    """Whether a row is of an attack and of what a demand is about. A guess without the model is an
    attack on a column like others where its accuracy is asked for.
    """
    return (
        row.attack not in (None, BLIND)
        and row.metric.name == demand.measure
        and row.examples == demand.of
    )


def _number(row: Row) -> Number:
    """An oracle's threshold is chosen on what it is measured on, so no proof speaks of it; a lower
    bound of epsilon has no upper end, a credible one neither.
    """
    oracle, bound = row.metric.threshold == Threshold.ORACLE, row.metric.kind == Kind.EPSILON
    open_end = row.high is None or bound
    return Number(
        row.estimate,
        -math.inf if row.low is None else row.low,
        math.inf if open_end or row.high is None else row.high,
        None if oracle else row.ceiling,
        row.attack or "",
    )


def _of_group(
    demand: Demand, setting: str, rows: Sequence[Row], groups: Sequence[GroupRow]
) -> list[Number]:
    """A utility of the group, or the AUC of every attack on it, which the setting's ceiling bounds
    as it does any subset.
    """
    proved = [row.ceiling for row in rows if (row.setting, row.metric) == (setting, AUC)]
    ceiling = min((each for each in proved if each is not None), default=None)
    measure = utility_title(demand.measure) if demand.of_utility else None
    numbers = []
    for row in groups:
        if (row.setting, row.group) != (setting, demand.of):
            continue
        if row.measure == measure or (demand.measure == AUC.name and is_risk_title(row.measure)):
            estimate, low, high = row.value or (None, -math.inf, math.inf)
            proof = None if demand.of_utility else ceiling
            numbers.append(Number(estimate, low, high, proof))
    return numbers


def meets(demand: Demand, measured: Sequence[Number]) -> tuple[bool, bool]:
    """Whether numbers meet a demand at the safe end of every interval, and whether their estimates
    do. A proof is as good; nothing that was not measured does, and where an attack was refused the
    others alone are not sure.
    """
    known = [number.estimate for number in measured if number.estimate is not None]
    if demand.least:
        return (
            bool(known) and all(number.low >= demand.limit for number in measured),
            bool(known) and all(estimate >= demand.limit for estimate in known),
        )
    ceilings = [number.ceiling for number in measured if number.ceiling is not None]
    proved = bool(ceilings) and min(ceilings) <= demand.limit
    return (
        proved or (bool(known) and all(number.high <= demand.limit for number in measured)),
        proved or (bool(known) and all(estimate <= demand.limit for estimate in known)),
    )


def shown(demand: Demand, measured: Sequence[Number]) -> str:
    """What a demand is judged by: the number nearest to breaking it."""
    known = [number for number in measured if number.estimate is not None]
    if not known:
        return f"{demand.measure} not measured"
    worst = (
        min(known, key=lambda it: it.low) if demand.least else max(known, key=lambda it: it.high)
    )
    of = "" if demand.of == ALL else f" of {demand.of}"
    ends = f"[{worst.low:.3f}, {worst.high:.3f}]"
    proof = f", proved at most {rounded_up(worst.ceiling, 3)}" if worst.ceiling is not None else ""
    by = f" by {worst.attack}" if worst.attack else ""
    return f"{demand.measure}{of} {worst.estimate:.3f} {ends}{by}{proof}"


def require_measured(
    demands: Sequence[Demand], rows: Sequence[Row], groups: Sequence[GroupRow]
) -> None:
    """Raise TargetError for a demand that no number of a sweep speaks of, or that looks the wrong
    way.
    """
    settings = {row.setting for row in rows if row.setting != CONSTANT}
    for demand in demands:
        measured = [numbers(demand, setting, rows, groups) for setting in settings]
        if any(number.estimate is not None for of in measured for number in of):
            more = demand.of_utility and UTILITIES[demand.measure].higher
            if demand.least != more:
                better = f"of {demand.measure} {'more' if more else 'less'} is better"
                raise TargetError(f"{demand.text}: {better}; turn the sign around", "where")
        else:
            raise TargetError(f"{demand.text}: {_reason(demand, rows, groups)}", "where")


def _reason(demand: Demand, rows: Sequence[Row], groups: Sequence[GroupRow]) -> str:
    """Why nothing speaks of a demand, and what would."""
    if demand.of not in EXAMPLES:
        refused = [row.note for row in groups if row.group == demand.of and row.note]
        known = sorted({row.group for row in groups})
        column = demand.of.partition("=")[0]
        if refused:
            return refused[0]
        if demand.of in known:
            return "of a group there are utilities and auc only"
        if any(group.startswith(f"{column}=") for group in known):
            return f"there is no such group{suggestion(demand.of, known)}"
        return f"not measured; run the sweep with groups=[{column}], which trains nothing"
    named = [row for row in rows if row.metric.name == demand.measure]
    if demand.measure in UTILITIES:
        named += [row for row in rows if row.metric == metric_of(demand.measure)]
    if not named:
        known = [*UTILITIES, *dict.fromkeys(row.metric.name for row in rows if row.attack)]
        return f"not measured in this sweep{suggestion(demand.measure, known)}"
    there = [row.note for row in named if row.examples == demand.of and row.note]
    if there and not demand.of_utility:
        return there[0]
    examples = ", ".join(dict.fromkeys(row.examples for row in named))
    return f"measured of {examples} only"
