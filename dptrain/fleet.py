"""The M models of one setting, trained in stacks that resume, and their logits.

A model's artefact is keyed by everything that shaped it except its secret key, and holds parameters and curve. Until it is
finished, its secret key lies in the checkpoint of its stack, so that a restart repeats the very same noise and releases nothing
new; the key goes with the checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from dptrain import models, sampling, score
from dptrain.clipping import Stack, disagreement, unsupported
from dptrain.config import Config
from dptrain.data import DATASETS, Dataset
from dptrain.store import Store, code_fingerprint, fingerprint, from_npy, to_json, to_npy, versions
from dptrain.train import State, train
from dptrain.types import ConfigError, Mechanism, Setting

TRAINED_BY = ("types", "sampling", "noise", "data", "models", "clipping", "train", "fleet", "accounting", "statement")
CURVE_POINTS = 50
Point = dict[str, float | None]
"""step, loss (mean over the batch, None where not finite), test_accuracy"""


@dataclass(frozen=True)
class Watch:
    """The audience of training, called at step boundaries.

    steps(count) hears of finished model-steps; curve(setting, models, point) gets a point of the training curve; where stop()
    is true, training saves its state and raises Interrupted.
    """

    steps: Callable[[int], None] = lambda _models: None
    curve: Callable[[Setting, Sequence[int], Point], None] = lambda _setting, _models, _point: None
    stop: Callable[[], bool] = lambda: False


class Interrupted(Exception):
    """Training stopped at a step boundary, its state saved."""


@dataclass
class Fleet:
    """What one sweep trains: the architecture, the data, who trains on what, and where results lie."""

    config: Config
    store: Store
    engine: str
    device: torch.device
    architecture: str
    dataset: Dataset
    membership: np.ndarray
    _tensors: tuple[Tensor, Tensor, Tensor] = field(init=False, repr=False)
    _data: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pool, test = self.dataset.pool, self.dataset.test
        hashed = hashlib.sha256()
        for array in (pool.inputs, pool.labels, test.inputs, test.labels):
            hashed.update(np.ascontiguousarray(array).tobytes())
        self._data = hashed.hexdigest()
        self._tensors = tuple(torch.from_numpy(array).to(self.device) for array in (pool.inputs, pool.labels, test.inputs))  # type: ignore[assignment]

    def build(self, index: int) -> nn.Module:
        """Model `index` with its initial weights, the same for every setting."""
        seed = int.from_bytes(sampling.seeded_key(self.config.seed, "initialisation", str(index))[:4], "big")
        return build(self.config, seed)

    def train(self, setting: Setting, header: str, watch: Watch) -> None:
        """Train what is missing of a setting's models. `header` goes into every file of parameters.

        Raises ConfigError where a setting's models diverge, Interrupted where `watch` stops.
        """
        width, count = self.config.training.width, self.config.models_per_setting
        for start in range(0, count, width):
            block = range(start, min(start + width, count))
            while absent := [index for index in self.missing(setting) if index in block]:  # a checkpoint may hold some of them only
                self._train_stack(setting, block, absent, header, watch)

    def missing(self, setting: Setting) -> list[int]:
        """Models of a setting that are not in the store."""
        return [index for index in range(self.config.models_per_setting) if self.store.read("model", self.key(setting, index)) is None]

    def key(self, setting: Setting, index: int) -> str:
        """Artefact key of one model: all that shaped it, and the statement in its header. The number of models is not part of it, so a
        larger fleet keeps the models of a smaller one."""
        config = self.config
        upstream = (self._data, config.dataset.pool, dict(config.model), self.architecture, self.engine, config.seed, config.privacy.noise)
        delta = setting.delta if setting.mechanism.private else None  # it stands in the statement
        code = (code_fingerprint(*TRAINED_BY), versions())
        return fingerprint("model", code, upstream, trained_by(setting), setting.name, delta, index)

    def _secret(self, setting: Setting, index: int) -> bytes:
        """The key of a model's batches and noise. A seeded one depends on the setting too: settings must not share noise."""
        if self.config.privacy.noise == "os":
            return sampling.os_key()
        return sampling.seeded_key(self.config.seed, "noise", fingerprint(trained_by(setting), index))

    def _train_stack(self, setting: Setting, block: range, missing: list[int], header: str, watch: Watch) -> None:
        checkpoint = fingerprint("checkpoint", [self.key(setting, index) for index in block])
        progress = _Progress.read(self.store, checkpoint) or _Progress(
            missing,
            [self.key(setting, index) for index in missing],
            State.start([self.build(index) for index in missing]),
            [self._secret(setting, index) for index in missing],
            [],
        )
        progress.state = progress.state.to(self.device)
        progress.write(self.store, checkpoint)  # before any noise is drawn, so that a restart draws the same
        watch.steps(progress.state.step * len(progress.models))
        model = self.build(0).to(self.device)
        pool, labels, test = self._tensors
        every = math.ceil(setting.mechanism.steps / CURVE_POINTS)
        saved = time.monotonic()

        def on_step(state: State, losses: Tensor, weights: Tensor) -> None:
            nonlocal saved
            watch.steps(len(progress.models))
            if state.step % every == 0 or state.step == setting.mechanism.steps:
                right = score.logits(model, state.parameters, test).argmax(-1) == self.dataset.test.labels
                mean = float(torch.where(weights, losses, 0).sum() / weights.sum().clamp(min=1))
                point: Point = {"step": state.step, "loss": mean if math.isfinite(mean) else None, "test_accuracy": float(right.mean())}
                progress.curve.append(point)
                watch.curve(setting, progress.models, point)
            if watch.stop():
                progress.write(self.store, checkpoint)
                raise Interrupted
            if time.monotonic() - saved > self.config.training.checkpoint_seconds:
                progress.write(self.store, checkpoint)
                saved = time.monotonic()

        ran = train(model, setting, self.engine, progress.state, progress.keys, pool, labels, self.membership[progress.models], on_step)
        if not all(bool(torch.isfinite(value).all()) for value in progress.state.parameters.values()):
            self.store.delete_file("checkpoint", checkpoint)
            raise _diverged(setting)
        progress.write(self.store, checkpoint)  # so that a kill between the following files repeats none of the work
        for row, key in enumerate(progress.artefacts):
            parameters = {name: value[row].contiguous().cpu() for name, value in progress.state.parameters.items()}
            files = {
                "parameters.safetensors": save(parameters, {"statement": header}),
                "mechanism.json": to_json(mechanism_to_json(ran)),
                "curve.json": to_json(progress.curve),
            }
            self.store.write("model", key, files)
        self.store.delete_file("checkpoint", checkpoint)

    def forget_keys(self) -> None:
        """Delete checkpoints, and the secret keys in them, of which every model is finished: another stack width leaves such."""
        for name in self.store.file_keys("checkpoint"):
            progress = _Progress.read(self.store, name)
            if progress is None or all(self.store.read("model", key) is not None for key in progress.artefacts):
                self.store.delete_file("checkpoint", name)

    def curve(self, setting: Setting) -> list[Point]:
        """The training curve of a setting, mean over its models."""
        curves = [json.loads(self._model(setting, index)["curve.json"]) for index in range(self.config.models_per_setting)]
        return [{name: _mean([point[name] for point in points]) for name in points[0]} for points in zip(*curves, strict=True)]

    def verify(self, setting: Setting) -> None:
        """Raise RuntimeError unless every model of the setting took the steps, under the plan, that the claim speaks of."""
        for index in range(self.config.models_per_setting):
            if json.loads(self._model(setting, index)["mechanism.json"]) != mechanism_to_json(setting.mechanism):
                raise RuntimeError(f"model {index} of {setting.name} ran another mechanism than planned")

    def logits(self, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Logits of every model on pool [M, N, 1, C] and test [M, T, 1, C], computed where not yet stored."""
        model = self.build(0).to(self.device)
        pool, _, test = self._tensors
        pairs = []
        for index in range(self.config.models_per_setting):
            trained = self._model(setting, index)["parameters.safetensors"]
            digest = hashlib.sha256(trained).hexdigest()  # two runs of one configuration differ in their noise
            key = fingerprint("scores", code_fingerprint("score"), self.key(setting, index), digest)
            files = self.store.read("scores", key)
            if files is None:
                own = {name: value[None].to(self.device) for name, value in load(trained).items()}
                parts = (("pool.npy", pool), ("test.npy", test))
                files = {name: to_npy(score.logits(model, own, part)[0, :, None]) for name, part in parts}
                self.store.write("scores", key, files)
            pairs.append((from_npy(files["pool.npy"]), from_npy(files["test.npy"])))
            if not all(np.isfinite(part).all() for part in pairs[-1]):
                raise _diverged(setting)
        return np.stack([pool for pool, _ in pairs]), np.stack([test for _, test in pairs])

    def _model(self, setting: Setting, index: int) -> dict[str, bytes]:
        files = self.store.read("model", self.key(setting, index))
        if files is None:
            raise RuntimeError(f"model {index} of {setting.name} is not in the store; run the sweep again")
        return files


def build(config: Config, seed: int = 0) -> nn.Module:
    """A freshly initialised model of the configuration."""
    source = DATASETS[config.dataset.name]
    options = {key: value for key, value in config.model.items() if key != "name"}
    return models.build(str(config.model.get("name")), options, source.shape, source.classes, seed)


def architecture(model: nn.Module) -> str:
    """Digest of a module's structure and initial values: a name in a configuration does not pin a plug-in's code."""
    hashed = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        hashed.update(name.encode() + value.cpu().numpy().tobytes())
    return hashed.hexdigest()


def choose_engine(config: Config, model: nn.Module) -> tuple[str, str | None]:
    """The engine for a model and, when auto falls back to opacus, the reason. Raises ConfigError where none can train it."""
    shape, wanted = DATASETS[config.dataset.name].shape, config.training.engine
    reason = None if wanted == "opacus" else unsupported(model, shape) or disagreement("stacked", model, shape)
    if wanted == "stacked" and reason:
        raise ConfigError("training.engine", f"stacked cannot train this model: {reason}; use training.engine=opacus")
    if wanted != "opacus" and not reason:
        return "stacked", None
    if wrong := disagreement("opacus", model, shape):
        raise ConfigError("model.name", f"no engine can train this model: {wrong}; use its parameters through their layers only")
    return "opacus", reason


def choose_device(name: str) -> torch.device:
    """Raises ConfigError when the named device is absent."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise ConfigError("training.device", f"{name} is not available here; use auto")
    return torch.device(name)


def trained_by(setting: Setting) -> list[object]:
    """What of a setting shapes its models."""
    return [mechanism_to_json(setting.mechanism), setting.learning_rate, setting.momentum]


def mechanism_to_json(mechanism: Mechanism) -> dict[str, object]:
    """Strict JSON: an infinite clip is null."""
    plain = dataclasses.asdict(mechanism)
    return {name: None if value == math.inf else value for name, value in plain.items()}


def _diverged(setting: Setting) -> ConfigError:
    return ConfigError(f"defence.{setting.defence}.learning_rate", f"the models of {setting.name} diverged; lower it")


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean([value for value in values if value is not None]))


@dataclass
class _Progress:
    """An unfinished stack: which models, what train needs to go on, and the curve so far."""

    models: list[int]
    artefacts: list[str]
    state: State
    keys: list[bytes]
    curve: list[Point]

    def write(self, store: Store, key: str) -> None:
        tensors = {**_prefixed("parameters.", self.state.parameters), **_prefixed("momentum.", self.state.momentum)}
        secrets = [secret.hex() for secret in self.keys]
        record = {"models": self.models, "artefacts": self.artefacts, "step": self.state.step, "keys": secrets, "curve": self.curve}
        head = to_json(record)
        store.write_file("checkpoint", key, len(head).to_bytes(8, "big") + head + save(tensors))

    @staticmethod
    def read(store: Store, key: str) -> _Progress | None:
        data = store.read_file("checkpoint", key)
        if data is None:
            return None
        end = 8 + int.from_bytes(data[:8], "big")
        record, tensors = json.loads(data[8:end]), load(data[end:])

        def part(kind: str) -> dict[str, Tensor]:
            # clone: a tensor inside a file's bytes may lie unaligned, and then rounds differently from the one that was saved.
            return {name.removeprefix(kind): value.clone() for name, value in tensors.items() if name.startswith(kind)}

        state = State(part("parameters."), part("momentum."), record["step"])
        secrets = [bytes.fromhex(secret) for secret in record["keys"]]
        return _Progress(record["models"], record["artefacts"], state, secrets, record["curve"])


def _prefixed(prefix: str, tensors: Stack) -> dict[str, Tensor]:
    return {prefix + name: value.contiguous().cpu() for name, value in tensors.items()}
