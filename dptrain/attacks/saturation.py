"""What stands for probabilities that were rounded to 0 or to 1: half of the least distance that the
file itself shows at that end.

A fixed floor, such as 1e-12, puts them far outside of all others: their scaled logits then decide
means and variances, and hide what the rest tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dptrain.attacks.scores import split_true

LEAST = 2.0**-53
"""Where nothing shows how finely numbers were kept: the distance of 1 from the number below it."""


@dataclass(frozen=True)
class Ends:
    """Probability of the true class that stands for 0, and the distance from 1 that stands for
    none.
    """

    low: float
    high: float


def ends(true: Float[np.ndarray, " ..."], rest: Float[np.ndarray, " ..."]) -> Ends:
    """From probabilities of the true class, and of all others together."""
    return Ends(
        *(
            float(
                values.min(where=values > 0, initial=2 * LEAST if not (values > 0).any() else 2.0)
            )
            / 2
            for values in (true, rest)
        )
    )


def split(
    probabilities: Float[np.ndarray, "*shape C"], labels: Int[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """[M, N, Q, C] and labels [N] -> probability of the true class and of all others together,
    float64 [M, N, Q] both.
    """
    by_example = probabilities.astype(np.float64).swapaxes(0, 1)
    true, others = split_true(by_example, labels, fill=0.0)
    return true.swapaxes(0, 1), others.sum(-1).swapaxes(0, 1)


def logits(
    probabilities: Float[np.ndarray, "M N Q C"], labels: Int[np.ndarray, " N"], given: Ends
) -> np.ndarray:
    """Logarithms [M, N, Q, C], float64, in which no probability is 0 and the odds of the true class
    are those that `given` leaves.
    """
    true, rest = split(probabilities, labels)
    values = probabilities.astype(np.float64)
    index = np.broadcast_to(labels[None, :, None, None], (*values.shape[:3], 1))
    np.put_along_axis(values, index, 0.0, -1)
    least = min(given.low, given.high) / values.shape[-1]
    values = np.maximum(values, least)
    np.put_along_axis(values, index, 0.0, -1)
    values *= (np.where(rest > 0, rest, given.high) / values.sum(-1))[..., None]
    np.put_along_axis(values, index, np.where(true > 0, true, given.low)[..., None], -1)
    result: np.ndarray = np.log(values)
    return result


def loss(confidence: Float[np.ndarray, "M N Q"], given: Ends) -> np.ndarray:
    """Cross-entropy of confidences, float64."""
    result: np.ndarray = -np.log1p(
        -np.clip(1 - np.maximum(confidence.astype(np.float64), given.low), given.high, None)
    )
    return result
