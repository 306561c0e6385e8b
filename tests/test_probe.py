"""The validator and the probe: every poisoned model is refused, no sound one is."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import models, placement, probe, sampling
from dptrain.types import ConfigError

SHAPE, CLASSES = (1, 8, 8), 4


class Then(nn.Module):
    """flatten, Linear, something, Linear"""

    def __init__(self, something):
        super().__init__()
        self.first, self.something, self.last = nn.Linear(64, 12), something, nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.last(self.something(self.first(x.flatten(1))))


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Running(nn.Module):
    """Batch statistics in a buffer, used in the next step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x):
        y = x - self.mean
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return y


class Remembers(nn.Module):
    """The same in an attribute, which no list of buffers shows."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(12)

    def forward(self, x):
        y = x + self.last
        self.last = x.detach().mean(0)
        return y


class MixesGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + gradient.mean(0)


class Attention(nn.Module):
    """Over the examples of the batch."""

    def forward(self, x):
        return torch.softmax(x @ x.t() / math.sqrt(12), dim=-1) @ x


def frozen(layer):
    layer.eval()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    layer.train = lambda mode=True: layer
    return layer


POISONED = {
    "batch norm": lambda: Then(nn.BatchNorm1d(12)),
    "batch norm without parameters": lambda: Then(nn.BatchNorm1d(12, affine=False)),
    "frozen batch norm": lambda: Then(frozen(nn.BatchNorm1d(12))),
    "batch norm kept in evaluation mode, without parameters": lambda: Then(frozen(nn.BatchNorm1d(12, affine=False))),
    "batch norm of images": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES)),
    "synchronised batch norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.Linear(144, CLASSES)),
    "instance norm with running statistics": lambda: nn.Sequential(
        nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, CLASSES)
    ),
    "centring": lambda: Then(Of(lambda x: x - x.mean(0))),
    "scaling by the batch": lambda: Then(Of(lambda x: x / (x.abs().amax() + 1))),
    "attention over the batch": lambda: Then(Attention()),
    "the neighbour's features": lambda: Then(Of(lambda x: x + 0.1 * x.roll(1, dims=0))),
    "division by the size of the batch": lambda: Then(Of(lambda x: x / len(x))),
    "the place in the batch": lambda: Then(Of(lambda x: x * torch.arange(1, len(x) + 1)[:, None])),
    "a running mean of its own": lambda: Then(Running()),
    "a memory outside of buffers": lambda: Then(Remembers()),
    "gradients mixed on the way back": lambda: Then(Of(MixesGradients.apply)),
    "random": lambda: Then(Of(lambda x: x * (torch.rand_like(x) > 0.5))),
    "dropout": lambda: Then(nn.Dropout(0.5)),
}


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Functional(nn.Module):
    """Its own weight, used without a layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 64) / 8)

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.weight)


def images(*layers, features):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


SOUND = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)),
    "without bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES, bias=False)),
    "mlp": lambda: models.mlp(SHAPE, CLASSES, (12,)),
    "deep mlp": lambda: models.mlp(SHAPE, CLASSES, (16, 12, 12, 8)),
    "relu": lambda: Then(nn.ReLU()),
    "relu in place": lambda: Then(nn.ReLU(inplace=True)),
    "gelu": lambda: Then(nn.GELU()),
    "silu": lambda: Then(nn.SiLU()),
    "prelu": lambda: Then(nn.PReLU()),
    "layer norm": lambda: Then(nn.LayerNorm(12)),
    "rms norm of the functions": lambda: Then(Of(lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())),
    "dropout of nothing": lambda: Then(nn.Dropout(0.0)),
    "softmax": lambda: Then(nn.Softmax(-1)),
    "normalised rows": lambda: Then(Of(lambda x: nn.functional.normalize(x, dim=1))),
    "residual": lambda: Then(Residual(nn.Linear(12, 12))),
    "the same layer twice": lambda: Then((lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(12, 12))),
    "sorted features": lambda: Then(Of(lambda x: x.sort(dim=1).values)),
    "constant buffer": lambda: Then(nn.Sequential(nn.LayerNorm(12, elementwise_affine=False), Of(lambda x: x + 1))),
    "convolution": lambda: images(nn.Conv2d(1, 4, 3), nn.Tanh(), features=144),
    "strided, padded, grouped": lambda: images(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.ReLU(), features=36
    ),
    "group norm": lambda: images(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), features=144),
    "instance norm": lambda: images(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), features=144),
    "max pooling": lambda: images(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), features=36),
    "mean pooling": lambda: images(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), features=16),
    "a row at a time": lambda: nn.Sequential(nn.Flatten(0, 1), nn.Linear(8, 6), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES)),
    "convolution along one side": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(24, CLASSES)),
    "a parameter of its own": Functional,
}


def refused(model):
    """Why a sweep would not train it: the validator and probe by name and by moving examples, or every engine against plain autograd."""
    try:
        probe.refuse_mixing(model, SHAPE)
        placement.choose_engine("auto", model, SHAPE)
    except ConfigError as error:
        return str(error)
    return None


def test_there_are_enough_of_them():
    assert len(POISONED) >= 15
    assert len(SOUND) >= 25


@pytest.mark.parametrize("name", POISONED)
def test_poisoned_models_are_refused(name):
    assert refused(POISONED[name]())


@pytest.mark.parametrize("name", ["centring", "scaling by the batch", "attention over the batch", "the neighbour's features"])
def test_mixing_is_found_by_moving_examples(name):
    with pytest.raises(ConfigError, match="depends on the others"):
        probe.refuse_mixing(POISONED[name](), SHAPE)


@pytest.mark.parametrize("name", SOUND)
def test_sound_models_pass(name):
    assert refused(SOUND[name]()) is None


@pytest.mark.parametrize(("batch", "n"), [(1, 1), (1, 1000), (10, 20), (512, 2000), (64, 65), (256, 60_000), (1, 10**6)])
def test_the_sampler_is_found_to_be_poisson(batch, n):
    probe.refuse_sampler(batch, n)


def shuffled(key, step, membership, batch_size, public_n):
    per_pass = public_n // batch_size
    order = sampling.generator(key, sampling.Purpose.BATCH, step // per_pass).permutation(np.flatnonzero(membership))
    return np.array_split(order, per_pass)[step % per_pass]


def fixed_size(key, step, membership, batch_size, public_n):
    members = np.flatnonzero(membership)
    size = round(len(members) * batch_size / public_n)
    return sampling.generator(key, sampling.Purpose.BATCH, step).choice(members, size, replace=False)


TRUE = sampling.poisson
WRONG = {
    "shuffled": shuffled,
    "fixed size": fixed_size,
    "rate 20 % too high": lambda key, step, m, batch, n: TRUE(key, step, m, round(1.2 * batch), n),
    "never empty": lambda key, step, m, batch, n: (
        found if len(found := TRUE(key, step, m, batch, n)) else TRUE(key, step + 10**6, m, batch, n)
    ),
    "with repeats": lambda key, step, m, batch, n: np.repeat(TRUE(key, step, m, batch, n), 2),
    "members and others": lambda key, step, m, batch, n: TRUE(key, step, np.ones_like(m), batch, n),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_samplers_are_refused(name, monkeypatch):
    monkeypatch.setattr(sampling, "poisson", WRONG[name])
    with pytest.raises(ConfigError, match="not Poisson"):
        probe.refuse_sampler(1, 200) if name == "never empty" else probe.refuse_sampler(50, 1000)
