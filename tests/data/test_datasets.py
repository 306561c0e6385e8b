"""Named data sets: their formats, on small files written here; what is absent, altered or
unreachable is one line.
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets
from dptrain.data.download import Remote
from tests.helpers.datasets import RNG, blob, chosen, write_adult, write_location30


def test_location30(tmp_path, monkeypatch):
    write_location30(tmp_path, monkeypatch)
    config_ = chosen(
        "location30",
        f"dataset.path={tmp_path}",
        "dataset.pool=200",
        "dataset.population=40",
        "dataset.test=40",
    )
    declared = datasets.source(config_, 0)
    assert (declared.size, declared.shape, declared.classes) == (300, (446,), 30)
    examples = declared.read()
    assert examples.labels.tolist()[:31] == [*range(30), 0]
    assert set(np.unique(examples.inputs)) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["purchase100", "texas100"])
def test_a_hundred_classes(tmp_path, monkeypatch, name):
    labels = RNG.integers(0, 100, 400)
    path = tmp_path / f"{name}.npz"
    np.savez(path, features=RNG.integers(0, 2, (400, 50)), labels=np.eye(100)[labels])
    remote = Remote(path.name, "http://none", f"git:{blob(path.read_bytes())}")
    declared = datasets._hundred(name, remote)(chosen(name, f"dataset.path={tmp_path}"), 0)
    np.testing.assert_array_equal(declared.read().labels, labels)
    assert declared.classes == 100


def test_adult(tmp_path, monkeypatch):
    write_adult(tmp_path, monkeypatch)
    small = ("dataset.pool=100", "dataset.population=100", "dataset.test=30")
    declared = datasets.source(chosen("adult", f"dataset.path={tmp_path}", *small), 0)
    assert (declared.size, declared.classes) == (260, 2)  # fifty rows stand in both parts
    assert declared.notes == ("50 rows that copy another left out",)
    with pytest.raises(
        (ConfigError, LayerError), match=r"(dataset\.)?target: adult has one target"
    ):
        datasets.source(
            chosen("adult", f"dataset.path={tmp_path}", "dataset.target=race", *small), 0
        )


def test_bundled():
    small = ("dataset.pool=100", "dataset.population=100", "dataset.test=30")
    digits = datasets.source(chosen("digits", *small), 0)
    np.testing.assert_array_equal(
        digits.read().inputs[:, 0], load_digits().images.astype(np.float32) / 8 - 1
    )
    declared = datasets.source(chosen("breast_cancer", *small), 0)
    assert (declared.size, declared.shape) == (569, (30,))
    np.testing.assert_array_equal(declared.read().labels, load_breast_cancer().target)


def test_fashion_mnist_where_debian_puts_it():
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    declared = datasets.source(chosen("fashion_mnist"), 0)
    examples = declared.read()
    assert examples.inputs.shape == (70_000, 1, 28, 28)
    assert np.bincount(examples.labels).tolist() == [7000] * 10
    assert abs(float(examples.inputs[:60_000].mean())) < 0.01
    assert float(examples.inputs[:60_000].std()) == pytest.approx(1, abs=0.01)
