"""Confidence intervals: of a binomial rate, and of a mean over the models of a fleet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from dptrain.core.types import Interval
from dptrain.evaluation.metrics import Together, Values

CONFIDENCE = 0.95
BLOCKS = 10
BOOTSTRAPS = 1000
RESAMPLED = 1 << 22
"""Weights of resamples in memory at once."""


def at_once(many: int) -> float:
    """Confidence of each of `many` intervals that hold together with CONFIDENCE (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, many)


def upper_limit(hits: float | np.ndarray, trials: int, significance: float) -> np.ndarray:
    """One-sided upper limit of a rate: B^-1(1 - significance; hits + 1, trials - hits) (Clopper and
    Pearson 1934).
    """
    hits = np.asarray(hits)
    limit = special.betaincinv(hits + 1, np.maximum(trials - hits, 1e-300), 1 - significance)
    return np.where(hits < trials, limit, 1.0)


def lower_limit(hits: float | np.ndarray, trials: int, significance: float) -> np.ndarray:
    """One-sided lower limit of a rate: one less the upper limit of its complement."""
    hits = np.asarray(hits)
    limit = special.betaincinv(np.maximum(hits, 1e-300), trials - hits + 1, significance)
    return np.where(hits > 0, limit, 0.0)


def clopper_pearson(
    hits: float, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided interval of a binomial rate (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    return float(lower_limit(hits, trials, tail)), float(upper_limit(hits, trials, tail))


def fleet_interval(
    values: Values, membership: Bool[np.ndarray, "T N"], bounds: tuple[float, float]
) -> Callable[[float], Interval]:
    """The mean of `values` over targets, as a function of the confidence asked for.

    Two things vary: the models, and the examples all of them share (an example hard for one target
    is hard for the next, and each target serves the others as a shadow). So the variance is the sum
    of two jackknives: leave one target out, and leave one of BLOCKS random blocks of examples out
    (Efron and Stein 1981: a jackknife errs upwards on average). Student's quantile with the smaller
    number of groups less one. A single target shows nothing of how models vary: its interval is
    over examples only, from the standard error of BOOTSTRAPS stratified resamples (Efron 1979), and
    holds that of Clopper and Pearson over min(n_in, n_out) trials, whose variance an AUC never
    exceeds (van Dantzig 1951): a bootstrap of few examples is far too sure of itself. So does one
    of many targets where no resample differs. What a resample cannot give (nan) is left out.
    """
    count, examples = membership.shape
    n_in, n_out = int(membership.sum()), int((~membership).sum())
    trials = (
        min(int(membership.any(axis=0).sum()), int((~membership).any(axis=0).sum())) or examples
    )
    if count == 1:
        mean = float(_means(values, np.ones((1, examples)))[0])
        error, freedom = float(np.sqrt(_variance_of_resamples(values, membership[0]))), np.inf
    else:
        without = leave_out(examples)
        mean, by_target = _over_targets(values, count, examples)
        error = float(np.sqrt(by_target + _jackknife(_means(values, without, count))))
        freedom = max(1, min(count, len(without)) - 1)
    at = _student(mean, error, freedom, bounds)

    def of(confidence: float) -> Interval:
        interval = Interval(mean, *at(confidence), count, n_in, n_out)
        if error > 0 and count > 1:
            return interval
        return widen(interval, trials, confidence, bounds)

    return of


def leave_out(
    examples: int, users: Int[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "G N"]:
    """Weights of `examples` that leave out one of BLOCKS random blocks each. users: whose each is,
    numbered from 0: those of one user, which are alike, are in one block.
    """
    of = np.arange(examples) if users is None else users
    count = int(of.max(initial=-1)) + 1
    blocks = min(BLOCKS, count)
    block = (np.random.default_rng(0).permutation(count) % max(1, blocks))[of]
    weights: np.ndarray = (block != np.arange(blocks)[:, None]).astype(float)
    return weights


def of_resamples(
    values: Float[np.ndarray, "G M"], bounds: tuple[float, float]
) -> Callable[[float], Interval]:
    """The interval of fleet_interval from values that are computed already: of each of M models, in
    the first row on all examples, in the others without a block of them (leave_out).

    Of a single model, which is not the outcome of any training, only the examples vary. The counts
    of examples are left at 0. Where nothing varies the interval is a point: see `widen`.
    """
    (whole, *_), without = values, values[1:]
    count = len(whole)
    by_model = float(np.var(whole, ddof=1)) / count if count > 1 else 0.0
    error = float(np.sqrt(by_model + _jackknife(without.mean(axis=1))))
    groups = min(count, len(without)) if count > 1 else len(without)
    at = _student(float(whole.mean()), error, max(1, groups - 1), bounds)
    return lambda confidence: Interval(float(whole.mean()), *at(confidence), count, 0, 0)


def _student(
    mean: float, error: float, freedom: float, bounds: tuple[float, float]
) -> Callable[[float], tuple[float, float]]:
    """Student's limits about a mean, within `bounds`, as a function of the confidence."""

    def at(confidence: float) -> tuple[float, float]:
        half = float(stats.t.ppf((1 + confidence) / 2, freedom) * error)
        return max(mean - half, bounds[0]), min(mean + half, bounds[1])

    return at


def least(
    at: Callable[[float], Interval],
    membership: Bool[np.ndarray, "T N"],
    bounds: tuple[float, float],
    alarm: float,
) -> float:
    """Lower limit, one-sided at `alarm`, of the mean over targets whose interval is `at`: what a
    contradiction is judged by.

    The better of two limits at half of it each: that of fleet_interval, and that of Clopper and
    Pearson over as many trials as there are examples, which says more where targets are few and
    Student's quantile is far out.
    """
    member = membership.any(axis=0), (~membership).any(axis=0)
    trials = min(int(side.sum()) for side in member)
    interval = at(1 - alarm)
    width = bounds[1] - bounds[0]
    share = (interval.estimate - bounds[0]) / width
    return max(
        interval.low, bounds[0] + width * clopper_pearson(share * trials, trials, 1 - alarm)[0]
    )


def _means(
    values: Values, weights: Float[np.ndarray, "R N"], count: int = 1
) -> Float[np.ndarray, " R"]:
    """The metric of all `count` targets in each resample."""
    if isinstance(values, Together):
        return values.of(weights, np.ones((1, count), dtype=bool))[:, 0]
    means: np.ndarray = values.of(weights).mean(axis=1)
    return means


def _over_targets(values: Values, count: int, examples: int) -> tuple[float, float]:
    """The metric of all targets, and its variance over them."""
    ones = np.ones((1, examples))
    if isinstance(values, Together):
        without = ~np.eye(count, dtype=bool)
        return float(_means(values, ones, count)[0]), _jackknife(values.of(ones, without)[0])
    each = values.of(ones)[0]
    return float(each.mean()), float(np.var(each, ddof=1)) / count


def _variance_of_resamples(values: Values, member: Bool[np.ndarray, " N"]) -> float:
    """Of BOOTSTRAPS stratified resamples of one target."""
    drawn = _resamples(member)
    at_once = max(1, RESAMPLED // len(member))
    means = []
    while part := list(itertools.islice(drawn, at_once)):
        means.append(_means(values, np.stack(part)))
    of_all = np.concatenate(means)
    return float(np.var(of_all[np.isfinite(of_all)], ddof=1))


def _resamples(member: Bool[np.ndarray, " N"]) -> Iterator[np.ndarray]:
    """How often each example is drawn, [N]: members and non-members apart, so that their numbers
    stay.
    """
    rng = np.random.default_rng(0)
    for _ in range(BOOTSTRAPS):
        weights = np.zeros(len(member))
        for used in (member, ~member):
            if total := int(used.sum()):
                weights[used] = np.bincount(rng.integers(total, size=total), minlength=total)
        yield weights


def _jackknife(without: Float[np.ndarray, " g"]) -> float:
    """Variance from the values without one group each (Efron and Stein 1981)."""
    without = without[np.isfinite(without)]
    groups = len(without)
    if not groups:
        return 0.0
    return float((groups - 1) / groups * np.sum(np.square(without - without.mean())))


def widen(
    interval: Interval, trials: int, confidence: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The interval of a rate, or of what else lies within `bounds`, made to hold the
    Clopper-Pearson one of `trials` examples: no variation seen is not no error.
    """
    width = bounds[1] - bounds[0]
    share = min(max((interval.estimate - bounds[0]) / width, 0.0), 1.0)
    low, high = (
        bounds[0] + width * limit for limit in clopper_pearson(share * trials, trials, confidence)
    )
    return replace(interval, low=min(interval.low, low), high=max(interval.high, high))
