"""Every attack on every model of one setting, as rows with intervals and proved ceilings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal
from dptrain.core.types import Interval
from dptrain.evaluation import epsilon_bounds, intervals, metrics, one_run
from dptrain.evaluation.rankings import Ranking, Rankings
from dptrain.evaluation.rows import (
    AUC,
    BLIND,
    Kind,
    Metric,
    Row,
    Subject,
    Threshold,
    tpr_at,
)
from dptrain.evaluation.thresholds import AttackScores, ScoredExamples

FPRS = (0.01, 0.001)
PRIORS = (1, 10, 100)
"""Non-members for each member, at which PPV is given."""
ALARM = 1e-6
"""One-sided false-alarm rate at which a measurement above its proved ceiling counts as a
contradiction.
"""
BOUND_ALARM = 1e-3
"""The same of a lower bound of epsilon from one run: its p-value holds 2 m delta, which no result
can get below.
"""
JOINT_BETA = "joint_beta"


def attack_rows(
    subject: Subject,
    attack: str,
    attacked: AttackScores,
    scores: Scores,
    audits: Sequence[str],
    note: str = "",
    canaries: Bool[np.ndarray, " N"] | None = None,
) -> list[Row]:
    """All metrics of one attack on one setting; of the examples that `canaries`, bool [N], marks,
    if it is given.

    Advantage and balanced accuracy come at thresholds from the shadows, from the population, and,
    named oracle, at the best for the target's own labels, which no attacker knows; one threshold
    for all classes, or one a class. Rows that the data cannot support are refused with the reason.
    """
    examples = ScoredExamples(scores, attacked, canaries)
    member = examples.member
    if not (member.any(axis=1) & ~member.all(axis=1)).all():
        reason = "some target has no members, or no non-members, among these examples"
        rows = refused_rows(subject, attack, reason, scores)
    else:
        sheet = _Sheet(subject, attack, examples, note)
        sheet.add_ranking()
        sheet.add_thresholds()
        sheet.add_rates()
        for method in audits:
            sheet.add_bound(method)
        rows = sheet.rows
    if canaries is None:
        return rows
    return [replace(row, examples="canaries") for row in rows]


@dataclass(frozen=True)
class Limits:
    """How a metric is reported: the ends of its range; whether it is a rate, whose interval must
    hold that of Clopper and Pearson; how many such intervals hold at once; what is proved of it.
    """

    low: float = 0.0
    high: float = 1.0
    rate: bool = False
    many: int = 1
    ceiling: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass
class _Sheet:
    """The rows of one attack on one setting, as they are added."""

    subject: Subject
    attack: str
    examples: ScoredExamples
    note: str
    rows: list[Row] = field(default_factory=list)

    @property
    def _ranked(self) -> Rankings:
        """Each target's examples."""
        return self.examples.ranked

    @cached_property
    def _everyone(self) -> Ranking:
        """All targets' examples together."""
        return Ranking.of(self.examples.scores.ravel(), self.examples.member.ravel())

    @property
    def counts(self) -> tuple[int, int, int]:
        member = self.examples.member
        return len(member), int(member.sum()), int((~member).sum())

    def add_ranking(self) -> None:
        curve = self.subject.curve
        self._add(AUC, lambda: metrics.aucs(self._ranked), curve.max_auc if curve else None)

    def add_thresholds(self) -> None:
        """Advantage and balanced accuracy at every kind of threshold, and PPV."""
        member, curve = self.examples.member, self.subject.curve
        ceiling = curve.max_advantage if curve else None
        for source, per_class, guess in self.examples.guesses():

            def advantage(guess: Callable[[], np.ndarray] = guess) -> metrics.Values:
                return metrics.advantages(guess(), member)

            # An oracle is chosen on the very labels that it is reported on, and no proof bounds it.
            proved = None if source == Threshold.ORACLE else ceiling
            metric = Metric(Kind.ADVANTAGE, source, per_class)
            row = self._add(metric, advantage, proved, Limits(low=-1.0))
            self.rows.append(_balanced_accuracy(row))
        for ratio in PRIORS:

            def ppv(ratio: int = ratio) -> metrics.Values:
                return metrics.ppv(self.examples.from_shadows(False), member, ratio)

            self._add(Metric(Kind.PPV, ratio=ratio), ppv)

    def add_rates(self) -> None:
        """TPR at low false positive rates."""
        member, curve = self.examples.member, self.subject.curve
        for fpr in FPRS:
            together = metrics.pooled(member, fpr) and len(member) > 1

            def rates(fpr: float = fpr, together: bool = together) -> metrics.Values:
                metrics.require_non_members(int((~member).sum()), fpr)
                metrics.require_resolution([self._everyone] if together else self._ranked, fpr)
                if together:
                    return metrics.tpr_at_fpr_together(self._everyone, member, fpr)
                return metrics.tprs_at_fpr(self._ranked, member, fpr)

            shared = f"one threshold for all {len(member)} targets together" if together else ""
            ceiling = curve.max_tpr(fpr) if curve else None
            self._add(tpr_at(fpr), rates, ceiling, Limits(rate=True), shared)

    def _add(
        self,
        metric: Metric,
        make: Callable[[], metrics.Values],
        ceiling: float | None = None,
        limits: Limits | None = None,
        more: str = "",
    ) -> Row:
        limits = replace(limits or Limits(), ceiling=ceiling)
        try:
            self.rows.append(self._measured(metric, make(), limits, more))
        except Refusal as refusal:
            row = self.subject.refused(self.attack, metric, str(refusal), self.counts, ceiling)
            self.rows.append(row)
        return self.rows[-1]

    def _measured(
        self,
        metric: Metric,
        values: metrics.Values,
        limits: Limits,
        more: str,
    ) -> Row:
        member = self.examples.member
        note = "; ".join(filter(None, [self.note, more]))
        return measured_row(self.subject, self.attack, metric, values, member, limits, note)

    def add_bound(self, method: str) -> None:
        """A measured lower bound of epsilon."""
        metric = Metric(Kind.EPSILON, method=method)
        try:
            row = self._credible(metric) if method == JOINT_BETA else self._bound(metric, method)
        except Refusal as refusal:
            proved = self.subject.proved
            row = self.subject.refused(self.attack, metric, str(refusal), self.counts, proved)
        self.rows.append(row)

    def _bound(self, metric: Metric, method: str) -> Row:
        """Of one target, or the lower median of many.

        Each of T bounds is above the truth with probability at most a, so half of them are with at
        most 2a (Markov), whatever they have to do with each other: the lower median at 1 - a/2 each
        is a bound at 1 - a.
        """
        subject, targets = self.subject, len(self.examples.scores)
        each = intervals.CONFIDENCE if targets == 1 else 1 - (1 - intervals.CONFIDENCE) / 2
        bounds = [
            _one_bound(scores, member, subject.delta, method, each)
            for scores, member in zip(self.examples.scores, self.examples.member, strict=True)
        ]
        bounds.sort(key=lambda bound: bound.epsilon)
        bound = bounds[(targets - 1) // 2]
        of_one_run = method in one_run.METHODS
        contradicted = False
        if subject.proved is not None and of_one_run and not bound.assumes:
            p_values = [
                one_run.p_value(scores, member, subject.proved, subject.delta)
                for scores, member in zip(self.examples.scores, self.examples.member, strict=True)
            ]
            contradicted = one_run.contradicted(p_values, BOUND_ALARM)
        parts = [
            f"lower bound at {intervals.CONFIDENCE:.0%} confidence, delta {subject.delta:g}, "
            f"{bound.n_in:,} in and {bound.n_out:,} out a target",
            "" if targets == 1 else f"lower median of {targets} targets",
            f"a perfect attack would show {bound.ceiling:.2f}",
            f"assumes {bound.assumes}" if bound.assumes else "",
            "for independent fair coins"
            if of_one_run
            else "takes one model's scores for independent trials",
            self.note,
        ]
        row = subject.refused(self.attack, metric, "", self.counts, subject.proved)
        return replace(
            row,
            estimate=bound.epsilon,
            low=bound.epsilon,
            note="; ".join(filter(None, parts)),
            reach=bound.ceiling,
            contradicted=contradicted,
        )

    def _credible(self, metric: Metric) -> Row:
        """The joint-beta interval of the first target at the threshold from its shadows."""
        guess, member = self.examples.from_shadows(False)[0], self.examples.member[0]
        tp, tn, fp, fn = (
            int(hit.sum())
            for hit in (guess & member, ~guess & ~member, guess & ~member, ~guess & member)
        )
        alpha = 1 - intervals.CONFIDENCE
        low, high = epsilon_bounds.joint_beta(tp, tn, fp, fn, self.subject.delta, alpha)
        counts = 1, int(member.sum()), int((~member).sum())
        row = self.subject.refused(self.attack, metric, "", counts, self.subject.proved)
        note = "credible interval, not a frequentist bound; first target; takes one model's scores"
        return replace(
            row,
            estimate=low,
            low=low,
            high=high if math.isfinite(high) else None,
            note=f"{note} for independent trials",
        )


def measured_row(
    subject: Subject,
    attack: str,
    metric: Metric,
    values: metrics.Values,
    member: Bool[np.ndarray, "T N"],
    limits: Limits,
    note: str,
) -> Row:
    """The row of a metric with its interval. member: who is a member of which target, whose mean is
    reported; limits: how. A measurement above a proved ceiling beyond chance contradicts it.
    """
    ceiling = limits.ceiling
    at = intervals.fleet_interval(values, member, limits.ends)

    def interval(confidence: float) -> Interval:
        plain = at(confidence)
        return intervals.widen(plain, int(member.sum()), confidence) if limits.rate else plain

    contradicted = False
    measured = interval(intervals.at_once(limits.many))
    if ceiling is not None and not math.isnan(measured.estimate):
        if limits.rate or len(member) == 1:
            low = interval(1 - 2 * ALARM).low
        else:
            low = intervals.least(at, member, limits.ends, ALARM)
        contradicted = low > ceiling
    alone = "one target: the interval is over examples only" if len(member) == 1 else ""
    note = "; ".join(filter(None, [note, alone]))
    return subject.row(attack, metric, measured, ceiling, note, contradicted)


def _one_bound(
    scores: Float[np.ndarray, " N"],
    member: Bool[np.ndarray, " N"],
    delta: float,
    method: str,
    confidence: float,
) -> epsilon_bounds.Bound:
    if method in one_run.METHODS:
        return one_run.from_one_run(scores, member, delta, method, confidence)
    inside, outside = scores[member], scores[~member]
    return epsilon_bounds.from_scores(inside, outside, delta, method, confidence)


def refused_rows(subject: Subject, attack: str, reason: str, scores: Scores) -> list[Row]:
    """The rows of an attack that could not run."""
    member = scores.membership[scores.attacked]
    counts = len(member), int(member.sum()), int((~member).sum())
    kinds = (
        AUC,
        Metric(Kind.ADVANTAGE, Threshold.SHADOWS),
        Metric(Kind.BALANCED_ACCURACY, Threshold.SHADOWS),
        *map(tpr_at, FPRS),
    )
    return [subject.refused(attack, metric, reason, counts) for metric in kinds]


def blind_row(matrix: Float[np.ndarray, "K N"], membership: Bool[np.ndarray, "K N"]) -> Row:
    """AUC of the blind baseline [K, N] over the K independent splits; the same for every setting,
    since they share the splits.
    """
    at = intervals.fleet_interval(metrics.aucs(Rankings(matrix, membership)), membership, (0, 1))
    leaks = at(1 - 2 * ALARM).low > 0.5
    note = "inputs and labels only: a split is sound where this is not above .5"
    everyone = Subject("all", "", None, 0.0)
    return everyone.row(BLIND, AUC, at(intervals.CONFIDENCE), None, note, leaks)


def _balanced_accuracy(row: Row) -> Row:
    """(1 + advantage) / 2, and so are its limits. The advantage says whether it is contradicted."""

    def half(value: float | None) -> float | None:
        return None if value is None else (1 + value) / 2

    return replace(
        row,
        metric=replace(row.metric, kind=Kind.BALANCED_ACCURACY),
        estimate=half(row.estimate),
        low=half(row.low),
        high=half(row.high),
        ceiling=half(row.ceiling),
        contradicted=False,
    )
