"""Measured lower bounds of epsilon from one run, whose examples were in or out by independent fair
coins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from dptrain.core.errors import Refusal
from dptrain.core.roots import crossing
from dptrain.evaluation.epsilon_bounds import Bound
from dptrain.evaluation.intervals import CONFIDENCE
from dptrain.privacy import gaussian

COINS = 1e-6
"""False-alarm rate at which a number of members is held to be no result of fair coins."""


def one_run_p_value(m: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """P-value of "(epsilon, delta)-DP" from one run in which `right` of `guesses` among m fair
    coins were guessed rightly.

    beta = P(Bin(r, q) >= v) with q = 1 / (1 + e^-epsilon); p = beta + 2 m delta max over i of P(v -
    i <= Bin(r, q) < v) / i (Steinke et al. 2023, theorem 5.2). m counts every coin, abstentions
    included.
    """
    q = special.expit(epsilon)
    beta = float(_binomial_tail(right, guesses, q))
    if delta == 0:
        return beta
    # Further below the mean than 40 standard deviations there is no mass left to gain, only a
    # larger i.
    reach = right - math.floor(guesses * q - 40 * math.sqrt(guesses * q * (1 - q)) - 1)
    alpha = _steepest(right, guesses, q, max(1, min(m, right, reach)))
    return min(1.0, beta + 2 * m * delta * alpha)


def _steepest(right: int, guesses: int, q: float, most: int) -> float:
    """The largest P(right - i <= Bin(guesses, q) < right) / i over i = 1..most.

    It is the mean of i neighbouring probabilities, which rise and then fall as i grows, and so does
    their mean: the largest of all lies within a stride of the largest of every stride-th.
    """
    beta = _binomial_tail(right, guesses, q)

    def highest(i: Int[np.ndarray, " n"]) -> tuple[float, int]:
        means = (_binomial_tail(right - i, guesses, q) - beta) / i
        at = int(means.argmax())
        return float(means[at]), int(i[at])

    stride = max(1, math.isqrt(most // 2))
    _, near = highest(np.arange(1, most + 1, stride))
    return highest(np.arange(max(1, near - stride), min(most, near + stride) + 1))[0]


def _binomial_tail(k: Int[np.ndarray, " i"] | int, n: int, q: float) -> np.ndarray:
    """P(Bin(n, q) >= k) for k up to n, by the incomplete beta function; scipy.stats.binom checks
    its arguments for longer than it computes.
    """
    inside = np.maximum(k, 1)
    return np.where(np.asarray(k) < 1, 1.0, special.betainc(inside, n + 1 - inside, q))


@lru_cache(maxsize=4096)
def one_run(
    m: int,
    guesses: int,
    right: int,
    delta: float,
    confidence: float = CONFIDENCE,
    least: float = 0.0,
) -> float:
    """The largest epsilon that one run of m independent fair coins refutes at `confidence` (Steinke
    et al. 2023), or `least` if that is not.
    """
    level = 1 - confidence
    if one_run_p_value(m, guesses, right, least, 0.0) >= level:  # cheap, and delta only adds
        return least

    def excess(epsilon: float) -> float:
        return one_run_p_value(m, guesses, right, epsilon, delta) - level

    return crossing(excess, least)


def one_run_fdp(
    m: int,
    guesses: int,
    right: int,
    delta: float,
    confidence: float = CONFIDENCE,
    least: float = 0.0,
) -> float:
    """The same for Gaussian mechanisms: the epsilon at delta of the largest mu whose trade-off
    curve one run refutes, or `least` (Mahloujifar et al. 2024, algorithm 3). Tighter than one_run,
    and only for a mechanism with a Gaussian trade-off.
    """
    if delta == 0 or right < 1:
        return least
    level = 1 - confidence

    def excess(mu: float) -> float:
        """-1 where one run refutes mu, else 1."""
        r, h = level * right / m, level * (guesses - right) / m
        for i in range(right - 1, -1, -1):
            above = max(h, float(special.ndtr(special.ndtri(r) - mu)))
            if above == h:  # then neither moves any more
                break
            r, h = min(1.0, r + i / (guesses - i) * (above - h)), above
        return -1.0 if r + h > guesses / m else 1.0

    start = gaussian.mu_of(least, delta) if least > 0 else 0.0
    mu = crossing(excess, start)
    return gaussian.epsilon_of(mu, delta) if mu > start else least


@lru_cache(maxsize=4096)
def _p_of_fair_coins(members: int, coins: int) -> float:
    """P-value of "fair coins chose so many members", which many attacks on a target ask for."""
    return float(stats.binomtest(members, coins).pvalue)


SHARES = tuple(2 ** (half / 2) for half in range(2, 25))
"""One coin in so many is guessed."""
QUARTER = 4
"""One coin in so many is looked at to choose how many of the others are guessed."""


METHODS: dict[str, tuple[Callable[..., float], str]] = {
    "one_run": (one_run, ""),
    "one_run_fdp": (one_run_fdp, "a Gaussian trade-off curve"),
}


def from_one_run(
    scores: Float[np.ndarray, " m"],
    member: Bool[np.ndarray, " m"],
    delta: float,
    method: str = "one_run",
    confidence: float = CONFIDENCE,
) -> Bound:
    """A lower bound from one model: scores [m], higher = member, and the fair coins, bool [m], that
    said who is in.

    The highest scores are guessed in, and perhaps the lowest out, the rest abstained from. How many
    is chosen on a random quarter of the coins, and tried on the other three with the whole error:
    the coins are independent, so those of the quarter may be looked at. The scores may depend on
    each other in any way, but not on the coins other than through the model. Raises Refusal where
    the number of members could not have come from fair coins.
    """
    if _p_of_fair_coins(int(member.sum()), len(member)) < COINS:
        raise Refusal(
            f"fair coins did not choose {member.sum():,} members of {len(member):,} "
            "examples: no bound from one run"
        )
    bound, assumes = METHODS[method]
    # Equal scores must not fall back on the order of the file, which may tell members first.
    mixed = np.random.default_rng(0).permutation(len(scores))
    looked, tried = mixed[: len(mixed) // QUARTER], mixed[len(mixed) // QUARTER :]

    def ranked(part: Int[np.ndarray, " n"]) -> np.ndarray:
        result: np.ndarray = member[part[np.argsort(-scores[part], kind="stable")]]
        return result

    few, rest = _Coins(ranked(looked)), _Coins(ranked(tried))
    best, chosen, times = 0.0, (SHARES[0], 2), QUARTER - 1
    for share, ends in few.most_promising(confidence):
        guesses, right = (times * count for count in few.guessed(share, ends))
        epsilon = bound(times * few.count, guesses, right, delta, confidence, best)
        if epsilon > best:
            best, chosen = epsilon, (share, ends)
    guesses, right = rest.guessed(*chosen)
    epsilon, ceiling = (
        bound(rest.count, guesses, hits, delta, confidence) for hits in (right, guesses)
    )
    return Bound(
        epsilon,
        delta,
        confidence,
        int(member.sum()),
        int((~member).sum()),
        ceiling,
        method,
        assumes,
        (rest.count, guesses, right),
    )


def contradicts(bounds: Sequence[Bound], epsilon: float, alarm: float) -> bool:
    """Whether the lower median of bounds by `one_run` refutes (epsilon, delta)-DP at `alarm`, by
    the p-values of their guesses: of many, each has half of the alarm.
    """
    p = sorted(
        one_run_p_value(*bound.guessed, epsilon, bound.delta) for bound in bounds if bound.guessed
    )
    return p[len(p) // 2] < (alarm if len(p) == 1 else alarm / 2)


class _Coins:
    """Fair coins, bool [n], that of the highest score first."""

    def __init__(self, ranked: Bool[np.ndarray, " n"]):
        self.count = len(ranked)
        self._inside = np.append(0, np.cumsum(ranked))

    def guessed(self, share: float, ends: int) -> tuple[int, int]:
        """How many are guessed, and how many of these rightly; ends: 1 the top only, 2 the bottom
        too.
        """
        guesses = round(self.count / share)
        low = guesses // 2 if ends == 2 else 0
        inside = self._inside[guesses - low]
        outside = low - (self._inside[-1] - self._inside[self.count - low])
        return guesses, int(inside + outside)

    def most_promising(self, confidence: float) -> list[tuple[float, int]]:
        """Shares and ends by which some coin is guessed, by falling epsilon that their guesses
        refute at delta 0: that one of them does not beat the best so far is seen at once.
        """
        choices = [(share, ends) for share in SHARES for ends in (2, 1)]
        guesses, right = np.array([self.guessed(*choice) for choice in choices]).T
        refuted = special.betaincinv(np.maximum(right, 0.5), guesses - right + 1, 1 - confidence)
        order = np.argsort(-np.where(right > 0, refuted, 0.0), kind="stable")
        return [choices[place] for place in order if guesses[place] > 0]
