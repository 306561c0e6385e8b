"""What the models of a fleet spent, held against what was planned and against what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dptrain import ledger
from dptrain.checkpoint import Progress
from dptrain.fleet import Fleet
from dptrain.types import ConfigError, Setting


def verify(fleet: Fleet, setting: Setting) -> None:
    """Raise unless every model of the setting took the steps, under the plan, that the claim speaks of, and the ledger holds each of them."""
    plan, accounts = setting.mechanism, fleet.spent.accounts if setting.mechanism.private else {}
    for index in range(fleet.config.models_per_setting):
        ran = json.loads(fleet.stored(setting, index)["mechanism.json"])
        key = ran.pop("key", None)
        if ran != plan.to_json():
            raise RuntimeError(f"model {index} of {setting.name} ran another mechanism than planned")
        if plan.private and not (key in accounts and accounts[key].matches(plan)):
            reason = (
                f"the ledger in {fleet.ledger_folder} does not hold the steps of model {index} of {setting.name}: its epsilon is not known"
            )
            raise ConfigError("output", f"{reason}; restore it, or choose another folder")


def retrained(fleet: Fleet, settings: Sequence[Setting], spent: ledger.Snapshot) -> list[tuple[Setting, list[int]]]:
    """Models that the ledger says were trained before, the very same, and that are not there any more, nor in a checkpoint: they would spend
    again."""
    charged = {account.artefact for account in spent.accounts.values()}
    saved = [Progress.read(fleet.store, name) for name in fleet.store.file_keys("checkpoint")]
    going_on = {key for progress in saved if progress for key in progress.artefacts}
    found = []
    for setting in (setting for setting in settings if setting.mechanism.private):
        again = [index for index in fleet.missing(setting) if fleet.key(setting, index) in charged - going_on]
        found += [(setting, again)] if again else []
    return found
