"""Rényi differential privacy of the Poisson-subsampled Gaussian, and both of its conversions to
epsilon.

A second opinion beside the PLD claim, and the yardstick of older papers: theirs came from the
classic conversion, which prints up to a third more at the same noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, log_ndtr, logsumexp

ORDERS = np.array(
    [*(1 + x / 10 for x in range(1, 100)), *range(11, 64), 80, 96, 128, 192, 256, 512, 1024],
    dtype=np.float64,
)
"""Those of Opacus and TensorFlow Privacy up to 63, which published numbers rest on. Order 1 itself
and orders next to it are left out: there the conversions lose every digit (TensorFlow Privacy issue
166).
"""
TERMS = (256, 4096)
"""Of the series at a fractional order: few are mostly enough."""


@functools.lru_cache(maxsize=256)
def divergences(q: float, sigma: float) -> np.ndarray:
    """Rényi divergence of one step at each of ORDERS (Mironov, Talwar and Zhang 2019, sections 3.2
    and 3.3); inf where its series does not end.
    """
    if q == 1:
        return ORDERS / (2 * sigma**2)
    moments = [
        _integer(q, sigma, int(order)) if order == int(order) else _fractional(q, sigma, order)
        for order in ORDERS
    ]
    result: np.ndarray = np.maximum(np.array(moments), 0.0) / (ORDERS - 1)
    return result


def _binomials(order: float, k: Float[np.ndarray, " k"]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm and sign of binomial(order, k)."""
    left = order - k + 1
    sign = np.where(left > 0, 1.0, np.where(np.floor(left) % 2 == 0, 1.0, -1.0))
    return gammaln(order + 1) - gammaln(k + 1) - gammaln(left), sign


def _integer(q: float, sigma: float, order: int) -> float:
    k = np.arange(order + 1.0)
    logs = (
        _binomials(order, k)[0]
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
    )
    return float(logsumexp(logs))


def _fractional(q: float, sigma: float, order: float) -> float:
    return next(
        (moment for terms in TERMS if math.isfinite(moment := _series(q, sigma, order, terms))),
        math.inf,
    )


def _series(q: float, sigma: float, order: float, terms: int) -> float:
    i = np.arange(float(terms))
    j = order - i
    edge = sigma**2 * (math.log1p(-q) - math.log(q)) + 0.5
    coefficient, sign = _binomials(order, i)
    low = (
        coefficient
        + i * math.log(q)
        + j * math.log1p(-q)
        + (i * i - i) / (2 * sigma**2)
        + log_ndtr((edge - i) / sigma)
    )
    high = (
        coefficient
        + j * math.log(q)
        + i * math.log1p(-q)
        + (j * j - j) / (2 * sigma**2)
        + log_ndtr((j - edge) / sigma)
    )
    total, sign_of_total = logsumexp(
        np.concatenate([low, high]), b=np.concatenate([sign, sign]), return_sign=True
    )
    ended = max(low[-1], high[-1]) < total - 30 and sign_of_total > 0
    return float(total) if ended else math.inf


def classic(q: float, sigma: float, steps: int, delta: float) -> float:
    """Epsilon by Mironov 2017, proposition 3: what papers up to 2020 printed."""
    return float(np.min(steps * divergences(q, sigma) - math.log(delta) / (ORDERS - 1)))


def improved(q: float, sigma: float, steps: int, delta: float) -> float:
    """Epsilon by Canonne, Kamath and Steinke 2020, proposition 12: what Opacus and dp-accounting
    print since.
    """
    return composed([(q, sigma, steps)], delta)


def composed(runs: Iterable[tuple[float, float, int]], delta: float) -> float:
    """The same of several runs (q, sigma, steps) on the same data: their divergences add up
    (Mironov 2017, proposition 1).
    """
    return epsilon(
        sum((steps * divergences(q, sigma) for q, sigma, steps in runs), np.zeros(len(ORDERS))),
        delta,
    )


def epsilon(spent: Float[np.ndarray, " orders"], delta: float) -> float:
    """From Rényi divergences at ORDERS (Canonne et al. 2020, proposition 12)."""
    epsilons = spent + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(np.min(epsilons)))


def delta(spent: Float[np.ndarray, " orders"], epsilon: float) -> float:
    """The same the other way round; and at most the total variation distance that the divergence
    allows, sqrt(1 - exp(-KL)) (Bretagnolle and Huber 1978), since KL lies below every order's.
    """
    log_deltas = (ORDERS - 1) * (spent - epsilon + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    variation = math.sqrt(-math.expm1(-float(np.min(spent))))
    return min(1.0, variation, float(np.exp(np.min(log_deltas))))
