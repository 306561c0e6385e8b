"""Tests of fleet.settings."""

import math

from dptrain.config import compose
from dptrain.fleet import settings


def test_settings_fall_in_epsilon():
    planned = settings.settings(compose.load("sweep", ["epsilons=[2,inf,8]"]))
    assert [setting.name for setting in planned] == ["none", "dpsgd-8", "dpsgd-2"]
    sigmas = [setting.mechanism.noise_multiplier for setting in planned]
    assert sigmas == sorted(sigmas)
    assert planned[0].mechanism.clip == math.inf
