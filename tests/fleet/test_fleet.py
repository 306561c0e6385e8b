"""Tests of fleet.fleet."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load
from torch import nn

from dptrain import cli, models
from dptrain.fleet import measurements
from dptrain.fleet import models as trained
from dptrain.pipeline import run
from tests.helpers.small_sweep import small_sweep
from tests.helpers.sweep import NO_MODEL, go, parameters


class Projected(nn.Module):
    """A random projection in a buffer, then softmax regression."""

    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(64, 30) / 8)
        self.head = nn.Linear(30, 10)

    def forward(self, x):
        return self.head(x.flatten(1) @ self.projection)


@pytest.mark.long
def test_constants_are_the_same_in_training_attacks_and_files(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "projected", lambda shape, classes: Projected())
    went = []
    judged = run.evaluate_sweep
    monkeypatch.setattr(
        run, "evaluate_sweep", lambda fleet, *rest: went.append(fleet) or judged(fleet, *rest)
    )
    overrides = (
        "model=projected",
        "attacks=[gradient_norm]",
        "epsilons=[inf]",
        "training.epochs=20",
    )
    small_sweep(tmp_path, *overrides)
    [fleet] = went
    [setting] = run.plan(fleet.config).settings
    labels = torch.from_numpy(fleet.dataset.pool.labels)
    for index in range(4):
        stored = safetensors.torch.load(
            trained.stored(fleet, setting, index)["parameters.safetensors"]
        )
        model = Projected()
        model.load_state_dict(stored)  # the file holds all that the model is
        says = trained.logits(fleet, setting)["pool"][index, :, 0]
        np.testing.assert_allclose(model(fleet.tensors["pool"]).detach().numpy(), says, atol=1e-5)
        found = measurements.extras(fleet, setting, ["gradient_norm"])["gradient_norm"][index]
        expected = []
        for x, y in zip(fleet.tensors["pool"][:20], labels[:20], strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(x[None]), y[None]).backward()
            expected.append(
                math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
            )
        np.testing.assert_allclose(found[:20], expected, rtol=1e-3)


@pytest.mark.long
def test_features_are_computed_once(tmp_path, capsys, monkeypatch):
    done = go(tmp_path, "model=scatter_linear", "models_per_setting=2", overrides=NO_MODEL)
    assert done.trained == 4
    stored = list((tmp_path / "store" / "features").iterdir())
    assert np.load(stored[0] / "pool.npy").shape == (60, 81 * 7 * 7)
    assert set(load(next(iter(parameters(tmp_path).values())))) == {"weight", "bias"}
    compute = models.apply

    def of_one_input(frozen, inputs):
        assert len(inputs) == 1, "features of the data were computed again"
        return compute(frozen, inputs)

    monkeypatch.setattr(models, "apply", of_one_input)  # a shape is asked for with one input
    more = ("model=scatter_linear", "models_per_setting=2", "epsilons=[inf,8,4]")
    assert go(tmp_path, *more, overrides=NO_MODEL).trained == 2
    assert (
        cli.main(
            [
                "sweep",
                *NO_MODEL,
                "model=scatter_linear",
                "training.augmentations=[flip]",
                f"output={tmp_path}",
            ]
        )
        == 2
    )
    assert "training.augmentations: views are for images" in capsys.readouterr().err
