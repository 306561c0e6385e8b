"""Every attack on every model of one setting, as tidy rows with intervals and proved ceilings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dptrain import audit, metrics, one_run
from dptrain.accounting import TradeOff
from dptrain.guesses import Judged, View
from dptrain.scores import Scores
from dptrain.types import Interval, Refusal

FPRS = (0.01, 0.001)
PRIORS = (1, 10, 100)
"""Non-members for each member, at which PPV is told."""
ALARM = 1e-6
"""One-sided false-alarm rate at which a measurement above its proved ceiling counts as a contradiction."""
BOUND_ALARM = 1e-3
"""The same of a lower bound of epsilon from one run: its p-value holds 2 m delta, which no result can get below."""


@dataclass(frozen=True)
class Row:
    """One number of the result. `estimate` is None where the number was refused, and `note` says why. A lower bound has no `high`.
    `examples`: all, or canaries only."""

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
    examples: str = "all"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is judged: a setting's name, its defence, its target epsilon at delta, and what is proved of it: epsilon and the whole curve."""

    name: str
    defence: str
    epsilon: float | None
    delta: float
    proved: float | None = None
    curve: TradeOff | None = None


def attack_rows(
    subject: Subject,
    attack: str,
    judged: Judged,
    scores: Scores,
    audits: tuple[str, ...],
    note: str = "",
    canaries: np.ndarray | None = None,
) -> list[Row]:
    """All metrics of one attack on one setting; of the examples that `canaries`, bool [N], marks, if it is given.

    Advantage and balanced accuracy come at thresholds from the shadows, from the population, and, named oracle, at the best for the target's own
    labels, which no attacker knows; one threshold for all classes, or one a class. Rows that the data cannot support are refused with the reason.
    """
    view = View(scores, judged, canaries)
    member, curve = view.member, subject.curve
    if not (member.any(axis=1) & ~member.all(axis=1)).all():
        reason = "some target has no members, or no non-members, among these examples"
        return _of(canaries, refused_rows(subject, attack, reason, scores))
    ranked = metrics.rankings(view.own, member)
    rows: list[Row] = []

    def add(metric: str, make: Callable[[], metrics.Values], ceiling: float | None = None, *, low: float = 0.0, **how: Any) -> Row:
        try:
            rows.append(_measured(subject, attack, metric, make(), member, (low, 1.0), ceiling, note, **how))
        except Refusal as refusal:
            rows.append(_refused(subject, attack, metric, str(refusal), member, ceiling))
        return rows[-1]

    add("auc", lambda: metrics.aucs(ranked), curve.max_auc if curve else None)
    for kind, guess in view.guesses():
        oracle = kind.startswith("oracle")  # chosen on the scores that it is reported on: no contradiction of a proof
        name = f"advantage_{kind}" if kind else "advantage"
        found = add(
            name,
            lambda guess=guess: metrics.advantages(guess(), member),  # type: ignore[misc]
            curve.max_advantage if curve else None,
            low=-1.0,
            judged=not oracle,
        )
        rows.append(_balanced_accuracy(found))
    for ratio in PRIORS:
        add(f"ppv_1_to_{ratio}", lambda ratio=ratio: metrics.ppv(view.from_shadows(False), member, ratio))  # type: ignore[misc]
    for fpr in FPRS:
        together = metrics.pooled(member, fpr) and len(member) > 1

        def tpr(fpr: float = fpr, together: bool = together) -> metrics.Values:
            metrics.require_non_members(int((~member).sum()), fpr)
            metrics.require_resolution([metrics.Ranking(view.own.ravel(), member.ravel())] if together else ranked, fpr)
            return metrics.tpr_at_fpr_together(view.own, member, fpr) if together else metrics.tprs_at_fpr(ranked, fpr)

        told = f"one threshold for all {len(member)} targets together" if together else ""
        add(f"tpr_at_fpr_{fpr:g}", tpr, curve.max_tpr(fpr) if curve else None, rate=True, more=told)
    rows += [
        _credible_row(subject, attack, view) if method == "joint_beta" else _bound_row(subject, attack, method, view, note)
        for method in audits
    ]
    return _of(canaries, rows)


def _of(canaries: np.ndarray | None, rows: list[Row]) -> list[Row]:
    return rows if canaries is None else [dataclasses.replace(row, examples="canaries") for row in rows]


def _measured(
    subject: Subject,
    attack: str | None,
    metric: str,
    values: metrics.Values,
    member: np.ndarray,
    bounds: tuple[float, float],
    ceiling: float | None,
    note: str,
    judged: bool = True,
    rate: bool = False,
    more: str = "",
) -> Row:
    """judged: whether a value above the ceiling contradicts the proof; rate: whether the interval must hold that of Clopper and Pearson."""
    at = metrics.fleet_interval(values, member, bounds)

    def interval(confidence: float) -> Interval:
        return metrics.widen(at(confidence), int(member.sum()), confidence) if rate else at(confidence)

    contradicted = False
    if judged and ceiling is not None and not math.isnan(at(metrics.CONFIDENCE).estimate):
        low = interval(1 - 2 * ALARM).low if rate or len(member) == 1 else metrics.least(at, member, bounds, ALARM)
        contradicted = low > ceiling
    alone = "one target: the interval is over examples only" if len(member) == 1 else ""
    return _row(subject, attack, metric, interval(metrics.CONFIDENCE), ceiling, "; ".join(filter(None, [note, more, alone])), contradicted)


def _bound_row(subject: Subject, attack: str, method: str, view: View, note: str) -> Row:
    """A measured lower bound of epsilon: of one target, or the lower median of many.

    Each of T bounds is above the truth with probability at most a, so half of them are with at most 2a (Markov), whatever they have to do with
    each other: the lower median at 1 - a/2 each is a bound at 1 - a.
    """
    metric = f"epsilon_{method}"

    def bounds(confidence: float) -> list[audit.Bound]:
        each = confidence if len(view.own) == 1 else 1 - (1 - confidence) / 2
        found = []
        for own, member in zip(view.own, view.member, strict=True):
            if method in one_run.METHODS:
                found.append(one_run.from_one_run(own, member, subject.delta, method, each))
            else:
                found.append(audit.from_scores(own[member], own[~member], subject.delta, method, each))
        return sorted(found, key=lambda bound: bound.epsilon)

    def median(found: list[audit.Bound]) -> audit.Bound:
        return found[(len(found) - 1) // 2]

    try:
        bound = median(bounds(audit.CONFIDENCE))
    except Refusal as refusal:
        return _refused(subject, attack, metric, str(refusal), view.member, subject.proved)
    contradicted = (
        subject.proved is not None
        and not bound.assumes
        and method in one_run.METHODS
        and median(bounds(1 - BOUND_ALARM)).epsilon > subject.proved
    )
    told = [
        f"lower bound at {audit.CONFIDENCE:.0%} confidence, delta {subject.delta:g}, {bound.n_in:,} in and {bound.n_out:,} out a target",
        f"lower median of {len(view.own)} targets" if len(view.own) > 1 else "",
        f"a perfect attack would show {bound.ceiling:.2f}",
        f"assumes {bound.assumes}" if bound.assumes else "",
        "for independent fair coins" if method in one_run.METHODS else "takes one model's scores for independent trials",
        note,
    ]
    counts = len(view.own), int(view.member.sum()), int((~view.member).sum())
    text = "; ".join(filter(None, told))
    return Row(*_names(subject), attack, metric, bound.epsilon, bound.epsilon, None, *counts, subject.proved, text, contradicted)


def _credible_row(subject: Subject, attack: str, view: View) -> Row:
    """The joint-beta interval of the first target at the threshold from its shadows."""
    metric = "epsilon_joint_beta"
    try:
        guess, member = view.from_shadows(False)[0], view.member[0]
    except Refusal as refusal:
        return _refused(subject, attack, metric, str(refusal), view.member, subject.proved)
    tp, tn, fp, fn = (int(hit.sum()) for hit in (guess & member, ~guess & ~member, guess & ~member, ~guess & member))
    low, high = audit.joint_beta(tp, tn, fp, fn, subject.delta, 1 - audit.CONFIDENCE)
    told = "credible interval, not a frequentist bound; first target; takes one model's scores for independent trials"
    return Row(
        *_names(subject),
        attack,
        metric,
        low,
        low,
        high if math.isfinite(high) else None,
        1,
        int(member.sum()),
        int((~member).sum()),
        subject.proved,
        told,
    )


def refused_rows(subject: Subject, attack: str, reason: str, scores: Scores) -> list[Row]:
    """The rows of an attack that could not run."""
    names = ["auc", "advantage", "balanced_accuracy", *(f"tpr_at_fpr_{fpr:g}" for fpr in FPRS)]
    return [_refused(subject, attack, metric, reason, scores.membership[scores.attacked], None) for metric in names]


def accuracy_rows(subject: Subject, right: np.ndarray, membership: np.ndarray, test_right: np.ndarray) -> list[Row]:
    """Accuracy on the test set and on members, over models; right bool [M, N], test_right bool [M, T]."""
    rows = []
    for metric, hits, used in (
        ("test_accuracy", test_right, np.ones_like(test_right)),
        ("train_accuracy", right, membership),
    ):
        at = metrics.fleet_interval(_share_right(hits, used), used, (0.0, 1.0))
        interval = metrics.widen(at(metrics.CONFIDENCE), int(used.any(axis=0).sum()), metrics.CONFIDENCE)
        count = int(used.sum())
        counts = {"n_in": 0, "n_out": count} if metric == "test_accuracy" else {"n_in": count, "n_out": 0}
        rows.append(_row(subject, None, metric, dataclasses.replace(interval, **counts)))
    return rows


def accuracy_difference(one: np.ndarray, other: np.ndarray) -> Interval:
    """Test accuracy of one setting less that of another, from what each model predicts rightly, bool [M, T] both: model k of both learnt
    from the same members, and all saw the same test set, so what they have in common drops out."""
    used = np.ones_like(one)
    first, second = _share_right(one, used), _share_right(other, used)
    return metrics.fleet_interval(lambda weights, kept: first(weights, kept) - second(weights, kept), used, (-1.0, 1.0))(metrics.CONFIDENCE)


def _share_right(right: np.ndarray, used: np.ndarray) -> metrics.Values:
    hits, all_used = (right & used).astype(float), used.astype(float)
    return lambda weights, kept: hits[kept] @ weights / np.maximum(all_used[kept] @ weights, 1)


def blind_row(matrix: np.ndarray, membership: np.ndarray) -> Row:
    """AUC of the blind baseline [K, N] over the K independent splits; the same for every setting, since they share the splits."""
    at = metrics.fleet_interval(metrics.aucs(metrics.rankings(matrix, membership)), membership, (0, 1))
    note = "inputs and labels only: .5 is a sound split"
    return _row(Subject("all", "", None, 0.0), "blind", "auc", at(metrics.CONFIDENCE), None, note, at(1 - 2 * ALARM).low > 0.5)


def _balanced_accuracy(row: Row) -> Row:
    """(1 + advantage) / 2, and so are its limits."""

    def half(value: float | None) -> float | None:
        return None if value is None else (1 + value) / 2

    numbers = {name: half(getattr(row, name)) for name in ("estimate", "low", "high", "ceiling")}
    metric = row.metric.replace("advantage", "balanced_accuracy")
    return dataclasses.replace(row, metric=metric, contradicted=False, **numbers)  # type: ignore[arg-type]  # the advantage says it


def _names(subject: Subject) -> tuple[str, str, float | None]:
    return subject.name, subject.defence, subject.epsilon


def _row(
    subject: Subject,
    attack: str | None,
    metric: str,
    interval: Interval,
    ceiling: float | None = None,
    note: str = "",
    contradicted: bool = False,
) -> Row:
    estimate, counts = (interval.estimate, interval.low, interval.high), (interval.targets, interval.n_in, interval.n_out)
    return Row(*_names(subject), attack, metric, *estimate, *counts, ceiling, note, contradicted)


def _refused(subject: Subject, attack: str, metric: str, reason: str, member: np.ndarray, ceiling: float | None) -> Row:
    counts = len(member), int(member.sum()), int((~member).sum())
    return Row(*_names(subject), attack, metric, None, None, None, *counts, ceiling, f"refused: {reason}")
