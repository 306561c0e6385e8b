"""Which examples are exposed, how steady that is, and which of them only one attack finds."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from dptrain import metrics

FPR = 0.01
"""False positive rate, of each target, at which an example counts as found."""
SHOWN = 20
MIN_TARGETS = 4
"""Below it an example is in or out too seldom to say anything about it."""
EXACT = 40
"""Targets a side up to which the null distribution of a rank sum is counted out."""
FALSE_DISCOVERIES = 0.05
"""Share of the examples said to stand out that may do so by chance."""

Record = dict[str, Any]


def found(matrix: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """Which examples each target's FPR threshold calls members, bool [T, N]; the threshold knows the target's non-members: this describes."""
    limits = [metrics.quantile_thresholds(scores[None, ~member], FPR)[0] for scores, member in zip(matrix, membership, strict=True)]
    return matrix >= np.array(limits)[:, None]


def per_example_auc(matrix: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """P(an example's score where it is a member > where it is not) over targets, float64 [N]; nan where it is never in, or never out.

    Of ranks within each target, so that targets of another scale do not mix in (Aerni et al. 2024 measure single examples so).
    """
    ranks = stats.rankdata(stats.rankdata(matrix, axis=1), axis=0)
    n_in = membership.sum(axis=0)
    pairs = n_in * (len(matrix) - n_in)
    wins = np.where(membership, ranks, 0).sum(axis=0) - n_in * (n_in + 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def chances(matrix: np.ndarray, membership: np.ndarray) -> np.ndarray:
    """For each example the adjusted p-value of "its scores are no higher where it is a member", float64 [N].

    The rank-sum test of its scores over targets (Mann and Whitney 1947), which asks whether an example gives its membership away, and not whether
    it looks like a member to every target; corrected for looking at all examples (Benjamini and Hochberg 1995), since the largest of many is
    large by chance.
    """
    n_in = membership.sum(axis=0)
    n_out = len(matrix) - n_in
    wins = np.floor(np.nan_to_num(per_example_auc(matrix, membership)) * n_in * n_out + 1e-9).astype(int)
    plain = np.array([_tail(int(i), int(o))[u] if i and o else 1.0 for i, o, u in zip(n_in, n_out, wins, strict=True)])
    order = np.argsort(plain)
    scaled = plain[order] * len(plain) / np.arange(1, len(plain) + 1)
    adjusted = np.empty(len(plain))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


@functools.lru_cache(maxsize=256)
def _tail(n_in: int, n_out: int) -> np.ndarray:
    """P(U >= u) of the rank-sum statistic where nothing differs, for u = 0..n_in n_out: exact up to EXACT a side, else by its normal limit."""
    most = n_in * n_out
    if max(n_in, n_out) > EXACT:
        scale = math.sqrt(most * (n_in + n_out + 1) / 12)
        return stats.norm.sf((np.arange(most + 1) - 0.5 - most / 2) / scale)
    counts = [1] + [0] * most  # the coefficients of a Gaussian binomial, as whole numbers
    for i in range(1, n_in + 1):
        for u in range(most, n_out + i - 1, -1):
            counts[u] -= counts[u - n_out - i]
        for u in range(i, most + 1):
            counts[u] += counts[u - i]
    above = list(itertools.accumulate(reversed(counts)))[::-1]
    return np.array([value / above[0] for value in above])


def vulnerable(matrix: np.ndarray, membership: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> list[Record]:
    """The most exposed examples: the least likely by chance, then those found in most of the targets that hold them; at most SHOWN.

    Each says whether it stands out from chance at FALSE_DISCOVERIES, all of them looked at; its interval is simultaneous over all examples
    (Bonferroni).
    """
    if len(matrix) < MIN_TARGETS:
        return []
    each, hits = per_example_auc(matrix, membership), found(matrix, membership)
    n_in, p = membership.sum(axis=0), chances(matrix, membership)
    right = (hits & membership).sum(axis=0)
    share = right / np.maximum(n_in, 1)
    confidence = 1 - (1 - metrics.CONFIDENCE) / len(labels)
    records = []
    for i in np.lexsort((-np.nan_to_num(each), -share, p))[:SHOWN]:
        low, high = metrics.clopper_pearson(int(right[i]), int(n_in[i]), confidence) if n_in[i] else (0.0, 1.0)
        wrong = int((hits & ~membership)[:, i].sum())
        counts = {"found": int(right[i]), "of": int(n_in[i]), "low": low, "high": high, "false_alarms": wrong}
        known = {"p": float(p[i]), "stands_out": bool(p[i] <= FALSE_DISCOVERIES)}
        records.append(
            {"id": _plain(ids[i]), "label": int(labels[i]), "auc": float(each[i]) if np.isfinite(each[i]) else None, **counts, **known}
        )
    return records


def halves(targets: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Two halves of a fleet, whole pairs of complements each; None where they are too small."""
    half = targets // 4 * 2
    return None if half < MIN_TARGETS else (np.arange(half), np.arange(half, targets))


def stability(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float | None:
    """Rank correlation of per_example_auc between two halves of the targets, scores and memberships [T, N] each: 1 if the same examples are
    exposed, 0 if it is chance. The halves must not have a shadow model in common, or its noise would be in both. None where one is constant."""
    one, other = (per_example_auc(*half) for half in (first, second))
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3 or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0:
        return None
    return float(stats.spearmanr(one[both], other[both]).statistic)


def agreement(matrices: Mapping[str, np.ndarray], membership: np.ndarray, ids: np.ndarray) -> Record:
    """Members found by each pair of attacks: both, and Jaccard's both / either; and for each attack the share of its finds that no other attack
    makes, with the ids it alone finds most often."""
    hits = {name: found(matrix, membership) & membership for name, matrix in matrices.items()}
    pairs = []
    for (one, first), (other, second) in itertools.combinations(hits.items(), 2):
        both, either = int((first & second).sum()), int((first | second).sum())
        pairs.append({"attacks": [one, other], "both": both, "either": either, "jaccard": both / either if either else None})
    alone = {}
    for name, own in hits.items():
        others = [mask for other, mask in hits.items() if other != name]
        only = own & ~np.any(others, axis=0) if others else own
        times = only.sum(axis=0)
        most = [_plain(ids[i]) for i in np.argsort(-times, kind="stable")[:5] if times[i]]
        alone[name] = {"found": int(own.sum()), "only": int(only.sum()), "ids": most}
    return {"fpr": FPR, "pairs": pairs, "alone": alone}


def _plain(value: Any) -> int | str:
    return int(value) if isinstance(value, int | np.integer) else str(value)
