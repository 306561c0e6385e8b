"""Tables of numbers and categories: CSV, Parquet and OpenML.

What is fitted (means, deviations, which categories there are) is fitted on the population split alone, which no model trains on, so it costs
no privacy. Numbers are standardised and cut at DEVIATIONS; where some are missing they become the mean, and a column tells so. Whatever is
not all numbers is a category: one column for each that occurs RARE times or more, at most CATEGORIES of them, and the rest share one.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dptrain.data import Examples, Source, parts
from dptrain.fetch import digest
from dptrain.schema import DatasetConfig
from dptrain.types import ConfigError, first_line

DEVIATIONS = 5.0
RARE = 5
CATEGORIES = 100
CLASSES = 1000
MISSING = ["", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"]
NOTHING = ["na", "n/a", "None", "none", "-"]
"""Texts for a value that is not there. Those of NOTHING are only in a column to learn from: as a label they may well be a class."""
DELIMITERS = ",;\t|"


def csv_source(config: DatasetConfig, seed: int) -> Source:
    path = _path(config, "FILE.csv")
    return table_source(_read_csv(path, config.header), config, seed, digest(path, "sha256"))


def parquet_source(config: DatasetConfig, seed: int) -> Source:
    path = _path(config, "FILE.parquet")
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise ConfigError("dataset.name", "parquet needs pyarrow; pip install 'dptrain[parquet]', or convert the file to CSV") from None
    except Exception as error:  # pyarrow has many for a file that is not what it should be
        raise ConfigError("dataset.path", f"{path} cannot be read ({first_line(error)}); give a Parquet file") from None
    return table_source(frame, config, seed, digest(path, "sha256"))


def openml_source(config: DatasetConfig, seed: int) -> Source:
    """scikit-learn's fetcher, which verifies the checksum of OpenML's own record, and its cache."""
    from sklearn.datasets import fetch_openml

    if config.id is None:
        raise ConfigError("dataset.id", "openml needs the number of a data set; give dataset.id=1590, which is adult")
    try:
        bunch = fetch_openml(data_id=config.id, as_frame=True, parser="auto", data_home=config.path)
    except Exception as error:  # of the network, of OpenML, of its file
        reason = f"OpenML's data set {config.id} cannot be had ({first_line(error)})"
        raise ConfigError("dataset.id", f"{reason}; go online once, or give dataset.path=FOLDER of scikit-learn's cache") from None
    frame = bunch.frame
    target = config.target or (bunch.target_names or [None])[0]
    own = dataclasses.replace(config, target=target)
    return table_source(frame, own, seed, hashlib.sha256(pd.util.hash_pandas_object(frame.astype(str)).to_numpy().tobytes()).hexdigest())


def table_source(frame: pd.DataFrame, config: DatasetConfig, seed: int, made_of: str) -> Source:
    """From a table to examples. Raises ConfigError, one line, for a table that cannot be trained on."""
    frame, target = _columns(frame, config)
    kept, notes = _rows(frame, target, config)
    labels, classes = _labels(kept[target])
    others = [name for name in kept.columns if name not in (target, config.group)]
    if not others:
        raise ConfigError("dataset.path", "no column is left beside the target; give a table with some")
    population = parts(config, seed, len(kept))[1]
    blocks, told = [], []
    for name in others:
        block, how = _encoded(kept[name], population)
        blocks.append(block)
        told.append((name, how))
    inputs = np.concatenate([block for block in blocks if block.shape[1]] or [np.zeros((len(kept), 0), np.float32)], axis=1)
    if not inputs.shape[1]:
        raise ConfigError("dataset.path", "no column tells one population example from another; give more population, or other columns")
    counts = {how: sum(told_how == how for _, told_how in told) for how in ("numbers", "categories", "left out")}
    dropped = ", ".join(name for name, how in told if how == "left out")
    text = (
        f"{counts['numbers']} columns of numbers standardised and {counts['categories']} of categories one-hot, fitted on the population split only"
        + (f"; left out because constant or too rare there: {dropped}" if dropped else "")
        + f"; columns and {len(classes)} classes are public"
        + "".join(f"; {note}" for note in notes)
    )
    unit = f"one {config.group} (a group, of which one row is kept)" if config.group else None
    examples = Examples(inputs, labels)
    return Source(text, inputs.shape[1:], len(classes), len(labels), lambda: examples, made_of, unit, tuple(notes))


def _path(config: DatasetConfig, example: str) -> Path:
    if config.path is None:
        raise ConfigError("dataset.path", f"{config.name} needs a file; give dataset.path={example} dataset.target=COLUMN")
    if not Path(config.path).is_file():
        raise ConfigError("dataset.path", f"there is no file {config.path}; give dataset.path={example}")
    return Path(config.path)


def _read_csv(path: Path, header: bool) -> pd.DataFrame:
    """Every value as text. The delimiter is the one of DELIMITERS that stands most often in the first line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(DELIMITERS, key=first.count)
            names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])]
        if "\0" in first or not first.strip():
            raise ValueError("its first line is empty or not text")
        if header and (twice := sorted({name for name in names if names.count(name) > 1})):
            raise ConfigError("dataset.path", f"the column {twice[0]!r} stands more than once in {path}; rename one")
        frame = pd.read_csv(
            path,
            sep=delimiter,
            header=0 if header else None,
            names=names if header else [f"c{number}" for number in range(len(names))],
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
            on_bad_lines="error",
            low_memory=False,
        )
    except ConfigError:
        raise
    except UnicodeDecodeError:
        raise ConfigError("dataset.path", f"{path} is not UTF-8 text; convert it, such as with iconv -t UTF-8") from None
    except Exception as error:  # pandas and csv have many
        raise ConfigError("dataset.path", f"{path} cannot be read as CSV ({first_line(error)}); mend it") from None
    return frame


def _columns(frame: pd.DataFrame, config: DatasetConfig) -> tuple[pd.DataFrame, str]:
    """Column names as text; the target and the group are among them."""
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1)
    names = list(frame.columns)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError("dataset.path", f"the column {twice[0]!r} stands more than once; rename one")
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


def _rows(frame: pd.DataFrame, target: str, config: DatasetConfig) -> tuple[pd.DataFrame, list[str]]:
    """Rows with a label, each once, and one of each group: copies in and out of a training set would spoil every attack."""
    notes = []
    try:
        frame = frame.apply(lambda column: _trimmed(column, MISSING if column.name == target else MISSING + NOTHING))
        labelled = frame[frame[target].notna()]
        if lost := len(frame) - len(labelled):
            notes.append(f"{lost:,} rows without a label left out")
        once = labelled[~labelled.duplicated()]
    except TypeError:
        raise ConfigError("dataset.path", "some column holds lists or records; give numbers and text only") from None
    if lost := len(labelled) - len(once):
        notes.append(f"{lost:,} rows that copy another left out")
    if config.group is not None:
        grouped = once[once[config.group].isna() | ~once.duplicated(config.group)]
        if lost := len(once) - len(grouped):
            notes.append(f"{lost:,} rows left out, so that each {config.group} has one")
        once = grouped
    if not len(once):
        raise ConfigError("dataset.target", f"no row has a value in {target!r}; choose another column")
    return once.reset_index(drop=True), notes


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
    """As float64 with NaN where missing; None unless every value that is there is a finite number."""
    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64)
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
        return None
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    there = column.notna().to_numpy()
    return numbers if bool(np.isfinite(numbers[there]).all()) and bool(there.any()) else None


def _labels(column: pd.Series) -> tuple[np.ndarray, Sequence[Any]]:
    numbers = _numbers(column)
    values = numbers if numbers is not None else column.astype(str).to_numpy(dtype=object)
    classes, labels = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError("dataset.target", f"all rows have the same value {classes[0]!r}; choose another column")
    if len(classes) > CLASSES:
        raise ConfigError("dataset.target", f"has {len(classes):,} different values, more than {CLASSES:,} classes; group them")
    return labels.astype(np.int64), classes.tolist()


def _encoded(column: pd.Series, population: np.ndarray) -> tuple[np.ndarray, str]:
    """float32 [N, columns] and what was made of it. `population` are the rows that may be looked at."""
    numbers = _numbers(column)
    if numbers is not None:
        own = numbers[population]
        known = own[~np.isnan(own)]
        with np.errstate(over="ignore", invalid="ignore"):
            spread = float(known.std()) if len(known) else 0.0
            if not np.isfinite(spread) or spread <= 1e-12 * max(1.0, float(np.abs(known).max(initial=0.0))):
                return np.zeros((len(column), 0), np.float32), "left out"
            scaled = np.clip((numbers - known.mean()) / spread, -DEVIATIONS, DEVIATIONS)
        gaps = np.isnan(scaled)
        filled = [np.where(gaps, 0.0, scaled), *([gaps] if np.isnan(own).any() else [])]
        return np.stack(filled, axis=1).astype(np.float32), "numbers"
    text = column.astype(object).where(column.notna(), "missing").astype(str)
    counts = text.iloc[population].value_counts()
    frequent = counts[counts >= RARE].index[:CATEGORIES].sort_values()
    index = frequent.get_indexer(text)
    rest = bool((index[population] < 0).any())
    if len(frequent) + rest < 2:
        return np.zeros((len(column), 0), np.float32), "left out"
    block = np.zeros((len(column), len(frequent) + rest), np.float32)
    known = index >= 0
    block[np.flatnonzero(known), index[known]] = 1
    if rest:
        block[~known, -1] = 1
    return block, "categories"
