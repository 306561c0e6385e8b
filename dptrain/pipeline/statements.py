"""The privacy statements of a sweep: as planned, and with what the run has shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dptrain.core.types import Setting
from dptrain.evaluation.rows import BLIND, ONE_RUN, Row
from dptrain.evaluation.utility import UTILITIES, metric_of
from dptrain.privacy.statement import (
    Composition,
    Evaluated,
    MeasuredBound,
    PrivacyStatement,
    Refutation,
)

NAMED = ("lira", "rmia", "loss")
"""Whose lower bound the statement gives: the first of these that ran, or else the first attack.
Named beforehand, since the highest of many bounds does not hold with the confidence of each.
"""


def evaluated(
    statement: PrivacyStatement,
    setting: Setting,
    rows: Sequence[Row],
    composed: Composition,
    configuration: str = "",
    ledger: str = "",
) -> PrivacyStatement:
    """The statement of a setting with what is known after the run. composed: all private models
    that the ledger holds; configuration and ledger: their digests.
    """
    of_setting = [row for row in rows if row.setting == setting.name]
    bounds = [row for row in of_setting if row.metric == ONE_RUN and row.estimate is not None]
    named = {metric_of(name): name for name in UTILITIES}
    useful = [row for row in of_setting if row.metric in named and row.interval is not None]
    models = useful[0].targets if useful else 0
    after = Evaluated(
        composed=composed if statement.private else None,
        measured=measured(bounds),
        refuted=refutation(of_setting),
        leaking_split=any(row.attack == BLIND and row.contradicted for row in rows),
        audited=bool(bounds),
        refused_metrics=sum(row.estimate is None for row in of_setting),
        contradictions=sum(row.contradicted for row in of_setting),
        configuration=configuration,
        ledger=ledger,
        utilities={named[row.metric]: row.interval for row in useful if row.interval},
        test_examples=useful[0].n_out // max(1, models) if useful else 0,
        models=models,
    )
    return replace(statement, evaluated=after)


def measured(bounds: Sequence[Row]) -> MeasuredBound | None:
    """The measured lower bound that a statement gives, of the rows of all: on the canaries, if
    there are any.
    """
    if not bounds:
        return None
    worst = [row for row in bounds if row.examples == "canaries"] or list(bounds)
    by_name = {row.attack: row for row in worst}
    row = next((by_name[attack] for attack in NAMED if attack in by_name), worst[0])
    return MeasuredBound(
        epsilon=row.estimate or 0.0,
        attack=row.attack or "",
        examples=row.examples,
        note=row.note,
        reach=row.reach,
    )


def refutation(rows: Sequence[Row]) -> Refutation | None:
    """The first measurement of a setting above what was proved of it, and how many there are."""
    broken = [row for row in rows if row.contradicted]
    if not broken:
        return None
    worst = broken[0]
    return Refutation(
        attack=worst.attack or "",
        metric=worst.metric.name,
        estimate=worst.estimate or 0.0,
        low=worst.low or 0.0,
        ceiling=worst.ceiling or 0.0,
        count=len(broken),
    )
