"""The evaluation of a sweep: scores of every setting to rows, through the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from dptrain.attacks import code_of, needs
from dptrain.attacks.leaks import blind
from dptrain.attacks.scores import Scores
from dptrain.core.store import code_fingerprint, fingerprint, from_npy, to_json, to_npy, versions
from dptrain.core.types import Setting
from dptrain.evaluation import thresholds
from dptrain.evaluation.attack_rows import blind_row
from dptrain.evaluation.evaluate import evaluate
from dptrain.evaluation.rows import Row, Subject
from dptrain.evaluation.thresholds import AttackScores
from dptrain.evaluation.utility import accuracy_difference, accuracy_rows
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.measurements import extras
from dptrain.fleet.spending import verify
from dptrain.pipeline.progress import Progress
from dptrain.privacy import ledger, pld
from dptrain.report import figures

BLIND_SPLITS = 8
"""Pairs of models whose split the blind baseline is run on: splits are alike, and each costs
seconds.
"""

Right = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What each model predicts rightly of the pool [M, N], the membership [M, N], and what it predicts
rightly of the test set [M, T]; all bool.
"""


@dataclass(frozen=True)
class SweepEvaluation:
    """rows: every number; curves: the ROCs of each setting; exposed: setting to the record of
    `vulnerability`; differences: [estimate, low, high] of the test accuracy of a setting less that
    of another.
    """

    rows: list[Row] = field(default_factory=list)
    curves: list[figures.Roc] = field(default_factory=list)
    exposed: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def evaluate_sweep(
    fleet: Fleet,
    settings: tuple[Setting, ...],
    spent: ledger.Snapshot,
    show_progress: bool = False,
) -> SweepEvaluation:
    """Every attack on every model of every setting, and the blind baseline. Raises LedgerError
    where the ledger does not hold what a setting claims.
    """
    result = SweepEvaluation()
    right: dict[str, Right] = {}
    total = len(settings) * len(fleet.config.attacks)
    with Progress(total, "attack", show_progress) as progress:
        for setting in settings:
            verify(fleet, setting, spent)
            right[setting.name] = _evaluate_setting(fleet, setting, result, progress)
    result.rows.append(_blind_row(fleet))
    for name, (*_, hits) in right.items():
        differences = {
            other: accuracy_difference(hits, others)
            for other, (*_, others) in right.items()
            if other != name
        }
        result.differences[name] = {
            other: [paired.estimate, paired.low, paired.high]
            for other, paired in differences.items()
        }
    return result


def _evaluate_setting(
    fleet: Fleet, setting: Setting, result: SweepEvaluation, progress: Progress
) -> Right:
    """Add the rows, ROCs and exposed examples of one setting to the result."""
    config, dataset = fleet.config, fleet.dataset
    scores, test = _scores(fleet, setting)
    right = _right(fleet, scores, test)
    subject = _subject(setting)
    result.rows.extend(accuracy_rows(subject, *right))

    def run(scores: Scores, name: str, options: Mapping[str, Any]) -> AttackScores:
        try:
            return _attack_scores(fleet, scores, name, options)
        finally:
            # Halves of the models are attacked on the way.
            progress.update(scores.models == len(fleet.membership))

    evaluated = evaluate(
        subject,
        scores,
        config.attacks,
        config.audits,
        ids=dataset.pool.ids,
        canaries=np.arange(config.dataset.pool) < dataset.canaries,
        run=run,
        on_attack=partial(_describe, progress, setting),
    )
    result.rows.extend(_with_refutations(fleet, setting, evaluated.rows))
    result.exposed[setting.name] = evaluated.exposed
    n_out = int((~fleet.membership).sum())
    result.curves.append(figures.Roc(setting.name, evaluated.curves, subject.curve, n_out))
    return right


def _with_refutations(fleet: Fleet, setting: Setting, rows: Sequence[Row]) -> list[Row]:
    """The rows, and those by which an earlier run refuted what is claimed of the same models, which
    a run with other attacks, other options or fewer models must not take back. They count until the
    models are trained anew, or the code that measured and bounded them changes.
    """
    code = code_fingerprint("core", "attacks", "privacy", "evaluation")
    refuted, earlier = {_place(row) for row in rows if row.contradicted}, dict[str, Row]()
    for index in range(fleet.config.models_per_setting):
        key = fingerprint("refutations", code, trained.digest(fleet, setting, index))
        stored = json.loads(fleet.store.read_file("refutations", key) or "[]")
        before = {_place(row): row for row in map(Row.of, stored)}
        now = before | {_place(row): row for row in rows if row.contradicted}
        if now != before:
            data = to_json([row.to_json() for row in now.values()])
            fleet.store.write_file("refutations", key, data)
        earlier |= {
            place: replace(
                row,
                setting=setting.name,
                note="; ".join(filter(None, [row.note, "of an earlier run"])),
            )
            for place, row in before.items()
            if place not in refuted
        }
    return [*rows, *earlier.values()]


def _place(row: Row) -> str:
    """Which number of a setting a row holds."""
    return f"{row.attack} {row.metric.name} {row.examples}"


def _describe(progress: Progress, setting: Setting, attack: str) -> None:
    progress.describe(f"{attack} on {setting.name}")


def _subject(setting: Setting) -> Subject:
    ran, names = setting.mechanism, (setting.name, setting.defence, setting.epsilon, setting.delta)
    if not ran.private:
        return Subject(*names)
    return Subject(*names, pld.epsilon(ran, setting.delta), pld.trade_off(ran))


def _scores(fleet: Fleet, setting: Setting) -> tuple[Scores, np.ndarray]:
    """What the setting's models say about the pool, with all that its attacks need; and their
    logits on the test set.
    """
    pool, population = fleet.dataset.pool, fleet.dataset.population
    logits = trained.logits(fleet, setting)
    nobody = np.zeros((len(fleet.membership), len(population.labels)), dtype=bool)
    outside = Scores(logits["population"], population.labels, nobody, inputs=population.inputs)
    attacks = fleet.config.attacks.items()
    wanted = sorted({extra for name, options in attacks for extra in needs(name, options)})
    scores = Scores(
        logits["pool"],
        pool.labels,
        fleet.membership,
        inputs=pool.inputs,
        population=outside,
        extras=extras(fleet, setting, wanted),
    )
    return scores, logits["test"]


def _right(fleet: Fleet, scores: Scores, test: Float[np.ndarray, "M T Q C"]) -> Right:
    assert scores.logits is not None
    right = scores.logits.mean(axis=2).argmax(-1) == scores.labels
    return right, fleet.membership, test.mean(axis=2).argmax(-1) == fleet.dataset.test.labels


def _attack_scores(
    fleet: Fleet, scores: Scores, name: str, options: Mapping[str, Any]
) -> AttackScores:
    code = (code_fingerprint("core", "attacks", "evaluation"), versions(), code_of(name))
    key = fingerprint("attack", code, scores.digest, name, dict(options))
    files = fleet.store.read("attack", key)
    if files is None:
        attacked = thresholds.run(scores, name, options)
        files = {"scores.npy": to_npy(attacked.matrix)}
        if attacked.population is not None:
            files["population.npy"] = to_npy(attacked.population)
        fleet.store.write("attack", key, files)
    population = from_npy(files["population.npy"]) if "population.npy" in files else None
    return AttackScores(from_npy(files["scores.npy"]), None, population)


def _blind_row(fleet: Fleet) -> Row:
    pairs = fleet.membership[::2][:BLIND_SPLITS]  # the complement of a split is the same split
    pool = fleet.dataset.pool
    split = (fleet.data_digest, fleet.config.seed, len(pairs))
    key = fingerprint("blind", code_fingerprint("core", "attacks"), versions(), *split)
    files = fleet.store.read("attack", key)
    if files is None:
        guesses = [blind(pool.inputs, pool.labels, member) for member in pairs]
        files = {"scores.npy": to_npy(np.stack(guesses))}
        fleet.store.write("attack", key, files)
    return blind_row(from_npy(files["scores.npy"]), pairs)
