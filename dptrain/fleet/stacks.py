"""Training of one stack of a fleet's models, which resumes.

Until a model is finished, its secret key lies in the checkpoint of its stack, so that a restart
repeats the very same noise and releases nothing new; the key goes with the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dptrain.core import streams
from dptrain.core.store import to_json, to_npy
from dptrain.core.types import Mechanism, NoiseSource, Setting
from dptrain.fleet import models as trained
from dptrain.fleet.executor import Emit, Interrupted, Place, Work
from dptrain.fleet.fleet import Fleet
from dptrain.privacy import ledger
from dptrain.training import inference
from dptrain.training.checkpoint import OnCurve, Point, Progress, Steps
from dptrain.training.state import State, keep_best
from dptrain.training.trainer import StepRecord, Trainer, TrainingData, train

CURVE_POINTS = 50


def worker(fleet: Fleet, headers: Mapping[str, str], place: Place) -> Work:
    """The work of one place on jobs (setting, block), with `headers` by setting for the files of
    parameters.
    """
    here = replace(fleet, device=torch.device(place.device))

    def work(job: tuple[Setting, range], emit: Emit, stop: Callable[[], bool]) -> None:
        setting, block = job
        # A checkpoint may hold some of the missing models only.
        while absent := trained.missing(here, setting, block):
            _Stack.of(here, setting, block, absent, emit, stop).train(headers[setting.name])

    return work


def secret_key(fleet: Fleet, setting: Setting, index: int) -> bytes:
    """The key of a model's batches and noise. A seeded one depends on all that shapes the model,
    since whoever has two models of one noise can subtract it.
    """
    if fleet.config.privacy.noise == NoiseSource.OS:
        return streams.os_key()
    return streams.seeded_key(fleet.config.seed, "noise", trained.key(fleet, setting, index))


@dataclass
class _Stack:
    """A stack under work: its progress, the name of its checkpoint, and its page of the ledger."""

    fleet: Fleet
    setting: Setting
    model: nn.Module
    progress: Progress
    checkpoint: str
    book: ledger.Ledger
    emit: Emit
    stop: Callable[[], bool]
    saved: float = 0.0

    @staticmethod
    def of(
        fleet: Fleet,
        setting: Setting,
        block: Sequence[int],
        absent: list[int],
        emit: Emit,
        stop: Callable[[], bool],
    ) -> _Stack:
        """The stack as its checkpoint holds it, or at its start."""
        checkpoint = trained.checkpoint(fleet, setting, block)
        progress = Progress.read(fleet.store, checkpoint) or Progress(
            absent,
            [trained.key(fleet, setting, index) for index in absent],
            State.start([fleet.initial(setting, index) for index in absent]),
            [secret_key(fleet, setting, index) for index in absent],
            [],
        )
        progress.state = progress.state.to(fleet.device)
        # Before any noise is drawn, so that a restart draws the same.
        progress.write(fleet.store, checkpoint)
        path = fleet.ledger_folder / f"{setting.name}-{checkpoint}.jsonl"
        book = ledger.Ledger(
            path, setting.name, fleet.split, progress.models, progress.keys, progress.artefacts
        )
        model = fleet.module(setting).to(fleet.device)
        return _Stack(fleet, setting, model, progress, checkpoint, book, emit, stop)

    def train(self, header: str) -> None:
        """Train to the end and publish the models; `header` goes into their files."""
        fleet, progress, dataset = self.fleet, self.progress, self.fleet.dataset
        self.emit(Steps(self.setting, len(progress.models), progress.state.step))
        data = TrainingData(
            fleet.tensors["pool"],
            torch.from_numpy(dataset.pool.labels).to(fleet.device),
            fleet.membership[progress.models],
            self._outside(),
        )
        trainer = Trainer.of(
            self.model,
            self.setting,
            fleet.engine,
            progress.keys,
            data,
            fleet.placement.physical_batch,
        )
        self.saved = time.monotonic()
        with contextlib.closing(self.book):
            progress.state, ran = train(trainer, progress.state, self._on_step, self.book.charge)
            self.book.sync()
        if not progress.state.finite():
            fleet.store.delete_file("checkpoint", self.checkpoint)
            raise trained.diverged(self.setting)
        # So that a kill between the following files repeats none of the work.
        progress.write(fleet.store, self.checkpoint)
        self._publish(ran, header)
        fleet.store.delete_file("checkpoint", self.checkpoint)

    def _outside(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the population."""
        labels = torch.from_numpy(self.fleet.dataset.population.labels).to(self.fleet.device)
        return self.fleet.tensors["population"], labels

    def _on_step(self, state: State, record: StepRecord) -> None:
        self.progress.state = state
        self.emit(Steps(self.setting, len(self.progress.models), 1))
        steps, config = self.setting.mechanism.steps, self.fleet.config.training
        if state.step in checkpoints_of(steps, config.trajectory):
            self._add_to_trajectory(state)
        if state.step % math.ceil(steps / CURVE_POINTS) == 0 or state.step == steps:
            self._add_to_curve(state, record)
        stopped = self.stop()
        if stopped or time.monotonic() - self.saved > config.checkpoint_seconds:
            self.book.sync()
            self.progress.write(self.fleet.store, self.checkpoint)
            self.saved = time.monotonic()
        if stopped:
            raise Interrupted

    def _add_to_trajectory(self, state: State) -> None:
        pool, labels = self.fleet.tensors["pool"], self.fleet.dataset.pool.labels
        losses = inference.losses(self.model, state.released, pool, torch.from_numpy(labels))
        self.progress.trajectory.append(losses)

    def _add_to_curve(self, state: State, record: StepRecord) -> None:
        if self.setting.recipe.release.early_stopping:
            losses = inference.losses(self.model, state.parameters, *self._outside()).mean(1)
            keep_best(state, torch.from_numpy(losses).to(self.fleet.device))
        logits = inference.logits(self.model, state.released, self.fleet.tensors["test"])
        right = logits.argmax(-1) == self.fleet.dataset.test.labels
        total = torch.where(record.weights, record.losses, 0).sum()
        mean = float(total / record.weights.sum().clamp(min=1))
        point: Point = {
            "step": state.step,
            "loss": mean if math.isfinite(mean) else None,
            "test_accuracy": float(right.mean()),
        }
        self.progress.curve.append(point)
        self.emit(OnCurve(self.setting, tuple(self.progress.models), point))

    def _publish(self, ran: Mechanism, header: str) -> None:
        """Write the artefact of every model."""
        progress, released = self.progress, self.progress.state.released
        constants = {
            name: value.cpu().clone().contiguous() for name, value in self.model.named_buffers()
        }
        for row, key in enumerate(progress.artefacts):
            values = {name: value[row].contiguous().cpu() for name, value in released.items()}
            mechanism = {**ran.to_json(), "key": ledger.key_name(progress.keys[row])}
            files = {
                trained.PARAMETERS: trained.parameter_file(values | constants, header),
                "mechanism.json": to_json(mechanism),
                "curve.json": to_json(progress.curve),
            }
            if self.fleet.config.training.trajectory:
                losses = [losses[row] for losses in progress.trajectory]
                files["trajectory.npy"] = to_npy(np.stack(losses, axis=1))
            self.fleet.store.write("model", key, files)


def checkpoints_of(steps: int, count: int) -> set[int]:
    """The steps, of `steps`, after which every example's loss is written down, `count` of them."""
    return {max(1, steps * (number + 1) // count) for number in range(count)}
