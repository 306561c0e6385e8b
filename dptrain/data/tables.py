"""Tables of numbers and categories: CSV, Parquet, Excel and OpenML.

What is fitted (kinds of columns, means, deviations, categories, classes) is fitted on the
population split alone, which no model trains on, so it costs the pool no privacy; the rows of the
population are not protected. The user may say it instead, in keys of `dataset` or in a schema.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Bool, Float, Int, Shaped

from dptrain.config.schema import MIN_POOL, DatasetConfig
from dptrain.core import streams
from dptrain.core.errors import DataError, first_line, printable
from dptrain.core.limits import MOST_CLASSES, require_regular
from dptrain.core.types import Task
from dptrain.data import columns
from dptrain.data.columns import Column, Kind, all_numeric, named, numbers_of
from dptrain.data.splits import Attribute, Examples, Source, order_of, require_enough, sizes

LEFT_OUT = {
    Kind.UNVARYING: "constant or too rare there",
    Kind.ROW_NAME: "many rows have a value of their own there",
    Kind.IGNORED: "the keys of dataset or the schema say so",
}
"""Why a column is no input, in the words of the statement."""
FEW_VALUES = (
    f"fewer than two values that {columns.RARE} rows of the population have; choose another"
)
MOST_COLUMNS, SCHEMA_BYTES = 10_000, 10_000_000
FITTED = "the population split only (whose rows are not protected)"
MANY_NUMBERS, SOME_NUMBERS = 100, 20
"""Different numbers of a target above which they are taken for a quantity, and those that never
are.
"""
MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"]
NOTHING = ["na", "n/a", "None", "none", "-"]
"""Texts for a value that is not there. Those of NOTHING are only in a column to learn from: as a
label they may well be a class.
"""


@dataclass(frozen=True)
class _Dealt:
    """Rows of a table, as they are dealt out: places of those of the population, of those before it
    is known which can be used for the pool, and of those for the test set; and in words how rows
    got there.
    """

    population: np.ndarray
    pool: np.ndarray
    test: np.ndarray
    how: str = ""


@dataclass(frozen=True)
class Table:
    """A table as a sweep takes it.

    rows: those that can be used, in the order in which they are dealt out. inputs: names of the
    columns that may be inputs, and kinds: what becomes of each. labels: the class of each row,
    int64, -1 where its label is no class; classes: as the table writes them; both empty without a
    target. split: places of pool, population and test among the rows. how: how rows got into the
    parts, in words. notes: what a user should know. given: what the user says of columns. digest:
    of the table and the schema. users: whose each row is, int64, where a column names users.
    """

    rows: pd.DataFrame
    inputs: tuple[str, ...]
    kinds: Mapping[str, Kind]
    labels: np.ndarray
    classes: tuple[Any, ...]
    split: tuple[np.ndarray, np.ndarray, np.ndarray]
    how: str
    notes: tuple[str, ...]
    given: Mapping[str, Column]
    digest: str
    users: np.ndarray | None = None

    @property
    def alone(self) -> dict[str, float]:
        """The inputs that by themselves predict the target on the population, with their balanced
        accuracy.
        """
        population = self.split[1]
        used = [name for name, kind in self.kinds.items() if kind.used]
        if self.labels.dtype.kind == "f":
            return {}
        return columns.predicts_alone(self.rows.iloc[population], self.labels[population], used)


def table_source(frame: pd.DataFrame, config: DatasetConfig, seed: int, made_of: str) -> Source:
    """From a table to examples. Raises DataError, one line, for a table that cannot be trained
    on.

    Columns, kinds, categories and classes come from the population split or from the user, never
    from the pool. What a pool row decides is only whether it is there at all, which the statement
    says.
    """
    table = taken(frame, config, seed, made_of)
    rows, labels = table.rows, table.labels
    encoded = columns.encode(rows[list(table.inputs)], table.split[1], table.given, table.kinds)
    inputs = encoded.values
    back = np.argsort(rows.index)  # as they stand in the file
    known = np.where(usable_of(labels), labels, 0)[back].astype(labels.dtype)
    examples = Examples(inputs[back], known, rows.index.to_numpy()[back])
    place = np.argsort(back)
    pool, population, test = (place[part] for part in table.split)
    unit = f"one {config.group} (a group, of which one row is kept)" if config.group else None
    users = None if table.users is None else table.users[back]
    return Source(
        _text(config, table),
        inputs.shape[1:],
        len(table.classes) or 1,
        len(labels),
        lambda: examples,
        table.digest,
        unit,
        (*table.notes, *_hints(table, config.target)),
        (pool, population, test),
        {
            **encoded.how,
            "missing": [*MISSING, *NOTHING],
            "header": config.header,
            "bounds": list(config.bounds),
        },
        tuple(map(columns.named, table.classes)),
        lambda name: columns.texts_of(rows[name])[back],
        lambda name: _attribute(name, config, table, encoded).of(back),
        users,
        config.unit or "",
    )


def taken(
    frame: pd.DataFrame, config: DatasetConfig, seed: int, made_of: str = "", aimless: bool = False
) -> Table:
    """A table as a sweep takes it. aimless: whether it may be without a target. Raises
    DataError.
    """
    frame = _columns(frame, config, aimless)
    # By the rows of the file: what a private row holds must not move the population.
    whole = sizes(config, len(frame))
    asked, config = config, replace(config, population=whole.population, test=whole.test)
    rows, notes = _rows(frame, config, seed)
    aside = (config.target, config.group, config.time, config.unit, config.id)
    names = [name for name in rows.columns if name not in aside]
    given, listed, made_of = _given(config, list(rows.columns), names, made_of)
    if not names:
        raise DataError("no column is left beside the target; give a table with some", "path")
    if listed is not None and config.target is not None:
        rows = _of_classes(rows, listed, config, notes)
    users = None
    if config.unit is not None:
        users = _ranked(columns.names_of(rows[config.unit]), config.name, seed)
        dealt = _deal_users(users, asked)
    else:
        dealt = _deal(rows, config, whole.test / max(1, sum(whole)))
    classes: Sequence[Any] = ()
    labels = np.zeros(len(rows), dtype=np.int64)
    if config.task == Task.REGRESSION and config.target is not None:
        labels = _targets(rows[config.target], config.bounds)
    elif config.target is not None:
        labels, classes = _labels(rows[config.target], dealt.population, listed)
        if listed is None and not aimless:
            _question(config.target, classes, len(dealt.population))
    split = _split(config, asked, usable_of(labels), dealt, users)
    if lost := int((~usable_of(labels)).sum()):
        wanted = "number" if labels.dtype.kind == "f" else "class of the population"
        notes.append(f"{lost:,} rows left out, whose label is no {wanted}")
    kinds = {name: columns.kind_of(rows[name], dealt.population, given.get(name)) for name in names}
    parts = (tuple(names), kinds, labels, tuple(classes), split, dealt.how, tuple(notes))
    return Table(rows, *parts, given, made_of, users)


def _attribute(
    name: str, config: DatasetConfig, table: Table, encoded: columns.Encoded
) -> Attribute:
    """What an attacker can learn of a column, of all rows. Raises DataError for one that no model
    sees or predicts.
    """
    if name == config.target and config.task == Task.CLASSIFICATION:
        counts = np.bincount(table.labels[table.split[1]], minlength=len(table.classes))
        often = counts >= columns.RARE
        if often.sum() < 2:
            raise DataError(f"{name!r} has {FEW_VALUES}")
        codes = np.where((table.labels >= 0) & often[table.labels], table.labels, -1)
        nothing = np.zeros((often.size, 0), dtype=np.float32)
        texts = tuple(map(columns.named, table.classes))
        return Attribute(texts, codes, np.zeros(0, dtype=np.int64), nothing)
    kind = table.kinds.get(name)
    if name == config.target:
        raise DataError(f"{name!r} is a number that the models predict; name an input")
    if name not in table.rows.columns:
        raise DataError(f"there is no column {name!r}; see dptrain inspect")
    if kind is None or not kind.used:
        reason = f", since {LEFT_OUT[kind]}" if kind in LEFT_OUT else ""
        raise DataError(f"{name!r} is no input of the models{reason}; name one that is")
    places = columns.places_of(encoded.how, name)
    known = table.split[1]
    values, codes = columns.values_of(table.rows[name], kind, known)
    if len(values) < 2:
        raise DataError(f"{name!r} has {FEW_VALUES}")
    if len(values) > columns.MOST_VALUES:
        most = columns.MOST_VALUES
        raise DataError(f"{name!r} has {len(values):,} values, and there may be {most}")
    typical = []
    for code in range(len(values)):
        of_value = known[codes[known] == code]
        order = np.argsort(encoded.values[of_value, places[0]], kind="stable")
        typical.append(of_value[order[len(order) // 2]])
    return Attribute(values, codes, places, encoded.values[np.ix_(typical, places)])


def _hints(table: Table, target: str | None) -> list[str]:
    """What a user may want to say of columns before training."""
    hints = [
        f"{name} alone predicts {target} (balanced accuracy {score:.3f} on the population); if it "
        f"is not known beforehand, leave it out with {columns.override('drop', name)}"
        for name, score in table.alone.items()
    ]
    if naming := [name for name, kind in table.kinds.items() if kind == Kind.ROW_NAME]:
        hints.append(
            f"left out, since many rows have a value of their own there: {', '.join(naming)}; "
            "name one in dataset.numeric or dataset.categorical to use it"
        )
    return hints


def _text(config: DatasetConfig, table: Table) -> str:
    """What is done to a table before a model sees it, and what of that depends on private rows."""
    counts = Counter(table.kinds.values())
    numbers = counts[Kind.NUMBER] + counts[Kind.ORDERED]
    by_key = bool(config.drop or config.numeric or config.categorical or config.ordinal)
    said = ["the keys of dataset"] * by_key + ["the schema"] * (config.schema is not None)
    source = " and ".join([*said, FITTED])
    left_out = "".join(
        f"; left out, since {reason}: {', '.join(names)}"
        for kind, reason in LEFT_OUT.items()
        if (names := [name for name, of in table.kinds.items() if of == kind])
    )
    sizes_follow = (
        "; the sizes of population and test follow from the number of rows of the file, which is "
        "public, and that of the pool from how many are left of them"
        if config.pool is None
        else "; the number of rows of the file is public, and where one is left out the next takes "
        "its place"
    )
    return (
        f"{numbers} columns of numbers standardised and {counts[Kind.CATEGORY]} "
        f"of categories one-hot, by {source}{left_out}"
        f"; numbers that are none become the mean, unknown categories share a column or "
        f"have none, {_predicted(config, table)}{table.how}"
        "; what depends on private rows: a row is left out that has no label, or none of "
        "these classes, or that copies another"
        + (f", or that is not the first of its {config.group}" if config.group else "")
        + (f", or that has no {config.time}" if config.time else "")
        + (f", or that has no {config.unit}" if config.unit else "")
        + (
            f", or that comes after {config.unit_rows} of its {config.unit}"
            if config.unit_rows
            else ""
        )
        + sizes_follow
    )


def _predicted(config: DatasetConfig, table: Table) -> str:
    if config.task == Task.REGRESSION:
        low, high = config.bounds
        return (
            f"targets cut to the public bounds {low:g} and {high:g}, which the model has as -1, 1"
        )
    return f"{len(table.classes)} classes"


def _deal(rows: pd.DataFrame, config: DatasetConfig, later: float) -> _Dealt:
    """Rows come in the order in which they are dealt out, so the population are the first of them,
    whatever the later ones hold. later: share of rows above a cut in time.
    """
    wanted = sizes(config, len(rows))
    places = np.arange(len(rows))
    if config.time is None:
        rest = places[wanted.population :]
        return _Dealt(places[: wanted.population], rest[wanted.test :], rest[: wanted.test])
    times = _times(rows[config.time], config.time)
    cut = float(np.quantile(times[: wanted.population], 1 - later, method="lower"))
    past = places[times <= cut]
    shown = rows[config.time].iloc[int(np.abs(times - cut).argmin())]  # the first that has it
    how = (
        f"; trained on the past: the test set are rows whose {config.time} lies above {shown}, a "
        f"quantile of the {wanted.population:,} rows that were dealt out first, from which the "
        "population is taken"
    )
    return _Dealt(past[: wanted.population], past[wanted.population :], places[times > cut], how)


def _ranked(names: pd.Series, data: str, seed: int) -> Int[np.ndarray, " N"]:
    """The place of each row's user in the order in which users are dealt out, from 0: by a hash of
    the name, so that neither how many rows somebody has nor who else is there moves them.
    """
    codes, different = pd.factorize(names)
    key = streams.seeded_key(seed, "users", data)
    hashes = [hashlib.blake2b(str(name).encode(), key=key).digest() for name in different]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    ranked: np.ndarray = rank[codes]
    return ranked


def _deal_users(users: Int[np.ndarray, " N"], config: DatasetConfig) -> _Dealt:
    """By users, in their order: sizes count them. Which of the others' rows are of the pool and
    which of the test set is seen later.
    """
    wanted = sizes(config, int(users.max()) + 1)
    places = np.arange(len(users))
    known = users < wanted.population
    return _Dealt(places[known], places[~known], places[:0])


def _times(column: pd.Series, name: str) -> Float[np.ndarray, " N"]:
    """Times as numbers. Raises DataError where one is neither a number nor a date."""
    numbers = columns.numbers_of(column)
    if numbers is not None and not np.isnan(numbers).any():
        return numbers
    dates = columns.dates_of(column)
    if bool(dates.isna().any()):
        shown = printable(str(column[dates.isna()].iloc[0]))
        raise DataError(
            f"{shown!r} in {name} is neither a number nor a date such as 2026-11-30; mend it",
            "time",
        )
    return np.asarray(dates.astype("int64"), dtype=np.float64)


def _of_classes(
    rows: pd.DataFrame, listed: Sequence[str], config: DatasetConfig, notes: list[str]
) -> pd.DataFrame:
    """The rows whose label is one of the classes that the user names. Raises DataError where too
    few are left.
    """
    target = str(config.target)
    labels, _ = _labels(rows[target], np.arange(0), listed)
    left = rows[labels >= 0]
    if lost := len(rows) - len(left):
        notes.append(f"{lost:,} rows left out, whose label is no class of the schema")
    if not len(left) or len(left) < sum(sizes(config, len(left))) <= len(rows):
        shown = printable(str(rows[target].iloc[0]))
        raise DataError(
            f"{len(rows) - len(left):,} of {len(rows):,} rows have a label that the schema does "
            f"not have; write them as the table does, such as {shown!r}",
            "target",
        )
    return left


def _split(
    config: DatasetConfig,
    asked: DatasetConfig,
    labels: Bool[np.ndarray, " N"],
    dealt: _Dealt,
    users: Int[np.ndarray, " N"] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of pool, population and test, whose rows have a label that can be used, as `labels`
    says of each. asked: with the sizes that the user gave; users: whose each row is. Raises
    DataError where there are too few.
    """
    if users is not None:
        known = dealt.population[labels[dealt.population]]
        return _split_users(asked, users, known, dealt.pool[labels[dealt.pool]])
    wanted = sizes(config, len(labels))
    usable = labels
    lost = int((~usable).sum())
    if usable.sum() < sum(wanted) <= len(labels) and config.pool is not None:
        raise DataError(
            f"{lost:,} of {len(labels):,} rows have a label that the population does not have; "
            "name the classes in schema=FILE, or give a larger population",
            "target",
        )
    if config.time is not None:
        test, pool = (part[usable[part]] for part in (dealt.test, dealt.pool))
        test = test[: wanted.test]
        _require_both(asked, pool.size, test.size)
    else:  # one heap, of which the test set is the first part
        heap = np.concatenate([dealt.test, dealt.pool])
        test, pool = np.split(heap[usable[heap]], [wanted.test])
        if config.pool is not None:
            require_enough(config, dealt.population.size + test.size + pool.size)
    # A size that is left open is counted here, and the statement says so.
    known = dealt.population[usable[dealt.population]]
    return pool[: config.pool or pool.size // 2 * 2], known, test


def _split_users(
    config: DatasetConfig,
    users: Int[np.ndarray, " N"],
    known: Int[np.ndarray, " P"],
    usable: Int[np.ndarray, " n"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By users, the test set first. known: places of the rows of the population; usable: of those
    of others that can be used. Raises DataError where there are too few users.
    """
    wanted = sizes(config, int(users.max()) + 1)
    codes = np.unique(users[usable], return_inverse=True)[1]  # in the order of the deal
    count = int(codes.max(initial=-1)) + 1
    most = count - wanted.test
    pool = config.pool or most // 2 * 2
    if most < pool or pool < MIN_POOL:
        raise DataError(
            f"{config.unit} has {count + wanted.population:,} different values that can be used, "
            f"and pool + population + test is {wanted.population + wanted.test:,} + "
            f"{max(pool, MIN_POOL):,} of them; use smaller splits",
            "unit",
        )
    test, inside = codes < wanted.test, (codes >= wanted.test) & (codes < wanted.test + pool)
    return usable[inside], known, usable[test]


def _require_both(config: DatasetConfig, pool: int, test: int) -> None:
    """Raise DataError where fewer rows than asked for lie on a side of the cut in time."""
    if pool < (config.pool or 0) or test < (config.test or 0):
        raise DataError(
            f"{pool:,} rows are left for the pool before the cut in {config.time}, and {test:,} "
            "for the test set after it: fewer than asked for; use less, or null",
            "time",
        )


def _given(
    config: DatasetConfig, every: Sequence[str], inputs: Sequence[str], made_of: str
) -> tuple[dict[str, Column], list[str] | None, str]:
    """What the user says of columns, by keys or in a schema; the classes, where they are named; and
    a digest of the table and of the schema. Raises DataError.
    """
    schema, made_of = _schema(config, made_of)
    said = [
        *(
            ("schema", name, _column(name, word))
            for name, word in schema.get("columns", {}).items()
        ),
        *(("drop", name, Column(Kind.IGNORED, key="drop")) for name in config.drop),
        *(("numeric", name, Column(Kind.NUMBER, key="numeric")) for name in config.numeric),
        *(
            ("categorical", name, Column(Kind.CATEGORY, key="categorical"))
            for name in config.categorical
        ),
        *(
            ("ordinal", name, Column(Kind.ORDERED, tuple(order), "ordinal"))
            for name, order in config.ordinal.items()
        ),
    ]
    given: dict[str, Column] = {}
    for key, name, column in said:
        if name not in inputs and key != "schema":
            aside = "is no input anyway; leave it out here" if name in every else "is no column"
            raise DataError(f"{printable(str(name))!r} {aside}", key)
        if name not in every:
            raise DataError(
                f"there is no column {printable(str(name))!r}; remove it from {config.schema}", key
            )
        if name in given:
            raise DataError(f"something else is said of {name!r} too; say one thing", key)
        if column.kind == Kind.ORDERED and len(set(column.values)) < 2:
            raise DataError(f"{name!r} needs at least two values, the least first", key)
        given[name] = column
    return given, schema.get("classes"), made_of


def _column(name: str, said: object) -> Column:
    """From the schema's word on a column. Raises DataError."""
    if said in ("number", "category", "ignore"):
        return Column(Kind(str(said)))
    if isinstance(said, list) and said:
        return Column(Kind.CATEGORY, tuple(said))
    if isinstance(said, dict) and said.keys() == {"ordered"} and isinstance(said["ordered"], list):
        return Column(Kind.ORDERED, tuple(map(str, said["ordered"])))
    raise DataError(
        f"the kind of {name!r} must be number, category, ignore, a list of its categories, or "
        "`ordered: [...]` with the least first",
        "schema",
    )


def _schema(config: DatasetConfig, made_of: str) -> tuple[dict[str, Any], str]:
    """What the schema file says: `classes`, a list, and `columns`, each with what _column reads;
    and a digest of the table and of that file. Every value is text as it stands there: `no` is a
    class and not a falsehood.
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
    said = schema.get("columns", {})
    if not isinstance(said, dict) or not isinstance(schema.get("classes", []), list):
        raise DataError(
            f"in {path} `classes` must be a list, and `columns` names with their kinds", "schema"
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


def _columns(frame: pd.DataFrame, config: DatasetConfig, aimless: bool) -> pd.DataFrame:
    """The table with column names as text; target, group and time are among them."""
    names = [str(name).strip() for name in frame.columns]
    frame = frame.set_axis(names, axis=1).reset_index(drop=True)  # ids are places in the file
    require_columns(names, len(names))
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if config.target is None and not aimless:
        raise DataError(f"give the column to predict, one of {shown}", "target")
    for key in ("target", "group", "time", "unit", "id"):
        name = getattr(config, key)
        if name is not None and name not in names:
            raise DataError(f"there is no column {name!r}; choose from {shown}", f"{key}")
    for key in ("group", "time", "unit", "id"):
        if config.target is not None and config.target == getattr(config, key):
            raise DataError("is the target; give another column", key)
    if not len(frame):
        raise DataError("the table has no rows; give one that has", "path")
    return frame


def _rows(frame: pd.DataFrame, config: DatasetConfig, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Rows with a label, each once, and one of each group, shuffled: copies in and out of a
    training set would spoil every attack.

    The order is one of all rows of the file, and a row is left out for what an earlier one holds.
    So the first of them, which are the population, are the same whatever the later ones hold.
    """
    notes = []
    frame = frame.iloc[order_of(config, seed, len(frame))]

    def missing(name: object) -> list[str]:
        return (
            []
            if name in (config.group, config.unit, config.id)
            else MISSING + NOTHING * (name != config.target)
        )

    try:
        frame = frame.apply(lambda column: _trimmed(column, missing(column.name)))
        labelled = frame if config.target is None else frame[frame[config.target].notna()]
        if lost := len(frame) - len(labelled):
            notes.append(f"{lost:,} rows without a label left out")
        once = labelled[~labelled.duplicated()]
    except TypeError:
        raise DataError(
            "some column holds lists or records; give numbers and text only", "path"
        ) from None
    if lost := len(labelled) - len(once):
        notes.append(f"{lost:,} rows that copy another left out")
    if config.time is not None:
        timed = once[once[config.time].notna()]
        if lost := len(once) - len(timed):
            notes.append(f"{lost:,} rows without a {config.time} left out")
        once = timed
    if not len(once):
        raise DataError(f"no row has a value in {config.target!r}; choose another column", "target")
    if config.group is not None:
        once = _one_of_each(once, config.group, config, notes)
    if config.unit is not None:
        once = _of_users(once, config, notes)
    return once, notes


def _of_users(rows: pd.DataFrame, config: DatasetConfig, notes: list[str]) -> pd.DataFrame:
    """Rows that belong to a user, of each at most so many as are asked for, the first in the order
    of the deal.
    """
    known = rows[columns.names_of(rows[config.unit]) != ""]
    ids = columns.names_of(known[config.unit])
    if (alike := ids.str.lower().nunique()) < ids.nunique():
        notes.append(
            f"{ids.nunique() - alike:,} values of {config.unit} differ from another in case only, "
            "and are taken for other users"
        )
    if lost := len(rows) - len(known):
        notes.append(f"{lost:,} rows without a {config.unit} left out")
    if config.unit_rows is None:
        return known
    few = known[known.groupby(ids).cumcount() < config.unit_rows]
    if lost := len(known) - len(few):
        notes.append(
            f"{lost:,} rows left out, so that no {config.unit} has more than {config.unit_rows}"
        )
    return few


def _one_of_each(
    rows: pd.DataFrame, group: str, config: DatasetConfig, notes: list[str]
) -> pd.DataFrame:
    """The first row of each group. Raises DataError for a row without one, and for too few."""
    ids = rows[group]
    if nobody := int((ids.isna() | (ids.astype(str) == "")).sum()):
        message = (
            f"{nobody:,} rows have no {group}; give each the one that it belongs "
            "to, or leave those rows out"
        )
        raise DataError(message, "group")
    grouped = rows[~rows.duplicated(group)]
    if lost := len(rows) - len(grouped):
        notes.append(f"{lost:,} rows left out, so that each {group} has one")
    wanted = sum(sizes(config, len(grouped)))
    if len(grouped) < wanted <= len(rows):
        few = (
            f"{group} has {len(grouped):,} different values, of each of which one "
            f"row is used: fewer than the {wanted:,} asked for"
        )
        raise DataError(f"{few}; give the column that names a person, or smaller splits", "group")
    return grouped


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


def usable_of(labels: Shaped[np.ndarray, " N"]) -> np.ndarray:
    """Which labels are a class or, as targets of a regression, a number."""
    flags: np.ndarray = ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0
    return flags


def _targets(column: pd.Series, bounds: Sequence[float]) -> Float[np.ndarray, " N"]:
    """The targets of a regression, float32 from -1 to 1, cut at public bounds; nan for what is no
    number. Raises DataError where none is.
    """
    numbers = numbers_of(column)
    if numbers is None or np.isnan(numbers).all():
        raise DataError("holds no numbers, and a regression predicts them", "target")
    if len(bounds) != 2:
        raise DataError("give the least and the greatest target, such as [0,100]", "bounds")
    low, high = bounds
    scaled = 2 * (np.clip(numbers, low, high) - low) / (high - low) - 1
    targets: np.ndarray = scaled.astype(np.float32)
    return targets


def _question(target: str, classes: Sequence[Any], population: int) -> None:
    """Raise DataError for a target that looks like a quantity: many different numbers, or next to
    as many as the population has rows.
    """
    many = len(classes) > min(MANY_NUMBERS, max(SOME_NUMBERS, population // 3))
    if many and not isinstance(classes[0], str):
        low, high = f"{min(classes):g}", f"{max(classes):g}"
        raise DataError(
            f"{target} has {len(classes):,} different numbers on the population alone: if "
            f"it is a quantity, use task=regression bounds=[LEAST,GREATEST], which hold "
            f"{low} and {high} and are public; if they are classes, name them in schema=FILE",
            "target",
        )


def _labels(
    column: pd.Series, population: Int[np.ndarray, " P"], given: Sequence[Any] | None
) -> tuple[np.ndarray, Sequence[Any]]:
    """Class of each row, int64 [N], -1 where its label is none of the classes; the classes, as
    given or as the population has them.
    """
    numbers = all_numeric(column, population)
    if given is not None:
        listed = numbers_of(pd.Series(given, dtype=object))
        numbers = numbers_of(column) if listed is not None and not np.isnan(listed).any() else None
    values = pd.Series(
        numbers if numbers is not None else column.astype(object).map(named).to_numpy(dtype=object)
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
