"""From a list of epsilons to an attacked, charted sweep: plan -> data -> train -> score -> attack -> report, one function a stage."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm import tqdm

from dptrain import accounting, data, ledger, models, opinions, probe, sampling, tensorboard
from dptrain.blueprint import build
from dptrain.checkpoint import OnCurve, Steps
from dptrain.evaluate import Evaluation, evaluate
from dptrain.executor import Place
from dptrain.executor import run as run_jobs
from dptrain.fleet import Fleet
from dptrain.guard import only_writer, stop_requests
from dptrain.limits import require_memory
from dptrain.outputs import Result, read_result, write_outputs
from dptrain.placement import Placement, choose, cores, memory
from dptrain.plan import Plan, plan
from dptrain.schema import Config
from dptrain.spending import retrained
from dptrain.statement import UNIT, as_lines, checked, measured, refuted, rounded_up, statement
from dptrain.store import Store, code_fingerprint, fingerprint, to_json, versions
from dptrain.types import ConfigError, Setting


def sweep(config: Config, show_progress: bool = True) -> Result:
    """Run or resume a sweep; a finished one is read back. Interrupted is raised at Ctrl-C or SIGTERM, with all work saved."""
    ready = plan(config)
    folder = config.folder
    store = Store(folder / "store")
    if (finished := read_result(folder, ready)) and not store.leftovers():
        return finished
    with only_writer(folder):
        store.sweep_temporaries()
        if finished := read_result(folder, ready):  # by another process, between our look and our lock
            return finished
        for note in ready.notes if show_progress else ():
            print(note)
        fleet = load(ready, store)
        prv = {setting.name: second_opinion(store, setting) for setting in ready.settings if setting.mechanism.private}
        if show_progress and (copies := fleet.dataset.copies):
            print(f"{copies:,} pool examples have an exact copy in pool, population or test: attacks on them say little")
        unit = ready.source.unit or UNIT
        statements = {
            setting.name: statement(
                setting,
                config.privacy,
                ready.source.preprocessing,
                prv.get(setting.name),
                unit,
                ready.supplied,
                ready.source.unit is not None,
            )
            for setting in ready.settings
        }
        trained = train(ready, fleet, statements, folder, show_progress)
        fleet.forget_keys()
        found = evaluate(fleet, ready.settings, show_progress)
        complete = finish(ready, fleet, found, statements)
        write_outputs(ready, fleet, found, complete)
    return Result(folder, tuple(found.rows), complete, trained)


def load(ready: Plan, store: Store) -> Fleet:
    config = ready.config
    dataset = data.load(ready.source, config.dataset, config.seed, ready.tokens)
    rows = torch.from_numpy(dataset.population.inputs[: probe.PROBED])
    for setting in {setting.model: setting for setting in ready.settings}.values():
        shape = dataset.pool.inputs.shape[1:]
        probe.refuse_mixing(build(config, shape, dataset.classes, 0, dict(setting.model)), shape, rows)
    key = sampling.seeded_key(config.seed, "membership")
    members = sampling.memberships(config.models_per_setting, config.dataset.pool, key)
    placement = _placement(ready, store)
    return Fleet(config, store, ready.engine, placement, ready.device, ready.architecture, dataset, members)


def _placement(ready: Plan, store: Store) -> Placement:
    """Chosen once a run, since the checkpoints of a stack serve a restart of the same width only."""
    config, training = ready.config, dataclasses.asdict(ready.config.training)
    machine = (str(ready.device), torch.cuda.device_count(), cores(), torch.get_num_threads(), memory(ready.device))
    model = (config.model["name"], ready.architecture, ready.engine, ready.source.shape)
    key = fingerprint("placement", code_fingerprint("placement"), *machine, *model, training, config.models_per_setting)
    files = store.read("placement", key)
    if files is None:
        whole = build(config, ready.source.shape, ready.source.classes)
        shape = models.trained_shape(whole, ready.source.shape)
        chosen = choose(config, models.trained(whole), shape, ready.engine, ready.device, len(ready.settings))
        files = {"placement.json": to_json(dataclasses.asdict(chosen))}
        store.write("placement", key, files)
    record = json.loads(files["placement.json"])
    return Placement(**{**record, "places": tuple(Place(**place) for place in record["places"])})


def second_opinion(store: Store, setting: Setting) -> float | None:
    """Opacus's PRV epsilon for a setting; stored, since it can take a minute."""
    key = fingerprint("opinions", code_fingerprint("opinions"), versions(), setting.mechanism.to_json(), setting.delta)
    files = store.read("opinions", key)
    if files is None:
        files = {"opinions.json": to_json(opinions.prv_epsilon(setting.mechanism, setting.delta))}
        store.write("opinions", key, files)
    return json.loads(files["opinions.json"])


def train(ready: Plan, fleet: Fleet, statements: Mapping[str, Mapping[str, str]], folder: Path, show_progress: bool) -> int:
    """Train what is missing of every setting; returns how many models that was."""
    absent = {setting.name: len(fleet.missing(setting)) for setting in ready.settings}
    total, all_steps = sum(absent.values()), ready.config.steps
    if not total:
        return 0
    headers = {setting.name: "\n".join(as_lines(statements[setting.name])) for setting in ready.settings}
    jobs = [(setting, block) for setting in ready.settings for block in fleet.blocks(setting)]
    _say_what_is_spent_again(ready, fleet)
    bar = tqdm(total=total * all_steps, unit="step", disable=not show_progress, unit_scale=True, dynamic_ncols=True, mininterval=0.5)
    fleet.prepare()
    takes = _takes(ready, fleet, total)
    if show_progress:
        tqdm.write(f"{total} models to train, {fleet.placement}; {takes}", file=sys.stderr)
    live = tensorboard.Live(folder / "tensorboard")
    with bar, tensorboard.faults(), contextlib.closing(live), stop_requests() as stop:

        def on_event(event: Steps | OnCurve) -> None:
            if isinstance(event, OnCurve):
                live.curve(event.setting, event.models, event.point)
                return
            bar.update(event.models * event.steps)
            number = ready.settings.index(event.setting) + 1
            done = f"setting {number}/{len(ready.settings)} {event.setting.name}, model {int(bar.n / all_steps)}/{total}"
            bar.set_description(done, refresh=False)

        run_jobs(jobs, functools.partial(fleet.at, headers), fleet.placement.places, on_event, stop.is_set, folder)
    return total


def _takes(ready: Plan, fleet: Fleet, total: int) -> str:
    """About how long the training takes, and the disk. Raises ConfigError where the disk or the memory does not hold it."""
    config, dataset = ready.config, fleet.dataset
    parameters = sum(value.numel() for value in fleet.module(ready.settings[0]).state_dict().values())
    examples = sum(len(part.labels) for part in dataset.parts.values())
    said = 4 * examples * dataset.classes
    judged = 6 * said * config.models_per_setting  # float64, and a copy or two
    require_memory(judged, "models_per_setting", "attacking one setting", "use fewer models, or a smaller pool")
    disk = total * (4 * parameters + 2 * said)
    free = shutil.disk_usage(config.folder).free
    if disk > free:
        message = f"{total:,} models take about {disk / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free at {config.folder}"
        raise ConfigError("output", f"{message}; choose another folder, or fewer models")
    seconds = fleet.placement.step_seconds
    time = f"about {max(1, round(total * config.steps * seconds)):,} s, " if seconds else ""
    return f"{time}{disk / 2**20:,.0f} MiB on disk"


def _together(spent: ledger.Snapshot, delta: float) -> float | None:
    """Epsilon of all models of a ledger at once; None where there are none."""
    total = ledger.total(list(spent.accounts.values()))
    return accounting.epsilon(accounting.composition(total), delta) if total else None


def _say_what_is_spent_again(ready: Plan, fleet: Fleet) -> None:
    """Before private models are trained a second time, say which, and what all models of the folder then come to."""
    if ready.config.privacy.noise == "seeded":  # the very same noise again releases nothing new
        return
    before = ledger.read(fleet.ledger_folder)
    again = retrained(fleet, ready.settings, before)
    if not again:
        return
    delta = ready.config.privacy.delta
    after = dict(before.accounts)
    for setting, indices in again:
        steps = dict.fromkeys(range(setting.mechanism.steps), dataclasses.replace(setting.mechanism, steps=1))
        after |= {f"{setting.name} {index} again": ledger.Account(setting.name, fleet.split, index, steps) for index in indices}
    rises = [_together(snapshot, delta) or 0.0 for snapshot in (before, ledger.Snapshot(after, ""))]
    which = "; ".join(f"{setting.name} {', '.join(map(str, indices))}" for setting, indices in again)
    print(
        f"dptrain: WARNING: models that were trained before are damaged or gone ({which}). They are trained again now, with other noise: "
        f"all models of {fleet.store.root.parent} together come to epsilon {rounded_up(rises[1], 3)}, after {rounded_up(rises[0], 3)}. "
        "To spend nothing, stop here (Ctrl-C) and restore them from a backup.",
        file=sys.stderr,
    )


def finish(ready: Plan, fleet: Fleet, found: Evaluation, statements: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """The statements with what is known only after the run: what was measured, what all models together spent, what was checked."""
    together = _together(fleet.spent, ready.config.privacy.delta)
    record = f"configuration {fingerprint(ready.config.to_json())[:12]}, ledger {fleet.spent.digest[:12]}"
    finished: dict[str, Mapping[str, str]] = {}
    for setting in ready.settings:
        private = setting.mechanism.private
        told = checked(found.rows, setting, together, len(fleet.spent.accounts), record) if private else measured(setting.name, found.rows)
        finished[setting.name] = refuted({**statements[setting.name], **told}, setting.name, found.rows)
    return finished
