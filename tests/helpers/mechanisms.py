"""Mechanisms drawn at random, and epsilon of the Gaussian mechanism in closed form."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from dptrain.core.types import Mechanism, Sampling


def mechanism(batch, n, steps, sigma, clip=1.0):
    return Mechanism(Sampling.POISSON, batch, n, steps, sigma, clip, batch)


def gaussian_epsilon(mu, delta):
    """Dong et al. 2022, corollary 2.13."""
    return brentq(
        lambda e: norm.cdf(-e / mu + mu / 2) - math.exp(e) * norm.cdf(-e / mu - mu / 2) - delta,
        0,
        500,
    )


CONFIGURATIONS = 500


def drawn(number):
    """Configuration `number` of a fixed list: sigma .3 to 100, q 1e-5 to 1, T up to 1e6, delta
    1e-10 to 1e-2. Every tenth has q = 1.
    """
    rng = np.random.default_rng(number)
    sigma, q = 10 ** rng.uniform(math.log10(0.3), 2), 10 ** rng.uniform(-5, 0)
    n = int(rng.integers(1e5, 1e6))
    batch = n if number % 10 == 0 else max(1, round(q * n))
    return mechanism(batch, n, int(10 ** rng.uniform(0, 6)), sigma), 10 ** rng.uniform(-10, -2)
