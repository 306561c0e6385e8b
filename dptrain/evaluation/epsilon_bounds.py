"""Measured lower bounds of epsilon, each with its confidence, its counts and its ceiling: what a
perfect attack could have shown with them.

From independent trials: each score from a run of its own. `one_run` has the bounds from the fair
coins of a single run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from dptrain.core.errors import Refusal
from dptrain.core.roots import crossing
from dptrain.evaluation import metrics
from dptrain.evaluation.intervals import CONFIDENCE, lower_limit, upper_limit
from dptrain.privacy import gaussian


@dataclass(frozen=True)
class Bound:
    """epsilon is at least `epsilon` at `delta`, with `confidence`. n_in and n_out are the trials
    that say so; `ceiling` is what a perfect attack would have come to; `assumes` names what must
    hold beyond the trials, and is empty for a bound that holds for every mechanism.
    """

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


def hypothesis_testing(
    fpr: Float[np.ndarray, " ..."], fnr: Float[np.ndarray, " ..."], delta: float
) -> np.ndarray:
    """The least epsilon that allows such error rates: max(0, ln((1 - delta - FPR) / FNR), ln((1 -
    delta - FNR) / FPR)) (Kairouz et al. 2015, theorem 2.1). Both directions read the same two
    limits, so nothing more is paid for the second.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = np.log(np.maximum(1 - delta - fpr, 0) / fnr)
        backward = np.log(np.maximum(1 - delta - fnr, 0) / fpr)
    result: np.ndarray = np.maximum(0.0, np.maximum(forward, backward))
    return result


def _gdp(
    fpr: Float[np.ndarray, " ..."], fnr: Float[np.ndarray, " ..."], delta: float
) -> np.ndarray:
    mu = gaussian.mu_of_errors(fpr, fnr)
    return np.array([gaussian.epsilon_of(float(each), delta) for each in np.atleast_1d(mu)])


METHODS: dict[str, tuple[Limit, str]] = {
    "clopper_pearson": (hypothesis_testing, ""),
    "gdp": (_gdp, "a Gaussian trade-off curve"),
}


def from_counts(  # noqa: PLR0913  # a confusion matrix is four numbers
    tp: int,
    fn: int,
    fp: int,
    tn: int,
    delta: float,
    method: str = "clopper_pearson",
    confidence: float = CONFIDENCE,
    tests: int = 1,
) -> Bound:
    """A lower bound from a confusion matrix of independent trials, at a threshold fixed without
    them (or at the best of `tests` such: Bonferroni).

    Half of the error goes to the upper limit of FPR and half to that of FNR. clopper_pearson holds
    for every mechanism (Jagielski et al. 2020); gdp extrapolates along a Gaussian trade-off (Nasr
    et al. 2023), far beyond the counts, and is not a bound for other mechanisms.
    """
    limit, assumes = METHODS[method]
    tail = (1 - confidence) / 2 / tests

    def bound(fp: int, fn: int) -> float:
        epsilons = limit(
            upper_limit(np.array([fp]), fp_n, tail), upper_limit(np.array([fn]), fn_n, tail), delta
        )
        return float(epsilons[0])

    fp_n, fn_n = fp + tn, fn + tp
    return Bound(bound(fp, fn), delta, confidence, fn_n, fp_n, bound(0, 0), method, assumes)


def clopper_pearson_interval(
    tp: int, tn: int, fp: int, fn: int, delta: float, alpha: float = 0.1
) -> tuple[float, float]:
    """Two-sided interval of the epsilon at which this attack's error rates lie, 1 - alpha/2 each
    way, from the limits of FPR and FNR.
    """
    tail = alpha / 4
    upper = upper_limit(np.array([fp]), fp + tn, tail), upper_limit(np.array([fn]), fn + tp, tail)
    lower = lower_limit(np.array([fp]), fp + tn, tail), lower_limit(np.array([fn]), fn + tp, tail)
    highest = np.maximum(
        hypothesis_testing(*lower, delta), hypothesis_testing(1 - upper[0], 1 - upper[1], delta)
    )
    return float(hypothesis_testing(*upper, delta)[0]), float(highest[0])


def from_scores(
    inside: Float[np.ndarray, " n_in"],
    outside: Float[np.ndarray, " n_out"],
    delta: float,
    method: str = "clopper_pearson",
    confidence: float = CONFIDENCE,
    thresholds: Float[np.ndarray, " T"] | None = None,
    seed: int = 0,
) -> Bound:
    """A lower bound from membership scores of independent trials, higher = member.

    clopper_pearson: thresholds stand at fixed ranks of the scores out, and at fixed ranks of the
    scores in; all are tried and paid for (Bonferroni). At the k-th largest of n scores out the
    false positive rate is a Beta(k, n - k + 1) whatever their law, which is the limit of k - 1
    false positives, and the scores in are counted independently of it. That loses less than
    choosing on one half and trying on the other. Equal scores are put in random order. With
    `thresholds`, fixed without these scores, those are tried instead. gdp without thresholds needs
    none: of mu-Gaussian DP the AUC is at most Phi(mu / sqrt 2), and its lower limit is that of a
    rate over min(n_in, n_out) trials, whose variance is never below the AUC's (van Dantzig 1951).
    """
    if min(len(inside), len(outside)) < 4:
        raise Refusal(
            f"a bound needs 4 trials in and 4 out at least; there are {len(inside)} and "
            f"{len(outside)}"
        )
    if method == "gdp" and thresholds is None:
        return _from_auc(inside, outside, delta, confidence)
    if thresholds is None:
        return _at_fixed_ranks(inside, outside, delta, method, confidence, seed)
    bounds = []
    for threshold in thresholds:
        tp, fp = int((inside >= threshold).sum()), int((outside >= threshold).sum())
        bounds.append(
            from_counts(
                tp,
                len(inside) - tp,
                fp,
                len(outside) - fp,
                delta,
                method,
                confidence,
                len(thresholds),
            )
        )
    return max(bounds, key=lambda bound: bound.epsilon)


def _at_fixed_ranks(
    inside: Float[np.ndarray, " n_in"],
    outside: Float[np.ndarray, " n_out"],
    delta: float,
    method: str,
    confidence: float,
    seed: int,
) -> Bound:
    n_in, n_out = len(inside), len(outside)
    both = np.concatenate([inside, outside])
    place = np.empty(n_in + n_out, dtype=np.int64)
    place[np.lexsort((np.random.default_rng(seed).random(n_in + n_out), both))] = np.arange(
        n_in + n_out
    )
    low, high = np.sort(place[:n_in]), np.sort(place[n_in:])
    from_top, from_bottom = (
        np.unique(np.geomspace(1, n // 2, int(math.log2(n))).astype(int)) for n in (n_out, n_in)
    )
    above, below = (
        np.searchsorted(high, low[from_bottom - 1]),
        np.searchsorted(low, high[n_out - from_top]),
    )
    fp = [*(from_top - 1).tolist(), *(n_out - above).tolist()]
    fn = [*below.tolist(), *(from_bottom - 1).tolist()]
    tests = len(fp)
    bounds = [
        from_counts(n_in - misses, misses, alarms, n_out - alarms, delta, method, confidence, tests)
        for alarms, misses in zip(fp, fn, strict=True)
    ]
    return max(bounds, key=lambda bound: bound.epsilon)


def _from_auc(
    inside: Float[np.ndarray, " n_in"],
    outside: Float[np.ndarray, " n_out"],
    delta: float,
    confidence: float,
) -> Bound:
    n_in, n_out = len(inside), len(outside)
    trials = min(n_in, n_out)
    member = np.arange(n_in + n_out) < n_in
    measured = float(metrics.auc(np.concatenate([inside, outside]), member))

    def bound(auc: float) -> float:
        low = float(lower_limit(auc * trials, trials, 1 - confidence))
        return gaussian.epsilon_of(math.sqrt(2) * float(special.ndtri(low)), delta)

    assumes = METHODS["gdp"][1]
    return Bound(bound(measured), delta, confidence, n_in, n_out, bound(1.0), "gdp", assumes)


def joint_beta(
    tp: int, tn: int, fp: int, fn: int, delta: float, alpha: float = 0.1
) -> tuple[float, float]:
    """Two-sided credible interval of epsilon at 1 - alpha (Zanella-Beguelin et al. 2023, section
    IV): not a frequentist bound.

    FPR and FNR have Jeffreys posteriors Beta(1/2 + FP, 1/2 + TN) and Beta(1/2 + FN, 1/2 + TP). The
    ends are the epsilons whose privacy region {FPR + e^epsilon FNR >= 1 - delta, e^epsilon FPR +
    FNR >= 1 - delta, and the same of the complements} holds alpha/2 and 1 - alpha/2 of them.
    """
    fnr, fpr = (0.5 + fn, 0.5 + tp), (0.5 + fp, 0.5 + tn)

    def mass(epsilon: float) -> float:
        return 1 - _below(fnr, fpr, epsilon, delta) - _below(fnr[::-1], fpr[::-1], epsilon, delta)

    def at(level: float) -> float:
        return crossing(lambda epsilon: mass(epsilon) - level)

    return at(alpha / 2), at(1 - alpha / 2)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def _below(
    fnr: tuple[float, float], fpr: tuple[float, float], epsilon: float, delta: float
) -> float:
    """P(the point lies under the lower boundary of the privacy region), for FNR ~ Beta(*fnr), FPR ~
    Beta(*fpr).

    The integral over FNR of density times P(FPR < boundary). With FNR = sin^2(t) the density has no
    pole; the pieces end where the boundary bends or where P(FPR < boundary) moves, and a cubic
    change of variable flattens the square roots at their ends.
    """
    a, b = fnr
    # Boundary = top - slope * FNR.
    slopes = (
        (math.exp(epsilon), 1 - delta),
        (math.exp(-epsilon), math.exp(-epsilon) * (1 - delta)),
    )
    levels = special.betaincinv(
        *fpr, [1e-16, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9, 1 - 1e-15]
    )
    ends = [
        *((top - level) / slope for slope, top in slopes for level in levels),
        (1 - delta) / (1 + math.exp(epsilon)),
        1 - delta,
    ]
    ends += list(
        special.betaincinv(a, b, [1e-16, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9, 1 - 1e-15])
    )
    cuts = np.arcsin(np.sqrt(np.unique(np.clip([0.0, *ends], 0, 1 - delta))))
    share = (_NODES + 1) / 2
    start, length = cuts[:-1, None], np.diff(cuts)[:, None]
    t = start + length * share**2 * (3 - 2 * share)
    weight = length * 6 * share * (1 - share) * _WEIGHTS / 2
    x = np.sin(t) ** 2
    boundary = np.clip(
        np.maximum(slopes[0][1] - slopes[0][0] * x, slopes[1][1] - slopes[1][0] * x), 0, 1
    )
    log_density = (
        2 * (a - 0.5) * np.log(np.sin(t))
        + 2 * (b - 0.5) * np.log(np.cos(t))
        + math.log(2)
        - special.betaln(a, b)
    )
    return float(np.sum(weight * np.exp(log_density) * special.betainc(*fpr, boundary)))
