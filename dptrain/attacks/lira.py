"""Likelihood ratio attack."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from dptrain.types import Refusal, Scores

PER_EXAMPLE_FROM = 64
"""Shadows from which an example's own variance beats the shared one (Carlini et al. 2022, section VI-C)."""

_FLOOR = 1e-12


VARIANCES = ("auto", "global", "per_example")


def choose_variance(variance: str, shadows: int) -> str:
    """What `auto` means for this number of shadows. Raises ValueError for an unknown name."""
    if variance not in VARIANCES:
        raise ValueError(f"unknown value {variance!r}; choose from {', '.join(VARIANCES)}")
    if variance == "auto":
        return "per_example" if shadows >= PER_EXAMPLE_FROM else "global"
    return variance


def lira(scores: Scores, target: int, *, online: bool, variance: str = "auto") -> np.ndarray:
    """LiRA scores of the target, float64 [N], from the scaled logit phi (mean over queries).

    Online: log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2), with the moments of each example over the shadows that did and did
    not train on it (Carlini et al. 2022, algorithm 1). Offline: (phi - mu_out) / s_out, which ranks like equation 4's
    Phi((phi - mu_out) / s_out) but does not saturate at 1. `variance=global` pools
    the squared residuals of all examples about their own means, with the unbiased divisor; `per_example` keeps each example's own.

    Raises Refusal where some example has fewer than two shadows on a side that is needed.
    """
    chosen = scores.shadows(target)
    variance = choose_variance(variance, int(chosen.sum()))
    phi = scores.phi.mean(axis=2)
    member = scores.membership[chosen]
    mu_out, var_out = _moments(phi[chosen], ~member, variance)
    if not online:
        return (phi[target] - mu_out) / np.sqrt(var_out)
    mu_in, var_in = _moments(phi[chosen], member, variance)
    return norm.logpdf(phi[target], mu_in, np.sqrt(var_in)) - norm.logpdf(phi[target], mu_out, np.sqrt(var_out))


def _moments(phi: np.ndarray, used: np.ndarray, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each example over the models that `used` marks, [N] each."""
    count = used.sum(axis=0)
    if len(phi) == 0 or count.min() < 2:
        raise Refusal("LiRA needs two shadow models in and two out for every example: models_per_setting of at least 6")
    mean = (phi * used).sum(axis=0) / count
    squares = (np.square(phi - mean) * used).sum(axis=0)
    if variance == "global":
        return mean, np.full_like(mean, max(squares.sum() / (count - 1).sum(), _FLOOR))
    return mean, np.maximum(squares / (count - 1), _FLOOR)
