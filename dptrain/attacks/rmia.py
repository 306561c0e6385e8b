"""Robust membership inference attack."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal


def rmia(
    scores: Scores, target: int, *, online: bool, gamma: float = 1.0, a: float = 0.3
) -> np.ndarray:
    """Share of z with (p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma, float64 [N]
    (Zarifzadeh et al. 2024, equations 3 and 4).

    z is the population where the scores bring one, else all examples. p(x): online the mean over
    all shadows; offline ((1 + a) p_out(x) + 1 - a) / 2, with p_out the mean over shadows that did
    not train on x (ibid., equation 10). The ratio of x is compared with the sorted ratios of z, so
    no N x Z table is ever made. A share has no more values than there are z: within one of them x
    is ranked by its own ratio, or a false positive rate below 1/Z would read as if nothing were
    found there. Raises Refusal where an example has no shadow that is needed.
    """
    ratio, others = _ratios(scores, target, online, a)
    share = np.searchsorted(np.sort(others), ratio / gamma, side="right")
    result: np.ndarray = (share + ratio / (1 + ratio)) / (len(others) + 1)
    return result


def info_rmia(scores: Scores, target: int, *, online: bool, a: float = 0.3) -> np.ndarray:
    """Mean over z of the logarithm of RMIA's ratio of x to z, float64 [N] (InfoRMIA; Tao and Shokri
    2025, arXiv 2510.05582): how much more the target says of x than of an example of the
    population, in the place of the share of z for which it says more. Raises Refusal as rmia.
    """
    ratio, others = (
        np.log(np.maximum(values, np.finfo(float).tiny))
        for values in _ratios(scores, target, online, a)
    )
    result: np.ndarray = ratio - others.mean()
    return result


def _ratios(scores: Scores, target: int, online: bool, a: float) -> tuple[np.ndarray, np.ndarray]:
    """p(x | target) / p(x) of the examples, [N], and of z, [Z]."""
    inside, outside = scores.references(target)
    ratio = _ratio(scores, target, inside | outside if online else outside, online, a)
    if scores.population is None:
        return ratio, ratio
    # No shadow trained on z.
    chosen = np.broadcast_to(scores.shadows(target)[:, None], scores.population.membership.shape)
    return ratio, _ratio(scores.population, target, chosen, online, a)


def _ratio(
    scores: Scores, target: int, used: Bool[np.ndarray, "M N"], online: bool, a: float
) -> np.ndarray:
    """p(x | target) / p(x), [N], from the models that `used`, bool [M, N], marks."""
    count = used.sum(axis=0)
    if count.min() < 1:
        raise Refusal(
            "RMIA needs a shadow model, offline one out for every example: "
            "models_per_setting of at least 4"
        )
    # A model at a time: the whole table would be copied for each target.
    total = np.zeros(used.shape[1])
    for marked, confidence in zip(used, scores.confidence, strict=True):
        total += np.where(marked, confidence, 0.0)
    mean = total / count
    reference = mean if online else ((1 + a) * mean + 1 - a) / 2
    result: np.ndarray = scores.confidence[target] / np.maximum(reference, np.finfo(float).tiny)
    return result
