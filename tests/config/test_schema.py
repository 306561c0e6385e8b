"""Tests of config.schema."""

import math

import pytest

from dptrain.config import compose


def test_defaults_are_valid_and_n_is_public():
    loaded = compose.load("sweep", [])
    assert loaded.public_n == 2000
    assert loaded.steps == math.ceil(loaded.training.epochs * 2000 / loaded.training.batch_size)


@pytest.mark.parametrize("epochs", [0.1, 1, 1.5, 50, 33.3])
def test_steps_are_counted_without_rounding_errors(epochs):
    loaded = compose.load(
        "sweep",
        [
            "training.batch_size=93",
            "dataset.pool=186",
            "dataset.population=10",
            "dataset.test=10",
            f"training.epochs={epochs}",
        ],
    )
    assert loaded.steps == math.ceil(round(epochs * 10) / 10)
