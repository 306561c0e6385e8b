"""An unfinished stack: what it tells of its progress, and how it lies on disk: which models, what
train needs to go on, the curve so far.

The secret keys of its models lie here and nowhere else, so that a restart repeats the very same
noise and releases nothing new. They go with the checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import load, save

from dptrain.core.store import Store, to_json
from dptrain.core.types import Setting
from dptrain.training.state import State

TRAJECTORY = "trajectory/"

Point = dict[str, float | None]
"""step, loss (mean over the batch, None where not finite), test_accuracy"""


@dataclass(frozen=True)
class Steps:
    """Event: a stack of `models` models has taken `steps` more steps."""

    setting: Setting
    models: int
    steps: int


@dataclass(frozen=True)
class OnCurve:
    """Event: a point of the training curve of some models."""

    setting: Setting
    models: tuple[int, ...]
    point: Point


@dataclass
class Progress:
    """models: indices in the fleet; artefacts: the key of each in the store; keys: the secret key
    of each; trajectory: losses float32 [K, N] at each checkpoint of the trajectory so far.
    """

    models: list[int]
    artefacts: list[str]
    state: State
    keys: list[bytes]
    curve: list[Point]
    trajectory: list[np.ndarray] = field(default_factory=list)

    def write(self, store: Store, key: str) -> None:
        secrets = [secret.hex() for secret in self.keys]
        record = {
            "models": self.models,
            "artefacts": self.artefacts,
            "step": self.state.step,
            "keys": secrets,
            "curve": self.curve,
        }
        head = to_json(record)
        tensors = {name: value.contiguous().cpu() for name, value in self.state.tensors().items()}
        tensors |= {
            f"{TRAJECTORY}{number:03}": torch.from_numpy(losses)
            for number, losses in enumerate(self.trajectory)
        }
        store.write_file("checkpoint", key, len(head).to_bytes(8, "big") + head + save(tensors))

    @staticmethod
    def read(store: Store, key: str) -> Progress | None:
        data = store.read_file("checkpoint", key)
        if data is None:
            return None
        end = 8 + int.from_bytes(data[:8], "big")
        record = json.loads(data[8:end])
        # clone: a tensor inside a file's bytes may lie unaligned, and then rounds differently from
        # the one that was saved.
        tensors = {name: value.clone() for name, value in load(data[end:]).items()}
        trajectory = [
            tensors.pop(name).numpy() for name in sorted(tensors) if name.startswith(TRAJECTORY)
        ]
        secrets = [bytes.fromhex(secret) for secret in record["keys"]]
        return Progress(
            record["models"],
            record["artefacts"],
            State.of(tensors, record["step"]),
            secrets,
            record["curve"],
            trajectory,
        )
