"""An unfinished stack on disk: which models, what train needs to go on, and the curve so far.

The secret keys of its models lie here and nowhere else, so that a restart repeats the very same noise and releases nothing new. They
go with the checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from safetensors.torch import load, save

from dptrain.store import Store, to_json
from dptrain.train import State

Point = dict[str, float | None]
"""step, loss (mean over the batch, None where not finite), test_accuracy"""


@dataclass
class Progress:
    """models: indices in the fleet; artefacts: the key of each in the store; keys: the secret key of each."""

    models: list[int]
    artefacts: list[str]
    state: State
    keys: list[bytes]
    curve: list[Point]

    def write(self, store: Store, key: str) -> None:
        secrets = [secret.hex() for secret in self.keys]
        record = {"models": self.models, "artefacts": self.artefacts, "step": self.state.step, "keys": secrets, "curve": self.curve}
        head = to_json(record)
        tensors = {name: value.contiguous().cpu() for name, value in self.state.tensors().items()}
        store.write_file("checkpoint", key, len(head).to_bytes(8, "big") + head + save(tensors))

    @staticmethod
    def read(store: Store, key: str) -> Progress | None:
        data = store.read_file("checkpoint", key)
        if data is None:
            return None
        end = 8 + int.from_bytes(data[:8], "big")
        record = json.loads(data[8:end])
        # clone: a tensor inside a file's bytes may lie unaligned, and then rounds differently from the one that was saved.
        tensors = {name: value.clone() for name, value in load(data[end:]).items()}
        secrets = [bytes.fromhex(secret) for secret in record["keys"]]
        return Progress(record["models"], record["artefacts"], State.of(tensors, record["step"]), secrets, record["curve"])
