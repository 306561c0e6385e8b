"""Tests of training.gradients.engines."""

import math

import pytest
import torch
from torch import nn

from dptrain.training.gradients.engines import ENGINES, OpacusEngine
from tests.helpers.clipping import assert_same, run, setup


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("clip", [0.1, 1.0, 1e6, math.inf])
def test_engines_equal_micro_batches_of_one(engine, count, clip):
    parts = setup(count, 9)
    out, _ = run(engine, *parts, clip)
    assert_same(out, *parts, clip)


def test_opacus_engine_trains_layers_without_a_rule():
    model = nn.Sequential(nn.Flatten(), nn.PReLU(), nn.Linear(12, 5))
    _, inputs, labels, weights = setup(1, 9)
    out, _ = run("opacus", [model], inputs, labels, weights, 0.5)
    assert_same(out, [model], inputs, labels, weights, 0.5)


def test_a_parameter_without_a_gradient_for_each_example_is_refused(monkeypatch):
    """It would be trained on nothing, or on a sum that no clip has seen."""
    for found in (None, torch.zeros(1, 7, 12)):
        monkeypatch.setattr(nn.Parameter, "grad_sample", found, raising=False)
        with pytest.raises(RuntimeError, match="no gradient for each"):
            OpacusEngine._per_example("weight", nn.Parameter(torch.zeros(7, 12)), 9, 1)
