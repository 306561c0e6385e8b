"""Tests of privacy.gaussian."""

import math

import pytest

from dptrain.evaluation import one_run
from dptrain.privacy import gaussian
from dptrain.privacy.pld import (
    epsilon,
)
from tests import reference
from tests.helpers.counts import DELTA, EPSILONS
from tests.helpers.mechanisms import gaussian_epsilon, mechanism


@pytest.mark.parametrize("steps", [1, 10, 400])
@pytest.mark.parametrize("sigma", [2.0, 8.0, 40.0])
def test_closed_form_at_sample_rate_one_on_the_safe_side(sigma, steps):
    found, truth = (
        epsilon(mechanism(10, 10, steps, sigma), 1e-5),
        gaussian_epsilon(math.sqrt(steps) / sigma, 1e-5),
    )
    assert truth <= found + 1e-9
    assert found <= truth + 0.02


def test_mu_and_epsilon_are_inverse():
    for spent in EPSILONS[1:]:
        mu = gaussian.mu_of(spent, DELTA)
        assert gaussian.epsilon_of(mu, DELTA) == pytest.approx(spent, abs=1e-9)
        assert reference.gaussian_delta(mu, spent) == pytest.approx(DELTA, rel=1e-6)


def test_delta_zero_has_no_gaussian_epsilon():
    assert one_run.one_run_fdp(100, 50, 50, 0.0) == 0.0
    with pytest.raises(ValueError, match="delta"):
        gaussian.mu_of(1.0, 0.0)
