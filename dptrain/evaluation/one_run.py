"""Measured lower bounds of epsilon from one run, whose examples were in or out by independent fair
coins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
TIMES = QUARTER - 1
"""How many times as many those others are."""


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
    bound, assumes = METHODS[method]
    few, rest = _looked_at_and_tried(scores, member)
    best, chosen = 0.0, (SHARES[0], 2)
    for choice, guesses, right in few.most_promising(confidence):
        epsilon = bound(TIMES * few.count, guesses, right, delta, confidence, best)
        if epsilon > best:
            best, chosen = epsilon, choice
    epsilon = bound(rest.count, *rest.guessed(*chosen), delta, confidence)
    # Who is always right guesses every coin that is left.
    ceiling = bound(rest.count, rest.count, rest.count, delta, confidence)
    return Bound(
        epsilon,
        delta,
        confidence,
        int(member.sum()),
        int((~member).sum()),
        ceiling,
        method,
        assumes,
    )


def p_value(
    scores: Float[np.ndarray, " m"], member: Bool[np.ndarray, " m"], epsilon: float, delta: float
) -> float:
    """P-value of "(epsilon, delta)-DP" from one model; arguments and errors as of from_one_run.

    How many coins are guessed is chosen on a quarter of them, for the least p-value.
    """
    few, rest = _looked_at_and_tried(scores, member)
    least, chosen = math.inf, (SHARES[0], 2)
    for choice, guesses, right in few.most_promising(CONFIDENCE):
        # Cheap, and delta only adds.
        if one_run_p_value(TIMES * few.count, guesses, right, epsilon, 0.0) >= least:
            continue
        p = one_run_p_value(TIMES * few.count, guesses, right, epsilon, delta)
        if p < least:
            least, chosen = p, choice
    return one_run_p_value(rest.count, *rest.guessed(*chosen), epsilon, delta)


def contradicted(p_values: Sequence[float], alarm: float) -> bool:
    """Whether p-values of one claim, each from a target of its own, refute it at `alarm`.

    More than half of them lie at or below a with probability at most 2a (Markov), whatever they
    have to do with each other: so the median of several is held to half of the alarm.
    """
    middle = sorted(p_values)[len(p_values) // 2]
    return middle < (alarm if len(p_values) == 1 else alarm / 2)


def _looked_at_and_tried(
    scores: Float[np.ndarray, " m"], member: Bool[np.ndarray, " m"]
) -> tuple[_Coins, _Coins]:
    """A quarter of the coins and the others, by falling score. Raises Refusal."""
    if _p_of_fair_coins(int(member.sum()), len(member)) < COINS:
        raise Refusal(
            f"fair coins did not choose {member.sum():,} members of {len(member):,} "
            "examples: no bound from one run"
        )
    # Equal scores must not fall back on the order of the file, which may tell members first.
    mixed = np.random.default_rng(0).permutation(len(scores))
    looked, tried = mixed[: len(mixed) // QUARTER], mixed[len(mixed) // QUARTER :]

    def ranked(part: Int[np.ndarray, " n"]) -> _Coins:
        return _Coins(member[part[np.argsort(-scores[part], kind="stable")]])

    return ranked(looked), ranked(tried)


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

    def most_promising(self, confidence: float) -> Iterator[tuple[tuple[float, int], int, int]]:
        """Shares and ends by which some coin is guessed, with the guesses and the right ones of
        TIMES as many coins, by falling epsilon that these refute at delta 0: that one of them does
        not beat the best so far is seen at once. Equal numbers come once.
        """
        choices = [(share, ends) for share in SHARES for ends in (2, 1)]
        guesses, right = TIMES * np.array([self.guessed(*choice) for choice in choices]).T
        refuted = special.betaincinv(np.maximum(right, 0.5), guesses - right + 1, 1 - confidence)
        order = np.argsort(-np.where(right > 0, refuted, 0.0), kind="stable")
        seen = set()
        for place in order.tolist():
            numbers = int(guesses[place]), int(right[place])
            if numbers[0] and numbers not in seen:
                seen.add(numbers)
                yield choices[place], *numbers
