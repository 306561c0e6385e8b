"""The parts of which a model to give away is made: rows, plan, fleet of one, numbers, folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool
from scipy.special import log_softmax

from dptrain.attacks.scores import Scores
from dptrain.config.commands import WholeConfig
from dptrain.config.schema import MIN_CANARIES
from dptrain.core import streams
from dptrain.core.errors import DataError, ReleaseError
from dptrain.core.store import Store, fingerprint, seal, versions, write_atomic
from dptrain.core.types import ClassWeights, Decision, Rows, Setting
from dptrain.data import splits
from dptrain.data.canaries import CANARIES
from dptrain.data.splits import Dataset, Examples, Source
from dptrain.evaluation import utility
from dptrain.evaluation.evaluate import evaluate
from dptrain.evaluation.rows import Row
from dptrain.fleet import models as trained_models
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.spending import together
from dptrain.pipeline.evaluation import subject_of
from dptrain.pipeline.plan import Plan
from dptrain.pipeline.run import placed, refuse_mixing_on
from dptrain.pipeline.statements import evaluated
from dptrain.privacy import ledger
from dptrain.privacy.statement import Composition, PrivacyStatement
from dptrain.release.export import Exported, module_of, options_of, utility_of, write
from dptrain.report.statement import header

Whole = TypeVar("Whole", bound=WholeConfig)
MODEL, METRICS = "model", "metrics.json"
"""In the folder of a final model: what is given away, and what is not."""


@dataclass(frozen=True)
class Final:
    """A model that was trained to be given away. folder: of its training; model: what to give away;
    rows: its utility, and attacks on its canaries; trained: how many models this very call trained.
    """

    folder: Path
    model: Path
    setting: str
    statement: PrivacyStatement
    rows: tuple[Row, ...]
    trained: int


def whole_config(of_sweep: Plan, config: Whole) -> Whole:
    """The configuration of one model on all candidates, whose number is declared: noise and steps
    follow from it.
    """
    declared, canaries = of_sweep.config.dataset, config.dataset.canaries
    assert declared.known
    count = canaries + (declared.pool or 0)
    count += (declared.test or 0) * (config.rows != Rows.POOL)
    count += (declared.population or 0) * (config.rows == Rows.ALL)
    sizes = replace(declared, pool=count, canaries=canaries)
    return replace(config, dataset=sizes, models_per_setting=1)


def learnt_from(of_sweep: Plan, config: WholeConfig) -> Dataset:
    """All rows that are asked for as the pool, with the canaries before them. Raises DataError for
    canaries where no row is left to make them of.
    """
    parts = splits.load(of_sweep.source, of_sweep.config.dataset, config.seed, of_sweep.tokens)
    refuse_mixing_on(parts, config, {setting.model for setting in of_sweep.settings})
    learnt = [parts.pool]
    learnt += [parts.test] if config.rows != Rows.POOL else []
    learnt += [parts.population] if config.rows == Rows.ALL else []
    if count := config.dataset.canaries:
        learnt = [_canaries(parts, config, count), *learnt]
    whole = _together(learnt)
    return Dataset(
        whole, parts.population, parts.test, parts.classes, count, 0, parts.users, parts.test_users
    )


def _canaries(parts: Dataset, config: WholeConfig, count: int) -> Examples:
    """Made of rows that the model does not learn from: a canary made of a row of somebody's would
    be a second one of theirs. Raises DataError where there are too few.
    """
    if config.rows == Rows.ALL:
        fix = "are made of population rows, which it may not learn from then; use rows=pool"
        raise DataError(fix, "canaries")
    spare = parts.population.take(np.arange(min(count, len(parts.population.labels))))
    if len(spare.labels) < max(count, MIN_CANARIES):
        there = f"of which there are {len(parts.population.labels):,}"
        least = f"use 0, or {MIN_CANARIES} and more"
        raise DataError(f"are made of population rows, {there}; {least}", "canaries")
    rng = streams.generator(streams.seeded_key(config.seed, "release"), streams.Purpose.CANARY)
    make = CANARIES[config.dataset.canary]
    inputs, labels = make(spare.inputs, spare.labels, parts.classes, rng)
    return Examples(inputs.astype(spare.inputs.dtype), labels)


def unit_of(ready: Plan, config: WholeConfig) -> str:
    """What is protected of a final model, in the words of its statement."""
    where = {Rows.POOL: "the pool", Rows.POOL_AND_TEST: "pool or test set"}
    return ready.source.unit or f"one example of {where.get(config.rows, 'the data')}"


def require_outsiders(setting: Setting, config: WholeConfig, source: Source) -> None:
    """Raise ReleaseError for what needs a population that the model does not learn from, and for
    what is not known of users.
    """
    recipe = setting.recipe
    fitted = "numbers" in source.how or config.training.class_weights != ClassWeights.NONE
    if config.rows == Rows.ALL and setting.mechanism.private and fitted:
        raise ReleaseError(
            "what is fitted to the population, such as means of columns, is given away exactly, so "
            "no epsilon holds for its rows; use pool_and_test",
            "rows",
        )
    if config.dataset.unit is not None and config.rows != Rows.POOL:
        raise ReleaseError("sizes count users, and those of the pool alone are known", "rows")
    if config.dataset.unit is not None and config.dataset.canaries:
        raise ReleaseError("are single rows; of users use 0", "dataset.canaries")
    needed = {
        "early stopping": recipe.release.early_stopping,
        "adversarial regularisation": recipe.regularisation.adversary > 0,
        "decision=fitted": config.decision == Decision.FITTED,
    }
    for what, used in needed.items():
        if used and config.rows == Rows.ALL:
            raise ReleaseError(f"{what} needs the population; use pool_and_test", "rows")


def _together(parts: Sequence[Examples]) -> Examples:
    return Examples(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def fleet_of(ready: Plan, store: Store, dataset: Dataset) -> Fleet:
    """Of the one model: it learns from every row, and from each canary by a coin."""
    config = ready.config
    members: Bool[np.ndarray, "1 N"] = np.ones((1, dataset.pool.labels.size), dtype=bool)
    key = streams.seeded_key(config.seed, "release")
    coins = streams.generator(key, streams.Purpose.MEMBERSHIP).random(dataset.canaries) < 0.5
    members[0, : dataset.canaries] = coins
    return Fleet(
        config,
        store,
        ready.engine,
        placed(ready, store),
        ready.device,
        ready.architecture,
        dataset,
        members,
    )


def measured(fleet: Fleet, setting: Setting, config: WholeConfig) -> tuple[list[Row], float | None]:
    """Utility on rows that the model did not learn from, attacks on its canaries, and the threshold
    at which it decides, where that is fitted.
    """
    dataset = fleet.dataset
    subject = subject_of(setting)
    rows: list[Row] = []
    threshold = None
    if config.decision == Decision.FITTED:
        of_population = trained_models.part_logits(fleet, setting, 0, "population")
        seen = log_softmax(of_population.astype(np.float64), axis=-1)
        threshold = utility.fitted_threshold(config.utility, seen, dataset.population.labels)
    if config.rows == Rows.POOL:
        rows += utility_of(fleet, setting, 0, threshold)
    if count := dataset.canaries:
        made = trained_models.part_logits(fleet, setting, 0, "pool", count)
        scores = Scores(
            made[None, :, None], dataset.pool.labels[:count], fleet.membership[:, :count]
        )
        attacked = evaluate(subject, scores, {"loss": {}}, config.audits)
        rows += [replace(row, examples="canaries") for row in attacked.rows]
    return rows, threshold


def after_the_run(
    ready: Plan,
    statement: PrivacyStatement,
    setting: Setting,
    rows: Sequence[Row],
    spent: ledger.Snapshot,
) -> PrivacyStatement:
    """The statement with what the run has shown: with the sweep's models, should they be given away
    too, it composes.
    """
    accounts, run = dict(spent.accounts), getattr(ready.config, "run", None)
    if run is not None:
        accounts |= ledger.read(Path(run) / "store" / "ledger").accounts
    users = ready.source.users is not None
    epsilon = together(ledger.Snapshot(accounts, ""), ready.config.privacy.delta, users)
    composed = Composition(models=len(accounts), epsilon=epsilon)
    configuration = fingerprint(ready.config.to_json())[:12]
    return evaluated(statement, setting, rows, composed, configuration, spent.digest[:12])


def give_away(
    ready: Plan, fleet: Fleet, setting: Setting, statement: PrivacyStatement, spent: ledger.Snapshot
) -> tuple[PrivacyStatement, list[Row]]:
    """Measure the one model of a fleet, write its folder and its numbers. statement: as planned;
    spent: the ledger after the run. Returns the statement with what is known now, and the rows.
    """
    config = ready.config
    assert isinstance(config, WholeConfig)
    rows, threshold = measured(fleet, setting, config)
    complete = after_the_run(ready, statement, setting, rows, spent)
    trained_models.relabel(fleet, setting, header(complete))
    exported = Exported(
        title=f"{config.name}: {setting.name}",
        module=module_of(fleet, setting, 0),
        name=str(config.model["name"]),
        options=options_of(config.model, setting),
        source=ready.source,
        threshold=threshold,
        statement=complete,
        rows=[row for row in rows if row.attack is None],
    )
    write(config.folder / MODEL, exported)
    record = {
        "rows": [row.to_json() for row in rows],
        "privacy": {setting.name: complete.to_json()},
        "config": config.to_json(),
        "versions": versions(),
        "ledger": spent.digest,
    }
    write_atomic(config.folder / METRICS, seal(record))
    return complete, rows
