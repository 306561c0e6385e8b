"""The evaluation of a sweep: scores of every setting to rows, through the store."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from dptrain.attacks import code_of, needs
from dptrain.attacks.leaks import blind
from dptrain.attacks.scores import Scores
from dptrain.config.schema import Config
from dptrain.core import limits
from dptrain.core.errors import Refusal
from dptrain.core.store import code_fingerprint, fingerprint, to_json, versions
from dptrain.core.types import Decision, Setting, Unit
from dptrain.data.splits import Dataset
from dptrain.evaluation import subgroups, thresholds, utility
from dptrain.evaluation.attack_rows import blind_row
from dptrain.evaluation.evaluate import evaluate, mean_by_user
from dptrain.evaluation.rows import Row, Subject
from dptrain.evaluation.subgroups import GroupRow, Resampled, UtilityByGroup
from dptrain.evaluation.thresholds import AttackScores
from dptrain.fleet import models as trained
from dptrain.fleet.executors.base import Emit, Place, Work
from dptrain.fleet.executors.processes import run
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.measurements import extras
from dptrain.fleet.placement import START_SECONDS, cores
from dptrain.fleet.spending import verify
from dptrain.pipeline import attribute_inference, regression
from dptrain.pipeline.attribute_inference import Attacked
from dptrain.pipeline.progress import Progress
from dptrain.privacy import ledger, pld
from dptrain.report.record import Roc, roc_of

BLIND_SPLITS = 8
"""Pairs of models whose split the blind baseline is run on: splits are alike, and each costs
seconds.
"""

SETTING_BYTES = 24
"""Of memory, for each logit of a setting: float64, and a copy or two."""


@dataclass(frozen=True)
class SweepEvaluation:
    """rows: every number; curves: the ROCs of each setting; exposed: setting to the record of
    `vulnerability`; differences: by utility and setting, [estimate, low, high] of its value less
    that of another setting, or of the constant prediction; thresholds: of each setting, the
    log-odds from which on each model decides for the second of two classes, where they are fitted;
    groups: numbers by subgroup; classes: accuracy by class.
    """

    rows: list[Row] = field(default_factory=list)
    curves: list[Roc] = field(default_factory=list)
    exposed: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    thresholds: dict[str, list[float | None]] = field(default_factory=dict)
    groups: list[GroupRow] = field(default_factory=list)
    classes: list[GroupRow] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a setting, by whichever process. utility: of its models, for differences;
    thresholds: at which they decide; by_group and risks: utility and risk by subgroup; by_class:
    accuracy by class; used: what it took of the store.
    """

    setting: str
    rows: list[Row]
    curve: Roc
    exposed: Any
    utility: utility.Resamples
    thresholds: list[float | None]
    by_group: Resampled
    by_class: Resampled
    risks: list[GroupRow]
    used: set[tuple[str, str]]


def evaluate_sweep(
    fleet: Fleet,
    settings: tuple[Setting, ...],
    spent: ledger.Snapshot,
    show_progress: bool = False,
) -> SweepEvaluation:
    """Every attack on every model of every setting, and the blind baseline. The settings after the
    first share the processors where that saves time. Raises LedgerError where the ledger does not
    hold what a setting claims.
    """
    for setting in settings:
        verify(fleet, setting, spent)
    # Trees grow outside of Python's lock, beside the attacks; each forest has two copies of the
    # inputs in 32 bits.
    fits = int(limits.SHARE * limits.memory() / (8 * max(1, fleet.dataset.pool.inputs.size)))
    beside = ThreadPoolExecutor(max(1, min(cores() - 1, fits)))
    try:
        last_row = _blind_row(fleet, beside)
        # NumPy's products are small here: their threads would wait for those of the trees.
        with threadpool_limits(1, "blas"):
            evaluated = _evaluate_settings(fleet, settings, show_progress)
        blind_baseline = last_row()
    finally:
        beside.shutdown(cancel_futures=True)
    in_order = [evaluated[setting.name] for setting in settings]
    test, classes = fleet.dataset.test.labels, fleet.dataset.classes
    known = fleet.dataset.population.labels
    numbers = regression.of(fleet.config)
    said = [
        utility.constant(known, test, classes)
        if numbers is None
        else utility.constant_number(numbers.units(known), numbers.units(test))
    ]
    counts = counts_of(fleet.dataset, test)
    constant = utility.resamples(said, fleet.dataset.test_users)
    return SweepEvaluation(
        [
            *(row for part in in_order for row in part.rows),
            *utility.constant_rows(constant, counts),
            blind_baseline,
        ],
        [part.curve for part in in_order],
        {part.setting: part.exposed for part in in_order},
        _differences({part.setting: part.utility for part in in_order}, constant),
        {part.setting: part.thresholds for part in in_order},
        _group_rows(fleet, in_order),
        _class_rows(fleet, in_order),
    )


def _group_rows(fleet: Fleet, evaluated: Sequence[Evaluated]) -> list[GroupRow]:
    """Of all settings; those after the baseline, plain SGD, are compared with it."""
    masks = _masks(fleet)[1]
    baseline = next((part.by_group for part in evaluated if part.setting == "none"), None)
    rows = []
    for part in evaluated:
        compared = None if part.setting == "none" else baseline
        labels, many = fleet.dataset.test.labels, _many(fleet)
        rows += subgroups.utility_rows(part.setting, part.by_group, compared, masks, labels, many)
        rows += part.risks
    return rows


def _class_rows(fleet: Fleet, evaluated: Sequence[Evaluated]) -> list[GroupRow]:
    """Accuracy by class of all settings, and less that of the baseline."""
    masks = _classes(fleet)
    baseline = next((part.by_class for part in evaluated if part.setting == "none"), None)
    labels, many = fleet.dataset.test.labels, 4 * len(masks)
    rows = []
    for part in evaluated:
        compared = None if part.setting == "none" else baseline
        rows += subgroups.utility_rows(part.setting, part.by_class, compared, masks, labels, many)
    return rows


def _classes(fleet: Fleet) -> subgroups.Masks:
    """The test examples of each class, by its name; none in a regression, or of many classes."""
    dataset = fleet.dataset
    if regression.of(fleet.config) is not None or dataset.classes > subgroups.MOST_GROUPS:
        return {}
    names = dataset.class_names or [str(number) for number in range(dataset.classes)]
    return {name: dataset.test.labels == number for number, name in enumerate(names)}


def _masks(fleet: Fleet) -> tuple[subgroups.Masks, subgroups.Masks]:
    """The groups of the units of the pool, canaries left out, and of the test set."""
    columns, users = fleet.dataset.groups, fleet.users
    made = np.arange(fleet.dataset.pool.labels.size) < fleet.dataset.canaries
    rows = np.arange(made.size) if users is None else users.rows[users.starts[:-1]]
    of_pool = subgroups.masks_of({name: texts[rows] for name, (texts, _) in columns.items()})
    of_test = subgroups.masks_of({name: texts for name, (_, texts) in columns.items()})
    return {name: mask & ~made[rows] for name, mask in of_pool.items()}, of_test


def _shown(fleet: Fleet) -> tuple[str, ...]:
    """Utilities that are given of each group."""
    chosen = fleet.config.utility
    return (chosen,) if utility.UTILITIES[chosen].regression else ("accuracy", chosen)


def _many(fleet: Fleet) -> int:
    """How many numbers of a setting are given of its groups, whose intervals hold at once."""
    # A utility has a value, a gap, a change and its excess; a risk a value and a gap.
    measures = 4 * len(set(_shown(fleet))) + 2 * len(fleet.config.attacks)
    names = {name for masks in _masks(fleet) for name in masks}
    return measures * len(names)


def _evaluate_settings(
    fleet: Fleet, settings: tuple[Setting, ...], show_progress: bool
) -> dict[str, Evaluated]:
    """By name of setting; the first here, to see how long it takes."""
    evaluated: dict[str, Evaluated] = {}
    with Progress(len(settings) * len(fleet.config.attacks), "attack", show_progress) as progress:

        def on_event(event: Evaluated | str | int) -> None:
            if isinstance(event, Evaluated):
                evaluated[event.setting] = event
                fleet.store.used |= event.used
            elif isinstance(event, str):
                progress.describe(event)
            else:
                progress.update(event)

        setup = partial(worker, fleet, attribute_inference.attacked(fleet))
        here = Place(str(fleet.device), torch.get_num_threads())
        first, rest = settings[:1], settings[1:]
        began = time.monotonic()
        run(first, setup, [here], on_event, _never)
        places = _places(fleet, time.monotonic() - began, len(rest)) or [here]
        run(rest, setup, places, on_event, _never, fleet.config.folder)
    return evaluated


def _never() -> bool:
    return False


def _places(fleet: Fleet, seconds: float, rest: int) -> list[Place]:
    """Where to evaluate the other settings when one has taken so long: a processor each, where that
    outweighs the start of processes and the memory holds it.
    """
    count = min(cores(), rest)
    examples = sum(len(part.labels) for part in fleet.dataset.parts.values())
    size = SETTING_BYTES * examples * fleet.dataset.classes * len(fleet.membership)
    fits = int(limits.SHARE * limits.memory() / max(1, size))
    count = min(count, fits) if fleet.device.type == "cpu" else 1
    saved = seconds * (rest - -(-rest // max(1, count)))
    return [Place("cpu", 1)] * count if saved > 2 * START_SECONDS else []


def worker(fleet: Fleet, columns: Mapping[str, Attacked], _place: Place) -> Work:
    """The work of one process on settings. columns: those that are attacked."""

    def work(setting: Setting, emit: Emit, _stop: Callable[[], bool]) -> None:
        emit(_evaluate_setting(fleet, setting, columns, emit))

    return work


def _differences(
    measured: Mapping[str, utility.Resamples], constant: utility.Resamples
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By utility, of each setting less each other, and less the constant prediction: [estimate,
    low, high].
    """
    others = {**measured, utility.CONSTANT: constant}
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, setting, other in itertools.product(utility.UTILITIES, measured, others):
        if other != setting and (it := utility.difference(name, measured[setting], others[other])):
            of_setting = result.setdefault(name, {}).setdefault(setting, {})
            of_setting[other] = [it.estimate, it.low, it.high]
    return result


def _evaluate_setting(
    fleet: Fleet, setting: Setting, columns: Mapping[str, Attacked], emit: Emit
) -> Evaluated:
    """Attack one setting, and the columns that are attacked of its rows. Emits the attack that
    begins, in words, and 1 for each that has ended.
    """
    config, dataset = fleet.config, fleet.dataset
    scores, test = _scores(fleet, setting)
    right: list[np.ndarray] = []
    thresholds: list[float | None] = []

    def models() -> Iterator[utility.Answers]:
        if numbers is not None:
            for of_model in test[:, :, 0]:
                said = answers(config, of_model, dataset.test.labels)
                by_group.add(said)
                yield said
            return
        for of_pool, of_test in _predictions(fleet, scores, test):
            right.append(of_pool.right)
            thresholds.append(of_test.threshold)
            by_group.add(of_test)
            by_class.add(of_test)
            yield of_test

    by_group = UtilityByGroup(_masks(fleet)[1], _shown(fleet), dataset.test_users)
    by_class = UtilityByGroup(_classes(fleet), ["accuracy"], dataset.test_users)
    numbers = regression.of(config)
    measured = utility.resamples(models(), dataset.test_users)
    counts = counts_of(dataset, dataset.test.labels)
    subject = subject_of(setting, dataset.users is not None)

    def run_attack(scores: Scores, name: str, options: Mapping[str, Any]) -> AttackScores:
        try:
            return _attack_scores(fleet, scores, name, options)
        finally:
            # Halves of the models are attacked on the way.
            emit(int(scores.models == len(fleet.membership)))

    evaluated = evaluate(
        subject,
        scores,
        config.attacks,
        config.audits,
        ids=dataset.pool.ids if dataset.names is None else dataset.names,
        canaries=np.arange(scores.labels.size) < dataset.canaries,
        run=run_attack,
        on_attack=lambda attack: emit(f"{attack} on {setting.name}"),
        users=fleet.users,
    )
    if columns:
        emit(f"attributes of {setting.name}")
    inferred = attribute_inference.rows_of(fleet, setting, subject, columns)
    rows = [
        *utility.utility_rows(subject, measured, counts, note=_decided(fleet)),
        *([utility.train_row(subject, np.stack(right), fleet.membership)] if right else []),
        *_with_refutations(fleet, setting, [*evaluated.rows, *inferred]),
    ]
    units = fleet.membership if fleet.users is None else fleet.of_users(fleet.membership)
    n_out = int((~units).sum())
    curve = roc_of(setting.name, evaluated.curves, subject.curve, n_out)
    return Evaluated(
        setting.name,
        rows,
        curve,
        evaluated.exposed,
        measured,
        thresholds,
        by_group.resampled(),
        by_class.resampled(),
        _risks(fleet, setting, scores) if dataset.groups else [],
        fleet.store.used,
    )


def _risks(fleet: Fleet, setting: Setting, scores: Scores) -> list[GroupRow]:
    """Every attack's AUC on each group of the pool; what it gave lies in the store already."""
    rows, masks, users = [], _masks(fleet)[0], fleet.users
    member = fleet.membership if users is None else fleet.of_users(fleet.membership)
    for name, options in fleet.config.attacks.items():
        try:
            matrix = _attack_scores(fleet, scores, name, options).matrix
        except Refusal as refusal:
            rows += subgroups.refused_rows(setting.name, name, masks, str(refusal))
            continue
        of_units = matrix if users is None else mean_by_user(matrix, users)
        rows += subgroups.risk_rows(setting.name, name, of_units, member, masks, _many(fleet))
    return rows


def _with_refutations(fleet: Fleet, setting: Setting, rows: Sequence[Row]) -> list[Row]:
    """The rows, and those by which an earlier run refuted what is claimed of the same models, which
    a run with other attacks, other options or fewer models must not take back. They count until the
    models are trained anew, or the code that measured and bounded them changes.
    """
    code = code_fingerprint("core", "data", "attacks", "privacy", "evaluation", "pipeline")
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


def subject_of(setting: Setting, users: bool = False) -> Subject:
    """A setting with what is proved of it. users: whether users are in a training set or not, of
    whom noise that was calibrated for single examples proves nothing.
    """
    ran, names = setting.mechanism, (setting.name, setting.defence, setting.epsilon, setting.delta)
    if ran.private and setting.group > 1:
        epsilon = pld.group_epsilon(ran, setting.delta, setting.group)
        return Subject(*names, epsilon, pld.claimed_trade_off(epsilon, setting.delta))
    if not ran.private or (users and ran.unit == Unit.EXAMPLE):
        return Subject(*names)
    return Subject(*names, pld.epsilon(ran, setting.delta), pld.trade_off(ran))


def _scores(fleet: Fleet, setting: Setting) -> tuple[Scores, np.ndarray]:
    """What the setting's models say about the pool, with all that its attacks need; and their
    logits on the test set.
    """
    pool, population = fleet.dataset.pool, fleet.dataset.population
    logits = trained.logits(fleet, setting)
    nobody = np.zeros((len(fleet.membership), len(population.labels)), dtype=bool)
    attacks = fleet.config.attacks.items()
    wanted = sorted({extra for name, options in attacks for extra in needs(name, options)})
    if (numbers := regression.of(fleet.config)) is not None:
        of_pool, of_population = numbers.losses(
            (logits["pool"], pool.labels), (logits["population"], population.labels)
        )
        nothing = np.zeros(pool.labels.size, dtype=np.int64)
        outside = Scores(
            None,
            np.zeros(population.labels.size, dtype=np.int64),
            nobody,
            given_loss=of_population,
            inputs=population.inputs,
        )
        scores = Scores(
            None,
            nothing,
            fleet.membership,
            given_loss=of_pool,
            inputs=pool.inputs,
            population=outside,
        )
        return scores, logits["test"]
    outside = Scores(logits["population"], population.labels, nobody, inputs=population.inputs)
    scores = Scores(
        logits["pool"],
        pool.labels,
        fleet.membership,
        inputs=pool.inputs,
        population=outside,
        extras=extras(fleet, setting, wanted),
    )
    return scores, logits["test"]


def _predictions(
    fleet: Fleet, scores: Scores, test: Float[np.ndarray, "M T Q C"]
) -> Iterator[tuple[utility.Predictions, utility.Predictions]]:
    """What each model says of the pool and of the test set; where that is wished it decides at the
    threshold that its own answers on the population ask for.
    """
    assert scores.logits is not None
    assert scores.population is not None
    assert scores.population.logits is not None
    data = fleet.dataset
    for of_pool, of_population, of_test in zip(
        scores.logits, scores.population.logits, test, strict=True
    ):
        threshold = None
        if fleet.config.decision == Decision.FITTED:
            seen = _log_posterior(of_population)
            threshold = utility.fitted_threshold(fleet.config.utility, seen, data.population.labels)
        yield (
            utility.Predictions.of(_log_posterior(of_pool), scores.labels, threshold),
            utility.Predictions.of(_log_posterior(of_test), data.test.labels, threshold),
        )


def answers(
    config: Config,
    said: Float[np.ndarray, "T C"],
    labels: Shaped[np.ndarray, " T"],
    threshold: float | None = None,
) -> utility.Answers:
    """What one model's outputs on some examples come to, by the task of a configuration."""
    if (numbers := regression.of(config)) is not None:
        return numbers.estimates(said[:, 0], labels)
    return utility.Predictions.of(_log_posterior(said[:, None]), labels, threshold)


def counts_of(dataset: Dataset, labels: Shaped[np.ndarray, " T"]) -> np.ndarray:
    """Examples of each class among some, or of all in a regression."""
    if labels.dtype.kind == "f":
        return np.array([labels.size])
    return np.bincount(labels, minlength=dataset.classes)


def _decided(fleet: Fleet) -> str:
    """How the models decide, where that is not for the highest posterior."""
    if fleet.config.decision == Decision.HIGHEST:
        return ""
    return (
        "each model decides at a threshold that is fitted on the population; they stand in "
        "metrics.json, and not in the files of parameters"
    )


def _log_posterior(logits: Float[np.ndarray, "N Q C"]) -> Float[np.ndarray, "N C"]:
    """From the mean logits over views, float64."""
    result: np.ndarray = log_softmax(logits.mean(axis=1, dtype=np.float64), axis=-1)
    return result


def _attack_scores(
    fleet: Fleet, scores: Scores, name: str, options: Mapping[str, Any]
) -> AttackScores:
    code = (code_fingerprint("core", "attacks", "evaluation"), versions(), code_of(name))
    key = fingerprint("attack", code, scores.digest, name, dict(options))
    files = fleet.store.arrays("attack", key)
    if files is None:
        attacked = thresholds.run(scores, name, options)
        files = {"scores.npy": attacked.matrix}
        if attacked.population is not None:
            files["population.npy"] = attacked.population
        fleet.store.write("attack", key, files)
    return AttackScores(files["scores.npy"], None, files.get("population.npy"))


def _blind_row(fleet: Fleet, beside: Executor) -> Callable[[], Row]:
    """Begins the blind baseline on threads of `beside`; the row is made when it is asked for."""
    pairs = fleet.membership[::2][:BLIND_SPLITS]  # the complement of a split is the same split
    pool = fleet.dataset.pool
    split = (fleet.data_digest, fleet.config.seed, len(pairs))
    key = fingerprint("blind", code_fingerprint("core", "attacks"), versions(), *split)
    files = fleet.store.arrays("attack", key)
    rows = np.arange(pool.labels.size)
    if fleet.users is not None:
        # One of each user: others of theirs look alike, and would tell their membership.
        rows, pairs = fleet.users.rows[fleet.users.starts[:-1]], fleet.of_users(pairs)
    guesses = [
        beside.submit(blind, pool.inputs[rows], pool.labels[rows], member, threads=1)
        for member in (pairs if files is None else ())
    ]

    def row() -> Row:
        scored = files
        if scored is None:
            scored = {"scores.npy": np.stack([guess.result() for guess in guesses])}
            fleet.store.write("attack", key, scored)
        return blind_row(scored["scores.npy"], pairs)

    return row
