"""Proved upper bounds for the mechanism a trainer ran: epsilon, the noise for a target, the
trade-off curve.

The claim is the privacy loss distribution (PLD) of the Poisson-subsampled Gaussian, composed over
all steps (Koskela et al. 2020; Doroshenko et al. 2022, the connect-the-dots rounding of
`dp_accounting`), which errs upwards, or Renyi DP where that is less. At sample rate 1 the mechanism
is one Gaussian mechanism, and its closed form is used. A mechanism that neither covers raises
UnsupportedMechanism.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from dp_accounting.pld import privacy_loss_distribution as pld_lib
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import binom

from dptrain.core.types import Mechanism, Neighbouring, Sampling
from dptrain.privacy import gaussian, rdp

SLACK = 1e-3
"""Calibration returns an epsilon (or an advantage, or a rate) in [target - SLACK, target]."""
LEAST_NOISE, MOST_NOISE = 0.05, 1e6
POINTS = 5e6
STEP_POINTS = 1e5
"""Points of a privacy loss distribution at most, and of one step's: they bound memory and time
where epsilon is absurd.
"""
FINE, COARSE = 2.0**-20, 2.0**-10
"""Limits of the spacing of privacy losses: below, rounding of floating point grows with the points.
"""
LARGEST = 700.0
"""e to this is still a number."""

_FPR = np.unique(np.concatenate([[0.0], np.logspace(-6, 0, 601), np.linspace(0, 1, 1001)]))

Composition = tuple[tuple[Mechanism, int], ...]
"""Mechanisms, each run independently a number of times on data that differ in one and the same
example.
"""


class UnsupportedMechanism(ValueError):
    """The accountant has no bound for this mechanism."""


def accounted(mechanism: Mechanism) -> Mechanism:
    """The Poisson-sampled mechanism that bounds this one. Raises UnsupportedMechanism.

    Shuffled batches get no amplification: each pass is one Gaussian mechanism at sample rate 1,
    whichever batch an example falls into, given that neighbours differ in nothing else (zero-out).
    With an example added or removed every later batch shifts, and there is no bound. A pass is
    counted as its whole batches only, since loaders drop the rest: so the passes are as many as
    they can be.
    """
    if not mechanism.private:
        raise UnsupportedMechanism("no noise was added: no epsilon holds")
    if not math.isfinite(mechanism.noise_multiplier):
        raise UnsupportedMechanism("the noise multiplier is not finite")
    if not math.isfinite(mechanism.clip) or mechanism.clip <= 0:
        raise UnsupportedMechanism("gradients were not clipped to a finite norm: no epsilon holds")
    if not 0 < mechanism.batch_size <= mechanism.public_n or mechanism.steps < 1:
        raise UnsupportedMechanism("sample rate must lie in (0, 1] and steps be at least 1")
    if mechanism.sampling == Sampling.POISSON and mechanism.neighbouring in (
        Neighbouring.ADD_REMOVE,
        Neighbouring.ZERO_OUT,
    ):
        return mechanism
    if mechanism.sampling == Sampling.SHUFFLED and mechanism.neighbouring == Neighbouring.ZERO_OUT:
        passes = math.ceil(Fraction(mechanism.steps, mechanism.public_n // mechanism.batch_size))
        return replace(
            mechanism, sampling=Sampling.POISSON, batch_size=mechanism.public_n, steps=passes
        )
    raise UnsupportedMechanism(
        f"no bound for {mechanism.sampling} sampling with {mechanism.neighbouring} neighbours"
    )


def composition(mechanisms: Iterable[Mechanism]) -> Composition:
    """Equal ones counted. Raises UnsupportedMechanism."""
    return tuple(Counter(accounted(mechanism) for mechanism in mechanisms).items())


def epsilon(mechanism: Mechanism | Composition, delta: float) -> float:
    """Upper bound of epsilon at `delta`, at least 0. Raises UnsupportedMechanism."""
    return float(_Losses.of(mechanism).epsilon(delta))


def deltas(mechanism: Mechanism, epsilons: Float[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
    """Upper bounds of delta at each epsilon, whichever way the neighbours differ. Raises
    UnsupportedMechanism.
    """
    return _Losses.of(mechanism).deltas(epsilons)


def method(mechanism: Mechanism) -> str:
    """What epsilon(mechanism) is computed by."""
    return (
        "the closed form"
        if accounted(mechanism).sample_rate == 1
        else "PLD, or RDP where that is less"
    )


@dataclass(frozen=True)
class _Losses:
    """The privacy losses of a composition, for a group of k examples that come and go together."""

    parts: Composition
    group: int = 1

    @staticmethod
    def of(mechanism: Mechanism | Composition, group: int = 1) -> _Losses:
        return _Losses(
            composition([mechanism]) if isinstance(mechanism, Mechanism) else mechanism, group
        )

    @property
    def mu(self) -> float | None:
        """Of the one Gaussian mechanism that this is where every sample rate is 1 (Dong et al.
        2022, corollary 3.3); else None.
        """
        if any(mechanism.sample_rate != 1 for mechanism, _ in self.parts):
            return None
        return self.group * math.sqrt(
            sum(
                times * mechanism.steps / mechanism.noise_multiplier**2
                for mechanism, times in self.parts
            )
        )

    def epsilon(self, delta: float) -> float:
        if (mu := self.mu) is not None:
            return gaussian.epsilon_above(mu, delta)
        with np.errstate(over="ignore"):  # of a mass next to zero, where epsilon comes out infinite
            by_pld = max(
                0.0,
                float(_pld(self.parts, self.group, self._grid(delta)).get_epsilon_for_delta(delta)),
            )
        return by_pld if self.group > 1 else min(by_pld, self._renyi(delta))

    def _renyi(self, delta: float) -> float:
        """Epsilon by RDP, which is less where a tiny delta meets the mass that the PLD cuts off;
        with more than its rounding added.
        """
        steps = [
            (float(ran.sample_rate), ran.noise_multiplier, ran.steps * times)
            for ran, times in self.parts
        ]
        return rdp.composed(steps, delta) * (1 + 1e-9) + 1e-12 * sum(count for *_, count in steps)

    def deltas(self, epsilons: Float[np.ndarray, " E"]) -> np.ndarray:
        if (mu := self.mu) is not None:
            deltas = np.exp(gaussian.log_delta(mu, epsilons))
        else:
            deltas = np.maximum(*self.directions(epsilons))
        return np.asarray(deltas)

    def directions(self, epsilons: Float[np.ndarray, " E"]) -> tuple[np.ndarray, np.ndarray]:
        """delta(epsilon) of the data with the example against those without it, and the other way
        round: they differ under sampling, since an example that is seldom drawn moves the output
        seldom, and then far.
        """
        if self.mu is not None:
            return self.deltas(epsilons), self.deltas(epsilons)
        whole = _pld(self.parts, self.group, self._grid(1e-9))
        # The library has no public name for one direction.
        both = (whole._pmf_remove, whole._pmf_add)
        forward, backward = (
            np.clip(np.asarray(pmf.get_delta_for_epsilon(list(epsilons)), dtype=np.float64), 0, 1)
            for pmf in both
        )
        return forward, backward

    def _grid(self, delta: float) -> float:
        """Spacing of privacy losses: rounding is upwards, so a coarse one is safe, but it costs up
        to the spacing, and where it is wider than the spread of one step's losses it widens every
        step's. Both are held to a thousandth of epsilon.
        """
        size, spread, reach = 0.0, math.inf, 0.0
        for ran, times in self.parts:
            q, sigma = float(ran.sample_rate), ran.noise_multiplier
            size += times * self.group * rdp.improved(q, sigma, ran.steps, delta)
            spread = min(spread, q * math.sqrt(math.expm1(min(sigma**-2, 50.0))))
            # The loss ten deviations out, were the example in every batch.
            top = self.group / sigma * (10 + 0.5 * self.group / sigma)
            reach = max(reach, math.log1p(q * math.exp(min(top, LARGEST))))
        # Each point of a mixture is a search of its own, so there are to be fewer.
        if self.group > 1:
            return max(min(size / 1500, self.group * spread / 5), reach / 8000)
        wanted = max(
            min(size / 2000, COARSE, spread / 10), FINE, reach / STEP_POINTS, size / POINTS
        )
        # A power of two, since epsilon is smooth in the noise only while the grid stays.
        return 2.0 ** math.floor(math.log2(wanted))


@lru_cache(maxsize=8)
def _pld(parts: Composition, group: int, grid: float) -> pld_lib.PrivacyLossDistribution:
    whole = None
    for mechanism, times in parts:
        q, count = float(mechanism.sample_rate), np.arange(group + 1)
        if group == 1:
            single = pld_lib.from_gaussian_mechanism(
                mechanism.noise_multiplier,
                sampling_prob=q,
                value_discretization_interval=grid,
                use_connect_dots=True,
            )
        # Ganesh 2024, theorem 1: of the k, a binomial number is in the batch, and at worst their
        # gradients are parallel.
        else:
            weights = binom.pmf(count, group, q)
            single = pld_lib.from_mixture_gaussian_mechanism(
                mechanism.noise_multiplier,
                count.astype(float),
                weights / weights.sum(),
                value_discretization_interval=grid,
            )
        composed = single.self_compose(mechanism.steps * times)
        whole = composed if whole is None else whole.compose(composed)
    return whole


@lru_cache(maxsize=64)
def calibrate(mechanism: Mechanism, target: float, delta: float) -> Mechanism:
    """`mechanism` with the least noise multiplier (within SLACK) whose epsilon(...) at `delta` is
    at most `target`.

    The returned end is on the safe side. Raises ValueError where none up to MOST_NOISE reaches the
    target.
    """
    described = f"epsilon {target:g} at delta {delta:g}"
    return least_noise(mechanism, lambda ran: epsilon(ran, delta), target, described)


def least_noise(
    mechanism: Mechanism, risk: Callable[[Mechanism], float], target: float, described: str
) -> Mechanism:
    """`mechanism` with the least noise for which risk(mechanism), which falls with the noise, lies
    in [target - SLACK, target].

    Brent's method on logarithms, which ends as soon as a value lies there: only noise that was
    itself evaluated, and is on the safe side, is returned. SLACK is a hundredth of the target where
    that is less; where epsilon itself jumps by more, by parts in ten thousand, below the jump. With
    LEAST_NOISE already below the target, that is returned. Raises ValueError.
    """
    slack = min(SLACK, target / 100)
    tried: dict[float, float] = {}

    def at(noise: float) -> float:
        if noise not in tried:
            tried[noise] = risk(replace(mechanism, noise_multiplier=noise))
        if target - slack <= tried[noise] <= target:
            raise _Reached
        return tried[noise]

    def excess(log_noise: float) -> float:
        noise = ends.get(log_noise) or math.exp(log_noise)
        return math.log(target - slack / 2) - math.log(max(at(noise), 1e-300))

    low = high = 1.0
    with contextlib.suppress(_Reached):
        while at(high) > target:
            low, high = high, high * 4
            if high > MOST_NOISE:
                raise ValueError(f"no noise multiplier up to {MOST_NOISE:g} gives {described}")
        while at(low) <= target:
            if low <= LEAST_NOISE:
                return replace(mechanism, noise_multiplier=low)
            low, high = max(low / 2, LEAST_NOISE), low
        ends = {math.log(low): low, math.log(high): high}
        brentq(excess, *ends, xtol=1e-12, rtol=1e-12)
    safe = min(noise for noise, value in tried.items() if value <= target)
    return replace(mechanism, noise_multiplier=safe)


class _Reached(Exception):
    """A value on the safe side is close enough to the target."""


@dataclass(frozen=True)
class TradeOff:
    """The most any attack that tells members from non-members can reach, from pairs of an epsilon
    and a delta that all hold.

    With P the outputs without the example and Q those with it, deltas[i] bounds Q against P, so TPR
    <= e^eps FPR + delta, and others[i] bounds P against Q, so 1 - FPR <= e^eps (1 - TPR) + delta
    (Kairouz et al. 2015, theorem 2.1; by direction, Zhu, Dong and Wang 2022, section 2). The lower
    envelope over the pairs is used, so each number is a valid bound.
    """

    epsilons: np.ndarray
    deltas: np.ndarray
    others: np.ndarray
    fpr = _FPR

    def max_tpr(self, fpr: float) -> float:
        """Ceiling of the true positive rate at a false positive rate."""
        return float(self._ceiling(np.array([fpr]))[0])

    def _ceiling(self, fpr: Float[np.ndarray, " F"]) -> np.ndarray:
        growth, deltas, others = (
            np.exp(self.epsilons)[:, None],
            self.deltas[:, None],
            self.others[:, None],
        )
        result: np.ndarray = np.clip(
            np.minimum(growth * fpr + deltas, 1 - (1 - others - fpr) / growth).min(axis=0), 0, 1
        )
        return result

    @cached_property
    def tpr(self) -> np.ndarray:
        """Ceilings at `fpr`, for a chart."""
        return self._ceiling(_FPR)

    @property
    def max_advantage(self) -> float:
        """Ceiling of TPR - FPR: the least of (e^eps - 1 + 2 delta) / (e^eps + 1), which is delta at
        epsilon 0 where that is known.
        """
        deltas = np.maximum(self.deltas, self.others)
        return float(np.min(np.tanh(self.epsilons / 2) + 2 * deltas / (np.exp(self.epsilons) + 1)))

    @property
    def max_auc(self) -> float:
        """Ceiling of the area under the ROC, as an upper sum."""
        return float(np.clip(np.sum(self.tpr[1:] * np.diff(self.fpr)), 0, 1))


@lru_cache(maxsize=64)
def trade_off(mechanism: Mechanism) -> TradeOff:
    """Ceiling over the whole ROC of distinguishing two neighbouring data sets."""
    losses = _Losses.of(mechanism)
    grid = np.linspace(0, min(max(losses.epsilon(1e-9), 0.1), 60.0), 600)
    return TradeOff(grid, *losses.directions(grid))


def claimed_trade_off(epsilon: float, delta: float) -> TradeOff:
    """The same ceiling from nothing but a claim of (epsilon, delta), of which the mechanism is not
    known.
    """
    return TradeOff(np.array([epsilon]), np.array([delta]), np.array([delta]))


def unamplified_epsilon(mechanism: Mechanism, delta: float) -> float:
    """Epsilon if the attacker knew every batch: the same run at sample rate 1."""
    return epsilon(replace(accounted(mechanism), batch_size=mechanism.public_n), delta)


def group_epsilon(mechanism: Mechanism, delta: float, group: int) -> float:
    """Epsilon for a person with `group` examples, all of which come and go together."""
    return _Losses.of(mechanism, group).epsilon(delta)


def gaussian_mu(mechanism: Mechanism, delta: float) -> float:
    """The least mu such that the mechanism gives away no more than the Gaussian mechanism of that
    mu at every delta' in [delta, 1].

    Conservative, unlike a central limit (Gomez et al. 2025, arXiv 2503.10945, section 3). Exact at
    sample rate 1; inf where e^epsilon is.
    """
    losses = _Losses.of(mechanism)
    if losses.mu is not None:
        return losses.mu
    if (most := losses.epsilon(delta)) > LARGEST:
        return math.inf
    # Delta at each point against the Gaussian's at the next: both fall, so what holds there holds
    # in between.
    points = np.linspace(0, most, 4001)
    grid, log_deltas = points[1:], np.log(np.maximum(losses.deltas(points[:-1]), delta))
    low, high = np.zeros_like(grid), np.full_like(grid, 1.0)
    while np.any(below := gaussian.log_delta(high, grid) < log_deltas):
        high = np.where(below, high * 2, high)
    for _ in range(60):
        middle = (low + high) / 2
        enough = gaussian.log_delta(middle, grid) >= log_deltas
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return float(high.max())
