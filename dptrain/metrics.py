"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the same side of a threshold.

T targets, N examples. A metric is a function of example weights [N] (0 leaves an example out, 2 counts it twice) and of the targets
kept, bool [T], so that one sort serves the estimate and every resample behind its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from dptrain.types import Interval, Refusal

CONFIDENCE = 0.95
NON_MEMBERS_PER_FPR = 10
BLOCKS = 10
BOOTSTRAPS = 1000

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""example weights [N], targets kept bool [T] -> one value a kept target, or [1] for all of them together"""


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (risk, utility) for which no other has less risk and as much utility, by rising risk."""
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


class Ranking:
    """Scores [N] with their membership, sorted once."""

    def __init__(self, scores: np.ndarray, member: np.ndarray):
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each group of equal scores
        self._hits = member[self._order]

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """False and true positives at every distinct threshold, falling from the highest, after a leading 0."""
        ranked = weights[self._order]
        inside = np.where(self._hits, ranked, 0)
        tp = np.cumsum(inside)[self._last]
        fp = np.cumsum(ranked - inside)[self._last]
        return np.append(0, fp), np.append(0, tp)

    def auc(self, weights: np.ndarray) -> float:
        """P(member's score > non-member's) + P(equal) / 2 (Mann and Whitney 1947): the area under straight lines between thresholds."""
        fp, tp = self.counts(weights)
        pairs = fp[-1] * tp[-1]  # 0 in a resample that lost all of one side
        return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / 2 / pairs) if pairs else np.nan

    def top(self) -> float:
        """Share of the non-members that the highest score is given to: a lower false positive rate has no threshold but none at all."""
        fp, _ = self.counts(np.ones(len(self._hits)))
        return float(fp[1] / max(fp[-1], 1))

    def tpr(self, fpr: float, weights: np.ndarray) -> float:
        """The largest true positive rate of a threshold whose false positive rate is at most `fpr`; nothing is interpolated."""
        fp, tp = self.counts(weights)
        at = np.searchsorted(fp, fpr * fp[-1] * (1 + 1e-12), side="right") - 1
        return float(tp[at] / tp[-1]) if tp[-1] else np.nan


def roc(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct threshold, falling from the highest, starting at (0, 0)."""
    fp, tp = Ranking(scores, member).counts(np.ones(len(scores)))
    return fp / max(fp[-1], 1), tp / max(tp[-1], 1)


def auc(scores: np.ndarray, member: np.ndarray) -> float:
    return Ranking(scores, member).auc(np.ones(len(scores)))


def rankings(scores: np.ndarray, membership: np.ndarray) -> list[Ranking]:
    """One a target; scores and membership [T, N]."""
    return [Ranking(*pair) for pair in zip(scores, membership, strict=True)]


def aucs(ranked: Sequence[Ranking]) -> Values:
    return lambda weights, kept: np.array([ranked[t].auc(weights) for t in np.flatnonzero(kept).tolist()])


def tprs_at_fpr(ranked: Sequence[Ranking], fpr: float) -> Values:
    """The largest TPR at an FPR, each target at a threshold of its own. Whether the non-members resolve that rate is for the caller to ask:
    require_non_members."""
    return lambda weights, kept: np.array([ranked[t].tpr(fpr, weights) for t in np.flatnonzero(kept).tolist()])


def tpr_at_fpr_together(scores: np.ndarray, membership: np.ndarray, fpr: float) -> Values:
    """The largest TPR at an FPR of all targets under one threshold; scores and membership [T, N]."""
    everyone = Ranking(scores.ravel(), membership.ravel())
    return lambda weights, kept: np.array([everyone.tpr(fpr, np.outer(kept, weights).ravel())])


def _rates(guess: np.ndarray, membership: np.ndarray) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """True and false positive rates of guesses, bool [T, N], for each kept target."""
    inside, outside = membership.astype(float), (~membership).astype(float)
    hits, alarms = guess * inside, guess * outside

    def rates(weights: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tpr = hits[kept] @ weights / np.maximum(inside[kept] @ weights, 1)
        return tpr, alarms[kept] @ weights / np.maximum(outside[kept] @ weights, 1)

    return rates


def advantages(guess: np.ndarray, membership: np.ndarray) -> Values:
    """TPR - FPR of guesses, bool [T, N] (Yeom et al. 2018, definition 4)."""
    rates = _rates(guess, membership)
    return lambda weights, kept: np.subtract(*rates(weights, kept))


def ppv(guess: np.ndarray, membership: np.ndarray, ratio: float) -> Values:
    """Share of members among those called so, where there are `ratio` non-members for each member: TPR / (TPR + ratio FPR)
    (Jayaraman et al. 2021, section 3.2), from the mean rates of the targets. Raises Refusal where nobody is called a member."""
    if not guess.any():
        raise Refusal("nobody is called a member at this threshold")
    rates = _rates(guess, membership)

    def values(weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
        tpr, fpr = (each.mean() for each in rates(weights, kept))
        return np.array([tpr / (tpr + ratio * fpr) if tpr + fpr > 0 else np.nan])  # nan: a resample without any

    return values


THRESHOLDS = 2**16
"""Candidates for a threshold: all distinct scores, or this many quantiles of them."""


def best_thresholds(scores: np.ndarray, membership: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each row of `chosen`, bool [T, M], the threshold with the largest TPR - FPR over the scores [M, N] of those models together.

    The highest of equals; infinity where none is better than no guess. An attack that itself uses shadows scored those shadows with the
    target among theirs, so such a threshold, one number from all of their examples, is not wholly blind to the target's memberships; the
    score of each example is.
    """
    grid = np.unique(scores)
    if len(grid) > THRESHOLDS:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, THRESHOLDS), method="nearest"))

    def reached(used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of the used examples reach each candidate, for each row of `chosen`, highest candidate first; and how many there are."""
        below = [np.searchsorted(grid, row[mask], side="right") for row, mask in zip(scores, used, strict=True)]
        found = np.stack([np.bincount(each, minlength=len(grid) + 1) for each in below])[:, :0:-1]  # [0] lies below every candidate
        return chosen.astype(float) @ np.cumsum(found, axis=1), chosen @ used.sum(axis=1).astype(float)

    (tp, n_in), (fp, n_out) = reached(membership), reached(~membership)
    gain = tp * n_out[:, None] - fp * n_in[:, None]  # whole numbers, so that equals are equal
    best = gain.argmax(axis=1)
    return np.where(gain.max(axis=1) > 0, grid[::-1][best], np.inf)


def quantile_thresholds(scores: np.ndarray, fpr: float) -> np.ndarray:
    """For each row of non-members' scores [T, P] the lowest of them that at most a share `fpr` reaches, else infinity; [T]."""
    found = []
    for row in scores:
        ranked = np.sort(row)[::-1]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        allowed = last[last + 1 <= fpr * len(row) * (1 + 1e-12)]
        found.append(ranked[allowed[-1]] if len(allowed) else np.inf)
    return np.array(found)


def clopper_pearson(hits: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a binomial rate (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def fleet_interval(values: Values, membership: np.ndarray, bounds: tuple[float, float]) -> Callable[[float], Interval]:
    """The mean of `values` over targets, as a function of the confidence asked for.

    Two things vary: the models, and the examples all of them share (an example hard for one target is hard for the next, and each
    target serves the others as a shadow). So the variance is the sum of two jackknives: leave one target out, and leave one of
    BLOCKS random blocks of examples out (Efron and Stein 1981: a jackknife errs upwards on average). Student's quantile with the smaller
    number of groups less one. A single target shows nothing of how models vary: its interval is over examples only, from the standard error of
    BOOTSTRAPS stratified resamples (Efron 1979), and holds that of Clopper and Pearson over min(n_in, n_out) trials, whose variance an AUC never
    exceeds (van Dantzig 1951): a bootstrap of few examples is far too sure of itself. So does one of many targets where no resample differs.
    What a resample cannot give (nan) is left out.
    """
    count, examples = membership.shape
    n_in, n_out = int(membership.sum()), int((~membership).sum())
    everyone, ones = np.ones(count, dtype=bool), np.ones(examples)
    each = values(ones, everyone)
    mean = float(each.mean())
    freedom = np.inf
    if count == 1:
        drawn = np.array([float(values(weights, everyone)[0]) for weights in _resamples(membership[0])])
        error = np.sqrt(np.var(drawn[np.isfinite(drawn)], ddof=1))
    else:
        if len(each) == count:
            by_target = float(np.var(each, ddof=1)) / count
        else:
            by_target = _jackknife([float(values(ones, everyone & (np.arange(count) != k))[0]) for k in range(count)])
        blocks = min(BLOCKS, examples)
        block = np.random.default_rng(0).permutation(examples) % blocks
        by_example = _jackknife([float(values((block != b).astype(float), everyone).mean()) for b in range(blocks)])
        error = np.sqrt(by_target + by_example)
        freedom = max(1, min(count, blocks) - 1)

    def at(confidence: float) -> Interval:
        half = float(stats.t.ppf((1 + confidence) / 2, freedom) * error)
        found = Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), count, n_in, n_out)
        if error > 0 and count > 1:
            return found
        share = (mean - bounds[0]) / (bounds[1] - bounds[0])
        trials = min(int(membership.any(axis=0).sum()), int((~membership).any(axis=0).sum())) or examples
        low, high = clopper_pearson(share * trials, trials, confidence)
        width = bounds[1] - bounds[0]
        return replace(found, low=min(found.low, bounds[0] + low * width), high=max(found.high, bounds[0] + high * width))

    return at


def least(at: Callable[[float], Interval], membership: np.ndarray, bounds: tuple[float, float], alarm: float) -> float:
    """Lower limit, one-sided at `alarm`, of the mean over targets whose interval is `at`: what a contradiction is judged by.

    The better of two limits at half of it each: that of fleet_interval, and that of Clopper and Pearson over as many trials as there are
    examples, which says more where targets are few and Student's quantile is far out.
    """
    member = membership.any(axis=0), (~membership).any(axis=0)
    trials = min(int(side.sum()) for side in member)
    interval = at(1 - alarm)
    width = bounds[1] - bounds[0]
    share = (interval.estimate - bounds[0]) / width
    return max(interval.low, bounds[0] + width * clopper_pearson(share * trials, trials, 1 - alarm)[0])


def _resamples(member: np.ndarray) -> Iterator[np.ndarray]:
    """How often each example is drawn, [N]: members and non-members apart, so that their numbers stay."""
    rng = np.random.default_rng(0)
    for _ in range(BOOTSTRAPS):
        weights = np.zeros(len(member))
        for used in (member, ~member):
            if total := int(used.sum()):
                weights[used] = np.bincount(rng.integers(total, size=total), minlength=total)
        yield weights


def _jackknife(without: list[float]) -> float:
    without = [value for value in without if np.isfinite(value)]
    groups = len(without)
    if not groups:
        return 0.0
    return float((groups - 1) / groups * np.sum(np.square(np.array(without) - np.mean(without))))


def widen(interval: Interval, trials: int, confidence: float) -> Interval:
    """The interval of a rate, made to hold the Clopper-Pearson one of `trials` examples: no variation seen is not no error."""
    low, high = clopper_pearson(min(interval.estimate * trials, trials), trials, confidence)
    return replace(interval, low=min(interval.low, low), high=max(interval.high, high))


def require_resolution(ranked: Sequence[Ranking], fpr: float) -> None:
    """Raise Refusal where some target's highest score is that of more non-members than the FPR allows: a TPR of 0 would be a matter of ties."""
    coarse = max(ranking.top() for ranking in ranked)
    if coarse > fpr * (1 + 1e-12):
        raise Refusal(f"this attack gives its highest score to {coarse:.2%} of a target's non-members, so it cannot resolve FPR {fpr:g}")


def pooled(membership: np.ndarray, fpr: float) -> bool:
    """Whether some target has too few non-members for this FPR by itself, so that all targets share one threshold."""
    return bool((~membership).sum(axis=1).min() < NON_MEMBERS_PER_FPR / fpr)


def require_non_members(count: int, fpr: float) -> None:
    """Raise Refusal with fewer than 10 / fpr non-members, which cannot resolve that rate."""
    if count < NON_MEMBERS_PER_FPR / fpr:
        raise Refusal(f"FPR {fpr:g} needs at least {round(NON_MEMBERS_PER_FPR / fpr):,} non-members; there are {count:,}")
