"""Stacks of models with a batch, and the comparison with micro-batches of one."""

import math

import torch
from torch import nn

from dptrain import models
from dptrain.core.types import Clipping, Precision
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from tests import reference

SHAPE, CLASSES = (1, 4, 3), 5


def setup(count, batch, seed=0, hidden=(7, 6)):
    stacked = [models.mlp(SHAPE, CLASSES, hidden) for _ in range(count)]
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 * torch.randn(count, batch, *SHAPE, generator=generator)
    labels = torch.randint(0, CLASSES, (count, batch), generator=generator)
    weights = torch.rand(count, batch, generator=generator) < 0.7
    return stacked, inputs, labels, weights


def run(engine, stacked, inputs, labels, weights, clip, clipping="flat"):
    parameters = stack(stacked)
    out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
    losses = ENGINES[engine](stacked[0], Precision.FLOAT32)(
        parameters, inputs.unsqueeze(2), labels, weights, Clipper.of(Clipping(clipping), clip), out
    )
    return out, losses


def assert_same(out, stacked, inputs, labels, weights, clip):
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(model, inputs[k].unsqueeze(1), labels[k], weights[k], clip)
        scale = max(float(value.abs().max()) for value in expected.values()) + 1e-8
        for name, value in expected.items():
            assert float((out[name][k] - value).abs().max()) <= 1e-5 * scale, (k, name)


class Residual(nn.Module):
    """Two layers whose outputs are added get one and the same gradient tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = x.flatten(1)
        return self.out(self.a(x) + self.b(x))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Conv2d(6, 6, 2),
        nn.Flatten(),
        nn.Linear(36, CLASSES),
    )


def dense():
    return models.mlp(SHAPE, CLASSES, (200,))
