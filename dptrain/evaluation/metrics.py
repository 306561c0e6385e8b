"""From membership scores to numbers with intervals. Higher score = member; equal scores fall on the
same side of a threshold.

T targets, N examples. A metric is a function of the example weights [R, N] of R resamples (0 leaves
an example out, 2 counts it twice), so that one sort, or one product, serves the estimate and every
resample behind its interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.stats import rankdata

from dptrain.core.errors import Refusal
from dptrain.evaluation.rankings import Ranking, Rankings

NON_MEMBERS_PER_FPR = 10


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


ROC_POINTS, ROC_SORTED = 1 << 12, 1 << 22
"""Points that are left of a ROC, of false positive rates evenly spaced on a logarithmic axis; and
scores up to which every one of them is tried as its threshold.
"""


def roc(
    scores: Num[np.ndarray, " *shape"], member: Bool[np.ndarray, " *shape"]
) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, falling from the highest threshold and starting at (0, 0): at
    every distinct score, or where those are more than ROC_POINTS, at the last up to each of so many
    rates.
    """
    n_in, n_out = int(member.sum()), int((~member).sum())
    if scores.size <= ROC_SORTED or not n_out:
        fp, tp = Ranking.of(scores.ravel(), member.ravel()).counts()
    else:
        outside, inside = np.sort(scores[~member]), np.sort(scores[member])
        # Just above the score that would be one false positive too many.
        above = outside[-1 - np.append(0, _spread(n_out - 1))]
        fp, tp = (
            np.concatenate([[0], len(side) - np.searchsorted(side, above, "right"), [len(side)]])
            for side in (outside, inside)
        )
    fpr, tpr = fp / max(n_out, 1), tp / max(n_in, 1)
    if len(fpr) > ROC_POINTS and n_out:
        rates = np.append(0, _spread(n_out) / n_out)
        shown = np.unique(np.append(0, np.searchsorted(fpr, rates, side="right") - 1))
        fpr, tpr = fpr[shown], tpr[shown]
    return fpr, tpr


def _spread(count: int) -> np.ndarray:
    """Whole numbers from 1 to `count`, evenly spaced on a logarithmic axis."""
    return np.unique(np.geomspace(1, max(count, 1), ROC_POINTS - 2).round().astype(int))


def auc(scores: Num[np.ndarray, "N ..."], member: Bool[np.ndarray, "N ..."]) -> np.ndarray:
    """P(a member's score > a non-member's) + P(equal) / 2 over the first axis (Mann and Whitney
    1947), scores and member [N, ...] to [...]; nan where one side is empty.
    """
    n_in = member.sum(axis=0)
    pairs = n_in * (len(scores) - n_in)
    wins = np.where(member, rankdata(scores, axis=0), 0).sum(axis=0) - n_in * (n_in + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def aucs(ranked: Rankings) -> PerTarget:
    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        if ((weights == 0) | (weights == 1)).all():  # of a part of the examples
            chosen = weights > 0
            return np.stack([each.auc_of(chosen) for each in ranked], axis=1)
        return np.stack([each.auc(weights) for each in ranked], axis=1)

    return PerTarget(of)


def tprs_at_fpr(ranked: Rankings, membership: Bool[np.ndarray, "T N"], fpr: float) -> PerTarget:
    """The largest TPR at an FPR, each target at a threshold of its own. Whether the non-members
    resolve that rate is for the caller to ask: require_non_members.
    """

    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        n_in, n_out = counts(membership, weights), counts(~membership, weights)
        of_targets = [
            [
                target.tpr(fpr, row.__getitem__, n_in[r, t], n_out[r, t])
                for r, row in enumerate(weights)
            ]
            for t, target in enumerate(ranked)
        ]
        return np.array(of_targets).T

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


def recalls(guess: Bool[np.ndarray, "T N"], membership: Bool[np.ndarray, "T N"]) -> PerTarget:
    """Share of the members that are guessed right."""
    return PerTarget(lambda weights: _rates(guess, membership, weights)[0])


def balanced_recalls(
    guess: Bool[np.ndarray, "T N"],
    membership: Bool[np.ndarray, "T N"],
    codes: Int[np.ndarray, " N"],
) -> PerTarget:
    """The mean of `recalls` over the members of each code; codes without a member do not count."""

    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        of_codes = []
        for code in np.unique(codes):
            of_code = membership & (codes == code)
            count = counts(of_code, weights)
            hits = counts(guess & of_code, weights)
            of_codes.append(np.where(count > 0, hits / np.maximum(count, 1), np.nan))
        means: np.ndarray = np.nanmean(of_codes, axis=0)
        return means

    return PerTarget(of)


def recall_gains(
    guess: Bool[np.ndarray, "T N"],
    other: Bool[np.ndarray, "T N"],
    membership: Bool[np.ndarray, "T N"],
) -> PerTarget:
    """`recalls` less those of another guess about the same examples."""

    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        first, second = (_rates(each, membership, weights)[0] for each in (guess, other))
        difference: np.ndarray = first - second
        return difference

    return PerTarget(of)


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
SAMPLED = 2**18
"""Scores of all models together of which those quantiles are at most, evenly spaced by rank in each
model.
"""


def best_thresholds(ranked: Rankings, chosen: Bool[np.ndarray, "T M"]) -> np.ndarray:
    """For each row of `chosen`, bool [T, M], the threshold with the largest TPR - FPR over the
    scores of those of the M ranked models together.

    The highest of equals; infinity where none is better than no guess. An attack that itself uses
    shadows scored those shadows with the target among theirs, so such a threshold, one number from
    all of their examples, is not wholly blind to the target's memberships; the score of each
    example is.
    """
    stride = -(-sum(len(each.values) for each in ranked) // SAMPLED)
    grid = np.unique(np.concatenate([each.values[::stride] for each in ranked]))
    if len(grid) > THRESHOLDS:
        grid = np.unique(np.quantile(grid, np.linspace(0, 1, THRESHOLDS), method="nearest"))
    reached = [each.reach(np.append(-np.inf, grid)) for each in ranked]
    used = chosen.astype(float)
    fp, tp = (used @ np.stack(side) for side in zip(*reached, strict=True))
    # Whole numbers, so that equals are equal; the highest candidate first.
    gain = (tp * fp[:, :1] - fp * tp[:, :1])[:, :0:-1]
    best = gain.argmax(axis=1)
    return np.where(gain.max(axis=1) > 0, grid[::-1][best], np.inf)


def oracle_thresholds(ranked: Rankings) -> np.ndarray:
    """The same for each target over its own scores, which no attacker can do; [T]."""
    return np.array([ranking.best() for ranking in ranked])


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


def require_resolution(ranked: Iterable[Ranking], fpr: float) -> None:
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
