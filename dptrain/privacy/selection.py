"""The price of choosing: what it costs to train several times on the same data and to give away the
best model only (Papernot and Steinke 2022, "Hyperparameter tuning with Rényi differential
privacy").

It holds where the number of trials is drawn at random from a law that was fixed beforehand, each
trial draws its candidate at random and independently of the others, and the score by which the best
is chosen sees the private data through the trained model alone, as a score on the population does.
A fixed number of trials has no such bound: there the epsilons of all of them add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from dptrain.core.roots import crossing
from dptrain.core.types import Mechanism
from dptrain.privacy import pld, rdp


@dataclass(frozen=True)
class Trials:
    """How often one trains: a truncated negative binomial law, or Poisson's.

    mean: of the number of trials, at least 1. shape: 1 for the geometric law, 0 for the
    logarithmic one, infinity for Poisson's, which may be 0 trials: then nothing is given away.
    Raises ValueError for others.
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and self.mean >= 1 and self.shape >= 0):
            raise ValueError(
                f"trials need a mean of 1 or more and a shape of 0 or more, got {self.mean:g} and "
                f"{self.shape:g}"
            )

    @cached_property
    def stopping(self) -> float:
        """gamma of the truncated negative binomial law (definition 1), rounded downwards, since a
        smaller one costs more; 1 for a mean of 1.
        """
        if self.shape == 1 or self.mean == 1:
            return 1 / self.mean
        # In terms of -log gamma, with which the mean rises.
        rising = crossing(lambda minus_log: self._mean(minus_log) - self.mean)
        return math.exp(-rising * (1 + 1e-9))

    def _mean(self, minus_log: float) -> float:
        """E[K] at gamma = exp(-minus_log): shape (1/gamma - 1) / (1 - gamma^shape), or its limit at
        shape 0.
        """
        if minus_log == 0:
            return 1.0
        if self.shape == 0:
            return math.expm1(minus_log) / minus_log
        return self.shape * math.expm1(minus_log) / -math.expm1(-self.shape * minus_log)

    def draw(self, rng: np.random.Generator) -> int:
        """A number of trials."""
        if math.isinf(self.shape):
            return int(rng.poisson(self.mean))
        gamma = self.stopping
        if gamma == 1:
            return 1
        if self.shape == 0:
            return int(rng.logseries(1 - gamma))
        while True:  # truncated: not 0
            if count := int(rng.negative_binomial(self.shape, gamma)):
                return count


def divergences(
    single: Float[np.ndarray, " orders"], trials: Trials
) -> Float[np.ndarray, " orders"]:
    """Rényi divergences, at rdp.ORDERS, of giving away the best of a random number of trials, from
    those of a single trial (theorems 2 and 6).
    """
    orders, mean = rdp.ORDERS, trials.mean
    if math.isinf(trials.shape):
        deltas = np.array([rdp.delta(single, math.log1p(1 / (order - 1))) for order in orders])
        return single + mean * deltas + math.log(mean) / (orders - 1)
    beside = (1 - 1 / orders) * single - math.log(trials.stopping) / orders
    spent = single + math.log(mean) / (orders - 1) + (1 + trials.shape) * beside.min()
    # A divergence of a higher order bounds that of a lower one.
    falling: np.ndarray = np.minimum.accumulate(spent[::-1])[::-1]
    return falling


def epsilon(candidates: Sequence[Mechanism], delta: float, trials: Trials) -> float:
    """Upper bound of training, a random number of times, one of `candidates` each, and giving away
    the best model.

    A trial that draws its candidate at random spends at every order at most what the worst of them
    does. Raises UnsupportedMechanism where one has no bound.
    """
    return rdp.epsilon(divergences(worst(candidates), trials), delta)


def worst(candidates: Sequence[Mechanism]) -> Float[np.ndarray, " orders"]:
    """The largest Rényi divergence of the candidates at each of rdp.ORDERS."""
    spent = []
    for candidate in candidates:
        bound = pld.accounted(candidate)
        of_step = rdp.divergences(float(bound.sample_rate), bound.noise_multiplier)
        spent.append(bound.steps * of_step)
    highest: np.ndarray = np.max(spent, axis=0)
    return highest
