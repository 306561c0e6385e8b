"""Every attack on every model of one setting, as tidy rows with intervals and proved ceilings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """AUC, balanced accuracy, advantage and TPR at FPR of one attack on one setting.

    matrix [M, N] as from attack_matrix. Balanced accuracy and advantage come twice: at a threshold chosen on the target's shadows, and,
    named oracle, at the best threshold for the target's own labels, which no attacker knows.
    """
    member = scores.membership
    n_in, n_out = int(member.sum()), int((~member).sum())
    pairs = list(zip(matrix, member, strict=True))
    rows: list[Row] = []

    def add(metric: str, interval: Callable[[float], Interval], limit: Callable[[TradeOff], float], note: str = note, oracle: bool = False) -> None:
        bound = limit(ceiling) if ceiling else None
        try:
            shown = interval(metrics.CONFIDENCE)
        except Refusal as refusal:
            rows.append(_refused(setting, attack, metric, str(refusal), len(matrix), n_in, n_out, bound))
            return
        contradicted = bound is not None and not oracle and interval(1 - 2 * ALARM).low > bound
        rows.append(_row(setting, attack, metric, shown, bound, note, contradicted))

    aucs = np.array([metrics.auc(*pair) for pair in pairs])
    add("auc", lambda confidence: metrics.over_targets(aucs, n_in, n_out, (0, 1), None, confidence), lambda c: c.max_auc)

    oracle = np.array([metrics.advantage(*pair, metrics.best_threshold(*pair)) for pair in pairs])

    def transferred(confidence: float) -> Interval:
        thresholds = metrics.shadow_thresholds(matrix, member, scores.shadows)
        values = np.array([metrics.advantage(*pair, threshold) for pair, threshold in zip(pairs, thresholds, strict=True)])
        return metrics.over_targets(values, n_in, n_out, (-1, 1), None, confidence)

    def at_oracle(confidence: float) -> Interval:
        return metrics.over_targets(oracle, n_in, n_out, (-1, 1), None, confidence)

    for suffix, interval in (("", transferred), ("_oracle", at_oracle)):
        add(f"advantage{suffix}", interval, lambda c: c.max_advantage, oracle=bool(suffix))
        add(f"balanced_accuracy{suffix}", lambda c, i=interval: _halved(i(c)), lambda c: (1 + c.max_advantage) / 2, oracle=bool(suffix))
    for fpr in FPRS:
        pooled = (~member).sum(axis=1).min() < metrics.NON_MEMBERS_PER_FPR / fpr
        extra = f"{note}; " * bool(note) + f"one threshold for all {len(matrix)} targets together" if pooled else note
        add(f"tpr_at_fpr_{fpr:g}", lambda c, f=fpr: metrics.fleet_tpr_at_fpr(matrix, member, f, c), lambda c, f=fpr: c.max_tpr(f), extra)
    return rows


def refused_rows(setting: Setting, attack: str, reason: str, scores: Scores) -> list[Row]:
    """The rows of an attack that could not run."""
    return [_refused(setting, attack, "auc", reason, scores.models, int(scores.membership.sum()), int((~scores.membership).sum()), None)]


def accuracy_rows(setting: Setting, scores: Scores, test_logits: np.ndarray, test_labels: np.ndarray) -> list[Row]:
    """Accuracy on members and on the test set, over models; test_logits [M, T, Q, C]."""
    right = scores.logits.mean(axis=2).argmax(-1) == scores.labels
    train = (right & scores.membership).sum(1) / np.maximum(scores.membership.sum(1), 1)
    test = (test_logits.mean(axis=2).argmax(-1) == test_labels).mean(axis=1)
    n_in = int(scores.membership.sum())
    return [
        _row(setting, None, "test_accuracy", metrics.over_targets(test, 0, test_labels.size, (0, 1), test_labels.size)),
        _row(setting, None, "train_accuracy", metrics.over_targets(train, n_in, 0, (0, 1), n_in)),
    ]


def blind_row(matrix: np.ndarray, membership: np.ndarray) -> Row:
    """AUC of the blind baseline [K, N] over the K independent splits; the same for every setting, since they share the splits."""
    aucs = np.array([metrics.auc(*pair) for pair in zip(matrix, membership, strict=True)])
    interval = metrics.over_targets(aucs, int(membership.sum()), int((~membership).sum()), (0, 1))
    low = metrics.over_targets(aucs, 0, 0, (0, 1), None, 1 - 2 * ALARM).low
    note = "inputs and labels only: .5 is a sound split"
    return Row("all", "", None, "blind", "auc", interval.estimate, interval.low, interval.high, interval.targets, interval.n_in, interval.n_out, None, note, low > 0.5)


def _halved(advantage: Interval) -> Interval:
    return dataclasses.replace(advantage, **{name: (1 + getattr(advantage, name)) / 2 for name in ("estimate", "low", "high")})


def _row(setting: Setting, attack: str | None, metric: str, interval: Interval, ceiling: float | None = None, note: str = "", contradicted: bool = False) -> Row:
    numbers = dataclasses.astuple(interval)
    return Row(setting.name, setting.defence, setting.epsilon, attack, metric, *numbers, ceiling, note, contradicted)


def _refused(setting: Setting, attack: str, metric: str, reason: str, targets: int, n_in: int, n_out: int, ceiling: float | None) -> Row:
    return Row(setting.name, setting.defence, setting.epsilon, attack, metric, None, None, None, targets, n_in, n_out, ceiling, f"refused: {reason}")
