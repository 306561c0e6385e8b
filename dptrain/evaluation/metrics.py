"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the
same side of a threshold.

T targets, N examples. A metric is a function of the example weights [R, N] of R resamples (0 leaves
an example out, 2 counts it twice), so that one sort, or one product, serves the estimate and every
resample behind its interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.stats import rankdata

from dptrain.core.errors import Refusal

NON_MEMBERS_PER_FPR = 10

FIRST_RANKS = 1 << 12
"""Ranks that are looked at first for a low false positive rate, which lies at the top."""


@dataclass(frozen=True)
class PerTarget:
    """A metric of each target, whose mean is reported. of: weights [R, N] -> [R, T]."""

    of: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Together:
    """A metric of many targets at once. of: weights [R, N] and sets of targets, bool [Q, T] ->
    [R, Q].
    """

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]


Values = PerTarget | Together


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
        self._order = np.argsort(-scores)
        ranked = scores[self._order]
        # Of each group of equal scores.
        self._last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._values = ranked[self._last]
        self._hits = member[self._order]

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positives at every distinct threshold, falling from the highest, after a
        leading 0.
        """
        tp = np.cumsum(self._hits)[self._last]
        return np.append(0, self._last + 1 - tp), np.append(0, tp)

    def best(self) -> float:
        """The threshold with the largest TPR - FPR, the highest of equals; infinity where none is
        better than no guess.
        """
        fp, tp = self.counts()
        gain = tp * fp[-1] - fp * tp[-1]
        at = int(gain.argmax())
        return float(self._values[at - 1]) if gain[at] > 0 else math.inf

    def auc(self, weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        """P(member's score > non-member's) + P(equal) / 2 (Mann and Whitney 1947), [R]: the area
        under straight lines between thresholds.
        """
        ranked = weights[:, self._order]
        inside = np.where(self._hits, ranked, 0)
        tp, fp = (np.cumsum(side, axis=1)[:, self._last] for side in (inside, ranked - inside))
        pairs = fp[:, -1] * tp[:, -1]  # 0 in a resample that lost all of one side
        doubled = 2 * tp - np.diff(tp, prepend=0)
        area = np.einsum("rn,rn->r", np.diff(fp, prepend=0), doubled) / 2
        return np.where(pairs > 0, area / np.where(pairs > 0, pairs, 1), np.nan)

    def top(self) -> float:
        """Share of the non-members that the highest score is given to: a lower false positive rate
        has no threshold but none at all.
        """
        fp, _ = self.counts()
        return float(fp[1] / max(fp[-1], 1))

    def tpr(
        self,
        fpr: float,
        weigh: Callable[[np.ndarray], np.ndarray],
        n_in: float,
        n_out: float,
    ) -> float:
        """The largest true positive rate of a threshold whose false positive rate is at most `fpr`;
        nothing is interpolated.

        weigh: places [n] -> their weights [n]; n_in, n_out: the weights of all members, and of all
        others.
        """
        allowed, length = fpr * n_out * (1 + 1e-12), FIRST_RANKS
        while True:
            ranked, hits = weigh(self._order[:length]), self._hits[:length]
            inside = np.where(hits, ranked, 0)
            fp = np.cumsum(ranked - inside)
            if length >= len(self._order) or fp[-1] > allowed:
                break
            length *= 4
        # A group of equal scores that the cut goes through has passed the rate already.
        last = self._last[: np.searchsorted(self._last, len(fp))]
        at = last[: np.searchsorted(fp[last], allowed, side="right")]
        if not n_in:
            return np.nan
        return float(inside[: at[-1] + 1].sum() / n_in) if len(at) else 0.0


def roc(
    scores: Num[np.ndarray, " N"], member: Bool[np.ndarray, " N"]
) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every distinct threshold, falling from the highest, starting
    at (0, 0).
    """
    fp, tp = Ranking(scores, member).counts()
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


def aucs(ranked: Sequence[Ranking]) -> PerTarget:
    return PerTarget(lambda weights: np.stack([each.auc(weights) for each in ranked], axis=1))


def tprs_at_fpr(
    ranked: Sequence[Ranking], membership: Bool[np.ndarray, "T N"], fpr: float
) -> PerTarget:
    """The largest TPR at an FPR, each target at a threshold of its own. Whether the non-members
    resolve that rate is for the caller to ask: require_non_members.
    """

    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        n_in, n_out = counts(membership, weights), counts(~membership, weights)
        return np.array(
            [
                [
                    target.tpr(fpr, row.__getitem__, n_in[r, t], n_out[r, t])
                    for t, target in enumerate(ranked)
                ]
                for r, row in enumerate(weights)
            ]
        )

    return PerTarget(of)


@dataclass(frozen=True)
class _Outer:
    """Weights of the examples of all targets, flattened from [T, N]: those of a target that is not
    chosen are 0.
    """

    chosen: np.ndarray
    weights: np.ndarray

    def at(self, places: Int[np.ndarray, " n"]) -> np.ndarray:
        target, example = np.divmod(places, len(self.weights))
        weights: np.ndarray = self.chosen[target] * self.weights[example]
        return weights


def tpr_at_fpr_together(
    everyone: Ranking, membership: Bool[np.ndarray, "T N"], fpr: float
) -> Together:
    """The largest TPR at an FPR of all targets under one threshold; everyone: the ranking of all
    their scores, flattened from [T, N].
    """

    def of(weights: Float[np.ndarray, "R N"], targets: Bool[np.ndarray, "Q T"]) -> np.ndarray:
        n_in = counts(membership, weights) @ targets.T
        n_out = counts(~membership, weights) @ targets.T

        result = np.empty(n_in.shape)
        for (r, row), (q, chosen) in itertools.product(enumerate(weights), enumerate(targets)):
            flat = _Outer(chosen, row)
            result[r, q] = everyone.tpr(fpr, flat.at, n_in[r, q], n_out[r, q])
        return result

    return Together(of)


def counts(flags: Bool[np.ndarray, "T N"], weights: Float[np.ndarray, "R N"]) -> np.ndarray:
    """How many examples each target's flags mark in each resample, [R, T]."""
    # One by one: as floats, all flags take eight times the memory.
    return np.stack([weights @ row.astype(float) for row in flags], axis=1)


def _rates(
    guess: Bool[np.ndarray, "T N"],
    membership: Bool[np.ndarray, "T N"],
    weights: Float[np.ndarray, "R N"],
) -> tuple[np.ndarray, np.ndarray]:
    """True and false positive rates of guesses, bool [T, N], [R, T] each."""
    hits, alarms = counts(guess & membership, weights), counts(guess & ~membership, weights)
    n_in, n_out = counts(membership, weights), counts(~membership, weights)
    return hits / np.maximum(n_in, 1), alarms / np.maximum(n_out, 1)


def advantages(guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]) -> PerTarget:
    """TPR - FPR of guesses, bool [T, N] (Yeom et al. 2018, definition 4)."""
    return PerTarget(lambda weights: np.subtract(*_rates(guess, membership, weights)))


def ppv(
    guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"], ratio: float
) -> Together:
    """Share of members among those called so, where there are `ratio` non-members for each member:
    TPR / (TPR + ratio FPR) (Jayaraman et al. 2021, section 3.2), from the mean rates of the
    targets. Raises Refusal where nobody is called a member.
    """
    if not guess.any():
        raise Refusal("nobody is called a member at this threshold")

    def of(weights: Float[np.ndarray, "R N"], targets: Bool[np.ndarray, "Q T"]) -> np.ndarray:
        shares = (targets / targets.sum(axis=1, keepdims=True)).T
        tpr, fpr = (each @ shares for each in _rates(guess, membership, weights))
        # Nan: a resample without any.
        called = tpr + ratio * fpr
        return np.where(tpr + fpr > 0, tpr / np.where(called > 0, called, 1), np.nan)

    return Together(of)


THRESHOLDS = 2**14
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
    members, others = [], []  # of each model that reach each candidate
    for row, member in zip(scores, membership, strict=True):
        order = np.argsort(row)
        below = np.searchsorted(row[order], grid)
        hits = np.append(0, np.cumsum(member[order]))
        members.append(hits[-1] - hits[below])
        others.append(len(row) - below - members[-1])
    used = chosen.astype(float)
    tp, fp = used @ np.stack(members), used @ np.stack(others)
    n_in, n_out = (used @ side.sum(axis=1) for side in (membership, ~membership))
    # Whole numbers, so that equals are equal; the highest candidate first.
    gain = (tp * n_out[:, None] - fp * n_in[:, None])[:, ::-1]
    best = gain.argmax(axis=1)
    return np.where(gain.max(axis=1) > 0, grid[::-1][best], np.inf)


def oracle_thresholds(
    scores: Num[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]
) -> np.ndarray:
    """The same for each target over its own scores, which no attacker can do; [T]."""
    return np.array([ranking.best() for ranking in rankings(scores, membership)])


def quantile_thresholds(scores: Num[np.ndarray, "T P"], fpr: float) -> np.ndarray:
    """For each row of non-members' scores [T, P] the lowest of them that at most a share `fpr`
    reaches, else infinity; [T].
    """
    thresholds = []
    for row in scores:
        ranked = np.sort(row)[::-1]
        last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
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
