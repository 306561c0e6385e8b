"""Shadow-model attack classifiers."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.types import Refusal, Scores

MIN_PER_CLASS = 200
"""Shadow records, in and out each, from which a class gets a classifier of its own."""


def shadow(scores: Scores, target: int) -> np.ndarray:
    """Log odds of membership by classifiers trained on the shadows' posteriors, float64 [N] (Shokri et al. 2017, section V).

    One classifier for each class with MIN_PER_CLASS records in and out, one for all other classes together. Its features are the log
    posterior sorted after the true class's own, and the scaled logit; trained as a logistic regression on features and their squares.
    Raises Refusal without shadows.
    """
    chosen = scores.shadows(target)
    if not chosen.any():
        raise Refusal("shadow classifiers need shadow models: models_per_setting of at least 4")
    features, member = _features(scores, np.flatnonzero(chosen)), scores.membership[chosen]
    own = _features(scores, np.array([target]))[0]
    result = np.empty(len(scores.labels))
    rest = np.zeros(len(scores.labels), dtype=bool)
    for label in np.unique(scores.labels):
        rows = scores.labels == label
        inside = member[:, rows].sum()
        if min(inside, member[:, rows].size - inside) < MIN_PER_CLASS:
            rest |= rows
        else:
            result[rows] = _fit(features[:, rows], member[:, rows], own[rows])
    if rest.any():
        result[rest] = _fit(features[:, rest], member[:, rest], own[rest])
    return result


def _features(scores: Scores, models: np.ndarray) -> np.ndarray:
    """[models, N, F]"""
    log_posterior = scores.log_posterior[models]
    true = np.broadcast_to(scores.labels[None, :, None], (*log_posterior.shape[:2], 1))
    own = np.take_along_axis(log_posterior, true, axis=-1)
    others = log_posterior.copy()
    np.put_along_axis(others, true, -np.inf, axis=-1)
    ranked = -np.sort(-others, axis=-1)[..., : min(3, others.shape[-1] - 1)]
    base = np.concatenate([own, scores.phi[models].mean(axis=2)[..., None], ranked], axis=-1)
    return np.concatenate([base, np.square(base)], axis=-1)


def _fit(features: np.ndarray, member: np.ndarray, own: np.ndarray) -> np.ndarray:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))
    classifier.fit(features.reshape(-1, features.shape[-1]), member.reshape(-1))
    return classifier.decision_function(own)
