"""Likelihood ratio attack."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal

PRIOR = 20
"""Degrees of freedom that the shared variance counts for beside an example's own."""

VARIANCES = ("auto", "shrunk", "global", "per_example")

BLOCK = 2048
"""Examples at a time, so that what the sums read stays in the processor's cache."""

_FLOOR = 1e-12


def choose_variance(variance: str, online: bool) -> str:
    """What `auto` means. Raises ValueError for an unknown name."""
    if variance not in VARIANCES:
        raise ValueError(f"unknown value {variance!r}; choose from {', '.join(VARIANCES)}")
    if variance == "auto":
        return "shrunk" if online else "global"
    return variance


def lira(scores: Scores, target: int, *, online: bool, variance: str = "auto") -> np.ndarray:
    """LiRA scores of the target, float64 [N], from the scaled logit phi of each query; the queries'
    scores add up.

    Online: log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2), with the moments of each
    example over the shadows that did and did not train on it (Carlini et al. 2022, algorithm 1;
    several queries are a Gaussian with a diagonal covariance, ibid., section VI-C). Offline: (phi -
    mu_out) / s_out, which ranks like equation 4's Phi((phi - mu_out) / s_out) but does not saturate
    at 1.

    variance: `global` pools the squared residuals of all examples about their own means, with the
    unbiased divisor; `per_example` keeps each example's own, which few shadows know badly; `shrunk`
    is (PRIOR pooled + squares) / (PRIOR + n - 1), between the two by the number n of shadows,
    without the cliff of a switch from one to the other (Carlini et al. 2022, section VI-C, switch
    at 64). `auto` is shrunk online; and global offline, where an example's own variance divides its
    score and mostly adds noise.

    Raises Refusal where some example has fewer than two shadows on a side that is needed.
    """
    variance = choose_variance(variance, online)
    inside, outside = scores.references(target)
    total = np.zeros(len(scores.labels))
    for query in range(scores.phi.shape[2]):
        phi = scores.phi[:, :, query]
        phi_of_target = phi[target]
        mu_out, var_out = _moments(phi, outside, variance)
        if online:
            mu_in, var_in = _moments(phi, inside, variance)
            total += (
                np.log(var_out / var_in) / 2
                + np.square(phi_of_target - mu_out) / (2 * var_out)
                - np.square(phi_of_target - mu_in) / (2 * var_in)
            )
        else:
            total += (phi_of_target - mu_out) / np.sqrt(var_out)
    return total


def _moments(
    phi: Float[np.ndarray, "M N"], used: Bool[np.ndarray, "M N"], variance: str
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each example over the models that `used` marks, [N] each."""
    count = used.sum(axis=0)
    if count.min() < 2:
        raise Refusal(
            "LiRA needs two shadow models in and two out for every example: "
            "models_per_setting of at least 6"
        )
    mean, squares = np.empty(phi.shape[1]), np.empty(phi.shape[1])
    for start in range(0, phi.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        values, weights = phi[:, part], used[:, part].astype(np.float64)
        mean[part] = np.einsum("mn,mn->n", values, weights) / count[part]
        residuals = values - mean[part]
        squares[part] = np.einsum("mn,mn,mn->n", residuals, residuals, weights)
    pooled = squares.sum() / (count - 1).sum()
    variances = {
        "global": np.full_like(mean, pooled),
        "shrunk": (PRIOR * pooled + squares) / (PRIOR + count - 1),
        "per_example": squares / (count - 1),
    }
    return mean, np.maximum(variances[variance], _FLOOR)
