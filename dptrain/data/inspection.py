"""What a table holds, for its owner, before anything is trained on it.

The kind of each column is what a sweep with the same keys would make of it, by the population split
alone. Everything else is counted over all rows, private ones too: it is for whoever has the table,
and no epsilon covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Int

from dptrain.config.commands import InspectConfig
from dptrain.core.errors import DataError
from dptrain.data import columns, datasets, tables
from dptrain.data.columns import NAMES_ROWS, NEAR_UNIQUE, Column, Kind, all_numeric
from dptrain.data.splits import Sizes, sizes

FEW_VALUES = 10
"""Different whole numbers up to which a column may well hold codes of categories."""
MANY_VALUES = 100
"""Different values of a name of people, at least."""
ONE_IN = 20
"""A name of people has a value of its own for one in so many rows, at least."""
MOST_LABELS = 20
"""Different numbers up to which a target is taken for classes without a word."""
SKEWED = 0.8
"""Share of the most frequent class from which on accuracy says little."""
HALF = 0.5


@dataclass(frozen=True)
class ColumnFacts:
    """A column: what a sweep makes of it; missing: share of rows without a value; distinct: number
    of different values; notes: what to look at.
    """

    name: str
    kind: Kind | None
    missing: float
    distinct: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """rows: of the file; used: those that are left for the splits; columns: all of them, the target
    with kind None; classes: rows of each class, the most frequent first, empty without a target;
    split: sizes of the parts; notes: about the table as a whole.
    """

    rows: int
    used: int
    columns: tuple[ColumnFacts, ...]
    classes: Mapping[str, int]
    split: Sizes
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Strict JSON."""
        return {**asdict(self), "split": self.split._asdict()}

    def schema(self) -> str:
        """A file for dataset.schema, in YAML: the kinds as they are here, for a user to mend."""
        kinds = {
            column.name: str(column.kind) if column.kind.used else str(Kind.IGNORED)
            for column in self.columns
            if column.kind is not None and column.kind != Kind.ORDERED
        }
        head = (
            "# Kinds as the population split shows them. number, category, ignore, a list of\n"
            "# categories, or {ordered: [least, ..., greatest]}. All of it counts as public.\n"
        )
        body: str = yaml.safe_dump({"columns": kinds}, sort_keys=False, allow_unicode=True)
        return head + body


def inspect(config: InspectConfig) -> Inspection:
    """Look at a table. Raises DataError for what is no table, or cannot be read."""
    data = config.dataset
    if data.name not in datasets.FRAMES:
        known = ", ".join(datasets.FRAMES)
        raise DataError(f"{data.name} is no table; choose from {known}", "name")
    frame = datasets.FRAMES[data.name](data)
    if data.target is None and frame.attrs.get("target") is not None:
        data = datasets.with_target(data, frame.attrs["target"])
    count = len(frame)
    rows, given, notes = tables.read(frame, data, config.seed)
    wanted = sizes(data, len(rows))
    population = np.arange(min(wanted.population, len(rows)))
    labels = rows[data.target] if data.target is not None else None
    facts = [
        _facts(
            rows[name], population, given.get(name), name in (data.target, data.group, data.time)
        )
        for name in rows.columns
    ]
    if labels is not None:
        facts, more = _with_target(facts, rows, labels, population)
        notes += more
    classes = {} if labels is None else _counts(labels)
    return Inspection(count, len(rows), tuple(facts), classes, wanted, tuple(notes))


def _counts(labels: pd.Series) -> dict[str, int]:
    counted = labels.astype(object).map(columns.named).value_counts()
    return {str(label): int(count) for label, count in counted.items()}


def _facts(
    column: pd.Series, population: Int[np.ndarray, " P"], given: Column | None, aside: bool
) -> ColumnFacts:
    """aside: whether it is no input: the target, the group or the time."""
    there = column.dropna()
    distinct, missing = int(there.nunique()), 1 - len(there) / max(1, len(column))
    kind = None if aside else columns.kind_of(column, population, given)
    notes = [] if aside or given is not None else _warnings(there, distinct, kind)
    if missing > HALF:
        notes.append(f"{missing:.0%} of the rows have no value")
    return ColumnFacts(str(column.name), kind, missing, distinct, tuple(notes))


def _warnings(there: pd.Series, distinct: int, kind: Kind | None) -> list[str]:
    """What the values of a column that is an input call for."""
    numbers = all_numeric(there, np.arange(len(there)))
    whole = numbers is not None and bool((numbers == np.round(numbers)).all())
    most = int(there.value_counts().iloc[0]) if distinct else 0
    name = str(there.name)
    if numbers is None and distinct > 1 and _dates(there):
        return [f"dates: dataset.time={name} trains on the past and tests on what follows"]
    if (numbers is None or whole) and distinct >= NEAR_UNIQUE * max(1, len(there)):
        key = "categorical" if numbers is None else "numeric"
        return [
            f"it names rows; dataset.{key}=[{name}] would use it"
            if kind == Kind.ROW_NAME
            else f"nearly every row has a value of its own: if it names rows, dataset.drop=[{name}]"
        ]
    called = numbers is None or bool(NAMES_ROWS.search(name))
    if called and distinct >= max(MANY_VALUES, len(there) / ONE_IN) and most > 1:
        return [
            f"{distinct:,} values, of up to {most:,} rows each: if they are people, "
            f"dataset.group={name} protects them"
        ]
    if kind == Kind.NUMBER and whole and 2 < distinct <= FEW_VALUES:
        return [f"{distinct} whole numbers: dataset.categorical=[{name}] if they are codes"]
    return [str(kind)] if kind == Kind.UNVARYING else []


def _dates(values: pd.Series) -> bool:
    dates = pd.to_datetime(values.astype(str), errors="coerce", format="ISO8601", utc=True)
    return not bool(dates.isna().any())


def _with_target(
    facts: list[ColumnFacts], rows: pd.DataFrame, labels: pd.Series, population: np.ndarray
) -> tuple[list[ColumnFacts], list[str]]:
    """The columns with those marked that predict the target alone, and notes on the target."""
    codes, _ = pd.factorize(labels.astype(object).map(columns.named))
    used = [each.name for each in facts if each.kind is not None and each.kind.used]
    some = rows.iloc[population]
    alone = columns.predicts_alone(some, codes[population].astype(np.int64), used)
    marked = [
        ColumnFacts(
            each.name,
            each.kind,
            each.missing,
            each.distinct,
            (
                *each.notes,
                f"alone predicts the target (balanced accuracy {alone[each.name]:.3f}): is it "
                f"known beforehand? dataset.drop=[{each.name}]",
            ),
        )
        if each.name in alone
        else each
        for each in facts
    ]
    return marked, _target_notes(labels)


def _target_notes(labels: pd.Series) -> list[str]:
    counts = _counts(labels)
    share = max(counts.values()) / sum(counts.values())
    notes = []
    numbers = all_numeric(labels, np.arange(len(labels)))
    if numbers is not None and len(counts) > MOST_LABELS:
        notes.append(
            f"the target has {len(counts):,} different numbers: each would be a class of its own"
        )
    elif share >= SKEWED:
        notes.append(
            f"always to predict {next(iter(counts))!r} is right for {share:.1%} of the rows: "
            "compare settings by utility=balanced_accuracy or utility=auprc"
        )
    return notes
