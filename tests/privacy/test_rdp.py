"""Tests of privacy.rdp."""

import math

import numpy as np
import pytest

from dptrain.privacy import rdp


@pytest.mark.parametrize(
    ("batch", "n", "sigma", "steps", "printed"),
    [(240, 60000, 0.7, 11250, 6.86), (240, 60000, 1.1, 15000, 2.91), (240, 60000, 1.3, 3750, 1.16)],
)
def test_the_classic_conversion_gives_what_older_papers_print(batch, n, sigma, steps, printed):
    """Opacus's MNIST README, printed by its accountant of 2020."""
    assert round(rdp.classic(batch / n, sigma, steps, 1e-5), 2) == printed


def test_no_order_is_missing_that_matters():
    """Against a search over all real orders at q = 1, where the divergence is order / (2
    sigma^2).
    """
    from scipy.optimize import minimize_scalar

    for sigma in (0.6, 2.0, 20.0):

        def at(order, sigma=sigma):
            return (
                order / (2 * sigma**2)
                + math.log1p(-1 / order)
                - (math.log(1e-5) + math.log(order)) / (order - 1)
            )

        best = minimize_scalar(at, bounds=(1.01, 2000), method="bounded").fun
        assert best - 1e-6 <= rdp.improved(1.0, sigma, 1, 1e-5) <= 1.01 * best + 1e-3


@pytest.mark.parametrize(
    ("q", "sigma"),
    [(0.004, 0.7), (0.5, 0.3), (0.99, 1.0), (0.3, 30.0), (1.0, 0.5), (1e-5, 0.3), (0.9, 0.3)],
)
def test_divergences_are_those_of_opacus(q, sigma):
    from opacus.accountants.analysis.rdp import compute_rdp

    theirs = compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=rdp.ORDERS)
    np.testing.assert_allclose(rdp.divergences(q, sigma), theirs, rtol=2e-6, atol=1e-12)


def test_orders_and_small_numbers():
    """Next to order 1 the conversions lose every digit (TensorFlow Privacy issue 166), and small
    epsilons come out negative (Opacus issue 585).
    """
    assert rdp.ORDERS.min() >= 1.1
    assert rdp.improved(0.01, 100.0, 1, 0.1) == 0.0
