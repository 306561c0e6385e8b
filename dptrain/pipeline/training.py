"""The training stage of a sweep."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping

from dptrain.core.guard import stop_requests
from dptrain.core.types import NoiseSource
from dptrain.fleet import models as trained_models
from dptrain.fleet.executors.base import Interrupted
from dptrain.fleet.executors.registry import execute
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.spending import retrained, so_far, together
from dptrain.fleet.stacks import Assignment
from dptrain.pipeline.estimate import estimate, planned_account, text
from dptrain.pipeline.plan import Plan
from dptrain.pipeline.progress import Progress
from dptrain.privacy import ledger
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.charts import tensorboard
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
    folder = ready.config.folder
    missing = [len(trained_models.missing(fleet, setting)) for setting in ready.settings]
    total = sum(missing)
    if not total:
        return 0
    steps = sum(
        count * setting.mechanism.steps
        for count, setting in zip(missing, ready.settings, strict=True)
    )
    headers = {name: header(statement) for name, statement in statements.items()}
    jobs = [
        (setting, block)
        for setting in ready.settings
        for block in trained_models.blocks(fleet, setting)
    ]
    _warn_of_spending_again(ready, fleet)
    progress = Progress(steps, "step", show_progress)
    fleet.prepare()
    expected = estimate(fleet, ready.settings, statements)
    expected.require_fit(folder)
    if show_progress:
        progress.say(text(expected))
    live = tensorboard.Live(folder / "tensorboard")
    with progress, tensorboard.faults(), contextlib.closing(live), stop_requests() as stop:

        def on_event(event: Steps | OnCurve) -> None:
            if isinstance(event, OnCurve):
                spent = so_far(event.setting, int(event.point["step"] or 0))
                live.curve(event.setting, event.models, {**event.point, "epsilon": spent})
                return
            progress.update(event.models * event.steps)
            number = ready.settings.index(event.setting) + 1
            where = f"setting {number}/{len(ready.settings)} {event.setting.name}"
            progress.describe(f"{where}, model {int(progress.done / steps * total)}/{total}")

        execute(Assignment(fleet, jobs, headers, on_event, stop.is_set))
        if stop.is_set():  # asked for when the last model had just ended
            raise Interrupted
    return total


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
        after |= {
            f"{setting.name} {index} again": planned_account(fleet, setting, index)
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
