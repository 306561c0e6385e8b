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
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from dptrain.core.roots import crossing
from dptrain.core.types import Mechanism
from dptrain.privacy import pld, rdp

LEAST_DELTA, PROFILE_POINTS = 1e-9, 500
"""Of a profile: the delta, of all trials, up to whose epsilon it is looked at, and at how many
points; each of them gives a bound.
"""


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

    @property
    def expected(self) -> float:
        """E[K] at the gamma that is drawn with, which is not below the mean that was asked for."""
        if math.isinf(self.shape):
            return self.mean
        return max(self.mean, self._mean(-math.log(self.stopping)))

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
    the best model: by Rényi divergences or by privacy profiles, whichever is less. Raises
    UnsupportedMechanism where a candidate has no bound.
    """
    return min(by_profile(candidates, delta, trials), by_renyi(candidates, delta, trials))


def by_renyi(candidates: Sequence[Mechanism], delta: float, trials: Trials) -> float:
    """The bound of Papernot and Steinke 2022. A trial that draws its candidate at random spends at
    every order at most what the worst of them does.
    """
    return rdp.epsilon(divergences(worst(candidates), trials), delta)


def by_profile(candidates: Sequence[Mechanism], delta: float, trials: Trials) -> float:
    """The bound of Koskela, Redberg and Wang 2024, "Privacy profiles for private selection".

    Let F(y) be the share of trials that do no better than y, and f the generating function of their
    number. The best has the density q f'(F). A profile delta(e) of one trial bounds how far 1 - F
    moves between neighbours, and so the ratio of f'(F) to that of the neighbour, by some R(e),
    whichever e >= 0 is taken; and f'(F) is at most the mean of the law. So the chosen model's delta
    at e' + log R(e) is at most that mean times one trial's delta at e'. A trial that draws its
    candidate has at most the largest profile of them.
    """
    plain = {replace(candidate, clip=1.0) for candidate in candidates}  # which plays no part
    reach = rdp.epsilon(worst(list(plain)), LEAST_DELTA / trials.expected)
    if not math.isfinite(reach):
        return math.inf
    at = np.linspace(0, reach, PROFILE_POINTS)
    moved = np.max([pld.deltas(each, at) for each in plain], axis=0)
    single = max(pld.epsilon(each, delta / trials.expected) for each in plain)
    return single + float(_log_ratio(at, np.clip(moved, 0, 1), trials).min())


def _log_ratio(
    epsilons: Float[np.ndarray, " E"], deltas: Float[np.ndarray, " E"], trials: Trials
) -> Float[np.ndarray, " E"]:
    """log of the largest ratio of f'(F) to f'(F'), where 1 - F' <= min(1, e^epsilon (1 - F) +
    delta): it is taken where both sides of that are 1, or where F is 1.
    """
    full = (1 - deltas) * np.exp(-epsilons)
    if math.isinf(trials.shape):  # f' is proportional to exp(mean F)
        moved: np.ndarray = trials.mean * np.maximum(1 - full, deltas)
        return moved
    gamma = trials.stopping  # f' is proportional to (1 - (1 - gamma) F)^-(shape + 1)
    ends = -np.log(gamma + (1 - gamma) * full), np.log1p((1 - gamma) * deltas / gamma)
    largest: np.ndarray = (1 + trials.shape) * np.maximum(*ends)
    return largest


def calibrate(
    candidates: Sequence[Mechanism], target: float, delta: float, trials: Trials
) -> list[Mechanism]:
    """The candidates with so much noise that `epsilon` of all of them is at most the target; each
    alone would need as much, or next to it. Raises ValueError for a target that no noise reaches.
    """
    described = f"epsilon {target:g} of the best of {trials.mean:g} trials"
    noise: dict[Mechanism, float] = {}
    for plain in dict.fromkeys(replace(each, clip=1.0) for each in candidates):

        def risk(ran: Mechanism) -> float:
            return epsilon([ran], delta, trials)

        noise[plain] = pld.least_noise(plain, risk, target, described).noise_multiplier
    factor = 1.0
    while True:
        ran = [
            replace(each, noise_multiplier=factor * noise[replace(each, clip=1.0)])
            for each in candidates
        ]
        spent = epsilon(ran, delta, trials)
        if spent <= target:
            return ran
        factor *= (1 + 1e-6) * spent / target


def worst(candidates: Sequence[Mechanism]) -> Float[np.ndarray, " orders"]:
    """The largest Rényi divergence of the candidates at each of rdp.ORDERS."""
    spent = []
    for candidate in candidates:
        bound = pld.accounted(candidate)
        of_step = rdp.divergences(float(bound.sample_rate), bound.noise_multiplier)
        spent.append(bound.steps * of_step)
    highest: np.ndarray = np.max(spent, axis=0)
    return highest
