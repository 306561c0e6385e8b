"""What a table holds, for its owner, before anything is trained on it.

The kind of each column, the splits and what alone predicts the target are what a sweep with the
same keys and seed would have, by the population split. Everything else is counted over all rows,
private ones too: it is for whoever has the table, and no epsilon covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dptrain.config.commands import InspectConfig
from dptrain.core.errors import DataError
from dptrain.core.types import Task
from dptrain.data import columns, datasets, table_files, tables
from dptrain.data.columns import (
    NAMES_ROWS,
    NEAR_UNIQUE,
    Kind,
    all_numeric,
    chosen,
    dates_of,
    is_whole,
    numbers_of,
    override,
)
from dptrain.data.splits import Sizes
from dptrain.data.tables import LEFT_OUT, Table

FEW_VALUES = 10
"""Different whole numbers up to which a column may well hold codes of categories."""
MANY_VALUES = 100
"""Different values of a name of people, at least."""
ONE_IN = 20
"""A name of people has a value of its own for one in so many rows, at least."""
OTHERS = "(no class of the population)"
MOST_LABELS = 20
"""Different numbers up to which a target is taken for classes without a word."""
SKEWED = 0.8
"""Share of the most frequent class from which on accuracy says little."""
MOSTLY = 0.5
"""Share of rows without a value that is pointed out."""


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
    split: rows of the parts; suggested: their sizes as keys of a sweep, which count users where
    there are such; users: whether they do; notes: about the table as a whole.
    """

    rows: int
    used: int
    columns: tuple[ColumnFacts, ...]
    classes: Mapping[str, int]
    split: Sizes
    suggested: Sizes
    notes: tuple[str, ...]
    users: bool = False

    def record(self) -> dict[str, Any]:
        """Strict JSON."""
        sizes = {"split": self.split._asdict(), "suggested": self.suggested._asdict()}
        return {**asdict(self), **sizes}


def inspect(config: InspectConfig) -> Inspection:
    """Look at a table. Raises DataError for what is no table, cannot be read, or cannot be split as
    the keys say.
    """
    data = config.dataset
    if data.name not in datasets.FRAMES:
        known = ", ".join(datasets.FRAMES)
        raise DataError(f"{data.name} is no table; choose from {known}", "name")
    frame = datasets.FRAMES[data.name](data)
    data = table_files.aimed(data, frame)
    table = tables.taken(frame, data, config.seed, aimless=True)
    alone = table.alone if data.target is not None else {}
    facts = tuple(
        _facts(table.rows[name], table.kinds.get(name), name in table.given, alone.get(name))
        for name in table.rows.columns
    )
    classes = {} if data.target is None or data.task == Task.REGRESSION else _counts(table)
    notes = list(table.notes)
    if classes and data.target is not None:
        notes += _target_notes(table.rows[data.target], classes)
    pool, population, test = map(len, table.split)
    return Inspection(
        len(frame),
        len(table.rows),
        facts,
        classes,
        Sizes(pool, population, test),
        _suggested(table),
        tuple(notes),
        table.users is not None,
    )


def _suggested(table: Table) -> Sizes:
    """What a sweep takes where its sizes are left open: the pool is even."""
    parts = table.split if table.users is None else [table.users[part] for part in table.split]
    pool, population, test = (len(np.unique(part)) for part in parts)
    return Sizes(pool // 2 * 2, population, test)


def schema(config: InspectConfig, inspected: Inspection) -> str:
    """A file for dataset.schema, in YAML: the kinds as they are here, for a user to mend."""
    data, kinds = config.dataset, dict[str, Any]()
    for column in inspected.columns:
        if column.kind is None:
            continue
        kinds[column.name] = str(column.kind if column.kind.used else Kind.IGNORED)
        if column.kind == Kind.ORDERED and column.name in data.ordinal:
            kinds[column.name] = {"ordered": list(data.ordinal[column.name])}
    sizes = ", ".join(f"{name} {size:,}" for name, size in inspected.split._asdict().items())
    head = (
        "# number, category, ignore, a list of categories, or {ordered: [least, ..., greatest]}.\n"
        f"# By the population split of {inspected.rows:,} rows at seed {config.seed} ({sizes}).\n"
        "# All of it counts as public: those population rows must be in no later pool, so use the\n"
        "# same table, seed and sizes, or say what you know of the columns without looking.\n"
    )
    body: str = yaml.safe_dump({"columns": kinds}, sort_keys=False, allow_unicode=True)
    return head + body


def _counts(table: Table) -> dict[str, int]:
    """Rows of each class, the most frequent first; and of none that the population has."""
    places = np.bincount(table.labels[table.labels >= 0], minlength=len(table.classes))
    counted = {columns.named(name): int(n) for name, n in zip(table.classes, places, strict=True)}
    if others := int((table.labels < 0).sum()):
        counted[OTHERS] = others
    return dict(sorted(counted.items(), key=lambda item: -item[1]))


def _facts(column: pd.Series, kind: Kind | None, given: bool, alone: float | None) -> ColumnFacts:
    """kind: None of what is no input; given: whether the user says it; alone: the balanced accuracy
    with which the column alone predicts the target, where it does.
    """
    there = column.dropna()
    try:
        distinct = int(there.nunique())
    except TypeError:
        raise DataError(
            f"{str(column.name)!r} holds lists or records; give numbers and text only", "path"
        ) from None
    missing = 1 - len(there) / max(1, len(column))
    notes = [] if kind is None or given else _warnings(there, distinct, kind)
    if missing > MOSTLY:
        notes.append(f"{missing:.0%} of the rows have no value")
    if alone is not None:
        notes.append(
            f"alone predicts the target (balanced accuracy {alone:.3f} on the population): is it "
            f"known beforehand? {override('drop', str(column.name))}"
        )
    return ColumnFacts(str(column.name), kind, missing, distinct, tuple(notes))


def _warnings(there: pd.Series, distinct: int, kind: Kind) -> list[str]:
    """What the values of a column that may be an input call for."""
    numbers = numbers_of(there)
    known = np.array([]) if numbers is None else numbers[~np.isnan(numbers)]
    texts, name = 2 * len(known) < len(there), str(there.name)
    whole = not texts and is_whole(known)
    most = int(there.value_counts().iloc[0]) if distinct else 0
    notes = []
    if texts and distinct > 1 and not dates_of(there).isna().any():
        notes.append(f"dates: {chosen('time', name)} trains on the past and tests on what follows")
    elif (texts or whole) and distinct >= NEAR_UNIQUE * max(1, len(there)) > 1:
        notes.append(f"nearly every row has a value of its own: {override('drop', name)}")
    elif texts or NAMES_ROWS.search(name):
        if distinct >= max(MANY_VALUES, len(there) / ONE_IN) and most > 1:
            notes.append(
                f"{distinct:,} values, of up to {most:,} rows each: if they are people, "
                f"{chosen('unit', name)} protects each with all rows"
            )
    elif kind == Kind.NUMBER and whole and 2 < distinct <= FEW_VALUES:
        notes.append(f"{distinct} whole numbers: {override('categorical', name)} if they are codes")
    if not texts and len(known) < len(there):
        others = f"{len(there) - len(known):,} values are no numbers"
        notes.append(f"{others}: {override('numeric', name)} takes them as missing")
    if not kind.used:
        key = "categorical" if texts else "numeric"
        notes.append(f"left out ({LEFT_OUT[kind]}); {override(key, name)} would use it")
    return notes


def _target_notes(labels: pd.Series, classes: Mapping[str, int]) -> list[str]:
    """labels: of all rows."""
    numbers = all_numeric(labels, np.arange(len(labels)))
    if numbers is not None and len(classes) > MOST_LABELS:
        return [
            f"the target has {len(classes):,} different numbers: task=regression and "
            "dataset.bounds=[LEAST,GREATEST] predict a quantity; else each is a class of its own"
        ]
    first, share = next(iter(classes)), max(classes.values()) / sum(classes.values())
    if share < SKEWED:
        return []
    return [
        f"always to predict {first!r} is right for {share:.1%} of the rows: compare settings by "
        "utility=balanced_accuracy or utility=auprc"
    ]
