"""Tests of training.gradients.stacked."""

import math

import pytest
import torch
from torch import nn

from dptrain.training.gradients.engines import ENGINES
from dptrain.training.gradients.terms import Outer
from tests.helpers.clipping import Residual, assert_same, run, setup


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_empty_and_padded_batches(engine, count):
    stacked, inputs, labels, weights = setup(count, 4)
    weights[0] = False  # an empty batch beside others
    weights[-1, 1:] = False
    out, _ = run(engine, stacked, inputs, labels, weights, 0.5)
    assert_same(out, stacked, inputs, labels, weights, 0.5)
    if count > 1:
        assert all(float(value[0].abs().max()) == 0 for value in out.values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 3e38])
def test_non_finite_gradients_count_as_zero(engine, poison):
    stacked, inputs, labels, weights = setup(2, 5, hidden=(4,))
    weights[:] = True
    inputs[1, 2] = poison
    out, _ = run(engine, stacked, inputs, labels, weights, 1.0)
    assert all(torch.isfinite(value).all() for value in out.values())
    weights[1, 2] = False
    inputs[1, 2] = 0
    clean, _ = run(engine, stacked, inputs, labels, weights, 1.0)
    if poison == 3e38:  # finite logits may survive it: then it is clipped like any other
        change = math.sqrt(sum(float((out[name] - clean[name]).square().sum()) for name in out))
        assert change <= 1 + 1e-5
    else:
        for name in out:
            torch.testing.assert_close(out[name], clean[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1e-23, 1e-30, 1e-38])
def test_a_small_gradient_on_large_inputs_does_not_lose_its_norm(size):
    """Squares of 1e-23 are zero in float32, and with them the norm of an outer product that is not
    small at all.
    """
    outer = Outer(torch.full((1, 2, 4), 1e18), torch.full((1, 2, 5), size))
    torch.testing.assert_close(
        outer.norm(), torch.full((1, 2), 1e18 * size * math.sqrt(20)), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_come_from_before_the_step(engine):
    stacked, inputs, labels, weights = setup(2, 5)
    _, losses = run(engine, stacked, inputs, labels, weights, 1.0)
    for k, model in enumerate(stacked):
        expected = nn.functional.cross_entropy(
            model(inputs[k]), labels[k], reduction="none"
        ).detach()
        torch.testing.assert_close(losses[k][weights[k]], expected[weights[k]])


def test_layers_without_a_bias():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False), nn.Tanh(), nn.Linear(6, 5))
    _, inputs, labels, weights = setup(1, 9)
    out, _ = run("stacked", [model], inputs, labels, weights, 0.5)
    assert_same(out, [model], inputs, labels, weights, 0.5)


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_are_added(engine):
    stacked = [Residual(), Residual()]
    _, inputs, labels, weights = setup(2, 9)
    out, _ = run(engine, stacked, inputs, labels, weights, 0.5)
    assert_same(out, stacked, inputs, labels, weights, 0.5)
