"""Norms that are watched on their way to the clip: those of plain autograd, in every engine."""

import pytest
import torch
from torch import nn

from dptrain.core.types import Clipping, Precision
from dptrain.training.gradients.base import Clipper, Watched, stack
from dptrain.training.gradients.engines import ENGINES


@pytest.mark.parametrize("engine", list(ENGINES))
def test_norms_are_those_of_autograd_and_change_no_sum(engine):
    models = [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
    inputs, labels = torch.randn(2, 5, 1, 3), torch.randint(2, (2, 5))
    weights = torch.tensor([[True] * 5, [True, True, False, True, False]])
    clipper, seen = Clipper(Clipping.FLAT, 0.7), []
    sums = []
    for factor in (clipper, Watched(clipper, weights, seen)):
        parameters = stack(models)
        out = {name: torch.zeros_like(value) for name, value in parameters.items()}
        ENGINES[engine](models[0], Precision.FLOAT32)(
            parameters, inputs, labels, weights, factor, out
        )
        sums.append(out)
    for name, value in sums[0].items():
        assert torch.equal(value, sums[1][name])
    truth = []
    for model, examples, classes, used in zip(models, inputs, labels, weights, strict=True):
        for example, label in zip(examples[used], classes[used], strict=True):
            loss = nn.functional.cross_entropy(model(example), label[None])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            truth.append(torch.cat([each.flatten() for each in gradients]).norm())
    watched = torch.cat(seen)
    watched = watched[~watched.isnan()]
    assert torch.allclose(watched.sort().values, torch.stack(truth).sort().values, atol=1e-5)


def test_what_is_no_number_is_infinite_and_padding_is_left_out():
    seen = []
    factor = Watched(lambda norms: norms, torch.tensor([[True, True, False]]), seen)
    factor(torch.tensor([[float("nan"), 2.0, 3.0]]))
    assert seen[0][:2].tolist() == [float("inf"), 2.0]
    assert seen[0][2].isnan()
