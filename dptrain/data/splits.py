"""Data, shuffled once and split into pool, population and test.

The shuffle depends on the seed alone, and nothing is ever fitted on the pool.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from dptrain.config.schema import MIN_POOL, DatasetConfig
from dptrain.core.errors import DataError
from dptrain.core.streams import Purpose, generator, seeded_key
from dptrain.data.canaries import CANARIES


@dataclass(frozen=True)
class Examples:
    """inputs: float32 [N, *shape], or int64 for tokens; labels: int64 [N], or the targets of a
    regression, float32 from -1 to 1; ids: int64 [N], the row
    of each in the user's file, counted from 0, where that is not simply its place here.
    """

    inputs: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None

    def take(self, indices: Int[np.ndarray, " n"]) -> Examples:
        return Examples(
            self.inputs[indices],
            self.labels[indices],
            indices if self.ids is None else self.ids[indices],
        )


@dataclass(frozen=True)
class Attribute:
    """A column of a table that an attacker tries to learn of rows whose other columns are known.

    values: what may stand there, as text; codes: which of them each example has, int64 [N], -1
    where none; places: of the inputs that come from this column, int64 [P], none where it is the
    target; blocks: what the inputs are there for each value, float32 [values, P].
    """

    values: tuple[str, ...]
    codes: np.ndarray
    places: np.ndarray
    blocks: np.ndarray

    def of(self, indices: Int[np.ndarray, " n"]) -> Attribute:
        return replace(self, codes=self.codes[indices])


@dataclass(frozen=True)
class Dataset:
    """pool: what the models train on, each on its own half; population: no model's; test: for
    utility only; classes: how many. The first `canaries` of the pool are canaries; `copies` of its
    examples are equal to another one of the three parts. users: whose each example of the pool is,
    numbered from 0 in the order of the pool, where users are in a training set or not; test_users:
    the same of the test set. groups: by column, the texts of pool and test examples there.
    attributes: by column, that which is attacked, of pool and population examples. names: of the
    examples of the pool, [N], where a column gives them. class_names: of the classes in order,
    where they are not numbers from 0.
    """

    pool: Examples
    population: Examples
    test: Examples
    classes: int
    canaries: int = 0
    copies: int = 0
    users: np.ndarray | None = None
    test_users: np.ndarray | None = None
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[Attribute, Attribute]] = field(default_factory=dict)
    names: np.ndarray | None = None
    class_names: Sequence[str] = ()

    @property
    def parts(self) -> dict[str, Examples]:
        return {"pool": self.pool, "population": self.population, "test": self.test}

    @cached_property
    def digest(self) -> str:
        hashed = hashlib.sha256()
        for part in self.parts.values():
            for array in (part.inputs, part.labels):
                hashed.update(repr((array.shape, array.dtype)).encode())
                hashed.update(np.ascontiguousarray(array).tobytes())
        if self.users is not None:
            hashed.update(self.users.tobytes())
        return hashed.hexdigest()


@dataclass(frozen=True)
class Source:
    """What is public about a data set, and how to read it; digest: of its files, where it is not
    bundled; unit: of privacy, where it is not one example; notes: what a user should know, and
    nobody whom a model is given to; split: indices of pool, population and test, where what is
    fitted on the population decides which others can be used; how: what is done to inputs, as plain
    data (data.columns.Encoded, or the mean and deviation of bytes / 255); names: of the classes,
    where they are not numbers from 0. column: from the name of a column of a table to the text of
    each example there, and attribute: to what an attacker can learn of it. users: whose each
    example is, int64, where sizes of parts count users, and user: what one is called.
    """

    preprocessing: str
    shape: tuple[int, ...]
    classes: int
    size: int
    read: Callable[[], Examples]
    digest: str = ""
    unit: str | None = None
    notes: tuple[str, ...] = ()
    split: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    column: Callable[[str], np.ndarray] | None = None
    attribute: Callable[[str], Attribute] | None = None
    users: np.ndarray | None = None
    user: str = ""

    def count(self, part: Int[np.ndarray, " n"]) -> int:
        """How many users, or examples where there are none, some examples are of."""
        return len(part) if self.users is None else len(np.unique(self.users[part]))


def order_of(config: DatasetConfig, seed: int, size: int) -> np.ndarray:
    """The order in which `size` examples are dealt out, a function of the seed and of how many
    there are alone.
    """
    return generator(seeded_key(seed, config.name), Purpose.SPLIT).permutation(size)


class Sizes(NamedTuple):
    """How many examples the parts have."""

    pool: int
    population: int
    test: int


def sizes(config: DatasetConfig, size: int) -> Sizes:
    """Of the parts of `size` examples: as given, or a tenth for the population, a fifth for the
    test set, and an even rest for the pool.
    """
    test = max(1, size // 5) if config.test is None else config.test
    population = max(1, size // 10) if config.population is None else config.population
    pool = (size - test - population) // 2 * 2 if config.pool is None else config.pool
    return Sizes(pool, population, test)


def sized(config: DatasetConfig, declared: Source) -> DatasetConfig:
    """The same with the sizes of the parts, where they were left to the data. Raises DataError
    where too little is left.
    """
    if config.known:
        return config
    split = parts(config, 0, declared)
    pool, population, test = map(declared.count, split)
    least = {"pool": (pool, MIN_POOL), "population": (population, 1), "test": (test, 1)}
    for part, (count, needed) in least.items():
        if count < needed:
            raise DataError(
                f"of {declared.size:,} examples {count:,} are left for it, which needs {needed}; "
                "give other sizes, or more data"
                + (f", or a finer {config.time}" if config.time is not None else ""),
                part,
            )
    rows = config.unit_count
    if declared.users is not None and rows is None:
        rows = split[0].size
    return replace(config, pool=pool, population=population, test=test, unit_count=rows)


def require_enough(config: DatasetConfig, size: int) -> None:
    """Raise DataError where pool, population and test want more than `size` examples."""
    wanted = sum(sizes(config, size))
    if wanted > size:
        open_sizes = replace(config, pool=None, population=None, test=None)
        pool, population, test = sizes(open_sizes, size)
        suggested = f"use such as pool={pool} population={population} test={test}"
        fix = suggested if pool >= MIN_POOL else "it is too small"
        message = (
            f"pool + population + test is {wanted:,}, but {config.name} has {size:,} "
            f"examples; {fix}"
        )
        raise DataError(message, "pool")


def parts(
    config: DatasetConfig, seed: int, declared: Source
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of pool, population and test among a data set's examples. Raises DataError where
    there are not enough.
    """
    require_enough(config, declared.size)
    if declared.split is not None:
        return declared.split
    order, ends = (
        order_of(config, seed, declared.size),
        np.cumsum(sizes(config, declared.size)),
    )
    pool, population, test = np.split(order[: ends[-1]], ends[:-1])
    return pool, population, test


def copies(of: Sequence[Examples]) -> int:
    """How many examples of the first equal another of any part, label aside: a copy is in while its
    twin is out, so attacks on it say little.
    """
    rows = [
        [
            hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            for row in np.ascontiguousarray(part.inputs)
        ]
        for part in of
    ]
    counts = Counter(itertools.chain(*rows))
    return sum(counts[row] > 1 for row in rows[0])


def load(
    declared: Source,
    config: DatasetConfig,
    seed: int,
    tokens: bool = False,
    groups: Sequence[str] = (),
    attributes: Sequence[str] = (),
) -> Dataset:
    """Read a data set, shuffle it (files come sorted by class) and split it into parts of the given
    sizes.

    tokens: whether the model takes whole numbers, which then stay what they are; else all inputs
    are float32. groups: columns by which results are parted. attributes: columns that are attacked.
    Raises DataError when the file does not hold what its Source declares.
    """
    examples = declared.read()
    expected = (declared.size, *declared.shape)
    if examples.inputs.shape != expected:
        raise DataError(
            f"{config.name} has shape {examples.inputs.shape}, expected {expected}; "
            "reinstall its package",
            "name",
        )
    if not tokens and examples.inputs.dtype != np.float32:
        examples = Examples(examples.inputs.astype(np.float32), examples.labels, examples.ids)
    inside, *others = parts(config, seed, declared)
    users, of_test, k = None, None, config.canaries
    if declared.users is not None:  # those of one user beside each other, canaries first
        users = pd.factorize(declared.users[inside])[0].astype(np.int64)
        order = np.argsort(users, kind="stable")
        inside, users = inside[order], users[order]
        if config.unit_rows is not None and np.bincount(users).max() > config.unit_rows:
            raise DataError(f"some user has more than {config.unit_rows} rows", "unit_rows")
        of_test = pd.factorize(declared.users[others[1]])[0].astype(np.int64)
        k = int((users < k).sum())
    pool, population, test = (examples.take(part) for part in (inside, *others))
    if k:
        rng = generator(seeded_key(seed, config.name), Purpose.CANARY)
        made = CANARIES[config.canary](pool.inputs[:k], pool.labels[:k], declared.classes, rng)
        inputs, labels = (
            np.concatenate([new.astype(old.dtype), old[k:]])
            for new, old in zip(made, (pool.inputs, pool.labels), strict=True)
        )
        pool = Examples(inputs, labels, pool.ids)
    same = copies([pool, population, test])
    by_column, attacked = {}, {}
    for name in groups:
        assert declared.column is not None
        texts = declared.column(name)
        by_column[name] = texts[inside], texts[others[1]]
    for name in attributes:
        assert declared.attribute is not None
        attribute = declared.attribute(name)
        attacked[name] = attribute.of(inside), attribute.of(others[0])
    names, classes = None, declared.classes
    if config.id is not None:
        assert declared.column is not None
        names = declared.column(config.id)[inside]
    return Dataset(
        pool,
        population,
        test,
        classes,
        k,
        same,
        users,
        of_test,
        by_column,
        attacked,
        names,
        declared.names,
    )
