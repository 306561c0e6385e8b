"""Utility of the models of a setting: accuracy, and its differences between settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from dptrain.core.types import Interval
from dptrain.evaluation import intervals, metrics
from dptrain.evaluation.rows import TEST_ACCURACY, TRAIN_ACCURACY, Row, Subject


def accuracy_rows(
    subject: Subject,
    right: Bool[np.ndarray, "M N"],
    membership: Bool[np.ndarray, "M N"],
    test_right: Bool[np.ndarray, "M T"],
) -> list[Row]:
    """Accuracy on the test set and on members, over models; right bool [M, N], test_right bool [M,
    T].
    """
    rows = []
    for metric, hits, used in (
        (TEST_ACCURACY, test_right, np.ones_like(test_right)),
        (TRAIN_ACCURACY, right, membership),
    ):
        at = intervals.fleet_interval(_share_right(hits, used), used, (0.0, 1.0))
        plain = at(intervals.CONFIDENCE)
        interval = intervals.widen(plain, int(used.any(axis=0).sum()), intervals.CONFIDENCE)
        count = int(used.sum())
        n_in, n_out = (0, count) if metric == TEST_ACCURACY else (count, 0)
        rows.append(subject.row(None, metric, replace(interval, n_in=n_in, n_out=n_out)))
    return rows


def accuracy_difference(right: Bool[np.ndarray, "M T"], other: Bool[np.ndarray, "M T"]) -> Interval:
    """Test accuracy of one setting less that of another, from what each model predicts rightly,
    bool [M, T] both: model k of both learnt from the same members, and all saw the same test set,
    so what they have in common drops out.
    """
    used = np.ones_like(right)
    first, second = _share_right(right, used), _share_right(other, used)

    difference = metrics.PerTarget(lambda weights: first.of(weights) - second.of(weights))
    return intervals.fleet_interval(difference, used, (-1.0, 1.0))(intervals.CONFIDENCE)


def _share_right(
    right: Bool[np.ndarray, "M N"], used: Bool[np.ndarray, "M N"]
) -> metrics.PerTarget:
    def of(weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        hits, counted = (metrics.counts(flags, weights) for flags in (right & used, used))
        shares: np.ndarray = hits / np.maximum(counted, 1)
        return shares

    return metrics.PerTarget(of)
