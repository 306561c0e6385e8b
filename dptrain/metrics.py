"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the same side of a threshold.

Functions of one target take scores [N] and member bool [N]; `over_targets` makes one Interval of a fleet.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from dptrain.types import Interval, Refusal

CONFIDENCE = 0.95
NON_MEMBERS_PER_FPR = 10


def roc(scores: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct threshold, falling from the highest, starting at (0, 0)."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], member[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    tp, fp = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    return np.concatenate([[0.0], fp / max(fp[-1], 1)]), np.concatenate([[0.0], tp / max(tp[-1], 1)])


def auc(scores: np.ndarray, member: np.ndarray) -> float:
    """P(member's score > non-member's) + P(equal) / 2, by midranks (Mann and Whitney 1947)."""
    ranks = stats.rankdata(scores)
    n_in = int(member.sum())
    return float((ranks[member].sum() - n_in * (n_in + 1) / 2) / (n_in * (len(member) - n_in)))


def tpr_at_fpr(scores: np.ndarray, member: np.ndarray, fpr: float) -> float:
    """The largest TPR of a threshold whose FPR is at most `fpr`; nothing is interpolated.

    Raises Refusal with fewer than 10 / fpr non-members, which cannot resolve that rate.
    """
    outside = int((~member).sum())
    if outside < NON_MEMBERS_PER_FPR / fpr:
        raise Refusal(f"FPR {fpr:g} needs at least {round(NON_MEMBERS_PER_FPR / fpr):,} non-members; there are {outside:,}")
    return _largest_tpr(scores, member, fpr)


def best_threshold(scores: np.ndarray, member: np.ndarray) -> float:
    """The threshold (member iff score >= it) with the largest TPR - FPR on these very scores."""
    false, true = roc(scores, member)
    thresholds = np.append(np.inf, np.unique(scores)[::-1])
    return float(thresholds[np.argmax(true - false)])


def advantage(scores: np.ndarray, member: np.ndarray, threshold: float) -> float:
    """TPR - FPR at a threshold (Yeom et al. 2018, definition 4)."""
    guess = scores >= threshold
    return float(guess[member].mean() - guess[~member].mean())


def clopper_pearson(hits: float, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a binomial rate (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def over_targets(values: np.ndarray, n_in: int, n_out: int, bounds: tuple[float, float], trials: int | None = None, confidence: float = CONFIDENCE) -> Interval:
    """Mean over targets with Student's interval (one target: the whole of `bounds`), cut to `bounds`.

    For a rate, `trials` is the number of examples behind the mean: the interval is then widened to hold the Clopper-Pearson one,
    so that a rate that every target shares still carries its sampling error.
    """
    count, mean = len(values), float(np.mean(values))
    if count > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
        low, high = mean - half, mean + half
    else:
        low, high = bounds
    if trials is not None:
        below, above = clopper_pearson(min(mean * trials, trials), trials, confidence)
        low, high = min(low, below), max(high, above)
    return Interval(mean, max(low, bounds[0]), min(high, bounds[1]), count, n_in, n_out)


def fleet_tpr_at_fpr(scores: np.ndarray, membership: np.ndarray, fpr: float, confidence: float = CONFIDENCE) -> Interval:
    """TPR at an FPR over targets, scores [M, N].

    Where every target has 10 / fpr non-members, each has its own threshold. Otherwise one threshold serves all targets together, and
    the error comes from leaving out one target at a time (jackknife). Raises Refusal when even all together are too few.
    """
    n_in, n_out = int(membership.sum()), int((~membership).sum())
    if (~membership).sum(axis=1).min() >= NON_MEMBERS_PER_FPR / fpr:
        rates = np.array([tpr_at_fpr(*pair, fpr) for pair in zip(scores, membership, strict=True)])
        return over_targets(rates, n_in, n_out, (0, 1), n_in, confidence)
    together = tpr_at_fpr(scores.ravel(), membership.ravel(), fpr)
    count = len(scores)
    if count < 2:
        return Interval(together, *clopper_pearson(together * n_in, n_in, confidence), count, n_in, n_out)
    without = [_largest_tpr(np.delete(scores, k, 0).ravel(), np.delete(membership, k, 0).ravel(), fpr) for k in range(count)]
    pseudo = count * together - (count - 1) * np.array(without)
    return over_targets(pseudo - pseudo.mean() + together, n_in, n_out, (0, 1), n_in, confidence)


def _largest_tpr(scores: np.ndarray, member: np.ndarray, fpr: float) -> float:
    false, true = roc(scores, member)
    return float(true[false <= fpr].max())


def shadow_thresholds(scores: np.ndarray, membership: np.ndarray, shadows: Callable[[int], np.ndarray]) -> np.ndarray:
    """For each target the best threshold on its shadows' scores, [M]; the target's own labels are not used.

    Raises Refusal without shadows.
    """
    thresholds = []
    for target in range(len(scores)):
        chosen = shadows(target)
        if not chosen.any():
            raise Refusal("a threshold from shadows needs shadow models: models_per_setting of at least 4")
        thresholds.append(best_threshold(scores[chosen].ravel(), membership[chosen].ravel()))
    return np.array(thresholds)
