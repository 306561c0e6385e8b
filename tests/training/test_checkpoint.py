"""An unfinished stack comes back as it was, bit for bit."""

import torch

from dptrain import models
from dptrain.core import streams
from dptrain.core.store import Store
from dptrain.training.checkpoint import Progress
from dptrain.training.state import State


def test_round_trip(tmp_path):
    state = State.start([models.build("mlp", {"hidden": [3]}, (4,), 2, seed) for seed in (0, 1)])
    state.step = 7
    state.moments["0.weight"] = {"momentum_buffer": torch.rand(2, 3)}
    state.best["loss"] = torch.tensor([0.5, 0.25])
    keys = [streams.os_key(), streams.os_key()]
    curve = [{"step": 7.0, "loss": None, "test_accuracy": 0.5}]
    before = Progress([0, 3], ["a", "b"], state, keys, curve, [torch.rand(2, 5).numpy()])
    store = Store(tmp_path)
    before.write(store, "k")
    after = Progress.read(store, "k")
    assert (after.models, after.artefacts, after.keys, after.curve) == (
        [0, 3],
        ["a", "b"],
        keys,
        curve,
    )
    assert after.state.step == 7
    for name, value in state.tensors().items():
        assert torch.equal(after.state.tensors()[name], value)
    assert (after.trajectory[0] == before.trajectory[0]).all()
    assert Progress.read(store, "other") is None
