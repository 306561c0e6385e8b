"""Training of one stack of a fleet's models, which resumes.

`begin`, `book` and `publish` read and write the folder of results; `advance` takes steps and
touches no file, so it runs on any machine. Until a model is finished, its secret key lies in the
checkpoint of its stack, so that a restart repeats the very same noise and releases nothing new; the
key goes with the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dptrain.core import streams
from dptrain.core.store import to_json, to_npy
from dptrain.core.types import Loss, NoiseSource, Setting, Unit
from dptrain.fleet import models as trained
from dptrain.fleet.executors.base import Emit, Interrupted, Place, Work
from dptrain.fleet.fleet import Fleet
from dptrain.privacy import ledger
from dptrain.training import inference
from dptrain.training.checkpoint import OnCurve, Point, Progress, Steps
from dptrain.training.state import State, keep_best
from dptrain.training.trainer import Charge, StepRecord, Trainer, TrainingData, train

CURVE_POINTS = 50

AfterStep = Callable[[Point | None], None]
"""Called after every whole step, with the point that it added to the curve; what it raises ends
training with the progress whole.
"""


@dataclass(frozen=True)
class Assignment:
    """What an executor is given: jobs (setting, block), a stack each; headers, by setting, go into
    the files of parameters; on_event hears of steps in this process; stop: whether to save and end.
    """

    fleet: Fleet
    jobs: Sequence[tuple[Setting, range]]
    headers: Mapping[str, str]
    on_event: Emit
    stop: Callable[[], bool]


def worker(fleet: Fleet, headers: Mapping[str, str], place: Place) -> Work:
    """The work of one place of this machine on jobs (setting, block), with `headers` by setting for
    the files of parameters.
    """
    here = replace(fleet, device=torch.device(place.device))

    def work(job: tuple[Setting, range], emit: Emit, stop: Callable[[], bool]) -> None:
        setting, block = job
        # A checkpoint may hold some of the missing models only.
        while absent := trained.missing(here, setting, block):
            name, progress = begin(here, setting, block, absent)
            emit(Steps(setting, len(progress.models), progress.state.step))
            _train_here(here, setting, name, progress, emit, stop)
            publish(here, setting, name, progress, headers[setting.name])

    return work


def secret_key(fleet: Fleet, setting: Setting, index: int) -> bytes:
    """The key of a model's batches and noise. A seeded one depends on all that shapes the model,
    since whoever has two models of one noise can subtract it.
    """
    if fleet.config.privacy.noise == NoiseSource.OS:
        return streams.os_key()
    return streams.seeded_key(fleet.config.seed, "noise", trained.key(fleet, setting, index))


def begin(
    fleet: Fleet, setting: Setting, block: Sequence[int], absent: list[int]
) -> tuple[str, Progress]:
    """The name of a stack's checkpoint, and the stack as that holds it, or at its start, with new
    keys for the models `absent` of the block.
    """
    name = trained.checkpoint(fleet, setting, block)
    progress = Progress.read(fleet.store, name) or Progress(
        absent,
        [trained.key(fleet, setting, index) for index in absent],
        State.start([fleet.initial(setting, index) for index in absent]),
        [secret_key(fleet, setting, index) for index in absent],
        [],
    )
    # Before any noise is drawn, so that a restart draws the same.
    progress.write(fleet.store, name)
    return name, progress


def book(fleet: Fleet, setting: Setting, name: str, progress: Progress) -> ledger.Ledger:
    """The page of the ledger of the stack whose checkpoint is `name`."""
    path = fleet.ledger_folder / f"{setting.name}-{name}.jsonl"
    return ledger.Ledger(
        path, setting.name, fleet.split, progress.models, progress.keys, progress.artefacts
    )


def _train_here(
    fleet: Fleet,
    setting: Setting,
    name: str,
    progress: Progress,
    emit: Emit,
    stop: Callable[[], bool],
) -> None:
    """Train a stack to its end beside its files, with a checkpoint now and then. Raises Interrupted
    where stop() is true, the work saved.
    """
    saved = time.monotonic()

    def after(point: Point | None) -> None:
        nonlocal saved
        emit(Steps(setting, len(progress.models), 1))
        if point is not None:
            emit(OnCurve(setting, tuple(progress.models), point))
        stopped = stop()
        if stopped or time.monotonic() - saved > fleet.config.training.checkpoint_seconds:
            page.sync()
            progress.write(fleet.store, name)
            saved = time.monotonic()
        if stopped:
            raise Interrupted

    with contextlib.closing(book(fleet, setting, name, progress)) as page:
        advance(fleet, setting, progress, setting.mechanism.steps, page.charge, after)
        page.sync()


def advance(
    fleet: Fleet,
    setting: Setting,
    progress: Progress,
    until: int,
    charge: Charge,
    after: AfterStep,
) -> None:
    """Take a stack from its step to step `until`, on the fleet's device. A function of its
    arguments: `progress` changes, and no file does.
    """
    progress.state, progress.ran = progress.state.to(fleet.device), None  # it says less by now
    model = fleet.module(setting).to(fleet.device)
    observer = _Observer(fleet, setting, model, progress)
    members, drawn = fleet.membership[progress.models], setting.mechanism.unit == Unit.USER
    data = TrainingData(
        fleet.tensors["pool"],
        torch.from_numpy(fleet.dataset.pool.labels).to(fleet.device),
        fleet.of_users(members) if drawn else members,
        observer.outside(),
        fleet.users if drawn else None,
        fleet.class_weights(setting),
    )
    placed = fleet.placement
    trainer = Trainer.of(
        model,
        setting,
        fleet.engine,
        progress.keys,
        data,
        placed.physical_batch,
        placed.products,
    )

    def on_step(state: State, record: StepRecord) -> None:
        progress.state = state
        after(observer.point(state, record))

    progress.state, ran = train(trainer, progress.state, on_step, charge, until)
    progress.ran = ran.to_json()


@dataclass(frozen=True)
class _Observer:
    """What is written down of a stack while it trains: its curve, and losses on its way."""

    fleet: Fleet
    setting: Setting
    model: nn.Module
    progress: Progress

    @property
    def _kind(self) -> Loss:
        return self.setting.recipe.loss

    def outside(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the population."""
        labels = torch.from_numpy(self.fleet.dataset.population.labels).to(self.fleet.device)
        return self.fleet.tensors["population"], labels

    def point(self, state: State, record: StepRecord) -> Point | None:
        """The point of the curve that a step adds, if it adds any."""
        steps = self.setting.mechanism.steps
        if state.step in checkpoints_of(steps, self.fleet.config.training.trajectory):
            self._add_to_trajectory(state)
        if state.step % math.ceil(steps / CURVE_POINTS) == 0 or state.step == steps:
            return self._add_to_curve(state, record)
        return None

    def _add_to_trajectory(self, state: State) -> None:
        pool, labels = self.fleet.tensors["pool"], self.fleet.dataset.pool.labels
        known = torch.from_numpy(labels)
        losses = inference.losses(self.model, state.released, pool, known, self._kind)
        self.progress.trajectory.append(losses)

    def _add_to_curve(self, state: State, record: StepRecord) -> Point:
        if self.setting.recipe.release.early_stopping:
            outside = inference.losses(self.model, state.parameters, *self.outside(), self._kind)
            losses = outside.mean(1)
            keep_best(state, torch.from_numpy(losses).to(self.fleet.device))
        logits = inference.logits(self.model, state.released, self.fleet.tensors["test"])
        labels = self.fleet.dataset.test.labels
        numbers = self._kind != Loss.CROSS_ENTROPY
        right = logits.argmax(-1) == labels
        total = torch.where(record.weights, record.losses, 0).sum()
        mean = float(total / record.weights.sum().clamp(min=1))
        point: Point = {
            "step": state.step,
            "loss": mean if math.isfinite(mean) else None,
            "test_accuracy": None if numbers else float(right.mean()),
            **self._of_norms(record.norms),
        }
        self.progress.curve.append(point)
        return point

    def _of_norms(self, norms: Float[Tensor, " n"]) -> Point:
        """The share of gradients that were clipped, and quantiles of their norms; a gradient that
        is not finite has an infinite norm. None where none was clipped, as in plain training.
        """
        names = {"gradient_norm_10": 0.1, "gradient_norm_50": 0.5, "gradient_norm_90": 0.9}
        known = norms[~norms.isnan()].cpu().double().numpy()
        if not known.size:
            return dict.fromkeys(["clipped", *names])
        quantiles = np.quantile(known, list(names.values()), method="inverted_cdf")
        share = float((known > self.setting.mechanism.clip).mean())
        return {
            "clipped": share,
            **{
                name: float(norm) if math.isfinite(norm) else None
                for name, norm in zip(names, quantiles, strict=True)
            },
        }


def publish(fleet: Fleet, setting: Setting, name: str, progress: Progress, header: str) -> None:
    """Write the artefact of every model of a finished stack, and delete its checkpoint. Raises
    SettingError where the models are no numbers any more.
    """
    if not progress.state.finite():
        fleet.store.delete_file("checkpoint", name)
        raise trained.diverged(setting)
    # So that a kill between the following files repeats none of the work.
    progress.write(fleet.store, name)
    released = progress.state.released
    constants = {
        key: value.cpu().clone().contiguous()
        for key, value in fleet.module(setting).named_buffers()
    }
    for row, key in enumerate(progress.artefacts):
        values = {each: value[row].contiguous().cpu() for each, value in released.items()}
        mechanism = {**(progress.ran or {}), "key": ledger.key_name(progress.keys[row])}
        files = {
            trained.PARAMETERS: trained.parameter_file(values | constants, header),
            "mechanism.json": to_json(mechanism),
            "curve.json": to_json(progress.curve),
        }
        if fleet.config.training.trajectory:
            losses = [losses[row] for losses in progress.trajectory]
            files["trajectory.npy"] = to_npy(np.stack(losses, axis=1))
        fleet.store.write("model", key, files)
    fleet.store.delete_file("checkpoint", name)


def checkpoints_of(steps: int, count: int) -> set[int]:
    """The steps, of `steps`, after which every example's loss is written down, `count` of them."""
    return {max(1, steps * (number + 1) // count) for number in range(count)}
