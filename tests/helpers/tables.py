"""Small tables, loaded, and refusals that must not hang."""

import time

import numpy as np
import pandas as pd
import pytest

from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets, splits
from dptrain.pipeline import run

N = 300


SPLIT = ("dataset.pool=120", "dataset.population=100", "dataset.test=40", "training.batch_size=20")


def table(**columns):
    rng = np.random.default_rng(1)
    plain = {
        "a": rng.integers(20, 90, N),
        "c": rng.choice(["x", "y"], N),
        "y": rng.integers(0, 2, N),
        "z": rng.normal(size=N),
    }
    return pd.DataFrame(plain | columns)


def loaded(folder, frame, *more, tokens=False):
    path = folder / "t.csv"
    path.write_text(frame if isinstance(frame, str) else frame.to_csv(index=False))
    chosen = compose.load(
        "sweep", ["dataset=csv", f"dataset.path={path}", "dataset.target=y", *SPLIT, *more]
    )
    declared = datasets.source(chosen.dataset, 0)
    return declared, splits.load(
        declared, chosen.dataset, 0, **({"tokens": True} if tokens else {})
    )


def refused_within(seconds, reason, call):
    start = time.monotonic()
    with pytest.raises((ConfigError, LayerError), match=reason):
        call()
    assert time.monotonic() - start < seconds


DIGITS = [
    "name=small",
    "dataset=digits",
    "dataset.pool=100",
    "dataset.population=60",
    "dataset.test=60",
    "training.batch_size=20",
    "training.epochs=1",
    "training.width=2",
    "training.workers=1",
    "models_per_setting=2",
    "attacks=[loss]",
    "epsilons=[8]",
]


def digits_sweep(folder, *overrides):
    return run.sweep(
        compose.load("sweep", [*DIGITS, *overrides, f"output={folder}"]), show_progress=False
    )
