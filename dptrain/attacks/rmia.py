"""Robust membership inference attack."""

from __future__ import annotations

import numpy as np

from dptrain.scores import Scores
from dptrain.types import Refusal


def rmia(scores: Scores, target: int, *, online: bool, gamma: float = 1.0, a: float = 0.3) -> np.ndarray:
    """Share of z with (p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma, float64 [N] (Zarifzadeh et al. 2024, equations 3 and 4).

    z is the population where the scores bring one, else all examples. p(x): online the mean over all shadows; offline
    ((1 + a) p_out(x) + 1 - a) / 2, with p_out the mean over shadows that did not train on x (ibid., equation 10). The ratio of x is compared with
    the sorted ratios of z, so no N x Z table is ever made. Raises Refusal where an example has no shadow that is needed.
    """
    inside, outside = scores.references(target)
    ratio = _ratio(scores, target, inside | outside if online else outside, online, a)
    others = ratio
    if scores.population is not None:  # which no shadow trained on
        chosen = np.broadcast_to(scores.shadows(target)[:, None], scores.population.membership.shape)
        others = _ratio(scores.population, target, chosen, online, a)
    return np.searchsorted(np.sort(others), ratio / gamma, side="right") / len(others)


def _ratio(scores: Scores, target: int, used: np.ndarray, online: bool, a: float) -> np.ndarray:
    """p(x | target) / p(x), [N], from the models that `used`, bool [M, N], marks."""
    count = used.sum(axis=0)
    if count.min() < 1:
        raise Refusal("RMIA needs a shadow model, offline one out for every example: models_per_setting of at least 4")
    mean = np.where(used, scores.confidence, 0.0).sum(axis=0) / count
    reference = mean if online else ((1 + a) * mean + 1 - a) / 2
    return scores.confidence[target] / np.maximum(reference, np.finfo(float).tiny)
