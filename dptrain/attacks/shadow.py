"""Classifiers of membership that are trained on the records of shadow models: logistic regression
by Newton's method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from dptrain.attacks.scores import Scores, log_mean, log_softmax, scaled_logit, split_true
from dptrain.core.errors import Refusal

MOST_RECORDS = 20_000
"""Records that a classifier is trained on, drawn at random; a dozen slopes gain little by more."""
NEAR, THERE = 1e-6, 1e-16
"""What a step of Newton's gains, as a part of the objective, where whole steps are safe, and where
none is left to take.
"""
MIN_PER_CLASS = 200
"""Shadow records, in and out each, from which a class gets a classifier of its own."""


@dataclass(frozen=True)
class Classifier:
    """Log odds of membership, linear in the features: slopes [F] and an intercept."""

    slopes: np.ndarray
    intercept: float

    def log_odds(self, features: Float[np.ndarray, "n F"]) -> np.ndarray:
        """Of features [n, F]: float64 [n]."""
        result: np.ndarray = features @ self.slopes + self.intercept
        return result


def drawn(count: int) -> np.ndarray:
    """Which of `count` records to train on, int [at most MOST_RECORDS]."""
    if count <= MOST_RECORDS:
        return np.arange(count)
    return np.random.default_rng(0).choice(count, MOST_RECORDS, replace=False)


def fit(x: Float[np.ndarray, "n F"], member: Bool[np.ndarray, " n"]) -> Classifier:
    """Trained on records [n, F] with membership [n], each feature scaled to variance 1, with half
    the sum of squares of the slopes added to the sum of the losses.
    """
    centre, scale = x.mean(axis=0), x.std(axis=0)
    # Constant but for the rounding of a mean.
    scale[scale <= len(x) * np.finfo(x.dtype).eps * np.abs(centre)] = 1
    design = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    slopes = _newton(design, member.astype(float))
    return Classifier(slopes[:-1] / scale, float(slopes[-1] - centre @ (slopes[:-1] / scale)))


def _newton(design: Float[np.ndarray, "n G"], y: Float[np.ndarray, " n"]) -> np.ndarray:
    """Coefficients [G] of the least penalised loss; the last of them has no penalty."""
    penalty = np.append(np.ones(design.shape[1] - 1), 0.0)

    def objective(w: Float[np.ndarray, " G"], z: Float[np.ndarray, " n"]) -> float:
        return float(np.logaddexp(0, z).sum() - y @ z + penalty @ np.square(w) / 2)

    w, z = np.zeros(design.shape[1]), np.zeros(len(y))
    reached = objective(w, z)
    gain = math.inf
    while gain > THERE * (1 + abs(reached)):
        p = special.expit(z)
        gradient = design.T @ (p - y) + penalty * w
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(penalty)
        # Least squares, since one class alone leaves nothing of the intercept's curvature.
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        along, gain = design @ step, float(gradient @ step) / 2
        # A whole step is too long at times, far from the end; there rounding hides what it gains.
        while gain > NEAR * (1 + abs(reached)) and objective(w - step, z - along) > reached:
            step, along = step / 2, along / 2
        w, z = w - step, z - along
        reached = objective(w, z)
    return w


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
    columns, labels = np.arange(len(scores.labels)), frozenset(scores.labels.tolist())
    asked = _features(scores, np.full(len(columns), target), columns)
    result = np.empty(len(scores.labels))
    for classes, classifier in _classifiers(table, tuple(models.tolist()), labels):
        rows = np.isin(scores.labels, classes)
        result[rows] = classifier.log_odds(asked[rows])
    return result


@lru_cache(maxsize=2)  # a target and its complement have the same shadows
def _classifiers(
    table: Scores, models: tuple[int, ...], labels: frozenset[int]
) -> list[tuple[list[int], Classifier]]:
    """Of some models' records, with the classes that each is for: one a class, and one for all
    others.
    """
    member = table.membership[list(models)]

    def trained(columns: Int[np.ndarray, " c"]) -> Classifier:
        model, column = np.divmod(drawn(len(models) * len(columns)), len(columns))
        at = np.array(models)[model], columns[column]
        return fit(_features(table, *at), table.membership[at])

    classifiers, rest = [], np.ones(len(table.labels), dtype=bool)
    for label in sorted(labels):
        known = table.labels == label
        inside = member[:, known]
        if min(inside.sum(), inside.size - inside.sum()) >= MIN_PER_CLASS:
            classifiers.append(([label], trained(np.flatnonzero(known))))
            rest &= ~known
    if others := sorted(labels - {label for classes, _ in classifiers for label in classes}):
        # All records, for a class that none has.
        classifiers.append((others, trained(np.flatnonzero(rest if rest.any() else ~rest))))
    return classifiers


def _features(
    scores: Scores, models: Int[np.ndarray, " n"], columns: Int[np.ndarray, " n"]
) -> np.ndarray:
    """Of what some models, int [n], say of an example each, int [n]: [n, F]."""
    if scores.logits is None:
        raise Refusal("needs logits or the probabilities of all classes")
    logits, labels = scores.logits[models, columns], scores.labels[columns]
    true, others = split_true(log_mean(log_softmax(logits)), labels)
    ranked = -np.sort(-others, axis=-1)[..., : min(3, others.shape[-1] - 1)]
    base = np.column_stack([true, scaled_logit(logits, labels).mean(axis=1), ranked])
    return np.concatenate([base, np.square(base)], axis=-1)
