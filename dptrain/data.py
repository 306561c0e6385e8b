"""Data, shuffled once and split into pool, population and test.

The shuffle depends on the seed alone, and nothing is ever fitted on the pool.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dptrain.canaries import CANARIES
from dptrain.sampling import Purpose, generator, seeded_key
from dptrain.schema import MIN_POOL, DatasetConfig
from dptrain.types import ConfigError


@dataclass(frozen=True)
class Examples:
    """inputs: float32 [N, *shape], or int64 for tokens; labels: int64 [N]; ids: int64 [N], the row of each in the user's file, counted
    from 0, where that is not simply its place here."""

    inputs: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None = None

    def take(self, indices: np.ndarray) -> Examples:
        return Examples(self.inputs[indices], self.labels[indices], indices if self.ids is None else self.ids[indices])


@dataclass(frozen=True)
class Dataset:
    """pool: what the models train on, each on its own half; population: no model's; test: for utility only; classes: how many.
    The first `canaries` of the pool are canaries; `copies` of its examples are equal to another one of the three parts."""

    pool: Examples
    population: Examples
    test: Examples
    classes: int
    canaries: int = 0
    copies: int = 0

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
        return hashed.hexdigest()


@dataclass(frozen=True)
class Source:
    """What is public about a data set, and how to read it; digest: of its files, where it is not bundled; unit: of privacy, where it is not
    one example; notes: what a user should know, and nobody whom a model is given to; usable: bool [size], which examples may be in pool
    and test set, all by default."""

    preprocessing: str
    shape: tuple[int, ...]
    classes: int
    size: int
    read: Callable[[], Examples]
    digest: str = ""
    unit: str | None = None
    notes: tuple[str, ...] = ()
    usable: np.ndarray | None = None


def parts(config: DatasetConfig, seed: int, size: int, usable: np.ndarray | None = None) -> list[np.ndarray]:
    """Indices of pool, population and test among `size` examples. Raises ConfigError where there are not enough.

    The population comes from a place that depends on the seed and the sizes alone, so what is fitted on it may say which of the other
    examples are usable, bool [size].
    """
    pool, population, test = config.pool, config.population, config.test
    order = generator(seeded_key(seed, config.name), Purpose.SPLIT).permutation(size)
    others = np.concatenate([order[:pool], order[pool + population :]])
    others = others if usable is None else others[usable[others]]
    if pool + population + test > size or len(others) < pool + test:
        wanted = pool + population + test
        size = min(size, len(others) + population)
        test, population = max(1, size // 5), max(1, size // 10)
        fitting = (size - test - population) // 2 * 2
        fix = (
            f"use such as dataset.pool={fitting} dataset.population={population} dataset.test={test}"
            if fitting >= MIN_POOL
            else "it is too small"
        )
        message = f"pool + population + test is {wanted:,}, but {config.name} has {size:,} examples; {fix}"
        raise ConfigError("dataset.pool", message)
    return [others[:pool], order[pool : pool + population], others[pool : pool + test]]


def copies(of: Sequence[Examples]) -> int:
    """How many examples of the first equal another of any part, label aside: a copy is in while its twin is out, so attacks on it say little."""
    rows = [[hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.ascontiguousarray(part.inputs)] for part in of]
    counts = Counter(itertools.chain(*rows))
    return sum(counts[row] > 1 for row in rows[0])


def load(declared: Source, config: DatasetConfig, seed: int, tokens: bool = False) -> Dataset:
    """Read a data set, shuffle it (files come sorted by class) and split it into parts of the given sizes.

    tokens: whether the model takes whole numbers, which then stay what they are; else all inputs are float32. Raises ConfigError when the file does not hold what its Source declares.
    """
    examples = declared.read()
    expected = (declared.size, *declared.shape)
    if examples.inputs.shape != expected:
        raise ConfigError("dataset.name", f"{config.name} has shape {examples.inputs.shape}, expected {expected}; reinstall its package")
    if not tokens and examples.inputs.dtype != np.float32:
        examples = Examples(examples.inputs.astype(np.float32), examples.labels, examples.ids)
    pool, population, test = (examples.take(part) for part in parts(config, seed, declared.size, declared.usable))
    if k := config.canaries:
        rng = generator(seeded_key(seed, config.name), Purpose.CANARY)
        made = CANARIES[config.canary](pool.inputs[:k], pool.labels[:k], declared.classes, rng)
        inputs, labels = (
            np.concatenate([new.astype(old.dtype), old[k:]]) for new, old in zip(made, (pool.inputs, pool.labels), strict=True)
        )
        pool = Examples(inputs, labels, pool.ids)
    return Dataset(pool, population, test, declared.classes, k, copies([pool, population, test]))
