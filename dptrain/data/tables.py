"""Tables of numbers and categories: CSV, Parquet and OpenML.

What is fitted (kinds of columns, means, deviations, categories, classes) is fitted on the
population split alone, which no model trains on, so it costs no privacy; a schema may say it
instead. Numbers are standardised and cut at DEVIATIONS; where some population rows have none, gaps
become the mean, and a column tells so. What is not all numbers there is a category: each that
occurs RARE times or more has a column, the CATEGORIES most frequent at most, and all others share
one. In the pool a cell that is no number becomes the mean.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Float, Int
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from dptrain.config.schema import DatasetConfig
from dptrain.core.errors import DataError, first_line, path_error, printable
from dptrain.core.limits import MOST_CLASSES, require_memory, require_regular
from dptrain.data.splits import Examples, Source, order_of, require_enough

DEVIATIONS = 5.0
RARE = 5
CATEGORIES = 100
KINDS = ("numbers", "categories", "left out")
REST = "any other "  # Texts of tables have no space at their end.
MOST_COLUMNS, SCHEMA_BYTES = 10_000, 10_000_000
FITTED = "the population split only"
MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"]
NOTHING = ["na", "n/a", "None", "none", "-"]
"""Texts for a value that is not there. Those of NOTHING are only in a column to learn from: as a
label they may well be a class.
"""


def table_source(frame: pd.DataFrame, config: DatasetConfig, seed: int, made_of: str) -> Source:
    """From a table to examples. Raises DataError, one line, for a table that cannot be trained
    on.

    Columns, kinds, categories and classes come from the population split or from a schema,
    never from the pool. What a pool row decides is only whether it is there at all, which the
    statement says.
    """
    frame, target = _columns(frame, config)
    rows, notes = _rows(frame, target, config, seed)
    names = [name for name in rows.columns if name not in (target, config.group)]
    if not names:
        raise DataError("no column is left beside the target; give a table with some", "path")
    schema, made_of = _schema(config, [*names, target], made_of)
    # The rows come in the order in which they are dealt out.
    population = np.arange(min(config.population, len(rows)))
    labels, classes = _labels(rows[target], population, schema.get("classes"))
    usable = labels >= 0
    if lost := int((~usable).sum()):
        notes.append(f"{lost:,} rows left out, whose label is no class of the population")
    if usable.sum() < config.pool + config.population + config.test <= len(rows):
        where, mend = (
            "the population",
            "name the classes in schema=FILE, or give a larger population",
        )
        if "classes" in schema:
            where, mend = (
                "the schema",
                f"write them as the table does, such as {printable(str(rows[target].iloc[0]))!r}",
            )
        raise DataError(
            f"{lost:,} of {len(rows):,} rows have a label that {where} does not have; {mend}",
            "target",
        )
    others = np.flatnonzero(usable[len(population) :]) + len(population)
    require_enough(config, len(population) + len(others))
    pool, test = others[config.test : config.test + config.pool], others[: config.test]
    inputs, kinds = _features(rows[names], population, schema.get("columns", {}))
    counts = Counter(kinds.values())
    dropped = ", ".join(name for name, kind in kinds.items() if kind == "left out")
    source = f"the schema and {FITTED}" if schema else FITTED
    text = (
        f"{counts['numbers']} columns of numbers standardised and {counts['categories']} "
        f"of categories one-hot, by {source}"
        + (f"; left out because constant or too rare there: {dropped}" if dropped else "")
        + "; numbers that are none become the mean, unknown categories share a column or "
        f"have none, {len(classes)} classes"
        + "; what depends on private rows: a row is left out that has no label, or none of "
        "these classes, or that copies another"
        + (f", or that is not the first of its {config.group}" if config.group else "")
    )
    unit = f"one {config.group} (a group, of which one row is kept)" if config.group else None
    back = np.argsort(rows.index)  # as they stand in the file
    examples = Examples(inputs[back], np.maximum(labels, 0)[back], rows.index.to_numpy()[back])
    place = np.argsort(back)
    split = place[pool], place[population], place[test]
    return Source(
        text,
        inputs.shape[1:],
        len(classes),
        len(labels),
        lambda: examples,
        made_of,
        unit,
        tuple(notes),
        split,
    )


def _schema(
    config: DatasetConfig, names: Sequence[str], made_of: str
) -> tuple[dict[str, Any], str]:
    """What the schema file says: `classes`, a list, and `columns`, each a list of its
    categories, `number` or `ignore`; and a digest of the table and of that file. Every value is
    text as it stands there: `no` is a class and not a falsehood.
    """
    if config.schema is None:
        return {}, made_of
    path = Path(config.schema)
    require_regular(path, lambda message: DataError(message, "schema"))
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size < SCHEMA_BYTES else ""
        schema = yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({first_line(error)}); write it as YAML", "schema"
        ) from None
    if not isinstance(schema, dict) or not schema or not schema.keys() <= {"classes", "columns"}:
        raise DataError(
            f"{path} must hold `classes: [...]` or `columns: {{name: number}}`, or both", "schema"
        )
    columns = schema.get("columns", {})
    if not isinstance(columns, dict) or not isinstance(schema.get("classes", []), list):
        raise DataError(
            f"in {path} `classes` must be a list, and `columns` names with their kinds", "schema"
        )
    for name, kind in columns.items():
        if name not in names:
            raise DataError(
                f"there is no column {printable(str(name))!r}; remove it from {path}", "schema"
            )
        if kind not in ("number", "ignore") and not (isinstance(kind, list) and kind):
            raise DataError(
                f"the kind of {name!r} must be number, ignore or a list of its categories", "schema"
            )
    return schema, hashlib.sha256(f"{made_of} {text}".encode()).hexdigest()


def require_columns(names: Sequence[str], count: int) -> None:
    """Raise DataError for names that stand twice or that a terminal would act on, and for too
    many of them.
    """
    if count > MOST_COLUMNS:
        raise DataError(
            f"the table has {count:,} columns, and there may be {MOST_COLUMNS:,}; leave some out",
            "path",
        )
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(
            f"the column {printable(min(twice))!r} stands more than once; rename one", "path"
        )
    if odd := [name for name in names if printable(name) != name or len(name) > 200]:
        raise DataError(
            f"the column name {printable(odd[0])[:60]!r} is no plain text of at most 200 "
            "letters; rename it",
            "path",
        )


def _columns(frame: pd.DataFrame, config: DatasetConfig) -> tuple[pd.DataFrame, str]:
    """Column names as text; the target and the group are among them."""
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1)
    names = list(frame.columns)
    require_columns(names, len(names))
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if config.target is None:
        raise DataError(f"give the column to predict, one of {shown}", "target")
    for key in ("target", "group"):
        name = getattr(config, key)
        if name is not None and name not in names:
            raise DataError(f"there is no column {name!r}; choose from {shown}", f"{key}")
    if config.target == config.group:
        raise DataError("is the target; give another column", "group")
    if not len(frame):
        raise DataError("the table has no rows; give one that has", "path")
    return frame, config.target


def _rows(
    frame: pd.DataFrame, target: str, config: DatasetConfig, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """Rows with a label, each once, and one of each group, shuffled: copies in and out of a
    training set would spoil every attack.

    The order is one of all rows of the file, and a row is left out for what an earlier one holds.
    So the first of them, which are the population, are the same whatever the later ones hold.
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
        raise DataError(
            "some column holds lists or records; give numbers and text only", "path"
        ) from None
    if lost := len(labelled) - len(once):
        notes.append(f"{lost:,} rows that copy another left out")
    if not len(once):
        raise DataError(f"no row has a value in {target!r}; choose another column", "target")
    if config.group is not None:
        ids = once[config.group]
        if nobody := int((ids.isna() | (ids.astype(str) == "")).sum()):
            message = (
                f"{nobody:,} rows have no {config.group}; give each the one that it belongs "
                "to, or leave those rows out"
            )
            raise DataError(message, "group")
        grouped = once[~once.duplicated(config.group)]
        if lost := len(once) - len(grouped):
            notes.append(f"{lost:,} rows left out, so that each {config.group} has one")
        wanted = config.pool + config.population + config.test
        if len(grouped) < wanted <= len(once):
            few = (
                f"{config.group} has {len(grouped):,} different values, of each of which one "
                f"row is used: fewer than the {wanted:,} asked for"
            )
            raise DataError(
                f"{few}; give the column that names a person, or smaller splits", "group"
            )
        once = grouped
    return once, notes


def _trimmed(column: pd.Series, missing: list[str]) -> pd.Series:
    """Texts without spaces around them, and NaN for those that stand for nothing."""
    if pd.api.types.is_numeric_dtype(column) or not (
        pd.api.types.is_string_dtype(column) or pd.api.types.is_object_dtype(column)
    ):
        return column
    if pd.api.types.is_object_dtype(column):
        column = column.map(lambda value: value.strip() if isinstance(value, str) else value)
    else:
        column = column.str.strip()
    return column.mask(column.isin(missing))


def _numbers(column: pd.Series) -> np.ndarray | None:
    """As float64, with NaN for what is no finite number; None where its type holds none."""
    if pd.api.types.is_bool_dtype(column):
        result: np.ndarray | None = column.to_numpy(dtype=np.float64)
        return result
    if not (
        pd.api.types.is_numeric_dtype(column)
        or pd.api.types.is_object_dtype(column)
        or pd.api.types.is_string_dtype(column)
    ):
        return None
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _numeric(column: pd.Series, population: Int[np.ndarray, " P"]) -> np.ndarray | None:
    """A column as numbers if all population values that are there are finite ones, else None."""
    numbers = _numbers(column)
    if numbers is None:
        return None
    there = column.notna().to_numpy()[population]
    return numbers if bool(there.any()) and not np.isnan(numbers[population][there]).any() else None


def _labels(
    column: pd.Series, population: Int[np.ndarray, " P"], given: Sequence[Any] | None
) -> tuple[np.ndarray, Sequence[Any]]:
    """Class of each row, int64 [N], -1 where its label is none of the classes; the classes, as
    given or as the population has them.
    """
    numbers = _numeric(column, population)
    if given is not None:
        listed = _numbers(pd.Series(given, dtype=object))
        numbers = _numbers(column) if listed is not None and not np.isnan(listed).any() else None
    values = pd.Series(
        numbers if numbers is not None else column.astype(object).map(_named).to_numpy(dtype=object)
    )
    known = pd.Series(given) if given is not None else values.iloc[population]
    classes = np.unique(
        known.to_numpy(dtype=np.float64)
        if numbers is not None
        else known.astype(str).to_numpy(dtype=object)
    )
    if len(classes) < 2:
        which = (
            "the classes are" if given is not None else "all population rows have the same value"
        )
        raise DataError(
            f"{which} {', '.join(map(repr, classes))}; choose another column, or name "
            "its classes in schema=FILE",
            "target",
        )
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"has {len(classes):,} different values, more than {MOST_CLASSES:,} classes; "
            "group them",
            "target",
        )
    return pd.Index(classes).get_indexer(values).astype(np.int64), classes.tolist()


def _features(
    rows: pd.DataFrame, population: Int[np.ndarray, " P"], given: Mapping[str, str | Sequence[str]]
) -> tuple[Float[np.ndarray, "N columns"], dict[str, str]]:
    """float32 [N, columns], fitted on `population`, the rows that may be looked at, and the kind of
    each column. given: what a schema says of columns.
    """
    kinds = {name: _kind(rows[name], population, given.get(name)) for name in rows.columns}
    named = {kind: [name for name in kinds if kinds[name] == kind] for kind in KINDS}
    if not named["numbers"] and not named["categories"]:
        raise DataError(
            "no column tells one population example from another; give more population, "
            "or other columns",
            "path",
        )
    categories = named["categories"]
    listed = {name: _listed(rows[name], given[name]) for name in categories if name in given}
    counted = [name for name in categories if name not in listed]
    texts = {name: _texts(rows[name], listed.get(name)) for name in categories}
    for name in listed:
        if (texts[name].iloc[population] == REST).all():
            shown = printable(str(rows[name].iloc[0]))
            raise DataError(
                f"the population has none of the categories of {name!r}; write them as the table "
                f"does, such as {shown!r}",
                "schema",
            )
    frame = pd.DataFrame({name: _numbers(rows[name]) for name in named["numbers"]} | texts)
    most = {name: min(CATEGORIES, frame[name].iloc[population].nunique()) + 1 for name in counted}
    width = 2 * len(named["numbers"]) + sum(most.values()) + sum(map(len, listed.values()))
    # Parts in float64, all of them beside each other, and that in float32.
    require_memory(20 * width * len(rows), path_error, f"the table, in {width:,} columns,")
    encoder = _encoder(named["numbers"], counted, listed)
    with np.errstate(over="ignore"):  # What overflows is cut at DEVIATIONS.
        encoder.fit(frame.iloc[population])
        return encoder.transform(frame).astype(np.float32), kinds


def _encoder(
    numbers: Sequence[str], counted: Sequence[str], listed: Mapping[str, Sequence[str]]
) -> ColumnTransformer:
    """From numbers (float64 with NaN) and texts to columns: names of columns of numbers, of texts
    whose categories are counted, and of texts with the categories that a schema lists.
    """
    scaled = make_pipeline(
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -DEVIATIONS, "a_max": DEVIATIONS}),
        SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True),
    )
    frequent = OneHotEncoder(
        min_frequency=RARE,
        max_categories=CATEGORIES + 1,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
        dtype=np.float32,
    )
    of_schema = OneHotEncoder(
        categories=list(listed.values()), sparse_output=False, dtype=np.float32
    )
    parts = [("numbers", scaled, numbers), ("counted", frequent, counted)]
    return ColumnTransformer([*parts, ("listed", of_schema, list(listed))])


def _kind(
    column: pd.Series, population: Int[np.ndarray, " P"], given: str | Sequence[str] | None
) -> str:
    """One of KINDS, by what a schema says (`given`) or else by the rows of the population."""
    if given == "ignore":
        return "left out"
    if given is not None and given != "number":
        return "categories"
    numbers = _numbers(column) if given == "number" else _numeric(column, population)
    if numbers is not None or given == "number":
        varies = numbers is not None and _varies(numbers[population])
        return "numbers" if varies else "left out"
    frequent = _texts(column.iloc[population]).value_counts() >= RARE
    return "categories" if frequent.sum() + (not frequent.all()) >= 2 else "left out"


def _varies(numbers: Float[np.ndarray, " P"]) -> bool:
    """Whether the numbers that are there differ by more than rounding, and by a finite amount."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(known.std())
    return math.isfinite(spread) and spread > 1e-12 * max(1.0, float(np.abs(known).max()))


def _texts(column: pd.Series, listed: Sequence[str] | None = None) -> pd.Series:
    """Categories as text; REST for what a schema does not list."""
    texts = column.astype(object).where(column.notna(), "missing").map(_named).astype(object)
    return texts if listed is None else texts.where(texts.isin(listed), REST)


def _listed(column: pd.Series, given: Sequence[str]) -> list[str]:
    """The categories of a schema as the column's texts are written, and REST: 1.0 is 1 in a column
    of numbers.
    """
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)

    def written(value: str) -> str:
        try:
            return _named(float(value)) if numeric else _named(value)
        except ValueError:
            return _named(value)

    return list(dict.fromkeys([*map(written, given), REST]))


def _named(value: object) -> str:
    """A category as text. A whole number is one whether or not the file's type has room for others:
    a gap in some row decides that.
    """
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
