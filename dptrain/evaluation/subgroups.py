"""Subgroups: utility and membership risk of the rows that share a value of a column, how far they
lie from those of all other rows, and what a setting costs each group against the baseline.

Privacy costs small groups more (Bagdasaryan et al. 2019). Many groups are looked at, so an interval
is one of CONFIDENCE for all groups and measures of a setting at once (Bonferroni), and a group of
fewer than FEW rows is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from dptrain.core.types import Interval
from dptrain.evaluation import intervals, metrics
from dptrain.evaluation.metrics import PerTarget
from dptrain.evaluation.rankings import Rankings
from dptrain.evaluation.utility import FEW, UTILITIES, Answers, Estimates

MOST_GROUPS = 50
"""Of one column: one with more values is no grouping of people."""
Limits = tuple[float, float, float]
"""Estimate, low and high."""


@dataclass(frozen=True)
class GroupRow:
    """A measure of one group. group: `column=value`; measure: a utility on the test set, or an
    attack's AUC; rows: of the group, among those that it is measured on; value; gap: less that of
    all other rows; change: less the same group's in the baseline, and excess: that less the change
    of all other rows. None where it has none, or was refused, as `note` says.
    """

    setting: str
    group: str
    measure: str
    rows: int
    value: Limits | None = None
    gap: Limits | None = None
    change: Limits | None = None
    excess: Limits | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> GroupRow:
        """The inverse of to_json, as JSON gives it back."""
        plain: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in record.items()
        }
        return GroupRow(**plain)


RISK_TITLE = " AUC"


def utility_title(name: str) -> str:
    """The measure of a row of a utility."""
    return f"test {UTILITIES[name].title}"


def is_risk_title(measure: str) -> bool:
    """Whether the measure of a row is an attack's AUC."""
    return measure.endswith(RISK_TITLE)


Masks = Mapping[str, np.ndarray]
"""Group -> whether each row is of it, bool [N]."""
Resampled = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
"""(group, utility) -> its value on the group and on all other rows, of each model, on all of the
test set and without each block of it, [1 + blocks, M] each.
"""


def masks_of(columns: Mapping[str, Shaped[np.ndarray, " N"]]) -> dict[str, np.ndarray]:
    """The groups of some columns of texts, by the values that they have. Raises ValueError for a
    column that has more than MOST_GROUPS.
    """
    groups: dict[str, np.ndarray] = {}
    for column, values in columns.items():
        different = np.unique(values)
        if len(different) > MOST_GROUPS:
            raise ValueError(f"{column} has {len(different):,} values, more than {MOST_GROUPS}")
        groups |= {f"{column}={value}": values == value for value in different.tolist()}
    return groups


class UtilityByGroup:
    """Utilities of models on groups of one test set, added model by model."""

    def __init__(
        self, masks: Masks, names: Sequence[str], users: Int[np.ndarray, " T"] | None = None
    ):
        self._masks, self._names = masks, tuple(dict.fromkeys(names))
        self._users = users
        self._values: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, said: Answers) -> None:
        """What one model says of the test set."""
        if not self._masks:
            return
        examples = len(said.targets if isinstance(said, Estimates) else said.labels)
        weights = np.concatenate(
            [np.ones((1, examples)), intervals.leave_out(examples, self._users)]
        )
        for name in self._names:
            measure = UTILITIES[name].of(said)
            for group, mask in self._masks.items():
                pair = measure(weights * mask), measure(weights * ~mask)
                self._values.setdefault((group, name), []).append(pair)

    def resampled(self) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
        result = {}
        for key, pairs in self._values.items():
            inside, outside = (np.stack(each, axis=1) for each in zip(*pairs, strict=True))
            result[key] = inside, outside
        return result


def utility_rows(
    setting: str,
    values: Resampled,
    baseline: Resampled | None,
    masks: Masks,
    labels: Shaped[np.ndarray, " T"],
    many: int,
) -> list[GroupRow]:
    """A row for each group and utility of a setting. baseline: the values of the models, trained on
    the same members, that it is compared with; None for the baseline itself. masks and labels: of
    the test set. many: how many intervals are to hold at once.
    """
    rows = []
    for (group, name), (inside, outside) in values.items():
        title, count = utility_title(name), int(masks[group].sum())
        if count < FEW:
            rows.append(GroupRow(setting, group, title, count, note=_few(count)))
            continue
        low, high = UTILITIES[name].bounds
        wide = (low - high, high - low)
        change = excess = None
        if baseline is not None:
            base_inside, base_outside = baseline[group, name]
            moved, others = inside - base_inside, outside - base_outside
            change, excess = _limits(moved, wide, many), _limits(moved - others, wide, many)
        rows.append(
            GroupRow(
                setting,
                group,
                title,
                count,
                _widened(name, inside, labels[masks[group]], many),
                _limits(inside - outside, wide, many),
                change,
                excess,
            )
        )
    return rows


def risk_rows(
    setting: str,
    attack: str,
    matrix: Float[np.ndarray, "T N"],
    member: Bool[np.ndarray, "T N"],
    masks: Masks,
    many: int,
) -> list[GroupRow]:
    """A row for each group of an attack's AUC. matrix: its scores of N rows for T targets; member:
    who is one; many: how many intervals are to hold at once.
    """
    rows, ranked = [], Rankings(matrix, member)
    whole = metrics.aucs(ranked)
    for group, mask in masks.items():
        count, title = int(mask.sum()), f"{attack}{RISK_TITLE}"
        if count < FEW:
            rows.append(GroupRow(setting, group, title, count, note=_few(count)))
            continue
        of_group = member[:, mask]
        inside = metrics.aucs(Rankings(matrix[:, mask], of_group))

        def gap(weights: np.ndarray, mask: np.ndarray = mask) -> np.ndarray:
            apart: np.ndarray = whole.of(weights * mask) - whole.of(weights * ~mask)
            return apart

        value = intervals.fleet_interval(inside, of_group, (0.0, 1.0))
        apart = intervals.fleet_interval(PerTarget(gap), member, (-1.0, 1.0))
        confidence = intervals.at_once(many)
        rows.append(
            GroupRow(
                setting, group, title, count, _ends(value(confidence)), _ends(apart(confidence))
            )
        )
    return rows


def refused_rows(setting: str, attack: str, masks: Masks, reason: str) -> list[GroupRow]:
    """Those of an attack that could not run."""
    return [
        GroupRow(
            setting, group, f"{attack}{RISK_TITLE}", int(mask.sum()), note=f"refused: {reason}"
        )
        for group, mask in masks.items()
    ]


def _few(count: int) -> str:
    return f"refused: {count} rows, fewer than {FEW}"


def _widened(
    name: str, values: Float[np.ndarray, "G M"], labels: Shaped[np.ndarray, " n"], many: int
) -> Limits | None:
    """The interval of a utility of a group with such labels. That of a rate holds the interval of
    Clopper and Pearson, and so does that of what weighs classes alike, over the rarest.
    """
    if not np.isfinite(values[0]).all():
        return None
    utility, confidence = UTILITIES[name], intervals.at_once(many)
    interval = intervals.of_resamples(values, utility.bounds)(confidence)
    if utility.rate or utility.by_class:
        counts = np.bincount(labels)
        trials = len(labels) if utility.rate else int(counts[counts > 0].min())
        interval = intervals.widen(interval, trials, confidence, utility.bounds)
    return _ends(interval)


def _limits(
    values: Float[np.ndarray, "G M"], bounds: tuple[float, float], many: int
) -> Limits | None:
    if not np.isfinite(values[0]).all():
        return None
    return _ends(intervals.of_resamples(values, bounds)(intervals.at_once(many)))


def _ends(interval: Interval) -> Limits:
    return interval.estimate, interval.low, interval.high
