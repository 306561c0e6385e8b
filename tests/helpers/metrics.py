"""Scores with members drawn at random, and a metric at plain weights."""

import numpy as np

from dptrain.evaluation import metrics
from dptrain.evaluation.rankings import Rankings


def weighed(values, count, examples):
    """The metric of each target, or [1] of all together, with every example once."""
    ones = np.ones((1, examples))
    if isinstance(values, metrics.Together):
        return values.of(ones, np.ones((1, count), dtype=bool))[0]
    return values.of(ones)[0]


def draw(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    member[:2] = True, False
    scores = rng.normal(size=n) + 0.7 * member
    return (np.round(scores, 0) if ties else scores), member


def tpr(scores, member, fpr, weights=None):
    weights = np.ones(len(scores)) if weights is None else weights
    ranked = Rankings(scores[None], member[None])
    return metrics.tprs_at_fpr(ranked, member[None], fpr).of(weights[None])[0, 0]
