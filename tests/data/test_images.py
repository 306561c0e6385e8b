"""Files of the user's: read as they are, or refused in one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets, images, splits
from tests.fleets import idx
from tests.helpers.datasets import RNG, archive, chosen


def write_mnist(folder, zipped=True):
    rng = np.random.default_rng(0)
    for part, size in (("train", 60_000), ("t10k", 10_000)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (size, 28, 28), np.uint8)),
            ("labels-idx1", rng.integers(0, 10, size, np.uint8)),
        ):
            content = idx(array)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content, 1) if zipped else content)


def parts(name, path, **sizes):
    overrides = [
        f"dataset={name}",
        f"dataset.path={path}",
        *(f"dataset.{key}={value}" for key, value in sizes.items()),
        "training.batch_size=50",
    ]
    return compose.load("sweep", overrides).dataset


def test_mnist_from_idx_files(tmp_path):
    write_mnist(tmp_path, zipped=False)
    chosen = parts("mnist", tmp_path)
    source = datasets.source(chosen, 0)
    loaded = splits.load(source, chosen, 0)
    assert (source.size, source.shape, source.classes) == (70_000, (1, 28, 28), 10)
    assert [len(part.labels) for part in (loaded.pool, loaded.population, loaded.test)] == [
        60_000,
        2000,
        8000,
    ]
    training, test = images.mnist_parts(tmp_path)
    assert (len(training.labels), len(test.labels)) == (60_000, 10_000)
    assert training.inputs.min() == pytest.approx(-0.1307 / 0.3081)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(10_000, np.uint8)))
    assert datasets.source(chosen, 0).digest != source.digest


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08", b"\x1f\x8b nonsense", idx(np.zeros(3, np.uint8))[:-1]]
)
def test_damaged_idx_files(tmp_path, content):
    write_mnist(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(
        (ConfigError, LayerError), match=r"(dataset\.)?path: .*(fetch it again|does not hold MNIST)"
    ):
        images.mnist_parts(tmp_path)


def test_npz(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8), np.uint8)
    labels = np.arange(300) % 7
    np.savez(tmp_path / "a.npz", inputs=images, labels=labels)
    chosen = parts("npz", tmp_path / "a.npz", pool=200, population=50, test=50)
    source = datasets.source(chosen, 0)
    loaded = splits.load(source, chosen, 0)
    assert (source.size, source.shape, source.classes, loaded.classes) == (300, (3, 8, 8), 7, 7)
    assert -1 <= loaded.pool.inputs.min() < -0.9
    assert 0.9 < loaded.pool.inputs.max() <= 1
    assert loaded.pool.inputs.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"inputs": np.zeros((4, 2))}, "holds inputs; give arrays"),
        ({"inputs": np.zeros((4, 2)), "labels": np.zeros(3, int)}, "must be"),
        ({"inputs": np.zeros((4, 2)), "labels": np.zeros(4, int)}, "two classes"),
        ({"inputs": np.zeros((4, 2)), "labels": np.array([0, 1, -1, 1])}, "from 0"),
        ({"inputs": np.zeros((4, 2)), "labels": np.array([0.0, 1, 1, 1])}, "whole numbers"),
        ({"inputs": np.full((4, 2), np.nan), "labels": np.array([0, 1, 1, 1])}, "finite"),
        ({"inputs": np.full((4, 2), 1e300), "labels": np.array([0, 1, 1, 1])}, "float32 holds"),
        ({"inputs": np.array([["a"]] * 4), "labels": np.array([0, 1, 1, 1])}, "finite numbers"),
        ({"inputs": np.array([[None]] * 4), "labels": np.array([0, 1, 1, 1])}, "cannot be read"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, reason):
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises((ConfigError, LayerError), match=rf"^(dataset\.)?path: .*{reason}"):
        datasets.source(parts("npz", tmp_path / "b.npz"), 0)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 torn", b"\x93NUMPY\x01\x00 torn", b"a,b\n1,2\n"]
)
def test_files_that_are_no_archives(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises((ConfigError, LayerError), match=r"^(dataset\.)?path: .*cannot be read"):
        datasets.source(parts("npz", tmp_path / "c.npz"), 0)
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises((ConfigError, LayerError), match=r"^(dataset\.)?path: .*cannot be read"):
        datasets.source(parts("npz", tmp_path / "d.npy"), 0)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_binary_version(tmp_path, classes):
    names = (
        [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
        if classes == 10
        else ["train.bin", "test.bin"]
    )
    extra = 1 if classes == 10 else 2
    each = 60_000 // len(names)
    parts = {}
    for name in names:
        rows = RNG.integers(0, 256, (each, extra + 3072), np.uint8)
        rows[:, :extra] %= classes
        parts[f"cifar/{name}"] = rows
    path = tmp_path / "c.tar.gz"
    order = sorted(parts, key=lambda name: ("test" in name, name))
    content = {name: rows[:200].tobytes() for name, rows in parts.items()} | {
        "cifar/readme.html": b"text"
    }
    archive(path, content)
    found = images._cifar(path, classes)
    whole = np.concatenate([parts[name][:200] for name in order])
    np.testing.assert_array_equal(found.labels, whole[:, extra - 1])
    red = whole[:, extra : extra + 1024].reshape(-1, 32, 32) / 255
    np.testing.assert_allclose(found.inputs[:, 0], (red - 0.4914) / 0.2470, rtol=1e-4, atol=1e-5)
    for bad in ({}, {"a.bin": b"123"}, {"a.bin": b"\xff" * (extra + 3072)}):
        archive(path, bad)
        with pytest.raises((ConfigError, LayerError), match="cannot be read"):
            images._cifar(path, classes)
    path.write_bytes(b"no archive")
    with pytest.raises((ConfigError, LayerError), match="cannot be read"):
        images._cifar(path, classes)


def write_idx(folder: Path, shape=(9, 7), classes=3):
    parts = {}
    for part, size in (("train", 300), ("t10k", 100)):
        pixels, labels = (
            RNG.integers(0, 256, (size, *shape), np.uint8),
            RNG.integers(0, classes, size).astype(np.uint8),
        )
        parts[part] = pixels, labels
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array), 1))
    return parts


def test_idx_of_anyone(tmp_path):
    parts = write_idx(tmp_path)
    one = chosen(
        "idx",
        f"dataset.path={tmp_path}",
        "dataset.pool=200",
        "dataset.population=100",
        "dataset.test=50",
    )
    declared = datasets.source(one, 0)
    assert (declared.size, declared.shape, declared.classes) == (400, (1, 9, 7), 3)
    np.testing.assert_allclose(
        declared.read().inputs[:300, 0], parts["train"][0] / 127.5 - 1, atol=1e-6
    )
    assert len(splits.load(declared, one, 0).pool.labels) == 200
    write_idx(tmp_path, classes=1)
    with pytest.raises((ConfigError, LayerError), match="at least two classes"):
        datasets.source(one, 0)
    with pytest.raises((ConfigError, LayerError), match="idx needs the folder"):
        datasets.source(chosen("idx"), 0)
