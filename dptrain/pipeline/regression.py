"""Regressions: what models say in the user's units, and the likelihood of its errors, by which they
are attacked.

To a model the targets lie between -1 and 1, the public bounds. An attacker takes the errors for
normal, or those of a model that learnt absolute errors for Laplace's, with the spread that the same
model shows on the population. The likelihood exp(-loss), 1 for no error, stands in the place of a
class's probability, so LiRA, RMIA and the loss attack are what they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from dptrain.config.schema import Config
from dptrain.core.types import Loss, Task
from dptrain.evaluation.utility import Estimates

LEAST_SPREAD = 1e-6
"""Of errors; a smaller one is that of a model that says the same of everything."""
Said = tuple[np.ndarray, np.ndarray]
"""What models say, [M, N, 1, 1], and the targets, [N]."""


@dataclass(frozen=True)
class Regression:
    """low and high: the public bounds of the target; error: what the models minimise."""

    low: float
    high: float
    error: Loss

    def units(self, scaled: Shaped[np.ndarray, " *shape"]) -> np.ndarray:
        """From -1 to 1 to the user's units, float64."""
        result: np.ndarray = self.low + (scaled.astype(np.float64) + 1) / 2 * (self.high - self.low)
        return result

    def estimates(
        self, said: Float[np.ndarray, " T"], targets: Float[np.ndarray, " T"]
    ) -> Estimates:
        """Of one model; what lies beyond the bounds is cut, since no target does."""
        return Estimates(self.units(np.clip(said, -1, 1)), self.units(targets))

    def losses(self, pool: Said, population: Said) -> tuple[np.ndarray, np.ndarray]:
        """-log of the likelihood of the errors on pool and population, float64 [M, N, 1]."""
        inside, outside = (
            said[:, :, 0, 0].astype(np.float64) - targets for said, targets in (pool, population)
        )
        if self.error == Loss.ABSOLUTE:
            spread = np.abs(outside).mean(axis=1, keepdims=True)
            losses = (
                np.abs(errors) / np.maximum(spread, LEAST_SPREAD) for errors in (inside, outside)
            )
        else:
            spread = np.sqrt(np.square(outside).mean(axis=1, keepdims=True))
            losses = (
                np.square(errors / np.maximum(spread, LEAST_SPREAD)) / 2
                for errors in (inside, outside)
            )
        first, second = (each[..., None] for each in losses)
        return first, second


def of(config: Config) -> Regression | None:
    """The regression of a configuration; None for a classification."""
    if config.dataset.task != Task.REGRESSION:
        return None
    low, high = config.dataset.bounds
    return Regression(low, high, config.training.error)
