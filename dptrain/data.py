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
    """inputs: float32 [N, *shape]; labels: int64 [N]."""

    inputs: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> Examples:
        return Examples(self.inputs[indices], self.labels[indices])


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
    one example; notes: what a user should know."""

    preprocessing: str
    shape: tuple[int, ...]
    classes: int
    size: int
    read: Callable[[], Examples]
    digest: str = ""
    unit: str | None = None
    notes: tuple[str, ...] = ()


def parts(config: DatasetConfig, seed: int, size: int) -> list[np.ndarray]:
    """Indices of pool, population and test among `size` examples. Raises ConfigError where there are not enough."""
    ends = np.cumsum([config.pool, config.population, config.test])
    if ends[-1] > size:
        test, population = max(1, size // 5), max(1, size // 10)
        pool = (size - test - population) // 2 * 2
        fix = (
            f"use such as dataset.pool={pool} dataset.population={population} dataset.test={test}"
            if pool >= MIN_POOL
            else "it is too small"
        )
        message = f"pool + population + test is {ends[-1]:,}, but {config.name} has {size:,} examples; {fix}"
        raise ConfigError("dataset.pool", message)
    order = generator(seeded_key(seed, config.name), Purpose.SPLIT).permutation(size)
    return np.split(order[: ends[-1]], ends[:-1])


def copies(of: Sequence[Examples]) -> int:
    """How many examples of the first equal another of any part, label aside: a copy is in while its twin is out, so attacks on it say little."""
    rows = [[hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.ascontiguousarray(part.inputs)] for part in of]
    counts = Counter(itertools.chain(*rows))
    return sum(counts[row] > 1 for row in rows[0])


def load(declared: Source, config: DatasetConfig, seed: int) -> Dataset:
    """Read a data set, shuffle it (files come sorted by class) and split it into parts of the given sizes.

    Raises ConfigError when the file does not hold what its Source declares.
    """
    examples = declared.read()
    expected = (declared.size, *declared.shape)
    if examples.inputs.shape != expected:
        raise ConfigError("dataset.name", f"{config.name} has shape {examples.inputs.shape}, expected {expected}; reinstall its package")
    pool, population, test = (examples.take(part) for part in parts(config, seed, declared.size))
    if k := config.canaries:
        rng = generator(seeded_key(seed, config.name), Purpose.CANARY)
        made = CANARIES[config.canary](pool.inputs[:k], pool.labels[:k], declared.classes, rng)
        pool = Examples(
            *(np.concatenate([new.astype(old.dtype), old[k:]]) for new, old in zip(made, (pool.inputs, pool.labels), strict=True))
        )
    return Dataset(pool, population, test, declared.classes, k, copies([pool, population, test]))
