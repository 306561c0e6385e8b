"""Noise of the four compositions as Jayaraman and Evans's code gives it."""

import math

import pytest

from dptrain.papers import accounting
from dptrain.privacy import rdp

DELTA, PASSES = 1e-5, 100


@pytest.mark.parametrize(
    ("name", "nominal", "noise"),
    [
        ("NC", 1, 572),
        ("NC", 100, 5.72),
        ("NC", 1000, 0.572),
        ("AC", 1, 300),
        ("AC", 10, 37.8),
        ("AC", 100, 7.45),
        ("AC", 1000, 2.0),
        ("zCDP", 1, 49),
        ("zCDP", 10, 5.68),
        ("zCDP", 100, 0.987),
        ("zCDP", 1000, 0.249),
    ],
)
def test_noise_is_what_their_code_prints(name, nominal, noise):
    ours = accounting.WITHOUT_AMPLIFICATION[name](nominal, DELTA, PASSES)
    assert ours == pytest.approx(noise, rel=0.005)


@pytest.mark.parametrize(("nominal", "noise"), [(1, 7.0), (10, 1.06)])
def test_noise_of_sampled_steps_has_the_nominal_epsilon(nominal, noise):
    ours = accounting.moments(nominal, 0.02, 5000, DELTA)
    assert ours == pytest.approx(noise, rel=0.005)
    assert rdp.classic(0.02, ours, 5000, DELTA) == pytest.approx(nominal, rel=1e-3)


def test_zero_concentrated_dp_is_spent_whole():
    noise = accounting.concentrated(3.0, DELTA, PASSES)
    rho = PASSES / (2 * noise**2)
    assert rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) == pytest.approx(3.0)
