"""The stacked engine = Opacus = micro-batches of one, and no example moves the sum by more than the clip."""

import math

import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.clipping import CLIPPINGS, clipper, stack
from dptrain.engines import ENGINES, OpacusEngine
from dptrain.probe import disagreement, unsupported
from dptrain.terms import Outer, norm
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
    losses = ENGINES[engine](stacked[0], "float32")(parameters, inputs.unsqueeze(2), labels, weights, clipper(clipping, clip), out)
    return out, losses


def assert_same(out, stacked, inputs, labels, weights, clip):
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(model, inputs[k].unsqueeze(1), labels[k], weights[k], clip)
        scale = max(float(value.abs().max()) for value in expected.values()) + 1e-8
        for name, value in expected.items():
            assert float((out[name][k] - value).abs().max()) <= 1e-5 * scale, (k, name)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("clip", [0.1, 1.0, 1e6, math.inf])
def test_engines_equal_micro_batches_of_one(engine, count, clip):
    parts = setup(count, 9)
    out, _ = run(engine, *parts, clip)
    assert_same(out, *parts, clip)


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


CLIP = 0.3
ADVERSARIES = ("plain", "parallel", "scales", "huge", "not a number", "infinite", "alone")


def neighbours(kind, count, batch, seed):
    """Models, and batches [count, batch] whose first example is about to be removed."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 * torch.randn(count, batch, *SHAPE, generator=generator)
    labels = torch.randint(0, CLASSES, (count, batch), generator=generator)
    weights = torch.ones(count, batch, dtype=torch.bool)
    stacked = stack([models.mlp(SHAPE, CLASSES, (7,)) for _ in range(20)])
    stacked = {name: value[torch.arange(count) % 20] for name, value in stacked.items()}
    if kind == "parallel":
        inputs[:], labels[:] = inputs[:, :1].clone(), labels[:, :1].clone()
    elif kind == "scales":
        inputs *= 10 ** (torch.randint(-6, 7, (count, batch, 1, 1, 1), generator=generator).float())
    elif kind == "huge":
        inputs[:, 0] *= 10 ** (torch.randint(10, 38, (count, 1, 1, 1), generator=generator).float())
    elif kind == "not a number":
        inputs[:, 0, 0, 0, 0] = math.nan
    elif kind == "infinite":
        inputs[:, 0, 0, 1, 0] = math.inf
    elif kind == "alone":
        weights[:, 1:] = False
    return stacked, inputs, labels, weights


@pytest.mark.parametrize("kind", ADVERSARIES)
@pytest.mark.parametrize(("engine", "pairs"), [("stacked", 15_000), ("opacus", 100)])
def test_sensitivity_of_neighbouring_batches(engine, pairs, kind, seed):
    """100,000 pairs that differ in one example, over all kinds: the sums differ by the clip at most."""
    worst = 0.0
    width = min(pairs, 1000)
    model = models.mlp(SHAPE, CLASSES, (7,))
    step = ENGINES[engine](model, "float32")
    for chunk in range(pairs // width):
        parameters, inputs, labels, weights = neighbours(kind, width, 6, 1000 * seed + chunk)
        sums = []
        for removed in (False, True):
            weights[:, 0] = not removed
            out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
            step(parameters, inputs.unsqueeze(2), labels, weights, clipper("flat", CLIP), out)
            sums.append(torch.cat([value.flatten(1) for value in out.values()], dim=1).double())
        worst = max(worst, float((sums[0] - sums[1]).norm(dim=1).max()))
    assert worst <= CLIP * (1 + 1e-5)
    if kind in ("plain", "parallel", "alone", "huge"):
        assert worst > 0.99 * CLIP or kind == "huge"
    if kind in ("not a number", "infinite"):
        assert worst < 1e-6


@pytest.mark.parametrize("size", [1e-23, 1e-30, 1e-38])
def test_a_small_gradient_on_large_inputs_does_not_lose_its_norm(size):
    """Squares of 1e-23 are zero in float32, and with them the norm of an outer product that is not small at all."""
    outer = Outer(torch.full((1, 2, 4), 1e18), torch.full((1, 2, 5), size))
    torch.testing.assert_close(outer.norm(), torch.full((1, 2), 1e18 * size * math.sqrt(20)), rtol=1e-5, atol=0)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Tanh(), nn.Conv2d(6, 6, 2), nn.Flatten(), nn.Linear(36, CLASSES)
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [convolutional, lambda: models.mlp(SHAPE, CLASSES, (200,))])
def test_sensitivity_with_views_at_every_precision(engine, precision, make):
    """Removing one of 600 examples moves the sum by the clip at most: with bfloat16 sums it moved by more."""
    torch.manual_seed(0)
    model = make()
    inputs, labels = 3 * torch.randn(1, 600, 2, *SHAPE), torch.randint(0, CLASSES, (1, 600))

    def total(weights):
        parameters = stack([model])
        out = {name: torch.zeros_like(value) for name, value in parameters.items()}
        ENGINES[engine](model, precision)(parameters, inputs, labels, weights, clipper("flat", 0.3), out)
        return torch.cat([value.flatten().double() for value in out.values()])

    weights = torch.ones((1, 600), dtype=torch.bool)
    whole = total(weights)
    for one in (0, 77, 599):
        weights[0, one] = False
        assert 0.29 < float((whole - total(weights)).norm()) <= 0.3 * (1 + 1e-4)  # 600 float32 summands
        weights[0, one] = True


@pytest.mark.parametrize("size", [1, 100, 4096, 5000, 3_000_000])
def test_norms_of_large_gradients_are_not_too_small(size):
    values = torch.randn(2, size)
    torch.testing.assert_close(norm(values).double(), values.double().norm(dim=-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("clipping", "factor"), [("automatic", lambda norm, clip: clip / (norm + 0.01)), ("normalise", lambda norm, clip: clip / norm)]
)
def test_other_clippings_equal_micro_batches_of_one(engine, clipping, factor):
    stacked, inputs, labels, weights = setup(2, 6)
    inputs[:, ::2] *= 1e-3  # gradients below the clip, which flat clipping would leave alone
    out, _ = run(engine, stacked, inputs, labels, weights, 2.0, clipping)
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(model, inputs[k].unsqueeze(1), labels[k], weights[k], 2.0, factor)
        for name, value in expected.items():
            torch.testing.assert_close(out[name][k], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_no_clipping_exceeds_its_bound(clipping):
    norms = torch.cat([torch.zeros(1), torch.logspace(-30, 30, 2001)])
    moved = clipper(clipping, 0.3)(norms) * norms
    assert float(moved.max()) <= 0.3 * (1 + 1e-6)
    assert float(moved[-1]) == pytest.approx(0.3)
    assert clipper(clipping, math.inf) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_come_from_before_the_step(engine):
    stacked, inputs, labels, weights = setup(2, 5)
    _, losses = run(engine, stacked, inputs, labels, weights, 1.0)
    for k, model in enumerate(stacked):
        expected = nn.functional.cross_entropy(model(inputs[k]), labels[k], reduction="none").detach()
        torch.testing.assert_close(losses[k][weights[k]], expected[weights[k]])


def test_layers_without_a_bias():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False), nn.Tanh(), nn.Linear(6, 5))
    _, inputs, labels, weights = setup(1, 9)
    out, _ = run("stacked", [model], inputs, labels, weights, 0.5)
    assert_same(out, [model], inputs, labels, weights, 0.5)


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


class Residual(nn.Module):
    """Two layers whose outputs are added get one and the same gradient tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = x.flatten(1)
        return self.out(self.a(x) + self.b(x))


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_are_added(engine):
    stacked = [Residual(), Residual()]
    _, inputs, labels, weights = setup(2, 9)
    out, _ = run(engine, stacked, inputs, labels, weights, 0.5)
    assert_same(out, stacked, inputs, labels, weights, 0.5)


def test_unsupported_says_why():
    assert unsupported(models.mlp(SHAPE, CLASSES), SHAPE) is None
    assert unsupported(Twice(), SHAPE) is None
    assert unsupported(Unused(), SHAPE) is None
    assert "PReLU" in unsupported(nn.Sequential(nn.Flatten(), nn.PReLU(), nn.Linear(12, 5)), SHAPE)
    circular = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(24, 5))
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
    for model in (WeightUsedTwice(), Sometimes()):  # vmap differentiates the function, however it uses its weights
        found = disagreement(engine, model, SHAPE)
        assert found is None if engine == "vmap" else "is not that of plain autograd" in found
    assert "gradients on random inputs are zero" in disagreement(engine, Never(), SHAPE)
    assert disagreement(engine, models.mlp(SHAPE, CLASSES), SHAPE) is None
    assert disagreement(engine, Residual(), SHAPE) is None


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
