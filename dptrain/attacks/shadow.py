"""Shadow-model attack classifiers."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dptrain.attacks.scores import Scores, split_true
from dptrain.core.errors import Refusal

MIN_PER_CLASS = 200
"""Shadow records, in and out each, from which a class gets a classifier of its own."""


def shadow(scores: Scores, target: int) -> np.ndarray:
    """Log odds of membership by classifiers trained on the shadows' posteriors, float64 [N] (Shokri
    et al. 2017, section V).

    One classifier for each class with MIN_PER_CLASS records in and out, one for all other classes
    together. Its features are the log posterior sorted after the true class's own, and the scaled
    logit; trained as a logistic regression on features and their squares. Raises Refusal without
    shadows.
    """
    table, models = scores.records(target)
    if not len(models):
        raise Refusal("shadow classifiers need shadow models: models_per_setting of at least 4")
    features, member = _features(table)[models], table.membership[models]
    asked = _features(scores)[target]
    result = np.empty(len(scores.labels))
    # Classes without a classifier of their own.
    common = np.ones(table.labels.max(initial=0) + 1, dtype=bool)
    for label in np.unique(table.labels):
        inside = member[:, table.labels == label]
        common[label] = min(inside.sum(), inside.size - inside.sum()) < MIN_PER_CLASS
    for label in np.flatnonzero(~common):
        known, rows = table.labels == label, scores.labels == label
        if rows.any():
            result[rows] = log_odds(features[:, known], member[:, known], asked[rows])
    rest = ~np.isin(scores.labels, np.flatnonzero(~common))
    if rest.any():
        known = common[table.labels]
        known = known if known.any() else ~known  # a class that no record has
        result[rest] = log_odds(features[:, known], member[:, known], asked[rest])
    return result


@lru_cache(maxsize=2)  # every target in turn asks for the same
def _features(scores: Scores) -> np.ndarray:
    """[M, N, F]"""
    return np.stack([_of_model(scores, model) for model in range(scores.models)])


def _of_model(scores: Scores, model: int) -> np.ndarray:
    """[N, F]"""
    true, others = split_true(scores.log_posteriors(np.array([model]))[0], scores.labels)
    ranked = -np.sort(-others, axis=-1)[..., : min(3, others.shape[-1] - 1)]
    base = np.column_stack([true, scores.phi[model].mean(axis=1), ranked])
    return np.concatenate([base, np.square(base)], axis=-1)


def log_odds(
    known: Float[np.ndarray, "... F"],
    member: Bool[np.ndarray, " ..."],
    rows: Float[np.ndarray, "n F"],
) -> np.ndarray:
    """Of membership for `rows` [N, F], by logistic regression on records [..., F] with
    membership [...]; float64 [N].
    """
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a line search that rounding leaves nothing to gain
        classifier.fit(known.reshape(-1, known.shape[-1]), member.reshape(-1))
    result: np.ndarray = classifier.decision_function(rows)
    return result
