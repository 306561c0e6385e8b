"""Tests of attacks.quantile."""

import numpy as np
import pytest

from dptrain.attacks import ATTACKS
from tests import reference
from tests.fleets import rich
from tests.helpers.attacks import FIXTURES, fixture


@pytest.mark.slow
def test_quantile_equals_its_slow_twin_everywhere():
    for seed in range(FIXTURES):
        scores, twin = fixture(seed)
        np.testing.assert_allclose(
            ATTACKS["quantile"](scores, 0), reference.quantile(twin, 0), rtol=1e-9, atol=1e-9
        )


def test_quantile_regression_holds_its_rate():
    """Fitted and judged on the same population it called 16 % of the non-members at a nominal 5
    %.
    """
    rates = []
    for seed in range(3):
        scores = rich(seed, models=2, examples=2000, population=500, queries=1, copies=2)
        rates.append(
            float((ATTACKS["quantile"](scores, 0, alpha=0.05)[~scores.membership[0]] > 0).mean())
        )
    # 500 in the population: the rate itself varies by sqrt(alpha (1 - alpha) / 500), twice over
    # since folds differ.
    assert abs(np.mean(rates) - 0.05) < 4.89 * np.sqrt(2 * 0.05 * 0.95 / 500 / 3)
