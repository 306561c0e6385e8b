"""Schemas of the commands that train nothing."""

from fractions import Fraction

import pytest

from dptrain.config import compose
from dptrain.config.commands import Format
from dptrain.core.errors import ConfigError


def test_a_decimal_rate_is_taken_at_its_word():
    loaded = compose.load("calibrate", ["epsilon=1", "sample_rate=0.004", "epochs=2"])
    assert loaded.rate == Fraction(4, 1000)
    assert loaded.planned_steps == 500
    assert loaded.format is Format.TABLE


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["sample_rate=0.1", "steps=5"], "epsilon: give exactly one"),
        (["epsilon=1", "max_tpr=0.5", "sample_rate=0.1", "steps=5"], "max_tpr: give exactly one"),
        (["epsilon=1", "sample_rate=0.1"], "epochs: give either"),
        (["epsilon=1", "batch_size=5", "steps=5"], "n: is needed"),
        (["max_tpr=0.01", "at_fpr=0.02", "sample_rate=0.1", "steps=5"], "max_tpr: must lie above"),
        (["epsilon=1", "n=10", "batch_size=5", "steps=5", "delta=0.1"], "delta: must lie below"),
    ],
)
def test_what_does_not_fit_together_is_named(overrides, key):
    with pytest.raises(ConfigError, match=key):
        compose.load("calibrate", overrides)
