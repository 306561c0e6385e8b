"""Values."""

import json
import math
from dataclasses import replace

import pytest

from dptrain.core.types import (
    GRID,
    Mechanism,
    NoiseSource,
    Optimiser,
    Recipe,
    Regularisation,
    Sampling,
    Setting,
)

RAN = Mechanism(Sampling.POISSON, 50, 500, 40, 1.3, 0.7, 50)


def test_the_grid_is_a_power_of_two_below_the_noise():
    for noise, clip in ((1.3, 0.7), (0.05, 1e-6), (900.0, 1e6)):
        spacing = replace(RAN, noise_multiplier=noise, clip=clip).spacing
        assert math.log2(spacing).is_integer()
        assert 0.5 < spacing / (noise * clip * 2.0**GRID) <= 1
    assert replace(RAN, noise_multiplier=0.0).spacing == 1.0


def test_json_is_strict_and_shaping_is_all_of_the_recipe():
    plain = replace(RAN, noise_multiplier=0.0, clip=math.inf)
    json.dumps(plain.to_json(), allow_nan=False)
    setting = Setting("s", "none", None, 1e-5, plain, Recipe(Optimiser(0.1)))
    for change in (
        {"optimiser": Optimiser(0.1, momentum=0.5)},
        {"regularisation": Regularisation(mixup=0.3)},
    ):
        other = replace(setting, recipe=replace(setting.recipe, **change))
        assert json.dumps(other.shaping()) != json.dumps(setting.shaping())
    assert not Regularisation().active
    assert Regularisation(relax=0.1).active
    assert NoiseSource("os") == "os"


def test_rates_are_exact():
    assert str(RAN.sample_rate) == "1/10"
    with pytest.raises(AttributeError):
        RAN.steps = 3
