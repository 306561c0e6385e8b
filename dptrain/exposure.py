"""Which examples are exposed, how steady that is, and which of them only one attack finds."""

from __future__ import annotations

import itertools
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


def vulnerable(matrix: np.ndarray, membership: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> list[Record]:
    """The most exposed examples: those found in most of the targets that hold them, then by per_example_auc; at most SHOWN."""
    if len(matrix) < MIN_TARGETS:
        return []
    each, hits = per_example_auc(matrix, membership), found(matrix, membership)
    n_in = membership.sum(axis=0)
    right = (hits & membership).sum(axis=0)
    share = right / np.maximum(n_in, 1)
    records = []
    for i in np.lexsort((-np.nan_to_num(each), -share))[:SHOWN]:
        low, high = metrics.clopper_pearson(int(right[i]), int(n_in[i])) if n_in[i] else (0.0, 1.0)
        wrong = int((hits & ~membership)[:, i].sum())
        counts = {"found": int(right[i]), "of": int(n_in[i]), "low": low, "high": high, "false_alarms": wrong}
        records.append({"id": _plain(ids[i]), "label": int(labels[i]), "auc": float(each[i]) if np.isfinite(each[i]) else None, **counts})
    return records


def stability(matrix: np.ndarray, membership: np.ndarray) -> float | None:
    """Rank correlation of per_example_auc between two halves of the targets: 1 if the same examples are exposed, 0 if it is chance.
    None with fewer than 2 MIN_TARGETS targets."""
    half = len(matrix) // 4 * 2  # whole pairs of complements
    if half < MIN_TARGETS:
        return None
    first, second = (per_example_auc(matrix[part], membership[part]) for part in (slice(half), slice(half, None)))
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3 or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return None
    return float(stats.spearmanr(first[both], second[both]).statistic)


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
