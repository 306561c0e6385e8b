"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the same side of a threshold.

Functions of one target take scores [N] and member bool [N]; those of a fleet take [M, N], and `fleet_interval` makes an Interval of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats

from dptrain.types import Interval, Refusal

CONFIDENCE = 0.95
NON_MEMBERS_PER_FPR = 10
BLOCKS = 10


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


Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""scores [M, N], member [M, N] -> one value a target [M], or [1] for all targets together"""


def fleet_interval(values: Values, scores: np.ndarray, membership: np.ndarray, bounds: tuple[float, float]) -> Callable[[float], Interval]:
    """The mean of `values` over targets, as a function of the confidence asked for.

    Two things vary: the models, and the examples all of them share (an example hard for one target is hard for the next, and each
    target serves the others as a shadow). So the variance is the sum of two jackknives: leave one target out, and leave one of
    BLOCKS random blocks of examples out (Efron and Stein 1981: a jackknife errs upwards on average). Student's quantile with the smaller
    number of groups less one. One target gives the whole of `bounds`.
    """
    count, examples = scores.shape
    n_in, n_out = int(membership.sum()), int((~membership).sum())
    each = values(scores, membership)
    mean = float(each.mean())
    if count == 1:
        return lambda _confidence: Interval(mean, *bounds, 1, n_in, n_out)
    if len(each) == count:
        by_target = float(np.var(each, ddof=1)) / count
    else:
        without = [float(values(np.delete(scores, k, 0), np.delete(membership, k, 0)).mean()) for k in range(count)]
        by_target = _jackknife(without)
    block = np.random.default_rng(0).permutation(examples) % BLOCKS
    by_example = _jackknife([float(values(scores[:, block != b], membership[:, block != b]).mean()) for b in range(BLOCKS)])
    error = np.sqrt(by_target + by_example)
    freedom = min(count, BLOCKS) - 1

    def at(confidence: float) -> Interval:
        half = float(stats.t.ppf((1 + confidence) / 2, freedom) * error)
        return Interval(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), count, n_in, n_out)

    return at


def _jackknife(without: list[float]) -> float:
    groups = len(without)
    return float((groups - 1) / groups * np.sum(np.square(np.array(without) - np.mean(without))))


def widen(interval: Interval, trials: int, confidence: float) -> Interval:
    """The interval of a rate, made to hold the Clopper-Pearson one of `trials` examples: no variation seen is not no error."""
    low, high = clopper_pearson(min(interval.estimate * trials, trials), trials, confidence)
    return replace(interval, low=min(interval.low, low), high=max(interval.high, high))


def aucs(scores: np.ndarray, membership: np.ndarray) -> np.ndarray:
    return np.array([auc(*pair) for pair in zip(scores, membership, strict=True)])


def oracle_advantages(scores: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """The largest TPR - FPR of each target, its own labels known."""
    rates = [roc(*pair) for pair in zip(scores, membership, strict=True)]
    return np.array([np.max(true - false) for false, true in rates])


def shadow_advantages(scores: np.ndarray, membership: np.ndarray, shadows: np.ndarray) -> np.ndarray:
    """TPR - FPR of each target at the best threshold of its shadows' scores; shadows bool [M, M], a row a target.

    An attack that itself uses shadows scored those shadows with the target among theirs, so its threshold, one number from all of their
    examples, is not wholly blind to the target's memberships; the score of each example is. Raises Refusal without shadows.
    """
    if not shadows.any(axis=1).all():
        raise Refusal("a threshold from shadows needs shadow models: models_per_setting of at least 4")
    order = np.argsort(-scores, axis=None, kind="stable")  # one sort serves every target's choice of shadows
    ranked, hits, model = scores.ravel()[order], membership.ravel()[order], order // scores.shape[1]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = []
    for own, member, chosen in zip(scores, membership, shadows, strict=True):
        inside, outside = np.cumsum(chosen[model] & hits)[last], np.cumsum(chosen[model] & ~hits)[last]
        gain = inside / max(inside[-1], 1) - outside / max(outside[-1], 1)
        threshold = float(ranked[last[np.argmax(gain)]]) if gain.max() > 0 else np.inf
        found.append(advantage(own, member, threshold))
    return np.array(found)


def pooled(membership: np.ndarray, fpr: float) -> bool:
    """Whether some target has too few non-members for this FPR by itself, so that all targets share one threshold."""
    return bool((~membership).sum(axis=1).min() < NON_MEMBERS_PER_FPR / fpr)


def tprs_at_fpr(scores: np.ndarray, membership: np.ndarray, fpr: float, together: bool) -> np.ndarray:
    """The largest TPR at an FPR of each target, or [1] of all targets `together` under one threshold.

    Whether the non-members resolve that rate is for the caller to ask: require_non_members.
    """
    if together:
        return np.array([_largest_tpr(scores.ravel(), membership.ravel(), fpr)])
    return np.array([_largest_tpr(*pair, fpr) for pair in zip(scores, membership, strict=True)])


def require_non_members(count: int, fpr: float) -> None:
    """Raise Refusal with fewer than 10 / fpr non-members, which cannot resolve that rate."""
    if count < NON_MEMBERS_PER_FPR / fpr:
        raise Refusal(f"FPR {fpr:g} needs at least {round(NON_MEMBERS_PER_FPR / fpr):,} non-members; there are {count:,}")


def _largest_tpr(scores: np.ndarray, member: np.ndarray, fpr: float) -> float:
    false, true = roc(scores, member)
    return float(true[false <= fpr].max())
