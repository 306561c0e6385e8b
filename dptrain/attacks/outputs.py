"""Attacks that read nothing but the target's own outputs."""

from __future__ import annotations

import numpy as np

from dptrain.scores import Scores


def correctness(scores: Scores, target: int) -> np.ndarray:
    """1 where the target predicts the label, else 0, float64 [N]: the gap attack (Yeom et al. 2018, section 3.3)."""
    return (scores.predicted(target) == scores.labels).astype(np.float64)


def loss(scores: Scores, target: int) -> np.ndarray:
    """Negative cross-entropy of the target on each example, float64 [N] (Yeom et al. 2018, adversary 2)."""
    return -scores.loss[target]


def confidence(scores: Scores, target: int) -> np.ndarray:
    """Probability of the true class, float64 [N] (Song and Mittal 2021, equation 8)."""
    return scores.confidence[target]


def entropy(scores: Scores, target: int) -> np.ndarray:
    """Negative entropy of the posterior, float64 [N]: sum over i of p_i log p_i (Song and Mittal 2021, equation 9)."""
    log_posterior = scores.log_posteriors(np.array([target]))[0]
    return (np.exp(log_posterior) * log_posterior).sum(axis=-1)


def modified_entropy(scores: Scores, target: int) -> np.ndarray:
    """(1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i), float64 [N] (Song and Mittal 2021, equation 10, negated)."""
    log_posterior = scores.log_posteriors(np.array([target]))[0]
    posterior = np.exp(log_posterior)
    true = scores.labels[:, None]
    rest = _one_minus(posterior)
    own = np.take_along_axis(rest, true, axis=-1) * np.take_along_axis(log_posterior, true, axis=-1)
    terms = posterior * np.log(np.maximum(rest, np.finfo(float).tiny))
    np.put_along_axis(terms, true, 0.0, axis=-1)
    return own[:, 0] + terms.sum(axis=-1)


def _one_minus(posterior: np.ndarray) -> np.ndarray:
    """1 - p over the last axis. Of the largest it is the sum of the others: 1 - p would round to 0 where p is nearly 1."""
    rest = 1 - posterior
    top = posterior.argmax(axis=-1)[..., None]
    others = posterior.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    np.put_along_axis(rest, top, others.sum(axis=-1, keepdims=True), axis=-1)
    return rest
