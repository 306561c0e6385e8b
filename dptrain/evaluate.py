"""The judging stages of a sweep: scores of every setting to rows, through the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from dptrain import accounting, guesses, judge, plots
from dptrain.assess import assess
from dptrain.attacks import code_of, needs
from dptrain.attacks.blind import blind
from dptrain.fleet import Fleet
from dptrain.guesses import Judged
from dptrain.judge import Row, Subject
from dptrain.measure import extras
from dptrain.scores import Scores
from dptrain.spending import verify
from dptrain.store import code_fingerprint, fingerprint, from_npy, to_npy, versions
from dptrain.types import Setting

BLIND_SPLITS = 8
"""Pairs of models whose split the blind baseline is run on: splits are alike, and each costs seconds."""


@dataclass(frozen=True)
class Evaluation:
    """rows: every number; curves: the ROCs of each setting; exposed: setting to the record of `exposure`; differences: [estimate, low, high]
    of the test accuracy of a setting less that of another."""

    rows: list[Row] = field(default_factory=list)
    curves: list[plots.Roc] = field(default_factory=list)
    exposed: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def evaluate(fleet: Fleet, settings: tuple[Setting, ...], show_progress: bool) -> Evaluation:
    """Every attack on every model of every setting, and the blind baseline."""
    config, result = fleet.config, Evaluation()
    canaries = np.arange(len(fleet.dataset.pool.labels)) < fleet.dataset.canaries
    work = tqdm(total=len(settings) * len(config.attacks), unit="attack", disable=not show_progress, dynamic_ncols=True, leave=False)

    def run(scores: Scores, name: str, options: Mapping[str, Any]) -> Judged:
        try:
            return _judged(fleet, scores, name, options)
        finally:
            work.update(scores.models == len(fleet.membership))  # halves are looked at on the way

    right: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    with work:
        for setting in settings:
            verify(fleet, setting)
            scores, test = _scores(fleet, setting)
            right[setting.name] = _right(fleet, scores, test)
            result.rows.extend(judge.accuracy_rows(subject := _subject(setting), *right[setting.name]))
            found = assess(
                subject,
                scores,
                config.attacks,
                config.audits,
                ids=fleet.dataset.pool.ids,
                canaries=canaries,
                run=run,
                on_attack=lambda name, setting=setting: work.set_description(f"{name} on {setting.name}"),  # type: ignore[misc]
            )
            result.rows.extend(found.rows)
            result.exposed[setting.name] = found.exposed
            result.curves.append(plots.Roc(setting.name, found.curves, subject.curve, int((~fleet.membership).sum())))
    result.rows.append(_blind(fleet))
    for name, (*_, one) in right.items():
        others = {other: judge.accuracy_difference(one, another) for other, (*_, another) in right.items() if other != name}
        result.differences[name] = {other: [found.estimate, found.low, found.high] for other, found in others.items()}
    return result


def _subject(setting: Setting) -> Subject:
    ran, names = setting.mechanism, (setting.name, setting.defence, setting.epsilon, setting.delta)
    if not ran.private:
        return Subject(*names)
    return Subject(*names, accounting.epsilon(ran, setting.delta), accounting.trade_off(ran))


def _scores(fleet: Fleet, setting: Setting) -> tuple[Scores, np.ndarray]:
    """What the setting's models say about the pool, with all that its attacks need; and their logits on the test set."""
    pool, population, logits = fleet.dataset.pool, fleet.dataset.population, fleet.logits(setting)
    nobody = np.zeros((len(fleet.membership), len(population.labels)), dtype=bool)
    outside = Scores(logits["population"], population.labels, nobody, inputs=population.inputs)
    wanted = sorted({extra for name, options in fleet.config.attacks.items() for extra in needs(name, options)})
    more = extras(fleet, setting, wanted)
    scores = Scores(logits["pool"], pool.labels, fleet.membership, inputs=pool.inputs, population=outside, extras=more)
    return scores, logits["test"]


def _right(fleet: Fleet, scores: Scores, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert scores.logits is not None
    right = scores.logits.mean(axis=2).argmax(-1) == scores.labels
    return right, fleet.membership, test.mean(axis=2).argmax(-1) == fleet.dataset.test.labels


def _judged(fleet: Fleet, scores: Scores, name: str, options: Mapping[str, Any]) -> Judged:
    key = fingerprint(
        "attack", code_fingerprint("scores", "guesses", "attacks/*"), versions(), scores.digest, name, code_of(name), dict(options)
    )
    files = fleet.store.read("attack", key)
    if files is None:
        found = guesses.run(scores, name, options)
        files = {"scores.npy": to_npy(found.matrix)}
        if found.population is not None:
            files["population.npy"] = to_npy(found.population)
        fleet.store.write("attack", key, files)
    population = from_npy(files["population.npy"]) if "population.npy" in files else None
    return Judged(from_npy(files["scores.npy"]), None, population)


def _blind(fleet: Fleet) -> Row:
    pairs = fleet.membership[::2][:BLIND_SPLITS]  # the complement of a split is the same split
    pool = fleet.dataset.pool
    split = (fleet.data_digest, fleet.config.seed, len(pairs))
    key = fingerprint("blind", code_fingerprint("data", "canaries", "sampling", "attacks/blind"), versions(), *split)
    files = fleet.store.read("attack", key)
    if files is None:
        files = {"scores.npy": to_npy(np.stack([blind(pool.inputs, pool.labels, member) for member in pairs]))}
        fleet.store.write("attack", key, files)
    return judge.blind_row(from_npy(files["scores.npy"]), pairs)
