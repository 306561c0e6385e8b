"""What a sweep would train, spend and take, before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dptrain.core import limits
from dptrain.core.errors import FleetError, FolderError
from dptrain.core.types import Setting
from dptrain.fleet import models as trained_models
from dptrain.fleet import spending
from dptrain.fleet.fleet import Fleet
from dptrain.fleet.stacks import secret_key
from dptrain.pipeline.evaluation import SETTING_BYTES
from dptrain.privacy import ledger
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report.statement import rounded_up
from dptrain.report.tables import table


@dataclass(frozen=True)
class SettingEstimate:
    """models: to train, of all that the setting has; epsilon: of one model, None without DP."""

    name: str
    models: int
    of: int
    steps: int
    noise_multiplier: float
    clip: float
    epsilon: float | None


@dataclass(frozen=True)
class Estimate:
    """epsilon: of all models that the folder would then have been charged for, at once;
    step_seconds: of one model, as measured here, and seconds: of all training on this machine or on
    one worker of a cluster, None where nothing was measured; device: where that is, cpu or cuda;
    memory and disk in bytes, with what is there; detailed: whether a reader wants all of it, since
    the run is long.
    """

    settings: tuple[SettingEstimate, ...]
    epsilon: float | None
    delta: float
    placement: str
    executor: str
    device: str
    step_seconds: float | None
    seconds: float | None
    memory: int
    memory_there: int
    disk: int
    disk_free: int
    detailed: bool

    @property
    def models(self) -> int:
        return sum(setting.models for setting in self.settings)

    @property
    def gpu_hours(self) -> float | None:
        """None on a CPU, and where nothing was measured."""
        return self.seconds / 3600 if self.seconds is not None and self.device == "cuda" else None

    def require_fit(self, folder: object) -> None:
        """Raise FleetError where the memory does not hold it, and FolderError where the disk does
        not.
        """
        limits.require_memory(
            self.memory,
            lambda message: FleetError(message, "models_per_setting"),
            "attacking one setting",
            "use fewer models, or a smaller pool",
        )
        if self.disk > self.disk_free:
            wanted = f"{self.models:,} models take about {self.disk / 2**30:,.1f} GiB"
            there = f"{self.disk_free / 2**30:,.1f} GiB are free at {folder}"
            raise FolderError(f"{wanted}, and {there}; choose another folder, or fewer models")


LONG_SECONDS = 600
"""Of training: before a longer run everything is printed that a dry run prints."""


def estimate(
    fleet: Fleet,
    settings: Sequence[Setting],
    statements: Mapping[str, PrivacyStatement],
    detailed: bool = False,
) -> Estimate:
    """Of what is missing of the settings of a sweep. detailed: with the epsilon of all models,
    which takes a second, also where the run is short.
    """
    config, dataset = fleet.config, fleet.dataset
    missing = {setting.name: trained_models.missing(fleet, setting) for setting in settings}
    total = sum(map(len, missing.values()))
    state = fleet.module(settings[0]).state_dict()
    parameters = sum(value.numel() for value in state.values())
    logits = sum(len(part.labels) for part in dataset.parts.values()) * dataset.classes
    each = fleet.placement.step_seconds
    seconds = None if each is None else total * config.steps * each
    detailed = detailed or (seconds or 0) > LONG_SECONDS
    return Estimate(
        settings=tuple(
            SettingEstimate(
                setting.name,
                len(missing[setting.name]),
                config.models_per_setting,
                setting.mechanism.steps,
                setting.mechanism.noise_multiplier,
                setting.mechanism.clip,
                statements[setting.name].epsilon,
            )
            for setting in settings
        ),
        epsilon=spending.together(
            _after(fleet, settings), config.privacy.delta, fleet.users is not None
        )
        if detailed
        else None,
        delta=config.privacy.delta,
        placement=str(fleet.placement),
        executor=config.executor.name,
        device=fleet.device.type,
        step_seconds=each,
        seconds=seconds,
        memory=SETTING_BYTES * logits * config.models_per_setting,
        memory_there=int(limits.SHARE * limits.memory()),
        disk=total * 4 * (parameters + 2 * logits),
        disk_free=shutil.disk_usage(config.folder).free,
        detailed=detailed,
    )


def _after(fleet: Fleet, settings: Sequence[Setting]) -> ledger.Snapshot:
    """The ledger as it would stand after the sweep: nothing that stands there is taken away."""
    accounts = dict(ledger.read(fleet.ledger_folder).accounts)
    private = [setting for setting in settings if setting.mechanism.private]
    going_on: set[str] = set()
    for setting, progress in spending.unfinished(fleet, private):
        going_on.update(progress.artefacts)
        for index, key in zip(progress.models, progress.keys, strict=True):
            accounts[ledger.key_name(key)] = planned_account(fleet, setting, index)
    for setting in private:
        for index in trained_models.missing(fleet, setting):
            if trained_models.key(fleet, setting, index) not in going_on:
                # A seeded key may stand there already: its noise is the very same.
                name = ledger.key_name(secret_key(fleet, setting, index))
                accounts[name] = planned_account(fleet, setting, index)
    return ledger.Snapshot(accounts, "")


def planned_account(fleet: Fleet, setting: Setting, index: int) -> ledger.Account:
    """What a model that is trained whole is charged for."""
    # As the ledger reads it back, whose last digit may differ from the plan's.
    noise = setting.mechanism.noise_std / setting.mechanism.clip
    each = replace(setting.mechanism, steps=1, noise_multiplier=noise)
    steps = dict.fromkeys(range(setting.mechanism.steps), each)
    return ledger.Account(setting.name, fleet.split, index, steps)


def text(expected: Estimate) -> str:
    """A sweep before it starts: a line, and the table where it is long."""
    seconds = expected.seconds
    takes = [] if seconds is None else [f"about {_duration(seconds)}"]
    takes.append(f"{expected.disk / 2**20:,.0f} MiB on disk")
    where = expected.placement if expected.executor == "local" else f"by {expected.executor}"
    lines = [f"{expected.models} models to train, {where}; {', '.join(takes)}"]
    return "\n".join([*lines, *_details(expected)] if expected.detailed else lines)


def _details(expected: Estimate) -> list[str]:
    """What each setting trains and spends, and what all takes."""
    head = ["setting", "models to train", "steps", "noise multiplier", "clip", "epsilon"]
    body = [
        [
            each.name,
            f"{each.models} of {each.of}",
            f"{each.steps:,}",
            "-" if each.epsilon is None else f"{each.noise_multiplier:.4g}",
            "-" if each.epsilon is None else f"{each.clip:g}",
            "no DP" if each.epsilon is None else rounded_up(each.epsilon, 2),
        ]
        for each in expected.settings
    ]
    lines = ["", table(head, body), ""]
    if expected.epsilon is not None:
        lines.append(
            f"All models of this folder at once: epsilon {rounded_up(expected.epsilon, 2)} "
            f"at delta {expected.delta:g}."
        )
    if expected.seconds is not None:
        elsewhere = "here" if expected.executor == "local" else "on one worker"
        lines.append(
            f"Training: about {_duration(expected.seconds)} {elsewhere}, "
            f"{expected.step_seconds:.2g} s a step of one model on this machine's "
            f"{expected.device}; attacks and report come after."
        )
    if expected.gpu_hours is not None:
        lines.append(f"GPU-hours: about {expected.gpu_hours:,.2f}.")
    memory, there, disk, free = (
        each / 2**30
        for each in (expected.memory, expected.memory_there, expected.disk, expected.disk_free)
    )
    lines.append(
        f"The attacks take {memory:,.2f} GiB of memory, and {there:,.1f} may be used; the models "
        f"take {disk:,.2f} GiB of disk, and {free:,.1f} are free."
    )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{max(1, round(seconds)):,} s"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
