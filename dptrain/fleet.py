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
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dptrain import models, sampling, score
from dptrain.clipping import Stack, unsupported
from dptrain.config import Config
from dptrain.data import DATASETS, Dataset
from dptrain.store import Store, code_fingerprint, fingerprint, from_npy, to_json, to_npy
from dptrain.train import State, train
from dptrain.types import ConfigError, Mechanism, Setting

TRAINED_BY = ("types", "sampling", "noise", "data", "models", "clipping", "train", "fleet")
CURVE_POINTS = 50


@dataclass(frozen=True)
class Watch:
    """The audience of training, called at step boundaries.

    steps(count) hears of finished model-steps; curve(setting, models, point) gets a point of the training curve; where stop()
    is true, training saves its state and raises Interrupted.
    """

    steps: Callable[[int], None] = lambda _models: None
    curve: Callable[[Setting, Sequence[int], dict[str, float]], None] = lambda _setting, _models, _point: None
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
    dataset: Dataset
    membership: np.ndarray
    _tensors: tuple[Tensor, Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pool, test = self.dataset.pool, self.dataset.test
        self._tensors = tuple(torch.from_numpy(array).to(self.device) for array in (pool.inputs, pool.labels, test.inputs))  # type: ignore[assignment]

    def build(self, index: int) -> nn.Module:
        """Model `index` with its initial weights, the same for every setting."""
        seed = int.from_bytes(sampling.seeded_key(self.config.seed, "initialisation", str(index))[:4], "big")
        return build(self.config, seed)

    def train(self, setting: Setting, header: str, watch: Watch) -> None:
        """Train what is missing of a setting's models. `header` goes into every file of parameters."""
        missing = self.missing(setting)
        for start in range(0, len(missing), self.config.training.width):
            self._train_stack(setting, missing[start : start + self.config.training.width], header, watch)

    def missing(self, setting: Setting) -> list[int]:
        """Models of a setting that are not in the store."""
        return [index for index in range(self.config.models_per_setting) if self.store.read("model", self.key(setting, index)) is None]

    def key(self, setting: Setting, index: int) -> str:
        return model_key(self.config, self.engine, setting, index)

    def _train_stack(self, setting: Setting, indices: list[int], header: str, watch: Watch) -> None:
        keys = [self.key(setting, index) for index in indices]
        checkpoint = fingerprint("checkpoint", keys)
        progress = _Progress.read(self.store, checkpoint) or _Progress.start(
            [self.build(index) for index in indices],
            [sampling.seeded_key(self.config.seed, key) if self.config.privacy.noise == "seeded" else sampling.os_key() for key in keys],
        )
        progress.state = progress.state.to(self.device)
        progress.write(self.store, checkpoint)  # before any noise is drawn, so that a restart draws the same
        watch.steps(progress.state.step * len(indices))
        model = self.build(0)
        pool, labels, test = self._tensors
        every = math.ceil(setting.mechanism.steps / CURVE_POINTS)
        saved = time.monotonic()

        def on_step(state: State, losses: Tensor, weights: Tensor) -> None:
            nonlocal saved
            watch.steps(len(indices))
            if state.step % every == 0 or state.step == setting.mechanism.steps:
                right = score.logits(model, state.parameters, test).argmax(-1) == self.dataset.test.labels
                mean = (losses * weights).sum() / weights.sum().clamp(min=1)
                point = {"step": state.step, "loss": float(mean), "test_accuracy": float(right.mean())}
                progress.curve.append(point)
                watch.curve(setting, indices, point)
            if watch.stop():
                progress.write(self.store, checkpoint)
                raise Interrupted
            if time.monotonic() - saved > self.config.training.checkpoint_seconds:
                progress.write(self.store, checkpoint)
                saved = time.monotonic()

        ran = train(model, setting, self.engine, progress.state, progress.keys, pool, labels, self.membership[indices], on_step)
        for row, key in enumerate(keys):
            parameters = {name: value[row].contiguous().cpu() for name, value in progress.state.parameters.items()}
            files = {
                "parameters.safetensors": save(parameters, {"statement": header}),
                "mechanism.json": to_json(mechanism_to_json(ran)),
                "curve.json": to_json(progress.curve),
            }
            self.store.write("model", key, files)
        self.store.delete_file("checkpoint", checkpoint)

    def curve(self, setting: Setting) -> list[dict[str, float]]:
        """The training curve of a setting, mean over its models."""
        curves = [json.loads(self._model(setting, index)["curve.json"]) for index in range(self.config.models_per_setting)]
        return [{name: float(np.mean([point[name] for point in points])) for name in points[0]} for points in zip(*curves, strict=True)]

    def verify(self, setting: Setting) -> None:
        """Raise RuntimeError unless every model of the setting ran the mechanism that the claim speaks of."""
        for index in range(self.config.models_per_setting):
            if json.loads(self._model(setting, index)["mechanism.json"]) != mechanism_to_json(setting.mechanism):
                raise RuntimeError(f"model {index} of {setting.name} ran another mechanism than planned")

    def fingerprint(self, setting: Setting, index: int) -> str:
        """Digest of a model's very parameters: two runs of one configuration differ in their noise."""
        return fingerprint("parameters", hashlib.sha256(self._model(setting, index)["parameters.safetensors"]).hexdigest())

    def logits(self, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
        """Logits of every model on pool [M, N, 1, C] and test [M, T, 1, C], computed where not yet stored."""
        model = self.build(0)
        pool, _, test = self._tensors
        pairs = []
        for index in range(self.config.models_per_setting):
            key = fingerprint("scores", code_fingerprint("score"), self.fingerprint(setting, index))
            files = self.store.read("scores", key)
            if files is None:
                parameters = load(self._model(setting, index)["parameters.safetensors"])
                own = {name: value[None].to(self.device) for name, value in parameters.items()}
                files = {
                    name: to_npy(score.logits(model, own, part)[0, :, None]) for name, part in (("pool.npy", pool), ("test.npy", test))
                }
                self.store.write("scores", key, files)
            pairs.append((from_npy(files["pool.npy"]), from_npy(files["test.npy"])))
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


def choose_engine(config: Config, model: nn.Module) -> tuple[str, str | None]:
    """The engine for a model and, when auto falls back to opacus, the reason. Raises ConfigError where it cannot run."""
    reason = unsupported(model, DATASETS[config.dataset.name].shape)
    if config.training.engine == "auto":
        return ("opacus", reason) if reason else ("stacked", None)
    if config.training.engine == "stacked" and reason:
        raise ConfigError("training.engine", f"stacked cannot train this model: {reason}; use training.engine=opacus")
    return config.training.engine, None


def choose_device(name: str) -> torch.device:
    """Raises ConfigError when the named device is absent."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise ConfigError("training.device", f"{name} is not available here; use auto")
    return torch.device(name)


def model_key(config: Config, engine: str, setting: Setting, index: int) -> str:
    """Artefact key of one model: the parts of the configuration upstream of it. The number of models is not among them, so a
    larger fleet keeps the models of a smaller one."""
    trained = [mechanism_to_json(setting.mechanism), setting.learning_rate, setting.momentum, config.privacy.noise]
    return fingerprint(
        "model", code_fingerprint(*TRAINED_BY), dataclasses.asdict(config.dataset), config.model, engine, config.seed, trained, index
    )


def mechanism_to_json(mechanism: Mechanism) -> dict[str, object]:
    """Strict JSON: an infinite clip is null."""
    plain = dataclasses.asdict(mechanism)
    return {name: None if value == math.inf else value for name, value in plain.items()}


@dataclass
class _Progress:
    """An unfinished stack: what train needs to go on, and the curve so far."""

    state: State
    keys: list[bytes]
    curve: list[dict[str, float]]

    @staticmethod
    def start(fresh: Sequence[nn.Module], keys: list[bytes]) -> _Progress:
        return _Progress(State.start(fresh), keys, [])

    def write(self, store: Store, key: str) -> None:
        tensors = {**_prefixed("parameters.", self.state.parameters), **_prefixed("momentum.", self.state.momentum)}
        record = json.dumps({"step": self.state.step, "keys": [secret.hex() for secret in self.keys], "curve": self.curve})
        store.write_file("checkpoint", key, save(tensors, {"progress": record}))

    @staticmethod
    def read(store: Store, key: str) -> _Progress | None:
        data = store.read_file("checkpoint", key)
        if data is None:
            return None
        try:
            tensors = load(data)
            record = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["progress"])
        except (SafetensorError, ValueError, KeyError):
            return None
        parts = {
            kind: {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
            for kind in ("parameters.", "momentum.")
        }
        state = State(parts["parameters."], parts["momentum."], record["step"])
        return _Progress(state, [bytes.fromhex(secret) for secret in record["keys"]], record["curve"])


def _prefixed(prefix: str, tensors: Stack) -> dict[str, Tensor]:
    return {prefix + name: value.contiguous().cpu() for name, value in tensors.items()}
