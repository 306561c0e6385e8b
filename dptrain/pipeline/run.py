"""From a list of epsilons to an attacked, charted sweep: plan -> data -> train -> score -> attack
-> report, one function a stage.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from dptrain import models
from dptrain.config.fields import require
from dptrain.config.keys import named
from dptrain.config.schema import Config
from dptrain.core import streams
from dptrain.core.guard import only_writer
from dptrain.core.store import Store, code_fingerprint, fingerprint, to_json, versions
from dptrain.core.types import Setting
from dptrain.data import splits
from dptrain.fleet import models as trained_models
from dptrain.fleet.blueprint import build
from dptrain.fleet.executors.base import exchange_folder
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.placement import Placement, choose, cores, memory
from dptrain.fleet.spending import together
from dptrain.models import validation
from dptrain.pipeline.estimate import Estimate, estimate
from dptrain.pipeline.evaluation import SweepEvaluation, evaluate_sweep
from dptrain.pipeline.outputs import Result, read_result, write_outputs
from dptrain.pipeline.plan import Plan, plan
from dptrain.pipeline.statements import evaluated
from dptrain.pipeline.training import train
from dptrain.privacy import ledger, prv
from dptrain.privacy.statement import (
    UNIT,
    Circumstances,
    Composition,
    PrivacyStatement,
    planned,
    with_prv,
)
from dptrain.report.statement import header


def sweep(config: Config, show_progress: bool = True, command: str = "") -> Result:
    """Run or resume a sweep; a finished one is read back. command: that asked for it, which its
    report shows. Raises ConfigError; Interrupted is raised at Ctrl-C or SIGTERM, with all work
    saved.
    """
    fix = "is of the command line; call dptrain.estimate, or leave it out"
    require(not config.dry_run, "dry_run", fix)
    with named():
        return _sweep(plan(config), show_progress, command)


def forecast(config: Config) -> Estimate:
    """What a sweep would train, spend and take. It trains nothing; of what it measures, the width
    of stacks lies in the folder afterwards. Raises ConfigError, also where the sweep cannot fit.
    """
    with named():
        ready = plan(config)
        with only_writer(config.folder):
            store = Store(config.folder / "store")
            around = circumstances(ready)
            statements = {setting.name: planned(setting, around) for setting in ready.settings}
            result = estimate(load(ready, store), ready.settings, statements, detailed=True)
        result.require_fit(config.folder)
    return result


def _sweep(ready: Plan, show_progress: bool, command: str) -> Result:
    folder = ready.config.folder
    store = Store(folder / "store")
    if (finished := read_result(folder, ready)) and not store.leftovers():
        _say(_opening(ready), show_progress)
        return finished
    with only_writer(folder):
        _say(_opening(ready), show_progress)
        store.sweep_temporaries()
        # By another process, between our look and our lock.
        if finished := read_result(folder, ready):
            return finished
        for note in ready.notes:
            _say(note, show_progress)
        fleet = load(ready, store)
        if copies := fleet.dataset.copies:
            where = "have an exact copy in pool, population or test"
            _say(f"{copies:,} pool examples {where}: attacks on them say little", show_progress)
        statements = claims(ready, store, circumstances(ready))
        count = train(ready, fleet, statements, show_progress)
        trained_models.forget_keys(fleet)
        # With the keys that a driver left there when it was killed.
        shutil.rmtree(exchange_folder(ready.config), ignore_errors=True)
        spent = ledger.read(fleet.ledger_folder)
        evaluation = evaluate_sweep(fleet, ready.settings, spent, show_progress)
        complete = finish(ready, evaluation, statements, spent)
        for setting in ready.settings:
            trained_models.relabel(fleet, setting, header(complete[setting.name]))
        record = write_outputs(ready, fleet, evaluation, complete, spent, command)
    return Result(folder, record, count)


def _say(line: str, show_progress: bool) -> None:
    if show_progress:
        print(line)


def _opening(ready: Plan) -> str:
    """The first line: the data, how much of it is used, and where the output goes."""
    data, config = ready.config.dataset, ready.config
    sizes = splits.sizes(data, ready.source.size)
    used = sum(sizes)
    parts = f"pool {sizes.pool:,}, population {sizes.population:,}, test {sizes.test:,}"
    if ready.source.users is not None:
        parts += f" values of {ready.source.user}"
        used = sum(map(len, splits.parts(data, config.seed, ready.source)))
    count = len(ready.settings)
    return (
        f"{data.name}: {used:,} of {ready.source.size:,} rows used ({parts}); "
        f"{count} setting{'s' * (count != 1)} x {config.models_per_setting} models; output in "
        f"{config.folder}"
    )


def load(ready: Plan, store: Store) -> Fleet:
    """Read the data, and place the fleet on this machine."""
    config = ready.config
    dataset = splits.load(
        ready.source, config.dataset, config.seed, ready.tokens, config.groups, config.attributes
    )
    refuse_mixing_on(dataset, config, {setting.model for setting in ready.settings})
    key = streams.seeded_key(config.seed, "membership")
    members = streams.memberships(config.models_per_setting, config.pool, key)
    if dataset.users is not None:  # a coin for each user
        members = members[:, dataset.users]
    placement = placed(ready, store)
    return Fleet(
        config, store, ready.engine, placement, ready.device, ready.architecture, dataset, members
    )


def refuse_mixing_on(
    dataset: splits.Dataset, config: Config, models: set[tuple[tuple[str, Any], ...]]
) -> None:
    """Raise ModelError for a model, with options of its setting, that mixes rows of the
    population.
    """
    rows = torch.from_numpy(dataset.population.inputs[: validation.PROBED])
    shape = dataset.pool.inputs.shape[1:]
    for options in models:
        model = build(config, shape, dataset.classes, 0, dict(options))
        validation.refuse_mixing(model, shape, rows)


def placed(ready: Plan, store: Store) -> Placement:
    """Chosen once a run, since the checkpoints of a stack serve a restart of the same width
    only.
    """
    config, training = ready.config, dataclasses.asdict(ready.config.training)
    machine = (
        str(ready.device),
        torch.cuda.device_count(),
        cores(),
        torch.get_num_threads(),
        memory(ready.device),
    )
    model = (config.model["name"], ready.architecture, ready.engine, ready.source.shape)
    code = code_fingerprint("fleet")
    key = fingerprint("placement", code, *machine, *model, training, config.models_per_setting)
    files = store.read("placement", key)
    if files is None:
        whole = build(config, ready.source.shape, ready.source.classes)
        shape = models.trained_shape(whole, ready.source.shape)
        chosen = choose(
            config, models.trained(whole), shape, ready.engine, ready.device, len(ready.settings)
        )
        files = {"placement.json": to_json(dataclasses.asdict(chosen))}
        store.write("placement", key, files)
    return Placement.of(json.loads(files["placement.json"]))


def circumstances(ready: Plan) -> Circumstances:
    """What the statements of a sweep say beside its settings."""
    return Circumstances(
        noise=ready.config.privacy.noise,
        preprocessing=ready.source.preprocessing,
        unit=ready.source.unit or UNIT,
        user=ready.source.user,
        grouped=ready.source.unit is not None,
        counted=ready.counted,
        supplied=ready.supplied,
        versions=versions(),
    )


def claims(ready: Plan, store: Store, around: Circumstances) -> dict[str, PrivacyStatement]:
    """What is claimed of each setting before it is trained. Other processes compute the second
    opinions beside our own accountant.
    """
    # Keys are made here: two threads that parse files at once break each other (Python 3.11).
    code = (code_fingerprint("privacy"), versions())
    keys = {
        setting.name: fingerprint("opinions", code, setting.mechanism.to_json(), setting.delta)
        for setting in ready.settings
        if setting.mechanism.private
    }
    asked = {keys[setting.name]: setting for setting in ready.settings if setting.name in keys}
    beside = ThreadPoolExecutor(max(1, cores() - 1))
    try:
        opinions = {
            key: beside.submit(second_opinion, store, key, setting)
            for key, setting in asked.items()
        }
        statements = {setting.name: planned(setting, around) for setting in ready.settings}
        for name, key in keys.items():
            statements[name] = with_prv(statements[name], opinions[key].result())
    finally:
        beside.shutdown(cancel_futures=True)
    return statements


def second_opinion(store: Store, key: str, setting: Setting) -> float | None:
    """Opacus's PRV epsilon for a setting; a number is stored, since it can take a minute. None is
    not: the process may have been stopped, or have had no time on a busy machine.
    """
    files = store.read("opinions", key)
    if files is not None:
        stored: float = json.loads(files["opinions.json"])
        return stored
    epsilon = prv.prv_epsilon(setting.mechanism, setting.delta)
    if epsilon is not None:
        store.write("opinions", key, {"opinions.json": to_json(epsilon)})
    return epsilon


def finish(
    ready: Plan,
    evaluation: SweepEvaluation,
    statements: Mapping[str, PrivacyStatement],
    spent: ledger.Snapshot,
) -> dict[str, PrivacyStatement]:
    """The statements with what is known only after the run: what was measured, what all models
    together spent, what was checked.
    """
    users = ready.source.users is not None
    epsilon = together(spent, ready.config.privacy.delta, users)
    composed = Composition(models=len(spent.accounts), epsilon=epsilon)
    configuration = fingerprint(ready.config.to_json())[:12]
    return {
        setting.name: evaluated(
            statements[setting.name],
            setting,
            evaluation.rows,
            composed,
            configuration,
            spent.digest[:12],
        )
        for setting in ready.settings
    }
