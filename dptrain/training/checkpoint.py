"""An unfinished stack: what it tells of its progress, and how it lies on disk: which models, what
train needs to go on, the curve so far.

The secret keys of its models lie here and nowhere else, so that a restart repeats the very same
noise and releases nothing new. They go with the checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from dptrain.core.store import Store, to_json
from dptrain.core.types import Setting
from dptrain.training.state import State

TRAJECTORY = "trajectory/"

Point = dict[str, float | None]
"""step, loss (mean over the batch, None where not finite), test_accuracy (None in a regression);
and of what was clipped in the step the share whose gradient was longer than the clip, and quantiles
of the norms: clipped, gradient_norm_10, gradient_norm_50, gradient_norm_90 (None without clipping).
"""


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
    of each; trajectory: losses float32 [K, N] at each checkpoint of the trajectory so far; ran: the
    mechanism so far, as JSON, once a trainer has run it.
    """

    models: list[int]
    artefacts: list[str]
    state: State
    keys: list[bytes]
    curve: list[Point]
    trajectory: list[np.ndarray] = field(default_factory=list)
    ran: dict[str, Any] | None = None

    def to_bytes(self) -> bytes:
        """A JSON record, its length before it, and the tensors as safetensors."""
        record = {
            "models": self.models,
            "artefacts": self.artefacts,
            "step": self.state.step,
            "keys": [secret.hex() for secret in self.keys],
            "curve": self.curve,
            "ran": self.ran,
        }
        head = to_json(record)
        tensors = {name: value.contiguous().cpu() for name, value in self.state.tensors().items()}
        tensors |= {
            f"{TRAJECTORY}{number:03}": torch.from_numpy(losses)
            for number, losses in enumerate(self.trajectory)
        }
        file: bytes = len(head).to_bytes(8, "big") + head + save(tensors)
        return file

    @staticmethod
    def of(data: bytes) -> Progress:
        """The inverse of `to_bytes`."""
        record = record_of(data)
        end = 8 + int.from_bytes(data[:8], "big")
        # clone: a tensor inside a file's bytes may lie unaligned, and then rounds differently from
        # the one that was saved.
        tensors = {name: value.clone() for name, value in load(data[end:]).items()}
        trajectory = [
            tensors.pop(name).numpy() for name in sorted(tensors) if name.startswith(TRAJECTORY)
        ]
        return Progress(
            record["models"],
            record["artefacts"],
            State.of(tensors, record["step"]),
            [bytes.fromhex(secret) for secret in record["keys"]],
            record["curve"],
            trajectory,
            record["ran"],
        )

    def write(self, store: Store, key: str) -> None:
        store.write_file("checkpoint", key, self.to_bytes())

    @staticmethod
    def read(store: Store, key: str) -> Progress | None:
        data = store.read_file("checkpoint", key)
        return None if data is None else Progress.of(data)


def record_of(data: bytes) -> dict[str, Any]:
    """What the bytes of a Progress say besides tensors: models, artefacts, step, keys in
    hexadecimal, curve, ran.
    """
    end = 8 + int.from_bytes(data[:8], "big")
    record: dict[str, Any] = json.loads(data[8:end])
    return record
