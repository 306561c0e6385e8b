"""What the models of a fleet spent, held against what was planned and against what is there."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from dptrain.core.errors import LedgerError
from dptrain.core.types import Mechanism, Setting, Unit
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import CURVE_POINTS
from dptrain.privacy import ledger, pld
from dptrain.training.checkpoint import Progress

EVERY = 5
"""Of the points of a training curve each fifth has its epsilon, which takes tens of milliseconds.
"""


def verify(fleet: Fleet, setting: Setting, spent: ledger.Snapshot) -> None:
    """Raise unless every model of the setting took the steps, under the plan, that the claim speaks
    of, and the ledger holds each of them.
    """
    plan, accounts = setting.mechanism, spent.accounts
    for index in range(fleet.config.models_per_setting):
        ran = json.loads(trained.stored(fleet, setting, index)["mechanism.json"])
        key = ran.pop("key", None)
        if ran != plan.to_json():
            raise RuntimeError(
                f"model {index} of {setting.name} ran another mechanism than planned"
            )
        if plan.private and not (key in accounts and accounts[key].matches(plan)):
            reason = (
                f"the ledger in {fleet.ledger_folder} does not hold the steps of model "
                f"{index} of {setting.name}: its epsilon is not known"
            )
            raise LedgerError(f"{reason}; restore it, or choose another folder")


def so_far(setting: Setting, step: int) -> float | None:
    """Epsilon that a model of a setting has spent after so many steps; None without privacy, and
    between the steps at which it is computed.
    """
    ran = setting.mechanism
    every = EVERY * math.ceil(ran.steps / CURVE_POINTS)
    if not ran.private or not (step % every == 0 or step == ran.steps):
        return None
    return _epsilon(replace(ran, steps=step), setting.delta, setting.group)


@lru_cache(maxsize=1024)
def _epsilon(ran: Mechanism, delta: float, group: int) -> float:
    return pld.group_epsilon(ran, delta, group) if group > 1 else pld.epsilon(ran, delta)


def together(spent: ledger.Snapshot, delta: float, users: bool = False) -> float | None:
    """Epsilon of all models of a ledger at once, for one unit of theirs; None where there are none,
    and where they protect different units. users: whether users are in a training set or not, of
    whom mechanisms that draw rows say nothing.
    """
    units = {used.unit for each in spent.accounts.values() for used in each.steps.values()}
    if len(units) > 1 or (users and Unit.EXAMPLE in units):
        return None
    total = ledger.total(list(spent.accounts.values()))
    return pld.epsilon(pld.composition(total), delta) if total else None


def unfinished(fleet: Fleet, settings: Sequence[Setting]) -> list[tuple[Setting, Progress]]:
    """Stacks in checkpoints, which go on with their very own noise. A checkpoint serves a stack of
    the very same models only.
    """
    return [
        (setting, progress)
        for setting in settings
        for block in trained.blocks(fleet, setting)
        if (progress := Progress.read(fleet.store, trained.checkpoint(fleet, setting, block)))
    ]


def retrained(
    fleet: Fleet, settings: Sequence[Setting], spent: ledger.Snapshot
) -> list[tuple[Setting, list[int]]]:
    """Models that the ledger says were trained before, the very same, and that are not there any
    more, nor in a checkpoint: they would spend again.
    """
    charged = {account.artefact for account in spent.accounts.values()}
    stacks = unfinished(fleet, settings)
    going_on = {artefact for _, progress in stacks for artefact in progress.artefacts}
    again_by_setting = []
    for setting in (setting for setting in settings if setting.mechanism.private):
        again = [
            index
            for index in trained.missing(fleet, setting)
            if trained.key(fleet, setting, index) in charged - going_on
        ]
        again_by_setting += [(setting, again)] if again else []
    return again_by_setting
