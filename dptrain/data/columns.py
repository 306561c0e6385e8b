"""Columns of a table: of which kind each is, and how it becomes numbers.

A kind comes from the user (keys of `dataset`, or a schema), or from the rows of the population,
which no model trains on, so it costs the pool no privacy. Numbers are standardised and cut at
DEVIATIONS; where some population rows have none, gaps become the mean, and a column tells so. What
is not all numbers there is a category: each that occurs RARE times or more has a column, the
CATEGORIES most frequent at most, and all others share one. What may name its row is left out. In
the pool a cell that is no number becomes the mean.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from dptrain.core.errors import DataError, path_error, printable
from dptrain.core.limits import require_memory

DEVIATIONS = 5.0
RARE = 5
CATEGORIES = 100
MOST_VALUES, FEW_NUMBERS, BINS = 50, 10, 4
"""Of a column that is attacked: values that it may have; different numbers up to which each is a
value, and the quantile bins into which more are put.
"""
REST = "any other "  # Texts of tables have no space at their end.
PARTS = ("numbers", "counted", "listed")
"""Of an encoder: columns of numbers, of categories that are counted, and of those that the user
lists.
"""
NEAR_UNIQUE, LEAST_ROWS = 0.95, 20
"""Share of different values, among so many rows at least, from which on a column may name rows."""
MANY, MANY_ROWS = 0.5, 100
"""The same of a column that is called so: it may name the people behind several rows."""
NAMES_ROWS = re.compile(
    r"(?i:(^|[_\W])(id|ids|uuid|guid|key|ssn|nr|nbr|no|number))$|[a-z](ID|Id|Nr|No)$"
)
"""What columns that name rows are called."""
ALONE, ALONE_ROWS, ALONE_COLUMNS, ALONE_LEAST = 0.98, 2000, 500, 10
"""Balanced accuracy of one column from which on it predicts the target alone; population rows and
columns that are looked at; and the examples that every class needs among those rows.
"""


class Kind(StrEnum):
    """What becomes of a column."""

    NUMBER = "number"
    CATEGORY = "category"
    ORDERED = "ordered"
    """Categories that are numbered in an order."""
    IGNORED = "ignore"
    """Left out, since the user says so."""
    ROW_NAME = "names rows"
    """Left out: so many rows have a value of their own that it may say who they are."""
    UNVARYING = "constant or too rare"
    """Left out: it tells no two population rows apart."""

    @property
    def used(self) -> bool:
        return self in (Kind.NUMBER, Kind.CATEGORY, Kind.ORDERED)


@dataclass(frozen=True)
class Column:
    """What the user says of a column. values: its categories, of an ordered one from the least to
    the greatest; none for those that the population has. key: of `dataset`, which says it.
    """

    kind: Kind
    values: tuple[str, ...] = ()
    key: str = "schema"


@dataclass(frozen=True)
class Encoded:
    """The columns of a table as numbers: values float32 [N, columns], and how they come about, as
    plain data by which release.predict does the same to new rows.
    """

    values: np.ndarray
    how: Mapping[str, Any]


def encode(
    rows: pd.DataFrame,
    population: Int[np.ndarray, " P"],
    given: Mapping[str, Column],
    kinds: Mapping[str, Kind],
) -> Encoded:
    """Fitted on `population`, the rows that may be looked at. given: what the user says of columns;
    kinds: of all of them. Raises DataError.
    """
    of_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in Kind}
    if not any(kind.used for kind in kinds.values()):
        raise DataError(
            "no column tells one population example from another; give more population, "
            "or other columns",
            "path",
        )
    listed = {
        name: _listed(rows[name], given[name].values)
        for name in of_kind[Kind.CATEGORY]
        if name in given and given[name].values
    }
    counted = [name for name in of_kind[Kind.CATEGORY] if name not in listed]
    texts = {name: _texts(rows[name], listed.get(name)) for name in of_kind[Kind.CATEGORY]}
    for name in listed:
        if (texts[name].iloc[population] == REST).all():
            raise _none_listed(rows[name].iloc[population], given[name].key)
    numbers: dict[str, np.ndarray | None] = {
        name: numbers_of(rows[name]) for name in of_kind[Kind.NUMBER]
    }
    for name in of_kind[Kind.ORDERED]:
        numbers[name] = places = _places(rows[name], given[name].values)
        if np.isnan(places[population]).all():
            raise _none_listed(rows[name].iloc[population], given[name].key)
    frame = pd.DataFrame(numbers | texts)
    most = {name: min(CATEGORIES, frame[name].iloc[population].nunique()) + 1 for name in counted}
    width = 2 * len(numbers) + sum(most.values()) + sum(map(len, listed.values()))
    # Parts in float64, all of them beside each other, and that in float32.
    require_memory(20 * width * len(rows), path_error, f"the table, in {width:,} columns,")
    encoder = _encoder(list(numbers), counted, listed)
    with np.errstate(over="ignore"):  # What overflows is cut at DEVIATIONS.
        encoder.fit(frame.iloc[population])
        values: np.ndarray = encoder.transform(frame).astype(np.float32)
    orders = {name: _listed(rows[name], given[name].values)[:-1] for name in of_kind[Kind.ORDERED]}
    numeric = {name for name in (*orders, *texts) if _is_numeric(rows[name])}
    return Encoded(values, _how(encoder, orders, numeric))


def _how(
    encoder: ColumnTransformer, orders: Mapping[str, Sequence[str]], numeric: set[str]
) -> dict[str, Any]:
    """A fitted encoder as plain data. orders: the values of ordered columns, the least first;
    numeric: columns whose categories are numbers, and are written as such.
    """
    scaled, counted, listed = (encoder.named_transformers_[part] for part in PARTS)
    numbers, gaps, categories = [], [], []
    names = {part: list(columns) for part, _, columns in encoder.transformers_}
    if names["numbers"]:
        scaler, imputer = scaled["standardscaler"], scaled["simpleimputer"]
        for name, mean, deviation in zip(
            names["numbers"], scaler.mean_, scaler.scale_, strict=True
        ):
            number = {"name": name, "mean": float(mean), "deviation": float(deviation)}
            if name in orders:
                number |= {"order": list(orders[name]), "numeric": name in numeric}
            numbers.append(number)
        gaps = [names["numbers"][place] for place in imputer.indicator_.features_]
    for part, encoding in (("counted", counted), ("listed", listed)):
        if not names[part]:
            continue
        rare = encoding.infrequent_categories_ if part == "counted" else [[REST]] * len(names[part])
        for name, values, others in zip(names[part], encoding.categories_, rare, strict=True):
            few = [] if others is None else list(others)
            shown = [str(value) for value in values if value not in few]
            categories.append(
                {"name": name, "values": shown, "others": bool(few), "numeric": name in numeric}
            )
    return {"numbers": numbers, "gaps": gaps, "categories": categories, "cut": DEVIATIONS}


def places_of(how: Mapping[str, Any], name: str) -> Int[np.ndarray, " P"]:
    """Which inputs of a table, encoded so, come from a column."""
    numbers = [number["name"] for number in how["numbers"]]
    end = len(numbers) + len(how["gaps"])
    if name in numbers:
        gap = [len(numbers) + how["gaps"].index(name)] if name in how["gaps"] else []
        return np.array([numbers.index(name), *gap], dtype=np.int64)
    for category in how["categories"]:
        start, end = end, end + len(category["values"]) + category["others"]
        if category["name"] == name:
            return np.arange(start, end)
    raise KeyError(name)


def values_of(
    column: pd.Series, kind: Kind, population: Int[np.ndarray, " P"]
) -> tuple[tuple[str, ...], Int[np.ndarray, " N"]]:
    """What may stand in a column, as text, and which of it each row has, int64 [N], -1 where none
    or nothing: of many numbers a quarter of the population each, in the order of their size.
    """
    numbers = numbers_of(column) if kind == Kind.NUMBER else None
    if numbers is None:
        there = column.iloc[population].dropna()
        counts = _texts(there).value_counts()
        values = sorted(counts[counts >= RARE].index.tolist())
        return tuple(values), pd.Index(values).get_indexer(_texts(column)).astype(np.int64)
    known = numbers[population][~np.isnan(numbers[population])]
    different, counts = np.unique(known, return_counts=True)
    if len(different) <= FEW_NUMBERS:
        different = different[counts >= RARE]
        texts = tuple(named(float(number)) for number in different)
        return texts, pd.Index(different).get_indexer(numbers).astype(np.int64)
    edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"))
    edges = edges[edges < different[-1]]
    if not edges.size:  # the greatest number is that of most rows
        edges = different[-2:-1]
    codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers))
    ends = [f"{edge:.12g}" for edge in edges]
    texts = (
        f"{ends[0]} or less",
        *(f"above {low} to {high}" for low, high in itertools.pairwise(ends)),
        f"above {ends[-1]}",
    )
    return texts, codes.astype(np.int64)


def _none_listed(known: pd.Series, key: str) -> DataError:
    """known: the values of the population."""
    return DataError(
        f"the population has none of the categories of {known.name!r}; write them as the table "
        f"does, such as {printable(str(known.iloc[0]))!r}",
        key,
    )


def kind_of(
    column: pd.Series, population: Int[np.ndarray, " P"], given: Column | None = None
) -> Kind:
    """By what the user says, or else by the rows of the population. Raises DataError for numbers
    that are none.
    """
    if given is not None and (given.values or given.kind == Kind.IGNORED):
        return given.kind
    if given is None and names_rows(column.iloc[population]):
        return Kind.ROW_NAME
    numbers = all_numeric(column, population)
    if given is not None and given.kind == Kind.NUMBER:
        numbers = numbers_of(column)
        if numbers is None or np.isnan(numbers[population]).all():
            raise DataError(
                f"{str(column.name)!r} holds no number in any population row; leave it out here",
                given.key,
            )
    if numbers is not None and (given is None or given.kind == Kind.NUMBER):
        return Kind.NUMBER if _varies(numbers[population]) else Kind.UNVARYING
    frequent = _texts(column.iloc[population]).value_counts() >= RARE
    varied = frequent.sum() + (not frequent.all()) >= 2
    return Kind.CATEGORY if varied else Kind.UNVARYING


def names_rows(column: pd.Series) -> bool:
    """Whether a column of texts or whole numbers may tell who a row is: many different values under
    a name that such columns have, or a value of its own for nearly every row, where those are texts
    or rise or fall throughout the file; the index of `column` holds the places of its rows there.

    A word or an infinity among many numbers makes no texts of them.
    """
    values = column.dropna()
    if len(values) < LEAST_ROWS or pd.api.types.is_datetime64_any_dtype(values):
        return False
    share = values.nunique() / len(values)
    numbers = numbers_of(values)
    known = np.array([]) if numbers is None else numbers[~np.isnan(numbers)]
    texts = 2 * len(known) < len(values)
    if not texts and not is_whole(known):
        return False
    if NAMES_ROWS.search(str(column.name)) and share >= MANY and len(values) >= MANY_ROWS:
        return True
    if share < NEAR_UNIQUE or texts or numbers is None:
        return bool(share >= NEAR_UNIQUE)
    steps = np.diff(numbers[np.argsort(values.index)])
    named = bool(NAMES_ROWS.search(str(column.name)))
    return named or bool((steps > 0).all() or (steps < 0).all())


def is_whole(numbers: Float[np.ndarray, " n"]) -> bool:
    """Whether all are whole numbers."""
    return bool((numbers == np.round(numbers)).all())


def dates_of(column: pd.Series) -> pd.Series:
    """As times in UTC; NaT for what is no date as ISO 8601 writes it."""
    text = column.astype(str)
    dates: pd.Series = pd.to_datetime(text, errors="coerce", format="ISO8601", utc=True)
    return dates


def chosen(key: str, name: str) -> str:
    """What a user types on the command line to name a column, in quotes where it needs them."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        return f"dataset.{key}={name}"
    return f"\"dataset.{key}='{_escaped(name)}'\""


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("'", "\\'")


def override(key: str, *names: str) -> str:
    """What a user types on the command line for a list of columns, in quotes where a name needs
    them.
    """
    if all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in names):
        return f"dataset.{key}=[{','.join(names)}]"
    quoted = [f"'{_escaped(name)}'" for name in names]
    return f'"dataset.{key}=[{",".join(quoted)}]"'


def predicts_alone(
    rows: pd.DataFrame, labels: Int[np.ndarray, " P"], names: Sequence[str]
) -> dict[str, float]:
    """Columns that by themselves tell the classes of some rows, [P], with the balanced accuracy of
    a small tree of each on rows that it did not learn from; none where a class has too few rows.
    """
    some = slice(0, ALONE_ROWS)
    labels = labels[some]
    counts = np.bincount(labels)
    if len(counts[counts > 0]) < 2 or counts[counts > 0].min() < ALONE_LEAST:
        return {}
    alone = {}
    for name in names[:ALONE_COLUMNS]:
        column = rows[name].iloc[some]
        numbers = all_numeric(column, np.arange(len(column)))
        if numbers is None:
            codes, _ = pd.factorize(_texts(column))
            numbers = codes.astype(float)
        known = np.isfinite(numbers)
        floor = numbers[known].min(initial=0.0) - 1
        tree = DecisionTreeClassifier(
            max_leaf_nodes=32, min_samples_leaf=3, class_weight="balanced", random_state=0
        )
        inputs = np.clip(np.where(known, numbers, floor), -1e30, 1e30)[:, None]
        guesses = cross_val_predict(tree, inputs, labels, cv=3)
        score = float(balanced_accuracy_score(labels, guesses))
        if score >= ALONE:
            alone[name] = score
    return alone


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
    parts = zip(PARTS, (scaled, frequent, of_schema), (numbers, counted, list(listed)), strict=True)
    return ColumnTransformer(list(parts))


def _is_numeric(column: pd.Series) -> bool:
    """Whether the values of a column are numbers by its type."""
    kinds = pd.api.types
    return bool(kinds.is_numeric_dtype(column) and not kinds.is_bool_dtype(column))


def numbers_of(column: pd.Series) -> np.ndarray | None:
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


def all_numeric(column: pd.Series, population: Int[np.ndarray, " P"]) -> np.ndarray | None:
    """A column as numbers if all population values that are there are finite ones, else None."""
    numbers = numbers_of(column)
    if numbers is None:
        return None
    there = column.notna().to_numpy()[population]
    return numbers if bool(there.any()) and not np.isnan(numbers[population][there]).any() else None


def _varies(numbers: Float[np.ndarray, " P"]) -> bool:
    """Whether the numbers that are there differ by more than rounding, and by a finite amount."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(known.std())
    return math.isfinite(spread) and spread > 1e-12 * max(1.0, float(np.abs(known).max()))


def texts_of(column: pd.Series) -> np.ndarray:
    """Every value as text, `missing` where there is none."""
    texts: np.ndarray = _texts(column).to_numpy(dtype=str)
    return texts


def _texts(column: pd.Series, listed: Sequence[str] | None = None) -> pd.Series:
    """Categories as text; REST for what a schema does not list."""
    texts = column.astype(object).where(column.notna(), "missing").map(named).astype(object)
    return texts if listed is None else texts.where(texts.isin(listed), REST)


def _listed(column: pd.Series, given: Sequence[str]) -> list[str]:
    """The categories of a schema as the column's texts are written, and REST: 1.0 is 1 in a column
    of numbers.
    """
    numeric = _is_numeric(column)

    def written(value: str) -> str:
        try:
            return named(float(value)) if numeric else named(value)
        except ValueError:
            return named(value)

    return list(dict.fromkeys([*map(written, given), REST]))


def named(value: object) -> str:
    """A category as text. A whole number is one whether or not the file's type has room for others:
    a gap in some row decides that.
    """
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def names_of(column: pd.Series) -> pd.Series:
    """The names of rows or users as text, one for each however it is written as a number: 7, "7"
    and 7.0 are the same; empty where there is none.
    """
    texts = column.astype(object).where(column.notna(), "").map(named).astype(object)
    names: pd.Series = texts.str.strip().str.replace(r"^([+-]?\d+)\.0+$", r"\1", regex=True)
    return names


def _places(column: pd.Series, order: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The place of each value in an order, from 0; nan for what is not in it."""
    known = {text: float(place) for place, text in enumerate(_listed(column, order)[:-1])}
    places: np.ndarray = column.astype(object).map(named).map(known).to_numpy(dtype=np.float64)
    return places
