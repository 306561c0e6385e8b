"""Tests of models.row_wise."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core.errors import LayerError
from dptrain.core.types import Clipping, Precision
from dptrain.fleet import placement
from dptrain.models import layers, validation
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from tests.helpers.small_sweep import CLASSES, EIGHT_BY_EIGHT, Detached, On


class Glue(nn.Module):
    """Two Linear layers with a function between them; what stands behind it starts at zero, so that
    nothing of it shows at first.
    """

    def __init__(self, function, zero=True):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(16, 12), nn.Linear(12, CLASSES), function
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Branch(nn.Module):
    """A residual branch that centres and scales over the batch, with a last layer and a head of
    zeros.
    """

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.head = (
            nn.Linear(16, 12),
            nn.Linear(12, 12),
            nn.Linear(12, CLASSES),
        )
        nn.init.zeros_(self.inner.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        h = self.first(x)
        return self.head(h + self.inner((h - h.mean(0)) / (h.std(0, correction=0) + 1e-3)))


class Normalised(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)


def on_mixed_features():
    head = nn.Linear(16, CLASSES)
    nn.init.zeros_(head.weight)
    return layers.OnFeatures(Normalised(), head)


def hooked():
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    model[1].register_full_backward_hook(
        lambda _m, gradients, _o: (gradients[0] / gradients[0].norm(),)
    )
    return model


class TensorHook(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        h = self.first(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient / gradient.norm())
        return self.last(h)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * len(gradient)


class Counter(nn.Module):
    """Its third call on is another function."""

    def __init__(self):
        super().__init__()
        self.last, self.calls = nn.Linear(16, CLASSES), 0

    def forward(self, x):
        self.calls += 1
        return self.last(x - x.mean(0) if self.calls > 200 else x)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.sum = nn.Linear(16, CLASSES), None

    def forward(self, x):
        y = x if self.sum is None else x + 1e-9 * self.sum
        self.sum = x.sum(0)
        return self.last(y)


def replaced_forward():
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    plain = model[1].forward
    model[1].forward = lambda x: plain(x - x.mean(0))
    return model


class SubLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0) * (x.abs().max() > 50))


class Tied(nn.Module):
    """An embedding that renormalises the rows it looks up, whose table is also the last layer's."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(CLASSES, 8, max_norm=1.0)
        self.head = nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.table(x[:, 0].gt(0).long()) + x)


def patched(name):
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    plain = getattr(model[1], name)
    setattr(model[1], name, lambda x: plain(x - x.mean(0) * (x.abs().max() > 50)))
    return model


class Centring(nn.Tanh):
    def __call__(self, x):
        return super().__call__(torch.where((x > 50).any(), x - x.mean(0), x))


class OwnVmap(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return x - 0.5 * x.mean(in_dims[0], keepdim=True), in_dims[0]


class Later(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.calls, self.kept = nn.Linear(16, CLASSES), [0], [None]

    def forward(self, x):
        self.calls[0] += 1
        kept = self.kept[0]
        if self.calls[0] == 300:
            self.kept[0] = x.detach().mean(0)
        return self.last(x if kept is None else x + kept)


MIXING = {
    "a residual branch behind zeros": Branch,
    "features normalised over the batch": on_mixed_features,
    "scaled if the batch has a large value": lambda: On(lambda x: x / 255 if x.max() > 1 else x),
    "missing values filled with the batch's mean": lambda: On(
        lambda x: torch.where(x == -1, x[x != -1].mean(), x)
    ),
    "a backward hook of a module": hooked,
    "a backward hook of a tensor": TensorHook,
    "reads a detached weight": Detached,
    "centred where a value is rare": lambda: On(
        lambda x: torch.where((x > 8).any(), x - x.mean(0), x)
    ),
    "centred in large batches": lambda: On(lambda x: x - x.mean(0) if len(x) > 20 else x),
    "sorted over the batch": lambda: On(lambda x: x.sort(0).values),
    "cumulative over the batch": lambda: On(lambda x: x.cumsum(0)),
    "softmax over the batch": lambda: Glue(lambda x: x.softmax(0)),
    "softmax of torch over the batch": lambda: Glue(nn.Softmax(0)),
    "the batch flattened into features": lambda: On(lambda x: x + x.flatten()[: x.shape[1]]),
    "outer products of the batch": lambda: Glue(lambda x: (x @ x.t()) @ x),
    "ranks within the batch": lambda: Glue(lambda x: x.argsort(0).argsort(0).to(x.dtype)),
    "the batch's norm": lambda: Glue(lambda x: x / (x.norm() + 1)),
    "batch norm by function": lambda: Glue(
        lambda x: nn.functional.batch_norm(x, None, None, training=True)
    ),
    "dropout by function": lambda: Glue(nn.functional.dropout),
    "a gradient that grows with the batch": lambda: Glue(Scaled.apply, zero=False),
    "a memory of the last batch": Keeps,
    "another function after many calls": Counter,
    "a forward function that was replaced": replaced_forward,
    "a subclass of a layer": lambda: nn.Sequential(
        SubLinear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES)
    ),
    "the first example's mean": lambda: On(lambda x: x - x[0].mean()),
    "a mean through einsum": lambda: Glue(lambda x: x - torch.einsum("bi->i", x)),
    "a table that renormalises rows of others": lambda: nn.Sequential(nn.Linear(16, 8), Tied()),
    "softmax over the batch counted from the end": lambda: nn.Sequential(
        nn.Hardshrink(1000.0), nn.LogSoftmax(-2), nn.Hardtanh(-100, -3), nn.Linear(16, CLASSES)
    ),
    "a patched call": lambda: patched("_call_impl"),
    "a patched class": lambda: nn.Sequential(nn.Linear(16, 12), Centring(), nn.Linear(12, CLASSES)),
    "an autograd function with its own vmap": lambda: Glue(OwnVmap.apply, zero=False),
    "features kept for much later": Later,
    "the batch shuffled by its values": lambda: On(lambda x: x[x[:, 0].argsort()]),
}


def engine_of(model):
    """The engine that a sweep would train the model with; None if it refuses it."""
    try:
        validation.refuse_mixing(model, EIGHT_BY_EIGHT)
        return placement.choose_engine(
            None, models.trained(model), models.trained_shape(model, EIGHT_BY_EIGHT)
        )[0]
    except LayerError:
        return None


def pairs(seed, n=64):
    """Neighbouring batches, the second without its last example; which is huge, tiny, like the
    rest, or holds the values that models look for.
    """
    rng = np.random.default_rng(seed)
    for scale in (1.0, 0.01, 30.0, 300.0):
        x = rng.normal(size=(n, 16))
        x[-1] *= scale
        x[rng.random(x.shape) < 0.1] = -1
        yield torch.from_numpy(x.astype(np.float32)), torch.from_numpy(rng.integers(0, CLASSES, n))


def perturbed(model, seed):
    """With random weights, none of them zero."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return other


def most_moved(model, engine, clip=1.0):
    """The largest change of the clipped sum when one example leaves, at weights that differ from
    the initial ones.
    """
    head, worst = models.trained(model), 0.0
    frozen = models.features(model)
    for seed in range(3):
        parameters = stack([perturbed(head, seed)])
        step = ENGINES[engine](head, Precision.FLOAT32)
        for x, y in pairs(seed):
            sums = []
            for count in (len(x), len(x) - 1):
                seen = x[:count] if frozen is None else models.apply(frozen, x[:count])
                out = {name: torch.zeros_like(value) for name, value in parameters.items()}
                weights = torch.ones(1, count, dtype=torch.bool)
                step(
                    parameters,
                    seen[None, :, None],
                    y[None, :count],
                    weights,
                    Clipper.of(Clipping.FLAT, clip),
                    out,
                )
                sums.append(torch.cat([value.flatten() for value in out.values()]).double())
            worst = max(worst, float((sums[0] - sums[1]).norm()))
    return worst


@pytest.mark.parametrize("name", MIXING)
def test_mixing_models_are_refused_or_one_example_moves_the_sum_by_the_clip_at_most(name):
    torch.manual_seed(0)
    model = MIXING[name]()
    engine = engine_of(model)
    assert engine is None or most_moved(model, engine) <= 1 + 1e-5


def test_a_sound_model_of_a_user_stays_fast_and_bounded():
    model = Glue(torch.tanh, zero=False)
    assert engine_of(model) == "stacked"
    assert 0.5 < most_moved(model, "stacked") <= 1 + 1e-5
    assert math.isfinite(most_moved(model, "vmap"))
