"""`dptrain tune`: train candidates a random number of times and give the best model away, at an
epsilon that covers training and choice (Papernot and Steinke 2022; privacy.selection).

What the bound asks for: the law of the number of trials is fixed before the data are read; the
number is drawn once and lies in the store before anything is trained, so that no restart draws it
anew; each trial draws its candidate and its initial weights at random, independently of the others
and of its place among them; the score, and whether a trial failed, see the private rows through the
model alone; equal scores are told apart by the models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from dptrain.config.commands import TuneConfig
from dptrain.config.defences import DPSGD
from dptrain.config.keys import named
from dptrain.core import streams
from dptrain.core.errors import ReleaseError, SettingError, TargetError
from dptrain.core.guard import only_writer
from dptrain.core.store import Store, fingerprint, to_json, write_atomic
from dptrain.core.types import Decision, NoiseSource, Setting
from dptrain.evaluation import utility
from dptrain.fleet import models as trained_models
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.settings import private, without_noise
from dptrain.fleet.spending import verify
from dptrain.pipeline.evaluation import answers
from dptrain.pipeline.plan import Plan, plan
from dptrain.pipeline.progress import Progress
from dptrain.pipeline.run import circumstances, claims
from dptrain.pipeline.training import train as train_missing
from dptrain.privacy import ledger, selection
from dptrain.privacy.calibration import SHAPES
from dptrain.privacy.selection import Trials
from dptrain.privacy.statement import (
    Circumstances,
    PrivacyStatement,
    Released,
    Selection,
    planned,
    with_selection,
)
from dptrain.release.export import require_free
from dptrain.release.final import MODEL, Final, fleet_of, give_away, learnt_from, whole_config

DRAWN = "drawn"
"""Name of the record of a folder's trials."""


class Trial(NamedTuple):
    """candidate: its name; score: its utility on the population, None where training failed."""

    candidate: str
    score: float | None


@dataclass(frozen=True)
class Tuned:
    """final: the model that was chosen; trials: all of them, which are not given away; chosen: the
    place of the best among them; candidates: names of all.
    """

    final: Final
    trials: tuple[Trial, ...]
    chosen: int
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A candidate as it is planned, with its one setting."""

    name: str
    ready: Plan
    setting: Setting


@dataclass(frozen=True)
class _Attempt:
    """A trial: what it trains, and the fleet of its one model."""

    candidate: _Candidate
    ready: Plan
    fleet: Fleet

    @property
    def missing(self) -> bool:
        return bool(trained_models.missing(self.fleet, self.candidate.setting))

    @property
    def failed(self) -> bool:
        """Whether its training has failed, which is its outcome."""
        key = trained_models.key(self.fleet, self.candidate.setting, 0)
        return self.fleet.store.read_file("failed", key) is not None


def tune(configs: Mapping[str, TuneConfig], show_progress: bool = True) -> Tuned:
    """Train candidates, by name, and choose the best, or go on with it. Raises ConfigError;
    Interrupted is raised at Ctrl-C or SIGTERM, with all work saved.
    """
    with named():
        return _tune(configs, show_progress)


def _tune(configs: Mapping[str, TuneConfig], show_progress: bool) -> Tuned:
    config = next(iter(configs.values()))
    _require_alike(configs)
    trials = Trials(config.trials, SHAPES[config.trials_law])
    candidates = _planned(configs, trials)
    require_free(config.folder / MODEL)
    with only_writer(config.folder):
        store = Store(config.folder / "store")
        store.sweep_temporaries()
        attempts = _attempts(store, candidates, _drawn(store, candidates, trials, config), config)
        count = sum(attempt.missing and not attempt.failed for attempt in attempts)
        scores: list[float | None] = []
        claims_alone = {
            attempt.candidate.name: planned(attempt.candidate.setting, _around(attempt))
            for attempt in attempts
        }
        with Progress(len(attempts), "trial", show_progress) as progress:
            for attempt in attempts:
                progress.describe(attempt.candidate.name)
                scores.append(_trained(attempt, claims_alone[attempt.candidate.name], config))
                progress.update(1)
        chosen = _best(attempts, scores, config)
        best = attempts[chosen]
        spent = ledger.read(best.fleet.ledger_folder)
        for attempt, score in zip(attempts, scores, strict=True):
            if score is not None:
                verify(attempt.fleet, attempt.candidate.setting, spent)
        trained_models.forget_keys(best.fleet)
        statement = _claimed(best, candidates, store, trials)
        complete, rows = give_away(best.ready, best.fleet, best.candidate.setting, statement, spent)
        table = tuple(
            Trial(attempt.candidate.name, score)
            for attempt, score in zip(attempts, scores, strict=True)
        )
        names = tuple(candidate.name for candidate in candidates)
        record = {"chosen": chosen, "candidates": names, "trials": table}
        write_atomic(config.folder / "trials.json", to_json(record))
    name, folder = best.candidate.setting.name, config.folder
    final = Final(folder, folder / MODEL, name, complete, tuple(rows), count)
    return Tuned(final, table, chosen, names)


def _require_alike(configs: Mapping[str, TuneConfig]) -> None:
    """Raise ReleaseError for candidates that differ in more than how they train: their scores would
    not compare, or their data.
    """

    def shared(config: TuneConfig) -> dict[str, object]:
        plain = config.to_json()
        free = ("model", "training", "defence", "queries", "attacks", "audits", "executor")
        data = plain.pop("dataset")
        plain |= {f"dataset.{name}": value for name, value in data.items()}
        del plain["epsilons"]  # which follow from epsilon
        return {key: value for key, value in plain.items() if key not in free}

    first, *others = map(shared, configs.values())
    for other in others:
        for key, value in first.items():
            if other[key] != value:
                raise ReleaseError("must be the same for all candidates; give one value", key)


def _planned(configs: Mapping[str, TuneConfig], trials: Trials) -> list[_Candidate]:
    """Every candidate with so much noise that the best of the trials is within its epsilon. Raises
    TargetError where no noise reaches that.
    """
    plans, whole = [], []
    for config in configs.values():
        of_sweep = plan(config)
        plans.append(of_sweep)
        whole.append(whole_config(of_sweep, config))
    if len({each.tokens for each in plans}) > 1:
        raise ReleaseError("some candidates take whole numbers and others do not", "model")
    first = whole[0]
    assert first.epsilon is not None
    starts = [without_noise(config, _dpsgd(config)) for config in whole]
    try:
        noisy = selection.calibrate(starts, first.epsilon, first.privacy.delta, trials)
    except ValueError as error:
        fix = "ask for a larger epsilon, fewer trials or fewer epochs"
        raise TargetError(f"{error}; {fix}", "epsilon") from None
    candidates = []
    for name, of_sweep, config, mechanism in zip(configs, plans, whole, noisy, strict=True):
        assert config.epsilon is not None
        setting = private(config, _dpsgd(config), config.epsilon, mechanism)
        ready = replace(of_sweep, config=config, settings=(setting,))
        candidates.append(_Candidate(name, ready, setting))
    return candidates


def _dpsgd(config: TuneConfig) -> DPSGD:
    defence = config.defence["dpsgd"]
    assert isinstance(defence, DPSGD)
    return defence


def _drawn(
    store: Store, candidates: Sequence[_Candidate], trials: Trials, config: TuneConfig
) -> list[tuple[int, int]]:
    """The candidate and the seed of each trial, drawn once and for all: a second draw would be a
    choice that nothing prices. Both come from the law alone, so that nothing of a model tells the
    place of its trial. Raises ReleaseError where the law drew no trial, and where the folder holds
    the trials of another choice, or a record that cannot be read.
    """
    of = _choice(candidates, config)
    stored = store.read_file("trials", DRAWN)
    if stored is None and store.file_keys("trials"):
        raise ReleaseError(
            f"the record of the trials in {config.folder} is damaged, and to draw again is not "
            "covered; choose another folder, where it spends again",
            "output",
        )
    if stored is None:
        seeded = config.privacy.noise == NoiseSource.SEEDED
        secret = streams.seeded_key(config.seed, "trials", of) if seeded else streams.os_key()
        rng = np.random.default_rng(int.from_bytes(secret, "big"))
        count = trials.draw(rng)
        places = rng.integers(0, len(candidates), count).tolist()
        seeds = rng.integers(0, 2**63, count).tolist()
        stored = to_json({"of": of, "trials": list(zip(places, seeds, strict=True))})
        store.write_file("trials", DRAWN, stored)
    record = json.loads(stored)
    if record["of"] != of:
        raise ReleaseError(
            f"{config.folder} holds the trials of another choice; choose another folder, where "
            "this one spends again",
            "output",
        )
    if not record["trials"]:
        raise ReleaseError(
            "the law drew no trial, so no model is given away; that is part of the bound, which "
            "covers no second draw",
            "trials",
        )
    return [(place, seed) for place, seed in record["trials"]]


def _choice(candidates: Sequence[_Candidate], config: TuneConfig) -> str:
    """Digest of what is chosen among, and by what: data, law, score, and what shapes the models;
    not of machines and folders, which may change before a restart.
    """
    shaping = [
        [dict(each.ready.config.model), each.ready.architecture, each.setting.shaping()]
        for each in candidates
    ]
    law = [config.trials, config.trials_law, config.utility, config.decision, config.seed]
    return fingerprint("trials", candidates[0].ready.source.digest, law, shaping)


def _attempts(
    store: Store,
    candidates: Sequence[_Candidate],
    drawn: Sequence[tuple[int, int]],
    config: TuneConfig,
) -> list[_Attempt]:
    """The trials. The seed of each is its own: that of its initial weights, and of the name of its
    split in the ledger, where what the trials spend adds up.
    """
    dataset = learnt_from(candidates[0].ready, config)
    attempts = []
    for place, seed in drawn:
        candidate = candidates[place]
        ready = replace(candidate.ready, config=replace(candidate.ready.config, seed=seed))
        attempts.append(_Attempt(candidate, ready, fleet_of(ready, store, dataset)))
    return attempts


def _around(attempt: _Attempt) -> Circumstances:
    config = attempt.ready.config
    assert isinstance(config, TuneConfig)
    around = circumstances(attempt.ready)
    return replace(around, released=Released.FINAL_MODEL, rows=config.rows)


def _trained(attempt: _Attempt, statement: PrivacyStatement, config: TuneConfig) -> float | None:
    """Train a trial, if need be, and score it; None where its training fails, which is its outcome:
    it is not tried again.
    """
    fleet, setting = attempt.fleet, attempt.candidate.setting
    if attempt.failed:
        return None
    try:
        train_missing(attempt.ready, fleet, {setting.name: statement}, False)
    except SettingError:  # of its parameters alone
        key = trained_models.key(fleet, setting, 0)
        fleet.store.write_file("failed", key, b"diverged")
        return None
    logits = trained_models.part_logits(fleet, setting, 0, "population")
    if not np.isfinite(logits).all():
        return None
    labels = fleet.dataset.population.labels
    threshold = None
    if config.decision == Decision.FITTED:
        posterior = log_softmax(logits.astype(np.float64), axis=-1)
        threshold = utility.fitted_threshold(config.utility, posterior, labels)
    said = answers(config, logits, labels, threshold)
    [score] = utility.UTILITIES[config.utility].of(said)(np.ones((1, labels.size)))
    return float(score) if np.isfinite(score) else None


def _best(attempts: Sequence[_Attempt], scores: Sequence[float | None], config: TuneConfig) -> int:
    """The place of the best score; of equal ones that of the model whose digest is least, so that
    the order of the trials plays no part. Raises ReleaseError where every training failed.
    """
    sign = 1 if utility.UTILITIES[config.utility].higher else -1
    ranked = [
        (-sign * score, trained_models.digest(attempt.fleet, attempt.candidate.setting, 0), place)
        for place, (attempt, score) in enumerate(zip(attempts, scores, strict=True))
        if score is not None
    ]
    if not ranked:
        raise ReleaseError(
            "no trial has a score: each diverged, or the population has too few classes for the "
            "utility; lower the learning rates, or give another utility",
            "utility",
        )
    return min(ranked)[2]


def _claimed(
    best: _Attempt, candidates: Sequence[_Candidate], store: Store, trials: Trials
) -> PrivacyStatement:
    """What is claimed of the model that was chosen."""
    ready, setting = best.ready, best.candidate.setting
    config = ready.config
    assert isinstance(config, TuneConfig)
    alone = claims(ready, store, _around(best))[setting.name]
    assert alone.epsilon is not None
    mechanisms = [each.setting.mechanism for each in candidates]
    choice = Selection(
        trials=config.trials,
        law=str(config.trials_law),
        candidates=len(candidates),
        utility=utility.UTILITIES[config.utility].title,
        alone=alone.epsilon,
        profile=selection.by_profile(mechanisms, setting.delta, trials),
        renyi=selection.by_renyi(mechanisms, setting.delta, trials),
    )
    return with_selection(alone, choice)
