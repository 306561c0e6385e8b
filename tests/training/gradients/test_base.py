"""The stacked engine = Opacus = micro-batches of one, and no example moves the sum by more than the
clip.
"""

import math

import pytest
import torch

from dptrain import models
from dptrain.core.types import Clipping, Precision
from dptrain.training.gradients.base import CLIPPINGS, Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.gradients.terms import norm
from dptrain.training.products import Products, float32
from tests import reference
from tests.helpers.clipping import CLASSES, SHAPE, convolutional, dense, run, setup

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
    """100,000 pairs that differ in one example, over all kinds: the sums differ by the clip at
    most.
    """
    worst = 0.0
    width = min(pairs, 1000)
    model = models.mlp(SHAPE, CLASSES, (7,))
    step = ENGINES[engine](model, Precision.FLOAT32)
    for chunk in range(pairs // width):
        parameters, inputs, labels, weights = neighbours(kind, width, 6, 1000 * seed + chunk)
        sums = []
        for removed in (False, True):
            weights[:, 0] = not removed
            out = {name: torch.full_like(value, math.nan) for name, value in parameters.items()}
            step(
                parameters,
                inputs.unsqueeze(2),
                labels,
                weights,
                Clipper.of(Clipping.FLAT, CLIP),
                out,
            )
            sums.append(torch.cat([value.flatten(1) for value in out.values()], dim=1).double())
        worst = max(worst, float((sums[0] - sums[1]).norm(dim=1).max()))
    assert worst <= CLIP * (1 + 1e-5)
    if kind in ("plain", "parallel", "alone", "huge"):
        assert worst > 0.99 * CLIP or kind == "huge"
    if kind in ("not a number", "infinite"):
        assert worst < 1e-6


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [convolutional, dense])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_sensitivity_with_views_at_every_precision(engine, precision, make, device):
    """Removing one of 600 examples moves the sum by the clip at most: with bfloat16 sums it moved
    by more, and in TF32 the norm that is clipped would not be that of what is summed.
    """
    torch.manual_seed(0)
    model = make().to(device)
    inputs, labels = 3 * torch.randn(1, 600, 2, *SHAPE), torch.randint(0, CLASSES, (1, 600))
    inputs, labels = inputs.to(device), labels.to(device)

    def total(weights):
        parameters = stack([model])
        out = {name: torch.zeros_like(value) for name, value in parameters.items()}
        with float32(Products.DEFAULT, device):
            ENGINES[engine](model, precision)(
                parameters, inputs, labels, weights, Clipper.of(Clipping.FLAT, 0.3), out
            )
        return torch.cat([value.flatten().double() for value in out.values()])

    weights = torch.ones((1, 600), dtype=torch.bool, device=device)
    whole = total(weights)
    for one in (0, 77, 599):
        weights[0, one] = False
        # 600 float32 summands.
        assert 0.29 < float((whole - total(weights)).norm()) <= 0.3 * (1 + 1e-4)
        weights[0, one] = True


@pytest.mark.parametrize("size", [1, 100, 4096, 5000, 3_000_000])
def test_norms_of_large_gradients_are_not_too_small(size):
    values = torch.randn(2, size)
    torch.testing.assert_close(
        norm(values).double(), values.double().norm(dim=-1), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("clipping", "factor"),
    [
        ("automatic", lambda norm, clip: clip / (norm + 0.01)),
        ("normalise", lambda norm, clip: clip / norm),
    ],
)
def test_other_clippings_equal_micro_batches_of_one(engine, clipping, factor):
    stacked, inputs, labels, weights = setup(2, 6)
    inputs[:, ::2] *= 1e-3  # gradients below the clip, which flat clipping would leave alone
    out, _ = run(engine, stacked, inputs, labels, weights, 2.0, clipping)
    for k, model in enumerate(stacked):
        expected = reference.clipped_sum(
            model, inputs[k].unsqueeze(1), labels[k], weights[k], 2.0, factor
        )
        for name, value in expected.items():
            torch.testing.assert_close(out[name][k], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_no_clipping_exceeds_its_bound(clipping):
    norms = torch.cat([torch.zeros(1), torch.logspace(-30, 30, 2001)])
    moved = Clipper.of(Clipping(clipping), 0.3)(norms) * norms
    assert float(moved.max()) <= 0.3 * (1 + 1e-6)
    assert float(moved[-1]) == pytest.approx(0.3)
    assert Clipper.of(Clipping(clipping), math.inf) is None
