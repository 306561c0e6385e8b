"""Attacks that read nothing but the target's own outputs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from dptrain.attacks.scores import Scores, split_true


def correctness(scores: Scores, target: int) -> np.ndarray:
    """1 where the target predicts the label, else 0, float64 [N]: the gap attack (Yeom et al. 2018,
    section 3.3).
    """
    result: np.ndarray = (scores.predicted(target) == scores.labels).astype(np.float64)
    return result


def loss(scores: Scores, target: int) -> np.ndarray:
    """Negative cross-entropy of the target on each example, float64 [N] (Yeom et al. 2018,
    adversary 2).
    """
    result: np.ndarray = -scores.loss[target]
    return result


def confidence(scores: Scores, target: int) -> np.ndarray:
    """Probability of the true class, float64 [N] (Song and Mittal 2021, equation 8)."""
    result: np.ndarray = scores.confidence[target]
    return result


def entropy(scores: Scores, target: int) -> np.ndarray:
    """Negative entropy of the posterior, float64 [N]: sum over i of p_i log p_i (Song and Mittal
    2021, equation 9).
    """
    log_posterior = scores.log_posteriors(np.array([target]))[0]
    result: np.ndarray = (np.exp(log_posterior) * log_posterior).sum(axis=-1)
    return result


def modified_entropy(scores: Scores, target: int) -> np.ndarray:
    """(1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i), float64 [N] (Song and Mittal 2021,
    equation 10, negated).
    """
    log_posterior = scores.log_posteriors(np.array([target]))[0]
    posterior = np.exp(log_posterior)
    rest = _one_minus(posterior)
    true_term = split_true(rest * log_posterior, scores.labels)[0]
    terms = posterior * np.log(np.maximum(rest, np.finfo(float).tiny))
    others = split_true(terms, scores.labels, fill=0.0)[1]
    return np.asarray(true_term + others.sum(axis=-1))


def _one_minus(posterior: Float[np.ndarray, "N C"]) -> np.ndarray:
    """1 - p over the last axis. Of the largest it is the sum of the others: 1 - p would round to 0
    where p is nearly 1.
    """
    rest = 1 - posterior
    top = posterior.argmax(axis=-1)[..., None]
    others = posterior.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    np.put_along_axis(rest, top, others.sum(axis=-1, keepdims=True), axis=-1)
    return rest
