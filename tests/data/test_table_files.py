"""Tests of data.table_files."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets
from tests.helpers.datasets import chosen
from tests.helpers.tables import N, loaded, refused_within, table


def test_openml_offline(tmp_path, monkeypatch):
    import sklearn.datasets

    def offline(**_):
        raise OSError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(
        LayerError,
        match=r"number: OpenML's data set 1590 cannot be had \(no network\); go online once",
    ):
        datasets.source(chosen("openml", "dataset.number=1590"), 0)
    with pytest.raises((ConfigError, LayerError), match=r"number: openml needs the number"):
        datasets.source(chosen("openml"), 0)


def test_openml_as_scikit_learn_gives_it(monkeypatch):
    import sklearn.datasets
    from sklearn.utils import Bunch

    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "class"})
    monkeypatch.setattr(
        sklearn.datasets, "fetch_openml", lambda **_: Bunch(frame=frame, target_names=["class"])
    )
    small = ("dataset.pool=300", "dataset.population=100", "dataset.test=100")
    declared = datasets.source(chosen("openml", "dataset.number=13", *small), 0)
    assert (declared.shape, declared.classes, declared.size) == ((30,), 2, 569)


def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path):
    lines = table().to_csv(index=False).splitlines()
    shifted = "\n".join([lines[0], *(f"{number},{line}" for number, line in enumerate(lines[1:]))])
    with pytest.raises(
        (ConfigError, LayerError), match=r"line 2 of .* has 5 cells, and the first line 4"
    ):
        loaded(tmp_path, shifted)


@pytest.mark.long
def test_wide_tables_end(tmp_path):
    header = ",".join(f"c{n}" for n in range(100_000)) + ",y\n"
    refused_within(60, "there may be 10,000", lambda: loaded(tmp_path, header + "1,2\n"))
    refused_within(60, "longer than", lambda: loaded(tmp_path, "c" * 20_000_000 + ",y\n"))
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        rng.integers(0, 9, (N, 3000)), columns=[f"k{n}" for n in range(3000)]
    ).assign(y=np.arange(N) % 2)
    start = time.monotonic()
    declared, _ = loaded(tmp_path, wide)
    assert declared.shape == (3000,)
    assert time.monotonic() - start < 120
