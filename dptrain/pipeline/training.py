"""The training stage of a sweep."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace

from dptrain.core.errors import FleetError, FolderError
from dptrain.core.guard import stop_requests
from dptrain.core.limits import require_memory
from dptrain.core.types import NoiseSource
from dptrain.fleet import models as trained_models
from dptrain.fleet.executors.base import Interrupted
from dptrain.fleet.executors.registry import execute
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.spending import retrained
from dptrain.pipeline.plan import Plan
from dptrain.pipeline.progress import Progress
from dptrain.privacy import ledger, pld
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report import tensorboard
from dptrain.report.statement import header, rounded_up
from dptrain.training.checkpoint import OnCurve, Steps


def train(
    ready: Plan,
    fleet: Fleet,
    statements: Mapping[str, PrivacyStatement],
    show_progress: bool,
) -> int:
    """Train what is missing of every setting; returns how many models that was. Raises FolderError
    and FleetError where disk or memory do not hold it.
    """
    folder, steps = ready.config.folder, ready.config.steps
    total = sum(len(trained_models.missing(fleet, setting)) for setting in ready.settings)
    if not total:
        return 0
    headers = {name: header(statement) for name, statement in statements.items()}
    jobs = [
        (setting, block)
        for setting in ready.settings
        for block in trained_models.blocks(fleet, setting)
    ]
    _warn_of_spending_again(ready, fleet)
    progress = Progress(total * steps, "step", show_progress)
    fleet.prepare()
    takes = _takes(ready, fleet, total)
    if show_progress:
        progress.say(f"{total} models to train, {fleet.placement}; {takes}")
    live = tensorboard.Live(folder / "tensorboard")
    with progress, tensorboard.faults(), contextlib.closing(live), stop_requests() as stop:

        def on_event(event: Steps | OnCurve) -> None:
            if isinstance(event, OnCurve):
                live.curve(event.setting, event.models, event.point)
                return
            progress.update(event.models * event.steps)
            number = ready.settings.index(event.setting) + 1
            where = f"setting {number}/{len(ready.settings)} {event.setting.name}"
            progress.describe(f"{where}, model {int(progress.done / steps)}/{total}")

        execute(fleet, jobs, headers, on_event, stop.is_set)
        if stop.is_set():  # asked for when the last model had just ended
            raise Interrupted
    return total


def _takes(ready: Plan, fleet: Fleet, total: int) -> str:
    """About how long the training takes, and the disk. Raises FolderError where the disk does not
    hold it, and FleetError where the memory does not.
    """
    config, dataset = ready.config, fleet.dataset
    state = fleet.module(ready.settings[0]).state_dict()
    parameters = sum(value.numel() for value in state.values())
    examples = sum(len(part.labels) for part in dataset.parts.values())
    logits = 4 * examples * dataset.classes
    require_memory(
        6 * logits * config.models_per_setting,  # float64, and a copy or two
        lambda message: FleetError(message, "models_per_setting"),
        "attacking one setting",
        "use fewer models, or a smaller pool",
    )
    disk = total * (4 * parameters + 2 * logits)
    free = shutil.disk_usage(config.folder).free
    if disk > free:
        wanted = f"{total:,} models take about {disk / 2**30:,.1f} GiB"
        there = f"{free / 2**30:,.1f} GiB are free at {config.folder}"
        raise FolderError(f"{wanted}, and {there}; choose another folder, or fewer models")
    seconds = fleet.placement.step_seconds
    time = f"about {max(1, round(total * config.steps * seconds)):,} s, " if seconds else ""
    return f"{time}{disk / 2**20:,.0f} MiB on disk"


def together(spent: ledger.Snapshot, delta: float) -> float | None:
    """Epsilon of all models of a ledger at once; None where there are none."""
    total = ledger.total(list(spent.accounts.values()))
    return pld.epsilon(pld.composition(total), delta) if total else None


def _warn_of_spending_again(ready: Plan, fleet: Fleet) -> None:
    """Before private models are trained a second time, say which, and what all models of the folder
    then come to.
    """
    if ready.config.privacy.noise == NoiseSource.SEEDED:
        return  # the very same noise again releases nothing new
    before = ledger.read(fleet.ledger_folder)
    again = retrained(fleet, ready.settings, before)
    if not again:
        return
    delta = ready.config.privacy.delta
    after = dict(before.accounts)
    for setting, indices in again:
        each = replace(setting.mechanism, steps=1)
        steps = dict.fromkeys(range(setting.mechanism.steps), each)
        after |= {
            f"{setting.name} {index} again": ledger.Account(setting.name, fleet.split, index, steps)
            for index in indices
        }
    spent, rises = (
        together(snapshot, delta) or 0.0 for snapshot in (before, ledger.Snapshot(after, ""))
    )
    which = "; ".join(
        f"{setting.name} {', '.join(map(str, indices))}" for setting, indices in again
    )
    print(
        f"dptrain: WARNING: models that were trained before are damaged or gone ({which}). They "
        f"are trained again now, with other noise: all models of {fleet.store.root.parent} "
        f"together come to epsilon {rounded_up(rises, 3)}, after {rounded_up(spent, 3)}. To spend "
        "nothing, stop here (Ctrl-C) and restore them from a backup.",
        file=sys.stderr,
    )
