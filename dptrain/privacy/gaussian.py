"""Gaussian differential privacy (Dong, Roth and Su 2022): the Gaussian mechanism with sensitivity /
standard deviation mu, in closed form.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, ndtri

from dptrain.core.roots import crossing


def log_delta(mu: float | np.ndarray, epsilons: float | np.ndarray) -> np.ndarray:
    """Logarithm of delta(epsilon) (Dong et al. 2022, corollary 2.13); -inf where it is zero in
    double precision.
    """
    first = log_ndtr(mu / 2 - np.asarray(epsilons) / mu)
    second = epsilons + log_ndtr(-mu / 2 - np.asarray(epsilons) / mu)
    with np.errstate(divide="ignore"):
        return np.asarray(first + np.log(-np.expm1(np.minimum(second - first, 0.0))))


def delta_of(mu: float, epsilon: float) -> float:
    """delta(epsilon)."""
    return float(np.exp(log_delta(mu, epsilon)))


def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon at delta, to 1e-12; 0 for mu 0."""
    if mu <= 0:
        return 0.0
    goal = math.log(delta) if delta > 0 else -1e6

    def excess(epsilon: float) -> float:
        return goal - max(float(log_delta(mu, epsilon)), -1e6)

    return crossing(excess, most=1e6)


def epsilon_above(mu: float, delta: float) -> float:
    """epsilon_of, within 1e-8 relative, rounded upwards: an upper bound."""
    epsilon = epsilon_of(mu, delta)
    return epsilon * (1 + 1e-10) + 1e-9 if epsilon else 0.0


def mu_of(epsilon: float, delta: float) -> float:
    """The mu that has this epsilon at delta. Raises ValueError for delta 0, which no mu above 0
    reaches.
    """
    if not 0 < delta < 1:
        raise ValueError(f"Gaussian DP has no epsilon at delta {delta:g}; delta must lie in (0, 1)")

    def excess(mu: float) -> float:
        return max(float(log_delta(mu, epsilon)), -1e6) - math.log(delta) if mu > 0 else -1.0

    return crossing(excess)


def mu_of_errors(fpr: Float[np.ndarray, " ..."], fnr: Float[np.ndarray, " ..."]) -> np.ndarray:
    """The least mu that allows such error rates: Phi^-1(1 - FPR) - Phi^-1(FNR), at least 0 (Dong et
    al. 2022, equation 6).
    """
    with np.errstate(invalid="ignore"):
        result: np.ndarray = np.maximum(0.0, np.nan_to_num(-ndtri(fpr) - ndtri(fnr), nan=0.0))
        return result
