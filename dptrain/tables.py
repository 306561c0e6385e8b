"""Tables of numbers and categories: CSV, Parquet and OpenML.

What is fitted (kinds of columns, means, deviations, categories, classes) is fitted on the population split alone, which no model trains on, so
it costs no privacy; dataset.schema may say it instead. Numbers are standardised and cut at DEVIATIONS; where some population rows have none,
gaps become the mean, and a column tells so. What is not all numbers there is a category: one column for each that occurs RARE times or more,
at most CATEGORIES of them, and the rest share one if there is a rest. In the pool a cell that is no number becomes the mean.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dptrain.data import Examples, Source, order_of, require_enough
from dptrain.limits import MOST_CLASSES, require_memory, require_regular
from dptrain.schema import DatasetConfig
from dptrain.types import ConfigError, first_line, printable

DEVIATIONS = 5.0
RARE = 5
CATEGORIES = 100
MOST_COLUMNS, SCHEMA_BYTES = 10_000, 10_000_000
FITTED = "the population split only"
MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"]
NOTHING = ["na", "n/a", "None", "none", "-"]
"""Texts for a value that is not there. Those of NOTHING are only in a column to learn from: as a label they may well be a class."""


def table_source(frame: pd.DataFrame, config: DatasetConfig, seed: int, made_of: str) -> Source:
    """From a table to examples. Raises ConfigError, one line, for a table that cannot be trained on.

    Columns, kinds, categories and classes come from the population split or from dataset.schema, never from the pool. What a pool row
    decides is only whether it is there at all, which the statement says.
    """
    frame, target = _columns(frame, config)
    kept, notes = _rows(frame, target, config, seed)
    names = [name for name in kept.columns if name not in (target, config.group)]
    if not names:
        raise ConfigError("dataset.path", "no column is left beside the target; give a table with some")
    schema, made_of = _schema(config, [*names, target], made_of)
    population = np.arange(min(config.population, len(kept)))  # the rows come in the order in which they are dealt out
    labels, classes = _labels(kept[target], population, schema.get("classes"))
    usable = labels >= 0
    if lost := int((~usable).sum()):
        notes.append(f"{lost:,} rows left out, whose label is no class of the population")
    if usable.sum() < config.pool + config.population + config.test <= len(kept):
        where, mend = ("the population", "name the classes in dataset.schema, or give a larger population")
        if "classes" in schema:
            where, mend = ("dataset.schema", f"write them as the table does, such as {printable(str(kept[target].iloc[0]))!r}")
        raise ConfigError("dataset.target", f"{lost:,} of {len(kept):,} rows have a label that {where} does not have; {mend}")
    others = np.flatnonzero(usable[len(population) :]) + len(population)
    require_enough(config, len(population) + len(others))
    pool, test = others[config.test : config.test + config.pool], others[: config.test]
    blocks, kinds = [], []
    for name in names:
        block, kind = _encoded(kept[name], population, schema.get("columns", {}).get(name))
        blocks.append(block)
        kinds.append((name, kind))
    width = sum(block.shape[1] for block in blocks)
    if not width:
        raise ConfigError("dataset.path", "no column tells one population example from another; give more population, or other columns")
    require_memory(4 * width * len(kept), "dataset.path", f"the table, encoded as {width:,} columns,")
    inputs = np.concatenate(blocks, axis=1)
    counts = {kind: sum(found == kind for _, found in kinds) for kind in ("numbers", "categories", "left out")}
    dropped = ", ".join(name for name, kind in kinds if kind == "left out")
    source = f"dataset.schema and {FITTED}" if schema else FITTED
    text = (
        f"{counts['numbers']} columns of numbers standardised and {counts['categories']} of categories one-hot, by {source}"
        + (f"; left out because constant or too rare there: {dropped}" if dropped else "")
        + f"; numbers that are none become the mean, unknown categories share a column or have none, {len(classes)} classes"
        + "; what depends on private rows: a row is left out that has no label, or none of these classes, or that copies another"
        + (f", or that is not the first of its {config.group}" if config.group else "")
    )
    unit = f"one {config.group} (a group, of which one row is kept)" if config.group else None
    back = np.argsort(kept.index)  # as they stand in the file
    examples = Examples(inputs[back], np.maximum(labels, 0)[back], kept.index.to_numpy()[back])
    place = np.argsort(back)
    split = place[pool], place[population], place[test]
    return Source(text, inputs.shape[1:], len(classes), len(labels), lambda: examples, made_of, unit, tuple(notes), split)


def _schema(config: DatasetConfig, names: Sequence[str], made_of: str) -> tuple[dict[str, Any], str]:
    """What the file dataset.schema says: `classes`, a list, and `columns`, each a list of its categories, `number` or `ignore`; and a digest of the
    table and of that file. Every value is text as it stands there: `no` is a class and not a falsehood."""
    if config.schema is None:
        return {}, made_of
    path = Path(config.schema)
    require_regular(path, "dataset.schema")
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size < SCHEMA_BYTES else ""
        schema = yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError("dataset.schema", f"{path} cannot be read ({first_line(error)}); write it as YAML") from None
    if not isinstance(schema, dict) or not schema or not schema.keys() <= {"classes", "columns"}:
        raise ConfigError("dataset.schema", f"{path} must hold `classes: [...]` or `columns: {{name: number}}`, or both")
    columns = schema.get("columns", {})
    if not isinstance(columns, dict) or not isinstance(schema.get("classes", []), list):
        raise ConfigError("dataset.schema", f"in {path} `classes` must be a list, and `columns` names with their kinds")
    for name, kind in columns.items():
        if name not in names:
            raise ConfigError("dataset.schema", f"there is no column {printable(str(name))!r}; remove it from {path}")
        if kind not in ("number", "ignore") and not (isinstance(kind, list) and kind):
            raise ConfigError("dataset.schema", f"the kind of {name!r} must be number, ignore or a list of its categories")
    return schema, hashlib.sha256(f"{made_of} {text}".encode()).hexdigest()


def require_columns(names: Sequence[str], count: int) -> None:
    """Raise ConfigError for names that stand twice or that a terminal would act on, and for too many of them."""
    if count > MOST_COLUMNS:
        raise ConfigError("dataset.path", f"the table has {count:,} columns, and there may be {MOST_COLUMNS:,}; leave some out")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ConfigError("dataset.path", f"the column {printable(min(twice))!r} stands more than once; rename one")
    if odd := [name for name in names if printable(name) != name or len(name) > 200]:
        raise ConfigError("dataset.path", f"the column name {printable(odd[0])[:60]!r} is no plain text of at most 200 letters; rename it")


def _columns(frame: pd.DataFrame, config: DatasetConfig) -> tuple[pd.DataFrame, str]:
    """Column names as text; the target and the group are among them."""
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1)
    names = list(frame.columns)
    require_columns(names, len(names))
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if config.target is None:
        raise ConfigError("dataset.target", f"give the column to predict, one of {shown}")
    for key in ("target", "group"):
        name = getattr(config, key)
        if name is not None and name not in names:
            raise ConfigError(f"dataset.{key}", f"there is no column {name!r}; choose from {shown}")
    if config.target == config.group:
        raise ConfigError("dataset.group", "is the target; give another column")
    if not len(frame):
        raise ConfigError("dataset.path", "the table has no rows; give one that has")
    return frame, config.target


def _rows(frame: pd.DataFrame, target: str, config: DatasetConfig, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Rows with a label, each once, and one of each group, shuffled: copies in and out of a training set would spoil every attack.

    The order is one of all rows of the file, and a row is left out for what an earlier one holds. So the first of them, which are the
    population, are the same whatever the later ones hold.
    """
    notes = []
    frame = frame.iloc[order_of(config, seed, len(frame))]

    def missing(name: object) -> list[str]:
        return [] if name == config.group else MISSING if name == target else MISSING + NOTHING

    try:
        frame = frame.apply(lambda column: _trimmed(column, missing(column.name)))
        labelled = frame[frame[target].notna()]
        if lost := len(frame) - len(labelled):
            notes.append(f"{lost:,} rows without a label left out")
        once = labelled[~labelled.duplicated()]
    except TypeError:
        raise ConfigError("dataset.path", "some column holds lists or records; give numbers and text only") from None
    if lost := len(labelled) - len(once):
        notes.append(f"{lost:,} rows that copy another left out")
    if not len(once):
        raise ConfigError("dataset.target", f"no row has a value in {target!r}; choose another column")
    if config.group is not None:
        ids = once[config.group]
        if nobody := int((ids.isna() | (ids.astype(str) == "")).sum()):
            message = f"{nobody:,} rows have no {config.group}; give each the one that it belongs to, or leave those rows out"
            raise ConfigError("dataset.group", message)
        grouped = once[~once.duplicated(config.group)]
        if lost := len(once) - len(grouped):
            notes.append(f"{lost:,} rows left out, so that each {config.group} has one")
        wanted = config.pool + config.population + config.test
        if len(grouped) < wanted <= len(once):
            few = f"{config.group} has {len(grouped):,} different values, of each of which one row is used: fewer than the {wanted:,} asked for"
            raise ConfigError("dataset.group", f"{few}; give the column that names a person, or smaller splits")
        once = grouped
    return once, notes


def _trimmed(column: pd.Series, missing: list[str]) -> pd.Series:
    """Texts without spaces around them, and NaN for those that stand for nothing."""
    if pd.api.types.is_numeric_dtype(column) or not (pd.api.types.is_string_dtype(column) or pd.api.types.is_object_dtype(column)):
        return column
    if pd.api.types.is_object_dtype(column):
        column = column.map(lambda value: value.strip() if isinstance(value, str) else value)
    else:
        column = column.str.strip()
    return column.mask(column.isin(missing))


def _numbers(column: pd.Series) -> np.ndarray | None:
    """As float64, with NaN for what is no finite number; None for a column whose type holds none."""
    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64)
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
        return None
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _numeric(column: pd.Series, population: np.ndarray) -> np.ndarray | None:
    """A column as numbers if all population values that are there are finite ones, else None."""
    numbers = _numbers(column)
    if numbers is None:
        return None
    there = column.notna().to_numpy()[population]
    return numbers if bool(there.any()) and not np.isnan(numbers[population][there]).any() else None


def _labels(column: pd.Series, population: np.ndarray, given: Sequence[Any] | None) -> tuple[np.ndarray, Sequence[Any]]:
    """Class of each row, int64 [N], -1 where its label is none of the classes; the classes, as given or as the population has them."""
    numbers = _numeric(column, population)
    if given is not None:
        listed = _numbers(pd.Series(given, dtype=object))
        numbers = _numbers(column) if listed is not None and not np.isnan(listed).any() else None
    values = pd.Series(numbers if numbers is not None else column.astype(object).map(_named).to_numpy(dtype=object))
    known = pd.Series(given) if given is not None else values.iloc[population]
    classes = np.unique(known.to_numpy(dtype=np.float64) if numbers is not None else known.astype(str).to_numpy(dtype=object))
    if len(classes) < 2:
        which = "the classes are" if given is not None else "all population rows have the same value"
        raise ConfigError(
            "dataset.target", f"{which} {', '.join(map(repr, classes))}; choose another column, or name its classes in dataset.schema"
        )
    if len(classes) > MOST_CLASSES:
        raise ConfigError("dataset.target", f"has {len(classes):,} different values, more than {MOST_CLASSES:,} classes; group them")
    return pd.Index(classes).get_indexer(values).astype(np.int64), classes.tolist()


def _named(value: object) -> str:
    """A category as text. A whole number is one whether or not the file's type has room for others: a gap in some row decides that."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _encoded(column: pd.Series, population: np.ndarray, kind: str | Sequence[Any] | None) -> tuple[np.ndarray, str]:
    """float32 [N, columns] and what was made of it. `population` are the rows that may be looked at; kind: what the schema says."""
    numbers = _numbers(column) if kind == "number" else _numeric(column, population) if kind is None else None
    nothing = np.zeros((len(column), 0), np.float32), "left out"
    if kind == "ignore":
        return nothing
    if numbers is not None:
        own = numbers[population]
        known = own[~np.isnan(own)]
        with np.errstate(over="ignore", invalid="ignore"):
            spread = float(known.std()) if len(known) else 0.0
            if not np.isfinite(spread) or spread <= 1e-12 * max(1.0, float(np.abs(known).max(initial=0.0))):
                return nothing
            scaled = np.clip((numbers - known.mean()) / spread, -DEVIATIONS, DEVIATIONS)
        gaps = np.isnan(scaled)
        filled = [np.where(gaps, 0.0, scaled), *([gaps] if np.isnan(own).any() else [])]
        return np.stack(filled, axis=1).astype(np.float32), "numbers"
    text = column.astype(object).where(column.notna(), "missing").map(_named)
    if kind is None:
        counts = text.iloc[population].value_counts()
        frequent = counts[counts >= RARE].index[:CATEGORIES].sort_values()
    else:
        frequent = pd.Index([_named(value) for value in kind]).unique()
    index = frequent.get_indexer(text)
    rest = kind is not None or bool((index[population] < 0).any())
    if len(frequent) + rest < 2:
        return nothing
    block = np.zeros((len(column), len(frequent) + rest), np.float32)
    known = index >= 0
    block[np.flatnonzero(known), index[known]] = 1
    if rest:
        block[~known, -1] = 1
    return block, "categories"
