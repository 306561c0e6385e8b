"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the
same side of a threshold.

T targets, N examples. A metric is a function of example weights [N] (0 leaves an example out, 2
counts it twice) and of the targets in use, bool [T], so that one sort serves the estimate and every
resample behind its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.stats import rankdata

from dptrain.core.errors import Refusal

NON_MEMBERS_PER_FPR = 10

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""example weights [N], targets in use bool [T] -> a value for each of these, or [1] for all of
them together.
"""


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (risk, utility) for which no other has less risk and as much utility, by
    rising risk.
    """
    best: list[int] = []
    for index in sorted(
        range(len(points)), key=lambda index: (points[index][0], -points[index][1])
    ):
        if not best or points[index][1] > points[best[-1]][1]:
            best.append(index)
    return best


class Ranking:
    """Scores [N] with their membership, sorted once."""

    def __init__(self, scores: Num[np.ndarray, " N"], member: Bool[np.ndarray, " N"]):
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        # Of each group of equal scores.
        self._last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        self._hits = member[self._order]

    def counts(self, weights: Float[np.ndarray, " N"]) -> tuple[np.ndarray, np.ndarray]:
        """False and true positives at every distinct threshold, falling from the highest, after a
        leading 0.
        """
        ranked = weights[self._order]
        inside = np.where(self._hits, ranked, 0)
        tp = np.cumsum(inside)[self._last]
        fp = np.cumsum(ranked - inside)[self._last]
        return np.append(0, fp), np.append(0, tp)

    def auc(self, weights: Float[np.ndarray, " N"]) -> float:
        """P(member's score > non-member's) + P(equal) / 2 (Mann and Whitney 1947): the area under
        straight lines between thresholds.
        """
        fp, tp = self.counts(weights)
        pairs = fp[-1] * tp[-1]  # 0 in a resample that lost all of one side
        return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / 2 / pairs) if pairs else np.nan

    def top(self) -> float:
        """Share of the non-members that the highest score is given to: a lower false positive rate
        has no threshold but none at all.
        """
        fp, _ = self.counts(np.ones(len(self._hits)))
        return float(fp[1] / max(fp[-1], 1))

    def tpr(self, fpr: float, weights: Float[np.ndarray, " N"]) -> float:
        """The largest true positive rate of a threshold whose false positive rate is at most `fpr`;
        nothing is interpolated.
        """
        fp, tp = self.counts(weights)
        at = np.searchsorted(fp, fpr * fp[-1] * (1 + 1e-12), side="right") - 1
        return float(tp[at] / tp[-1]) if tp[-1] else np.nan


def roc(
    scores: Num[np.ndarray, " N"], member: Bool[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct threshold, falling from the highest, starting
    at (0, 0).
    """
    fp, tp = Ranking(scores, member).counts(np.ones(len(scores)))
    return fp / max(fp[-1], 1), tp / max(tp[-1], 1)


def auc(scores: Num[np.ndarray, "N ..."], member: Bool[np.ndarray, "N ..."]) -> np.ndarray:
    """P(a member's score > a non-member's) + P(equal) / 2 over the first axis (Mann and Whitney
    1947), scores and member [N, ...] to [...]; nan where one side is empty.
    """
    n_in = member.sum(axis=0)
    pairs = n_in * (len(scores) - n_in)
    wins = np.where(member, rankdata(scores, axis=0), 0).sum(axis=0) - n_in * (n_in + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def rankings(scores: Num[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]) -> list[Ranking]:
    """One a target; scores and membership [T, N]."""
    return [Ranking(*pair) for pair in zip(scores, membership, strict=True)]


def aucs(ranked: Sequence[Ranking]) -> Values:
    return lambda weights, targets: np.array(
        [ranked[t].auc(weights) for t in np.flatnonzero(targets).tolist()]
    )


def tprs_at_fpr(ranked: Sequence[Ranking], fpr: float) -> Values:
    """The largest TPR at an FPR, each target at a threshold of its own. Whether the non-members
    resolve that rate is for the caller to ask: require_non_members.
    """
    return lambda weights, targets: np.array(
        [ranked[t].tpr(fpr, weights) for t in np.flatnonzero(targets).tolist()]
    )


def tpr_at_fpr_together(
    scores: Num[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"], fpr: float
) -> Values:
    """The largest TPR at an FPR of all targets under one threshold; scores and membership [T,
    N].
    """
    everyone = Ranking(scores.ravel(), membership.ravel())
    return lambda weights, targets: np.array(
        [everyone.tpr(fpr, np.outer(targets, weights).ravel())]
    )


def _rates(
    guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """True and false positive rates of guesses, bool [T, N], for each target in use."""
    inside, outside = membership.astype(float), (~membership).astype(float)
    hits, alarms = guess * inside, guess * outside

    def rates(
        weights: Float[np.ndarray, " N"], targets: Bool[np.ndarray, " T"]
    ) -> tuple[np.ndarray, np.ndarray]:
        tpr = hits[targets] @ weights / np.maximum(inside[targets] @ weights, 1)
        return tpr, alarms[targets] @ weights / np.maximum(outside[targets] @ weights, 1)

    return rates


def advantages(guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]) -> Values:
    """TPR - FPR of guesses, bool [T, N] (Yeom et al. 2018, definition 4)."""
    rates = _rates(guess, membership)
    return lambda weights, targets: np.subtract(*rates(weights, targets))


def ppv(
    guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"], ratio: float
) -> Values:
    """Share of members among those called so, where there are `ratio` non-members for each member:
    TPR / (TPR + ratio FPR) (Jayaraman et al. 2021, section 3.2), from the mean rates of the
    targets. Raises Refusal where nobody is called a member.
    """
    if not guess.any():
        raise Refusal("nobody is called a member at this threshold")
    rates = _rates(guess, membership)

    def values(weights: Float[np.ndarray, " N"], targets: Bool[np.ndarray, " T"]) -> np.ndarray:
        tpr, fpr = (each.mean() for each in rates(weights, targets))
        # Nan: a resample without any.
        return np.array([tpr / (tpr + ratio * fpr) if tpr + fpr > 0 else np.nan])

    return values


THRESHOLDS = 2**16
"""Candidates for a threshold: all distinct scores, or this many quantiles of them."""


def best_thresholds(
    scores: Num[np.ndarray, "M N"],
    membership: Bool[np.ndarray, "M N"],
    chosen: Bool[np.ndarray, "T M"],
) -> np.ndarray:
    """For each row of `chosen`, bool [T, M], the threshold with the largest TPR - FPR over the
    scores [M, N] of those models together.

    The highest of equals; infinity where none is better than no guess. An attack that itself uses
    shadows scored those shadows with the target among theirs, so such a threshold, one number from
    all of their examples, is not wholly blind to the target's memberships; the score of each
    example is.
    """
    grid = np.unique(scores)
    if len(grid) > THRESHOLDS:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, THRESHOLDS), method="nearest"))

    def reached(used: Bool[np.ndarray, "M N"]) -> tuple[np.ndarray, np.ndarray]:
        """How many of the used examples reach each candidate, for each row of `chosen`, highest
        candidate first; and how many there are.
        """
        below = [
            np.searchsorted(grid, row[mask], side="right")
            for row, mask in zip(scores, used, strict=True)
        ]
        # [0] lies below every candidate.
        counts = np.stack([np.bincount(each, minlength=len(grid) + 1) for each in below])[:, :0:-1]
        return chosen.astype(float) @ np.cumsum(counts, axis=1), chosen @ used.sum(axis=1).astype(
            float
        )

    (tp, n_in), (fp, n_out) = reached(membership), reached(~membership)
    gain = tp * n_out[:, None] - fp * n_in[:, None]  # whole numbers, so that equals are equal
    best = gain.argmax(axis=1)
    return np.where(gain.max(axis=1) > 0, grid[::-1][best], np.inf)


def quantile_thresholds(scores: Num[np.ndarray, "T P"], fpr: float) -> np.ndarray:
    """For each row of non-members' scores [T, P] the lowest of them that at most a share `fpr`
    reaches, else infinity; [T].
    """
    thresholds = []
    for row in scores:
        ranked = np.sort(row)[::-1]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        allowed = last[last + 1 <= fpr * len(row) * (1 + 1e-12)]
        thresholds.append(ranked[allowed[-1]] if len(allowed) else np.inf)
    return np.array(thresholds)


def require_resolution(ranked: Sequence[Ranking], fpr: float) -> None:
    """Raise Refusal where some target's highest score is that of more non-members than the FPR
    allows: a TPR of 0 would be a matter of ties.
    """
    coarse = max(ranking.top() for ranking in ranked)
    if coarse > fpr * (1 + 1e-12):
        raise Refusal(
            f"this attack gives its highest score to {coarse:.2%} of a target's "
            f"non-members, so it cannot resolve FPR {fpr:g}"
        )


def pooled(membership: Bool[np.ndarray, "T N"], fpr: float) -> bool:
    """Whether some target has too few non-members for this FPR by itself, so that all targets share
    one threshold.
    """
    return bool((~membership).sum(axis=1).min() < NON_MEMBERS_PER_FPR / fpr)


def require_non_members(count: int, fpr: float) -> None:
    """Raise Refusal with fewer than 10 / fpr non-members, which cannot resolve that rate."""
    if count < NON_MEMBERS_PER_FPR / fpr:
        raise Refusal(
            f"FPR {fpr:g} needs at least {round(NON_MEMBERS_PER_FPR / fpr):,} "
            f"non-members; there are {count:,}"
        )
