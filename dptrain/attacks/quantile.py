"""Quantile regression attack."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from dptrain.attacks.scores import Scores, split_true
from dptrain.core.errors import Refusal

MIN_POPULATION = 100
"""Below it a quantile as a function of the input is noise."""
FOLDS = 3


def quantile(scores: Scores, target: int, *, alpha: float = 0.05) -> np.ndarray:
    """The target's margin above its expected (1 - alpha) quantile for such an input, float64 [N]
    (Bertran et al. 2023, section 3).

    The quantile of the margin z_y - max over j != y of z_j is regressed on input and label over the
    population, whose members the target never saw: no shadow models. The regression fits the
    population better than other examples, so it is fitted FOLDS times, each without a part, and
    moved by what the parts left out show: above 0 lies a share alpha of the population, and about
    as many of other non-members (Barber et al. 2021, CV+). Raises Refusal without inputs, logits or
    a population.
    """
    population = scores.population
    if population is None or scores.inputs is None or population.inputs is None:
        raise Refusal("needs inputs, and a population with its inputs")
    if len(population.labels) < MIN_POPULATION:
        raise Refusal(
            f"needs a population of at least {MIN_POPULATION}; there are {len(population.labels)}"
        )
    known, true = _features(population), margin(population, target)
    fold = np.random.default_rng(0).permutation(len(true)) % FOLDS
    left_out, expected = np.empty(len(true)), np.zeros(len(scores.labels))
    for part in range(FOLDS):
        trees = HistGradientBoostingRegressor(
            loss="quantile", quantile=1 - alpha, max_iter=100, min_samples_leaf=20, random_state=0
        )
        trees.fit(known[fold != part], true[fold != part])
        left_out[fold == part] = true[fold == part] - trees.predict(known[fold == part])
        expected += trees.predict(_features(scores)) / FOLDS
    return margin(scores, target) - expected - np.quantile(left_out, 1 - alpha, method="higher")


def margin(scores: Scores, model: int) -> np.ndarray:
    """z_y - max over j != y of z_j, float64 [N]: a difference, the same for logits and for log
    posteriors.
    """
    log_posterior = scores.log_posteriors(np.array([model]))[0]
    true, others = split_true(log_posterior, scores.labels)
    return np.asarray(true - others.max(axis=-1))


def _features(scores: Scores) -> np.ndarray:
    assert scores.inputs is not None
    return np.column_stack([scores.inputs.reshape(len(scores.labels), -1), scores.labels])
