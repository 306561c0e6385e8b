"""Attacks that compare the target's loss with that of other models, or of other examples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal


def difficulty(
    scores: Scores, target: int, *, reference: str = "out", signal: str = "loss"
) -> np.ndarray:
    """Loss of reference models less that of the target, float64 [N]; with signal=logit the scaled
    logit (Scores.phi) instead of the loss, which does not saturate where all models are sure.

    reference=out: mean loss of the shadows that did not train on the example (Watson et al. 2022,
    equation 4). reference=both: midway between the means of those that did and those that did not
    (Sablayrolles et al. 2019, section 5.2, MALT with a threshold an example). Raises Refusal where
    an example has no such shadow.
    """
    inside, outside = scores.references(target)
    values = scores.loss if signal == "loss" else -scores.phi.mean(axis=2)
    middle = _mean(values, outside)
    if reference == "both":
        middle = (middle + _mean(values, inside)) / 2
    result: np.ndarray = middle - values[target]
    return result


def _mean(values: Float[np.ndarray, "M N"], used: Bool[np.ndarray, "M N"]) -> np.ndarray:
    count = used.sum(axis=0)
    if count.min() < 1:
        raise Refusal(
            "needs a shadow model in and one out for every example: models_per_setting "
            "of at least 4"
        )
    result: np.ndarray = np.where(used, values, 0.0).sum(axis=0) / count
    return result


def attack_p(scores: Scores, target: int) -> np.ndarray:
    """Share of the population with at least the example's loss under the target, float64 [N] (Ye et
    al. 2022, attack P).

    Guessing `member` above 1 - alpha has a false positive rate of alpha. Raises Refusal without a
    population.
    """
    if scores.population is None:
        raise Refusal("needs a population: examples that no model trained on")
    losses = np.sort(scores.population.loss[target])
    result: np.ndarray = 1 - np.searchsorted(losses, scores.loss[target], side="left") / len(losses)
    return result


def attack_r(scores: Scores, target: int) -> np.ndarray:
    """Share of the shadows that did not train on the example whose loss is at least the target's,
    float64 [N] (Ye et al. 2022, attack R).

    With K such shadows it cannot resolve a false positive rate below 1/K. Raises Refusal where an
    example has none.
    """
    _, outside = scores.references(target)
    return _mean((scores.loss >= scores.loss[target]).astype(float), outside)
