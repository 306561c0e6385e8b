"""Measured lower bounds of epsilon, each with its confidence, its counts and its ceiling: what a perfect attack could have shown with them.

From independent trials: each score from a run of its own. `one_run` has the bounds from the fair coins of a single run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from dptrain.types import Refusal

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bound:
    """epsilon is at least `epsilon` at `delta`, with `confidence`. n_in and n_out are the trials that say so; `ceiling` is what a perfect
    attack would have come to; `assumes` names what must hold beyond the trials, and is empty for a bound that holds for every mechanism."""

    epsilon: float
    delta: float
    confidence: float
    n_in: int
    n_out: int
    ceiling: float
    method: str
    assumes: str = ""


Limit = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""upper limits of FPR and FNR, delta -> epsilon"""


def upper_limit(errors: np.ndarray, trials: int, significance: float) -> np.ndarray:
    """One-sided upper limit of an error rate: B^-1(1 - significance; errors + 1, trials - errors) (Clopper and Pearson 1934)."""
    errors = np.asarray(errors)
    return np.where(errors < trials, special.betaincinv(errors + 1, np.maximum(trials - errors, 1), 1 - significance), 1.0)


def hypothesis_testing(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """The least epsilon that allows such error rates: max(0, ln((1 - delta - FPR) / FNR), ln((1 - delta - FNR) / FPR))
    (Kairouz et al. 2015, theorem 2.1). Both directions read the same two limits, so nothing more is paid for the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.log(np.maximum(1 - delta - fpr, 0) / fnr)
        other = np.log(np.maximum(1 - delta - fnr, 0) / fpr)
    return np.maximum(0.0, np.maximum(one, other))


def gaussian_mu(fpr: np.ndarray, fnr: np.ndarray) -> np.ndarray:
    """The least mu of Gaussian DP that allows such error rates: Phi^-1(1 - FPR) - Phi^-1(FNR), at least 0 (Dong et al. 2022, equation 6)."""
    with np.errstate(invalid="ignore"):
        return np.maximum(0.0, np.nan_to_num(-special.ndtri(fpr) - special.ndtri(fnr), nan=0.0))


def delta_of_mu(mu: float, epsilon: float) -> float:
    """delta(epsilon) of mu-Gaussian DP (Dong et al. 2022, corollary 2.13)."""
    second = epsilon + special.log_ndtr(-epsilon / mu - mu / 2)
    return float(special.ndtr(-epsilon / mu + mu / 2) - math.exp(second))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The epsilon of mu-Gaussian DP at delta: the inverse of delta_of_mu."""
    if mu <= 0 or delta_of_mu(mu, 0.0) <= delta:
        return 0.0
    return largest(lambda epsilon: delta_of_mu(mu, epsilon) > delta)


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The mu at which mu-Gaussian DP has this epsilon at delta. Raises ValueError for delta 0, which no mu above 0 reaches."""
    if not 0 < delta < 1:
        raise ValueError(f"Gaussian DP has no epsilon at delta {delta:g}; delta must lie in (0, 1)")
    return largest(lambda mu: mu == 0 or delta_of_mu(mu, epsilon) <= delta)


def _gdp(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    mu = gaussian_mu(fpr, fnr)
    return np.array([epsilon_of_mu(float(each), delta) for each in np.atleast_1d(mu)])


METHODS: dict[str, tuple[Limit, str]] = {
    "clopper_pearson": (hypothesis_testing, ""),
    "gdp": (_gdp, "a Gaussian trade-off curve"),
}


def from_counts(
    tp: int, fn: int, fp: int, tn: int, delta: float, method: str = "clopper_pearson", confidence: float = CONFIDENCE, tests: int = 1
) -> Bound:
    """A lower bound from a confusion matrix of independent trials, at a threshold fixed without them (or at the best of `tests` such: Bonferroni).

    Half of the error goes to the upper limit of FPR and half to that of FNR. clopper_pearson holds for every mechanism (Jagielski et al. 2020); gdp
    extrapolates along a Gaussian trade-off (Nasr et al. 2023), far beyond the counts, and is not a bound for other mechanisms.
    """
    limit, assumes = METHODS[method]
    tail = (1 - confidence) / 2 / tests

    def bound(fp: int, fn: int) -> float:
        found = limit(upper_limit(np.array([fp]), fp_n, tail), upper_limit(np.array([fn]), fn_n, tail), delta)
        return float(found[0])

    fp_n, fn_n = fp + tn, fn + tp
    return Bound(bound(fp, fn), delta, confidence, fn_n, fp_n, bound(0, 0), method, assumes)


def clopper_pearson_interval(tp: int, tn: int, fp: int, fn: int, delta: float, alpha: float = 0.1) -> tuple[float, float]:
    """Two-sided interval of the epsilon at which this attack's error rates lie, 1 - alpha/2 each way, from the limits of FPR and FNR."""
    tail = alpha / 4
    upper = upper_limit(np.array([fp]), fp + tn, tail), upper_limit(np.array([fn]), fn + tp, tail)
    lower = 1 - upper_limit(np.array([tn]), fp + tn, tail), 1 - upper_limit(np.array([tp]), fn + tp, tail)
    highest = np.maximum(hypothesis_testing(*lower, delta), hypothesis_testing(1 - upper[0], 1 - upper[1], delta))
    return float(hypothesis_testing(*upper, delta)[0]), float(highest[0])


def from_scores(
    inside: np.ndarray,
    outside: np.ndarray,
    delta: float,
    method: str = "clopper_pearson",
    confidence: float = CONFIDENCE,
    thresholds: np.ndarray | None = None,
    seed: int = 0,
) -> Bound:
    """A lower bound from membership scores of independent trials, higher = member.

    clopper_pearson: thresholds stand at fixed ranks of the scores out, and at fixed ranks of the scores in; all are tried and paid for
    (Bonferroni). At the k-th largest of n scores out the false positive rate is a Beta(k, n - k + 1) whatever their law, which is the limit of
    k - 1 false positives, and the scores in are counted independently of it. That loses less than choosing on one half and trying on the other.
    Equal scores are put in random order. With `thresholds`, fixed without these scores, those are tried instead. gdp without thresholds needs none: of mu-Gaussian DP the AUC is at most Phi(mu / sqrt 2), and its lower limit is that of a rate
    over min(n_in, n_out) trials, whose variance is never below the AUC's (van Dantzig 1951).
    """
    if min(len(inside), len(outside)) < 4:
        raise Refusal(f"a bound needs 4 trials in and 4 out at least; there are {len(inside)} and {len(outside)}")
    if method == "gdp" and thresholds is None:
        return _from_auc(inside, outside, delta, confidence)
    if thresholds is None:
        return _at_fixed_ranks(inside, outside, delta, method, confidence, seed)
    found = []
    for threshold in thresholds:
        tp, fp = int((inside >= threshold).sum()), int((outside >= threshold).sum())
        found.append(from_counts(tp, len(inside) - tp, fp, len(outside) - fp, delta, method, confidence, len(thresholds)))
    return max(found, key=lambda bound: bound.epsilon)


def _at_fixed_ranks(inside: np.ndarray, outside: np.ndarray, delta: float, method: str, confidence: float, seed: int) -> Bound:
    n_in, n_out = len(inside), len(outside)
    both = np.concatenate([inside, outside])
    place = np.empty(n_in + n_out, dtype=np.int64)
    place[np.lexsort((np.random.default_rng(seed).random(n_in + n_out), both))] = np.arange(n_in + n_out)
    low, high = np.sort(place[:n_in]), np.sort(place[n_in:])
    from_top, from_bottom = (np.unique(np.geomspace(1, n // 2, int(math.log2(n))).astype(int)) for n in (n_out, n_in))
    fp = [*(from_top - 1), *(n_out - np.searchsorted(high, low[from_bottom - 1]))]
    fn = [*np.searchsorted(low, high[n_out - from_top]), *(from_bottom - 1)]
    tests = len(fp)
    found = [
        from_counts(n_in - misses, misses, alarms, n_out - alarms, delta, method, confidence, tests)
        for alarms, misses in zip(fp, fn, strict=True)
    ]
    return max(found, key=lambda bound: bound.epsilon)


def _from_auc(inside: np.ndarray, outside: np.ndarray, delta: float, confidence: float) -> Bound:
    n_in, n_out = len(inside), len(outside)
    trials = min(n_in, n_out)
    ranks = stats.rankdata(np.concatenate([inside, outside]))[:n_in]
    auc = (ranks.sum() - n_in * (n_in + 1) / 2) / (n_in * n_out)

    def bound(auc: float) -> float:
        low = special.betaincinv(auc * trials, trials - auc * trials + 1, 1 - confidence) if auc > 0 else 0.0
        return epsilon_of_mu(math.sqrt(2) * float(special.ndtri(low)), delta)

    return Bound(bound(auc), delta, confidence, n_in, n_out, bound(1.0), "gdp", METHODS["gdp"][1])


def joint_beta(tp: int, tn: int, fp: int, fn: int, delta: float, alpha: float = 0.1) -> tuple[float, float]:
    """Two-sided credible interval of epsilon at 1 - alpha (Zanella-Beguelin et al. 2023, section IV): not a frequentist bound.

    FPR and FNR have Jeffreys posteriors Beta(1/2 + FP, 1/2 + TN) and Beta(1/2 + FN, 1/2 + TP). The ends are the epsilons whose privacy region
    {FPR + e^epsilon FNR >= 1 - delta, e^epsilon FPR + FNR >= 1 - delta, and the same of the complements} holds alpha/2 and 1 - alpha/2 of them.
    """
    fnr, fpr = (0.5 + fn, 0.5 + tp), (0.5 + fp, 0.5 + tn)

    def mass(epsilon: float) -> float:
        return 1 - _below(fnr, fpr, epsilon, delta) - _below(fnr[::-1], fpr[::-1], epsilon, delta)

    low, high = (largest(lambda epsilon, level=level: mass(epsilon) < level) for level in (alpha / 2, 1 - alpha / 2))  # type: ignore[misc]
    return low, high


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _below(fnr: tuple[float, float], fpr: tuple[float, float], epsilon: float, delta: float) -> float:
    """P(the point lies under the lower boundary of the privacy region), for FNR ~ Beta(*fnr), FPR ~ Beta(*fpr).

    The integral over FNR of density times P(FPR < boundary). With FNR = sin^2(t) the density has no pole; the pieces end where the
    boundary bends or where P(FPR < boundary) moves, and a cubic change of variable flattens the square roots at their ends.
    """
    a, b = fnr
    slopes = ((math.exp(epsilon), 1 - delta), (math.exp(-epsilon), math.exp(-epsilon) * (1 - delta)))  # boundary = top - slope * FNR
    levels = special.betaincinv(*fpr, [1e-16, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9, 1 - 1e-15])
    ends = [*((top - level) / slope for slope, top in slopes for level in levels), (1 - delta) / (1 + math.exp(epsilon)), 1 - delta]
    ends += list(special.betaincinv(a, b, [1e-16, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9, 1 - 1e-15]))
    cuts = np.arcsin(np.sqrt(np.unique(np.clip([0.0, *ends], 0, 1 - delta))))
    share = (_NODES + 1) / 2
    start, length = cuts[:-1, None], np.diff(cuts)[:, None]
    t = start + length * share**2 * (3 - 2 * share)
    weight = length * 6 * share * (1 - share) * _WEIGHTS / 2
    x = np.sin(t) ** 2
    boundary = np.clip(np.maximum(slopes[0][1] - slopes[0][0] * x, slopes[1][1] - slopes[1][0] * x), 0, 1)
    log_density = 2 * (a - 0.5) * np.log(np.sin(t)) + 2 * (b - 0.5) * np.log(np.cos(t)) + math.log(2) - special.betaln(a, b)
    return float(np.sum(weight * np.exp(log_density) * special.betainc(*fpr, boundary)))


def largest(holds: Callable[[float], bool], start: float = 0.0) -> float:
    """The end of the range from `start` in which `holds`, to 1e-12 of its size, on the side where it does; start if nowhere; inf beyond 1,000."""
    low, high = start, max(1.0, 2 * start)
    if not holds(low):
        return start
    while holds(high):
        if high > 1000:
            return math.inf
        low, high = high, 2 * high
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
