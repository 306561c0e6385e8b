"""From a list of epsilons to an attacked, charted sweep: plan -> data -> train -> score -> attack -> report, one function a stage."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.image import imread
from tqdm import tqdm

from dptrain import accounting, attacks, data, datasets, defences, ledger, models, opinions, plots, probe, report, sampling, tensorboard
from dptrain.augment import require_images
from dptrain.checkpoint import OnCurve, Steps
from dptrain.evaluate import Evaluation, evaluate
from dptrain.executor import Place
from dptrain.executor import run as run_jobs
from dptrain.fleet import Fleet
from dptrain.guard import only_writer, stop_requests
from dptrain.judge import Row
from dptrain.placement import Placement, choose, choose_device, choose_engine, cores, memory
from dptrain.probe import architecture, build
from dptrain.schema import Config
from dptrain.statement import UNIT, as_lines, checked, measured, refuted, rounded_up, statement
from dptrain.store import Store, code_fingerprint, digests, fingerprint, seal, to_json, unseal, versions, write_atomic
from dptrain.types import ConfigError, Setting

OUTPUTS = ("report.html", "table.md", "frontier.png", "frontier.svg", "roc.png", "roc.svg", "tensorboard")


PROBED = 8
"""Population examples that the probe looks at."""


@dataclass(frozen=True)
class Plan:
    """A sweep frozen before anything is trained; of the data it knows what is public."""

    config: Config
    source: data.Source
    settings: tuple[Setting, ...]
    engine: str
    device: torch.device
    architecture: str
    notes: tuple[str, ...]
    tokens: bool
    """Whether the model takes whole numbers only."""
    supplied: tuple[str, ...]
    """Weights that the builder of a model brings along."""

    @property
    def fingerprint(self) -> str:
        """Of everything that a result depends on: the configuration, all code, the libraries."""
        shaping = self.config.to_json()
        del shaping["output"]
        for name in ("width", "workers", "physical_batch", "device", "checkpoint_seconds"):
            del shaping["training"][name]
        foreign = [datasets.code_of(self.config.dataset.name), *(attacks.code_of(name) for name in self.config.attacks)]
        return fingerprint(
            "run", foreign, shaping, self.source.digest, self.engine, self.architecture, code_fingerprint("*", "attacks/*"), versions()
        )


@dataclass(frozen=True)
class Result:
    """A finished sweep: its folder, its rows, a statement for each setting, and the models trained by this very call."""

    folder: Path
    rows: tuple[Row, ...]
    statements: Mapping[str, Mapping[str, str]]
    trained: int

    def to_frame(self) -> pd.DataFrame:
        """A line for each number; the columns are those of judge.Row."""
        return pd.DataFrame([row.to_json() for row in self.rows])


def plan(config: Config) -> Plan:
    """Check everything that needs no data, calibrate the noise, choose engine and device. Raises ConfigError."""
    source = datasets.source(config.dataset, config.seed)
    data.parts(config.dataset, config.seed, source.size, source.usable)  # whether there are enough
    attacks.check(config.attacks)
    if "trajectory" in config.attacks and not config.training.trajectory:
        raise ConfigError("training.trajectory", "must be at least 1 for the attack trajectory; use 10, or leave that attack out")
    if config.attacks.get("label_only", {}).get("copies") == "augmented" and (len(source.shape) != 3 or min(source.shape[1:]) <= 4):
        raise ConfigError("attacks.label_only.copies", f"augmented copies are for images, and inputs are {list(source.shape)}; use noisy")
    model = build(config, source.shape, source.classes)
    probe.refuse_mixing(model, source.shape)
    tokens = probe.takes_tokens(model, source.shape)
    _refuse_tokens(config, tokens)
    probe.refuse_sampler(config.training.batch_size, config.public_n)
    settings, name = tuple(defences.settings(config)), str(config.model["name"])
    for setting in settings:
        if setting.recipe.augmentations:
            require_images(models.trained_shape(model, source.shape))
        if setting.model:
            probe.refuse_mixing(build(config, source.shape, source.classes, 0, dict(setting.model)), source.shape)
    engine, reason = choose_engine(config.training.engine, models.trained(model), models.trained_shape(model, source.shape))
    notes = (*source.notes, *((f"engine {engine}, one model at a time: {reason}",) if reason else ()))
    if engine != "stacked" and (other := next((setting for setting in settings if setting.recipe.regularised), None)):
        raise ConfigError("defence", f"{other.name} needs the stacked engine, and this model runs with {engine}; leave it out")
    return Plan(
        config,
        source,
        settings,
        engine,
        choose_device(config.training.device),
        architecture(model, source.shape, name),
        notes,
        tokens,
        () if models.is_ours(name) else tuple(probe.supplied(*(build(config, source.shape, source.classes, seed) for seed in (1, 2)))),
    )


def _refuse_tokens(config: Config, tokens: bool) -> None:
    """Raise ConfigError for what adds numbers to inputs that are looked up in a table."""
    looked_up = "needs inputs that are numbers, and this model looks them up in a table; leave it out"
    if tokens and config.dataset.canaries and config.dataset.canary in ("noise", "gradient"):
        raise ConfigError("dataset.canary", f"{config.dataset.canary} {looked_up}")
    for name, options in config.attacks.items():
        if tokens and any(extra.endswith("_logits") for extra in attacks.needs(name, options)):
            raise ConfigError(f"attacks.{name}", looked_up)
    if tokens and "mixup" in config.defence:
        raise ConfigError("defence.mixup", looked_up)


def sweep(config: Config, show_progress: bool = True) -> Result:
    """Run or resume a sweep; a finished one is read back. Interrupted is raised at Ctrl-C or SIGTERM, with all work saved."""
    ready = plan(config)
    folder = config.folder
    if finished := read_result(folder, ready):
        return finished
    with only_writer(folder):
        if finished := read_result(folder, ready):  # by another process, between our look and our lock
            return finished
        store = Store(folder / "store")
        store.sweep_temporaries()
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
    rows = torch.from_numpy(dataset.population.inputs[:PROBED])
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
    if show_progress:
        tqdm.write(f"{total} models to train, {fleet.placement}", file=sys.stderr)
    live = tensorboard.Live(folder / "tensorboard")
    with bar, contextlib.closing(live), stop_requests() as stop:

        def on_event(event: Steps | OnCurve) -> None:
            if isinstance(event, OnCurve):
                live.curve(event.setting, event.models, event.point)
                return
            bar.update(event.models * event.steps)
            number = ready.settings.index(event.setting) + 1
            done = f"setting {number}/{len(ready.settings)} {event.setting.name}, model {int(bar.n / all_steps)}/{total}"
            bar.set_description(done, refresh=False)

        run_jobs(jobs, functools.partial(fleet.at, headers), fleet.placement.places, on_event, stop.is_set)
    return total


def _together(spent: ledger.Snapshot, delta: float) -> float | None:
    """Epsilon of all models of a ledger at once; None where there are none."""
    total = ledger.total(list(spent.accounts.values()))
    return accounting.epsilon(accounting.composition(total), delta) if total else None


def _say_what_is_spent_again(ready: Plan, fleet: Fleet) -> None:
    """Before private models are trained a second time, say which, and what all models of the folder then come to."""
    again = fleet.retrained(ready.settings)
    if not again:
        return
    delta = ready.config.privacy.delta
    before = ledger.read(fleet.ledger_folder)
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


def write_outputs(ready: Plan, fleet: Fleet, found: Evaluation, statements: Mapping[str, Mapping[str, str]]) -> None:
    """Chart files, page, TensorBoard, and last metrics.json, whose fingerprint says that all of them are there."""
    folder, config, rows, curves = ready.config.folder, ready.config, found.rows, found.curves
    figures = {"frontier": plots.frontier(rows), "roc": plots.roc(curves)}
    png = {name: report.image(figure, "png") for name, figure in figures.items()}
    for name, figure in figures.items():
        write_atomic(folder / f"{name}.png", png[name])
        write_atomic(folder / f"{name}.svg", report.image(figure, "svg"))
    plain = config.to_json()
    page = report.page(
        config.name,
        rows,
        statements,
        {"Privacy and utility": png["frontier"], "ROC of every attack": png["roc"]},
        found.exposed,
        json.dumps(plain, indent=1),
        versions(),
    )
    write_atomic(folder / "report.html", page.encode())
    write_atomic(folder / "table.md", (report.table(*report.summary(rows)) + "\n").encode())
    lines = {name: as_lines(parts) for name, parts in statements.items()}
    training = {setting.name: fleet.curve(setting) for setting in ready.settings}
    panels = {curve.setting: _pixels(report.image(plots.roc([curve]), "png")) for curve in curves}
    tensorboard.rebuild(folder / "tensorboard", ready.settings, training, rows, lines, panels, _pixels(png["frontier"]))
    record = {
        "rows": [row.to_json() for row in rows],
        "exposed": found.exposed,
        "statements": statements,
        "config": plain,
        "versions": versions(),
        "ledger": fleet.spent.digest,
        "fingerprint": ready.fingerprint,
        "differences": found.differences,
        "outputs": digests(folder, OUTPUTS),
    }
    write_atomic(folder / "metrics.json", seal(record))


def _pixels(png: bytes) -> np.ndarray:
    return (imread(io.BytesIO(png))[..., :3] * 255).astype(np.uint8)


def read_result(folder: Path, ready: Plan) -> Result | None:
    """The finished sweep of this very plan in `folder`, or None."""
    try:
        record = unseal((folder / "metrics.json").read_bytes())
        if record.get("fingerprint") != ready.fingerprint or record.get("outputs") != digests(folder, OUTPUTS):
            return None
    except (OSError, ValueError):
        return None
    if record.get("ledger") != ledger.read(folder / "store" / "ledger").digest:  # what was spent since, or what was lost, must be told anew
        return None
    return Result(folder, tuple(Row(**row) for row in record["rows"]), record["statements"], 0)
