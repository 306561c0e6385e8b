"""Every attack on every model of one setting, as tidy rows with intervals and proved ceilings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dptrain import metrics
from dptrain.accounting import TradeOff
from dptrain.attacks import ATTACKS
from dptrain.attacks.lira import choose_variance
from dptrain.types import Interval, Refusal, Scores, Setting

FPRS = (0.01, 0.001)
ALARM = 1e-6
"""One-sided false-alarm rate at which a measurement above its proved ceiling counts as a contradiction."""


@dataclass(frozen=True)
class Row:
    """One number of the result. `estimate` is None where the number was refused, and `note` says why."""

    setting: str
    defence: str
    epsilon: float | None
    attack: str | None
    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    targets: int
    n_in: int
    n_out: int
    ceiling: float | None = None
    note: str = ""
    contradicted: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def attack_matrix(scores: Scores, attack: str, options: Mapping[str, Any]) -> np.ndarray:
    """Membership scores with each model in turn as the target, float64 [M, N]. Raises Refusal."""
    return np.stack([ATTACKS[attack](scores, target, **options) for target in range(scores.models)])


def variant(scores: Scores, attack: str, options: Mapping[str, Any]) -> str:
    """What the attack's options came to, for the reader."""
    if "variance" not in options:
        return ""
    shadows = int(scores.shadows(0).sum())
    return f"{choose_variance(options['variance'], shadows)} variance, {shadows} shadows"


def attack_rows(setting: Setting, attack: str, matrix: np.ndarray, scores: Scores, ceiling: TradeOff | None, note: str) -> list[Row]:
    """AUC, advantage, balanced accuracy and TPR at FPR of one attack on one setting.

    matrix [M, N] as from attack_matrix. Advantage and balanced accuracy come twice: at a threshold chosen on the target's shadows, and,
    named oracle, at the best threshold for the target's own labels, which no attacker knows.
    """
    member = scores.membership
    shadows = np.stack([scores.shadows(target) for target in range(len(matrix))])
    measures = [
        _Measure("auc", metrics.aucs, ceiling.max_auc if ceiling else None),
        _Measure("advantage", partial(metrics.shadow_advantages, shadows=shadows), ceiling.max_advantage if ceiling else None, low=-1.0),
        _Measure("advantage_oracle", metrics.oracle_advantages, ceiling.max_advantage if ceiling else None, judged=False),
    ]
    for fpr in FPRS:
        together = metrics.pooled(member, fpr)
        values = partial(metrics.tprs_at_fpr, fpr=fpr, together=together)
        pooling = f"one threshold for all {len(matrix)} targets together" if together else ""
        measures.append(_Measure(f"tpr_at_fpr_{fpr:g}", values, ceiling.max_tpr(fpr) if ceiling else None, fpr=fpr, note=pooling))
    rows: list[Row] = []
    for measure in measures:
        try:
            row = measure.row(setting, attack, matrix, member, note)
        except Refusal as refusal:
            row = _refused(setting, attack, measure.metric, str(refusal), scores, measure.ceiling)
        rows.append(row)
        if measure.metric.startswith("advantage"):
            rows.append(_balanced_accuracy(row))
    return rows


@dataclass(frozen=True)
class _Measure:
    """A metric of an attack: its value for each target, its ceiling, the FPR if it is a TPR there, and whether a value above the
    ceiling contradicts the proof (the oracle's does not: it is chosen on the scores it is reported on)."""

    metric: str
    values: metrics.Values
    ceiling: float | None
    low: float = 0.0
    fpr: float | None = None
    note: str = ""
    judged: bool = True

    def row(self, setting: Setting, attack: str, matrix: np.ndarray, member: np.ndarray, note: str) -> Row:
        if self.fpr is not None:
            metrics.require_non_members(int((~member).sum()), self.fpr)
        at = metrics.fleet_interval(self.values, matrix, member, (self.low, 1.0))

        def interval(confidence: float) -> Interval:
            return at(confidence) if self.fpr is None else metrics.widen(at(confidence), int(member.sum()), confidence)

        contradicted = self.judged and self.ceiling is not None and interval(1 - 2 * ALARM).low > self.ceiling
        notes = "; ".join(filter(None, [note, self.note]))
        return _row(setting, attack, self.metric, interval(metrics.CONFIDENCE), self.ceiling, notes, contradicted)


def refused_rows(setting: Setting, attack: str, reason: str, scores: Scores) -> list[Row]:
    """The rows of an attack that could not run."""
    names = ["auc", "advantage", "balanced_accuracy", *(f"tpr_at_fpr_{fpr:g}" for fpr in FPRS)]
    return [_refused(setting, attack, metric, reason, scores, None) for metric in names]


def accuracy_rows(setting: Setting, scores: Scores, test_logits: np.ndarray, test_labels: np.ndarray) -> list[Row]:
    """Accuracy on the test set and on members, over models; test_logits [M, T, Q, C]."""
    test = test_logits.mean(axis=2).argmax(-1) == test_labels
    train = scores.logits.mean(axis=2).argmax(-1) == scores.labels
    rows = []
    for metric, right, used in (("test_accuracy", test, np.ones_like(test)), ("train_accuracy", train, scores.membership)):
        at = metrics.fleet_interval(_share_right, right, used, (0.0, 1.0))
        interval = metrics.widen(at(metrics.CONFIDENCE), int(used.any(axis=0).sum()), metrics.CONFIDENCE)
        count = int(used.sum())
        counts = {"n_in": 0, "n_out": count} if metric == "test_accuracy" else {"n_in": count, "n_out": 0}
        rows.append(_row(setting, None, metric, dataclasses.replace(interval, **counts)))
    return rows


def _share_right(right: np.ndarray, used: np.ndarray) -> np.ndarray:
    return (right & used).sum(axis=1) / np.maximum(used.sum(axis=1), 1)


def blind_row(matrix: np.ndarray, membership: np.ndarray) -> Row:
    """AUC of the blind baseline [K, N] over the K independent splits; the same for every setting, since they share the splits."""
    at = metrics.fleet_interval(metrics.aucs, matrix, membership, (0, 1))
    note = "inputs and labels only: .5 is a sound split"
    return Row("all", "", None, "blind", "auc", *_numbers(at(metrics.CONFIDENCE)), None, note, at(1 - 2 * ALARM).low > 0.5)


def _balanced_accuracy(row: Row) -> Row:
    """(1 + advantage) / 2, and so are its limits."""

    def half(value: float | None) -> float | None:
        return None if value is None else (1 + value) / 2

    metric = row.metric.replace("advantage", "balanced_accuracy")
    return dataclasses.replace(
        row,
        metric=metric,
        estimate=half(row.estimate),
        low=half(row.low),
        high=half(row.high),
        ceiling=half(row.ceiling),
        contradicted=False,  # the advantage says it
    )


def _numbers(interval: Interval) -> tuple[float, float, float, int, int, int]:
    return interval.estimate, interval.low, interval.high, interval.targets, interval.n_in, interval.n_out


def _row(
    setting: Setting,
    attack: str | None,
    metric: str,
    interval: Interval,
    ceiling: float | None = None,
    note: str = "",
    contradicted: bool = False,
) -> Row:
    return Row(setting.name, setting.defence, setting.epsilon, attack, metric, *_numbers(interval), ceiling, note, contradicted)


def _refused(setting: Setting, attack: str, metric: str, reason: str, scores: Scores, ceiling: float | None) -> Row:
    n_in = int(scores.membership.sum())
    counts = (scores.models, n_in, scores.membership.size - n_in)
    return Row(setting.name, setting.defence, setting.epsilon, attack, metric, None, None, None, *counts, ceiling, f"refused: {reason}")
