"""Scores with members drawn at random, and a metric at plain weights."""

import numpy as np

from dptrain.evaluation import metrics


def weighed(values, count, examples):
    return values(np.ones(examples), np.ones(count, dtype=bool))


def draw(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    member[:2] = True, False
    scores = rng.normal(size=n) + 0.7 * member
    return (np.round(scores, 0) if ties else scores), member


def tpr(scores, member, fpr):
    return metrics.Ranking(scores, member).tpr(fpr, np.ones(len(scores)))
