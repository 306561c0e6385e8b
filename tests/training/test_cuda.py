"""What holds on a processor holds on a GPU: `pytest -m cuda` on a machine that has one."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from dptrain import models
from dptrain.core.streams import seeded_key
from dptrain.core.types import Clipping, EngineKind, Mechanism, Precision, Sampling, Setting
from dptrain.training.gradients.base import Clipper, stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.products import Products, float32
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train
from tests.common import TINY
from tests.helpers.sweep import go
from tests.runs import make_recipe

pytestmark = pytest.mark.cuda
CLIP, CLASSES = 0.3, 5
SHAPE = (1, 8, 8)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Conv2d(6, 8, 2),
        nn.Flatten(),
        nn.Linear(392, CLASSES),
    )


def dense():
    return models.mlp(SHAPE, CLASSES, (200,))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("make", [convolutional, dense])
def test_removing_an_example_moves_the_sum_by_the_clip_at_most(make, precision):
    """In TF32 the norm that is clipped would not be that of what is summed."""
    model = make().cuda()
    inputs = 3 * torch.randn(1, 600, 2, *SHAPE, device="cuda")
    labels = torch.randint(0, CLASSES, (1, 600), device="cuda")

    def total(weights):
        parameters = stack([model])
        out = {name: torch.zeros_like(value) for name, value in parameters.items()}
        with float32(Products.DEFAULT, "cuda"):
            ENGINES[EngineKind.STACKED](model, precision)(
                parameters, inputs, labels, weights, Clipper.of(Clipping.FLAT, CLIP), out
            )
        return torch.cat([value.flatten().double() for value in out.values()])

    weights = torch.ones((1, 600), dtype=torch.bool, device="cuda")
    whole = total(weights)
    for place in (0, 77, 599):
        weights[0, place] = False
        assert 0.29 < float((whole - total(weights)).norm()) <= CLIP * (1 + 1e-4)
        weights[0, place] = True


@pytest.mark.parametrize("make", [convolutional, dense])
def test_a_private_run_is_that_of_the_processor(make):
    """Batches and noise are the same; sums are rounded to the same grid, so that a difference is a
    step of it.
    """
    ran = Mechanism(Sampling.POISSON, 32, 200, 5, 1.0, CLIP, 32)
    setting = Setting("s", "dpsgd", None, 1e-5, ran, make_recipe(0.1))
    initial, keys = [make() for _ in range(3)], [seeded_key(k, "cuda") for k in range(3)]
    inputs, labels = torch.randn(200, *SHAPE), torch.randint(0, CLASSES, (200,))
    members = np.random.default_rng(0).random((3, 200)) < 0.5

    def trained(device):
        data = TrainingData(inputs.to(device), labels.to(device), members)
        state = State.start(initial).to(torch.device(device))
        model = copy.deepcopy(initial[0]).to(device)
        trainer = Trainer.of(model, setting, EngineKind.STACKED, keys, data)
        final, _ = train(trainer, state, lambda *_: None)
        return final.parameters

    there, here = trained("cuda"), trained("cpu")
    step = 0.1 * ran.spacing / ran.divisor
    for name, value in here.items():
        assert float((there[name].cpu() - value).abs().max()) <= 5 * 3 * step, name


def test_a_sweep_on_a_gpu_is_whole(tmp_path):
    """From the command to the report, and read back."""
    out = go(tmp_path / "out", *TINY, "training.device=cuda")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["rows"]
    assert out.trained == 12
    assert go(tmp_path / "out", *TINY, "training.device=cuda").trained == 0
