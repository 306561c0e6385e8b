"""The M models of one setting, trained in stacks that resume, and their logits.

A model's artefact is keyed by everything that shaped it except its secret key, and holds parameters and curve. Until it is
finished, its secret key lies in the checkpoint of its stack, so that a restart repeats the very same noise and releases nothing
new; the key goes with the checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from dptrain import ledger, models, sampling, score
from dptrain.blueprint import build
from dptrain.checkpoint import OnCurve, Point, Progress, Steps
from dptrain.data import Dataset
from dptrain.executor import Emit, Interrupted, Place, Work
from dptrain.placement import Placement
from dptrain.regularise import masked
from dptrain.schema import Config
from dptrain.store import Store, code_fingerprint, fingerprint, from_npy, to_json, to_npy, versions
from dptrain.train import State, keep_best, train
from dptrain.types import ConfigError, Setting

TRAINED_BY = (
    *("types", "sampling", "noise", "data", "layers", "models", "terms", "rules", "clipping", "augment", "regularise", "adversary"),
    *("train", "score", "checkpoint", "fleet", "probe", "accounting", "rdp", "statement", "ledger"),
)
CURVE_POINTS = 50


@dataclass
class Fleet:
    """What one sweep trains: the architecture, the data, who trains on what, and where results lie. It can be sent to another process."""

    config: Config
    store: Store
    engine: str
    placement: Placement
    device: torch.device
    architecture: str
    dataset: Dataset
    membership: np.ndarray
    data_digest: str = field(init=False, repr=False)
    _names: dict[tuple[tuple[str, Any], ...], list[str]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.data_digest = self.dataset.digest

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tensors"}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs of pool, population and test, as the trained part of the model sees them."""
        whole = {name: torch.from_numpy(part.inputs) for name, part in self.dataset.parts.items()}
        if models.features(self._whole()) is not None:
            key = fingerprint("features", code_fingerprint("layers", "models"), versions(), self.data_digest, self.architecture)
            files = self.store.read("features", key)
            if files is None:
                files = {f"{name}.npy": to_npy(self.seen(part).numpy()) for name, part in whole.items()}
                self.store.write("features", key, files)
            whole = {name: torch.from_numpy(from_npy(files[f"{name}.npy"])) for name in whole}
        return {name: part.to(self.device) for name, part in whole.items()}

    def seen(self, inputs: Tensor) -> Tensor:
        """Inputs as the trained part of the model sees them."""
        frozen = models.features(self._whole())
        return inputs if frozen is None else models.apply(frozen, inputs)

    def module(self, setting: Setting) -> nn.Module:
        """The trained part of every model of a setting but for its parameters: the layers, and the constants in their buffers. Training,
        logits, what attacks ask and files all take them from here."""
        return models.trained(self._whole(0, setting))

    def initial(self, index: int, setting: Setting) -> nn.Module:
        """`module` with the initial parameters of model `index`."""
        seed = int.from_bytes(sampling.seeded_key(self.config.seed, "initialisation", str(index))[:4], "big")
        drawn = dict(models.trained(self._whole(seed, setting)).named_parameters())
        model = self.module(setting)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(drawn[name])
        return model

    def _whole(self, seed: int = 0, setting: Setting | None = None) -> nn.Module:
        return build(self.config, self.dataset.pool.inputs.shape[1:], self.dataset.classes, seed, dict(setting.model) if setting else {})

    def at(self, headers: Mapping[str, str], place: Place) -> Work:
        """The work of one place on jobs (setting, block), with `headers` by setting for the files of parameters."""
        own = copy.copy(self)
        own.__dict__.pop("tensors", None)
        own.device = torch.device(place.device)

        def work(job: tuple[Setting, range], emit: Emit, stop: Callable[[], bool]) -> None:
            setting, block = job
            while absent := own.missing(setting, block):  # a checkpoint may hold some of them only
                own._train_stack(setting, block, absent, headers[setting.name], emit, stop)

        return work

    def prepare(self) -> None:
        """Compute and store the features of a model that has such, once for all workers."""
        if models.features(self._whole()) is not None:
            _ = self.tensors

    def blocks(self, setting: Setting) -> list[range]:
        """The stacks of a setting in which models are missing."""
        width, count = self.placement.width, self.config.models_per_setting
        absent = {index // width for index in self.missing(setting)}
        return [range(block * width, min((block + 1) * width, count)) for block in sorted(absent)]

    def missing(self, setting: Setting, block: Sequence[int] | None = None) -> list[int]:
        """Models of a setting, or of a block of them, that are not in the store."""
        asked = range(self.config.models_per_setting) if block is None else block
        return [index for index in asked if self.store.read("model", self.key(setting, index)) is None]

    def key(self, setting: Setting, index: int) -> str:
        """Artefact key of one model: all that shaped it, and the statement in its header, but not how many models there are."""
        config = self.config
        upstream = (
            self.data_digest,
            config.dataset.pool,
            dict(config.model),
            self.architecture,
            self.engine,
            config.seed,
            config.privacy.noise,
            config.training.trajectory,
        )
        delta = setting.delta if setting.mechanism.private else None  # it stands in the statement
        code = (code_fingerprint(*TRAINED_BY), versions())
        return fingerprint("model", code, upstream, setting.shaping(), setting.name, delta, index)

    def _secret(self, setting: Setting, index: int) -> bytes:
        """The key of a model's batches and noise. A seeded one depends on all that shapes the model, since whoever has two models of one noise
        can subtract it."""
        if self.config.privacy.noise == "os":
            return sampling.os_key()
        return sampling.seeded_key(self.config.seed, "noise", self.key(setting, index))

    def _train_stack(self, setting: Setting, block: range, missing: list[int], header: str, emit: Emit, stop: Callable[[], bool]) -> None:
        checkpoint = fingerprint("checkpoint", [self.key(setting, index) for index in block])
        progress = Progress.read(self.store, checkpoint) or Progress(
            missing,
            [self.key(setting, index) for index in missing],
            State.start([self.initial(index, setting) for index in missing]),
            [self._secret(setting, index) for index in missing],
            [],
        )
        progress.state = progress.state.to(self.device)
        progress.write(self.store, checkpoint)  # before any noise is drawn, so that a restart draws the same
        path = self.ledger_folder / f"{setting.name}-{checkpoint}.jsonl"
        book = ledger.Ledger(path, setting.name, self.split, progress.models, progress.keys, progress.artefacts)
        emit(Steps(setting, len(progress.models), progress.state.step))
        model = self.module(setting).to(self.device)
        pool, test = self.tensors["pool"], self.tensors["test"]
        labels = torch.from_numpy(self.dataset.pool.labels).to(self.device)
        others = (self.tensors["population"], torch.from_numpy(self.dataset.population.labels).to(self.device))
        steps, kept = setting.mechanism.steps, self.config.training.trajectory
        every, marks = math.ceil(steps / CURVE_POINTS), {max(1, steps * (number + 1) // kept) for number in range(kept)}
        saved = time.monotonic()

        def on_step(state: State, losses: Tensor, weights: Tensor) -> None:
            nonlocal saved
            emit(Steps(setting, len(progress.models), 1))
            if state.step in marks:
                progress.trajectory.append(score.losses(model, state.released, pool, labels))
            if state.step % every == 0 or state.step == steps:
                if setting.recipe.early_stopping:
                    keep_best(state, torch.from_numpy(score.losses(model, state.parameters, *others).mean(1)).to(self.device))
                right = score.logits(model, state.released, test).argmax(-1) == self.dataset.test.labels
                mean = float(torch.where(weights, losses, 0).sum() / weights.sum().clamp(min=1))
                point: Point = {"step": state.step, "loss": mean if math.isfinite(mean) else None, "test_accuracy": float(right.mean())}
                progress.curve.append(point)
                emit(OnCurve(setting, tuple(progress.models), point))
            if (stopped := stop()) or time.monotonic() - saved > self.config.training.checkpoint_seconds:
                book.sync()
                progress.write(self.store, checkpoint)
                saved = time.monotonic()
            if stopped:
                raise Interrupted

        members, physical = self.membership[progress.models], self.placement.physical_batch
        with contextlib.closing(book):
            ran = train(
                model, setting, self.engine, progress.state, progress.keys, pool, labels, members, on_step, physical, book.charge, others
            )
            book.sync()
        if not all(bool(torch.isfinite(value).all()) for value in progress.state.released.values()):
            self.store.delete_file("checkpoint", checkpoint)
            raise _diverged(setting)
        progress.write(self.store, checkpoint)  # so that a kill between the following files repeats none of the work
        constants = {name: value.cpu().clone().contiguous() for name, value in model.named_buffers()}
        for row, key in enumerate(progress.artefacts):
            parameters = {name: value[row].contiguous().cpu() for name, value in progress.state.released.items()}
            files = {
                "parameters.safetensors": save(parameters | constants, {"statement": header}),
                "mechanism.json": to_json({**ran.to_json(), "key": ledger.key_name(progress.keys[row])}),
                "curve.json": to_json(progress.curve),
            }
            if kept:
                files["trajectory.npy"] = to_npy(np.stack([losses[row] for losses in progress.trajectory], axis=1))
            self.store.write("model", key, files)
        self.store.delete_file("checkpoint", checkpoint)

    @property
    def ledger_folder(self) -> Path:
        return self.store.root / "ledger"

    @cached_property
    def spent(self) -> ledger.Snapshot:
        """The ledger, read once when training is over: what is verified is what is added up and named."""
        return ledger.read(self.ledger_folder)

    @property
    def split(self) -> str:
        """A name of the pool and of who is a member of what, for the ledger."""
        return fingerprint("split", self.data_digest, self.config.seed, len(self.dataset.pool.labels))

    def forget_keys(self) -> None:
        """Delete checkpoints, and the secret keys in them, of which every model is finished: another stack width leaves such."""
        for name in self.store.file_keys("checkpoint"):
            progress = Progress.read(self.store, name)
            if progress is None or all(self.store.read("model", key) is not None for key in progress.artefacts):
                self.store.delete_file("checkpoint", name)

    def curve(self, setting: Setting) -> list[Point]:
        """The training curve of a setting, mean over its models."""
        curves = [json.loads(self.stored(setting, index)["curve.json"]) for index in range(self.config.models_per_setting)]
        return [{name: _mean([point[name] for point in points]) for name in points[0]} for points in zip(*curves, strict=True)]

    def logits(self, setting: Setting) -> dict[str, np.ndarray]:
        """Logits of every model on pool, population and test, [M, N, 1, C] each, computed where not yet stored."""
        model = self.module(setting).to(self.device)
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.dataset.parts}
        for index in range(self.config.models_per_setting):
            key = fingerprint("scores", code_fingerprint("score", "regularise"), self.key(setting, index), self.digest(setting, index))
            files = self.store.read("scores", key)
            if files is None:
                own = self.parameters(setting, index)
                files = {f"{name}.npy": to_npy(self.told(model, own, part, setting)[0, :, None]) for name, part in self.tensors.items()}
                self.store.write("scores", key, files)
            for name, arrays in found.items():
                arrays.append(from_npy(files[f"{name}.npy"]))
                if not np.isfinite(arrays[-1]).all():
                    raise _diverged(setting)
        return {name: np.stack(arrays) for name, arrays in found.items()}

    @staticmethod
    def told(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor, setting: Setting) -> np.ndarray:
        """Logits [K, N, C] as the setting's service gives them away."""
        found, recipe = score.logits(model, parameters, inputs), setting.recipe
        return masked(found, recipe.top, recipe.digits) if recipe.top else found

    def parameters(self, setting: Setting, index: int) -> dict[str, Tensor]:
        """Of one trained model, each [1, ...]. Its file holds the constants of `module` too."""
        stored = load(self.stored(setting, index)["parameters.safetensors"])
        if setting.model not in self._names:
            self._names[setting.model] = [name for name, _ in self.module(setting).named_parameters()]
        return {name: stored[name][None].to(self.device) for name in self._names[setting.model]}

    def digest(self, setting: Setting, index: int) -> str:
        """Of one model's trained parameters: two runs of one configuration differ in their noise."""
        return hashlib.sha256(self.stored(setting, index)["parameters.safetensors"]).hexdigest()

    def trajectories(self, setting: Setting) -> np.ndarray | None:
        """Losses of every model on every pool example at the checkpoints, float32 [M, N, E]; None where none were kept."""
        if not self.config.training.trajectory:
            return None
        files = [self.stored(setting, index)["trajectory.npy"] for index in range(self.config.models_per_setting)]
        return np.stack([from_npy(file) for file in files])

    def stored(self, setting: Setting, index: int) -> dict[str, bytes]:
        files = self.store.read("model", self.key(setting, index))
        if files is None:
            raise RuntimeError(f"model {index} of {setting.name} is not in the store; run the sweep again")
        return files


def _diverged(setting: Setting) -> ConfigError:
    return ConfigError(f"defence.{setting.defence}.learning_rate", f"the models of {setting.name} diverged; lower it")


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean([value for value in values if value is not None]))
