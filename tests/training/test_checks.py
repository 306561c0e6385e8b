"""Tests of training.checks."""

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core import streams
from dptrain.core.errors import LayerError
from dptrain.core.types import EngineKind
from dptrain.fleet import placement
from dptrain.training import checks
from dptrain.training.checks import disagreement, unsupported
from dptrain.training.gradients.engines import ENGINES
from tests.helpers.clipping import CLASSES, SHAPE, Residual
from tests.helpers.small_sweep import EIGHT_BY_EIGHT, Detached


def test_engines_are_checked_at_other_weights():
    model = Detached()
    found = checks.disagreement(EngineKind.STACKED, model, EIGHT_BY_EIGHT)
    assert found is not None
    assert "is not that of plain autograd" in found
    assert placement.choose_engine(None, model, EIGHT_BY_EIGHT)[0] == "vmap"


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 12)
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        return self.out(self.layer(self.layer(x.flatten(1))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        return self.out(x.flatten(1))


class Positions(nn.Module):
    """A layer that is called on something that all examples share."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        return self.out(x.flatten(1) + self.table(torch.arange(12)).mean(0))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.ones(())), nn.Linear(12, 5)

    def forward(self, x):
        return self.out(x.flatten(1)) * self.scale


def test_unsupported_says_why():
    assert unsupported(models.mlp(SHAPE, CLASSES), SHAPE) is None
    assert unsupported(Twice(), SHAPE) is None
    assert unsupported(Unused(), SHAPE) is None
    assert "PReLU" in unsupported(nn.Sequential(nn.Flatten(), nn.PReLU(), nn.Linear(12, 5)), SHAPE)
    circular = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(24, 5)
    )
    assert "padding_mode='circular'" in unsupported(circular, SHAPE)
    assert "not [batch, ...]" in unsupported(Positions(), SHAPE)
    assert "Bare" in unsupported(Bare(), SHAPE)
    frozen = models.mlp(SHAPE, CLASSES)
    frozen[1].weight.requires_grad_(False)
    assert "frozen" in unsupported(frozen, SHAPE)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5))
    tied[2].weight = tied[1].weight
    assert "shared" in unsupported(tied, SHAPE)


class WeightUsedTwice(nn.Module):
    """A weight used through its layer, and again by a function, which no hook sees."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        return self.out(nn.functional.linear(self.a(x.flatten(1)), self.a.weight.t()))


class Sometimes(WeightUsedTwice):
    """No gradient for one half of all inputs."""

    def forward(self, x):
        return super().forward(x) * torch.relu(x[:, 0, :1, 0])


class Never(WeightUsedTwice):
    def forward(self, x):
        return super().forward(x) * 0


@pytest.mark.parametrize("engine", ENGINES)
def test_disagreement_with_plain_autograd_is_found(engine):
    # Vmap differentiates the function, however it uses its weights.
    for model in (WeightUsedTwice(), Sometimes()):
        found = disagreement(engine, model, SHAPE)
        assert found is None if engine == "vmap" else "is not that of plain autograd" in found
    assert "gradients on random inputs are zero" in disagreement(engine, Never(), SHAPE)
    assert disagreement(engine, models.mlp(SHAPE, CLASSES), SHAPE) is None
    assert disagreement(engine, Residual(), SHAPE) is None


@pytest.mark.parametrize(
    ("batch", "n"), [(1, 1), (1, 1000), (10, 20), (512, 2000), (64, 65), (256, 60_000), (1, 10**6)]
)
def test_the_sampler_is_found_to_be_poisson(batch, n):
    checks.refuse_sampler(batch, n)


def shuffled(key, step, membership, batch_size, public_n):
    per_pass = public_n // batch_size
    order = streams.generator(key, streams.Purpose.BATCH, step // per_pass).permutation(
        np.flatnonzero(membership)
    )
    return np.array_split(order, per_pass)[step % per_pass]


def fixed_size(key, step, membership, batch_size, public_n):
    members = np.flatnonzero(membership)
    size = round(len(members) * batch_size / public_n)
    return streams.generator(key, streams.Purpose.BATCH, step).choice(members, size, replace=False)


TRUE = streams.poisson


WRONG = {
    "shuffled": shuffled,
    "fixed size": fixed_size,
    "rate 20 % too high": lambda key, step, m, batch, n: TRUE(key, step, m, round(1.2 * batch), n),
    "never empty": lambda key, step, m, batch, n: (
        found
        if len(found := TRUE(key, step, m, batch, n))
        else TRUE(key, step + 10**6, m, batch, n)
    ),
    "with repeats": lambda key, step, m, batch, n: np.repeat(TRUE(key, step, m, batch, n), 2),
    "members and others": lambda key, step, m, batch, n: TRUE(key, step, np.ones_like(m), batch, n),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_samplers_are_refused(name, monkeypatch):
    monkeypatch.setattr(streams, "poisson", WRONG[name])
    with pytest.raises(LayerError, match="not Poisson"):
        checks.refuse_sampler(1, 200) if name == "never empty" else checks.refuse_sampler(50, 1000)
