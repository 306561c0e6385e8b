"""The Gaussian mechanism in closed form."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr


def log_delta(mu: float | np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    """Logarithm of delta(epsilon) of the Gaussian mechanism (Dong et al. 2022, corollary 2.13); -inf where it is zero in double precision."""
    first = log_ndtr(mu / 2 - epsilons / mu)
    second = epsilons + log_ndtr(-mu / 2 - epsilons / mu)
    with np.errstate(divide="ignore"):
        return first + np.log(-np.expm1(np.minimum(second - first, 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of the Gaussian mechanism with sensitivity / standard deviation mu, within 1e-8 relative, rounded upwards."""

    def excess(candidate: float) -> float:
        return max(float(log_delta(mu, np.array(candidate))), -1e6) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    top = mu * mu / 2 + mu * math.sqrt(-2 * math.log(delta)) + 1
    return float(brentq(excess, 0.0, top, xtol=1e-12, rtol=1e-13)) * (1 + 1e-10) + 1e-9
